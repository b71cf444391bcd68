"""Calling a subject's formulas: what they raise becomes a finding, how far they are off becomes a number."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.cases import NAN_AT_PADDING
from gradgate.checks.culprits import Failing, culprit
from gradgate.checks.first_fault import FirstFaultError, wanted
from gradgate.checks.formula_calls import Call
from gradgate.checks.naming import are_named
from gradgate.checks.oracle_steps import reference
from gradgate.checks.told_apart import Told, told_apart
from gradgate.core.finding import Finding, Location
from gradgate.core.origin import in_one_line, origin
from gradgate.core.verdict import Outcome

_TORCHS_OWN = ("not implemented for", "Could not run")  # how torch says that it has no such kernel, by the same error
LOOKED_INTO = 1500  # numbers given, in a call that is looked into for the line
KEPT = ("value_BS", "logits_BSHV", "weight_BSH")  # arguments that are a module's output, or another formula's
FLOAT32_TO_FLOAT64 = 2.0**29  # roundoff: what is off by less in float64 is not off in float32
JUDGES: Mapping[str, str] = {  # who tells a formula's faults apart
    "weights": "GG403",
    "returns": "GG501",
    "labels": "GG412",
    "loss": "GG404",
    "value_loss": "GG404",
    "place_rewards": "GG404",
}
SHARES = (0.5, 0.8, 0.2, 0.0)  # of the failing calls by size, those that are looked into


@dataclass
class Ledger:
    """What one rule found wrong over many inputs: one finding a symptom, with its smallest input and a count.

    Args:
        code: the rule's code.
        name: the rule's name.
        device: where the formulas are called.
        source: the subject's folder, for the lines that raise.
        tried: calls made so far.
        left: calls that the formula has nothing to say to: packed rows, a placement that the trainer does not have.
        keeps: whether a formula that writes into values, logits or weights is a fault of this rule.
    """

    code: str
    name: str
    device: str = "cpu"
    source: Path | None = None
    tried: int = 0
    left: int = 0
    keeps: bool = False
    _worst: tuple[float, float, float] = (-1.0, 0.0, 0.0)  # share of the bound, error, bound
    _found: dict[str, tuple[tuple[bool, int], Finding]] = field(default_factory=dict)  # how plainly it shows, and what
    _failed: dict[str, list[Call]] = field(default_factory=dict)  # by formula
    _formula: dict[str, str] = field(default_factory=dict)  # symptom to formula
    _likely: set[str] = field(default_factory=set)  # symptoms that show in what training can meet

    def note(
        self,
        symptom: str,
        message: str,
        fix: str,
        call: Call,
        *,
        victim: Location | None = None,
        likely: bool = True,
        **numbers: Any,
    ) -> None:
        """Record a fault; of several with one symptom the one with the smallest input stays, of likely ones first.

        Args:
            symptom: what kind of fault; a finding each.
            message: what, measured, allowed, with units; the input's name is added.
            fix: what to write instead.
            call: the call that shows it.
            victim: the line that raised, where one did.
            likely: whether training can meet it; nothing likely is a warning, as what NaN at padding alone shows.
            numbers: for the finding's detail.

        Raises:
            FirstFaultError: under `first_fault_only`.
        """
        first = wanted()
        if first is not None:
            if "gradient" not in symptom and "backward" not in symptom:
                first.note(call)
            raise FirstFaultError(message)
        likely = likely and NAN_AT_PADDING not in call.case
        rank = (not likely, call.size)
        own, known = self._found.get(symptom, (rank, None))
        count = known.count + 1 if known else 1
        if known is None or rank < own:
            detail = {name: plain(number) for name, number in numbers.items()} | {"reproduce": call.text()}
            message = f"{message}, on {call.case}"
            known = Finding(self.code, self.name, message, victim=victim, fix=fix, detail=detail)
            own = rank
        self._found[symptom] = (own, dataclasses.replace(known, count=count))
        self._formula[symptom] = call.name
        if likely:
            self._likely.add(symptom)
        failed = self._failed.setdefault(call.name, [])
        if not failed or failed[-1] is not call:
            failed.append(call)

    def run(self, call: Call, shape: Sequence[int], fix: str) -> Tensor | None:
        """The call's answer; None, and a finding, where it raises or answers with another shape.

        None without a finding on packed rows where the formula has no `document_BS`, and where it raises
        NotImplementedError of its own: a placement or a setting that the trainer does not have.
        """
        if call.is_beyond_the_formula:
            self.left += 1
            return None
        self.tried += 1
        kept = {name: call.arguments[name].detach().clone() for name in KEPT if self.keeps and name in call.arguments}
        try:
            answer = call(self.device)
        except NotImplementedError as error:
            if any(words in str(error) for words in _TORCHS_OWN):
                self._raised(f"{call.name}()", error, call, fix)
            else:
                self.left += 1
            return None
        except Exception as error:  # whatever the subject's formula raises is the subject's fault, not the harness's
            self._raised(f"{call.name}()", error, call, fix)
            return None
        for name, before in kept.items():
            self._written(call, name, before)
        if list(answer.shape) == list(shape):
            return answer
        message = f"{call.name}() answered with the shape {list(answer.shape)}, expected {list(shape)}"
        self.note(f"{call.name}, shape", message, fix, call)
        return None

    def _written(self, call: Call, name: str, before: Tensor) -> None:
        """A finding where the call has written into an argument, which is then put back; at padding alone a warning."""
        given, valid_BS = call.arguments[name].detach(), call.arguments.get("valid_BS")
        changed = (given != before) & ~(given.isnan() & before.isnan())
        if not changed.any():
            return
        real = changed & valid_BS if name == "value_BS" and valid_BS is not None else changed
        at = tuple((real if real.any() else changed).nonzero()[0].tolist())
        told = f"{call.name}() writes into its argument: {name}{list(at)} was {float(before[at]):.6g}"
        message = f"{told} and is {float(given[at]):.6g}; allowed: no change"
        symptom = f"{call.name}, {name} written{'' if real.any() else ' at padding'}"
        given.copy_(before)
        fix = "write into a copy: detach() shares the numbers of what it is taken from"
        self.note(symptom, message, fix, call, likely=bool(real.any()))

    def gradient(self, call: Call, output: Tensor, leaf: Tensor, fix: str) -> Tensor | None:
        """d(output) / d(leaf), zeros where they are not connected; None, and a finding, where backward raises."""
        try:
            return torch.autograd.grad(output, leaf, materialize_grads=True)[0]
        except Exception as error:  # as above
            self._raised(f"backward of {call.name}()", error, call, fix)
            return None

    def compare(
        self,
        call: Call,
        actual: Tensor,
        expected: Tensor,
        allowed: Tensor | float,
        *,
        what: str,
        axes: str = "",
        unit: str = "",
        where: Tensor | None = None,
        fix: str,
        apart: str = "",
    ) -> bool:
        """Hold an answer against the reference, element by element.

        Args:
            call: what was called.
            actual: its answer.
            expected: the reference, same shape.
            allowed: largest distance; broadcasts.
            what: what the numbers are, for the message and as the symptom.
            axes: letters of the numbers' axes, "b, t"; empty for a scalar.
            unit: of the numbers, for the message.
            where: Bool, elements that count; all where None.
            fix: what to write instead.
            apart: the kind of input, where what goes wrong on one kind is another fault than on the next.

        Returns:
            Whether it holds.
        """
        error, bound = _distances(actual, expected, allowed, where)
        if error.numel() == 0:
            return True
        share = torch.where(error == 0, 0.0, error / bound).nan_to_num(nan=math.inf, posinf=math.inf)
        worst = int(share.argmax())
        self._worst = max(self._worst, (float(share[worst]), float(error[worst]), float(bound[worst])))
        if float(error[worst]) <= float(bound[worst]):
            return True
        index = _place(worst, actual.shape, where)
        got, want = float(actual.detach()[index]), float(expected.detach()[index])
        place = f" at [{axes}] = {list(index)}" if axes else ""
        message = (
            f"{what}{place} is {got:.6g}, expected {want:.6g}{unit and ' ' + unit}: "
            f"off by {float(error[worst]):.3g}, allowed {float(bound[worst]):.3g}"
        )
        numbers: dict[str, Any] = {"index": list(index), "actual": got, "expected": want}
        numbers["allowed"] = float(bound[worst])
        rounds = call.is_double and float(share[worst]) <= FLOAT32_TO_FLOAT64
        self.note(what + apart, message, fix, call, likely=not rounds, **numbers)
        return False

    def finite(
        self, call: Call, actual: Tensor, *, what: str, axes: str, fix: str, where: Tensor | None = None
    ) -> bool:
        """Whether every number that counts is finite; a finding where one is not. Arguments as for `compare`."""
        bad = ~actual.detach().isfinite() & (True if where is None else where)
        if not bad.any():
            return True
        index = bad.nonzero()[0].tolist()
        message = f"{what} at [{axes}] = {index} is {float(actual.detach()[tuple(index)])}, expected finite"
        self.note(f"{what}, not finite", message, fix, call, index=index)
        return False

    def outcome(self, unit: str = "", **measured: Any) -> Outcome:
        """The findings, with the error that came nearest to (or went furthest beyond) its bound.

        Args:
            unit: name of that error in `measured` and `allowed`, the unit in it; empty where the rule compares numbers
                of several units: then the error is reported as a share of its bound, `error_to_bound_ratio`.
            measured: further numbers, reported but not judged.
        """
        share, error, bound = self._worst
        lines = {name: _line(calls, self.device, self.source) for name, calls in self._failed.items()}
        told = {
            name: found
            for name, calls in self._failed.items()
            if JUDGES.get(name) == self.code and (found := told_apart(calls[0], self.device)) is not None
        }
        findings = tuple(
            dataclasses.replace(
                finding,
                message=_with_cause(finding.message, told.get(self._formula[symptom])),
                culprit=finding.culprit or lines[self._formula[symptom]],
                severity="error" if symptom in self._likely else "warning",
            )
            for symptom, (_, finding) in self._found.items()
        )
        named = tuple(each for formula, found in told.items() for each in self._each(found, lines[formula]))
        name, number, limit = (unit, error, bound) if unit else ("error_to_bound_ratio", max(share, 0.0), 1.0)
        reported = {name: number, "calls": self.tried, **measured}
        if self.left:
            reported["calls_left"] = self.left
        return Outcome((*named, *findings), {key: plain(held) for key, held in reported.items()}, {name: plain(limit)})

    def _each(self, told: Told, line: Location | None) -> Iterator[Finding]:
        """A finding for each fault of a formula that has several at once."""
        number = len(told.faults)
        for fault in told.faults if number > 1 else ():
            message = f"{told.subject} {fault.told}; allowed: none ({number} such faults explain all of its numbers)"
            yield Finding(self.code, self.name, message, culprit=line, fix=fault.fix, detail={"fault": fault.name})

    def _raised(self, what: str, error: Exception, call: Call, fix: str) -> None:
        """The finding for an exception of the subject's."""
        kind = type(error).__name__
        message = f"{what} raised {in_one_line(error, self.source)}"
        self.note(f"{what} raises {kind}", message, fix, call, victim=origin(error, self.source), error=kind)


def _with_cause(message: str, told: Told | None) -> str:
    """A message with what explains it, where that is one fault."""
    return f"{message}: {told.text}" if told is not None and len(told.faults) == 1 else message


def _line(calls: Sequence[Call], device: str, source: Path | None) -> Location | None:
    """The line at which a formula leaves its reference, from the calls on which it does.

    Of its calls neither the largest, which take long, nor the smallest, in which most numbers are equal, come first,
    nor those with a number of 0 that takes a part of the formula away: these where the others show no line.
    """
    if not are_named():
        return None
    able = sorted((call for call in calls if call.size <= LOOKED_INTO), key=lambda call: call.size)
    whole = [call for call in able if not any(type(held) is float and not held for held in call.options.values())]
    packed = all(call.options.get("document_BS") is not None for call in calls)
    first = _line_of(whole, packed, device, source)
    return first if first is not None or len(whole) == len(able) else _line_of(able, packed, device, source)


def _line_of(calls: Sequence[Call], packed: bool, device: str, source: Path | None) -> Location | None:
    """The line at which a formula leaves its reference, from some of these calls; packed: it does so there alone."""
    chosen = [calls[int(share * len(calls))] for share in SHARES] if calls else []
    failing = []
    for call in {id(call): call for call in chosen}.values():
        steps = reference(call.name, call.arguments, call.options)
        if steps is not None:
            extra = call.options.get("document_BS") if packed else None
            failing.append(Failing(partial(call, device), steps.holds, steps.steps, extra))
    return culprit(failing, source)


def plain(number: Any) -> Any:
    """A number as JSON can hold it: NaN and infinities as text."""
    return str(number) if isinstance(number, float) and not math.isfinite(number) else number


def _distances(
    actual: Tensor, expected: Tensor, allowed: Tensor | float, where: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Distance and bound of the elements that count, flat. Where something is not finite the distance is NaN or inf."""
    got, want = actual.detach().double(), expected.detach().double()
    bound = torch.as_tensor(allowed, dtype=torch.float64).expand(got.shape)
    error = (got - want).abs()
    return (error.flatten(), bound.flatten()) if where is None else (error[where], bound[where])


def _place(flat: int, shape: torch.Size, where: Tensor | None) -> tuple[int, ...]:
    """The index of the flat-th element that counts."""
    counts = torch.ones(shape, dtype=torch.bool) if where is None else where
    return tuple(int(axis) for axis in counts.nonzero()[flat])

"""What a step keeps inside: the local variables at its backwards, for trainers that give no losses away."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from math import isclose
from operator import add, or_
from types import FrameType
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run
from gradgate.subjects.keeping import Counts, at_its_end, gradients_kept, updates_withheld
from gradgate.subjects.places import Calls, Place, Variables, among

TOTAL, WEIGHTS = "total", "weights"


class _ReachedError(BaseException):
    """Leaves the step at its updates. Not an Exception, so that a trainer's own `except Exception` lets it through."""


class StepLosses(Run):
    """Mixin for runs whose trainer computes its losses inside the step: they are read off where the step goes backward.

    Put it before the run's other bases: `class MyRun(StepLosses, TokenRows)`.

    Attributes:
        terms: loss term -> the local variable of the trainer's step that holds it at a backward, or a part of one
            (`outputs.loss`, `parts["value"]`); `compute_loss:value_loss` is that of the latest call of a function that
            has ended, `compute_loss:return[1]` what it gave back. `total` is the sum of what the backwards start from,
            and is there without being named. One whose variable has no value in a setting is left out there.
        weights_from: the place that holds the head weights, [B, S, H], as in `terms`; None: not declared.
        backwards: how many of the step's backwards count, from its first; None: those that come before each of
            `optimizers` has been asked to step, of an actor and a critic or of each micro-batch; of a run that names no
            optimizers, the first.
    """

    terms: ClassVar[Mapping[str, str]] = {}
    weights_from: ClassVar[str | None] = None
    backwards: ClassVar[int | None] = None

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The loss terms of a step that ends where its updates, or the last backward that counts, begin."""
        return self._read(batch, self.terms).losses(self.coefficients)

    def weights(self, batch: Any) -> Tensor:
        """The head weights of such a step; of its first micro-batch, where it has several."""
        return self._read(batch, {WEIGHTS: self.weights_from or ""}).tensor(WEIGHTS)

    def _read(self, batch: Any, names: Mapping[str, str]) -> Backwards:
        with backwards_read(self, names, self.backwards, outermost=sys._getframe(), leaves=True) as found:
            self.step(batch)
        count = len(found.parts)
        if count < (self.backwards or 1):
            many = f" {count} of {self.backwards}" if count else "out a"
            raise SubjectError(f"the step came to its end with{many} backward: there are no losses to be had from it")
        return found


@dataclass(frozen=True, slots=True)
class Backward:
    """What was there at one backward.

    Args:
        start: the tensor that it starts from.
        variables: local variables.
        ended: function -> local variables of its latest call that has ended.
        assigned: names of the local variables of the lines that ran, those without a value too.
    """

    start: Tensor
    variables: Variables
    ended: Mapping[str, Variables]
    assigned: frozenset[str] = frozenset()

    def is_without(self, place: Place) -> bool:
        """Whether a place is a local variable that this setting of the trainer gives no value, or None."""
        return not place.function and place.name in self.assigned and self.variables.get(place.name) is None


class Backwards:
    """What was there at the backwards of a step.

    Args:
        names: loss term -> the place that holds it.

    Attributes:
        parts: the backwards.
        calls: of the functions that places name.

    Raises:
        SubjectError: one is no place.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.parts: list[Backward] = []
        self._places = {term: Place.of(name) for term, name in names.items()}
        self.calls = Calls(self._places.values())

    def add(self, start: Tensor, variables: Variables, assigned: frozenset[str] = frozenset()) -> None:
        """Note one more backward."""
        self.parts.append(Backward(start, {**variables, TOTAL: start}, dict(self.calls.latest), assigned))

    def losses(self, coefficients: Mapping[str, float] | None = None) -> dict[str, Tensor]:
        """The loss terms: `total`, the sum of what the backwards start from, and each term from its place.

        A term whose local variable has no value at any of them, or whose function is not called, is left out: there are
        settings without it. One that
        has another tensor at each of several backwards is the parts' sum, where some term enters what goes backward as
        declared (once, if nothing is); else their mean, weighted by what they count there.

        Args:
            coefficients: loss term -> by what it enters the total, where that is declared.

        Raises:
            SubjectError: a place holds no tensor.
        """
        every = {term: self._held(term, place) for term, place in self._places.items()}
        held = {term: parts for term, parts in every.items() if parts}
        shares = {term: [_share(*each) for each in parts] for term, parts in held.items()}
        declared = dict.fromkeys(held, 1.0) | dict(coefficients or {})
        are_summed = any(
            all(share is not None and isclose(share, declared[term], rel_tol=1e-5) for share in each)
            for term, each in shares.items()
            if len(each) > 1
        )
        terms = {TOTAL: reduce(add, [part.start for part in self.parts])}
        for term, parts in held.items():
            weights = [1.0] * len(parts) if are_summed or len(parts) == 1 else _weights(shares[term])
            terms[term] = reduce(add, [_times(weight, part) for weight, (_, part) in zip(weights, parts, strict=True)])
        return terms

    def tensor(self, term: str) -> Tensor:
        """What a place holds at the first backward at which it holds something.

        Raises:
            SubjectError: it holds no tensor.
        """
        held = self._held(term, self._places[term])
        if not held:
            raise SubjectError(f"{term}: no tensor {self._places[term].text!r} in this setting")
        return held[0][1]

    def _held(self, term: str, place: Place) -> list[tuple[Tensor, Tensor]]:
        """Each tensor that the place holds at some backward, behind what that backward starts from; none: left out."""
        found: dict[int, tuple[Tensor, Tensor]] = {}
        for part in self.parts:
            tensor = place.tensor(part.ended.get(place.function, {}) if place.function else part.variables)
            if tensor is not None:
                found.setdefault(id(tensor), (part.start, tensor))
        if found:
            return list(found.values())
        if all(part.is_without(place) for part in self.parts) or self.calls.lack(place):
            return []
        if place.function:
            raise self.calls.missing(term, place)
        variables = reduce(or_, [dict(part.variables) for part in self.parts])
        raise SubjectError(f"{term}: no tensor {place.text!r} at the step's backward{among(place.name, variables)}")


def _share(total: Tensor, term: Tensor) -> float | None:
    """The derivative of the total by a term; None where that is not on its graph, or no single number."""
    if not (total.requires_grad and term.requires_grad) or total.numel() != 1 or term.numel() != 1:
        return None
    (gradient,) = torch.autograd.grad(total, term, retain_graph=True, allow_unused=True)
    return None if gradient is None else float(gradient)


def _times(weight: float, tensor: Tensor) -> Tensor:
    return tensor if weight == 1.0 else weight * tensor


def _weights(shares: list[float | None]) -> list[float]:
    known = [share for share in shares if share is not None]
    whole = sum(known)
    return (
        [share / whole for share in known] if len(known) == len(shares) and whole else [1 / len(shares)] * len(shares)
    )


@contextmanager
def backwards_read(
    run: Run,
    names: Mapping[str, str],
    count: int | None = None,
    *,
    outermost: FrameType | None = None,
    leaves: bool = False,
) -> Iterator[Backwards]:
    """Read local variables at the block's backwards; neither they, optimizers, schedules nor scalers do anything.

    What the step did before its first backward, it did. Every parameter has a small gradient meanwhile.

    Args:
        run: its gradients and its optimizers' settings come back behind the block.
        names: loss term -> the place that holds it.
        count: of backwards that count; None: those that come before each optimizer has been asked to step, and the
            first of a run without any.
        outermost: variables are those of the lines that go backward, outwards to this frame, which is left out; the
            innermost win.
        leaves: whether the block ends where the last backward that counts does, where the last optimizer is asked to
            step, or one that the run does not name; numbers that objects of the step hold are then those that they held
            at its first backward.
    """
    found, asked, kept = Backwards(names), set[int](), list[Counts]()
    optimizers = list(dict.fromkeys(run.optimizers))

    def leave_at_the_end() -> bool:
        seen = len(found.parts)
        is_over = bool(seen) and (seen == count if count is not None else len(asked) == len(optimizers))
        if leaves and is_over:
            raise _ReachedError
        return is_over

    def reached(tensor: Tensor, frame: FrameType) -> None:
        if leave_at_the_end():
            return
        variables = locals_from(frame, outermost)
        if leaves and not kept:
            kept.append(Counts(variables.values()))
        found.add(tensor, variables, assigned_from(frame, outermost))
        fill()
        leave_at_the_end()

    def asking(number: int) -> None:
        if found.parts:
            asked.add(number)
        leave_at_the_end()

    def other() -> None:
        if leaves and count is None and found.parts:
            raise _ReachedError

    with gradients_kept(run) as fill, updates_withheld(optimizers, asking, other), backward_replaced(reached):
        try:
            with found.calls.on():
                yield found
        except _ReachedError:
            pass
        finally:
            for counts in kept:
                at_its_end(counts.put_back)


def locals_from(frame: FrameType | None, outermost: FrameType | None = None) -> dict[str, Any]:
    """The local variables of a frame and of those that called it, up to `outermost`, which is left out."""
    found: dict[str, Any] = {}
    while frame is not None and frame is not outermost:
        found = {**frame.f_locals, **found}
        frame = frame.f_back
    return found


def assigned_from(frame: FrameType | None, outermost: FrameType | None = None) -> frozenset[str]:
    """The names of what `locals_from` looks at, of what has no value yet, too."""
    found = frozenset[str]()
    while frame is not None and frame is not outermost:
        found |= {*frame.f_code.co_varnames, *frame.f_code.co_cellvars}
        frame = frame.f_back
    return found


@contextmanager
def backward_replaced(reached: Callable[[Tensor, FrameType], None]) -> Iterator[None]:
    """Let each backward of the block be a call of `reached` with its tensor and the frame that asked for it.

    What `backward` would refuse, more numbers than one without a gradient for them, is refused in its words.
    """
    method, function = torch.Tensor.backward, torch.autograd.backward

    def backward_method(tensor: Tensor, *args: Any, **options: Any) -> None:
        _require_scalar(tensor, args or options.get("gradient") is not None)
        reached(tensor, sys._getframe(1))

    def backward_function(tensors: Any, *args: Any, **options: Any) -> None:
        tensor = tensors if isinstance(tensors, Tensor) else next(iter(tensors))
        _require_scalar(tensor, args or options.get("grad_tensors") is not None)
        reached(tensor, sys._getframe(1))

    torch.Tensor.backward, torch.autograd.backward = backward_method, backward_function  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.backward, torch.autograd.backward = method, function  # type: ignore[method-assign]


def _require_scalar(tensor: Tensor, given: Any) -> None:
    if tensor.numel() != 1 and not given:
        raise RuntimeError("grad can be implicitly created only for scalar outputs")

"""Two stages give the same tokens different values, with the same parameters.

## What it detects

A value head that one stage trains on what stands in front of the trunk's last norm and the next one feeds from behind
it; hidden states of another layer, of another position, scaled or normalised in one stage alone; another mask of
attention, or positions that are counted otherwise, where values are made.

## Why it matters

What the first stage teaches is handed over to the last bit, and means nothing to the second: its value head is asked
about features that it has never seen. Nothing raises, the value loss starts as high as that of a new head, and the
weights are noise.

## How it decides

The stage starts behind the one before it (`Stage.after`). Then all modules that both name get the same parameters,
those of this stage, and both compute the losses of the same 2 batches, those of the stage before, with every dropout
left out. Looked at are the modules that both name and that return a number a position, from which `value_loss` comes in
the stage before. Statistic: the largest difference between the two stages' outputs at a real token, in units of value;
where a stage asks a module several times, the smallest over these.

Tolerance: the two make the same operations, or the same in other blocks: 2 n (noise + u |v|), with n the number of
elements of the batch's largest tensor, u the unit roundoff of the values' dtype, and the noise the largest change of a
value under 3 random changes of every parameter by 2 u.

Values that differ while a module whose parameters move them has no name in both stages are inconclusive: its parameters
may be others. Not applicable: tensors of other shapes, a batch that the later stage does not take. False-alarm rate: 0
where both stages are to see the same values.

## Example

Bad:

```python
values = model.value_head(model.trunk.blocks(ids))                        # stage 1
values = model.value_head(model.trunk.norm(model.trunk.blocks(ids)))      # stage 2
```

Good:

```python
values = model.value_head(model.hidden(ids))                              # both
```

## How to fix

Let both stages take the values from one function of the model.

## Known limits

What a stage does with the values behind the module (a scale, a clip, a sigmoid) is not looked at. Where the trunk is
frozen and no module of the run, nothing is compared.

## Sources

A fault of a trainer by others (decision 0017): a value head that was trained on hidden states in front of the last norm
and asked about those behind it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from gradgate.checks.formulas import plain
from gradgate.checks.invariance import Casts, elements, perturbed
from gradgate.checks.own_lines import own_frames
from gradgate.checks.raised import SubjectRaisedError, calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.finding import Finding, Location
from gradgate.core.origin import at_line
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG510", "values-read-otherwise"
NEEDS: tuple[str, ...] = ("after", "losses", "valid")
PER_STAGE = True
BATCHES = 2

Way = tuple[Location, ...]  # the trainer's lines by which a module was called, innermost first


@dataclass
class Seen:
    """What the modules of a run that return a number a position gave in one pass.

    Args:
        values: by module, Double[N] at the real tokens, each time it was asked.
        ways: by module, of its first call.
        strangers: modules with parameters that no name of the run covers.
    """

    values: dict[str, list[Tensor]] = field(default_factory=dict)
    ways: dict[str, Way] = field(default_factory=dict)
    strangers: dict[int, nn.Module] = field(default_factory=dict)


@dataclass(frozen=True)
class Parting:
    """How far the values of a module are apart between two stages.

    Args:
        module: its name.
        distance: the largest over its real tokens, in units of value.
        allowed: what roundoff may do.
        ways: by which the two stages called it.
        stranger: a module on the way to the values that not both stages name, where there is one.
    """

    module: str
    distance: float
    allowed: float
    ways: tuple[Way, Way]
    stranger: str

    @property
    def share(self) -> float:
        """Of what is allowed; infinite for what is no number."""
        share = self.distance / self.allowed
        return share if share == share else torch.inf


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Give both stages the same parameters and the same batches, and compare their values."""
    before, run = _both(stage, context)
    names = [name for name in before.modules if name in run.modules]
    misfit = _share_parameters(before, run, names)
    if misfit:
        return Outcome(not_applicable=f"`{misfit}` has other tensors in the stage before")
    found: list[Parting] = []
    for batch in islice(before.batches(), BATCHES):
        try:
            found += _partings(before, run, batch, names, context.seed, subject.source)
        except _OtherBatchesError as error:
            return Outcome(not_applicable=f"{stage.name!r} takes no batch of the stage before: {error}")
    if not found:
        return Outcome(inconclusive="no module that both stages name returns a number for each position in both")
    worst = max(found, key=lambda parting: parting.share)
    if worst.share > 1 and worst.stranger:
        text = f"a {worst.stranger} on the way to the values has no name in `modules` of both stages: name it there"
        return Outcome(inconclusive=text)
    findings = (_finding(worst),) if worst.share > 1 else ()
    measured = {"distance": plain(worst.distance), "compared": len(found)}
    return Outcome(findings, measured, {"distance": worst.allowed})


class _OtherBatchesError(Exception):
    """The later stage raises on a batch of the earlier one."""


def _both(stage: Stage, context: Context) -> tuple[Run, Run]:
    """The stage before, and this one started behind it."""
    after = stage.after
    assert after is not None  # noqa: S101 - NEEDS
    with calling("after.earlier()"):
        before = after.earlier(context.seed, device=context.device)
    folder = context.folder / "handover"
    folder.mkdir(parents=True)
    with calling("after.start()"):
        return before, after.start(before, folder)


def _share_parameters(before: Run, run: Run, names: Iterable[str]) -> str:
    """Give the later stage the earlier one's, which may have computed with them already; the module that has no room
    for them, or nothing."""
    for name in names:
        ours, theirs = before.modules[name].state_dict(), run.modules[name].state_dict()
        if {key: value.shape for key, value in ours.items()} != {key: value.shape for key, value in theirs.items()}:
            return name
        run.modules[name].load_state_dict(ours)
    return ""


def _partings(
    before: Run, run: Run, batch: Batch, names: Sequence[str], seed: int, source: Path | None
) -> Iterator[Parting]:
    """One for each module whose values both stages make of the batch."""
    with Casts() as casts:
        ours = _seen(before, batch, names, seed, source)
    try:
        theirs = _seen(run, batch, names, seed, source)
    except SubjectRaisedError as error:
        raise _OtherBatchesError(error) from error
    noise = dict.fromkeys(ours.values, 0.0)
    named = [parameter for parameter in named_parameters(before) if parameter.is_floating_point()]
    unit = max(casts.unit, *(_unit(parameter) for parameter in named))
    for _ in perturbed(named, seed, 2 * unit):
        for name, several in _seen(before, batch, names, seed, source).values.items():
            noise[name] = max(noise[name], _distance(ours.values[name], several))
    strangers = _on_the_way(before, ours, batch, names, seed) + _on_the_way(run, theirs, batch, names, seed)
    for name in ours.values.keys() & theirs.values.keys():
        size = max(float(value_N.abs().max()) for value_N in ours.values[name])
        yield Parting(
            name,
            _distance(ours.values[name], theirs.values[name]),
            2 * elements(batch) * (noise[name] + unit * size) or torch.finfo(torch.float64).tiny,
            (ours.ways[name], theirs.ways[name]),
            min(strangers, default=""),
        )


def _on_the_way(run: Run, seen: Seen, batch: Batch, names: Sequence[str], seed: int) -> list[str]:
    """The class of an unnamed module whose parameters move the values."""
    for stranger in seen.strangers.values():
        own = [parameter for parameter in stranger.parameters(recurse=False) if parameter.is_floating_point()]
        for _ in perturbed(own, seed, 0.5):
            moved = _seen(run, batch, names, seed, None).values
            if any(_distance(moved[name], several) > 0 for name, several in seen.values.items()):
                return [type(stranger).__name__]
    return []


def _unit(parameter: Tensor) -> float:
    return float(torch.finfo(parameter.dtype).eps) / 2


def _distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference of two calls; the smallest over all pairs of them."""
    return min(float((one_N - other_N).abs().max()) for one_N in ours for other_N in theirs)


def _seen(run: Run, batch: Batch, names: Sequence[str], seed: int, source: Path | None) -> Seen:
    """What the named modules give in one pass over the losses."""
    with calling("valid()"):
        valid_BS = run.valid(batch).cpu().bool()
    known = {id(part) for name in names for part in run.modules[name].modules()}
    seen = Seen()

    def keep(name: str, _module: nn.Module, _inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point() or not valid_BS.any():
            return
        if output.numel() == valid_BS.numel() and output.shape[:1] in (valid_BS.shape[:1], (valid_BS.numel(),)):
            value_BS = output.detach().double().cpu().reshape(valid_BS.shape)
            seen.values.setdefault(name, []).append(value_BS[valid_BS])
            frames = own_frames(sys._getframe(1), source)
            seen.ways.setdefault(name, tuple(at_line(frame.f_code, frame.f_lineno) for frame in frames))

    def enter(module: nn.Module, _inputs: Any) -> None:
        if id(module) not in known and next(module.parameters(recurse=False), None) is not None:
            seen.strangers[id(module)] = module

    with ExitStack() as stack:
        for name in names:
            stack.callback(run.modules[name].register_forward_hook(partial(keep, name)).remove)
        stack.callback(register_module_forward_pre_hook(enter).remove)
        stack.enter_context(seeded(seed))
        stack.enter_context(without_dropout(scales=False))
        with calling("losses()"):
            run.losses(batch)
    return seen


def _finding(worst: Parting) -> Finding:
    ours, theirs = _parting(*worst.ways)
    where = f"; there at {theirs.file}:{theirs.line}" if theirs is not None else ""
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{worst.module}` gives the same tokens other values in the stage before, with the same parameters: "
        f"{worst.distance:.3g} apart; allowed: {worst.allowed:.1e} units of value{where}",
        culprit=ours,
        fix="let both stages take the values from one function of the model",
        detail={"distance": plain(worst.distance), "module": worst.module},
    )


def _parting(before: Way, now: Way) -> tuple[Location | None, Location | None]:
    """The innermost lines, by which two stages called a module, that are not the same: of this stage, and of that."""
    for theirs, ours in zip(before, now, strict=False):
        if (theirs.file, theirs.line) != (ours.file, ours.line):
            return ours, theirs
    return next(iter(now), None), None

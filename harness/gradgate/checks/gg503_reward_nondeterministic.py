"""The same sequence gets two rewards.

## What it detects

A reward model that is left in train mode, so that its dropout draws anew; a reward read at the wrong place once a row
is padded; scores that are whitened over the batch or matched to rows by place; attention without a mask.

## Why it matters

The value head then regresses on noise, or on whom a row shared its batch with. Its loss has a floor that nothing
explains, and two epochs disagree about what is right.

## How it decides

After one step, in float64, `Run.rewards` is asked for the same rows in several ways: twice with other random numbers
and, where the run can, in reversed order, alone, twice in one batch, and with 3 more positions of padding. Where other
random numbers already give another reward, the other ways are compared without dropout, and left out where that does
not help. Statistic: the largest distance between two rewards of one row.

Tolerance, derived: reordering a sum of n terms, or computing it in other blocks, is a change of each term by at most n
u of itself. The condition is measured: the noise is the largest change of a reward under 3 random changes of every
parameter, of every module that runs while rewards are computed, by its own epsilon. Allowed: 2 n (noise + u |reward|),
with n the number of elements of the batch's largest tensor and u the roundoff of the reward's dtype.

False-alarm rate: 0: the bound is a worst case to first order, doubled.

## Example

Bad:

```python
reward_B = reward_model(token_BS, valid_BS)                               # as training left it: dropout draws
```

Good:

```python
reward_model.eval()
with torch.no_grad():
    reward_B = reward_model(token_BS, valid_BS)
```

## How to fix

Put the reward model into eval mode once and for all, give it the mask, read at the last real token by the mask, and do
not normalise over a batch.

## Known limits

A reward that is computed once and kept is asked for as the adapter computes it. Differences between processes are not
looked at.

## Sources

Faults OS-28 and MB-28 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from gradgate.checks.company_lines import Company, line_of_company, valid_of
from gradgate.checks.invariance import elements, perturbed, rows_of
from gradgate.checks.mode_lines import AnyDrawing, FrozenLines, line_of_call, line_of_change
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import SubjectRaisedError, as_finding, calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.errors import SubjectError
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG503", "reward-nondeterministic"
NEEDS: tuple[str, ...] = ("rewards",)
PER_STAGE = True
ALONE = 3  # rows that are asked for alone
PADDING = 3
FIX = "put the reward model into eval mode, give it the mask, and normalise nothing over the batch"

Rewards = Mapping[str, Tensor]  # by name, Double[B]


@dataclass(frozen=True, slots=True)
class Way:
    """The same rows, asked for in another way.

    Args:
        name: as messages show it.
        batch: what is asked for.
        rows: which row of the plain batch each of its rows is.
        seed: of the global generators.
    """

    name: str
    batch: Batch
    rows: Sequence[int]
    seed: int


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Ask for the rewards of the same rows again and again."""
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    before, batch = islice(run.batches(), 2)
    with calling("step 1"):
        run.step(before)  # modes are now as training leaves them
    try:
        return _judged(subject, stage, context, run, batch)
    except SubjectRaisedError as raised:
        return Outcome((named(as_finding(raised, CODE, NAME), partial(_line, subject, stage, context), context.seed),))


def _judged(subject: Subject, stage: Stage, context: Context, run: Run, batch: Batch) -> Outcome:
    with _modules_of_the_block() as modules:
        plain = _rewards(run, batch, context.seed)
    allowed = _allowed(run, batch, plain, modules, context.seed)
    again, *others = _ways(run, batch, context.seed)
    seen = _compared(run, again, plain, allowed)
    if not any(distances.findings for distances in seen.values()):
        for way in others:
            _add(seen, _compared(run, way, plain, allowed))
    else:  # rows are then compared without dropout: what it draws depends on where a row stands
        with without_dropout():
            plain = _rewards(run, batch, context.seed)
            for way in others if not _still_random(run, again, plain, allowed) else ():
                _add(seen, _compared(run, way, plain, allowed))
    find: dict[str, Callable[[], Line | Location | None]] = {
        way.name: cache(partial(_line_of_way, subject, run, batch, way, plain, allowed, context.seed)) for way in others
    }
    find[again.name] = cache(partial(_line, subject, stage, context))
    findings = tuple(
        named(finding, find[finding.detail["way"]], context.seed)
        for distances in seen.values()
        for finding in distances.findings
    )
    worst = {name: distances.largest for name, distances in seen.items()}
    return Outcome(findings, {"distance": worst}, {"distance": allowed})


def _line(subject: Subject, stage: Stage, context: Context) -> Line | None:
    """The line that puts what draws into train mode, that froze it and did not, or that calls it."""
    frozen: list[tuple[nn.Module, Line]] = []
    begin = FrozenLines(subject.source, frozen)
    with begin.on():
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    before, batch = islice(run.batches(), 2)
    modules = [module for top in run.modules.values() for module in top.modules()]
    modes = lambda: [module.training for module in modules if not any(p.requires_grad for p in module.parameters())]  # noqa: E731
    changed = line_of_change(subject.source, modes, partial(run.step, before))
    if changed is not None:
        return changed
    awake = AnyDrawing()
    line = next((line for top, line in frozen if any(module in awake for module in top.modules())), None)
    return line or line_of_call(subject.source, awake, partial(run.rewards, batch))


def _line_of_way(
    subject: Subject, run: Run, batch: Batch, way: Way, plain: Rewards, allowed: Mapping[str, float], seed: int
) -> Location | None:
    """The line through which a row's reward depends on what is beside it."""
    real = [valid_of(run, one) for one in (batch, way.batch)]
    if real[0] is None or real[1] is None:
        return None

    def asked(one: Batch, mode: AbstractContextManager[Any]) -> Rewards | None:
        with suppress(SubjectRaisedError), without_dropout(), mode:
            return _rewards(run, one, seed)
        return None

    def is_right(other: Rewards | None) -> bool:
        return other is not None and all(
            bool(((other[name] - plain[name][list(way.rows)]).abs() <= bound).all()) for name, bound in allowed.items()
        )

    company = Company(partial(asked, batch), partial(asked, way.batch), way.rows, real[0], real[1])
    return line_of_company(subject.source, company, is_right)


@dataclass
class Distances:
    """How far the rewards of one name are apart, over all ways so far."""

    largest: float
    findings: list[Finding]


def _compared(run: Run, way: Way, plain: Rewards, allowed: Mapping[str, float]) -> dict[str, Distances]:
    """The rewards of one way against the plain ones."""
    seen = {}
    for name, other in _rewards(run, way.batch, way.seed).items():
        distance_B = (other - plain[name][list(way.rows)]).abs()
        at = int(distance_B.nan_to_num(nan=torch.inf).argmax())
        distance = float(distance_B[at])
        found = Distances(distance if distance == distance else torch.inf, [])
        if not distance <= allowed[name]:
            row = way.rows[at]
            found.findings.append(_finding(name, way, row, float(plain[name][row]), float(other[at]), allowed[name]))
        seen[name] = found
    return seen


def _add(seen: dict[str, Distances], more: Mapping[str, Distances]) -> None:
    for name, distances in more.items():
        seen[name].largest = max(seen[name].largest, distances.largest)
        seen[name].findings += distances.findings


def _still_random(run: Run, again: Way, plain: Rewards, allowed: Mapping[str, float]) -> bool:
    """Whether something beside dropout draws: then every way differs, and says nothing of its own."""
    return any(distances.findings for distances in _compared(run, again, plain, allowed).values())


def _ways(run: Run, batch: Batch, seed: int) -> Iterator[Way]:
    rows = list(range(rows_of(batch)))
    yield Way("with other random numbers", batch, rows, seed + 1)
    can = declared(run)
    if "rows" in can:
        picks = {"in reversed order": rows[::-1], "twice in one batch": [0, 0]}
        picks |= {f"alone, row {row}": [row] for row in rows[:ALONE]}
        for name, picked in picks.items():
            with calling("select_rows()"):
                yield Way(name, run.select_rows(batch, picked), picked, seed)
    if "pad" in can:
        with calling("pad()"):
            yield Way(f"with {PADDING} more positions of padding", run.pad(batch, PADDING), rows, seed)


def _rewards(run: Run, batch: Batch, seed: int) -> Rewards:
    with seeded(seed), calling("rewards()"):
        found: Any = run.rewards(batch)
    if not isinstance(found, Mapping) or not found:
        raise SubjectError(f"rewards() returned a {type(found).__name__}, expected rewards Float[B] by name")
    for name, reward_B in found.items():
        if not isinstance(reward_B, Tensor) or reward_B.shape != (rows_of(batch),):
            shape = list(reward_B.shape) if isinstance(reward_B, Tensor) else type(reward_B).__name__
            raise SubjectError(f"rewards()[{name!r}] is {shape}, expected one number for each of {rows_of(batch)} rows")
    return {name: reward_B.detach().cpu() for name, reward_B in found.items()}


@contextmanager
def _modules_of_the_block() -> Iterator[list[nn.Module]]:
    """The modules whose forward runs in the block."""
    seen: dict[nn.Module, None] = {}
    handle = register_module_forward_pre_hook(lambda module, _args: seen.update({module: None}))
    modules: list[nn.Module] = []
    try:
        yield modules
    finally:
        handle.remove()
        modules.extend(seen)


def _allowed(run: Run, batch: Batch, plain: Rewards, modules: Sequence[nn.Module], seed: int) -> dict[str, float]:
    parameters = {p: None for module in modules for p in module.parameters() if p.is_floating_point()}
    noise = dict.fromkeys(plain, 0.0)
    for _ in perturbed(list(parameters), seed) if parameters else ():
        for name, reward_B in _rewards(run, batch, seed).items():
            noise[name] = max(noise[name], float((reward_B - plain[name]).abs().max()))
    return {
        name: 2 * elements(batch) * (noise[name] + _roundoff(reward_B) * float(reward_B.abs().max()))
        for name, reward_B in plain.items()
    }


def _roundoff(reward_B: Tensor) -> float:
    return float(torch.finfo(reward_B.dtype).eps) / 2 if reward_B.is_floating_point() else 0.0


def _finding(name: str, way: Way, row: int, plain: float, other: float, allowed: float) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{name}` of one row is {plain:.6g}, and {other:.6g} {way.name}: {abs(other - plain):.3g} apart, "
        f"allowed: {allowed:.1e} reward units",
        kind="nondeterminism",
        fix=FIX,
        detail={"reward": name, "row": row, "way": way.name, "plain": plain, "other": other},
    )

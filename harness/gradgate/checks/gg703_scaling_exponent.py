"""A step's cost grows faster than declared with the length, the batch or the horizon.

## What it detects

A Python loop over positions, rows or heads, a read of the device a token, a matrix of S x S where a vector would do, a
weight computed for every pair of positions and heads: what is cheap in the small run and dear in the real one.

## Why it matters

Tests run on sizes of ten, training on sizes of a thousand. No counter at one size tells a loop from a constant.

## How it decides

The stage declares axes (`Stage.scaling`), for each a run at a given size and the exponents that its costs may grow
with. Fresh runs are started at a size, twice and four times it. Statistic of a counter: log2 of its second increment
over its first, which is the exponent of a + b n^p whatever the constant a; a counter that stays the same, or grows by
the same at each doubling, has 0. Threshold: the declared exponent + 0.1. Counters are exact: the false-alarm rate is 0
for costs that are polynomials of the declared degree, or whose other terms are of lower order. The line is the one
whose share exceeds the declared growth most.

A stage that declares no axis is widened by what it has: with 0, 4 and 12 more positions of padding (`Run.pad`), and 0,
4 and 12 of its rows once more (`Run.select_rows`). Reads of the device (`host_syncs`) may not grow with either;
operations that grow with the rows are a warning.

Statistic of `cpu_time`, in the profiles pr and nightly: the excess of the second increment over what the declared
exponent + 0.5 allows after the first, as a share of the largest size's time. One round steps the three runs next to
each other; the excess is the all-pairs median of 12 to 60 rounds with its exact signed-rank interval, 1 % of error a
side. Failed above 10 % where the lower bound is above 5 %; passed where the upper bound is below 10 %; else
inconclusive.

## Example

Bad:

```python
for t in reversed(range(S)):                       # op_count grows with S
    return_BS[:, t] = reward_BS[:, t] + gamma * return_BS[:, t + 1]
```

Good:

```python
return_BS = reverse_scan(reward_BS, gamma)         # as many operations at each doubling
```

In the adapter:

```python
Stage("train", start=Loop, scaling={
    "S": gradgate.Scaling(at_length, 32, {"op_count": 0, "host_syncs": 0, "flops": 2, "saved_bytes": 1}),
})
# at_length(size, seed, *, device="cpu") starts a run whose batches have rows of `size` real tokens
```

## How to fix

Take the line out of the loop, or compute the whole axis in one operation. A growth that is meant is declared.

## Known limits

Three sizes, chosen by the adapter: another kernel that torch takes at larger ones is not seen, and a term of higher
order that makes less than 7 % of the growth is not either. Costs that are not declared are not looked at. Time sees a
loop only where it is a tenth of the step; the counters see loops that run operations. Undeclared, a stage is looked at
in its small run's size: what grows with its square is not told from what grows with it.

## Sources

Faults PF-02 and PF-14 of the fault catalogue.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from gradgate.checks.invariance import rows_of
from gradgate.checks.isolation import isolated
from gradgate.checks.raised import SubjectRaisedError, calling, reports_raises
from gradgate.checks.stored import SEED, relative_to, root_of
from gradgate.compare.priority import undisturbed
from gradgate.core.errors import SubjectError, nearest
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.gates.counters import count, totals
from gradgate.gates.counts import Counts
from gradgate.gates.scaling import STEPS, Costs, grows_faster, growth_exponent, key_of_excess, time_growth
from gradgate.subjects.capabilities import Capabilities
from gradgate.subjects.contract import Context, Run, Scaling, Stage, Subject

CODE, NAME = "GG703", "scaling-exponent"
NEEDS: tuple[str, ...] = ()
UNDECLARED = {"S": "pad", "B": "rows"}  # axis -> by what a run is widened along it
MORE = (0, 4, 12)  # a constant, and then increments of which the second is twice the first
PER_STAGE = True
COUNTERS = (
    "op_count", "flops", "saved_bytes", "live_peak_bytes", "total_bytes", "autograd_nodes", "host_syncs"
)  # fmt: skip
TIME = "cpu_time"
WARM_UP, ROUNDS, ATTEMPTS = 3, 12, 5  # rounds of one attempt; an attempt that does not decide is added to
ROUND_S = 0.005  # the smallest size is stepped for so long in a round: shorter ones are the clock's own cost
LARGEST = 2**16  # a smallest size beyond it is a slip


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Count and time the stage at three sizes of each declared axis; without any, count it at three widths."""
    if not stage.scaling:
        return _undeclared(subject, stage, context)
    outcome = Outcome()
    for axis, scaling in stage.scaling.items():
        _require_sound(axis, scaling)
        with isolated(SEED, "scaling"):
            steps = {size: _started(axis, scaling, size, context.device) for size in sizes(scaling)}
            declared = {name: exponent for name, exponent in scaling.exponents.items() if name != TIME}
            outcome = _joined(outcome, _counted(subject, axis, declared, steps))
            if TIME in scaling.exponents and context.profile != "quick":
                outcome = _joined(outcome, _timed(axis, scaling, steps))
    return outcome


def _undeclared(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Reads of the device, and operations, in a run that is padded and one that has rows twice."""
    able = Capabilities(subject, context.device)
    axes = [axis for axis, name in UNDECLARED.items() if not able.missing(stage, (name,))]
    outcome = Outcome()
    for axis in axes:
        costs = {"host_syncs": 0.0} | ({"op_count": 0.0} if axis == "B" else {})
        with isolated(SEED, "scaling"), suppress(SubjectRaisedError):  # longer than it can take
            steps = _widened(stage, axis, context.device)
            outcome = _joined(outcome, _counted_once(axis, costs, steps) or _counted(subject, axis, costs, steps))
    if not outcome.measured:
        hints = able.missing(stage, ("scaling",)) + able.missing(stage, tuple(UNDECLARED.values()))
        return Outcome(not_applicable="; or ".join(hints))
    told = tuple(
        replace(each, severity="warning") if each.detail["cost"] == "op_count" else each for each in outcome.findings
    )
    return replace(outcome, findings=told)


def _widened(stage: Stage, axis: str, device: str) -> dict[str, Callable[[], Any]]:
    """A step at each of three widths of the run's first batch, by the width in words."""
    steps: dict[str, Callable[[], Any]] = {}
    for more in MORE:
        with calling(f"a start for more of {axis}"):
            run = stage.start(SEED, device=device)
            batch = next(iter(run.batches()))
            rows = rows_of(batch)
            if axis == "B":
                batch = run.select_rows(batch, [b % rows for b in range(rows + more)])
            elif more:
                batch = run.pad(batch, more)
        steps[f"{axis} + {more}"] = partial(_step, run, batch, f"a step at {axis} + {more}")
    return steps


def _step(run: Run, batch: Any, told: str) -> None:
    with calling(told):
        run.step(batch)


def _require_sound(axis: str, scaling: Scaling) -> None:
    where = f"scaling[{axis!r}]"
    for name in scaling.exponents:
        if name not in (*COUNTERS, TIME):
            known = (*COUNTERS, TIME)
            raise SubjectError(f"{where}: no cost {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    smallest = scaling.smallest
    if not 1 <= smallest <= LARGEST or smallest & (smallest - 1):
        raise SubjectError(f"{where}: smallest is {smallest}, expected a power of two from 1 to {LARGEST}")


def _joined(one: Outcome, other: Outcome) -> Outcome:
    return replace(
        one,
        findings=(*one.findings, *other.findings),
        measured={**one.measured, **other.measured},
        allowed={**one.allowed, **other.allowed},
        inconclusive="; ".join(filter(None, (one.inconclusive, other.inconclusive))),
    )


def _counted(
    subject: Subject, axis: str, declared: Mapping[str, float], steps: Mapping[Any, Callable[[], Any]]
) -> Outcome:
    """Every declared counter against its exponent."""
    counts = [count(step, partial(relative_to, subject)) for step in steps.values()]
    measured, findings = {}, []
    for name, exponent in declared.items():
        one, two, four = (int(each.values.get(name, 0)) for each in counts)
        measured[f"{name} in {axis}"] = round(growth_exponent((one, two, four)), 3)
        if grows_faster((one, two, four), exponent):
            findings.append(
                _finding(subject, axis, name, exponent, (one, two, four), dict(zip(steps, counts, strict=True)))
            )
    return Outcome(tuple(findings), measured, {f"{name} in {axis}": each for name, each in declared.items()})


def _counted_once(axis: str, allowed: Mapping[str, float], steps: Mapping[str, Callable[[], Any]]) -> Outcome | None:
    """What one step at each width says, where nothing grows; None where something does, and lines are asked for."""
    counts = [totals(step) for step in steps.values()]
    costs = {name: tuple(each[name] for each in counts) for name in allowed}
    if any(grows_faster((one, two, four), allowed[name]) for name, (one, two, four) in costs.items()):
        return None
    return Outcome((), {f"{name} in {axis}": 0 for name in costs}, {f"{name} in {axis}": 0 for name in costs})


def sizes(scaling: Scaling) -> list[int]:
    """The three sizes."""
    return [scaling.smallest * times for times in STEPS]


def _started(axis: str, scaling: Scaling, size: int, device: str) -> Callable[[], Any]:
    with calling(f"a start at {axis} = {size}"):
        run = scaling.start(size, SEED, device=device)
        batches = run.batches()

    def step() -> None:
        with calling(f"a step at {axis} = {size}"):
            run.step(next(batches))

    return step


def _finding(
    subject: Subject, axis: str, name: str, declared: float, costs: Costs, counts: Mapping[Any, Counts]
) -> Finding:
    line = key_of_excess([one.by_line.get(name, {}) for one in counts.values()], declared)
    culprit = None
    if line is not None and line.file:
        culprit = Location(str(root_of(subject) / line.file), line.number, line.function, line.source)
    numbers = ", ".join(f"{cost:,}" for cost in costs)
    sizes = ", ".join(map(str, counts))
    return Finding(
        CODE,
        NAME,
        f"`{name}` grows with {_power(axis, growth_exponent(costs))}: {numbers} at "
        f"{sizes if axis in sizes else f'{axis} = {sizes}'}; allowed: {_power(axis, declared)}",
        culprit=culprit,
        fix="compute the whole axis in one operation; a growth that is meant is declared in `Stage.scaling`",
        detail={"axis": axis, "cost": name, "costs": list(costs), "declared": declared},
    )


def _power(axis: str, exponent: float) -> str:
    return "its last doubling alone" if exponent == float("inf") else f"{axis}^{exponent:.3g}"


def _timed(axis: str, scaling: Scaling, steps: Mapping[int, Callable[[], Any]]) -> Outcome:
    """CPU time against its exponent: rounds until it is clear, or until the attempts are over."""
    declared = scaling.exponents[TIME]
    rounds: list[Costs] = []
    with undisturbed():
        taken = _rounds(steps)
        for _ in range(ATTEMPTS):
            rounds += [next(taken) for _ in range(ROUNDS)]
            found = time_growth(rounds, declared)
            if found.verdict:
                break
    name = f"{TIME} in {axis}"
    outcome = Outcome((), {name: round(found.exponent, 2)}, {name: declared})
    estimate, low, high = (f"{bound:+.0%}" for bound in found.excess)
    if found.verdict is None:
        return replace(outcome, inconclusive=f"{name}: the excess is {estimate} [{low}, {high}] of a step, too noisy")
    if found.verdict == "pass":
        return outcome
    message = (
        f"`{TIME}` grows with about {_power(axis, found.exponent)}, declared: {_power(axis, declared)}; the excess is "
        f"{estimate} [{low}, {high}] of a step at {axis} = {sizes(scaling)[-1]} ({len(rounds)} rounds)"
    )
    fix = "profile a step at the largest size; a growth that is meant is declared in `Stage.scaling`"
    return replace(outcome, findings=(Finding(CODE, NAME, message, fix=fix, detail={"axis": axis, "cost": TIME}),))


def _rounds(steps: Mapping[int, Callable[[], Any]]) -> Iterator[Costs]:
    """Seconds of a step at the three sizes, in mirrored order, without an end."""
    first = min(_seconds(next(iter(steps.values())), 1) for _ in range(WARM_UP))
    number = max(1, round(ROUND_S / first))
    gc.collect()
    while True:
        spent: dict[int, list[float]] = {size: [] for size in steps}
        for size in (*steps, *reversed(list(steps))):
            spent[size].append(_seconds(steps[size], number))
        one, two, four = (min(seconds) for seconds in spent.values())
        yield one, two, four


def _seconds(step: Callable[[], Any], number: int) -> float:
    began = time.thread_time()
    for _ in range(number):
        step()
    return max(time.thread_time() - began, 1e-9) / number

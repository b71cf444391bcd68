"""Several processes do not step with the gradients that one process has on the same global batch.

## What it detects

A loss divided by the process's own count and averaged, where rows differ in length; gradients averaged that should be
summed, or the other way; gradients exchanged in each micro-batch of a window, or in none; a module outside the wrapper;
rows that two processes both have, or none has, as a rest that does not divide; clipping by a norm that is the process's
own; an evaluation of one process's share of the held-out rows; metrics that all processes agree on and one process does
not.

## Why it matters

The run that was tuned on one machine becomes another on two, with another learning rate in effect and another weight
for every row. Nothing fails; it only learns worse.

## How it decides

One process evaluates, where it can, and takes a step of the stage, in float64, on the first batch of its run: on a
window of the first and another one, the smallest of the epoch, where it has `window`. Where it clips (`max_norm`), it
takes another step, its loss multiplied by 1e6, so that clipping acts. Then several processes, for each way that the
stage declares, do the same with theirs: two, or, where all batches of the epoch (by `samples`) have rows that two share
evenly, three or five, so that some process has a row less than another, or none.
Statistic: at `optimizer.step()`, over all parameters, the largest difference between their gradient and that of one,
as a share of the largest gradient of one. Allowed: 1e-6. In float64 another order of sums costs 1e-13;
counts that differ cost percents. The numbers of the first process's evaluation are compared in the same way, and those
metrics of the first step that are no whole numbers and the same on all processes. Where `samples` names them, the rows
of an epoch are counted: each in exactly one process. Allowed: 0 misplaced.

The first step on one batch also in float32, where the run has `losses` and `select_rows`. Statistic: the norm of the
difference over all parameters, as a share of what rounding can do. That is derived, not tuned: with R rows, u = 2^-24,
gamma = R u / (1 - R u), g_r the gradient of row r's own loss in float64 and e_r what it is off by in float32, element
by element,

    D = gamma sum_r |g_r| + (1 + gamma) sum_r e_r,    allowed = 4 c ||D||:

a sum of R terms in any order is off by gamma times the sum of their absolute values, on top of what each term is off by
itself, which is its condition; two ways may err to two sides (2), and clipping's factor c <= 1 is off by as much again
(2). Allowed: 1.

A first step that does not draw the same rows, or has dropout, cannot be compared: inconclusive where the runs of one
process disagree among themselves. False-alarm rate: 0 for a deterministic step; in float32, where a row's own rounding
in another order of sums is not beyond what was measured of it.

## Example

Bad:

```python
loss = token_loss.sum() / mask.sum()                          # this rank's own count; DDP then averages the ranks
```

Good:

```python
count = mask.sum()
dist.all_reduce(count)
loss = world * token_loss.sum() / count                       # DDP divides by world
```

## How to fix

Divide each loss term by its count over all processes and undo the wrapper's mean; put every trained module inside the
wrapper; shard the rows by rank.

## Known limits

Where a module's constants depend on the dtype, as the default eps of `nn.RMSNorm` does, e_r holds that too, and the
float32 bound is wider than rounding is: for the bundled trainer by some four orders of magnitude.
Two, three or five processes, one step, on the CPU, over gloo. A stage whose optimizer steps do not go through
`torch.optim` is not seen. Metrics in which the processes differ are taken for each one's own.

## Sources

Faults DI-01 to DI-04 of the fault catalogue; torch.nn.parallel.DistributedDataParallel, "gradients are averaged".
Higham 2002, Accuracy and Stability of Numerical Algorithms, equation 4.4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from math import isclose
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.measures import finite, fractional
from gradgate.checks.own_lines import searched
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.rank_facts import Started
from gradgate.checks.rank_lines import Search, line_of_difference
from gradgate.checks.rank_rounding import Gradients, allowed, norm_apart
from gradgate.checks.ranks import WORLD, blamed, first_cause, together, told
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.updates import gradients_at_updates
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG610", "one-process-differs-from-n"
NEEDS: tuple[str, ...] = ("distributed",)
PER_STAGE = True
ALLOWED = 1e-6
UNEVEN = (WORLD, 3, 5)  # numbers of processes, of which the first is taken that leaves a rest
LARGE = 1e6  # times the loss: its gradient is then far above any norm to clip at
FIX = "divide each loss term by its count over all processes, undo the wrapper's mean, wrap every trained module"


@dataclass(frozen=True)
class Course:
    """What one process had.

    Args:
        gradients: at its first update, and at one of large gradients where the run clips; by parameter name, whole, as
            float64 arrays.
        metrics: of the first step by name, those that are no whole numbers.
        scores: of the evaluation by name.
        samples: of an epoch, where the run names its samples.
        sizes: of the batches that hold them.
    """

    gradients: Sequence[Gradients]
    metrics: Mapping[str, float]
    scores: Mapping[str, float]
    samples: Sequence[Hashable]
    sizes: Sequence[int]

    @property
    def smallest(self) -> int:
        """Which of its batches but the first has the fewest samples; 1 where that is not known."""
        return min(range(1, len(self.sizes)), key=self.sizes.__getitem__, default=1)


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """The same on one process, and on two each way."""
    if context.device != "cpu":
        return Outcome(not_applicable="processes are forked, and a fork has no GPU: run it with --device cpu")
    alone, again = (course_of(stage.start, context.seed) for _ in range(2))
    apart, name, _ = furthest(alone, again)
    if apart > ALLOWED:
        return Outcome(inconclusive=f"two runs of one process differ by {apart:.2g} at {name} (GG601)")
    world = next((number for number in UNEVEN if any(size % number for size in alone.sizes)), WORLD)
    rounded = gradients_of(stage.start, context.seed, torch.float32)
    bound = allowed(stage.start, context.seed, gradients_of(stage.start, context.seed, torch.float64))
    findings: list[Finding] = []
    culprit: Location | None = None
    measured: dict[str, float] = {"misplaced_rows": 0}
    for way, start in (stage.distributed or {}).items():
        ranks = together(partial(_both, start, context.seed, alone), context.folder / way, world=world)
        found = []
        if told(ranks):
            found.append(_finding(f"{way}: {first_cause(ranks) or told(ranks)}", blamed(ranks)))
        else:
            found += _found(alone, again, [each.value[0] for each in ranks], way, measured)
            if bound:
                part = norm_apart(rounded, ranks[0].value[1]) / bound
                measured[f"{way}_float32_share_of_rounding"] = part
                if not part <= 1:
                    text = f"{way}: in float32 the gradients of 1 and {world} processes are {part:.3g} times as far"
                    found.append(_finding(f"{text} apart as rounding can make them ({bound:.2g}); allowed: 1"))
        if found and not findings:
            culprit = line_of_difference(search_of(subject, stage, start, context, alone, again, world))
        findings += found
    if culprit is not None:
        findings = [replace(each, culprit=culprit) for each in findings]
    limits = {"misplaced_rows": 0, "gradient_ratio": ALLOWED} | ({"float32_share_of_rounding": 1.0} if bound else {})
    return Outcome(tuple(findings), measured, limits)


def _found(
    alone: Course, again: Course, courses: Sequence[Course], way: str, measured: dict[str, float]
) -> list[Finding]:
    """What several processes gave otherwise than one."""
    found = []
    share, name, large = furthest(alone, courses[0])
    measured[f"{way}_to_one_process_ratio"] = share
    if not share <= ALLOWED:
        when = f", clipped from {LARGE:g} times the usual," if large else ""
        text = (
            f"the gradient of {name}{when} differs by {share:.3g} of the largest between 1 and {len(courses)} processes"
        )
        found.append(_finding(f"{way}: {text}; allowed {ALLOWED:g}"))
    found += [_finding(f"{way}: {text}; allowed {ALLOWED:g} of it") for text in _apart(alone, again, courses)]
    misplaced = _misplaced(alone.samples, [each.samples for each in courses])
    measured["misplaced_rows"] = measured.get("misplaced_rows", 0) + misplaced
    if misplaced:
        found.append(_finding(f"{way}: {misplaced} rows of an epoch are in no process or in several"))
    return found


def line_of(subject: Subject, stage: Stage, start: Callable[..., Run], context: Context) -> Location | None:
    """The line at which several processes of a way part from one; None where none is sure."""

    def find() -> Location | None:
        alone, again = (course_of(stage.start, context.seed) for _ in range(2))
        if furthest(alone, again)[0] > ALLOWED:
            return None
        return line_of_difference(search_of(subject, stage, start, context, alone, again))

    return searched(find, context.seed)


def search_of(
    subject: Subject,
    stage: Stage,
    start: Callable[..., Run],
    context: Context,
    alone: Course,
    again: Course,
    world: int = WORLD,
) -> Search:
    """What to look for where several processes part from one.

    Args:
        subject: as the check has it.
        stage: as well.
        start: of the way that is wrong.
        context: as the check has it.
        alone: the course of one process.
        again: the same once more.
        world: how many processes several are.
    """
    return Search(
        subject.source,
        stage.start,
        start,
        lambda how, started: course_of(how, context.seed, alone, started),
        lambda courses: not _found(alone, again, courses, "", {}),
        lambda course: course.gradients[0],
        context.seed,
        context.folder,
        world,
    )


def _both(start: Callable[..., Run], seed: int, alone: Course, _rank: int) -> tuple[Course, Gradients]:
    """The course in float64, and a first step in float32."""
    return course_of(start, seed, alone), gradients_of(start, seed, torch.float32)


def gradients_of(start: Callable[..., Run], seed: int, dtype: torch.dtype) -> Gradients:
    """With what a run steps on its first batch."""
    with calling("start()"):
        run = start(seed, dtype=dtype, device="cpu")
    with calling("step 1"):
        return _step(run, next(iter(run.batches())))[1]


def course_of(
    start: Callable[..., Run], seed: int, alone: Course | None = None, started: Started = lambda _: None
) -> Course:
    """Start a run in float64, evaluate, and step.

    Args:
        start: of the stage, or of one of its ways to train in several processes.
        seed: for it.
        alone: that of one process; None: this is it.
        started: told the parameters by name, once they are there.
    """
    with calling("start()"):
        run = start(seed, dtype=torch.float64, device="cpu")
    started(named_parameters(run))
    has = declared(run)
    scores: Mapping[str, Any] = {}
    if "evaluate" in has:
        with calling("evaluate()"):
            scores = run.evaluate() or {}
    drawn, samples, sizes = _epoch(run, None if alone is None else len(alone.sizes))
    course = Course([], {}, finite(scores), samples, sizes)
    batch = run.window([drawn[0], drawn[(alone or course).smallest]]) if "window" in has else drawn[0]
    with calling("step 1"):
        metrics, first = _step(run, batch)
    gradients = [first]
    if "max_norm" in has:
        with calling(f"step 2, its loss times {LARGE:g}"), _multiplied(LARGE):
            gradients.append(_step(run, batch)[1])
    return replace(course, gradients=gradients, metrics=fractional(metrics))


def _step(run: Run, batch: Batch) -> tuple[Mapping[str, Any], Gradients]:
    names = named_parameters(run)
    with gradients_at_updates(names) as updates:
        metrics = run.step(batch)
    return metrics or {}, {
        names[parameter]: _whole(gradient).double().numpy()
        for update in updates[:1]
        for parameter, gradient in update.gradients.items()
        if gradient is not None
    }


@contextmanager
def _multiplied(factor: float) -> Iterator[None]:
    """Each backward that begins with 1 begins with this factor instead."""
    before = torch.Tensor.backward

    def backward(loss: Tensor, gradient: Tensor | None = None, *args: Any, **named: Any) -> None:
        before(loss, torch.full_like(loss, factor) if gradient is None else gradient, *args, **named)

    torch.Tensor.backward = backward  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.backward = before  # type: ignore[method-assign]


def _epoch(run: Run, batches: int | None) -> tuple[list[Batch], list[Hashable], list[int]]:
    """So many batches, or as many as hold an epoch, at least two; their samples, and how many each has."""
    left = run.batches()
    if "samples" not in declared(run):
        return list(islice(left, 2)), [], []
    drawn: list[Batch] = []
    found: list[Sequence[Hashable]] = []
    while (len(drawn) < batches) if batches is not None else (sum(map(len, found)) < run.epoch_size):
        drawn.append(next(left))
        found.append(run.samples(drawn[-1]))
    sizes = list(map(len, found))
    return drawn + list(islice(left, 2 - len(drawn))) if len(drawn) < 2 else drawn, list(chain(*found)), sizes


def _whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be spread over the processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def furthest(one: Course, other: Course) -> tuple[float, str, bool]:
    """The largest `distance` of two courses' gradients, where it is, and whether of those that were made large."""
    pairs = zip(one.gradients, other.gradients, strict=False)
    return max(((*distance(a, b), bool(i)) for i, (a, b) in enumerate(pairs)), default=(0.0, "", False))


def distance(one: Gradients, other: Gradients) -> tuple[float, str]:
    """The largest difference of any gradient as a share of the largest gradient, and where it is."""
    largest = max((float(abs(value).max()) for value in one.values() if value.size), default=0.0)
    missing = next((name for name in one if name not in other and abs(one[name]).max() > 0), None)
    if missing is not None or not largest:
        return (float("inf"), missing) if missing else (0.0, "")
    return max((float(abs(one[name] - other[name]).max()) / largest, name) for name in one if name in other)


def _apart(alone: Course, again: Course, courses: Sequence[Course]) -> Iterator[str]:
    """Numbers that repeat on one process and that several give otherwise, each in words."""
    first = courses[0]
    agreed = {name for name in first.metrics if all(each.metrics.get(name) == first.metrics[name] for each in courses)}
    named = [
        ("the metric", alone.metrics, again.metrics, {name: first.metrics[name] for name in agreed}),
        ("in the evaluation", alone.scores, again.scores, first.scores),
    ]
    for kind, one, other, theirs in named:
        for name in sorted(set(one) & set(other) & set(theirs)):
            if _close(one[name], other[name]) and not _close(one[name], theirs[name]):
                yield f"{kind} {name} is {one[name]:.9g} on 1 process and {theirs[name]:.9g} on {len(courses)}"


def _close(one: float, other: float) -> bool:
    return isclose(one, other, rel_tol=ALLOWED, abs_tol=1e-12)


def _misplaced(whole: Sequence[Hashable], parts: Sequence[Sequence[Hashable]]) -> int:
    expected, found = Counter(whole), Counter(sample for part in parts for sample in part)
    return sum(((expected - found) + (found - expected)).values())


def _finding(message: str, culprit: Location | None = None) -> Finding:
    return Finding(CODE, NAME, message, culprit=culprit, fix=FIX)

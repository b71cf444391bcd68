"""A factor on a gradient does not scale it: twice the factor is not twice the gradient.

## What it detects

A factor between 0 and 1 by which a loss is to reach a trunk, and that is applied the wrong way round (one minus the
factor), to the wrong part, to a part alone, or to the value as well; one that a module ignores.

## Why it matters

The forward pass is the same whatever the factor: no loss, no metric and no test of values sees that a trunk gets nine
times the gradient that was configured.

## How it decides

A key of `Stage.options` whose name says that it is a factor of a gradient (`trunk_grad`, `grad_scale`,
`gradient_factor`, `backbone_grad_mult`) is moved through its values, 0, 0.25 and 1. Runs with the same parameters,
moved away from where they begin, give the gradients of each term of `losses` on each module by one batch, without
dropout, in float64. Where a term has no gradient on a module at 0, and has some at other values, these must be in
proportion to the factor. Statistic: the distance of two gradients, each divided by its factor, relative to the larger;
allowed: 1e-6. Where it has one at 0 and none at 1, the factor is applied the wrong way round. Where it has one at both,
it reaches the module by another way, too, and those between must lie on the line from one to the other: one that is the
same at 0 and at 1, and another between, has the factor the wrong way round, with a short cut for 1.

False-alarm rate: 0 for a factor that multiplies a gradient.

## Example

Bad:

```python
return x * (1 - factor) + x.detach() * factor
```

Good:

```python
return x * factor + x.detach() * (1 - factor)
```

## How to fix

Scale the part that carries the gradient, and detach the rest.

## Known limits

Keys of other names are not known. The line is not named.

## Sources

Two trainers that the catalogue was tried on, which both had it the wrong way round.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from gradgate.checks.loss_gradient import move_to_a_generic_point
from gradgate.checks.moved import as_given, take_parameters
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG216", "gradient-not-scaled"
NEEDS: tuple[str, ...] = ("losses", "options")
PER_STAGE = True
FACTOR = re.compile(
    r"(^|[._])(\w+_)?grad(ient)?_(scale|factor|mult|multiplier|weight|coef|share)$"
    r"|(^|[._])(trunk|backbone|encoder|body|base|value|critic|head|embed\w*)_grad(ient)?$"
    r"|(^|[._])(scale|mult)_(\w+_)?grad(ient)?s?$"
)
CLIPS = re.compile(r"loss|clip|norm|scaler|init|accum")
ALLOWED = 1e-6

Gradients = Mapping[tuple[str, str], Tensor]  # by term and module, flat


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Move each factor, and compare gradients."""
    options = (stage.options or {}).items()
    factors = {
        key: [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        for key, values in options
        if FACTOR.search(key.lower()) and not CLIPS.search(key.lower())
    }
    if not factors:
        return Outcome(not_applicable="`options` has no factor of a gradient, such as {'trunk_grad': (0.1, 0.5)}")
    findings, worst, compared = [], 0.0, 0
    for key, values in factors.items():
        numbers = sorted({0.0, 0.25, 1.0, *map(float, values)})
        found = dict(_by_factor(stage, context, key, numbers))
        for place in {place for gradients in found.values() for place in gradients}:
            scaled = {number: gradients[place] for number, gradients in found.items() if place in gradients}
            distance, pair = _apart(scaled)
            compared += pair is not None
            worst = max(worst, distance)
            if pair is not None and distance > ALLOWED:
                findings.append(_finding(key, pair, place, [float(scaled[number].norm()) for number in pair]))
    if not compared:
        why = f"no term of `losses` has a gradient that goes with {next(iter(factors))} alone, at 0 and 1"
        return Outcome(inconclusive=why)
    return Outcome(tuple(findings), {"distance": worst, "compared": compared}, {"distance": ALLOWED})


def _apart(scaled: Mapping[float, Tensor]) -> tuple[float, tuple[float, float] | None]:
    """How far gradients are from being in proportion to their factors, and the two that are furthest; None: none is
    to be said of."""
    sizes = {number: float(gradient.norm()) for number, gradient in scaled.items()}
    largest = max(sizes.values(), default=0.0)
    if not largest or not {0.0, 1.0} <= sizes.keys():
        return 0.0, None
    if sizes[0.0] > ALLOWED * largest:  # by another way, unless it is gone where all of it ought to be there
        return (float("inf"), (0.0, 1.0)) if sizes[1.0] <= ALLOWED * largest else _off_the_line(scaled, largest)
    worst: tuple[float, tuple[float, float] | None] = (0.0, None)
    for low, high in pairwise(number for number in sizes if number):
        one, other = scaled[low] / low, scaled[high] / high
        distance = float((one - other).norm() / max(float(one.norm()), float(other.norm()), 1e-30))
        worst = max(worst, (distance, (low, high)), key=lambda each: (each[1] is not None, each[0]))
    return worst


def _off_the_line(scaled: Mapping[float, Tensor], largest: float) -> tuple[float, tuple[float, float] | None]:
    """How far gradients are from the line between those at 0 and 1, of a module that is reached by another way, too."""
    zero, one = scaled[0.0], scaled[1.0]
    apart = [
        (float((gradient - zero - number * (one - zero)).norm()) / largest, (0.0, number))
        for number, gradient in scaled.items()
        if number not in (0.0, 1.0)
    ]
    worst = max(apart, default=(0.0, (0.0, 0.0)))
    return worst if worst[0] > ALLOWED else (0.0, None)


def _by_factor(stage: Stage, context: Context, key: str, numbers: list[float]) -> Iterator[tuple[float, Gradients]]:
    """The gradients with each number that a run starts with, at the parameters of the first."""
    base: Run | None = None
    batch: Batch = None
    for number in numbers:
        try:
            run = stage.start(context.seed, dtype=torch.float64, device=context.device, **as_given({key: number}))
        except (Exception, SystemExit):  # noqa: S112 - GG414 tells it
            continue
        if base is None:
            base, batch = run, next(iter(run.batches()))
            parameters = [parameter for parameter in named_parameters(run) if parameter.requires_grad]
            move_to_a_generic_point(parameters, torch.Generator().manual_seed(context.seed))  # heads may begin with 0
        elif not take_parameters(run, base):
            continue
        yield number, _gradients(run, batch, context.seed)


def _gradients(run: Run, batch: Batch, seed: int) -> Gradients:
    owners: dict[str, list[Tensor]] = {}
    for parameter, name in named_parameters(run).items():
        if parameter.requires_grad:
            owners.setdefault(name.partition(".")[0], []).append(parameter)
    found = {}
    with without_dropout(), seeded(seed), calling("losses()"):
        terms = {name: term for name, term in run.losses(batch).items() if name != "total" and term.requires_grad}
    for term, loss in terms.items():
        for owner, parameters in owners.items():
            gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
            found[term, owner] = torch.cat([gradient.double().flatten() for gradient in gradients])
    return found


def _finding(key: str, numbers: tuple[float, float], place: tuple[str, str], sizes: Sequence[float]) -> Finding:
    low, high = numbers
    text = (
        f"the gradient of `{place[0]}` on `{place[1]}` has norm {sizes[0]:.4g} with {key} = {low:g}, and {sizes[1]:.4g}"
    )
    text = f"{text} with {high:g}; allowed: in proportion to the factor"
    fix = "scale the part that carries the gradient, and detach the rest"
    return Finding(CODE, NAME, text, fix=fix, detail={"key": key, "term": place[0], "module": place[1]})

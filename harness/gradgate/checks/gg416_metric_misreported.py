"""A step reports a number under a name that says something else.

## What it detects

A loss term that is logged before its coefficient or behind its last change, another term's number under its name, the
last micro-batch's for the whole; a perplexity of a loss that holds more than cross-entropy; a gradient norm that is
read behind `zero_grad`, or is that of one part of the model.

## Why it matters

Checkpoints and settings are chosen by these numbers. A perplexity that holds the critic's loss prefers the model whose
critic is better.

## How it decides

In float64, on one batch, from the same random state: the terms of `losses(batch)`, then the metrics of `step(batch)`,
running statistics of the data (GG407) held still. By the last part of its name (`train/value_loss`):

* a metric that is called as a loss term is must be that term, and not, to 1e-9, another one that is near it;
* `loss` must be `total`, or another of the terms;
* a perplexity (`ppl`, `perplexity`) must not be the exponential of a total that holds other terms, unless it is that of
  a term, too;
* a cross-entropy, perplexity or accuracy that is no loss term must not move when modules are moved that no loss of the
  logits trains, by `Stage.edges`: the critic's, whose loss it then holds;
* a gradient norm (`grad_norm`) must be that of the loss's gradient, or of the gradients at the update, with all
  optimizers together or with one.

Statistic: the distance as a share of the expected number. Allowed: 0.1 %, for numbers that are rounded for the log,
and 1e-3 where they are small. Metrics of a step that makes several updates of one optimizer are of different points,
and are not judged.

False-alarm rate: 0 for numbers of this step; a running mean is one on its first step.

## Example

Bad:

```python
metrics["perplexity"] = torch.exp(loss)                    # loss = cross_entropy + 0.5 * value_loss
```

Good:

```python
metrics["perplexity"] = torch.exp(cross_entropy)
```

## How to fix

Report each number under the name of what it is, from where it is computed.

## Known limits

Names that are no term's are not looked at, nor what an evaluation reports. A run whose `step` returns nothing has
nothing to hold.

## Sources

Faults LW-30 and LW-35 of the fault catalogue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks.loss_gradient import plain_gradients
from gradgate.checks.metric_lines import line_of_difference, line_of_wrong_number, word_of
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.running_statistics import statistics_still
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.updates import Update, gradients_at_updates, parameters_of
from gradgate.core.errors import SubjectError
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG416", "metric-misreported"
NEEDS: tuple[str, ...] = ("losses",)
PER_STAGE = True
TOLERANCE = 1e-3  # a share, and of what is small the number itself: logs round
ROUNDING = 1e-6  # of one number, computed twice in float64
EXACT = 1e-9
TOTAL, LOSS = "total", "loss"
PERPLEXITY, GRADIENT_NORM = re.compile(r"^(ppl|perplexity)$"), re.compile(r"^(grad|gradient)_?norm$")
QUALITY = re.compile(r"^(cross_entropy|xent|ce|nll|(ce|nll|lm)_loss|ppl|perplexity|acc|accuracy)$")
FIX = "report it under the name of what it is, from where it is computed"

Numbers = Mapping[str, float]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold the metrics of a step against the loss terms of its batch."""
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    parameters = [parameter for parameter in named_parameters(run) if parameter.requires_grad]
    batches = list(islice(run.batches(), 2))
    with statistics_still(run, batches, context.seed):
        return _judged(subject, stage, context, run, parameters, batches[0])


def _judged(
    subject: Subject, stage: Stage, context: Context, run: Run, parameters: Sequence[nn.Parameter], batch: Batch
) -> Outcome:
    with seeded(context.seed), calling("losses()"):
        terms = {name: float(term.detach()) for name, term in run.losses(batch).items()}
    if TOTAL not in terms:
        raise SubjectError("losses() has no term 'total'; see GG001")
    with seeded(context.seed):
        gradients = plain_gradients(run, batch, parameters)
    with seeded(context.seed), gradients_at_updates(parameters) as updates, calling("step()"):
        metrics = run.step(batch)
    numbers = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float | Tensor)}
    if len({id(update.optimizer) for update in updates}) < len(updates):
        return Outcome(not_applicable="a step makes several updates of one optimizer: its metrics are of many points")
    norms = [_norm(gradients.values()), *_norms_at(updates)]
    others = _beside_the_logits(stage, run)
    found = [*_misreported(numbers, terms, norms), *_moved(stage, context, others, numbers, terms)]
    find = partial(_line, subject, stage, context, others)
    findings = tuple(named(finding, partial(find, finding.detail), context.seed) for finding in found)
    return Outcome(
        findings, {"metrics_misreported": len(findings), "metrics": len(numbers)}, {"metrics_misreported": 0}
    )


def _line(
    subject: Subject, stage: Stage, context: Context, others: Sequence[str], detail: Mapping[str, Any]
) -> Line | None:
    """The line that puts the number under the metric's name, or lets what does not belong to it in."""
    name, reported, right = (detail[key] for key in ("metric", "reported", "expected"))
    plain = partial(_again, stage, context, ())
    if reported != right:
        return line_of_wrong_number(plain, subject.source, name, reported, right)
    other = partial(_again, stage, context, others)
    return line_of_difference((plain, other), subject.source, name) if others else None


def _again(stage: Stage, context: Context, others: Sequence[str]) -> Mapping[str, Any]:
    """The metrics of a fresh run's first step, in which these modules are others."""
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    (batch,) = islice(run.batches(), 1)
    with seeded(context.seed), torch.no_grad():
        for parameter in chain.from_iterable(run.modules[name].parameters() for name in others):
            parameter.add_(torch.randn_like(parameter) * (10 * parameter.square().mean().sqrt() + 1))
    with seeded(context.seed), calling("step()"):
        return run.step(batch)


def _misreported(numbers: Numbers, terms: Numbers, norms: list[float]) -> Iterator[Finding]:
    """One finding for each metric that is not what its name says."""
    for name, number in numbers.items():
        word = word_of(name)
        if word in terms and not _close(number, terms[word]) and (word != LOSS or not _any(number, terms.values())):
            yield _finding(name, number, f"the loss term `{word}` is {terms[word]:.6g}", terms[word])
        elif word in terms and word != LOSS and (other := _taken(number, word, terms)):
            yield _finding(name, number, f"that is the loss term `{other}`, `{word}` is {terms[word]:.9g}", terms[word])
        elif word == LOSS and word not in terms and not _any(number, terms.values()):
            yield _finding(name, number, f"no loss term is: `{TOTAL}` is {terms[TOTAL]:.6g}", terms[TOTAL])
        elif PERPLEXITY.match(word) and _is_of_total(number, terms):
            yield _finding(name, number, f"that is the exponential of `{TOTAL}`, which holds other terms", number)
        elif GRADIENT_NORM.match(word) and not _any(number, norms):
            yield _finding(name, number, f"that of the loss's gradient is {norms[0]:.6g}", norms[0])


def _taken(number: float, word: str, terms: Numbers) -> str:
    """Another term that a metric is to the last digits, where its own is not as close; empty where there is none."""
    own = abs(number - terms[word])
    exact = EXACT * max(1.0, abs(number))
    return next((name for name, term in terms.items() if abs(number - term) <= exact < own), "")


def _moved(
    stage: Stage, context: Context, others: Sequence[str], numbers: Numbers, terms: Numbers
) -> Iterator[Finding]:
    """One finding for each prediction's quality that other modules than those behind the logits move."""
    looked_at = [name for name in numbers if _is(QUALITY, name) and not _is_a_term(name, numbers[name], terms)]
    if not looked_at or not others:
        return
    metrics = _again(stage, context, others)
    for name in looked_at:
        if name in metrics and not _equal(float(metrics[name]), numbers[name]):
            told = f"it is {float(metrics[name]):.6g} where {others[0]} is another, whose loss is none of the logits'"
            yield _finding(name, numbers[name], told, numbers[name])


def _is_a_term(name: str, number: float, terms: Numbers) -> bool:
    if _is(PERPLEXITY, name):
        number = math.log(number) if number > 0 else math.nan
    return any(_equal(number, term) for term in terms.values())


def _equal(number: float, other: float) -> bool:
    return math.isclose(number, other, rel_tol=ROUNDING, abs_tol=ROUNDING)


def _beside_the_logits(stage: Stage, run: Run) -> list[str]:
    """The modules that loss terms train of which none trains that of the logits."""
    edges = {term: set(modules) for term, modules in (stage.edges or {}).items() if term != TOTAL}
    behind = set[str]().union(*(modules for modules in edges.values() if run.logits_from in modules))
    return sorted(set[str]().union(*edges.values()) - behind) if behind else []


def _is(pattern: re.Pattern[str], name: str) -> bool:
    return pattern.match(word_of(name)) is not None


def _is_of_total(perplexity: float, terms: Numbers) -> bool:
    if perplexity <= 0 or len(terms) == 1:
        return False
    loss = math.log(perplexity)
    return _close(loss, terms[TOTAL]) and not _any(loss, [term for name, term in terms.items() if name != TOTAL])


def _norms_at(updates: list[Update]) -> Iterator[float]:
    """Of all gradients at the updates together, and of each optimizer's own."""
    own = [
        [gradient for parameter, gradient in update.gradients.items() if parameter in parameters_of(update.optimizer)]
        for update in updates
    ]
    yield from (_norm(gradients) for gradients in (chain(*own), *own))


def _norm(gradients: Any) -> float:
    squares = [float(gradient.double().square().sum()) for gradient in gradients if gradient is not None]
    return math.sqrt(sum(squares))


def _any(number: float, expected: Any) -> bool:
    return any(_close(number, other) for other in expected)


def _close(number: float, expected: float) -> bool:
    if not (math.isfinite(number) and math.isfinite(expected)):
        return True  # GG301's to say
    return abs(number - expected) <= TOLERANCE * max(1.0, abs(expected))


def _finding(name: str, number: float, told: str, expected: float) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"the step reports `{name}` = {number:.6g}; {told}; allowed: {TOLERANCE:.1%} apart",
        fix=FIX,
        detail={"metric": name, "reported": number, "expected": expected},
    )

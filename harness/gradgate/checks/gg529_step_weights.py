"""The head weights that a step trains with are no weights of a mean, or carry a gradient.

## What it detects

Weights that the trainer's functions give right and its step has wrong: a floor or a uniform share added on top, a mask
multiplied on behind the softmax, a blend of two kinds of which one does not sum to 1, a mode of the configuration that
leaves the normalisation out; values that go into the weights undetached.

## Why it matters

The sum is the position's share of the loss. And where the loss can be lowered by moving its weights, the value head
learns to look away from what is hard to predict.

## How it decides

Of a fresh run and behind two steps, as it is configured and with each key of `Stage.options` moved, the weights that
the step has (`Run.weights`) for three batches. Each position's weights must sum to 1, or to 0 where no head has a
label; or, throughout, to the number of heads that have one. Statistic: the largest distance of a sum from these;
allowed: 1e-6 (1e-3 of weights in 16 bits; the derivation is at GG401). No weight is negative or not finite.

As it is configured, and with switches flipped, the gradient of a random sum of the weights is asked for. Statistic: the
largest one at a parameter of `Run.modules`; allowed: 0. With a switch flipped it is a warning, and keys whose words
open a way for gradients are left as they are.

False-alarm rate: 0 where the weights are constants that a mean over heads is taken with. A gate that is learnt is none.

## Example

Bad:

```python
weight_BSH = weight_BSH + floor * uniform_BSH
```

Good:

```python
weight_BSH = (1 - floor) * weight_BSH + floor * uniform_BSH
```

In the adapter, one line:

```python
weights_from = "head_weights:return"          # of StepLosses and OwnLoop, as a place in `terms`
```

## How to fix

Mix distributions with shares that sum to 1, mask in front of the softmax, and detach the values that weights are made
of.

## Known limits

Which positions have a label is not known here: one that has, and weights of 0, passes; GG413 sees that it has no share.

## Sources

Faults LW-02 and LW-17 of the fault catalogue; two trainers that were read for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gradgate.checks import tolerances
from gradgate.checks.moved import in_words, plain_and_moved
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.switches import Again
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG529", "step-weights"
NEEDS: tuple[str, ...] = ("weights",)
PER_STAGE = True
BATCHES, STEPS = 3, 2
FIX = "mix weights with shares that sum to 1, and mask in front of the softmax"


def gradient_alone(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Ask for the gradient of the weights."""
    run = _started(stage, context)
    with seeded(context.seed):
        return Outcome(tuple(_on_the_graph(run, next(iter(run.batches())))))


AGAIN = Again("warning", edges=True, check=gradient_alone)


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Sum the weights of a few steps, in each setting; ask for their gradient as it is configured."""
    findings = list(gradient_alone(subject, stage, context).findings)
    worst, settings = 0.0, 0
    told: set[str] = set()
    for options, each in plain_and_moved(_started(stage, context), stage, context):
        settings += 1
        for weight_BSH in _weights_of(each, context.seed):
            distance, wrong = _judge(weight_BSH)
            worst = max(worst, distance)
            for kind, message in wrong.items():
                if kind not in told:
                    told.add(kind)
                    findings.append(Finding(CODE, NAME, f"{message}{in_words(options)}", fix=FIX))
    allowed = {"weight_sum_error": tolerances.weight_sum(torch.float64)}
    return Outcome(tuple(findings), {"weight_sum_error": worst, "settings": settings}, allowed)


def _started(stage: Stage, context: Context) -> Run:
    with calling("start()"):
        return stage.start(context.seed, dtype=torch.float64, device=context.device)


def _weights_of(run: Run, seed: int) -> Iterator[Tensor]:
    """Of three batches before a step, and of three behind two; no more where this setting has none."""
    batches = run.batches()
    for steps in (0, STEPS):
        try:
            with seeded(seed):
                for batch in islice(batches, steps):
                    run.step(batch)
                for batch in islice(batches, BATCHES):
                    yield run.weights(batch).detach()
        except (Exception, SystemExit):  # a setting without weights, or one that makes no step, which GG414 tells
            return


def _judge(weight_BSH: Tensor) -> tuple[float, dict[str, str]]:
    """The furthest that a sum is from what it may be, and by its kind what is wrong."""
    if not bool(weight_BSH.isfinite().all()):
        return float("inf"), {"not finite": "a head weight of the step is not finite; allowed: none"}
    wrong = {}
    if bool((weight_BSH < 0).any()):
        wrong["negative"] = f"a head weight of the step is {float(weight_BSH.min()):.6g}; allowed: none below 0"
    total_BS = weight_BSH.double().sum(-1)
    count_BS = (weight_BSH > 0).double().sum(-1)
    of_one_BS = torch.where(total_BS < 0.5, torch.where(count_BS > 0, 1.0, 0.0), 1.0)
    expected_BS = min((of_one_BS, count_BS), key=lambda expected_BS: float((total_BS - expected_BS).abs().max()))
    error_BS = total_BS - expected_BS
    for kind, by_BS in (("above", error_BS), ("below", -error_BS)):
        if float(by_BS.max()) > tolerances.weight_sum(weight_BSH.dtype):
            place = tuple(int(i) for i in torch.unravel_index(by_BS.argmax(), by_BS.shape))
            text = f"the sum of the step's head weights at {list(place)} is {float(total_BS[place]):.6g}"
            wrong[kind] = f"{text}; allowed: {float(expected_BS[place]):g}, or 0 where no head has a label"
    return float(error_BS.abs().max()), wrong


def _on_the_graph(run: Run, batch: Any) -> Iterator[Finding]:
    """A finding for each module whose parameters the weights give a gradient."""
    with calling("weights()"):
        weight_BSH = run.weights(batch)
    if not weight_BSH.requires_grad:
        return
    names = {parameter: name for parameter, name in named_parameters(run).items() if parameter.requires_grad}
    total = (weight_BSH * torch.rand_like(weight_BSH)).sum()
    gradients = torch.autograd.grad(total, list(names), allow_unused=True)
    reached: dict[str, float] = {}
    for name, gradient in zip(names.values(), gradients, strict=True):
        size = 0.0 if gradient is None else float(gradient.abs().max())
        if size > 0:
            module = name.partition(".")[0]
            reached[module] = max(size, reached.get(module, 0.0))
    finding = Finding(CODE, NAME, "", fix="detach the values that the weights are made of")
    for module, size in reached.items():
        text = f"the head weights give `{module}` a gradient of {size:.3g}: the loss falls where they look away"
        yield replace(finding, message=f"{text}; allowed: 0", detail={"module": module, "gradient": size})

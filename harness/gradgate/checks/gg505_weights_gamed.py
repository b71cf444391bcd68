"""With trunk and heads frozen, the main loss falls by moving weight to easy heads.

## What it detects

A main loss that trains the value head through the head weights: the value head learns values that put the weight
where the cross-entropy is low already, whatever the rewards say.

## Why it matters

The reported loss falls and no prediction gets better. Measured on the trainer that the bundled one replaces: trunk
and heads frozen, the loss fell from 4.07 to 3.73, 8 %.

## How it decides

After 20 real steps, so that some heads are easier than others, only the value head is trained, from its initial
parameters, on 4 batches, 60 steps of Adam at 0.03 without clipping: once on `total`, once on `value_loss` alone.
Everything else stays as it is, and both trainings start from the same parameters and random numbers.

Statistic: fall of `wmtp_loss` under the first minus fall under the second, as a share of `wmtp_loss` at the start, on
16 batches that neither trained on; mean and standard error over the batches. It fails where the mean is above 0.1 %
and above 3.5 standard errors (t with 15 degrees of freedom: one-sided p = 0.002). Measured over 5 seeds of the
bundled trainer: 0.7 % to 1.9 % with weights that carry a graph, at most 2e-8 with detached ones, where the two
gradients differ by a factor and Adam takes it out. The false-alarm rate is that of some other term of `total` that
trains the value head.

The value head is `modules["value_head"]`; without it, the outermost modules that return one number a position from
which `value_loss` comes, where `Run.valid` or `Run.tokens` tells positions; else the parameters that `value_loss`
reaches, where it does not reach all of them.

## Example

Bad:

```python
loss = wmtp_loss(logits, label, weight) + 0.1 * value_loss       # weight carries the graph of the value head
```

Good:

```python
loss = wmtp_loss(logits, label, weight.detach()) + 0.1 * value_loss
```

## How to fix

Detach the weights in the main loss (`loss.weight_gradient: detach`), so that the value head learns from rewards
alone.

## Known limits

A through-gradient that is too weak to move 0.1 % of the loss in 60 steps passes. Gaming by trunk or heads is not
seen.

## Sources

Fault GF-07 of the fault catalogue, measured there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG505", "weights-gamed"
NEEDS: tuple[str, ...] = ("losses",)
PER_STAGE = True
OBJECTIVE = "tokens"
MAIN, VALUE, TOTAL = "wmtp_loss", "value_loss", "total"
WARM_STEPS = 20
TRAINED_ON, HELD_OUT = 4, 16  # batches
STEPS = 60
LEARNING_RATE = 3e-2
SHARE = 0.001  # of the main loss at the start
STANDARD_ERRORS = 3.5


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Train the value head twice, on the total and on its own loss, and compare the main loss."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    batches = list(islice(run.batches(), WARM_STEPS + TRAINED_ON + HELD_OUT))
    with calling("losses()"):
        terms = run.losses(batches[0])
    missing = [name for name in (MAIN, VALUE, TOTAL) if name not in terms]
    if missing:
        return Outcome(not_applicable=f"losses() has no {', '.join(missing)}: no weighted loss beside a value loss")
    head = _value_head(run, batches[0], terms[VALUE])
    if not head:
        return Outcome(
            not_applicable='which parameters are the value head is not known: name it `modules["value_head"]`'
        )
    _warm(run, batches[:WARM_STEPS], head)
    return _compare(run, batches[WARM_STEPS:], head, context.seed)


def _value_head(run: Run, batch: Batch, value_loss: Tensor) -> list[nn.Parameter]:
    named = [run.modules["value_head"]] if "value_head" in run.modules else list(_returning_values(run, batch))
    if named:
        trained = [parameter for module in named for parameter in module.parameters() if parameter.requires_grad]
        return list(dict.fromkeys(trained))
    trainable = [parameter for parameter in named_parameters(run) if parameter.requires_grad]
    if not value_loss.requires_grad:
        return []
    reached = torch.autograd.grad(value_loss, trainable, allow_unused=True)
    head = [parameter for parameter, grad in zip(trainable, reached, strict=True) if grad is not None]
    return head if len(head) < len(trainable) else []


def _returning_values(run: Run, batch: Batch) -> Iterator[nn.Module]:
    """The outermost modules from whose one number a position the value loss comes."""
    if "valid" not in declared(run):
        return
    with calling("valid()"):
        positions = run.valid(batch).numel()
    seen: list[tuple[nn.Module, Tensor]] = []

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad and output.numel() == positions:
            seen.append((module, output))

    with ExitStack() as stack:
        for module in {each for held in run.modules.values() for each in held.modules()}:
            stack.callback(module.register_forward_hook(keep).remove)
        with calling("losses()"):
            loss = run.losses(batch)[VALUE]
    if not loss.requires_grad or not seen:
        return
    reached = torch.autograd.grad(loss, [output for _, output in seen], allow_unused=True)
    making = dict.fromkeys(module for (module, _), grad in zip(seen, reached, strict=True) if grad is not None)
    inner = {each for module in making for each in module.modules() if each is not module}
    yield from (module for module in making if module not in inner)


def _warm(run: Run, batches: Sequence[Batch], head: Sequence[nn.Parameter]) -> None:
    """Take real steps, then give the value head its initial parameters back."""
    initial = _copies(head)
    for number, batch in enumerate(batches, 1):
        with calling(f"step {number}"):
            run.step(batch)
    _put_back(head, initial)


def _compare(run: Run, batches: Sequence[Batch], head: Sequence[nn.Parameter], seed: int) -> Outcome:
    train, held_out = batches[:TRAINED_ON], batches[TRAINED_ON:]
    initial = _copies(head)
    start_N = _main_losses(run, held_out, seed)
    after = {}
    for term in (TOTAL, VALUE):
        _train(run, train, head, term, seed)
        after[term] = _main_losses(run, held_out, seed)
        _put_back(head, initial)
    if not all(bool(losses_N.isfinite().all()) for losses_N in (start_N, *after.values())):
        return Outcome(inconclusive="the main loss is not finite on some batch: nothing to compare")
    excess_N = (after[VALUE] - after[TOTAL]) / start_N.mean()
    measured = {
        "excess_fall_ratio": float(excess_N.mean()),
        "excess_fall_standard_error": float(excess_N.std() / HELD_OUT**0.5),
        "wmtp_loss_start": float(start_N.mean()),
        "wmtp_loss_after_total": float(after[TOTAL].mean()),
        "wmtp_loss_after_value_loss": float(after[VALUE].mean()),
    }
    return _judge(measured)


def _judge(measured: dict[str, float]) -> Outcome:
    bound = max(SHARE, STANDARD_ERRORS * measured["excess_fall_standard_error"])
    allowed = {"excess_fall_ratio": bound}
    if measured["excess_fall_ratio"] <= bound:
        return Outcome(measured=measured, allowed=allowed)
    finding = Finding(
        code=CODE,
        name=NAME,
        message=f"with everything but the value head frozen, {MAIN} falls from {measured['wmtp_loss_start']:.3f} to "
        f"{measured['wmtp_loss_after_total']:.3f} nats when the head is trained on the total, to "
        f"{measured['wmtp_loss_after_value_loss']:.3f} on {VALUE} alone: {measured['excess_fall_ratio']:.2%} more, "
        f"allowed {bound:.2%}",
        fix="detach the weights in the main loss, so that it does not train the value head",
        detail=dict(measured),
    )
    return Outcome(findings=(finding,), measured=measured, allowed=allowed)


def _train(run: Run, batches: Sequence[Batch], head: Sequence[nn.Parameter], term: str, seed: int) -> None:
    optimizer = torch.optim.Adam(head, lr=LEARNING_RATE, eps=1e-12)
    for step in range(STEPS):
        with seeded(seed + step), calling("losses()"):
            loss = run.losses(batches[step % len(batches)])[term]
        if not loss.requires_grad:
            return
        grads = torch.autograd.grad(loss, list(head), allow_unused=True)
        for parameter, grad in zip(head, grads, strict=True):
            parameter.grad = grad
        optimizer.step()
        optimizer.zero_grad()


def _main_losses(run: Run, batches: Sequence[Batch], seed: int) -> Tensor:
    values = []
    for batch in batches:
        with seeded(seed), calling("losses()"), torch.no_grad():
            values.append(float(run.losses(batch)[MAIN]))
    return torch.tensor(values, dtype=torch.float64)


def _copies(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def _put_back(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)

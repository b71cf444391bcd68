"""The loss falls where nothing can learn, or is below what a model with no information can reach.

## What it detects

A loss whose scale follows the step (a running norm, a decaying coefficient, a count that grows), so that it falls by
itself; labels that reach the loss by another way than the predictions; a mean over more than what was summed.

## Why it matters

Such a loss falls in every run, and with it everybody's confidence.

## How it decides

Two null models, whose result is known without training anything.

* *Frozen:* 12 steps, after each of which modules are put back to where they were. On the first batch, before and after,
  from the same random numbers, the loss may not fall: statistic, its relative fall in float64, over all loss terms.
  Allowed: 1e-9, as nothing has changed but how often it was asked. Running statistics of the data are held still, such
  as a mean of rewards that each batch moves before it is used.
* *No information* (token stages with `logits`): the output of `logits_from` is replaced by zeros, so that every token
  is as likely as any. Weighted cross-entropy, with weights that sum to 1, is then exactly log V at every position that
  counts. Statistic: how far below log V the declared token loss is, as a share. Allowed: 1e-9, and 1e-4 more for
  weights that are float32. The term is `wmtp_loss`, where there is one, else `total` of a stage with a single term.

False-alarm rate: 0 for a loss that is a function of parameters, batch and random numbers.

## Example

Bad:

```python
self.norm = 0.9 * self.norm + loss.item()
return loss / self.norm                                     # falls, whatever is learnt
```

Good:

```python
return loss
```

## How to fix

Make the loss a function of parameters and batch, and divide it by what was summed.

## Known limits

A schedule of a coefficient that starts after 12 steps is not seen. A label that leaks into the logits is GG409's.

## Sources

Shannon 1948: without information, no code is shorter than log V. Adebayo et al. 2018, arXiv:1810.03292, for null
models as checks.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn

from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.running_statistics import without_running_statistics
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject
from gradgate.subjects.outputs import logits_in, with_logits

CODE, NAME = "GG904", "null-model"
NEEDS: tuple[str, ...] = ("losses",)
PER_STAGE = True
STEPS = 12
FALL = 1e-9  # relative; nothing has changed
BELOW = 1e-4  # relative; weights may be float32, a mean of logarithms too
ALLOWED = {"frozen_fall_ratio": FALL, "below_no_information_ratio": BELOW}


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Ask both null models."""
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    batches = list(islice(run.batches(), 2))
    batch = batches[0]
    outcome = without_running_statistics(run, batches, context.seed, partial(_frozen, run, batch))
    measured, findings = dict(outcome.measured), list(outcome.findings)
    if stage.objective == "tokens" and "logits" in declared(run):
        below = below_uniform(run, batch)
        measured["below_no_information_ratio"] = below
        if not below <= BELOW:
            text = f"with every token as likely as any, the token loss is {below:.2%} below log V"
            findings.append(_finding(f"{text}; allowed {BELOW:g}", "divide by what was summed; weights sum to 1"))
    allowed = {name: ALLOWED[name] for name in measured if name in ALLOWED}
    return Outcome(tuple(findings), measured, allowed)


def _frozen(run: Run, batch: Batch) -> Outcome:
    fall, term = frozen_fall(run, batch)
    measured = {"frozen_fall_ratio": fall}
    if fall <= FALL:
        return Outcome(measured=measured)
    text = f"`{term}` falls by {fall:.2%} over {STEPS} steps in which no parameter moves; allowed {FALL:g}"
    return Outcome((_finding(text, "make the loss a function of parameters and batch"),), measured)


def frozen_fall(run: Run, batch: Batch) -> tuple[float, str]:
    """The largest relative fall of a loss term over steps that are undone, and which term it is."""
    before = _losses(run, batch)
    held = {name: copy.deepcopy(module.state_dict()) for name, module in run.modules.items()}
    for number, drawn in enumerate(islice(run.batches(), STEPS), 1):
        with calling(f"step {number}"):
            run.step(drawn)
        for name, module in run.modules.items():
            module.load_state_dict(held[name])
    after = _losses(run, batch)
    falls = {name: (before[name] - after[name]) / abs(before[name]) for name in before if before[name]}
    term = max(falls, key=lambda name: falls[name] if math.isfinite(falls[name]) else math.inf, default="total")
    return falls.get(term, 0.0), term


def below_uniform(run: Run, batch: Batch) -> float:
    """How far below log V the token loss is where logits say nothing, as a share of log V."""
    assert run.logits_from is not None  # noqa: S101 - a capability
    with _saying_nothing(run.modules[run.logits_from]) as widths:
        losses = _losses(run, batch)
    names = [name for name in losses if name != "total"]
    if not widths or not ("wmtp_loss" in names or len(names) <= 1):
        return 0.0
    loss = losses["wmtp_loss"] if "wmtp_loss" in losses else losses["total"]
    return 1.0 - loss / math.log(widths[0])


@contextmanager
def _saying_nothing(module: nn.Module) -> Iterator[list[int]]:
    """The module's output is zeros; yields the vocabulary's size, once it is known."""
    widths: list[int] = []

    def silent(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        logits = logits_in(output)
        if logits is None:
            return None
        widths.append(logits.shape[-1])
        return with_logits(output, torch.zeros_like(logits) + 0.0 * logits)

    handle = module.register_forward_hook(silent)
    try:
        yield widths
    finally:
        handle.remove()


def _losses(run: Run, batch: Batch) -> Mapping[str, float]:
    """The loss terms, from the same random numbers each time."""
    with torch.random.fork_rng(devices=[]), calling("losses()"):
        torch.manual_seed(0)
        return {name: float(term.detach()) for name, term in run.losses(batch).items()}


def _finding(message: str, fix: str) -> Finding:
    return Finding(CODE, NAME, message, fix=fix)

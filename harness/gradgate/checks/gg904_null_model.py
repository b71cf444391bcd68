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
  What each head has in it is read off the derivatives at the logits and told beside it, and whether it is explained by
  all heads being divided by the number of labels of the first.

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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

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
WRONG_NUMBER = 0.25  # of what is lost, that is left where another number explains it
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
        below, heads = below_uniform(run, batch)
        measured["below_no_information_ratio"] = below
        if not below <= BELOW:
            text = f"with every token as likely as any, the token loss is {below:.2%} below log V; allowed {BELOW:g}"
            told = f"{text}{_in_heads(heads)}"
            findings.append(_finding(told, "divide by what was summed; weights sum to 1"))
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


@dataclass(frozen=True, slots=True)
class Heads:
    """What the cross-entropies of each head sum to in the token loss, and how many of them count.

    Args:
        share_H: Double[H]; of a weighted mean they sum to 1.
        number_H: Double[H].
    """

    share_H: Tensor
    number_H: Tensor

    @property
    def go_by_the_first(self) -> bool:
        """Whether the shares would sum to 1 if each head's were over its own number, and not over the first's."""
        lost = 1.0 - float(self.share_H.sum())
        own = self.share_H * self.number_H[0] / self.number_H.clamp(min=1.0)
        return abs(1.0 - float(own.sum())) < WRONG_NUMBER * lost


def below_uniform(run: Run, batch: Batch) -> tuple[float, Heads | None]:
    """How far below log V the token loss is where logits say nothing, as a share of it, and what heads have in it."""
    assert run.logits_from is not None  # noqa: S101 - a capability
    with _saying_nothing(run.modules[run.logits_from]) as silent:
        terms = _terms(run, batch)
    names = [name for name in terms if name != "total"]
    if not silent or not ("wmtp_loss" in names or len(names) <= 1):
        return 0.0, None
    loss = terms["wmtp_loss"] if "wmtp_loss" in terms else terms["total"]
    return 1.0 - float(loss.detach()) / math.log(silent[0].shape[-1]), _heads(loss, silent)


def _heads(loss: Tensor, silent: Sequence[Tensor]) -> Heads | None:
    """Read off the derivatives at the logits, [B, S, H, V] or one call a head; None: there are no two heads."""
    outputs = [each for each in silent if each.requires_grad]
    if not loss.requires_grad or len(outputs) != len(silent):
        return None
    slopes = torch.autograd.grad(loss, outputs, allow_unused=True, materialize_grads=True)
    by_head = slopes[0].unbind(-2) if len(slopes) == 1 and slopes[0].dim() == 4 else slopes
    if len(by_head) < 2:
        return None
    # softmax - onehot: the label's slope is -(1 - 1/V) of what its cross-entropy counts
    counts = [-slope.amin(-1).double().clamp(max=0.0) / (1 - 1 / slope.shape[-1]) for slope in by_head]
    shares = torch.stack([count.sum() for count in counts]).cpu()
    return Heads(shares, torch.stack([(count > 0).sum() for count in counts]).double().cpu())


def _in_heads(heads: Heads | None) -> str:
    if heads is None:
        return ""
    shares, numbers = (
        ", ".join(f"{each:.3g}" for each in column.tolist()) for column in (heads.share_H, heads.number_H)
    )
    told = f": its heads have shares of {shares} in it, {float(heads.share_H.sum()):.3g} together instead of 1"
    counted = f", of {numbers} labels"
    return told + counted + ": each is divided by the number of the first" * heads.go_by_the_first


@contextmanager
def _saying_nothing(module: nn.Module) -> Iterator[list[Tensor]]:
    """The module's output is zeros; yields these, once they are there."""
    found: list[Tensor] = []

    def silent(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        logits = logits_in(output)
        if logits is None:
            return None
        zeros = torch.zeros_like(logits) + 0.0 * logits
        found.append(zeros)
        return with_logits(output, zeros)

    handle = module.register_forward_hook(silent)
    try:
        yield found
    finally:
        handle.remove()


def _losses(run: Run, batch: Batch) -> Mapping[str, float]:
    return {name: float(term.detach()) for name, term in _terms(run, batch).items()}


def _terms(run: Run, batch: Batch) -> Mapping[str, Tensor]:
    """The loss terms, from the same random numbers each time."""
    with torch.random.fork_rng(devices=[]), calling("losses()"):
        torch.manual_seed(0)
        return run.losses(batch)


def _finding(message: str, fix: str) -> Finding:
    return Finding(CODE, NAME, message, fix=fix)

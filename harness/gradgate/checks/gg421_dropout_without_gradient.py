"""A module that is not trained, or not at that moment, runs with dropout on.

## What it detects

A frozen trunk that gives features, a reference model, or the policy of a rollout, in train mode: their numbers are
taken under `no_grad` and have dropout's noise in them. A model that sets its targets by itself and drops units
meanwhile.

## Why it matters

What is computed without a gradient is data: features, targets, references, rewards. With dropout on it is noise that
no step averages out, and another one at every use. Nothing raises, and the loss has a floor that no training passes.

## How it decides

Over the first 2 batches and their steps every dropout is followed. Statistic: dropouts that drop something inside the
forward of a module with parameters while gradients are off; allowed: 0. Forwards that are run again with a gradient
(activation checkpoints) and those of custom functions are left out. Options of the stage whose name has `dropout` in
it are moved to each of their values first, so that a small run without dropout shows it.

False-alarm rate: 0 on the bundled trainer and on the documented ones; noise that is meant (a noisy teacher, samples of
a dropout ensemble) is to be expected with a reason.

## Example

Bad:

```python
model.train()
with torch.no_grad():
    feature_BSD = model(token_BS)                            # another feature at every step
```

Good:

```python
model.eval()
with torch.no_grad():
    feature_BSD = model(token_BS)
```

## How to fix

Put what is not trained into eval mode, and see that a `train()` of the whole does not undo it.

## Known limits

Batch norm in train mode is GG606's where it moves statistics. A frozen module that runs with gradients on is not seen.

## Sources

Fault OS-28 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Any

from gradgate.checks.lineage import Lineage, Noise
from gradgate.checks.moved import as_given, in_words, moves
from gradgate.checks.raised import calling, reports_raises
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG421", "dropout-without-gradient"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
BATCHES = 2


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Follow two steps, as configured and with dropout moved."""
    found: dict[str, tuple[Finding, int]] = {}
    for options in moves(stage, ("dropout",)):
        run, lineage = _followed(subject, stage, context, options)
        for noise in lineage.noise:
            name = _name(run, noise)
            finding, count = found.get(name, (_finding(noise, name, options), 0))
            found[name] = finding, count + 1
    count = sum(count for _, count in found.values())
    findings = tuple(finding for finding, _ in found.values())
    return Outcome(findings, {"dropouts_without_gradient": count}, {"dropouts_without_gradient": 0})


def _followed(subject: Subject, stage: Stage, context: Context, options: Mapping[str, Any]) -> tuple[Run, Lineage]:
    with calling("start()"):
        run = stage.start(context.seed, device=context.device, **as_given(options))
    with Lineage(subject.source) as lineage:
        batches = islice(run.batches(), BATCHES)
        for number in range(1, BATCHES + 1):
            with calling(f"drawing batch {number}"):
                batch = next(batches)
            with calling(f"step {number}"):
                run.step(batch)
    return run, lineage


def _name(run: Run, noise: Noise) -> str:
    """The module as the run names it, or its class."""
    for top, module in run.modules.items():
        for name, inner in module.named_modules(prefix=top):
            if inner is noise.module:
                return f"`{name}`"
    return f"a {type(noise.module).__name__}"


def _finding(noise: Noise, name: str, options: Mapping[str, Any]) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{name} runs without a gradient and drops {noise.rate:.0%} of its units{in_words(options)}: what it "
        "gives is another noise every time; allowed: none",
        culprit=noise.place,
        fix="put it into eval mode where its numbers are taken as data",
        detail={"rate": noise.rate},
    )

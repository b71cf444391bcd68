"""Two stages regress on different functions of the same reward.

## What it detects

A value head that is pretrained on the plain return and trained on bootstrapped ones, other discounts in the two stages,
a reward that one stage puts on the last token and the other spreads, a sign, a scale or a clip in one of them.

## Why it matters

The second stage begins by unlearning what the first taught. Its value loss starts high although the head that it loads
is good, and whatever is computed from the values moves for no reason of the task.

## How it decides

Every stage that offers `value_targets` is given the same rewards, values and masks: the boundary grid and random ragged
rows, with garbage at padding. Statistic: the largest distance, in reward units, between the targets of two stages at a
real token. Allowed: each may be off by 2 (3 n + 8) u n M, with n the row's real tokens, M the largest |r| + 2 |v| and u
the roundoff of float32; their distance by twice that. What the right targets are is GG501's question, not this one's.

False-alarm rate: 0: the bound is a worst case to first order, doubled.

## Example

Bad:

```python
target_BS = discounted_sum(reward_BS, gamma=0.99)                         # stage 1
target_BS = gae_returns(reward_BS, value_BS, gamma=0.95, gae_lambda=0.9)  # stage 2
```

Good:

```python
target_BS = gae_returns(reward_BS, value_BS, valid_BS, gamma=critic.gamma, gae_lambda=critic.gae_lambda)   # both
```

## How to fix

One function, called by both stages with the settings of one section of the configuration.

## Known limits

What the adapter's `value_targets` does not go through is not seen: let it call the stage's own code.

## Sources

Schulman et al. 2016, arXiv:1506.02438, section 3; the bound is that of GG501.
"""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor

from gradgate.checks import cases, tolerances
from gradgate.checks.formulas import plain
from gradgate.checks.raised import calling
from gradgate.core.errors import SubjectError
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG502", "stages-disagree"
NEEDS: tuple[str, ...] = ("value_targets",)
PER_STAGE = False
RANDOM = {"quick": 20, "pr": 60, "nightly": 300}


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Give all stages the same rewards, and compare what each would learn."""
    runs = _runs(subject, context)
    if len(runs) < 2:
        hint = Subject.CAPABILITIES["value_targets"]
        return Outcome(not_applicable=f"only stage {next(iter(runs), '')!r} has value targets: {hint}, in two stages")
    first, *others = runs
    worst = dict.fromkeys(others, (0.0, 0.0, 0.0))  # share of the bound, distance, bound
    faults: dict[str, list[str]] = {other: [] for other in others}
    tried = 0
    gaps = subject.functions.gaps
    grid = cases.boundary_grid(context.seed, (1,), gaps=gaps)
    for case in chain(grid, cases.ragged(context.seed, RANDOM[context.profile], gaps=gaps)):
        if case.document_BS is not None or not case.valid_BS.any():
            continue
        tried += 1
        target_BS = _targets(runs[first], first, case, context.device)
        reward_BS = case.reward_B[:, None].expand(case.valid_BS.shape)
        allowed = 2 * tolerances.returns(reward_BS, case.value_BS, case.valid_BS)
        for other in others:
            theirs_BS = _targets(runs[other], other, case, context.device)
            distance_BS = (theirs_BS - target_BS).abs().masked_fill(~case.valid_BS, 0.0).nan_to_num(nan=torch.inf)
            b, t = divmod(int(distance_BS.argmax()), case.valid_BS.shape[1])
            distance = float(distance_BS[b, t])
            worst[other] = max(worst[other], (distance / allowed if allowed else distance, distance, allowed))
            if distance > allowed:
                pair = (float(target_BS[b, t]), float(theirs_BS[b, t]))
                faults[other].append(_told((first, other), (b, t), pair, distance, allowed, case))
    findings = tuple(_finding(told) for told in faults.values() if told)
    _, distance, allowed = max(worst.values())
    return Outcome(findings, {"distance": plain(distance), "cases": tried}, {"distance": allowed})


def _runs(subject: Subject, context: Context) -> dict[str, Run]:
    found = {}
    for stage in subject.stages:
        with calling(f"starting stage {stage.name!r}"):
            run = stage.start(context.seed, device=context.device)
        if "value_targets" in declared(run):
            found[stage.name] = run
    return found


def _targets(run: Run, name: str, case: cases.Case, device: str) -> Tensor:
    given = (case.reward_B, case.value_BS, case.valid_BS)
    with calling(f"value_targets() of stage {name!r}"):
        target_BS = run.value_targets(*(tensor.to(device) for tensor in given))
    if not isinstance(target_BS, Tensor) or target_BS.shape != case.valid_BS.shape:
        raise SubjectError(f"value_targets() of stage {name!r} gave no tensor of shape {list(case.valid_BS.shape)}")
    return target_BS.detach().double().cpu()


def _told(
    stages: tuple[str, str],
    index: tuple[int, int],
    pair: tuple[float, float],
    distance: float,
    allowed: float,
    case: cases.Case,
) -> str:
    return (
        f"stages {stages[0]!r} and {stages[1]!r} regress on {pair[0]:.6g} and {pair[1]:.6g} at [b, t] = {list(index)}: "
        f"{distance:.3g} apart, allowed: {allowed:.1e} reward units, on {case.describe()} "
        f"(reward {float(case.reward_B[index[0]]):.6g})"
    )


def _finding(told: list[str]) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=told[0],
        fix="compute the targets of both stages by one function, with the settings of one section",
        count=len(told),
    )

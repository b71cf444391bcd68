"""All rewards are the same, or even the exact conditional value gives head weights that cannot be told from uniform.

## What it detects

A reward that is placed, or a corpus that is made, so that no value head, however good, could tell the head weights
anything: the method then is uniform weighting with extra cost. A reward that is one and the same number for every row,
since its code falls back to a constant where it cannot make sense of a model's output.

## Why it matters

Nothing else fails. The value head converges, the weights sum to 1, the loss falls, exactly as with uniform weights.

## How it decides

The best value head knows E[return | prefix]. The corpus gives it exactly: the return of every real token of every row
(lambda = 1, so that it is the discounted sum of the rewards and asks for no value; with any other lambda the exact
value is the same fixed point), averaged over the rows that agree on all tokens up to and including it. These values go
through the trainer's own head weights, with the corpus's own settings. Rewards are placed, and returns computed, by the
trainer's own functions where it has them, else by the references: the question is whether *this* set-up carries a
signal, and a placing that spreads what it should put at the end is part of the answer.
Statistic: the largest |weight - 1 / valid heads|, without unit, over all positions. Threshold: it fails below 0.01.
Rewards known from the first token give about 3e-4, spread evenly over such rows about 1e-3 (24 tokens), a conditional
expectation that jumps from 0.5 to 1 gives 0.05 to 0.14. Nothing is random: the false-alarm rate is 0. Reported beside
it: largest and mean deviation at the positions that have a parting (where rows that agreed so far part) within their
horizon.

Stages with `Run.rewards` are asked for the rewards of 4 batches; 8 rows or more that all have the very same reward, or
none that is a number, are a failure. That needs no corpus.

## Example

Bad:

```yaml
critic: {reward_placement: uniform}        # and every row of the corpus tells its reward from the first token
```

Good:

```yaml
critic: {reward_placement: terminal}       # and right and wrong solutions share a prefix, and part at one token
```

## How to fix

Place the reward at the end, and train on rows of one task that share a prefix and end in different rewards.

## Known limits

It measures the corpus and the set-up, not the trained value head. A spread reward over rows that do part still carries
a signal (the share of the reward that is yet to come jumps), and rightly passes.

## Sources

Measured on the trainer that this one replaces: the specification of rewards gives the numbers above.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from gradgate.checks import oracles
from gradgate.checks.ahead import ahead
from gradgate.checks.formula_calls import Call, present
from gradgate.checks.formulas import Ledger, plain
from gradgate.checks.raised import calling
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import Capabilities, declared
from gradgate.subjects.contract import Context, Corpus, Functions, Stage, Subject

CODE, NAME = "GG504", "no-signal"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SMALLEST = 0.01
BATCHES, FEWEST = 4, 8  # whose rewards are asked for; rows that can tell a constant from chance
FIX = "place the reward terminally, and train on rows that share a prefix and differ in their reward"


@dataclass(frozen=True)
class Prefixes:
    """Which positions of a corpus share their prefix.

    Args:
        group_NS: Long[N, S], equal where rows agree on all real tokens up to and including the position; -1 at padding.
        parting_NS: Bool[N, S], real tokens at which rows that agreed so far take different ways.
    """

    group_NS: Tensor
    parting_NS: Tensor


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Look for a difference between rewards, then give the head weights the best values there are."""
    rewards = [_rewards(stage, context) for stage in subject.stages]
    asked, constant = sum(count for count, _ in rewards), [finding for _, found in rewards for finding in found]
    hints = Capabilities(subject, context.device).missing(None, ("corpus", "functions.weights"))
    if hints:
        missing = f"{'; '.join(hints)}" if asked else f"{'; '.join(hints)}; or {Subject.CAPABILITIES['rewards']}"
        reason = "" if asked else missing
        measured = {"constant_rewards": len(constant), "rewards_asked_for": asked}
        return Outcome(tuple(constant), measured, {"constant_rewards": 0}, not_applicable=reason)
    outcome = _weights(subject, context)
    return replace(outcome, findings=(*constant, *outcome.findings))


def _rewards(stage: Stage, context: Context) -> tuple[int, list[Finding]]:
    """How many rewards a stage was asked for, and the kinds of which all are one and the same number."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    if "rewards" not in declared(run):
        return 0, []
    seen: dict[str, list[Tensor]] = {}
    for batch in islice(run.batches(), BATCHES):
        with calling("rewards()"):
            for name, reward_B in run.rewards(batch).items():
                seen.setdefault(name, []).append(reward_B.detach().double().cpu())
    found = {name: torch.cat(rewards) for name, rewards in seen.items()}
    constant = {name: reward_N for name, reward_N in found.items() if len(reward_N) >= FEWEST and _is_one(reward_N)}
    return sum(len(reward_N) for reward_N in found.values()), [
        Finding(
            CODE,
            NAME,
            f"stage {stage.name!r}: `{name}` gives all {len(reward_N)} rows of {BATCHES} batches the same reward, "
            f"{float(reward_N[0]):.6g}: there is nothing to learn; allowed: not all the same",
            fix="look at what the reward falls back to where it cannot make sense of its model's output",
            detail={"stage": stage.name, "reward": name, "rows": len(reward_N), "value": plain(float(reward_N[0]))},
        )
        for name, reward_N in constant.items()
    ]


def _is_one(reward_N: Tensor) -> bool:
    return bool((reward_N == reward_N[0]).all() | reward_N.isnan().all())


def _weights(subject: Subject, context: Context) -> Outcome:
    """Give the head weights the best values there are and see whether they leave uniform."""
    corpus = present(subject.corpus)(context.seed)
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    label_NSH = _labels(ledger, subject.functions, corpus)
    return_NS = _returns(ledger, subject.functions, corpus)
    if label_NSH is None or return_NS is None:
        return ledger.outcome("largest_weight_deviation")
    prefixes = shared_prefixes(corpus.token_NS, corpus.valid_NS)
    call = Call(
        "weights",
        present(subject.functions.weights),
        "the corpus",
        {
            "value_BS": exact_values(return_NS, prefixes.group_NS),
            "label_BSH": label_NSH,
            "valid_BS": corpus.valid_NS,
        },
        {"discount_lambda": corpus.discount_lambda, "temperature": corpus.temperature},
    )
    weight_NSH = ledger.run(call, label_NSH.shape, FIX)
    if weight_NSH is None:
        return ledger.outcome("largest_weight_deviation")
    return _judge(corpus, prefixes, label_NSH, weight_NSH.detach().double())


def shared_prefixes(token_NS: Tensor, valid_NS: Tensor) -> Prefixes:
    """Group the positions of a corpus by the real tokens up to and including them.

    Args:
        token_NS: Long[N, S].
        valid_NS: Bool[N, S], True = real token.
    """
    ids: dict[tuple[int, int], int] = {}
    children: dict[int, int] = {}
    group_NS = torch.full(token_NS.shape, -1)
    parent_NS = torch.full(token_NS.shape, -1)
    for row, (token_S, valid_S) in enumerate(zip(token_NS.tolist(), valid_NS.tolist(), strict=True)):
        group = -1  # the empty prefix
        for t in (t for t, real in enumerate(valid_S) if real):
            parent, known = group, len(ids)
            group = ids.setdefault((parent, token_S[t]), known)
            children[parent] = children.get(parent, 0) + (group == known)
            group_NS[row, t], parent_NS[row, t] = group, parent
    parts = torch.tensor([children.get(parent, 0) > 1 for parent in range(-1, len(ids))])
    return Prefixes(group_NS, parts[parent_NS + 1] & valid_NS)


def exact_values(return_NS: Tensor, group_NS: Tensor) -> Tensor:
    """E[return | prefix]: the mean return over the positions that share their prefix.

    Args:
        return_NS: Float[N, S], in reward units.
        group_NS: Long[N, S], -1 at padding.

    Returns:
        Double[N, S]; 0 at padding.
    """
    real_NS = group_NS >= 0
    group_P = group_NS[real_NS]
    total_G = torch.zeros(int(group_NS.max()) + 1, dtype=torch.float64) if real_NS.any() else torch.zeros(0).double()
    count_G = torch.zeros_like(total_G).index_add(0, group_P, torch.ones(group_P.shape).double())
    total_G = total_G.index_add(0, group_P, return_NS[real_NS].double())
    value_NS = torch.zeros(return_NS.shape, dtype=torch.float64)
    value_NS[real_NS] = (total_G / count_G)[group_P]
    return value_NS


def _labels(ledger: Ledger, functions: Functions, corpus: Corpus) -> Tensor | None:
    """The corpus's labels, by the trainer's own function where it has one."""
    if functions.labels is None:
        return oracles.labels(corpus.token_NS, corpus.valid_NS, corpus.horizon)
    arguments = {"token_BS": corpus.token_NS, "valid_BS": corpus.valid_NS, "horizon": corpus.horizon}
    call = Call("labels", functions.labels, "the corpus", arguments)
    return ledger.run(call, (*corpus.token_NS.shape, corpus.horizon), FIX)


def _returns(ledger: Ledger, functions: Functions, corpus: Corpus) -> Tensor | None:
    """The discounted sum of rewards at every real token, by the trainer's own functions where it has them."""
    reward_NS: Tensor | None = None
    shape, placement = corpus.valid_NS.shape, corpus.reward_placement
    if functions.place_rewards is None:
        reward_NS = oracles.place_rewards(corpus.reward_N, corpus.valid_NS, placement)
    else:
        placed = {"reward_B": corpus.reward_N.double(), "valid_BS": corpus.valid_NS, "placement": placement}
        reward_NS = ledger.run(Call("place_rewards", functions.place_rewards, "the corpus", placed), shape, FIX)
    if reward_NS is None:
        return None
    value_NS = torch.zeros(shape, dtype=torch.float64)
    if functions.returns is None:
        return oracles.gae_returns(reward_NS, value_NS, corpus.valid_NS, gamma=corpus.gamma, gae_lambda=1.0)
    given = {"reward_BS": reward_NS, "value_BS": value_NS, "valid_BS": corpus.valid_NS}
    discounts = {"gamma": corpus.gamma, "gae_lambda": 1.0}
    return ledger.run(Call("returns", functions.returns, "the corpus", given, discounts), shape, FIX)


def _judge(corpus: Corpus, prefixes: Prefixes, label_NSH: Tensor, weight_NSH: Tensor) -> Outcome:
    """Measure how far the weights are from uniform, anywhere and where a parting is within the horizon."""
    legal_NSH = label_NSH != oracles.IGNORED
    uniform_NSH = legal_NSH / legal_NSH.sum(-1, keepdim=True).clamp(min=1)
    deviation_NS = (weight_NSH - uniform_NSH).abs().amax(-1)
    ahead_NSH = ahead(prefixes.parting_NS, corpus.horizon)
    near_NS = (ahead_NSH[:, : legal_NSH.shape[1]] & legal_NSH).any(-1)
    largest = float(deviation_NS.max()) if deviation_NS.numel() else 0.0
    near = deviation_NS[near_NS]
    measured = {
        "largest_weight_deviation": plain(largest),
        "largest_weight_deviation_near_partings": plain(float(near.max())) if near.numel() else 0.0,
        "mean_weight_deviation_near_partings": plain(float(near.mean())) if near.numel() else 0.0,
        "positions_near_partings": int(near_NS.sum()),
        "rows": len(corpus.token_NS),
    }
    allowed = {"largest_weight_deviation": SMALLEST}
    if largest >= SMALLEST:
        return Outcome(measured=measured, allowed=allowed)
    message = (
        f"exact values E[return | prefix] move the head weights {largest:.2g} from uniform at most, expected at least "
        f"{SMALLEST} ({corpus.reward_placement} placement, {len(corpus.token_NS)} rows, "
        f"{measured['positions_near_partings']} positions near a parting of prefixes)"
    )
    return Outcome((Finding(CODE, NAME, message, fix=FIX, detail=dict(measured)),), measured, allowed)

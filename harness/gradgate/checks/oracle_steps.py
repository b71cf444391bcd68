"""What the reference has on its way to an answer, by name: a formula's steps, for finding where another one leaves it.

Each step is a number that any implementation is likely to hold somewhere, in one layout or another. The last is the
answer. Steps are on the graph of the call's own arguments, so that one may stand in for a number of the trainer's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from gradgate.checks import oracles, tolerances
from gradgate.checks.ahead import ahead
from gradgate.checks.oracles import IGNORED


@dataclass(frozen=True)
class Step:
    """One number of the reference's.

    Args:
        name: of it, for reading.
        value: of any dtype; floating ones in float64.
        where: Bool like `value`, elements that count; all where None.
        shift: whether a number added along the last axis changes nothing that comes of it.
        outside: what stands beyond the row, where an implementation has a column more.
    """

    name: str
    value: Tensor
    where: Tensor | None = None
    shift: bool = False
    outside: float = 0.0


@dataclass(frozen=True)
class Reference:
    """The reference's steps for one call, and what it says of an answer."""

    steps: tuple[Step, ...]
    holds: Callable[[Tensor], bool]


def reference(name: str, arguments: Mapping[str, Any], options: Mapping[str, Any]) -> Reference | None:
    """The reference for a call of one of the formulas; None where it has no steps for it, or no answer.

    Args:
        name: as in `Functions`.
        arguments: as `formula_calls.Call` has them.
        options: as there.
    """
    make = _MAKERS.get(name)
    nonsense = "temperature" in options and not 0.0 < float(options["temperature"]) < math.inf
    if make is None or nonsense:
        return None
    wanted = {name for name, held in signature(make).parameters.items() if held.default is held.empty}
    return make(**arguments, **options) if wanted <= {*arguments, *options} else None


def masks(valid_BS: Tensor, document_BS: Tensor | None = None) -> tuple[Step, ...]:
    """What attention may look at: keys of real tokens, before and at the query, of its own document; Bool[B, S, S]."""
    rows, positions = valid_BS.shape
    ones_BSS = torch.ones(rows, positions, positions, dtype=torch.bool, device=valid_BS.device)
    causal_BSS, real_BSS = ones_BSS.tril(), ones_BSS & valid_BS.unsqueeze(1)
    own_BSS = ones_BSS if document_BS is None else document_BS.unsqueeze(1) == document_BS.unsqueeze(2)
    eye_BSS = torch.eye(positions, dtype=torch.bool, device=valid_BS.device)
    whole_BSS = causal_BSS & real_BSS & own_BSS
    found = {
        "keys of the own document": own_BSS,
        "real keys": real_BSS,
        "earlier real keys": causal_BSS & real_BSS,
        "keys to look at": whole_BSS,
        "keys to look at, and the query's own": whole_BSS | eye_BSS,
    }
    steps = [Step(name, mask_BSS) for name, mask_BSS in found.items()]
    return (*steps, *(Step(f"{step.name}, an axis for the heads", step.value.unsqueeze(1)) for step in steps))


def placing(reward_B: Tensor, valid_BS: Tensor, placement: str, document_BS: Tensor | None = None) -> tuple[Step, ...]:
    """What stands between the rewards of rows, or of documents, and rewards on tokens; the rewards first."""
    steps = _place_rewards(reward_B, valid_BS, placement, document_BS).steps
    return (Step("rewards of rows", reward_B.double()), *steps)


def _labels(token_BS: Tensor, valid_BS: Tensor, horizon: int, document_BS: Tensor | None = None) -> Reference:
    valid_BS = valid_BS.bool()
    label_BSH = oracles.labels(token_BS, valid_BS, horizon, document_BS)
    predicts_BSH, inside_BSH = label_BSH != IGNORED, ahead(torch.ones_like(valid_BS), horizon)
    steps = [
        Step("tokens", token_BS, valid_BS),
        Step("tokens ahead", ahead(token_BS, horizon), predicts_BSH),
        Step("real ahead", ahead(valid_BS, horizon)),
        Step("real here and ahead", ahead(valid_BS, horizon) & valid_BS[..., None]),
    ]
    if document_BS is not None:
        ahead_BSH = ahead(document_BS, horizon)
        steps += [
            Step("documents ahead", ahead_BSH, predicts_BSH),
            Step("same document ahead", ahead_BSH == document_BS[..., None], inside_BSH),
        ]
    steps += [
        Step("has something to predict", predicts_BSH),
        Step("labels", label_BSH),
        *(Step(f"labels of head {k}", label_BSH[..., k]) for k in range(horizon)),
    ]

    def holds(answer_BSH: Tensor) -> bool:
        return answer_BSH.shape == label_BSH.shape and torch.equal(answer_BSH.long(), label_BSH)

    return Reference(tuple(steps), holds)


def _weights(
    value_BS: Tensor,
    label_BSH: Tensor,
    valid_BS: Tensor,
    *,
    discount_lambda: float,
    temperature: float,
    document_BS: Tensor | None = None,
) -> Reference:
    valid_BS, horizon = valid_BS.bool(), label_BSH.shape[-1]
    settings = {"discount_lambda": discount_lambda, "document_BS": document_BS}
    legal_BSH, wide_BS = label_BSH != IGNORED, value_BS.double()
    some_BS1 = legal_BSH.any(-1, keepdim=True)
    some_BSH = some_BS1.expand_as(legal_BSH)
    kept_BS = wide_BS.masked_fill(~valid_BS, 0.0)
    delta_BS = oracles.deltas(value_BS, valid_BS, **settings)  # type: ignore[arg-type]
    index_BS = _neighbour(valid_BS, document_BS, -1)
    before_BS = pad(kept_BS, (0, 1)).gather(1, index_BS)
    ahead_BSH = ahead(delta_BS, horizon)
    score_BSH = ahead_BSH / temperature
    masked_BSH = torch.where(legal_BSH, score_BSH, torch.where(some_BS1, -torch.inf, 0.0).double())
    weight_BSH = oracles.head_weights(
        value_BS,
        label_BSH,
        valid_BS,
        temperature=temperature,
        **settings,  # type: ignore[arg-type]
    )
    steps = (
        Step("values", wide_BS, valid_BS),
        Step("values of real tokens", kept_BS),
        Step("valid heads", legal_BSH),
        Step("some head is valid", some_BS1),
        Step("index of the previous real token", index_BS, valid_BS, outside=valid_BS.shape[1]),
        Step("previous value", before_BS, valid_BS),
        Step("discounted previous value", discount_lambda * before_BS, valid_BS),
        Step("delta", delta_BS, valid_BS),
        Step("deltas ahead", ahead_BSH, legal_BSH, shift=True),
        Step("deltas ahead of valid heads", ahead_BSH.masked_fill(~legal_BSH, -torch.inf), some_BSH, shift=True),
        Step("scores", score_BSH, legal_BSH, shift=True),
        Step("scores of valid heads", masked_BSH, some_BSH, shift=True),
        Step("softmax", weight_BSH, legal_BSH),
        Step("weights", weight_BSH),
        *(Step(f"weights of head {k}", weight_BSH[..., k]) for k in range(horizon)),
    )  # fmt: skip
    allowed_BS1 = tolerances.head_weight(
        value_BS,
        valid_BS,
        horizon,
        temperature=temperature,
        **settings,  # type: ignore[arg-type]
    )
    direction_BSH = 2 * torch.rand(label_BSH.shape, generator=torch.Generator().manual_seed(0)).double() - 1

    def holds(answer_BSH: Tensor) -> bool:
        if answer_BSH.shape != label_BSH.shape or answer_BSH.dtype in tolerances.HALF:
            return False
        got_BSH = answer_BSH.detach().double()
        sum_error_BS = (got_BSH.sum(-1, keepdim=True) - 1).abs()[some_BS1]
        near = (got_BSH - weight_BSH.detach()).abs() <= allowed_BS1
        sums = bool((sum_error_BS <= tolerances.weight_sum(value_BS.dtype)).all())
        if not (bool(near.all()) and sums and bool((got_BSH == 0)[~legal_BSH].all())):
            return False
        if not (answer_BSH.requires_grad and value_BS.requires_grad):
            return True
        ours, theirs = (_gradient((direction_BSH * x).sum(), value_BS) for x in (weight_BSH, answer_BSH))
        silent_BS = ~valid_BS | ~legal_BSH.flatten(1).any(1, keepdim=True)
        bound = tolerances.weight_gradient(
            float(allowed_BS1.max()), horizon, temperature=temperature, direction=1.0, dtype=value_BS.dtype
        )
        near = ((ours - theirs).abs() <= bound) | silent_BS
        return bool(near.all()) and bool((theirs == 0)[silent_BS].all())

    return Reference(steps, holds)


def _loss(logits_BSHV: Tensor, label_BSH: Tensor, weight_BSH: Tensor) -> Reference:
    legal_BSH = label_BSH != IGNORED
    log_BSHV = torch.log_softmax(logits_BSHV.double(), -1)
    picked_BSH = log_BSHV.gather(-1, label_BSH.clamp(min=0)[..., None])[..., 0]
    cross_BSH = -picked_BSH.masked_fill(~legal_BSH, 0.0)
    weighted_BSH = (weight_BSH.double() * cross_BSH).masked_fill(~legal_BSH, 0.0)
    count = legal_BSH.any(-1).sum()
    total = weighted_BSH.sum()
    loss = total / count.clamp(min=1)
    steps = (
        Step("logits", logits_BSHV.double()),
        Step("labels", label_BSH),
        Step("valid heads", legal_BSH),
        Step("labels to look up", label_BSH.clamp(min=0), legal_BSH),
        Step("log-probabilities", log_BSHV, legal_BSH[..., None].expand_as(log_BSHV)),
        Step("log-probabilities of labels", picked_BSH, legal_BSH),
        Step("cross-entropies of valid heads", -picked_BSH, legal_BSH),
        Step("cross-entropies", cross_BSH),
        Step("weights", weight_BSH.double(), legal_BSH),
        Step("weights of valid heads", weight_BSH.double().masked_fill(~legal_BSH, 0.0)),
        Step("weighted cross-entropies", weighted_BSH),
        Step("losses of positions", weighted_BSH.sum(-1)),
        *(Step(f"cross-entropies of head {k}", cross_BSH[..., k]) for k in range(label_BSH.shape[-1])),
        *(Step(f"weighted cross-entropies of head {k}", weighted_BSH[..., k]) for k in range(label_BSH.shape[-1])),
        Step("sum", total),
        Step("positions that predict", legal_BSH.any(-1)),
        Step("number of positions", count),
        Step("number of positions, at least 1", count.clamp(min=1)),
        Step("loss", loss),
    )
    bound = tolerances.loss(logits_BSHV if logits_BSHV.dtype == torch.float64 else logits_BSHV.float(), int(count))
    return Reference(steps, _scalar(loss, logits_BSHV, max(1.0, float(weight_BSH.abs().max())) * bound))


def _value_loss(value_BS: Tensor, return_BS: Tensor, valid_BS: Tensor) -> Reference:
    valid_BS = valid_BS.bool()
    error_BS = value_BS.double() - return_BS.double()
    kept_BS, count = error_BS.masked_fill(~valid_BS, 0.0), valid_BS.sum()
    total = kept_BS.square().sum()
    loss = total / count.clamp(min=1)
    steps = (
        Step("values", value_BS.double(), valid_BS),
        Step("returns", return_BS.double(), valid_BS),
        Step("real tokens", valid_BS),
        Step("errors", error_BS, valid_BS),
        Step("errors of real tokens", kept_BS),
        Step("squares", error_BS.square(), valid_BS),
        Step("squares of real tokens", kept_BS.square()),
        Step("sums of rows", kept_BS.square().sum(1)),
        Step("sum", total),
        Step("number of real tokens", count),
        Step("number of real tokens, at least 1", count.clamp(min=1)),
        Step("loss", loss),
    )
    return Reference(steps, _scalar(loss, value_BS, tolerances.value_loss(value_BS, return_BS, valid_BS)))


def _returns(
    reward_BS: Tensor,
    value_BS: Tensor,
    valid_BS: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    document_BS: Tensor | None = None,
) -> Reference:
    valid_BS = valid_BS.bool()
    reward_BS, raw_BS = reward_BS.double(), value_BS.detach().double()
    return_BS = oracles.gae_returns(
        reward_BS, value_BS, valid_BS, gamma=gamma, gae_lambda=gae_lambda, document_BS=document_BS
    )
    kept_BS, index_BS = raw_BS.masked_fill(~valid_BS, 0.0), _neighbour(valid_BS, document_BS, 1)
    next_BS = pad(kept_BS, (0, 1)).gather(1, index_BS)
    error_BS = (reward_BS + gamma * next_BS - kept_BS).masked_fill(~valid_BS, 0.0)
    advantage_BS = (return_BS - kept_BS).masked_fill(~valid_BS, 0.0)
    follows_BS = index_BS < valid_BS.shape[1]
    steps = (
        Step("rewards", reward_BS, valid_BS),
        Step("values", raw_BS, valid_BS),
        Step("rewards of real tokens", reward_BS.masked_fill(~valid_BS, 0.0)),
        Step("values of real tokens", kept_BS),
        Step("real tokens", valid_BS),
        Step("a real token follows", follows_BS, valid_BS),
        Step("index of the next real token", index_BS, valid_BS, outside=valid_BS.shape[1]),
        Step("next value", next_BS, valid_BS),
        Step("discounted next value", gamma * next_BS, valid_BS),
        Step("TD errors", error_BS, valid_BS),
        Step("advantages", advantage_BS, valid_BS),
        Step("returns", return_BS, valid_BS),
        Step("returns of real tokens", return_BS),
    )
    bound = tolerances.returns(reward_BS, value_BS, valid_BS)

    def holds(answer_BS: Tensor) -> bool:
        if answer_BS.shape != valid_BS.shape or answer_BS.dtype in tolerances.HALF or answer_BS.requires_grad:
            return False
        error = (answer_BS.double() - return_BS).abs()[valid_BS]
        return bool((error <= bound).all())

    return Reference(steps, holds)


def _place_rewards(reward_B: Tensor, valid_BS: Tensor, placement: str, document_BS: Tensor | None = None) -> Reference:
    valid_BS = valid_BS.bool()
    placed_BS = oracles.place_rewards(reward_B, valid_BS, placement, document_BS)
    ones_B = torch.ones(reward_B.shape, dtype=torch.float64)
    last_BS = oracles.place_rewards(ones_B, valid_BS, "terminal", document_BS) != 0
    share_BS = oracles.place_rewards(ones_B, valid_BS, "uniform", document_BS)
    count_BS = torch.where(share_BS != 0, 1 / share_BS, 0.0).round().long()
    uniform_BS = oracles.place_rewards(reward_B, valid_BS, "uniform", document_BS)
    steps = (
        Step("reward of each position's row", uniform_BS * count_BS, valid_BS),
        Step("real tokens", valid_BS),
        Step("last real tokens", last_BS),
        Step("number of real tokens", count_BS, valid_BS),
        Step("shares", share_BS, valid_BS),
        Step("rewards", placed_BS, valid_BS),
        Step("placed rewards", placed_BS),
    )
    bound = tolerances.placed_reward(reward_B)

    def holds(answer_BS: Tensor) -> bool:
        return answer_BS.shape == valid_BS.shape and bool(((answer_BS.double() - placed_BS).abs() <= bound).all())

    return Reference(steps, holds)


_MAKERS: dict[str, Callable[..., Reference]] = {
    "labels": _labels,
    "weights": _weights,
    "loss": _loss,
    "value_loss": _value_loss,
    "returns": _returns,
    "place_rewards": _place_rewards,
}


def _scalar(loss: Tensor, leaf: Tensor, bound: float) -> Callable[[Tensor], bool]:
    """Whether an answer is this loss, attached and with its gradient where the leaf wants one."""

    def holds(answer: Tensor) -> bool:
        if answer.shape != () or not abs(float(answer.detach()) - float(loss.detach())) <= bound:
            return False
        if not leaf.requires_grad:
            return True
        if not answer.requires_grad:
            return False
        ours, theirs = _gradient(loss, leaf), _gradient(answer, leaf)
        return bool(((ours - theirs).abs() <= 1e-3 * float(ours.abs().max())).all())

    return holds


def _gradient(output: Tensor, leaf: Tensor) -> Tensor:
    return torch.autograd.grad(output, leaf, retain_graph=True, materialize_grads=True)[0].double()


def _neighbour(valid_BS: Tensor, document_BS: Tensor | None, way: int) -> Tensor:
    """Long[B, S], the index of the next (way 1) or previous (-1) real token of each real one's document; S: none."""
    length = valid_BS.shape[1]
    index_BS = torch.full(valid_BS.shape, length)
    for b in range(len(valid_BS)):
        for document in oracles.documents(valid_BS, document_BS, b):
            for here, there in pairwise(document):
                index_BS[(b, here) if way > 0 else (b, there)] = there if way > 0 else here
    return index_BS

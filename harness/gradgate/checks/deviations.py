"""The formulas of weighted multi-token prediction with usual faults in them, each to be switched on by its name.

As `oracles`, these are slow and literal: one row, one position, one head at a time. What a formula gives that has
several faults at once is what one of these gives with as many switched on, and that tells them apart.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.oracles import IGNORED

OVER_ALL = {"over all heads", "clamped", "filled with 0"}
Chosen = Collection[str]
Numbers = list[Any]  # nested lists of floats, or a float


def returns(arguments: Mapping[str, Any], options: Mapping[str, Any], chosen: Chosen) -> Numbers:
    """Double[B, S], the returns of `oracles.gae_returns` with some of their usual faults."""
    gamma, decay = options["gamma"], options["gae_lambda"]
    if "swapped" in chosen:
        gamma, decay = decay, gamma
    gamma = 1.0 if "no gamma" in chosen else gamma
    decay = 1.0 if "no lambda" in chosen else decay
    reward_BS, value_BS = arguments["reward_BS"].tolist(), arguments["value_BS"].tolist()
    valid_BS, document_BS = arguments["valid_BS"].tolist(), _documents(options, arguments["valid_BS"])
    found = []
    for reward_S, value_S, valid_S, document_S in zip(reward_BS, value_BS, valid_BS, document_BS, strict=True):
        row = [0.0] * len(reward_S)
        advantage_S = [0.0] * (len(reward_S) + 1)
        for t in reversed(range(len(reward_S))):
            ends = t + 1 == len(reward_S)
            padding = not ends and not valid_S[t + 1]
            other = not ends and not padding and document_S[t + 1] != document_S[t]
            takes_value = not ends and not (padding and "value of padding" not in chosen)
            takes_value = takes_value and not (other and "value of the next document" not in chosen)
            if "end one early" in chosen and not ends and not padding:
                after = t + 2
                is_last = after == len(reward_S) or not valid_S[after] or document_S[after] != document_S[t + 1]
                takes_value = not is_last
            takes_advantage = not ends and not padding
            takes_advantage = takes_advantage and not (other and "advantage of the next document" not in chosen)
            following = value_S[t + 1] if takes_value else 0.0
            if ends and "first value of the row" in chosen:
                following = value_S[0]
            if not valid_S[t]:
                continue
            error = reward_S[t] + (1.0 if "value undiscounted" in chosen else gamma) * following - value_S[t]
            rate = decay if "decayed by lambda" in chosen else gamma * decay
            advantage_S[t] = error + rate * (advantage_S[t + 1] if takes_advantage else 0.0)
            row[t] = advantage_S[t] + (0.0 if "advantages" in chosen else value_S[t])
        found.append(row)
    return found


def weights(arguments: Mapping[str, Any], options: Mapping[str, Any], chosen: Chosen) -> Numbers:
    """Double[B, S, H], the weights of `oracles.head_weights` with some of their usual faults."""
    discount, temperature = options["discount_lambda"], options["temperature"]
    discount = 1.0 if "no lambda" in chosen else 0.0 if "no previous value" in chosen else discount
    temperature = (
        1.0 if "no temperature" in chosen else 1.0 / temperature if "times temperature" in chosen else temperature
    )
    shift = 0 if "one token early" in chosen else 2 if "one token late" in chosen else 1
    label_BSH, valid_BS = arguments["label_BSH"].tolist(), arguments["valid_BS"].tolist()
    document_BS = _documents(options, arguments["valid_BS"])
    found = []
    for b, value_S in enumerate(arguments["value_BS"].tolist()):
        delta_S = _deltas(value_S, valid_BS[b], document_BS[b], discount, chosen)
        rows = []
        for t, label_H in enumerate(label_BSH[b]):
            at = [
                min(t + k + shift, len(delta_S) - 1) if "clamped" in chosen else t + k + shift
                for k in range(len(label_H))
            ]
            score_H = [(delta_S[i] if i < len(delta_S) else 0.0) / temperature for i in at]
            score_H = [-score for score in score_H] if "negated" in chosen else score_H
            legal = [label != IGNORED for label in label_H]
            if "filled with 0" in chosen:
                score_H = [score if real else 0.0 for score, real in zip(score_H, legal, strict=True)]
            counted = [True] * len(legal) if set(chosen) & OVER_ALL else legal
            top = max((s for s, counts in zip(score_H, counted, strict=True) if counts), default=0.0)
            mass_H = [math.exp(s - top) if counts else 0.0 for s, counts in zip(score_H, counted, strict=True)]
            total = sum(mass_H) or 1.0
            rows.append([mass / total if real else 0.0 for mass, real in zip(mass_H, legal, strict=True)])
        found.append(rows)
    return found


def _deltas(
    value_S: Sequence[float], valid_S: Sequence[bool], document_S: Sequence[int], discount: float, chosen: Chosen
) -> list[float]:
    delta_S = []
    for t, value in enumerate(value_S):
        first = t == 0 and "last value of the row" not in chosen
        padding = not first and not valid_S[t - 1]
        other = t > 0 and not padding and document_S[t - 1] != document_S[t]
        takes = not first and (not padding or "previous value at padding" in chosen)
        takes = takes and (not other or "previous document's value" in chosen)
        begins = t == 0 or padding or other
        start = 0.0 if begins and not takes and "first is 0" in chosen else value
        delta = start - discount * (value_S[t - 1] if takes else 0.0)
        delta_S.append(delta if valid_S[t] else 0.0)
    return delta_S


def loss(arguments: Mapping[str, Any], _options: Mapping[str, Any], chosen: Chosen) -> Numbers:
    """The loss of `oracles.wmtp_loss` with some of its usual faults."""
    label_BSH, weight_BSH = arguments["label_BSH"], arguments["weight_BSH"].double()
    logits_BSHV = arguments["logits_BSHV"].detach().double()
    legal_BSH = label_BSH != IGNORED
    log_BSH = torch.log_softmax(logits_BSHV, -1).gather(-1, label_BSH.clamp(min=0)[..., None])[..., 0]
    ce_BSH = (-log_BSH).masked_fill(~legal_BSH, 0.0)
    loss_BS = (ce_BSH if "no weights" in chosen else ce_BSH * weight_BSH).sum(-1)
    any_BS = legal_BSH.any(-1)
    counts = {
        "positions of the first head": legal_BSH[..., 0].sum(),
        "all positions": torch.tensor(any_BS.numel()),
        "all labels": legal_BSH.sum(),
        "all heads of all positions": torch.tensor(legal_BSH.numel()),
        "rows": torch.tensor(len(label_BSH)),
        "sum": torch.tensor(1),
    }
    divisor = next((number for name, number in counts.items() if name in chosen), any_BS.sum())
    if "mean of rows" in chosen:
        return [float((loss_BS.sum(-1) / any_BS.sum(-1).clamp(min=1)).mean())]
    return [float(loss_BS.sum() / divisor.clamp(min=1))]


def value_loss(arguments: Mapping[str, Any], _options: Mapping[str, Any], chosen: Chosen) -> Numbers:
    """The loss of `oracles.value_loss` with some of its usual faults."""
    valid_BS = arguments["valid_BS"]
    error_BS = (arguments["value_BS"].detach().double() - arguments["return_BS"].double()).masked_fill(~valid_BS, 0.0)
    square_BS = error_BS.square() * (0.5 if "half" in chosen else 1.0)
    if "mean of rows" in chosen:
        return [float((square_BS.sum(-1) / valid_BS.sum(-1).clamp(min=1)).mean())]
    counts = {"all positions": valid_BS.numel(), "rows": len(valid_BS), "sum": 1}
    divisor = next((number for name, number in counts.items() if name in chosen), int(valid_BS.sum()))
    return [float(square_BS.sum() / max(divisor, 1))]


def labels(arguments: Mapping[str, Any], options: Mapping[str, Any], chosen: Chosen) -> Numbers:
    """Double[B, S, H], the labels of `oracles.labels` with some of their usual faults."""
    token_BS, valid_BS = arguments["token_BS"].tolist(), arguments["valid_BS"].tolist()
    document_BS, horizon = _documents(options, arguments["valid_BS"]), arguments["horizon"]
    shift = 0 if "one token early" in chosen else 2 if "one token late" in chosen else 1
    found = []
    for token_S, valid_S, document_S in zip(token_BS, valid_BS, document_BS, strict=True):
        rows = []
        for t in range(len(token_S)):
            row = []
            for k in range(horizon):
                at = t + k + shift
                at = at % len(token_S) if "beginning of the row" in chosen else at
                real = at < len(token_S) and (valid_S[t] or "from padding" in chosen)
                real = real and (valid_S[at] or "at padding" in chosen)
                if real and "documents" not in chosen:
                    first = at - 1 if "last link alone" in chosen else t
                    last = t + 1 if "first link alone" in chosen else at
                    inside = min(first, last) >= 0 and max(first, last) < len(token_S)
                    real = first == last or (inside and document_S[first] == document_S[last])
                row.append(float(token_S[at]) if real else float(IGNORED))
            rows.append(row)
        found.append(rows)
    return found


def placed(arguments: Mapping[str, Any], options: Mapping[str, Any], chosen: Chosen) -> Numbers:
    """Double[B, S], the rewards of `oracles.place_rewards` with some of their usual faults."""
    valid_BS, document_BS = arguments["valid_BS"], _documents(options, arguments["valid_BS"])
    terminal, width = arguments["placement"] == "terminal", valid_BS.shape[1]
    found = []
    for reward, valid_S, document_S in zip(arguments["reward_B"].tolist(), valid_BS.tolist(), document_BS, strict=True):
        row = [0.0] * width
        groups: dict[int, list[int]] = {}
        real_S = [t < sum(valid_S) for t in range(width)] if "by length" in chosen else valid_S
        for t in (t for t in range(width) if real_S[t]):
            groups.setdefault(0 if "documents" in chosen else document_S[t], []).append(t)
        for group in groups.values():
            if terminal:
                last = sum(valid_S) - 1 if "last by length" in chosen else group[-1]
                last = width - 1 if "last column" in chosen else group[0] if "first token" in chosen else last
                row[last] = reward
            else:
                number = width if "width" in chosen else 1 if "whole on each" in chosen else len(group)
                for t in group:
                    row[t] = reward / number
        found.append(row)
    return found


def _documents(options: Mapping[str, Any], valid_BS: Tensor) -> list[list[int]]:
    document_BS = options.get("document_BS")
    return torch.zeros(valid_BS.shape, dtype=torch.long).tolist() if document_BS is None else document_BS.tolist()

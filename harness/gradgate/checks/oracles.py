"""The formulas of weighted multi-token prediction, written out: one row, one position, one head at a time, in float64.

Nothing here is fast and nothing is clever; that is what makes it a reference. Every function is the sentence of the
specification as nested Python loops over 0-dim tensors, shares no code with any trainer, and treats a document of a
packed row as a row of its own. Document ids are arbitrary integers that stay together in a row; at padding they, the
tokens, the values and the rewards may be anything, NaN included.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gradgate.core.errors import ShapeError

IGNORED = -100


def labels(token_BS: Tensor, valid_BS: Tensor, horizon: int, document_BS: Tensor | None = None) -> Tensor:
    """What each head is to predict: head k at position t the token at t+k+1.

    Args:
        token_BS: Long[B, S].
        valid_BS: Bool[B, S], True = real token.
        horizon: H, number of heads.
        document_BS: Long[B, S] where rows are packed.

    Returns:
        Long[B, S, H]; -100 where either end is padding, beyond the row, or the two lie in different documents.
    """
    rows, positions = token_BS.shape
    token_rows = token_BS.tolist()
    label_BSH = [[[IGNORED] * horizon for _ in range(positions)] for _ in range(rows)]
    for b, valid_S in enumerate(valid_BS.tolist()):
        for t in range(positions):
            for k in range(horizon):
                target = t + k + 1
                real = target < positions and valid_S[t] and valid_S[target]
                if real and _same_document(document_BS, b, t, target):
                    label_BSH[b][t][k] = token_rows[b][target]
    return torch.tensor(label_BSH, dtype=torch.long).reshape(rows, positions, horizon)


def deltas(value_BS: Tensor, valid_BS: Tensor, *, discount_lambda: float, document_BS: Tensor | None = None) -> Tensor:
    """Value increment v[t] - lambda * v[previous real token]; the value before the first token is 0.

    Args:
        value_BS: Float[B, S], in value units.
        valid_BS: Bool[B, S].
        discount_lambda: weight of the previous value.
        document_BS: Long[B, S] where rows are packed.

    Returns:
        Double[B, S] on the graph of `value_BS`; 0 at padding.
    """
    delta_BS = [list(row) for row in _scalars(torch.zeros_like(value_BS, dtype=torch.float64))]
    for b, value_S in enumerate(_scalars(value_BS)):
        for document in documents(valid_BS, document_BS, b):
            for rank, t in enumerate(document):
                before = value_S[document[rank - 1]] if rank > 0 else 0.0
                delta_BS[b][t] = value_S[t] - discount_lambda * before
    return _stacked(delta_BS, value_BS)


def head_weights(
    value_BS: Tensor,
    label_BSH: Tensor,
    valid_BS: Tensor,
    *,
    discount_lambda: float,
    temperature: float,
    document_BS: Tensor | None = None,
) -> Tensor:
    """Softmax over the valid heads of position t of delta[t+k+1] / temperature.

    Args:
        value_BS: Float[B, S], in value units.
        label_BSH: Long[B, S, H]; a head is valid where its label is not -100.
        valid_BS: Bool[B, S].
        discount_lambda: the delta's lambda.
        temperature: of the softmax, in value units, > 0.
        document_BS: Long[B, S] where rows are packed.

    Returns:
        Double[B, S, H] on the graph of `value_BS`; 0 at invalid heads, so all 0 at a position without a valid one.
    """
    delta_BS = _scalars(deltas(value_BS, valid_BS, discount_lambda=discount_lambda, document_BS=document_BS))
    weight_N = []
    for b, label_SH in enumerate(label_BSH.tolist()):
        for t, label_H in enumerate(label_SH):
            legal = [k for k, label in enumerate(label_H) if label != IGNORED]
            weight_H = [torch.zeros((), dtype=torch.float64)] * len(label_H)
            if legal:
                top = max(delta_BS[b][t + k + 1].detach() for k in legal)
                mass = {k: torch.exp((delta_BS[b][t + k + 1] - top) / temperature) for k in legal}
                total = torch.stack(list(mass.values())).sum()
                weight_H = [mass[k] / total if k in mass else weight_H[k] for k in range(len(label_H))]
            weight_N.append(torch.stack(weight_H))
    return torch.stack(weight_N).reshape(label_BSH.shape)


def wmtp_loss(logits_BSHV: Tensor, label_BSH: Tensor, weight_BSH: Tensor) -> Tensor:
    """Mean, over the positions with at least one valid head, of the weighted sum of their cross-entropies.

    Args:
        logits_BSHV: Float[B, S, H, V].
        label_BSH: Long[B, S, H], -100 where a head is not valid.
        weight_BSH: Float[B, S, H]; what stands at invalid heads does not count.

    Returns:
        Double scalar in nats, on the graph of logits and weights; 0 where no position has a valid head.
    """
    rows, positions, horizon = label_BSH.shape
    logits_BSHV, weight_BSH = logits_BSHV.double(), weight_BSH.double()
    position_losses = []
    for b in range(rows):
        for t in range(positions):
            legal = [k for k in range(horizon) if label_BSH[b, t, k] != IGNORED]
            terms = [weight_BSH[b, t, k] * _cross_entropy(logits_BSHV[b, t, k], int(label_BSH[b, t, k])) for k in legal]
            if terms:
                position_losses.append(torch.stack(terms).sum())
    if not position_losses:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(position_losses).sum() / len(position_losses)


def value_loss(value_BS: Tensor, return_BS: Tensor, valid_BS: Tensor) -> Tensor:
    """Mean over the real tokens of (value - return)^2, without a factor of one half.

    Args:
        value_BS: Float[B, S], in reward units.
        return_BS: Float[B, S], same units; what stands at padding does not count, as in `value_BS`.
        valid_BS: Bool[B, S].

    Returns:
        Double scalar in squared reward units, on the graph of `value_BS`; 0 without a real token.
    """
    value_rows, return_rows = _scalars(value_BS), _scalars(return_BS)
    square_N = []
    for b, valid_S in enumerate(valid_BS.tolist()):
        for t, real in enumerate(valid_S):
            if real:
                error = value_rows[b][t] - return_rows[b][t]
                square_N.append(error * error)
    if not square_N:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(square_N).sum() / len(square_N)


@torch.no_grad()
def gae_returns(
    reward_BS: Tensor,
    value_BS: Tensor,
    valid_BS: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    document_BS: Tensor | None = None,
) -> Tensor:
    """Targets of the value head: generalised advantage estimate plus value, from the last real token backwards.

    Runs over the row's (document's) real tokens in order, so it bridges gaps; after the last one value and advantage
    are 0, truncated or not.

    Args:
        reward_BS: Float[B, S], in reward units.
        value_BS: Float[B, S], same units.
        valid_BS: Bool[B, S].
        gamma: discount per real token.
        gae_lambda: decay of the TD errors.
        document_BS: Long[B, S] where rows are packed.

    Returns:
        Double[B, S], off the graph; 0 at padding.

    Source: Schulman et al. 2016, arXiv:1506.02438, equation 16; target = advantage + value.
    """
    return_BS = [list(row) for row in _scalars(torch.zeros_like(value_BS, dtype=torch.float64))]
    reward_rows, value_rows = _scalars(reward_BS), _scalars(value_BS)
    for b in range(len(return_BS)):
        for document in documents(valid_BS, document_BS, b):
            next_value = advantage = torch.zeros((), dtype=torch.float64)
            for t in reversed(document):
                td_error = reward_rows[b][t] + gamma * next_value - value_rows[b][t]
                advantage = td_error + gamma * gae_lambda * advantage
                return_BS[b][t] = advantage + value_rows[b][t]
                next_value = value_rows[b][t]
    return _stacked(return_BS, value_BS)


def place_rewards(reward_B: Tensor, valid_BS: Tensor, placement: str, document_BS: Tensor | None = None) -> Tensor:
    """Put one reward a sequence onto its tokens.

    Args:
        reward_B: Float[B], in reward units; every document of row b gets reward_B[b]. Or Float[B, D]: document d of
            row b gets reward[b, d], and the ids count from 0.
        valid_BS: Bool[B, S].
        placement: "terminal" (all of it on the last real token) or "uniform" (r / n on each of the n real tokens).
        document_BS: Long[B, S] where rows are packed.

    Returns:
        Double[B, S]; 0 at padding and in rows without a real token.

    Raises:
        ValueError: another placement.
    """
    if placement not in ("terminal", "uniform"):
        raise ValueError(f"placement is {placement!r}, expected 'terminal' or 'uniform'")
    reward_BS = torch.zeros(valid_BS.shape, dtype=torch.float64)
    for b in range(len(reward_BS)):
        for document in documents(valid_BS, document_BS, b):
            column = () if reward_B.dim() == 1 else (int(_of(document_BS)[b, document[0]]),)
            reward = reward_B[(b, *column)].double()
            for t in document:
                if placement == "uniform":
                    reward_BS[b, t] = reward / len(document)
                elif t == document[-1]:
                    reward_BS[b, t] = reward
    return reward_BS


def _of(document_BS: Tensor | None) -> Tensor:
    """The documents, where a reward of two dimensions needs them."""
    if document_BS is None:
        raise ShapeError(
            "reward has the shape [B, D] but there are no documents: give document_BS, or one reward a row"
        )
    return document_BS


def _same_document(document_BS: Tensor | None, b: int, i: int, j: int) -> bool:
    """Whether positions i and j of row b lie in one document."""
    return document_BS is None or bool(document_BS[b, i] == document_BS[b, j])


def documents(valid_BS: Tensor, document_BS: Tensor | None, b: int) -> Iterator[list[int]]:
    """The positions of the real tokens of row b in order, one list a document; the whole row where it is not packed."""
    places: dict[int, list[int]] = {}
    for t, real in enumerate(valid_BS[b].tolist()):
        if real:
            places.setdefault(0 if document_BS is None else int(document_BS[b, t]), []).append(t)
    yield from places.values()


def _scalars(tensor_BS: Tensor) -> list[tuple[Tensor, ...]]:
    """Rows of float64 0-dim tensors, still on the graph."""
    return [row.unbind() for row in tensor_BS.double().unbind()]


def _stacked(scalar_BS: list[list[Tensor]], like: Tensor) -> Tensor:
    """Rows of 0-dim tensors as one Double[B, S]."""
    if like.numel() == 0:
        return torch.zeros(like.shape, dtype=torch.float64)
    return torch.stack([torch.stack(row) for row in scalar_BS])


def _cross_entropy(logits_V: Tensor, label: int) -> Tensor:
    """-log softmax(logits)[label], in nats."""
    shifted_V = logits_V - logits_V.detach().max()
    return shifted_V.exp().sum().log() - shifted_V[label]

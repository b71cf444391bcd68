"""From tokenised rows to batches: packing, padding, labels and rewards on the host; a step then reads nothing back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from wmtp.data.examples import Example
from wmtp.data.tokenizer import Tokenizer
from wmtp.errors import DataError
from wmtp.labels import IGNORE, ahead, make_labels
from wmtp.loss import predicting
from wmtp.returns import place_rewards


@dataclass(frozen=True, slots=True)
class Row:
    """One tokenised example.

    Attributes:
        token: ids, cut to the maximum length.
        prompt_length: how many of them are prompt.
        index: the row's number, by which its reward is looked up.
        task_id: the example's task.
    """

    token: tuple[int, ...]
    prompt_length: int
    index: int
    task_id: str


Pack = tuple[Row, ...]  # the rows that share one row of a batch; a single one without packing


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        token_BS: Long[B, S].
        valid_BS: Bool[B, S], True = real token.
        label_BSH: Long[B, S, H], -100 = nothing to predict.
        reward_BS: Float32[B, S], rewards placed on tokens.
        document_BS: Long[B, S] where rows are packed, else None.
        plain: padding is on the right only and nothing is packed, so attention needs no mask.
        positions: positions with at least one valid head, counted on the host.
        tokens: real tokens, counted on the host.
        labels: labels of all heads, counted on the host.
    """

    token_BS: Tensor
    valid_BS: Tensor
    label_BSH: Tensor
    reward_BS: Tensor
    document_BS: Tensor | None
    plain: bool
    positions: int
    tokens: int
    labels: int

    def to(self, device: torch.device) -> Batch:
        """The batch on a device; copies to CUDA come from pinned memory and do not wait."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {
            field.name: value.pin_memory().to(device, non_blocking=True)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


def tokenise(examples: Sequence[Example], tokenizer: Tokenizer, max_length: int) -> tuple[list[Row], int]:
    """Rows of at most `max_length` tokens, with a begin and an end token around prompt and completion.

    Returns:
        The rows and how many of them were cut.

    Raises:
        DataError: a row has no token, or none has two, so that there is nothing to predict.
    """
    rows, cut = [], 0
    for index, example in enumerate(examples):
        begin, end = ([] if special is None else [special] for special in (tokenizer.bos_id, tokenizer.eos_id))
        prompt = begin + tokenizer.encode(example.prompt)
        token = prompt + tokenizer.encode(example.completion) + end
        if not token:
            raise DataError(f"task {example.task_id!r}: the tokenizer gives no token for its text")
        cut += len(token) > max_length
        rows.append(Row(tuple(token[:max_length]), min(len(prompt), max_length), index, example.task_id))
    if not any(len(row.token) > 1 for row in rows):
        raise DataError("no row has two tokens: there is nothing to predict")
    return rows, cut


def pack_rows(rows: Sequence[Row], max_length: int, packing: bool) -> list[Pack]:
    """Rows as packs: one each, or as many as fit into `max_length`, in order, first fit.

    Returns:
        Packs, together holding each row once.
    """
    if not packing:
        return [(row,) for row in rows]
    packs: list[list[Row]] = []
    free: list[int] = []
    for row in rows:
        place = next((i for i, left in enumerate(free) if left >= len(row.token)), None)
        if place is None:
            packs.append([row])
            free.append(max_length - len(row.token))
        else:
            packs[place].append(row)
            free[place] -= len(row.token)
    return [tuple(pack) for pack in packs]


def collate(
    packs: Sequence[Pack], reward_N: Tensor, *, horizon: int, reward_placement: str, train_on: str, pad_id: int
) -> Batch:
    """Pad packs on the right to the longest, make labels, place rewards.

    Args:
        packs: one a row of the batch.
        reward_N: Float[N], the reward of each row by its index.
        horizon: H.
        reward_placement: "terminal" or "uniform".
        train_on: "all", or "completion": prompt tokens are no labels; values, delta and returns see them all the same.
        pad_id: what stands at padding; only the mask says what padding is.

    Returns:
        A batch on the CPU.
    """
    packed = any(len(pack) > 1 for pack in packs)
    length = max(sum(len(row.token) for row in pack) for pack in packs)
    token_BS = torch.full((len(packs), length), pad_id)
    valid_BS = torch.zeros(len(packs), length, dtype=torch.bool)
    trained_BS = torch.zeros_like(valid_BS)
    document_BS = torch.full_like(token_BS, -1)
    reward_BD = torch.zeros(len(packs), max(len(pack) for pack in packs))
    for b, pack in enumerate(packs):
        start = 0
        for d, row in enumerate(pack):
            span = slice(start, start + len(row.token))
            token_BS[b, span] = torch.tensor(row.token)
            valid_BS[b, span] = True
            trained_BS[b, start + (row.prompt_length if train_on == "completion" else 0) : span.stop] = True
            document_BS[b, span] = d
            reward_BD[b, d] = reward_N[row.index]
            start = span.stop
    document = document_BS if packed else None
    label_BSH = make_labels(token_BS, valid_BS, horizon, document_BS=document)
    label_BSH = torch.where(ahead(trained_BS, horizon), label_BSH, IGNORE)
    reward = reward_BD if packed else reward_BD[:, 0]
    return Batch(
        token_BS=token_BS,
        valid_BS=valid_BS,
        label_BSH=label_BSH,
        reward_BS=place_rewards(reward, valid_BS, reward_placement, document_BS=document),
        document_BS=document,
        plain=not packed,
        positions=int(predicting(label_BSH).sum()),
        tokens=int(valid_BS.sum()),
        labels=int((label_BSH != IGNORE).sum()),
    )


def uncounted(batch: Batch) -> Batch:
    """The batch with nothing in it that counts: no real token, no label, no reward."""
    return dataclasses.replace(
        batch,
        valid_BS=torch.zeros_like(batch.valid_BS),
        label_BSH=torch.full_like(batch.label_BSH, IGNORE),
        reward_BS=torch.zeros_like(batch.reward_BS),
        plain=False,
        positions=0,
        tokens=0,
        labels=0,
    )


@dataclass(frozen=True)
class Order:
    """The order of training: in each epoch every pack once, shuffled by the seed and the epoch's number.

    Nothing is remembered, so a position (packs taken so far) is all that a checkpoint needs.

    Attributes:
        size: number of packs.
        batch_size: B; the last batch of an epoch holds what is left.
        seed: of the shuffles.
    """

    size: int
    batch_size: int
    seed: int

    def batch(self, position: int) -> list[int]:
        """Indices of the packs of the batch that starts after `position` packs."""
        epoch, start = divmod(position, self.size)
        return _shuffled(self.size, self.seed, epoch)[start : start + self.batch_size]

    def from_position(self, position: int) -> Iterator[tuple[list[int], int]]:
        """Batches of indices without an end, each with the position behind it."""
        while True:
            indices = self.batch(position)
            position += len(indices)
            yield indices, position

    @property
    def batches_per_epoch(self) -> int:
        """Batches that one epoch takes."""
        return -(-self.size // self.batch_size)


@lru_cache(maxsize=4)
def _shuffled(size: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + epoch) % 2**63)
    order: list[int] = torch.randperm(size, generator=generator).tolist()
    return order

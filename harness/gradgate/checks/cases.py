"""Inputs at the boundaries of the formulas: generated, deterministic in their seed, smallest first.

Tokens are distinct, so a label shows which position it came from, and padding holds garbage: token ids of other
places, large values, rewards. An implementation that reads padding shows it in its numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from gradgate.checks import oracles
from gradgate.pasteable import expression
from gradgate.subjects.contract import Context, Functions

GARBAGE = 50.0
AT_PADDING = ", {} at padding"  # behind a batch's name
NAN_AT_PADDING = AT_PADDING.format(float("nan"))
TOGETHER, PACKED = "all kinds of rows", "packed documents"  # names of batches of the grid
RANDOM = {"quick": 60, "pr": 200, "nightly": 1000}  # random batches, by profile
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@dataclass(frozen=True, repr=False)
class Case:
    """One batch for the formulas. Its `repr` is Python that can be pasted.

    Args:
        name: what is special about it.
        horizon: H.
        token_BS: Long[B, S], distinct.
        valid_BS: Bool[B, S].
        value_BS: Float[B, S], garbage at padding.
        reward_BS: Float[B, S] for the returns, garbage at padding.
        reward_B: Float[B] for placing.
        document_BS: Long[B, S] where rows are packed.
    """

    name: str
    horizon: int
    token_BS: Tensor
    valid_BS: Tensor
    value_BS: Tensor
    reward_BS: Tensor
    reward_B: Tensor
    document_BS: Tensor | None = None

    def __repr__(self) -> str:
        return expression(self)

    def _repr_pretty_(self, printer: Any, _cycle: bool) -> None:
        """For hypothesis, whose own way ends in torch's repr of a tensor."""
        printer.text(repr(self))

    @cached_property
    def labels(self) -> Tensor:
        """Long[B, S, H], the reference's: a fault in the subject's labels shall not look like one in its weights."""
        return oracles.labels(self.token_BS, self.valid_BS, self.horizon, self.document_BS)

    def to(self, dtype: torch.dtype) -> Case:
        """The same batch with values and rewards of another dtype."""
        return dataclasses.replace(
            self,
            name=f"{self.name}, {str(dtype).removeprefix('torch.')}",
            value_BS=self.value_BS.to(dtype),
            reward_BS=self.reward_BS.to(dtype),
        )

    def with_padding(self, garbage: float) -> Case:
        """The same batch with `garbage` as value and reward of every padded position."""
        return dataclasses.replace(
            self,
            name=f"{self.name}{AT_PADDING.format(garbage)}",
            value_BS=self.value_BS.masked_fill(~self.valid_BS, garbage),
            reward_BS=self.reward_BS.masked_fill(~self.valid_BS, garbage),
        )

    def tracked(self) -> Case:
        """The same batch with its values as a leaf of their own that wants a gradient."""
        return dataclasses.replace(self, value_BS=self.value_BS.detach().clone().requires_grad_())

    def describe(self) -> str:
        """Name and shape, as messages show them."""
        rows, positions = self.token_BS.shape
        return f"{self.name} [B={rows}, S={positions}, H={self.horizon}]"


def make(name: str, valid_BS: Tensor, horizon: int, seed: int, document_BS: Tensor | None = None) -> Case:
    """A batch over a given mask: distinct tokens, values and rewards around 0, garbage at padding.

    Args:
        name: what is special about it.
        valid_BS: Bool[B, S].
        horizon: H.
        seed: of tokens, values and rewards.
        document_BS: Long[B, S] where rows are packed.
    """
    rng = torch.Generator().manual_seed(seed)
    shape = valid_BS.shape
    value_BS = torch.randn(shape, generator=rng)
    reward_BS = torch.randn(shape, generator=rng)
    return Case(
        name=name,
        horizon=horizon,
        token_BS=torch.randperm(valid_BS.numel(), generator=rng).reshape(shape),
        valid_BS=valid_BS,
        value_BS=torch.where(valid_BS, value_BS, GARBAGE + value_BS),
        reward_BS=torch.where(valid_BS, reward_BS, GARBAGE + reward_BS),
        reward_B=torch.randn(shape[0], generator=rng),
        document_BS=document_BS,
    )


def patterns(positions: int, *, gaps: bool) -> dict[str, list[bool]]:
    """Masks of one row by name: each kind of boundary that a row of this length can have, padding within it or not."""
    place = range(positions)
    rows = {
        "all real": [True for _ in place],
        "all padding": [False for _ in place],
        "one real token, first": [t == 0 for t in place],
        "one real token, last": [t == positions - 1 for t in place],
        "left padding": [t >= positions // 2 for t in place],
        "right padding": [t < (positions + 1) // 2 for t in place],
        "padding on both sides": [0 < t < positions - 1 for t in place],
    }
    if gaps:
        rows |= {
            "a gap": [t == 0 or t > positions // 2 for t in place],
            "gaps": [t % 2 == 0 for t in place],
        }
    distinct: dict[tuple[bool, ...], str] = {}
    for name, row in rows.items():
        distinct.setdefault(tuple(row), name)
    return {name: list(row) for row, name in distinct.items()}


def lengths(horizon: int) -> list[int]:
    """S in {1, 2, H-1, H, H+1}, as far as there is such a length, and one where the middle is far from both ends."""
    return sorted({length for length in (1, 2, horizon - 1, horizon, horizon + 1, 2 * horizon + 1) if length > 0})


def every_second(tensor: Tensor) -> Tensor:
    """The same numbers, not contiguous: every second element of a larger storage."""
    return torch.stack([tensor, tensor.flip(0)], dim=-1)[..., 0]


def laid_out(case: Case, layout: Callable[[Tensor], Tensor]) -> Case:
    """The same batch with all its tensors laid out in memory in another way."""
    tensors: dict[str, Any] = {
        field.name: layout(held)
        for field in dataclasses.fields(case)
        if isinstance(held := getattr(case, field.name), Tensor)
    }
    return dataclasses.replace(case, **tensors)


def documents(valid_BS: Tensor, seed: int) -> Tensor:
    """Long[B, S]: every row cut into documents with arbitrary ids; at padding -1 or the id of another document."""
    rng = torch.Generator().manual_seed(seed)
    rows, positions = valid_BS.shape
    begins_BS = torch.rand(rows, positions, generator=rng) < 0.4
    id_N = torch.randperm(10 * positions + 10, generator=rng) - 7
    document_BS = id_N[begins_BS.long().cumsum(1)]
    garbage_BS = torch.where(torch.rand(rows, positions, generator=rng) < 0.5, -1, document_BS.roll(1, 1))
    return torch.where(valid_BS, document_BS, garbage_BS)


def boundary_grid(seed: int, horizons: tuple[int, ...] = (1, 2, 4), *, gaps: bool) -> Iterator[Case]:
    """Every length around the horizon with every kind of mask: alone, together, strided and packed."""
    for horizon in horizons:
        for positions in lengths(horizon):
            rows = patterns(positions, gaps=gaps)
            for name, row in rows.items():
                yield make(f"{name}, B = 1", torch.tensor([row]), horizon, seed)
            valid_BS = torch.tensor(list(rows.values()))
            together = make(TOGETHER, valid_BS, horizon, seed + 1)
            yield together
            yield dataclasses.replace(laid_out(together, every_second), name=f"{together.name}, strided")
            yield make(PACKED, valid_BS, horizon, seed + 2, documents(valid_BS, seed + 2))


def ragged(seed: int, count: int, *, gaps: bool) -> Iterator[Case]:
    """Random shapes and masks: B <= 4, S <= 9, H <= 5; every third packed, every fifth with few real tokens.

    Without gaps, the real tokens of every second batch stand at the end of their rows.
    """
    rng = torch.Generator().manual_seed(seed)
    for index in range(count):
        rows, positions, horizon = (int(torch.randint(1, most + 1, (), generator=rng)) for most in (4, 9, 5))
        share = 0.25 if index % 5 == 4 else 0.8
        valid_BS = torch.rand(rows, positions, generator=rng) < share
        if not gaps:
            valid_BS = valid_BS.sort(dim=1, descending=index % 2 == 0).values
        document_BS = documents(valid_BS, seed + index) if index % 3 == 2 else None
        yield make(f"random mask {index}", valid_BS, horizon, seed + index, document_BS)


def random_count(context: Context) -> int:
    """How many random batches the profile pays for."""
    return RANDOM[context.profile]


def every_case(functions: Functions, context: Context) -> Iterator[Case]:
    """The batches at the boundaries, then random ones, as many as the profile pays for."""
    yield from boundary_grid(context.seed, gaps=functions.gaps)
    yield from ragged(context.seed, random_count(context), gaps=functions.gaps)


def other_cases(functions: Functions, context: Context, count: int) -> Iterator[Case]:
    """Random batches other than those of `every_case`."""
    return ragged(context.seed + 1, count, gaps=functions.gaps)


def extreme(seed: int, discount_lambda: float) -> Iterator[Case]:
    """Rows whose deltas are far from 0: all near -50, all below -10, +-1e4, one head far ahead, all equal."""
    positions, horizon = 8, 3
    rng = torch.Generator().manual_seed(seed)
    noise_S = torch.rand(positions, generator=rng, dtype=torch.float64)
    sign_S = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(positions // 2)
    wanted = {
        "deltas near -50": noise_S - 50,
        "deltas below -10": -10.5 - 5 * noise_S,
        "deltas of +-1e4": 1e4 * sign_S,
        "deltas of -1e4": -1e4 + noise_S,
        "one delta of 1e4": torch.where(torch.arange(positions) == 4, 1e4, noise_S),
        "equal deltas": torch.full((positions,), -3.0, dtype=torch.float64),
    }
    for name, delta_S in wanted.items():
        valid_BS = torch.ones(2, positions, dtype=torch.bool)
        valid_BS[1, 5:] = False
        value_BS = torch.zeros(2, positions, dtype=torch.float64)
        for t in range(positions):
            before_B = value_BS[:, t - 1] if t > 0 else torch.zeros(2, dtype=torch.float64)
            value_BS[:, t] = delta_S[t] + discount_lambda * before_B
        yield dataclasses.replace(make(name, valid_BS, horizon, seed), value_BS=value_BS.float())

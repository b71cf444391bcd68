"""Training batches for hypothesis: masks, lengths, padding, gaps, packing, horizons, dtypes, strides, extreme values.

`token_batches()` draws whole batches; its parts can be drawn alone. What fails shrinks to few rows, few positions and
round numbers, and prints as Python that can be pasted. Importing this registers torch's
generators with hypothesis, so that `torch.randn` in a test under `given` is the same each time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from gradgate.checks import cases
from gradgate.pasteable import pasteable
from gradgate.subjects.drawn import TORCH_RANDOM, sampled

__all__ = [
    "DTYPES", "EXTREMES", "FULL_DTYPES", "GARBAGE", "HORIZONS", "SCALES", "TORCH_RANDOM", "Layout", "documents",
    "layouts", "masks", "numbers", "padded", "pasteable", "sampled", "token_batches", "tokens",
]  # fmt: skip

Layout = Callable[[Tensor], Tensor]

ROWS, LONGEST = 4, 12
STEP = 2.0**-12  # between numbers, which have 15 binary digits: half precision has to round them
GARBAGE = st.sampled_from([0.0, 50.0, -1e4, float("inf"), float("-inf"), float("nan")])
FULL_DTYPES = st.sampled_from([torch.float32, torch.float64])
DTYPES = st.sampled_from(cases.DTYPES)
SCALES = st.sampled_from([1.0, 0.01, 30.0])
EXTREMES = st.sampled_from([1.0, 1e-6, 1e3, 0.0])  # float16 ends at 65,504, and numbers at 8
HORIZONS = st.integers(1, 6)


@st.composite
def masks(draw: st.DrawFn, *, rows: int = ROWS, longest: int = LONGEST) -> Tensor:
    """Bool[B, S]: rows that are full, padded on either side, on both, with gaps, with one real token, with none."""
    positions = draw(st.integers(1, longest))
    named = list(cases.patterns(positions, gaps=True).values())
    kinds = draw(st.lists(st.integers(0, len(named)), min_size=1, max_size=rows))
    anything_BS = (_words(draw, (len(kinds), positions)) % 2 == 0).tolist() if len(named) in kinds else []
    return torch.tensor([named[kind] if kind < len(named) else anything_BS[b] for b, kind in enumerate(kinds)])


@st.composite
def padded(
    draw: st.DrawFn,
    *,
    side: Literal["left", "right"] = "right",
    rows: int = ROWS,
    longest: int = LONGEST,
    shortest: int = 1,
) -> Tensor:
    """Bool[B, S]: ragged rows of at least `shortest` real tokens, padded on one side; the longest fills its row."""
    length = st.integers(shortest, longest)
    length_B = torch.tensor(draw(st.lists(length, min_size=1, max_size=rows)))
    place_S = torch.arange(max(1, int(length_B.max())))
    valid_BS = place_S < length_B[:, None]
    return valid_BS if side == "right" else valid_BS.flip(1)


@st.composite
def documents(draw: st.DrawFn, valid_BS: Tensor, *, interleaved: bool = False) -> Tensor:
    """Long[B, S]: arbitrary ids that stay together in a row, or come and go where `interleaved`; garbage at padding."""
    shape = valid_BS.shape
    if interleaved:
        return _integers(draw, shape, 7) - 3
    begins_BS = _integers(draw, shape, 3) == 2
    order_N = _order(draw, shape[1] + 1)
    document_BS = order_N[begins_BS.long().cumsum(1)] - 1
    other = document_BS.roll(1, 1) if draw(st.booleans()) else torch.full_like(document_BS, -1)
    return torch.where(valid_BS, document_BS, other)


@st.composite
def tokens(draw: st.DrawFn, shape: tuple[int, ...], vocabulary: int | None = None) -> Tensor:
    """Long[shape]: ids below `vocabulary`, any of them; without one distinct ids, so that each tells its place."""
    if vocabulary is None:
        return _order(draw, int(np.prod(shape))).reshape(shape)
    return _integers(draw, shape, vocabulary)


@st.composite
def numbers(draw: st.DrawFn, shape: tuple[int, ...], scale: float = 1.0) -> Tensor:
    """Double[shape] within 8 times `scale`; they shrink towards 0, one by one."""
    word_N = _words(draw, shape)
    number_N = STEP * (word_N >> 1).double()
    return scale * torch.where(word_N % 2 == 1, -number_N, number_N)


def layouts() -> st.SearchStrategy[Layout]:
    """Ways to lay the same numbers out in memory: contiguous, every second element of more, the axes the other way."""
    return st.sampled_from([_contiguous, cases.every_second, _transposed])


@st.composite
def token_batches(
    draw: st.DrawFn,
    *,
    valid: st.SearchStrategy[Tensor] | None = None,
    horizons: st.SearchStrategy[int] = HORIZONS,
    vocabulary: int | None = None,
    dtypes: st.SearchStrategy[torch.dtype] = FULL_DTYPES,
    scales: st.SearchStrategy[float] = SCALES,
    garbage: st.SearchStrategy[float] = GARBAGE,
    packed: bool | None = None,
    layout: st.SearchStrategy[Layout] | None = None,
) -> cases.Case:
    """Whole batches: tokens, mask, documents, values, rewards on tokens and by row.

    Args:
        draw: hypothesis's own.
        valid: Bool[B, S] masks; None: `masks()`. `padded()` has no gaps.
        horizons: H.
        vocabulary: ids are below it; None: distinct.
        dtypes: of values and rewards.
        scales: of values and rewards; `EXTREMES` are further apart.
        garbage: what stands at padding in values and rewards.
        packed: whether rows hold several documents; None: some do.
        layout: of all tensors in memory; None: contiguous. `layouts()` has more.

    Returns:
        A strategy of `gradgate.checks.cases.Case`.
    """
    valid_BS = draw(masks() if valid is None else valid)
    is_packed = draw(st.booleans()) if packed is None else packed
    document_BS = draw(documents(valid_BS, interleaved=draw(st.booleans()))) if is_packed else None
    scale, shape = draw(scales), tuple(valid_BS.shape)
    case = cases.Case(
        name="drawn",
        horizon=draw(horizons),
        token_BS=draw(tokens(shape, vocabulary)),
        valid_BS=valid_BS,
        value_BS=draw(numbers(shape, scale)),
        reward_BS=draw(numbers(shape)),
        reward_B=draw(numbers(shape[:1])).float(),
        document_BS=document_BS,
    )
    case = case.with_padding(draw(garbage)).to(draw(dtypes))
    return dataclasses.replace(case if layout is None else cases.laid_out(case, draw(layout)), name="drawn")


def _contiguous(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


def _transposed(tensor: Tensor) -> Tensor:
    axes = tuple(range(tensor.dim()))[::-1]
    return tensor.permute(axes).contiguous().permute(axes)


def _words(draw: st.DrawFn, shape: tuple[int, ...]) -> Tensor:
    """Long[shape], whole numbers of 16 bits as one choice of hypothesis: a choice each would cost most of the time.

    As many are drawn as the largest usual batch holds, so that each keeps its place while the batch is made smaller.
    """
    most = tuple(max(size, usual) for size, usual in zip(shape, (ROWS, LONGEST), strict=False))
    count = 2 * int(np.prod(most))
    word_N = np.frombuffer(draw(st.binary(min_size=count, max_size=count)), dtype=">u2").astype(np.int64)
    return torch.from_numpy(word_N).reshape(most)[tuple(map(slice, shape))].clone()


def _integers(draw: st.DrawFn, shape: tuple[int, ...], below: int) -> Tensor:
    return _words(draw, tuple(shape)) % below


def _order(draw: st.DrawFn, count: int) -> Tensor:
    """0 … count - 1 in any order; the simplest is their own."""
    number = draw(st.integers(0, 2**20))
    return torch.randperm(count, generator=torch.Generator().manual_seed(number)) if number else torch.arange(count)

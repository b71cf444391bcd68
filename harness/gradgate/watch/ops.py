"""Facts about operations, learnt once from an overload's schema."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ZERO_SLOPE = frozenset({"round", "floor", "ceil", "trunc", "sign", "sgn", "fix", "heaviside"})
MULTI_VIEWS = frozenset({"split", "split_with_sizes", "unbind", "chunk", "unsafe_chunk"})
# Operations that only move numbers about; a NaN in their result was in their input.
MOVES = frozenset({
    "detach", "alias", "clone", "copy_", "cat", "stack", "lift_fresh", "contiguous", "index_select", "gather",
    "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "zeros", "ones", "zeros_like",
    "ones_like", "new_zeros", "new_ones", "zero_", "arange", "randn", "rand", "randint", "normal_", "uniform_",
})  # fmt: skip
# Where an infinite result is the pole of the function, not a number too large.
POLES = frozenset({
    "log", "log2", "log10", "log1p", "div", "div_", "reciprocal", "rsqrt", "atanh", "lgamma", "tan", "logit",
    "xlogy", "special_xlog1py", "log_softmax", "_log_softmax",
})  # fmt: skip
# A constant that the program wrote, infinite on purpose.
FILLS = frozenset({"masked_fill", "masked_fill_", "full", "full_like", "fill_", "new_full", "scalar_tensor", "where"})
LOSSES = frozenset({"mse_loss", "smooth_l1_loss", "huber_loss"})
# Elementwise operations of two tensors, in which shapes may meet by accident.
PAIRS = LOSSES | {"sub", "rsub", "add", "mul", "div", "minimum", "maximum"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the recorder must know of one overload.

    Args:
        name: without namespace and overload: `mul_`.
        writes: positions of arguments it writes; names of keyword arguments it writes.
        view: whether its results alias its input.
        multi_view: whether it makes several views at once.
        moves: whether it only moves numbers.
        zero_slope: whether its derivative is zero almost everywhere.
        detach: whether it is what `detach()` and `.data` do.
        reads_number: whether it brings a number to Python.
        lists: whether it writes a list of tensors and autograd moves no version below the mode.
        shapes: whether its operands' shapes are worth a look: two of them elementwise, or a squeeze of all dimensions.
        slope: the name where its derivative is infinite at some point of its domain, else empty.
        call: what runs it; the overload's own `__call__` is one frame more.
        follows: whether it may end the gradient's flow, or makes views that may not be written.
        unscales: whether a GradScaler looks for infinities with it.
    """

    name: str
    writes: tuple[int | str, ...]
    view: bool
    multi_view: bool
    moves: bool
    zero_slope: bool
    detach: bool
    reads_number: bool
    slope: str
    lists: bool
    call: Callable[..., Any]
    follows: bool
    unscales: bool
    shapes: bool


FACTS: dict[Any, Facts] = {}
# Decompositions, whose derivative divides by differences of eigenvalues or singular values.
DEGENERATE = frozenset({"_linalg_eigh", "linalg_eig", "_linalg_svd", "linalg_qr"})
_SLOPES = DEGENERATE | {
    "sqrt", "pow", "acos", "acosh", "asin", "atan2", "hypot", "norm", "linalg_vector_norm", "cdist", "_cdist_forward",
    "xlogy", "special_entr",
}  # fmt: skip


def facts_of(func: Any) -> Facts:
    """The facts of an overload."""
    facts = FACTS.get(func)
    if facts is None:
        facts = FACTS[func] = _learn(func)
    return facts


def _learn(func: Any) -> Facts:
    schema = func._schema
    name = schema.name.split("::")[-1]
    arguments = list(schema.arguments)
    writes: list[int | str] = [
        argument.name if argument.kwarg_only else index
        for index, argument in enumerate(arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    view = not writes and any(result.alias_info is not None for result in schema.returns)
    zero_slope = name.rstrip("_") in ZERO_SLOPE
    detach, reads_number = name in ("detach", "detach_"), name in ("_local_scalar_dense", "item")
    return Facts(
        name=name,
        writes=tuple(writes),
        view=view,
        multi_view=name in MULTI_VIEWS,
        moves=name in MOVES or (view and name != "_to_copy"),
        zero_slope=zero_slope,
        detach=detach,
        reads_number=reads_number,
        slope=name if name in _SLOPES else "",
        lists=bool(writes) and name.startswith("_foreach_"),
        call=getattr(func, "_op", func),
        follows=name in MULTI_VIEWS or zero_slope or detach or reads_number,
        unscales=name == "_amp_foreach_non_finite_check_and_unscale_",
        shapes=name in PAIRS or (name == "squeeze" and not schema.overload_name),
    )


def tensors(values: Any) -> Iterator[Tensor]:
    """The tensors in arguments or results, lists opened."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from tensors(value)


def written(facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> list[Tensor]:
    """The tensors that a call writes."""
    found: list[Tensor] = []
    for where in facts.writes:
        if isinstance(where, str):
            found.extend(tensors((kwargs or {}).get(where)))
        elif where < len(args):
            found.extend(tensors(args[where]))
    return found


def move_versions(targets: Sequence[Tensor]) -> None:
    """A dispatch mode keeps in-place operations on lists from moving the versions that they move without it."""
    torch._C._increment_version([target for target in targets if not target.is_inference()])

"""Numbers that are not finite: where they were born, and what they came through."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradgate.watch.ops import DEGENERATE, FILLS, POLES, Facts, tensors
from gradgate.watch.places import Place
from gradgate.watch.saved import _storage_of, readable, storage_key

Maker = Callable[[Sequence[Any], Place | None], Place | None]

SMALL = 4096  # elements; above, only results of operations that make such numbers are read
_MAKERS = frozenset({
    "exp", "expm1", "log", "log2", "log10", "log1p", "div", "sqrt", "rsqrt", "reciprocal", "pow", "_softmax",
    "_log_softmax", "logsumexp", "std", "var", "cosh", "sinh", "acos", "asin", "atan2", "tan",
})  # fmt: skip
# An infinite mask goes through these on its way into a softmax, and does no harm.
_CARRIERS = frozenset({"add", "add_", "sub", "masked_fill", "masked_fill_", "where", "mul", "maximum", "minimum"})


@dataclass(slots=True, eq=False)
class Birth:
    """The operation that made the first number that is not finite.

    Args:
        what: nan, overflow, pole, fill (a constant of the program's own) or given (it came with the data).
        place: its line.
        op: the operation.
        operands: the line that made its operand.
        ranges: its operands' smallest and largest numbers.
        cause: the birth of the infinity that it met.
        dtype: of the result.
    """

    what: str
    place: Place | None
    op: str
    operands: Place | None
    ranges: str
    cause: Birth | None
    dtype: torch.dtype

    @property
    def overflowed(self) -> bool:
        """Whether a number too large for its dtype is behind it."""
        return self.what == "overflow" or (self.cause is not None and self.cause.overflowed)


class Numerics:
    """Watches results for NaN and Inf, and follows them by storage."""

    def __init__(self) -> None:
        self._births: dict[int, tuple[StorageWeakRef, Birth]] = {}
        self.first: Birth | None = None
        self.danger = False  # backward may meet a slope that is not finite
        self.alarmed = False  # one did, and nobody was looking

    def wants(self, facts: Facts, out: Any) -> bool:
        """Whether the result of an operation is worth reading."""
        if not isinstance(out, Tensor):
            return isinstance(out, tuple | list) and not facts.view
        if facts.view or not out.is_floating_point():
            return False
        if facts.moves and not self._births:
            return False
        return out.numel() <= SMALL or facts.name in _MAKERS or bool(facts.slope)

    def look(self, facts: Facts, args: Sequence[Any], out: Any, place: Place | None, maker: Maker) -> None:
        """Read a result.

        Args:
            facts: of the operation.
            args: what it was called with.
            out: what came of it.
            place: its line.
            maker: finds the line that made the arguments.
        """
        result = out if isinstance(out, Tensor) else next(tensors(out), None)
        if result is None or not result.is_floating_point() or not result.numel():
            return
        if result.numel() > SMALL and facts.name not in _MAKERS and not facts.slope:
            return
        if facts.slope and (facts.slope in DEGENERATE or infinite_slope(facts.slope, args, result)):
            self.danger = True
        if is_finite(result):
            return
        self._born(facts, args, result, place, maker)

    def of(self, tensor: Tensor) -> Birth | None:
        """The birth behind a tensor's numbers."""
        known = self._births.get(storage_key(tensor))
        return known[1] if known else None

    def forget(self) -> None:
        """A graph is done with."""
        self.first, self.danger = None, self.alarmed
        self._births = {key: known for key, known in self._births.items() if not known[0].expired()}

    def _born(self, facts: Facts, args: Sequence[Any], out: Tensor, place: Place | None, maker: Maker) -> None:
        inputs = [tensor for tensor in tensors(args) if tensor.is_floating_point() and tensor is not out]
        nan = bool(out.isnan().any())
        sick = [tensor for tensor in inputs if not is_finite(tensor)]
        source = next((birth for tensor in sick if (birth := self.of(tensor)) is not None), None)
        inherited = any(bool(tensor.isnan().any()) for tensor in sick) if nan else bool(sick)
        if inherited:
            birth = source or Birth("given", place, facts.name, None, "", None, out.dtype)
        else:
            what = "nan" if nan else _infinity(facts, args)
            birth = Birth(what, place, facts.name, maker(args, place), _ranges(inputs), source, out.dtype)
        storage = _storage_of(out)
        self._births[storage._cdata] = (StorageWeakRef(storage), birth)
        if birth.what != "fill" and (self.first is None or (birth.what == "nan" and self.first.what != "nan")):
            self.first = birth
        if nan or (birth.what != "fill" and not inherited) or (facts.name not in _CARRIERS and birth.what != "fill"):
            self.danger = True
        if inherited and not nan and facts.name not in _CARRIERS and not facts.moves:
            self.danger = True


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers that this process holds are finite; an empty tensor's are."""
    own = readable(tensor)
    if own is None or not own.numel():
        return True
    with torch._C._AutoDispatchBelowAutograd(), torch._C._DisableTorchDispatch():
        if own.is_sparse:
            own = own._values()
        total = own.sum().item()
        return total - total == 0 or bool(own.isfinite().all())


def infinite_slope(name: str, args: Sequence[Any], out: Tensor) -> bool:
    """Whether a result lies where the operation's derivative is infinite."""
    first = args[0] if args and isinstance(args[0], Tensor) else out
    with torch.no_grad():
        if name in ("acos", "asin"):
            return bool((first.abs() == 1).any())
        if name == "pow":
            exponent = args[1] if len(args) > 1 else 2
            return (isinstance(exponent, Tensor) or exponent < 1) and bool((first == 0).any())
        if name in ("xlogy", "special_entr"):
            return bool((args[-1] == 0).any()) if isinstance(args[-1], Tensor) else False
        return bool((out == 0).any())


def _infinity(facts: Facts, args: Sequence[Any]) -> str:
    if facts.name in FILLS and any(isinstance(value, float) and math.isinf(value) for value in args):
        return "fill"
    return "pole" if facts.name in POLES else "overflow"


def _ranges(inputs: Sequence[Tensor]) -> str:
    filled = [tensor for tensor in inputs[:2] if tensor.numel()]
    return " and ".join(f"[{tensor.min().item():.4g}, {tensor.max().item():.4g}]" for tensor in filled)

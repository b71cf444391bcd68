"""What each operation saves: the stored table (`operations.json`), read once."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("operations.json")
# Results that carry no gradient whatever their inputs; the table lists only what is differentiable.
CUTTING = frozenset({"argmax", "argmin", "argsort", "multinomial", "bernoulli", "bucketize", "searchsorted", "one_hot"})
# Differentiable in name; the slope is zero everywhere.
FLAT = frozenset({"round", "floor", "ceil", "sign", "trunc", "heaviside", "sgn", "fix"})
FACTORIES = frozenset({
    "zeros", "ones", "empty", "full", "rand", "randn", "randint", "arange", "linspace", "eye", "tensor", "as_tensor",
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "from_numpy", "frombuffer",
    "randperm",
    "new", "new_zeros", "new_ones", "new_empty", "new_full", "new_tensor", "logspace", "normal", "tril_indices",
    "triu_indices",
})  # fmt: skip
COPIES = frozenset(
    {
        "clone",
        "contiguous",
        "to",
        "cpu",
        "cuda",
        "float",
        "half",
        "double",
        "bfloat16",
        "type",
        "type_as",
        "deepcopy",
        "long",
        "int",
        "bool",
        "short",
    }
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One differentiable operation.

    Args:
        saves: input position -> what is saved when that input requires grad: positions, or `result`.
        view: whether the result shares memory with an input.
        many: whether it returns several tensors.
        scalar: as `saves`, where the second operand is a number.
        inplace: as `saves`, where it was asked to work in place; its result is the input.
    """

    saves: Mapping[str, tuple[str, ...]]
    view: bool
    many: bool
    scalar: Mapping[str, tuple[str, ...]]
    inplace: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class LayerKind:
    """One layer of torch.nn: what its forward saves while its input is fixed, or carries gradient."""

    parameters: bool
    fixed: tuple[str, ...]
    grad: tuple[str, ...]
    inplace: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The whole table, and the version of PyTorch that it was asked of."""

    torch: str
    operations: Mapping[str, Operation]
    layers: Mapping[str, LayerKind]
    evidence: frozenset[str]
    writes: frozenset[str]
    torch_names: frozenset[str]
    functional_names: frozenset[str]


@functools.cache
def table() -> Table:
    """The stored table."""
    raw: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    operations = {
        name: Operation(
            _rows(entry["saves"]), entry["view"], entry["many"], _rows(entry.get("scalar", entry["saves"])),
            _rows(entry.get("inplace", entry["saves"])),
        )
        for name, entry in raw["operations"].items()
    }  # fmt: skip
    layers = {
        name: LayerKind(
            entry["parameters"], tuple(entry["fixed"]), tuple(entry["grad"]), tuple(entry.get("inplace", ()))
        )
        for name, entry in raw["layers"].items()
    }
    names = {key: frozenset(found) for key, found in raw["names"].items()}
    return Table(
        raw["torch"], operations, layers, names["evidence"], names["writes"], names["torch"], names["functional"]
    )


def _rows(entry: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    return {position: tuple(kept) for position, kept in entry.items()}

"""The operation table: what each differentiable operation of the installed PyTorch saves, asked of PyTorch itself.

`python -m gradgate.scan.table` calls every function of `torch`, `torch.nn.functional`, `torch.linalg` and
`torch.special`, every method of `Tensor` and every layer of `torch.nn` on small inputs, under saved-tensor
hooks, with one input at a time requiring grad, and writes down whose memory was packed. Nothing in the table is
written by hand but the trial arguments. This module needs torch; the scanner reads the stored table
(`operations.py`) and does not.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

FILE = Path(__file__).with_name("operations.json")
# Names that run code, wait for others or change global state: not for blind calls.
SKIPPED = {
    "compile",
    "set_grad_enabled",
    "manual_seed",
    "seed",
    "save",
    "load",
    "backward",
    "set_printoptions",
    "share_memory_",
}
FOREIGN = (str, bytes, list, dict, set, tuple, int, float, np.ndarray, nn.Module)
# Methods that data frames, expressions and the like have too, so that their use is no evidence of a tensor.
COMMON = {
    "H", "abs", "add", "apply_", "ceil", "concat", "corrcoef", "count_nonzero", "cov", "cross", "det", "diff",
    "dim", "dist", "div",
    "divide", "eq", "equal", "flip", "floor", "ge", "greater", "gt", "hash_tensor", "histogram", "inverse",
    "isfinite", "isin", "isinf",
    "isnan", "layout", "le", "less", "log", "lt", "map_", "median", "mode", "mul", "multiply", "name", "ne", "new",
    "norm", "not_equal",
    "numpy", "outer", "pow", "power", "qr", "quantile", "record_stream", "register_hook", "roll", "round",
    "select", "set_", "sign",
    "solve", "storage", "sub", "subtract", "svd", "t", "tile", "unique", "vsplit", "where",
}  # fmt: skip


def _x(*shape: int) -> Callable[[], torch.Tensor]:
    """A factory of well-conditioned values in (0, 1): inside the domain of log, sqrt, acos and their like."""

    def make() -> torch.Tensor:
        count = int(np.prod(shape)) if shape else 1
        return torch.linspace(0.1, 0.9, count).reshape(shape)

    return make


SQUARE, MATRIX, CUBE, IMAGE, WEIGHT, VECTOR = _x(3, 3), _x(2, 3), _x(2, 3, 3), _x(1, 2, 6, 6), _x(2, 2, 3, 3), _x(3)


def _index() -> torch.Tensor:
    return torch.zeros(3, 3, dtype=torch.long)


def _mask() -> torch.Tensor:
    return torch.eye(3, dtype=torch.bool)


def _labels() -> torch.Tensor:
    return torch.tensor([0, 1, 2])


# Trial arguments, most specific first. A callable makes a fresh tensor.
TRIALS: tuple[tuple[Any, ...], ...] = (
    ("ij,jk->ik", SQUARE, SQUARE), (SQUARE,), (SQUARE, SQUARE), (SQUARE, -1), (SQUARE, 0.5), (SQUARE, 2),
    (SQUARE, SQUARE, SQUARE),
    (SQUARE, _mask, 0.5), (SQUARE, 0, _index), (SQUARE, 0, _index, SQUARE), (SQUARE, _mask, SQUARE), (SQUARE, _labels),
    (SQUARE, 0, _labels), (SQUARE, 0, _labels, SQUARE), (SQUARE, 0, 1), (SQUARE, [3, 3]), (SQUARE, [0, 1]),
    (SQUARE, 3, 3),
    (VECTOR,), (VECTOR, VECTOR), (SQUARE, VECTOR), (VECTOR, SQUARE, SQUARE), (CUBE,), (CUBE, CUBE), (CUBE, CUBE, CUBE),
    (IMAGE,), (IMAGE, WEIGHT), (_x(1, 2, 8), _x(2, 2, 3)), (_x(1, 2, 5, 5, 5), _x(2, 2, 3, 3, 3)), (IMAGE, 2),
    (IMAGE, [2, 2]), (IMAGE, VECTOR), (_x(1, 2, 8), 2), ([SQUARE, SQUARE],),
    (_labels, SQUARE), (IMAGE, [1, 1, 1, 1]), (_x(2, 4, 3), 2), (IMAGE, _x(2), _x(2)), (SQUARE, [3]), (SQUARE, 0, 0, 1),
    (_mask, SQUARE, SQUARE), (SQUARE, [2, 1], 0), (IMAGE, _x(1, 6, 6, 2)), (SQUARE, 3, 1, 1), (SQUARE, [3, 3], [3, 1]),
)  # fmt: skip
LAYERS: tuple[tuple[Any, ...], ...] = (
    (),
    (3, 3),
    (2, 2, 3),
    (2,),
    (3,),
    (3, 3, 3),
    (0.5,),
    (4, 2),
    (1, 2),
    (2, 1),
    ([3],),
    ((1, 9),),
)
LAYER_INPUTS: tuple[Callable[[], torch.Tensor], ...] = (
    SQUARE, IMAGE, _x(1, 2, 8), _x(1, 2, 5, 5, 5), CUBE, _labels, _x(2, 4, 4), _x(1, 4, 4, 4), MATRIX
)  # fmt: skip


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


def _memory(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _saved_by(call: Callable[[], Any]) -> tuple[Any, set[int], list[torch.Tensor]]:
    """Run a call; return its result and the memory that its grad nodes packed (and the tensors, to keep them alive)."""
    packed: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return result, {_memory(tensor) for tensor in packed}, packed


def _made(trial: Sequence[Any]) -> list[Any]:
    return [
        item()
        if callable(item)
        else [part() if callable(part) else part for part in item]
        if isinstance(item, list)
        else item
        for item in trial
    ]


def _differentiable(result: Any) -> list[torch.Tensor]:
    return [tensor for tensor in _tensors(result) if tensor.grad_fn is not None]


def _observe(function: Callable[..., Any], trial: Sequence[Any]) -> dict[str, Any] | None:
    """One entry of the table, or None where the trial does not fit or nothing of it is differentiable."""
    entry: dict[str, Any] = {"saves": {}, "view": False, "many": False}
    for wanted in range(8):
        arguments = _made(trial)
        slots = [list(_tensors(argument)) for argument in arguments]
        places = [slot for slot, found in enumerate(slots) if found and found[0].is_floating_point()]
        if wanted >= len(places):
            break
        slot = places[wanted]
        for tensor in slots[slot]:
            tensor.requires_grad_()
        result, saved, _alive = _saved_by(functools.partial(function, *arguments))
        outputs = _differentiable(result)
        if not outputs:
            continue
        results = {_memory(tensor) for tensor in outputs}
        owners = [(str(at), {_memory(tensor) for tensor in found}) for at, found in enumerate(slots) if found]
        if any(memory & results for _, memory in owners):
            entry["view"] = True
            results = set()
        entry["many"] = entry["many"] or sum(1 for _ in _tensors(result)) > 1
        entry["saves"][str(slot)] = [at for at, memory in owners if memory & saved] + (
            ["result"] if saved & results else []
        )
    return entry if entry["saves"] else None


def _first_fit(function: Callable[..., Any]) -> dict[str, Any] | None:
    for trial in TRIALS:
        try:
            entry = _observe(function, trial)
        except Exception:  # a trial that does not fit says so in many ways
            entry = None
        if entry is None:
            continue
        if trial == (SQUARE, SQUARE):
            entry |= _variant("scalar", entry, function, (SQUARE, 2.0))
        return entry | _variant(
            "inplace", entry, lambda *given: function(*[_copy(given[0]), *given[1:]], inplace=True), trial
        )
    return None


def _copy(value: Any) -> Any:
    """A non-leaf twin, since no leaf that requires grad may be written in place."""
    return value * 1 if isinstance(value, torch.Tensor) else value


def _variant(key: str, entry: dict[str, Any], function: Callable[..., Any], trial: Sequence[Any]) -> dict[str, Any]:
    """What another form of the call saves, where it exists and differs."""
    try:
        other = _observe(function, trial)
    except Exception:
        return {}
    return {key: other["saves"]} if other is not None and other["saves"] != entry["saves"] else {}


def _namespaces() -> Iterator[tuple[str, Any]]:
    for space in (torch, nn.functional, torch.linalg, torch.special, torch.Tensor):
        for name in sorted(dir(space)):
            if not name.startswith("_") and not name.endswith("_") and name not in SKIPPED:
                yield name, getattr(space, name)


def operations() -> dict[str, dict[str, Any]]:
    """Name -> which memory is saved when the input at a position requires grad, and whether the result is a view."""
    found: dict[str, dict[str, Any]] = {}
    for name, function in _namespaces():
        if name in found or not callable(function) or inspect.isclass(function):
            continue
        entry = _first_fit(function)
        if entry is not None:
            found[name] = entry
    return found


def layers() -> dict[str, dict[str, Any]]:
    """Layer -> whether its forward saves its input or its result, with and without grad on the input."""
    found: dict[str, dict[str, Any]] = {}
    for name in sorted(dir(nn)):
        kind = getattr(nn, name)
        if (
            inspect.isclass(kind)
            and issubclass(kind, nn.Module)
            and kind is not nn.Module
            and not name.startswith("Lazy")
        ):
            entry = _layer(kind)
            if entry is not None:
                found[name] = entry
    return found


def _layer(kind: type[nn.Module]) -> dict[str, Any] | None:
    for arguments, make in itertools.product(LAYERS, LAYER_INPUTS):
        try:
            layer = kind(*arguments)
            entry: dict[str, Any] = {"parameters": bool(list(layer.parameters())), "fixed": [], "grad": []}
            for key in ("fixed", "grad"):
                given = make()
                if key == "grad" and given.is_floating_point():
                    given.requires_grad_()
                result, saved, _alive = _saved_by(functools.partial(layer, given))
                outputs = _differentiable(result)
                same = {_memory(given)} & {_memory(tensor) for tensor in outputs}
                entry[key] = [word for word, hit in (
                    ("input", _memory(given) in saved),
                    ("result", not same and bool(saved & {_memory(tensor) for tensor in outputs})),
                    ("parameters", bool(saved & {_memory(tensor) for tensor in layer.parameters()})),
                ) if hit]  # fmt: skip
            entry |= _inplace_layer(kind, arguments, make)
        except Exception:  # noqa: S112  most arguments fit no given layer
            continue
        return entry
    return None


def _inplace_layer(kind: type[nn.Module], arguments: Sequence[Any], make: Callable[[], torch.Tensor]) -> dict[str, Any]:
    """Whether the layer, asked to work in place, keeps the tensor that it wrote."""
    if "inplace" not in inspect.signature(kind).parameters:
        return {}
    given = make().requires_grad_() * 1
    _, saved, _alive = _saved_by(lambda: kind(*arguments, inplace=True)(given))
    return {"inplace": ["result"] if _memory(given) in saved else []}


def names() -> dict[str, list[str]]:
    """Methods of Tensor that nothing else has (evidence that a value is a tensor), those that write, and functions."""
    foreign = {name for kind in FOREIGN for name in dir(kind)}
    methods = [name for name in dir(torch.Tensor) if not name.startswith("_")]
    return {
        "evidence": sorted(name for name in methods if name not in foreign | COMMON),
        "writes": sorted(name for name in methods if name.endswith("_") and name not in {"requires_grad_",
        "retain_grad_", "share_memory_", "detach_", "rename_", "resize_", "set_", "resize_as_"}),
        "torch": sorted(name for name in dir(torch) if callable(getattr(torch, name)) and not name.startswith("_")),
        "functional": sorted(name for name in dir(nn.functional) if callable(getattr(nn.functional,
        name)) and not name.startswith("_")),
    }  # fmt: skip


def build() -> dict[str, Any]:
    """The whole table, as it is stored."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = torch.get_rng_state()
        torch.manual_seed(0)
        table = {
            "torch": torch.__version__.split("+")[0],
            "operations": operations(),
            "layers": layers(),
            "names": names(),
        }
        torch.set_rng_state(state)
    return table


def as_text(table: dict[str, Any]) -> str:
    """The table as JSON, one entry a line, so that a newer PyTorch shows as a small diff."""
    parts = [f'"torch": {json.dumps(table["torch"])}']
    for key in ("operations", "layers", "names"):
        rows = ",\n".join(
            f"  {json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(table[key].items())
        )
        parts.append(f'"{key}": {{\n{rows}\n}}')
    return "{" + ",\n".join(parts) + "}\n"


if __name__ == "__main__":
    FILE.write_text(as_text(build()), encoding="utf-8")
    print(f"{FILE.name}: torch {torch.__version__}", file=sys.stderr)  # noqa: T201

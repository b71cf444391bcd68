"""All that a run holds, part by part, with a digest of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from inspect import isroutine
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradgate.subjects.contract import Run
from gradgate.subjects.own_loop import OwnLoop

_DEPTH = 8
OF_MODULES = ("training", "dump_patches", "call_super_init")
FOREIGN = ("torch", "numpy", "builtins", "pathlib", "re", "logging", "threading", "functools", "types", "rich")


@dataclass(frozen=True)
class Part:
    """Something that a run holds.

    Args:
        path: names from the run to it.
        owner: the object or mapping that has it.
        digest: of its value.
        value: itself.
        fleeting: whether it is a buffer that no `state_dict` has.
    """

    path: tuple[str, ...]
    owner: Any
    digest: str
    value: Any = None
    fleeting: bool = False


def is_code(value: Any) -> bool:
    """Whether a value is a function or a class; an object that can be called may hold a state like any other."""
    return isinstance(value, type | partial) or isroutine(value)


def parts_of(run: Run) -> dict[str, Part]:
    """All that is reachable from a run, and from the local variables of its loop, by name."""
    seen: dict[int, object] = {}
    found = {".".join(part.path): part for part in _walk((), None, run, _DEPTH, seen)}
    for name, value in objects_of_loop(run).items():
        for part in _walk((name,), None, value, _DEPTH, seen):
            found.setdefault(".".join(part.path), part)
    return found


def is_on_the_way(name: str, path: str) -> bool:
    """Whether a part is reached by a name, or by several behind one another: `scale` of `trainer.scale.mean`."""
    return f".{name}." in f".{path}."


def objects_of_loop(run: Run) -> dict[str, Any]:
    """What the local variables of a run's own loop hold, where it has one."""
    return run.objects() if isinstance(run, OwnLoop) else {}


def _walk(path: tuple[str, ...], owner: Any, value: Any, depth: int, seen: dict[int, object]) -> Iterator[Part]:
    if isinstance(value, Tensor | int | float | str | bytes | None):
        yield Part(path, owner, digest(value), value)
        return
    if depth == 0 or id(value) in seen or is_code(value):
        return
    seen[id(value)] = value
    if isinstance(value, nn.Module):
        named = [*value.named_parameters(), *value.named_buffers()]
        fleeting = set(fleeting_buffers(value))
        for name, tensor in named:
            yield Part((*path, name), value, digest(tensor), tensor, name in fleeting)
        for within, owned, plain in attributes_of(value):
            yield from _walk((*path, *within), owned, plain, depth - 1, seen)
        return
    if isinstance(value, torch.Generator):
        yield Part((*path, "state"), value, digest(value.get_state()))
        return
    foreign = type(value).__module__.partition(".")[0] in FOREIGN and not isinstance(value, Mapping | list | tuple)
    if isinstance(value, Optimizer) or foreign:
        if hasattr(value, "state_dict"):
            for part in _walk(path, value, value.state_dict(), depth - 1, {}):
                yield Part(part.path, value, part.digest, part.value)
        return
    if isinstance(value, Mapping):
        inside = [(str(key), inner) for key, inner in value.items() if isinstance(key, str | int)]
    elif isinstance(value, list | tuple):
        inside = [(str(i), inner) for i, inner in enumerate(value)]
    else:
        inside = list(getattr(value, "__dict__", {}).items())
    for key, inner in inside:
        yield from _walk((*path, key), value, inner, depth - 1, seen)


def fleeting_buffers(top: nn.Module) -> Iterator[str]:
    """The names of a module's buffers that no `state_dict` has."""
    for key, module in top.named_modules():
        yield from (f"{key}.{name}".lstrip(".") for name in sorted(module._non_persistent_buffers_set))


def attributes_of(top: nn.Module) -> Iterator[tuple[tuple[str, ...], nn.Module, Any]]:
    """What a module and those in it hold as plain attributes, which no `state_dict` has: names, whose it is, value."""
    for name, module in top.named_modules():
        for key, inner in list(vars(module).items()):
            if not key.startswith("_") and key not in OF_MODULES and not isinstance(inner, nn.Module):
                yield (*(name.split(".") if name else ()), key), module, inner


def digest(value: Any) -> str:
    """What tells a value from others: a tensor's bytes, else its text."""
    if not isinstance(value, Tensor):
        return repr(value)[:200]
    if value.is_sparse or value.device.type == "meta":
        return str(value.shape)
    content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype}{list(value.shape)}{sha256(content).hexdigest()[:16]}"


def owner_of(part: Part, run: Run) -> Any:
    """The object at the same path of another run, as far as it has it."""
    at: Any = run
    for name in part.path:
        inner = at.get(name) if isinstance(at, Mapping) else getattr(at, "__dict__", {}).get(name)
        if isinstance(at, list | tuple) and name.isdigit() and int(name) < len(at):
            inner = at[int(name)]
        if inner is None or isinstance(at, Optimizer):
            return at
        at = inner
    return at

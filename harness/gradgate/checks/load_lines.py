"""Which own line does not save a part of the run, or does not bring it back.

The run as it was at the save is held against the run behind the load, object by object. What differs was written by the
load, then its last writer is named; or it was not: then the place among the parts that are brought back, by the order
in which the save has them; or it is not in what was saved: then the function that makes the state.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from itertools import islice, pairwise
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradgate.checks.own_lines import Line, OwnLines, heads_of, is_torch, statement_at
from gradgate.subjects.contract import Run
from gradgate.subjects.global_state import GlobalState

OTHER_SEED = 1_000_003
_DEPTH = 8
_MOST = 32  # ways to one key
_FOREIGN = ("torch", "numpy", "builtins", "pathlib", "re", "logging", "threading", "functools", "types", "rich")
_WRITERS = ("save", "dump", "dumps", "save_file")


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


@dataclass(frozen=True)
class _Put:
    """A line that writes a part: an assignment, a `load_state_dict`, a `set_rng_state`; no `key`: all of it."""

    owner: Any
    key: str
    way: tuple[Line, ...]
    assign: bool = False


@dataclass
class _Read:
    """A key of what was saved, and the lines that read it."""

    key: str
    ways: list[tuple[Line, ...]] = field(default_factory=list)


class LoadLines(OwnLines):
    """What a save or a load reads and writes, by line."""

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.puts: list[_Put] = []
        self.taken: list[_Put] = []  # calls of `state_dict`
        self.reads: dict[str, _Read] = {}
        self.given: list[Any] = []  # to what writes files
        self.writing: list[tuple[Line, ...]] = []
        self.left: list[tuple[Mapping[Any, Any], Line]] = []  # mappings that own functions return, and their line
        self.buffers: list[tuple[Any, str, Line]] = []
        self.ran: dict[CodeType, list[int]] = {}
        self._last: Line | None = None

    def behind(self, line: Line) -> None:
        """Look at what the line has done."""
        self._last = line
        lines = self.ran.setdefault(line[0], [])
        if not lines or lines[-1] != line[1]:
            lines.append(line[1])
        keys, stores = _facts(line)
        if keys or stores:
            self._look(keys, stores, self.frames[-1], tuple(self.way()))

    def entering(self, frame: FrameType) -> None:
        """Note what of torch, or of its own, a line calls."""
        if not self.frames or self.is_own(frame.f_code):
            return
        name, given, way = frame.f_code.co_name, frame.f_locals, tuple(self.way())
        if is_torch(frame, "load_state_dict"):
            self.puts.append(_Put(given.get("self"), "", way, bool(given.get("assign"))))
        elif is_torch(frame, "set_rng_state"):
            self.puts.append(_Put("rng", "", way))
        elif is_torch(frame, "state_dict"):
            self.taken.append(_Put(given.get("self"), "", way))
        elif is_torch(frame, "register_buffer") and not given.get("persistent", True):
            self.buffers.append((given.get("self"), str(given.get("name")), way[-1]))
        elif name in _WRITERS and ("obj" in given or "tensors" in given):
            self.given.append(given.get("obj", given.get("tensors")))
            self.writing.append(way)

    def leaving(self, frame: FrameType, value: Any) -> None:
        """Note what an own function gives."""
        if isinstance(value, Mapping) and value:
            self.left.append((value, self._last or (frame.f_code, frame.f_lineno)))

    def _look(
        self, keys: Sequence[str], stores: Sequence[tuple[ast.expr, str]], frame: FrameType, way: tuple[Line, ...]
    ) -> None:
        for key in keys:
            ways = self.reads.setdefault(key, _Read(key)).ways
            if way not in ways and len(ways) < _MOST:
                ways.append(way)
        for base, name in stores:
            owner = _value_of(base, frame)
            if owner is not None and not (frame.f_code.co_name == "__init__" and _is_self(base)):
                self.puts.append(_Put(owner, name, way))


def _is_self(base: ast.expr) -> bool:
    """Whether an object writes to itself: in its constructor that brings nothing back."""
    return isinstance(base, ast.Name) and base.id == "self"


@lru_cache(maxsize=4096)
def _facts(line: Line) -> tuple[list[str], list[tuple[ast.expr, str]]]:
    """The keys that a line reads, and the objects and names that it assigns to."""
    keys, stores = [], []
    for node in (inner for head in heads_of(line) for inner in ast.walk(head)):
        key = _key_read(node)
        if key is not None:
            keys.append(key)
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            name = node.attr if isinstance(node, ast.Attribute) else _constant(node.slice)
            stores += [(node.value, name)] if name is not None else []
    return keys, stores


def _key_read(node: ast.AST) -> str | None:
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return _constant(node.slice)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
        return _constant(node.args[0]) if node.args else None
    return None


def _constant(node: ast.AST) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _value_of(node: ast.AST, frame: FrameType) -> Any:
    """What a chain of names and attributes stands for, without calling anything."""
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value_of(node.value, frame)
        return getattr(owner, "__dict__", {}).get(node.attr)
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        owner = _value_of(node.value, frame)
        with suppress(Exception):
            key: Any = node.slice.value
            return owner[key] if isinstance(owner, Mapping | list | tuple) else None
    return None


def parts_of(run: Run) -> dict[str, Part]:
    """All that is reachable from a run, by name."""
    return {".".join(part.path): part for part in _walk((), None, run, _DEPTH, {})}


def _walk(path: tuple[str, ...], owner: Any, value: Any, depth: int, seen: dict[int, object]) -> Iterator[Part]:
    if isinstance(value, Tensor | int | float | str | bytes | None):
        yield Part(path, owner, _digest(value), value)
        return
    if depth == 0 or id(value) in seen or (callable(value) and not isinstance(value, nn.Module)):
        return
    seen[id(value)] = value
    if isinstance(value, nn.Module):
        named = [*value.named_parameters(), *value.named_buffers()]
        fleeting = {
            f"{key}.{name}".lstrip(".") for key, m in value.named_modules() for name in m._non_persistent_buffers_set
        }
        for name, tensor in named:
            yield Part((*path, name), value, _digest(tensor), tensor, name in fleeting)
        return
    if isinstance(value, torch.Generator):
        yield Part((*path, "state"), value, _digest(value.get_state()))
        return
    foreign = type(value).__module__.partition(".")[0] in _FOREIGN and not isinstance(value, Mapping | list | tuple)
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


def _digest(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)[:200]
    if value.is_sparse or value.device.type == "meta":
        return str(value.shape)
    content = value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return f"{value.dtype}{list(value.shape)}{sha256(content).hexdigest()[:16]}"


def line_of_resume(source: Any, start: Callable[[int], Run], seed: int, folder: Path, steps: int) -> Line | None:
    """The line that keeps a part of the run from being saved or brought back.

    Args:
        source: of the subject.
        start: of the stage, of a seed.
        seed: of the run that is saved.
        folder: empty, for the checkpoint.
        steps: before the save.
    """
    building, saving, loading = LoadLines(source), LoadLines(source), LoadLines(source)
    saved = _stepped(start, seed, steps)
    again = parts_of(_stepped(start, seed, steps))
    random = GlobalState.now().rng
    live = parts_of(saved)
    with saving.on():
        saved.save(folder)
    with building.on():
        loaded = start(seed + OTHER_SEED)
    with loading.on():
        loaded.load(folder)
    random_now = GlobalState.now().rng
    back = parts_of(loaded)
    apart = [
        part
        for name, part in back.items()
        if name in live and part.digest != live[name].digest and again[name].digest == live[name].digest
    ]
    apart += [
        Part(part.path, _owner_of(part, loaded), "", None)
        for name, part in live.items()
        if name not in back and name in again and isinstance(part.value, Tensor)
    ]
    if not apart:
        assigned = [put for put in loading.puts if put.assign]
        if assigned:
            return assigned[-1].way[-1]
        if not torch.equal(random[0], random_now[0]):
            return _of_random(saving, loading, random[0])
        return None
    keys = {key for content in saving.given for key, *_ in _keys(content)}
    part = min(apart, key=lambda one: _rank(one, loading, keys))
    if part.fleeting:
        return next((line for owner, name, line in building.buffers if name == part.path[-1].rpartition(".")[2]), None)
    paths = {id(one.owner): one.path for one in reversed(back.values())}
    return _of_part(part, live[".".join(part.path)], saving, loading, paths)


def _owner_of(part: Part, run: Run) -> Any:
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


def _stepped(start: Callable[[int], Run], seed: int, steps: int) -> Run:
    run = start(seed)
    for batch in islice(run.batches(), steps):
        run.step(batch)
    return run


def _rank(part: Part, loading: LoadLines, keys: set[str]) -> tuple[int, int]:
    """First what has a name of its own in what was saved and is not written, then tensors of modules and optimizers."""
    if part.path[-1] in keys and not any(_writes(put, part) for put in loading.puts):
        return 0, len(part.path)
    writers = [number for number, put in enumerate(loading.puts) if _writes(put, part)]
    if writers and (part.path[-1] in keys or isinstance(part.owner, nn.Module | Optimizer)):
        return 1, writers[-1]  # what is written later may come from it
    if isinstance(part.owner, nn.Module | Optimizer):
        return 2, 0 if "state" in part.path else 1
    return (3 if part.path[-1] in keys else 4), len(part.path)


def _keys(content: Any, around: tuple[Mapping[Any, Any], ...] = ()) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Key, value, and the mappings around it, innermost last."""
    if isinstance(content, Mapping) and len(around) < _DEPTH:
        for key, value in content.items():
            if isinstance(key, str):
                yield key, value, (*around, content)
            yield from _keys(value, (*around, content))
    elif isinstance(content, list | tuple) and len(content) <= 1000:
        for value in content:
            yield from _keys(value, around)


def _of_part(
    part: Part, live: Part, saving: LoadLines, loading: LoadLines, paths: Mapping[int, tuple[str, ...]]
) -> Line | None:
    writers = [put for put in loading.puts if _writes(put, part)]
    if not _is_saved(part, live, saving):
        found = _of_save(part, live, saving)
        if found is not None:
            return found
    if writers:
        return writers[-1].way[-1]
    return _among_siblings(part, live, saving, loading, paths)


def _writes(put: _Put, part: Part) -> bool:
    """Whether a line writes a part, or the whole that it is of."""
    owner, key = put.owner, part.path[-1].rpartition(".")[2]
    if isinstance(part.owner, nn.Module):
        tensors = {id(x) for x in (*part.owner.parameters(), *part.owner.buffers())}
        if not isinstance(owner, nn.Module):
            return False
        return not put.key and any(id(x) in tensors for x in (*owner.parameters(), *owner.buffers()))
    if isinstance(part.owner, Optimizer):
        if owner is part.owner:
            return not put.key
        return any(owner is group for group in part.owner.param_groups) and put.key == key
    return owner is part.owner and put.key in ("", key)


def _is_saved(part: Part, live: Part, saving: LoadLines) -> bool:
    """Whether the value is in what was written; where nobody can look into that, it is taken to be."""
    if not saving.given:
        return True
    key = part.path[-1]
    for content in saving.given:
        for name, value, _around in _keys(content):
            if isinstance(live.value, Tensor):
                if isinstance(value, Tensor) and _digest(value) == live.digest:
                    return True
            elif name == key and _digest(value) == live.digest:
                return True
    return False


def _of_save(part: Part, live: Part, saving: LoadLines) -> Line | None:
    """The function that gives the state without the part, or with another value of it."""
    key = part.path[-1]
    of_torch = isinstance(part.owner, nn.Module | Optimizer)  # whose numbers have names that others have too
    for mapping, line in () if of_torch else saving.left:
        if key in mapping and not isinstance(mapping[key], Mapping) and _digest(mapping[key]) != live.digest:
            return line
    if isinstance(part.owner, nn.Module | Optimizer):
        own = [put for put in saving.taken if put.owner is live.owner]
        kind = nn.Module if isinstance(part.owner, nn.Module) else Optimizer
        alike = [put for put in saving.taken if isinstance(put.owner, kind)]
        return next((put.way[-1] for put in (*own, *alike, *saving.taken)), None)
    siblings = list(getattr(live.owner, "__dict__", {}))
    known = siblings[: siblings.index(key)] if key in siblings else []
    lines = [
        line
        for code, numbers in saving.ran.items()
        for number in numbers
        for line in _lines_of_keys((code, number), siblings, known)
    ]
    return lines[-1] if lines else _of_whole(saving)


def _lines_of_keys(line: Line, siblings: Sequence[str], before: Sequence[str]) -> Iterator[Line]:
    """In a dictionary that is written down with some of an object's attributes, the line of the last one before."""
    statement = statement_at(line)
    for node in ast.walk(statement) if statement is not None else ():
        if not isinstance(node, ast.Dict):
            continue
        keys = [(k.value, k.lineno) for k in node.keys if isinstance(k, ast.Constant)]
        if len([key for key, _ in keys if key in siblings]) > 1:
            yield line[0], max((number for key, number in keys if key in before), default=node.lineno)


def _of_random(saving: LoadLines, loading: LoadLines, state: Tensor) -> Line | None:
    """The line that puts random numbers back wrongly, or the place of the one that had to."""
    puts = [put for put in loading.puts if isinstance(put.owner, str)]
    for content in saving.given:
        for key, value, around in _keys(content):
            if isinstance(value, Tensor) and _digest(value) == _digest(state):
                if puts:
                    return puts[-1].way[-1]
                return _at_key([key, *_around(around)], content, loading)
    return _of_whole(saving)


def _of_whole(saving: LoadLines) -> Line | None:
    """The line that gives the mapping that is written, else the one that writes it."""
    for content in saving.given:
        keys = set(content) if isinstance(content, Mapping) else set()
        given = [line for mapping, line in saving.left if keys and set(mapping) == keys]
        if given:
            return given[0]
    return saving.writing[-1][-1] if saving.writing else None


def _around(around: Sequence[Any]) -> list[str]:
    """Keys under which the mappings around a value are, innermost first."""
    names = []
    for outer, inner in pairwise(around):
        names += [key for key, value in outer.items() if value is inner and isinstance(key, str)]
    return names[::-1]


def _among_siblings(
    part: Part, live: Part, saving: LoadLines, loading: LoadLines, paths: Mapping[int, tuple[str, ...]]
) -> Line | None:
    for content in saving.given:
        if isinstance(content, Mapping):
            line = _at_key(list(reversed(part.path)), content, loading)
            if line is not None:
                return line
    for content in saving.given:  # under another name than the run has it
        for key, value, outer in _keys(content):
            if isinstance(value, Tensor) and _digest(value) == live.digest:
                line = _at_key([key, *_around(outer)], content, loading)
                if line is not None:
                    return line
    around = [
        name
        for content in saving.given
        for key, value, outer in _keys(content)
        if key == part.path[-1] and not isinstance(value, Mapping)
        for name in _around(outer)
    ]
    of_whole = next((loading.reads[name] for name in around if name in loading.reads), None)
    if of_whole is not None:
        return of_whole.ways[0][-1]
    read = next((loading.reads[name] for name in reversed(part.path) if name in loading.reads), None)
    return _behind_read(part, read, loading, paths) if read is not None else None


def _at_key(names: Sequence[str], content: Mapping[Any, Any], loading: LoadLines) -> Line | None:
    """The place of a key that no line of the load reads, among those of its mapping that are read."""
    for name in names:
        for key, _, around in _keys(content):
            if key != name or name in loading.reads:
                continue
            order = [other for other in around[-1] if isinstance(other, str)]
            read = [other for other in order if other in loading.reads]
            if read:
                return _between(name, order, loading)
    return None


def _between(name: str, order: Sequence[str], loading: LoadLines) -> Line | None:
    lines: dict[CodeType, dict[str, int]] = {}
    for key in order:
        for way in loading.reads[key].ways if key in loading.reads else ():
            for code, number in way:
                lines.setdefault(code, {}).setdefault(key, number)
    if not lines:
        return None
    # Where most siblings are read; of several functions the innermost, since the outer ones' lines lead to it.
    code = max(lines, key=lambda code: (len(lines[code]), len(set(lines[code].values()))))
    at = lines[code]
    before = [at[key] for key in order[: order.index(name)] if key in at]
    begin = max(before, default=0)
    behind = [at[key] for key in order[order.index(name) :] if key in at and at[key] > begin]
    end = min(behind, default=10**9)
    ran = sorted({number for number in loading.ran.get(code, ()) if begin < number <= end})
    ran = [number for number in ran if number > code.co_firstlineno]
    for number in ran:
        if any(_mentions(node, name) for node in heads_of((code, number))):
            return code, number
    if behind:
        return code, end
    return (code, ran[0]) if ran else (code, begin)


def _mentions(node: ast.AST, name: str) -> bool:
    return any(
        (isinstance(inner, ast.Attribute) and inner.attr == name) or (isinstance(inner, ast.Name) and inner.id == name)
        for inner in ast.walk(node)
    )


def _behind_read(part: Part, read: _Read, loading: LoadLines, paths: Mapping[int, tuple[str, ...]]) -> Line | None:
    """What was read and is not put into its place: the line that puts another part of the same object there."""
    codes = {code for way in read.ways for code, _ in way}
    best: tuple[int, Line] | None = None
    for put in loading.puts:
        shared = _shared(paths.get(id(put.owner), ()), part.path)
        for line in put.way:
            if shared and line[0] in codes and (best is None or shared > best[0]):
                best = (shared, line)
    return best[1] if best else None


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """Names that two paths begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))

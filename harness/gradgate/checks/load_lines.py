"""Which own line does not save a part of the run, or does not bring it back.

The run as it was at the save is held against the run behind the load, object by object. What differs was written by the
load, then its last writer is named; or it was not: then the place among the parts that are brought back, by the order
in which the save has them; or it is not in what was saved: then the function that makes the state.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradgate.checks.checkpoints import OTHER_SEED, stepped
from gradgate.checks.load_trace import LoadLines, Put, Read
from gradgate.checks.own_lines import Line, heads_of, statement_at
from gradgate.checks.run_parts import Part, digest, owner_of, parts_of
from gradgate.subjects.contract import Run
from gradgate.subjects.global_state import GlobalState

_DEPTH = 8


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
    saved = stepped(start(seed), steps)
    begun = start(seed)
    before = parts_of(begun)
    again = parts_of(stepped(begun, steps))
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
        if str(folder) not in part.digest  # where it was loaded from is no state
    ]
    apart += [
        Part(part.path, owner_of(part, loaded), "", None)
        for name, part in live.items()
        if name not in back and name in again and isinstance(part.value, Tensor)
    ]
    draws_on = torch.equal(random[0], random_now[0])
    if not apart:
        assigned = [put for put in loading.puts if put.assign]
        if assigned:
            return assigned[-1].way[-1]
        return None if draws_on else _of_random(saving, loading, random[0])
    if not draws_on and not any(isinstance(part.owner, nn.Module | Optimizer) for part in apart):
        found = _of_random(saving, loading, random[0])  # what else differs may be numbers that every step makes anew
        if found is not None:
            return found
    keys: dict[str, set[str]] = {}
    for key, value, _ in (each for content in saving.given for each in _keys(content)):
        keys.setdefault(key, set()).add("" if isinstance(value, Mapping | list | tuple) else digest(value))
    still = {name for name, part in live.items() if name in before and before[name].digest == part.digest}

    def order(part: Part) -> tuple[int, bool, int]:
        name = ".".join(part.path)
        first, last = _rank(part, loading, keys, live[name].digest)
        return first, name in still and not isinstance(part.value, Tensor), last

    part = min(apart, key=order)
    if part.fleeting:
        return next((line for owner, name, line in building.buffers if name == part.path[-1].rpartition(".")[2]), None)
    paths = {id(one.owner): one.path for one in reversed(back.values())}
    return _of_part(part, live[".".join(part.path)], saving, loading, paths)


def _rank(part: Part, loading: LoadLines, keys: Mapping[str, set[str]], value: str) -> tuple[int, int]:
    """First what is saved under a name of its own and is not written, then tensors of modules and optimizers."""
    if value in keys.get(part.path[-1], ()) and not any(_writes(put, part) for put in loading.puts):
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


def _writes(put: Put, part: Part) -> bool:
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
                if isinstance(value, Tensor) and digest(value) == live.digest:
                    return True
            elif name == key and digest(value) == live.digest:
                return True
    return False


def _of_save(part: Part, live: Part, saving: LoadLines) -> Line | None:
    """The function that gives the state without the part, or with another value of it."""
    key = part.path[-1]
    of_torch = isinstance(part.owner, nn.Module | Optimizer)  # whose numbers have names that others have too
    for mapping, line in () if of_torch else saving.left:
        if key in mapping and not isinstance(mapping[key], Mapping) and digest(mapping[key]) != live.digest:
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
            if isinstance(value, Tensor) and digest(value) == digest(state):
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
            if isinstance(value, Tensor) and digest(value) == live.digest:
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


def _behind_read(part: Part, read: Read, loading: LoadLines, paths: Mapping[int, tuple[str, ...]]) -> Line | None:
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

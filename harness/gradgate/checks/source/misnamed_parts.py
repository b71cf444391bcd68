"""Parts of a checkpoint that are saved under one name and asked for under another, in mappings within it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import holds_optimizer, keys_read
from gradgate.checks.source.saved_mappings import is_record
from gradgate.checks.source.trainer import called_name, calls_in, dotted
from gradgate.checks.source.values import assignments_in, contains, text_of

ASKS = ("get", "pop")
SIDES = re.compile(r"^_?(get|set|load|restore|save|dump)_?|_?(get|set)(?=state|_state|$)")


@dataclass(frozen=True)
class Misnamed:
    """A part that is saved under one name and asked for under another.

    Args:
        place: the function that asks.
        node: where.
        key: for what.
        entry: what it is saved under.
        maker: the function that makes the mapping.
        line: where.
    """

    place: Place
    node: ast.expr
    key: str
    entry: str
    maker: str
    line: int


@dataclass(frozen=True)
class _Part:
    """A mapping that a function makes, with the entries of others that it is put under."""

    place: Place
    mapping: ast.Dict
    entries: dict[str, ast.expr]
    under: frozenset[str]


@dataclass(frozen=True)
class _Asked:
    """A key that a function asks a mapping for, with the entries of others that this is taken from."""

    place: Place
    mapping: str
    node: ast.expr
    key: str
    under: frozenset[str]


def misnamed_parts(own: Places) -> Iterator[Misnamed]:
    """Keys that nothing writes, asked of a mapping one of whose entries nothing asks for: that is put under the entry
    of a checkpoint that the mapping is taken from, or is made in the same file and gives another key that is asked."""
    nodes = [node for place in own.all for node in place.nodes]
    read, written = keys_read(nodes), set(_written(nodes))
    parts = [part for place in own.functions if place.file.has("{", "dict(") for part in _parts(place, own)]
    parts = [part for part in parts if not holds_optimizer(part.entries.values())]
    lost = {id(part): [key for key, value in part.entries.items() if key not in read and _is_state(key, value)]
            for part in parts}  # fmt: skip
    lacking = [part for part in parts if lost[id(part)]]
    asked = [one for place in own.functions for one in _asked(place, own)] if lacking else []
    keys: dict[tuple[Place, str], set[str]] = {}  # that one mapping is asked for
    for one in asked:
        keys.setdefault((one.place, one.mapping), set()).add(one.key)
    strange = [one for one in asked if one.key not in written]
    seen = set[tuple[Place, str]]()
    for part in lacking:
        for one in (one for one in strange if (one.place, one.key) not in seen):
            beside = keys[one.place, one.mapping]
            linked = bool(one.under & part.under)
            near = one.place.file is part.place.file and bool(beside & set(part.entries))
            found = [key for key in lost[id(part)] if _are_one(one, part.entries[key])] if linked or near else []
            if linked and not found:
                alone = len(beside - written) == 1 and len(lost[id(part)]) == 1
                words = set(one.key.lower().split("_"))
                found = [key for key in lost[id(part)] if alone or words & set(key.lower().split("_"))]
            if found:
                seen.add((one.place, one.key))
                yield Misnamed(one.place, one.node, one.key, found[0], part.place.name, part.mapping.lineno)


def _is_state(key: str, value: ast.expr) -> bool:
    """Whether an entry holds something of the run: no text, no number that is written down and nothing empty."""
    held = any(isinstance(part, ast.Name | ast.Attribute) for part in ast.walk(value))
    return held and not is_record(key, value)


def _written(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The keys of mappings, and what is put into one."""
    for node in nodes:
        if isinstance(node, ast.Dict):
            yield from (text for key in node.keys if key is not None and (text := text_of(key)))
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            yield text_of(node.slice)
        elif isinstance(node, ast.Call):
            yield from (word.arg for word in node.keywords if word.arg)
            yield from (text_of(each) for each in node.args if called_name(node) in ("setdefault", "add"))


def _parts(place: Place, own: Places) -> Iterator[_Part]:
    for value in place.returned:
        mapping = place.names.held(value)
        if isinstance(mapping, ast.Dict) and place.name not in ("state_dict", "__getstate__"):
            entries = _entries(mapping)
            for target, put in assignments_in(place.nodes):
                if isinstance(target, ast.Subscript) and dotted(target.value) == dotted(value) != "":
                    entries |= {text_of(target.slice): put} if text_of(target.slice) else {}
            yield _Part(place, mapping, entries, frozenset(_put_under(place, own)))
    for key, mapping in _put(place):
        if isinstance(mapping, ast.Dict):
            yield _Part(place, mapping, _entries(mapping), frozenset({key}))


def _entries(mapping: ast.Dict) -> dict[str, ast.expr]:
    pairs = zip(mapping.keys, mapping.values, strict=True)
    return {text: value for key, value in pairs if key is not None and (text := text_of(key))}


def _put(place: Place) -> Iterator[tuple[str, ast.expr]]:
    """What is put into a mapping, with the key."""
    for node in place.nodes:
        if isinstance(node, ast.Dict):
            yield from _entries(node).items()
    for target, value in assignments_in(place.nodes):
        if isinstance(target, ast.Subscript) and text_of(target.slice):
            yield text_of(target.slice), value


def _put_under(maker: Place, own: Places) -> Iterator[str]:
    """The keys under which what a function gives back is put into a mapping."""
    for caller, call in own.calls_of(maker.name):
        if own.called(call, caller) not in (maker, None):
            continue
        names = {dotted(target) for target, value in assignments_in(caller.nodes) if value is call}
        yield from (key for key, value in _put(caller) if value is call or dotted(value) in names - {""})


def _asked(place: Place, own: Places) -> Iterator[_Asked]:
    if not place.file.has("[", "get("):
        return
    for node in place.nodes:
        holder: ast.expr | None = None
        if not isinstance(node, ast.expr):
            continue
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            holder, key = node.value, text_of(node.slice)
        elif isinstance(node, ast.Call) and called_name(node) in ASKS and node.args:
            holder, key = getattr(node.func, "value", None), text_of(node.args[0])
        if holder is not None and key and (dotted(holder) or isinstance(holder, ast.Call)):
            yield _Asked(place, ast.unparse(holder), node, key, frozenset(_taken_from(holder, place, own)))


def _taken_from(holder: ast.expr, place: Place, own: Places) -> Iterator[str]:
    """The keys under which a mapping is found in another."""
    held = place.names.held(holder)
    yield from filter(None, [_key_of(held)])
    if isinstance(held, ast.Name) and held.id in place.parameters:
        for caller, call in own.calls_of(place.name):
            value = place.given(call).get(held.id) if own.called(call, caller) in (place, None) else None
            yield from filter(None, [_key_of(caller.names.held(value))] if value is not None else [])


def _key_of(node: ast.expr) -> str:
    if isinstance(node, ast.Subscript):
        return text_of(node.slice)
    return text_of(node.args[0]) if called_name(node) in ASKS and node.args else ""  # type: ignore[attr-defined]


def _are_one(one: _Asked, value: ast.expr) -> bool:
    """Whether what is asked goes to what an entry was taken of: `set_rng_state` and `get_rng_state`, an attribute."""
    made = {_side(dotted(call.func)) for call in calls_in(value)} | {dotted(value) if "." in dotted(value) else ""}
    calls = [node for node in one.place.nodes if isinstance(node, ast.Call)]
    given = [(_side(dotted(call.func)), each) for call in calls for each in call.args]
    given += [(dotted(target), value) for target, value in assignments_in(one.place.nodes)]
    return any(name in made - {""} and contains(each, one.node) for name, each in given)


def _side(name: str) -> str:
    """What a pair of functions is called that save and load one thing: `torch.rng_state`."""
    before, _, last = name.rpartition(".")
    stripped = SIDES.sub("", last)
    return f"{before}.{stripped}" if stripped != last else ""

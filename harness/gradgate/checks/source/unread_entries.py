"""Entries of a checkpoint that what goes on from it leaves out, though others ask their mappings for such a key."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gradgate.checks.source.objects_in_turn import holds_optimizer_in_turn
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import holds_optimizer, keys_read
from gradgate.checks.source.saved_mappings import Saved, is_record
from gradgate.checks.source.trainer import called_name, dotted, given_by, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in

STATE = re.compile(r"(^|_)(best|lowest|highest|patience|bad|stale|since|wait)(_|$)", re.IGNORECASE)
OF_RUN = re.compile(r"config|cfg|args|hparams|meta|version|^model$|^ema$", re.IGNORECASE)
READS = ("get", "pop")
MOST = 0.5  # of the entries, which a function asks for that goes on from them
DEPTH = 2  # calls that are followed


@dataclass(frozen=True)
class Reader:
    """A function that goes on from a checkpoint, and what it asks one for.

    Args:
        place: the function.
        node: the last place where it asks.
        keys: that it and the functions that it calls ask for.
        whole: whether these are all: the mapping goes nowhere else.
    """

    place: Place
    node: ast.expr
    keys: frozenset[str]
    whole: bool


def left_out(saved: list[Saved], own: Places) -> Iterator[tuple[Saved, Reader, list[str]]]:
    """The entries that change in training and that no function asks for which loads the optimizer of the same file.

    A mapping belongs to the functions that read most of its entries: of the same class, or of the same file where it is
    made in none; of the whole trainer where there is one mapping.
    """
    for one in saved:
        if not holds_optimizer(one.entries.values()):
            continue
        readers = [reader for place in own.functions for reader in _readers(place, set(one.entries), own)]
        mine = [reader for reader in readers if _belongs(one, reader.place)] or (readers if len(saved) == 1 else [])
        lost = [key for key, value in one.entries.items() if _changes(key, value)]
        lost = [key for key in lost if not any(key in reader.keys for reader in mine)]
        if mine and lost and all(reader.whole for reader in mine):
            yield one, mine[0], lost


def misnamed(saved: list[Saved], own: Places) -> Iterator[tuple[Saved, Reader, ast.expr, str, str]]:
    """The keys that a function which goes on from a checkpoint asks for only where they are there, and that nothing
    writes, where an entry that is called alike, or holds the same object, is asked for nowhere: saved, reader, where
    it asks, the key, and the entry."""
    nodes = [node for file in {place.file: None for place in own.all} for node in file.nodes] if saved else []
    read, written = keys_read(nodes), set(_keys_written(nodes))
    for one in saved:
        lost = {key: value for key, value in one.entries.items() if key not in read and not is_record(key, value)}
        turns = _kept_in_turn(one, own) if lost else set[str]()
        if not lost or not (turns or holds_optimizer(one.entries.values())):
            continue
        readers = [reader for place in own.functions for reader in _readers(place, set(one.entries), own, turns)]
        for reader in [one_of for one_of in readers if _belongs(one, one_of.place)] or readers:
            seen = set[str]()
            for _, node, key in _asked(reader.place.nodes):
                if isinstance(node, ast.Subscript) or key is None or key in written or key in seen:
                    continue
                seen.add(key)
                alike = [name for name, value in lost.items() if _are_alike(key, name, value, reader.place)]
                if alike:
                    yield one, reader, node, key, alike[0]


def _kept_in_turn(one: Saved, own: Places) -> set[str]:
    """The entries for which the states of objects are asked in turn, an optimizer's among them."""
    keys = {
        key
        for key, value in one.entries.items()
        if isinstance(value, ast.DictComp | ast.ListComp) and "state_dict" in map(called_name, ast.walk(value))
    }
    places = [place for place in own.functions if keys and place.file is one.file and place.name == one.function]
    return keys if any(holds_optimizer_in_turn(place, own) for place in places) else set()


def _keys_written(nodes: list[ast.AST]) -> Iterator[str]:
    """The keys of mappings, and what is put into one."""
    for node in nodes:
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Dict):
            keys = node.keys
        elif isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            keys = [node.slice]
        elif isinstance(node, ast.Call):
            yield from (word.arg for word in node.keywords if word.arg)
        yield from (text for key in keys if key is not None and (text := _text(key)))


def _are_alike(key: str, name: str, value: ast.expr, place: Place) -> bool:
    """Whether a key and an entry have a word in common, or the same object."""
    words = [set(text.lower().split("_")) - {"state", "dict"} for text in (key, name)]
    if words[0] & words[1]:
        return True
    saved = value.func.value if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) else value
    of = dotted(saved)
    for node in place.nodes if "." in of else ():
        text = ast.unparse(node) if isinstance(node, ast.Assign | ast.Expr) else ""
        if repr(key) in text and re.search(rf"^{re.escape(of)}(\.load_state_dict\(| = )", text):
            return True
    return False


def _belongs(one: Saved, place: Place) -> bool:
    """Whether a function is of the class in which a mapping is made, or both are of none, in one file."""
    owners = [node for node in one.file.nodes if isinstance(node, ast.ClassDef)]
    owners = [owner for owner in owners if owner.lineno <= one.call.lineno <= (owner.end_lineno or owner.lineno)]
    return place.file is one.file and (place.owner in owners if owners else place.owner is None)


def _changes(key: str, value: ast.expr) -> bool:
    """Whether an entry holds what changes in training: another object's state, or what is called after the best."""
    if OF_RUN.search(key):
        return False
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr == "state_dict":
        return True
    return bool(STATE.search(key)) and not isinstance(value, ast.Constant)


def _readers(place: Place, keys: set[str], own: Places, turns: Collection[str] = ()) -> Iterator[Reader]:
    """A function for each of its names that it asks for most of some keys, an optimizer's among them, or that of
    objects that are saved in turn."""
    if not place.file.has("load_state_dict"):
        return
    asked: dict[str, list[ast.expr]] = {}
    for name, node, _ in _asked(place.nodes):
        asked.setdefault(name, []).append(node)
    for name, nodes in asked.items():
        found, whole = _keys_of(name, place, own, DEPTH)
        if len(found & keys) > MOST * len(keys) and any("opt" in key.lower() or key in turns for key in found & keys):
            yield Reader(place, max(nodes, key=lambda node: node.lineno), frozenset(found), whole)


def _asked(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.expr, str | None]]:
    """The names that are asked for a key, and the key; None: one that is not written down."""
    for node in nodes:
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load) and dotted(node.value):
            yield dotted(node.value), node, _text(node.slice)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in READS
            and node.args
        ):
            yield dotted(node.func.value), node, _text(node.args[0])
        elif isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn):
            yield dotted(node.comparators[0]), node, _text(node.left)


def _text(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


def _keys_of(name: str, place: Place, own: Places, depth: int) -> tuple[set[str], bool]:
    """The keys that a name's mapping is asked for, there or where it is handed on, and whether these are all."""
    found: set[str] = set()
    seen: set[int] = set()
    whole = True
    for asked, node, key in _asked(place.nodes):
        if asked == name:
            whole &= key is not None
            found |= {key} if key is not None else set()
            seen |= set(map(id, ast.walk(node)))
    for target, value in assignments_in(place.nodes):
        if dotted(target) == name:
            seen |= {*map(id, ast.walk(target)), *map(id, ast.walk(value))}
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        called = own.called(call, place) if any(dotted(each) == name for each in given_by(call)) and depth else None
        for inside, given in called.given(call).items() if called is not None else ():
            if dotted(given) == name and called is not None:
                more, all_seen = _keys_of(inside, called, own, depth - 1)
                found |= more
                whole &= all_seen
                seen.add(id(given))
    used = (node for node in nodes_in(place.function.body, *OTHERS) if dotted(node) == name)
    return found, whole and all(id(node) in seen for node in used)

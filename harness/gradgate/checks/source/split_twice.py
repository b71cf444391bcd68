"""Stages of a trainer that split the same rows otherwise, so that one trains on what the other holds out."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations

from gradgate.checks.source.evaluation_names import EVALUATION
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, defaults_of, last_name, places_of

SPLITS = re.compile(r"(^|_)(split|partition|hold_?out)(_|$)", re.IGNORECASE)
NO_ROWS = re.compile(r"text|str|head|line|path|chunk|name")
SEEDS = re.compile(r"(^|\.)(Random|RandomState|default_rng|manual_seed|SeedSequence)$")
SEED = re.compile(r"(^|_)(seed|random_state|rng|generator)$")
SHARE = re.compile(r"frac|ratio|share|size|portion|percent|test_size|lengths", re.IGNORECASE)


@dataclass(frozen=True)
class Split:
    """A call that splits rows, of which some are held out.

    Args:
        place: the function.
        call: itself.
        rows: what it splits, as far as it is known by a name or a call.
        given: its seed and its share, as they are written; what a default gives them too.
    """

    place: Place
    call: ast.Call
    rows: str
    given: Mapping[str, str]


def split_otherwise(own: Places) -> Iterator[tuple[Split, Split, str]]:
    """Two splits of the same rows in two functions, with what differs: the seed, or a share that is written down."""
    found: dict[str, list[Split]] = {}
    for place in own.functions:
        for call in _splits(place):
            rows = _rows(call, place, own)
            if rows:
                found.setdefault(called_name(call), []).append(Split(place, call, rows, _given(call, place, own)))
    for same in found.values():
        for one, other in combinations(same, 2):
            if one.place is other.place or one.rows != other.rows:
                continue
            for what in sorted(one.given.keys() & other.given.keys()):
                if one.given[what] != other.given[what] and _tells(what, one.given[what], other.given[what]):
                    yield one, other, what
                    break


def _splits(place: Place) -> Iterator[ast.Call]:
    """The calls of a function that split rows in two or three, one of them by its name held out."""
    for target, value in assignments_in(place.nodes):
        if not (isinstance(value, ast.Call) and isinstance(target, ast.Tuple | ast.List) and value.args):
            continue
        name = called_name(value)
        names = [last_name(part) for part in places_of(target)]
        of_value = isinstance(value.func, ast.Attribute) and name in ("split", "partition", "tensor_split")
        if SPLITS.search(name) and not of_value and not NO_ROWS.search(name) and any(map(EVALUATION.search, names)):
            yield value


def _rows(call: ast.Call, place: Place, own: Places) -> str:
    """What is split, the same wherever it stands; empty: not known.

    A name is followed to what it is given in the function; an argument to what all known callers give it.
    """
    rows = call.args[0]
    held = place.names.held(rows)
    if held is not rows:
        return _text(held) if isinstance(held, ast.Call | ast.Attribute | ast.Subscript) else ""
    if isinstance(rows, ast.Name) and rows.id in place.parameters:
        given = {_text(where.names.held(value)) for where, value in own.values_given(place, rows.id)}
        return rows.id if not given else given.pop() if len(given) == 1 else ""
    return _text(rows) if isinstance(rows, ast.Name | ast.Attribute) else ""


def _text(node: ast.expr) -> str:
    """An expression as it is written, each chain of names by its last."""
    if isinstance(node, ast.Name | ast.Attribute):
        return last_name(node)
    if isinstance(node, ast.Call):
        return f"{called_name(node)}({', '.join(map(_text, [*node.args, *(word.value for word in node.keywords)]))})"
    if isinstance(node, ast.BinOp):
        return f"{_text(node.left)} {type(node.op).__name__} {_text(node.right)}"
    return last_name(node) if isinstance(node, ast.Subscript) and last_name(node) else ast.unparse(node)


def _given(call: ast.Call, place: Place, own: Places) -> dict[str, str]:
    """The seed and the share that a call gives, or leaves to a default that is written down."""
    called = own.called(call, place)
    given: dict[str, ast.expr] = {word.arg: word.value for word in call.keywords if word.arg}
    if called is not None:
        defaults = {each.arg: value for each, value in defaults_of(called.function.args)}
        given = defaults | called.given(call)
    found: dict[str, str] = {}
    for name, value in given.items():
        if SEED.search(name):
            found["seed"] = _text(_seed(value, place))
        elif SHARE.search(name):
            found["share"] = _text(place.names.held(value))
    return found


def _seed(value: ast.expr, place: Place) -> ast.expr:
    """What a generator is seeded with, or the seed itself."""
    held = place.names.held(value)
    for part in ast.walk(held):
        if isinstance(part, ast.Call) and SEEDS.search(dotted(part.func)) and part.args:
            return place.names.held(part.args[0])
    return held


def _tells(what: str, one: str, other: str) -> bool:
    """Whether two texts say that two values differ: numbers, or a seed and the same one with something added."""
    numbers = [re.fullmatch(r"-?[\d.]+(e-?\d+)?", text) for text in (one, other)]
    if all(numbers):
        return float(one) != float(other)
    if what != "seed":
        return False
    moved = [text.partition(" Add ")[0] for text in (one, other)]
    return moved[0] == moved[1]

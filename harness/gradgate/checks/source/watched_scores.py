"""The names of the scores that a trainer goes by, for the checks that ask whether a smaller one is better."""

from __future__ import annotations

import ast
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, defaults_of, last_name
from gradgate.subjects.argument_calls import argument_call

WATCHED = re.compile(
    r"(^|_)(monitor(ed)?|watch(ed)?|metric_for_best_model|(best|select(ion)?|checkpoint|track(ed)?|patience|keep"
    r"|(early_)?stop(ping)?)_(metric|on|by))(_?(name|key|metric))?$"
)


def watched_in(own: Places, contents: Sequence[Any]) -> Iterator[str]:
    """The names of scores that a trainer goes by, or may be told to: of a property, a setting or an argument that is
    called so, and of those that such a one is held against.

    Args:
        own: the trainer's functions.
        contents: of its YAML files.
    """
    settings = _settings(own)
    for place in own.all:
        for name, value in _given(place):
            if WATCHED.search(name) or name in settings:
                yield from _texts(value)
        for name in filter(WATCHED.search, place.parameters):
            yield from (text for _, value in own.values_given(place, name, made=True) for text in _texts(value))
        for node in place.nodes:
            yield from _allowed(node, own)
    for field in _fields(own):
        name = dotted(field.target) if isinstance(field, ast.AnnAssign) else ""
        if isinstance(field, ast.AnnAssign) and (WATCHED.search(name) or name in settings):
            yield from _literals(field.annotation)
        for target, value in assignments_in([field]):
            if WATCHED.search(last_name(target)) or last_name(target) in settings:
                yield from _texts(value)
    for content in contents:
        yield from _of_file(content, settings)


def _settings(own: Places) -> set[str]:
    """The fields that something watched is taken from, whatever they are called: `monitor=cfg.stage2.target`."""
    taken = set[str]()
    for place in own.all:
        values = [value for name, value in _given(place) if WATCHED.search(name)]
        for name in filter(WATCHED.search, place.parameters):
            values += [value for _, value in own.values_given(place, name, made=True)]
        taken |= {value.attr for value in values if isinstance(value, ast.Attribute)}
    fields = {dotted(field.target) for field in _fields(own) if isinstance(field, ast.AnnAssign)}
    return taken & fields


def _fields(own: Places) -> Iterator[ast.stmt]:
    return (field for same in own.classes.values() for owner in same for field in owner.body)


def named_to(place: Place, test: ast.expr, own: Places) -> Iterator[str]:
    """The names of scores that a function is given for the arguments that a condition asks."""
    for name in {part.id for part in ast.walk(test) if isinstance(part, ast.Name)} & set(place.parameters):
        yield from (
            text for each, value in defaults_of(place.function.args) if each.arg == name for text in _texts(value)
        )
        for _, value in own.values_given(place, name, made=True):
            yield from _texts(value)
            if isinstance(value, ast.Attribute):
                of_field = [given for to, given in assignments_in(_fields(own)) if last_name(to) == value.attr]
                yield from (text for given in of_field for text in _texts(given))


def _given(place: Place) -> Iterator[tuple[str, ast.expr]]:
    """What a function gives names, arguments and what it gives back, each with its name."""
    yield from ((last_name(target), value) for target, value in assignments_in(place.nodes))
    yield from ((each.arg, value) for each, value in defaults_of(place.function.args))
    for node in place.nodes:
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from ((str(key.value), value) for key, value in pairs if isinstance(key, ast.Constant))
        elif isinstance(node, ast.Call):
            yield from ((word.arg or "", word.value) for word in node.keywords)
            if called_name(node) in ("get", "setdefault", "getattr") and len(node.args) > 1:
                yield str(getattr(node.args[-2], "value", "")), node.args[-1]
            if (argument := argument_call(node)) is not None:
                yield from (
                    (argument.name, argument.words[each]) for each in ("default", "choices") if each in argument.words
                )
        elif isinstance(node, ast.Return) and node.value is not None:
            yield place.name, node.value


def _allowed(node: ast.AST, own: Places) -> Iterator[str]:
    """The names that a setting is held against: by `in`, or in a call that is given both."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.In | ast.NotIn):
        parts = [node.left, node.comparators[0]]
    else:
        parts = list(node.args) if isinstance(node, ast.Call) else []
    if any(WATCHED.search(last_name(part)) for part in parts):
        for part in parts:
            many = _constant(part, own)
            if isinstance(many, ast.Tuple | ast.List | ast.Set | ast.Dict):
                yield from _texts(many)


def _constant(node: ast.expr, own: Places) -> ast.expr:
    """What a name holds that the top level of a file gives it."""
    if not isinstance(node, ast.Name) or not node.id.isupper():
        return node
    tops = (place for place in own.all if place.is_top)
    held = [value for place in tops for target, value in assignments_in(place.nodes) if dotted(target) == node.id]
    return held[0] if len(held) == 1 else node


def _texts(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value
    elif isinstance(value, ast.Tuple | ast.List | ast.Set):
        yield from (text for each in value.elts for text in _texts(each))
    elif isinstance(value, ast.Dict):
        yield from (text for key in value.keys if key is not None for text in _texts(key))
    elif isinstance(value, ast.Call) and dotted(value.func).rpartition(".")[2] in ("Field", "field"):
        firsts = [*value.args[:1], *(word.value for word in value.keywords if word.arg == "default")]
        yield from (text for each in firsts for text in _texts(each))


def _literals(annotation: ast.expr) -> Iterator[str]:
    """The texts that `Literal["held_loss", "held_ce"]` allows."""
    for part in ast.walk(annotation):
        if isinstance(part, ast.Subscript) and dotted(part.value).endswith("Literal"):
            yield from _texts(part.slice)


def _of_file(content: Any, settings: Container[str]) -> Iterator[str]:
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, str) and (WATCHED.search(str(key)) or str(key) in settings):
            yield value
        yield from _of_file(value, settings)

"""Which setting an expression of a trainer's source is, and what names a setting is held to before it is used."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import TypeGuard

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.settings import SETTINGS
from gradgate.checks.source.trainer import File, dotted, given_by
from gradgate.checks.source.values import assignments_in
from gradgate.subjects.argument_calls import argument_call
from gradgate.subjects.named_values import asked_in, choices_in, last_part

OF_SETTINGS = (*SETTINGS, "section", "spec", "conf")
CASES = ("strip", "lower", "upper", "casefold")
REFUSES = re.compile(r"(^|[._])(check|require|ensure|error|fail|exit|validate|refuse|expect)", re.IGNORECASE)
BOUNDED = re.compile(r"pattern|choices|one_of|in_\(|validator|Literal|Enum|Choice")
DEPTH = 5  # names and calls that are followed


def words_of(node: ast.AST) -> set[str]:
    """The texts that stand in an expression."""
    return {part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)}


def setting_of(node: ast.expr, place: Place, own: Places, hops: int = DEPTH) -> str:
    """The name of the setting that an expression is, as it is read off a configuration; empty: it is none.

    Names are followed to what they hold, parameters to what all callers give, attributes to what its class sets.
    """
    if hops == 0:
        return ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CASES:
        return setting_of(node.func.value, place, own, hops)
    if isinstance(node, ast.Call) and dotted(node.func) == "str" and len(node.args) == 1:
        return setting_of(node.args[0], place, own, hops)
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or):
        return setting_of(node.values[0], place, own, hops)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get" and node.args:
        key = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
        return str(key) if is_of_settings(node.func.value, place, own, hops - 1) else ""
    if isinstance(node, ast.Attribute | ast.Subscript) and is_of_settings(node.value, place, own, hops - 1):
        return last_part(node)
    found = {setting_of(value, there, own, hops - 1) for value, there in _held(node, place, own)}
    return found.pop() if len(found) == 1 else ""


def is_of_settings(node: ast.expr, place: Place, own: Places, hops: int = DEPTH) -> bool:
    """Whether an expression is a configuration, or a section of one."""
    if last_part(node).lower().endswith(OF_SETTINGS):
        return True
    if hops <= 0:
        return False
    if isinstance(node, ast.Attribute | ast.Subscript) and is_of_settings(node.value, place, own, hops - 1):
        return True
    annotation = (
        place.parameters[node.id].annotation if isinstance(node, ast.Name) and node.id in place.parameters else None
    )
    if annotation is not None and ast.unparse(annotation).strip("'\"").lower().endswith(OF_SETTINGS):
        return True
    return any(is_of_settings(value, there, own, hops - 2) for value, there in _held(node, place, own))


def _held(node: ast.expr, place: Place, own: Places) -> Iterator[tuple[ast.expr, Place]]:
    if isinstance(node, ast.Name | ast.Attribute) and (held := place.names.held(node)) is not node:
        yield held, place
    elif isinstance(node, ast.Name) and node.id in place.parameters:
        yield from ((given, caller) for caller, given in own.values_given(place, node.id, made=True))
    elif isinstance(node, ast.Attribute) and dotted(node).startswith("self.") and place.owner is not None:
        for other in own.methods_of(place.owner):
            for target, value in assignments_in(other.nodes) if other.file.has(node.attr) else ():
                if dotted(target) == dotted(node):
                    yield value, other


class Refused:
    """The names that settings are held to, so that others are refused.

    Args:
        files: of the trainer.
        own: the trainer's functions.
        tables: names of mappings and registries, with words that they hold.
    """

    def __init__(self, files: tuple[File, ...], own: Places, tables: dict[str, list[str]]) -> None:
        self._declared: dict[str, list[set[str] | None]] = {}  # None: by names that are not seen
        self._tables: dict[str, set[str]] = {}
        aliases = {dotted(to): value for file in files for to, value in assignments_in(file.tree.body)}
        for file in files:
            for node in file.nodes:
                for key, words in choices_in(node):
                    if len(words) > 1:
                        self._declared.setdefault(key, []).append(set(words))
                if (argument := argument_call(node)) is not None and "choices" in argument.words:
                    choices = argument.words["choices"]
                    self._declared.setdefault(argument.name, []).append(words_of(choices) or None)
                elif isinstance(node, ast.ClassDef):
                    self._of_class(node, aliases, own)
        for place in own.all:
            if place.file.has(" in ", "["):
                self._of_function(place, tables)

    def names(self, key: str, words: set[str], table: str) -> bool:
        """Whether a setting may have no other names than some of these words, or of that table."""
        if table and key in self._tables.get(table, ()):
            return True
        return any(known is None or not words or known & words for known in self._declared.get(key, ()))

    def _of_class(self, node: ast.ClassDef, aliases: dict[str, ast.expr], own: Places) -> None:
        for field in node.body:
            if isinstance(field, ast.AnnAssign):
                named = _names(field.annotation)
                kinds = [own.classes[name][0] for name in named if name in own.classes]
                meant = [aliases[name] for name in named if name in aliases]
                told = " ".join(map(ast.unparse, (field, *meant, *(base for kind in kinds for base in kind.bases))))
                if BOUNDED.search(told) or not re.search(r"\bstr\b|\bAny\b", ast.unparse(field.annotation)):
                    within = set().union(*map(words_of, (field.annotation, *meant, *kinds)))
                    self._declared.setdefault(dotted(field.target), []).append(within or None)
            elif isinstance(field, ast.FunctionDef) and field.decorator_list:
                for word in set().union(*map(words_of, field.decorator_list)):
                    self._declared.setdefault(word, []).append(None)

    def _of_function(self, place: Place, tables: dict[str, list[str]]) -> None:
        """Comparisons with several words, or a table, where others are refused; and what looks up or raises."""
        asking = {id(node) for node in _asking(place.nodes)}
        for node in place.nodes:
            if id(node) not in asking and not (isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)):
                continue
            asked, words = asked_in(node, tables)
            key = last_part(asked if asked is None else place.names.held(asked))
            within = node.comparators[0] if isinstance(node, ast.Compare) else getattr(node, "value", node)
            if dotted(within).startswith("self."):
                continue
            if key and words:
                self._declared.setdefault(key, []).append(set(words))
            for part in ast.walk(within) if key else ():
                if isinstance(part, ast.Name | ast.Attribute):
                    self._tables.setdefault(last_part(part), set()).add(key)


def _asking(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    """What a setting has to pass: asserted, given to what checks, or asked in front of what raises otherwise."""
    raises = any(isinstance(node, ast.Raise) for node in nodes)
    for node in nodes:
        if isinstance(node, ast.Assert):
            yield from filter(_is_among, ast.walk(node.test))
        elif isinstance(node, ast.Call) and REFUSES.search(dotted(node.func)):
            yield from (part for given in given_by(node) for part in ast.walk(given) if _is_among(part))
        elif isinstance(node, ast.If | ast.IfExp):
            body = node.body if isinstance(node.body, list) else [node.body]
            inside = [part for each in body for part in ast.walk(each)]
            ends = any(
                isinstance(part, ast.Raise) or (isinstance(part, ast.Call) and _refuses(part)) for part in inside
            )
            turned = {id(part) for one in ast.walk(node.test) if isinstance(one, ast.UnaryOp) for part in ast.walk(one)}
            for part in ast.walk(node.test):
                if _is_among(part):
                    out = isinstance(part.ops[0], ast.NotIn) or id(part) in turned
                    if ends if out else (raises and not ends):
                        yield part


def _is_among(node: ast.AST) -> TypeGuard[ast.Compare]:
    return isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In | ast.NotIn)


def _refuses(call: ast.Call) -> bool:
    return bool(REFUSES.search(dotted(call.func)))


def registered_words(files: tuple[File, ...]) -> Iterator[tuple[str, list[str]]]:
    """Names of tables that a function fills under what it is given first, with the words that it is given."""
    calls = [(file, call) for file in files for call in file.nodes if isinstance(call, ast.Call) and call.args]
    for file in files:
        for function, _ in file.functions:
            given = {each.arg for each in function.args.args}
            filled = file.has(*(f"[{name}] =" for name in given))
            for target, _ in assignments_in(ast.walk(function)) if filled else ():
                if isinstance(target, ast.Subscript) and dotted(target.slice) in given and _is_shared(target.value):
                    named = (call.args[0] for _, call in calls if last_part(call.func) == function.name)
                    words = [word for each in named if isinstance(each, ast.Constant) for word in words_of(each)]
                    if words:
                        yield last_part(target.value), words


def _is_shared(table: ast.expr) -> bool:
    """Whether a table is known by its name: not one of each object of a class."""
    return bool(dotted(table)) and not dotted(table).startswith(("self.", "cls."))


def _names(node: ast.expr) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)} | words_of(node)

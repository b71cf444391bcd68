"""Names that a trainer's source holds a setting against: the values that nobody listed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

from gradgate.subjects.argument_calls import argument_call
from gradgate.subjects.own_files import own_files, text_of

_LISTS = ast.Tuple | ast.List | ast.Set
_REGISTERS = ("register", "add")
_COMMENTED = re.compile(r"^\s*(\w+)\s*(?::[^#\n]*)?=[^#\n]*#([^\n]*\|[^\n]*)$", re.MULTILINE)
_CONFIGURATIONS = ("cfg", "config", "conf", "args", "hparams", "settings")


def named_values(settings: Mapping[str, str], adapter: str = "") -> dict[str, list[str]]:
    """The names that each key is compared with, looked up by, or registered under in the trainer's modules.

    Those are the modules that are imported and lie in no installed package. `kind == "a"`, `kind in ("a", "b")`, a
    `case`, `{"a": f, "b": g}[kind]`, `TABLE[kind]` and `REGISTRY.build(kind)` with `@REGISTRY.register("a")` count,
    where `kind` is a name, an attribute or a quoted key that is the last part of the setting's, or the parameter of a
    function that is called with it; so does, alone, what says that it is all of them: a comment beside it,
    `kind: str = "a" # a | b`, the `choices` of a command-line argument, an entry `{"kind": ("a", "b")}`. A list of
    words that has what it is set to beside another of these has them all. What a key is set to need not be among
    them, as where it is what an `else` does: then names count that an attribute or entry of its section, or of a
    configuration, is compared with.

    Args:
        settings: dotted key, as `options_of` gives them -> what it is set to.
        adapter: a file whose words are not the trainer's.

    Returns:
        Key -> names, in the order of the source; none where there is none.
    """
    files = tuple(file for file in own_files() if str(file) != adapter)
    return {key: list(dict.fromkeys(_names_of(key, value, files))) for key, value in settings.items()}


def _names_of(key: str, value: str, files: tuple[Path, ...]) -> list[str]:
    """Those of one key; where a comment, or what declares its choices, lists them, no others."""
    found, tables, lists, declared = _held_against(files)
    section, _, last = f".{key}".rpartition(".")
    listed = next((words for words in declared.get(last, []) if value in words and len(words) > 1), [])
    if listed:
        return listed
    own = [words for words in tables.get(last, []) if value in words]  # another setting of that name has others
    names = [*chain.from_iterable(own)] or found.get(last, [])
    if value not in names:
        owners = {*_CONFIGURATIONS, section.rpartition(".")[2]}
        others = [word for owner in owners for word in found.get(f"{owner}.{last}", [])]
        names = [value, *(word for word in names if word in others)] if others else names
    beside = [words for words in lists if value in words and set(words) & (set(names) - {value})]
    return [*names, *chain.from_iterable(beside)]


@lru_cache(maxsize=1)
def _held_against(
    files: tuple[Path, ...],
) -> tuple[Mapping[str, list[str]], Mapping[str, list[list[str]]], list[list[str]], Mapping[str, list[list[str]]]]:
    """What each last part of a name is held against in these files: words, and lists that it is looked up in; all lists
    of words; and choices."""
    nodes = [node for file in files for node in _nodes(file)]
    tables: dict[str, list[str]] = {}
    for table, held in tables_in(nodes):
        tables.setdefault(table, []).extend(held)
    asks = [(asked, words) for asked, words in (asked_in(node, tables) for node in nodes) if words]
    found: dict[str, list[str]] = {}
    for last, name in chain((pair for ask in asks for pair in _pairs(*ask)), _handed_on(nodes, tables)):
        found.setdefault(last, []).append(name)
    looked_up: dict[str, list[list[str]]] = {}
    for asked, words in asks:
        if len(words) > 1 and (last := last_part(asked)):
            looked_up.setdefault(last, []).append(words)
    declared: dict[str, list[list[str]]] = {}
    for name, words in chain(chain.from_iterable(map(_commented, files)), chain.from_iterable(map(choices_in, nodes))):
        declared.setdefault(name, []).append(words)
    lists = [_words(node.elts) for node in nodes if isinstance(node, _LISTS)]
    return found, looked_up, lists, declared


def _nodes(file: Path) -> list[ast.AST]:
    try:
        return list(ast.walk(ast.parse(text_of(file))))
    except (ValueError, SyntaxError):
        return []


def _commented(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Words between bars in the comment of a line that sets a name."""
    for name, comment in _COMMENTED.findall(text_of(file)):
        yield name, [part.split()[0].strip("\"'`,.") for part in comment.split("|") if part.strip()]


def choices_in(node: ast.AST) -> Iterator[tuple[str, list[str]]]:
    """What a command-line argument may be, and words under a key of a mapping, where there is nothing but words."""
    if (argument := argument_call(node)) is not None:
        if isinstance(choices := argument.words.get("choices"), _LISTS):
            yield argument.name, _words(choices.elts)
    elif isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(value, _LISTS) and len(words := _words(value.elts)) == len(value.elts):
                yield from ((name, words) for name in _words([key]))


def tables_in(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, list[str]]]:
    """Names of mappings, lists and registries with words that they hold."""
    for node in nodes:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict | ast.Tuple | ast.List | ast.Set):
            yield last_part(node.targets[0]), _words(_within(node.value))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _REGISTERS:
            yield last_part(node.func.value), _words(node.args[:1])


def _handed_on(nodes: Sequence[ast.AST], tables: Mapping[str, list[str]]) -> Iterator[tuple[str, str]]:
    """What the functions that a setting is given to hold the parameter against."""
    functions = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef)}
    within = {
        name: [pair for inner in ast.walk(function) for pair in _pairs(*asked_in(inner, tables))]
        for name, function in functions.items()
    }
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        function = functions.get(last_part(call.func))
        if function is None or not within[function.name]:
            continue
        names = [each.arg for each in function.args.args]
        names = names[names[:1] in (["self"], ["cls"]) :]
        given = [*zip(call.args, names, strict=False), *((word.value, word.arg) for word in call.keywords)]
        for asked, parameter in given:
            last = last_part(asked)
            yield from ((last, word) for name, word in within[function.name] if last and name == parameter != last)


def _pairs(asked: ast.expr | None, words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word with the name of what is held against it, by its last part, and with its owner's."""
    last = last_part(asked)
    yield from ((last, word) for word in words if last)
    if isinstance(asked, ast.Attribute | ast.Subscript) and last and (owner := last_part(asked.value)):
        yield from ((f"{owner}.{last}", word) for word in words)


def asked_in(node: ast.AST, tables: Mapping[str, list[str]]) -> tuple[ast.expr | None, list[str]]:
    """What a comparison, a `match` or a look-up asks for, and the words that it holds that against."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = node.left, node.comparators[0]
        asked, against = (right, left) if isinstance(left, ast.Constant) else (left, right)
        return asked, _held(against, tables) if isinstance(node.ops[0], ast.In | ast.NotIn) else _words([against])
    if isinstance(node, ast.Match):
        return node.subject, _words(each for case in node.cases for each in ast.walk(case.pattern))
    if isinstance(node, ast.Subscript):
        return node.slice, _held(node.value, tables)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
        return node.args[0], _held(node.func.value, tables)
    return None, []


def _held(table: ast.expr, tables: Mapping[str, list[str]]) -> list[str]:
    return _words(_within(table)) or tables.get(last_part(table), [])


def _within(table: ast.expr) -> Sequence[ast.expr | None]:
    """The keys of a mapping, the elements of a list."""
    return table.keys if isinstance(table, ast.Dict) else table.elts if isinstance(table, _LISTS) else ()


def last_part(asked: ast.expr | None) -> str:
    """The last part of `kind`, `config.loss.kind` and `config["loss"]["kind"]`."""
    if isinstance(asked, ast.Name):
        return asked.id
    if isinstance(asked, ast.Attribute):
        return asked.attr
    words = _words([asked.slice]) if isinstance(asked, ast.Subscript) else []
    return words[0] if words else ""


def _words(nodes: Iterable[ast.AST | None]) -> list[str]:
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]

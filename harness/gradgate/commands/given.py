"""What a function that trains is given: its configuration and the rest, as the function that calls it makes them."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from gradgate.commands.backwards import calls_in, names_of, parsed
from gradgate.commands.command_line import declared_arguments, is_parser, namespace_text, words_of
from gradgate.commands.construction import (
    CONFIG,
    Construction,
    hints_of,
    keys_of,
    loaded,
    moved,
    place_root,
    place_settings,
    root_of,
)
from gradgate.commands.methods import is_of_the_trainer
from gradgate.commands.rewriting import Rewriter, alias_of, double_quoted, import_of

ENDLESS = re.compile(
    r"((?!warmup|eval|save|log)\w+_)?epochs|(max_|num_|total_|train_|n_)?(steps|iters|iterations)|\w*patience"
)
_DATA = re.compile(r"(^|_)(path|file)$")
_REFUSES = re.compile(r"^_?(validate|check|verify)")
_HOPS = 3  # names that stand for one another


@dataclass
class Given:
    """What the adapter has for it.

    Args:
        made: imports, constants and lines of `__init__`.
        known: argument -> what these lines give for it.
        config: the arguments that are configurations.
    """

    made: Construction = field(default_factory=Construction)
    known: dict[str, str] = field(default_factory=dict)
    config: list[str] = field(default_factory=list)


class Caller:
    """The lines of a module in front of a call of one of its functions.

    Args:
        module: of both.
        name: of the function that is called.
        function: it.

    Attributes:
        front: these lines.
        arguments: argument -> what the call gives for it.
        made: variable -> what it is given there, and which part of that; None: the whole.
        parser: what declares a command line that is parsed there.
    """

    def __init__(self, module: str, name: str, function: Any) -> None:
        self.module, self.name = module, name
        self.names: dict[str, Any] = vars(sys.modules[module])
        body, self.front, call = _call_in(module, name)
        own = ast.Module(body, [])
        self.parser = own if declared_arguments(own) else tree_of(module)
        self.arguments = _bound(function, call)
        self.made: dict[str, tuple[ast.expr, int | None]] = {}
        for node in self.front:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    for number, each in enumerate(target.elts if isinstance(target, ast.Tuple) else [target]):
                        if isinstance(each, ast.Name):
                            self.made[each.id] = (node.value, number if isinstance(target, ast.Tuple) else None)

    def whole(self, given: ast.expr, hops: int = _HOPS) -> str | None:
        """The adapter's text of an expression, what its names stand for in their place; None: that is not known."""
        inlined = _Inlined(self, hops)
        written = inlined.visit(ast.parse(ast.unparse(given), mode="eval").body)
        return None if inlined.unknown else double_quoted(ast.unparse(written))

    def keys(self, given: ast.expr) -> list[tuple[str, Any]]:
        """Dotted key -> default of the configuration that an expression is; empty: it is none, or of unknown keys."""
        value, index = self._source(given)
        if not isinstance(value, ast.Call):
            return []
        if _is_parsing(value):
            return [(each.name, each.default) for each in declared_arguments(self.parser)]
        found: Any = self.names.get(names_of(value.func)[0]) if names_of(value.func) else None
        if inspect.isfunction(found) and is_parser(found):
            return [(each.name, each.default) for each in declared_arguments(parsed(found))]
        kind = found if inspect.isclass(found) else _given_back(found, index)
        return list(keys_of(kind)) if kind is not None and is_of_the_trainer(kind) else []

    def validations(self, config: Sequence[str]) -> Iterator[tuple[str, str]]:
        """Calls by which the function that gives configurations refuses some, and the module to call them in."""
        places = {name: self._source(self.arguments[name]) for name in config if name in self.arguments}
        calls = {ast.unparse(value): value for value, _ in places.values() if isinstance(value, ast.Call)}
        for text, call in calls.items():
            function: Any = self.names.get(ast.unparse(call.func))
            node = parsed(function)
            returned = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)] if node else []
            if node is None or not returned or returned[-1] is None:
                continue
            parts = list(map(ast.unparse, getattr(returned[-1], "elts", [returned[-1]])))
            named = {parts[index or 0]: name for name, (value, index) in places.items() if ast.unparse(value) == text}
            for each in node.body:
                written = _refusing(each, named, function.__globals__)
                if written is not None and alias_of(function.__module__) not in config:
                    yield f"{alias_of(function.__module__)}.{written}", function.__module__

    def _source(self, given: ast.expr) -> tuple[ast.expr, int | None]:
        index = None
        for _ in range(_HOPS):
            if isinstance(given, ast.Name) and given.id in self.made:
                given, index = self.made[given.id]
        return given, index


def _refusing(node: ast.stmt, named: dict[str, str], known: dict[str, Any]) -> str | None:
    """The call of a function that looks at configurations alone and gives nothing back, as the adapter names these."""
    call = node.value if isinstance(node, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.keywords:
        return None
    given = list(map(ast.unparse, call.args))
    is_one = _REFUSES.search(call.func.id) and call.func.id in known and given and set(given) <= set(named)
    return f"{call.func.id}({', '.join(named[each] for each in given)})" if is_one else None


class _Inlined(ast.NodeTransformer):
    """Names of the caller's own with what they were given, those of its module as the adapter has them."""

    def __init__(self, caller: Caller, hops: int) -> None:
        self.caller, self.hops, self.unknown = caller, hops, False

    def visit_Call(self, node: ast.Call) -> ast.AST:
        names = self.caller.names
        found: Any = names.get(node.func.id) if isinstance(node.func, ast.Name) else None
        root = root_of(self.caller.module)
        if _is_parsing(node):
            return ast.parse(namespace_text(self.caller.parser), mode="eval").body
        if inspect.isfunction(found) and is_parser(found):
            words = words_of(parsed(found), self.caller.name, root)
            text = f"{alias_of(self.caller.module)}.{found.__name__}"
            takes = bool(inspect.signature(found).parameters)
            written = f"{text}([{', '.join(words)}])" if takes else f"parsed({text}, [{', '.join(words)}])"
            return ast.parse(written, mode="eval").body
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        made = self.caller.made.get(node.id)
        if made is not None and self.hops:
            text = self.caller.whole(made[0], self.hops - 1)
            if text is not None:
                return ast.parse(text if made[1] is None else f"{text}[{made[1]}]", mode="eval").body
        written = Rewriter(self.caller.module, self.caller.names).text(node) if made is None else None
        self.unknown |= written is None
        return ast.parse(written or node.id, mode="eval").body


def given_to(module: str, name: str, function: Any, asked: Sequence[str]) -> Given:
    """What gives the arguments of a function, as far as the source tells.

    Args:
        module: of the function.
        name: its name there.
        function: it.
        asked: the arguments that have to be given.
    """
    caller, given = Caller(module, name, function), Given()
    defaults: dict[str, dict[str, Any]] = {}
    texts = {each: _config_text(given.made, caller, each, function, defaults) for each in asked}
    given.config = [each for each in asked if texts[each] is not None]
    if given.config:
        _configure(given, caller, texts, defaults)
    made = _prepared(caller, [each for each in asked if each not in given.config], given)
    given.made.lines += made
    given.known |= {each: each for each in given.config}
    return given


def _config_text(made: Construction, caller: Caller, name: str, function: Any, defaults: dict[str, Any]) -> str | None:
    """What gives a configuration in the adapter, its keys noted; None: the argument is no configuration, or unknown."""
    passed, kind = caller.arguments.get(name), hints_of(function).get(name)
    if passed is not None and (keys := caller.keys(passed)) and (text := caller.whole(passed)) is not None:
        defaults[name] = dict(keys)
        return text
    if inspect.isclass(kind) and is_of_the_trainer(kind) and (keys := list(keys_of(kind))):
        defaults[name] = dict(keys)
        return loaded(made, kind, root_of(caller.module))
    if passed is not None and CONFIG.search(name):
        return caller.whole(passed)
    return None


def _configure(given: Given, caller: Caller, texts: dict[str, str | None], defaults: dict[str, dict[str, Any]]) -> None:
    """CONFIG, a mapping of the configurations by name, and the copies of them that a run is started with."""
    made, root = given.made, root_of(caller.module)
    made.config = True
    settings = dict(_settings(given.config, defaults, root))
    entries = list(_entries(given.config, texts))
    held = entries[0].removeprefix("**") if len(entries) == 1 else ""
    constants = f"CONFIG = {held if held.startswith('dict(') else '{' + ', '.join(entries) + '}'}"
    if "parsed(" in constants:
        made.constants.append(PARSED)
        made.imports += ["import sys", "from unittest.mock import patch"]
    place_root(made, caller.module, [constants, *settings.values()])
    made.imports += ["import argparse"] * ("argparse." in constants)
    made.constants.append(constants)
    place_settings(made, settings)
    made.lines.append("configured = gradgate.configured(CONFIG, settings)")
    made.lines += [f'{each} = configured["{each}"]' for each in given.config]
    for text, module in caller.validations(given.config):
        made.lines.append(text)
        made.imports.append(import_of(module))


PARSED = """

def parsed(parse, words):
    with patch.object(sys, "argv", ["", *words]):
        return parse()

"""


def _entries(config: list[str], texts: dict[str, str | None]) -> Iterator[str]:
    """The entries of CONFIG; several that one call gives together are one."""
    together: dict[str, list[tuple[int, str]]] = {}
    for each in config:
        whole = re.fullmatch(r"(.*)\[(\d+)\]", str(texts[each]), re.DOTALL)
        if whole:
            together.setdefault(whole[1], []).append((int(whole[2]), each))
        else:
            yield f'"{each}": {texts[each]}'
    for text, parts in together.items():
        if [number for number, _ in sorted(parts)] == list(range(len(parts))) and len(parts) > 1:
            names = ", ".join(f'"{each}"' for _, each in sorted(parts))
            yield f"**dict(zip(({names}), {text}, strict=True))"
        else:
            yield from (f'"{each}": {text}[{number}]' for number, each in parts)


def _settings(config: list[str], defaults: dict[str, dict[str, Any]], root: Path | None) -> Iterator[tuple[str, str]]:
    """What each key that a small run without an end is started with is set to, as text."""
    for name in config:
        keys = defaults.get(name, {})
        for key, value in moved(keys, root):
            yield f"{name}.{key}", value.replace(f"CONFIG.{key}", f'CONFIG["{name}"].{key}')
        for key, default in keys.items():
            word = key.rpartition(".")[2]
            if ENDLESS.fullmatch(word) and isinstance(default, int) and not isinstance(default, bool) and default:
                yield f"{name}.{key}", "1_000_000"
            is_file = isinstance(default, str) and default and _DATA.search(word)
            if is_file and root is not None and not (root / default).exists():
                yield f"{name}.{key}", f'str(Path(mkdtemp()) / "{Path(default).name}")'


def _prepared(caller: Caller, asked: list[str], given: Given) -> list[str]:
    """The caller's lines that the arguments, and what stands in front of the call, are made by."""
    names = {arg.id: name for name, arg in caller.arguments.items() if isinstance(arg, ast.Name)}
    config = {other: name for other, name in names.items() if name in given.config}
    needed = set(config) | {n for each in asked if each in caller.arguments for n in names_of(caller.arguments[each])}
    chosen: list[ast.stmt] = []
    for node in reversed(caller.front):
        targets = _targets(node)
        is_call = isinstance(node, ast.Expr) and bool(needed & set(names_of(node)))
        if (targets & needed and not targets & set(config)) or is_call:
            chosen.insert(0, node)
            needed |= set(names_of(node))
    rewriter = Rewriter(caller.module, caller.names, config)
    rewriter.imports = given.made.imports
    lines = [f"{other} = {name}" for other, name in config.items() if other != name]
    for node in chosen:
        rewriter.local |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and _is_stored(part)}
        written = rewriter.statement(node)
        if written is not None:
            lines.append(written)
        else:
            rewriter.local -= _targets(node)
    for each in asked:
        text = rewriter.text(caller.arguments[each]) if each in caller.arguments else None
        if text is not None:
            given.known[each] = text
    return lines if set(given.known) or config else []


def _targets(node: ast.stmt) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and _is_stored(part)}


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _call_in(module: str, name: str) -> tuple[list[ast.stmt], list[ast.stmt], ast.Call | None]:
    """The lines of what first calls a function in its module, those in front of the call, and that call."""
    tree = tree_of(module)
    for node in tree.body:
        is_itself = isinstance(node, ast.FunctionDef) and node.name == name
        if isinstance(node, ast.FunctionDef | ast.If) and not is_itself:
            found = _front(node.body, name)
            if found is not None:
                return node.body, *found
    return [], [], None


def _front(body: list[ast.stmt], name: str) -> tuple[list[ast.stmt], ast.Call] | None:
    for number, node in enumerate(body):
        call = next((each for each in calls_in(node) if ast.unparse(each.func) == name), None)
        if call is not None:
            for inner in (getattr(node, "body", []), getattr(node, "orelse", [])):
                found = _front(inner, name)
                if found is not None:
                    return [*body[:number], *found[0]], found[1]
            return body[:number], call
    return None


def _bound(function: Any, call: ast.Call | None) -> dict[str, ast.expr]:
    """Argument -> what a call gives for it."""
    if call is None or any(isinstance(each, ast.Starred) for each in call.args):
        return {}
    names = list(inspect.signature(function).parameters)
    return dict(zip(names, call.args, strict=False)) | {word.arg: word.value for word in call.keywords if word.arg}


def _is_parsing(node: ast.Call) -> bool:
    return isinstance(node.func, ast.Attribute) and node.func.attr in ("parse_args", "parse_known_args")


def _given_back(function: Any, index: int | None) -> type[Any] | None:
    """The class that a function gives back, by its annotation or by what its `return` was made by."""
    if not inspect.isfunction(function):
        return None
    told = hints_of(function).get("return")
    told = get_args(told)[index] if index is not None and len(get_args(told)) > index else told
    if inspect.isclass(told):
        return told
    node = parsed(function)
    values = [part.value for part in ast.walk(node) if isinstance(part, ast.Return)] if node is not None else []
    if node is None or not values:
        return None
    value = values[-1]
    if isinstance(value, ast.Tuple) and index is not None and index < len(value.elts):
        value = value.elts[index]
    made = [part.value for part in ast.walk(node) if isinstance(part, ast.Assign) and value is not None
            and ast.unparse(part.targets[0]) == ast.unparse(value)]  # fmt: skip
    names = [name for each in (value, *made) if each is not None for name in names_of(each)]
    found = [function.__globals__.get(name) for name in names]
    return next((each for each in found if inspect.isclass(each)), None)


def tree_of(module: str) -> ast.Module:
    """The syntax tree of a module; of one without a source an empty one."""
    try:
        return ast.parse(inspect.getsource(sys.modules[module]))
    except (OSError, TypeError, SyntaxError):
        return ast.Module([], [])

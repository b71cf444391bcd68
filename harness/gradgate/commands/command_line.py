"""The command line of a script, read from its `add_argument` calls: what an adapter gives in its place."""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradgate.commands.backwards import calls_in, last, parsed
from gradgate.subjects.argument_calls import ArgumentCall, argument_call

_HOPS = 2  # functions between one and what parses for it


@dataclass(frozen=True)
class Argument:
    """One argument.

    Args:
        flag: as the command line has it; of a positional one its name.
        name: of what it is parsed to.
        default: that; None: none that is written out.
        choices: the words that it may be.
        is_required: whether it has to be given.
        takes: whether a word follows.
        kind: the function that makes a value of it, by its name.
    """

    flag: str
    name: str
    default: Any
    choices: tuple[Any, ...]
    is_required: bool
    takes: bool
    kind: str


def declared_arguments(tree: ast.AST | None) -> list[Argument]:
    """The arguments that a function, or a module, declares."""
    calls = map(argument_call, calls_in(tree)) if tree is not None else ()
    return [_argument(call) for call in calls if call is not None]


def _argument(call: ArgumentCall) -> Argument:
    given, is_option = call.words, call.flag.startswith("-")
    action = _literal(given.get("action"))
    takes = action in (None, "store", "append")
    is_optional = "default" in given or _literal(given.get("nargs")) in ("?", "*")
    return Argument(
        call.flag,
        call.name,
        _literal(given.get("default")) if takes else action == "store_false",
        tuple(_literal(given.get("choices")) or ()),
        bool(_literal(given.get("required"))) if is_option else not is_optional,
        takes,
        ast.unparse(given["type"]) if "type" in given else "",
    )


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except ValueError:
        return None


def words_of(tree: ast.AST | None, stage: str, root: Path | None) -> list[str]:
    """Words that a command line has to have, as the adapter writes them, and the files that lie in the folder.

    Args:
        tree: of what declares its arguments.
        stage: whose name is chosen among words, where it is one of them.
        root: the trainer's folder; None: not known.
    """
    found = []
    for each in declared_arguments(tree):
        lies_at = root / each.default if root is not None and isinstance(each.default, str) and each.default else None
        front = [f'"{each.flag}"'] if each.flag.startswith("-") else []
        if lies_at is not None and lies_at.is_file():
            found += [*front, f'str(ROOT / "{each.default}")']
        elif each.is_required:
            found += [*front, _word(each, stage)]
    return found


def _word(given: Argument, stage: str) -> str:
    named = [each for each in given.choices if str(each) in stage.split("_")]
    chosen = [*named, *given.choices, "1" if given.kind in ("int", "float") else "..."]
    return f'"{chosen[0]}"'


def namespace_text(tree: ast.AST) -> str:
    """What parses to the defaults, as an expression; `...` for what has to be given."""
    entries = {each.name: "..." if each.is_required else repr(each.default) for each in declared_arguments(tree)}
    return f"argparse.Namespace({', '.join(f'{name}={value}' for name, value in entries.items())})"


def is_parser(function: Any, hops: int = 0) -> bool:
    """Whether a function parses the command line, or gives to what does, so many calls deep."""
    node = parsed(function)
    if node is None:
        return False
    calls = list(calls_in(node))
    if any(last(call) in ("parse_args", "parse_known_args") for call in calls):
        return True
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)] if hops else []
    called = [getattr(function, "__globals__", {}).get(name) for name in names]
    return any(inspect.isfunction(each) and each is not function and is_parser(each, hops - 1) for each in called)


def parses(function: Any) -> bool:
    """Whether calling a function reads the command line."""
    return is_parser(function, _HOPS)

"""Where the parameters of a trainer's functions come from: the calls in all of its files, for the checks that ask."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradgate.checks.source_values import OTHERS, Names, own_nodes
from gradgate.checks.trainer_source import File, Function, dotted, nodes_in


@dataclass(frozen=True, eq=False)
class Place:
    """A function of a file, or the file's top level.

    Args:
        file: it stands in.
        function: None: the top level.
        owner: the class whose method it is.
    """

    file: File
    function: Function | None = None
    owner: ast.ClassDef | None = None

    @property
    def name(self) -> str:
        """The function's; empty: the top level."""
        return self.function.name if self.function is not None else ""

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Its own nodes, without those of functions and classes in it."""
        return own_nodes(self.function) if self.function is not None else list(nodes_in(self.file.tree.body, *OTHERS))

    @cached_property
    def names(self) -> Names:
        """What its names hold."""
        body = self.file.tree.body
        whole = ast.FunctionDef("", ast.arguments([], [], None, [], [], None, []), body, [])
        return Names(self.function or whole)

    @cached_property
    def parameters(self) -> dict[str, ast.arg]:
        """By their names."""
        if self.function is None:
            return {}
        given = self.function.args
        return {each.arg: each for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)}


class Origins:
    """What functions are given, in the files of a trainer.

    Args:
        files: of the trainer.
    """

    def __init__(self, files: Sequence[File]) -> None:
        self.places = [
            place
            for file in files
            for place in (Place(file), *(Place(file, function, owner) for function, owner in file.functions))
        ]
        self._files = files

    @cached_property
    def classes(self) -> dict[str, list[ast.ClassDef]]:
        """The classes of all files, by their names."""
        found: dict[str, list[ast.ClassDef]] = {}
        for node in (node for file in self._files for node in file.nodes):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(node)
        return found

    @cached_property
    def bases(self) -> set[str]:
        """The last names of what classes are made of."""
        return {dotted(base).rpartition(".")[2] for same in self.classes.values() for one in same for base in one.bases}

    def given(self, place: Place, parameter: str) -> list[tuple[Place, ast.expr]] | None:
        """What the calls of a function give a parameter, and where; None: it may be given something else."""
        name = place.name
        if place.owner is not None and name == "__init__":
            name = place.owner.name
        if place.function is None or place.function.decorator_list or len(self._defined.get(name, [])) != 1:
            return None
        if name in self._handed_on or name in self.bases:
            return None
        found = []
        for caller, call in self._calls.get(name, []):
            value = _given(call, list(place.parameters), parameter, place.owner is not None)
            if value is None and _takes_more(call):
                return None
            found += [(caller, value)] if value is not None else []
        return found

    @cached_property
    def _defined(self) -> dict[str, list[object]]:
        found: dict[str, list[object]] = {name: list(same) for name, same in self.classes.items()}
        for place in self.places:
            if place.function is not None:
                found.setdefault(place.name, []).append(place)
        return found

    @cached_property
    def _calls(self) -> dict[str, list[tuple[Place, ast.Call]]]:
        found: dict[str, list[tuple[Place, ast.Call]]] = {}
        for place in self.places:
            for node in place.nodes:
                if isinstance(node, ast.Call) and (name := dotted(node.func).rpartition(".")[2]):
                    found.setdefault(name, []).append((place, node))
        return found

    @cached_property
    def _handed_on(self) -> set[str]:
        """The names that stand where nothing is called: in a table, as an argument."""
        nodes = [node for file in self._files for node in file.nodes]
        left_out = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        left_out |= {id(part) for node in nodes for annotation in _annotations(node) for part in ast.walk(annotation)}
        found = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in left_out}
        return found | {node.attr for node in nodes if isinstance(node, ast.Attribute) and id(node) not in left_out}


def _annotations(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
        yield node.annotation
    elif isinstance(node, Function) and node.returns is not None:
        yield node.returns


def _given(call: ast.Call, names: list[str], parameter: str, is_method: bool) -> ast.expr | None:
    named = next((word.value for word in call.keywords if word.arg == parameter), None)
    if named is not None or parameter not in names:
        return named
    at = names.index(parameter) - (is_method and names[0] in ("self", "cls"))
    before = call.args[: at + 1]
    return before[at] if 0 <= at < len(before) and not any(isinstance(one, ast.Starred) for one in before) else None


def _takes_more(call: ast.Call) -> bool:
    starred = any(isinstance(one, ast.Starred) for one in call.args)
    return starred or any(word.arg is None for word in call.keywords)

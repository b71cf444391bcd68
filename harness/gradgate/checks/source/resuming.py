"""Where a trainer's source goes on from a checkpoint: what loads an optimizer's state, and what calls that."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from gradgate.checks.source.places import places_in
from gradgate.checks.source.trainer import File, Function, calls_in, dotted
from gradgate.checks.source.values import own_nodes


class Resumes:
    """The functions of all files that load an optimizer's state, and how each file calls them.

    Args:
        files: of the trainer.
    """

    def __init__(self, files: tuple[File, ...]) -> None:
        self._loading: dict[int, set[int]] = {}  # of a file, the functions in it that load
        self._named: dict[str, list[File]] = {}  # of the name of one that loads, where it is
        self._modules = {part for file in files for part in (file.path.stem, file.path.parent.name)}
        for place in places_in(files).functions:
            if place.file.has("load_state_dict") and loads_optimizer(place.nodes):
                self._loading.setdefault(id(place.file), set()).add(id(place.function))
                self._named.setdefault(place.name, []).append(place.file)
        self._known: dict[int, dict[str, list[File]]] = {}

    def concern(self, file: File) -> bool:
        """Whether a file may go on from a checkpoint."""
        return bool(self._named) and (id(file) in self._loading or file.has(*self._named))

    def loads(self, file: File, function: Function) -> bool:
        """Whether a function loads an optimizer's state, or calls one that does."""
        return id(function) in self._loading.get(id(file), ()) or any(self._calls(file, function))

    def files(self, file: File, function: Function) -> list[File]:
        """The files of what a function calls that loads."""
        return [each for call in self._calls(file, function) for each in self._names(file)[dotted(call.func)]]

    def begins(self, file: File, function: Function, branch: ast.If) -> bool:
        """Whether a function loads in front of a branch, and not at each turn of a loop around it."""
        nodes = own_nodes(function)
        calls = [*self._calls(file, function), *loads_optimizer(nodes)]
        loops = [node for node in nodes if isinstance(node, ast.For | ast.While)]
        turns = {id(node) for loop in loops if branch in (inside := list(ast.walk(loop))) for node in inside}
        return any(call.lineno < branch.lineno and id(call) not in turns for call in calls)

    def _calls(self, file: File, function: Function) -> Iterator[ast.Call]:
        known = self._names(file)
        return (call for call in calls_in(function) if dotted(call.func) in known)

    def _names(self, file: File) -> dict[str, list[File]]:
        """What a file calls the functions that load: its own, and those that it imports from the trainer's."""
        if id(file) not in self._known:
            names = {name: [file] for name, there in self._named.items() if file in there}
            names |= {f"self.{name}": there for name, there in names.items()}
            for node in file.nodes:
                if isinstance(node, ast.ImportFrom) and (node.level or self._is_own(node.module or "")):
                    taken = {alias.asname or alias.name: alias.name for alias in node.names}
                    names |= {here: self._named[name] for here, name in taken.items() if name in self._named}
                    names |= self._of_modules(taken)
                elif isinstance(node, ast.Import):
                    own = {alias.asname or alias.name: alias.name for alias in node.names if self._is_own(alias.name)}
                    names |= self._of_modules(own)
            self._known[id(file)] = names
        return self._known[id(file)]

    def _of_modules(self, modules: dict[str, str]) -> dict[str, list[File]]:
        """The functions of modules, as they are called through these."""
        return {
            f"{here}.{name}": [file]
            for here, module in modules.items()
            for name, there in self._named.items()
            for file in there
            if file.path.stem == module.rpartition(".")[2]
        }

    def _is_own(self, module: str) -> bool:
        return module.partition(".")[0] in self._modules


def holds_optimizer(values: Iterable[ast.expr]) -> bool:
    """Whether one of the values that a mapping is made of takes an optimizer's state."""
    return any("state_dict" in text and "opt" in text.lower() for text in map(ast.unparse, values))


def loads_optimizer(nodes: Iterable[ast.AST]) -> list[ast.Call]:
    """The calls among the nodes of a function that load an optimizer's state, also by its name in a loop over names."""
    given = list(nodes)
    loads = [node for node in given if isinstance(node, ast.Call) and dotted(node.func).endswith("load_state_dict")]
    named = [
        node for node in given if isinstance(node, ast.For) and any("opt" in name.lower() for name in names_of(node))
    ]
    inside = {id(part) for loop in (named if loads else ()) for part in ast.walk(loop)}
    return [call for call in loads if id(call) in inside or "opt" in ast.unparse(call).lower()]


def names_of(loop: ast.For) -> list[str]:
    """The texts that a loop is over, where they are written down in it."""
    if not isinstance(loop.iter, ast.Tuple | ast.List | ast.Set):
        return []
    return [
        part.value for part in ast.walk(loop.iter) if isinstance(part, ast.Constant) and isinstance(part.value, str)
    ]


def keys_read(nodes: Iterable[ast.AST]) -> set[object]:
    """The keys that are read of mappings, or asked for, or that a loop is over."""
    read: set[object] = set()
    for node in nodes:
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            read.add(getattr(node.slice, "value", None))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
            read |= {getattr(part, "value", None) for part in node.args[:1]}
        elif isinstance(node, ast.Compare):
            read.add(getattr(node.left, "value", None))
        elif isinstance(node, ast.For):
            read.update(names_of(node))
    return read

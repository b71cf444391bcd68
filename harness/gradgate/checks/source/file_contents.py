"""What a trainer reads from its files, and where one file's content is laid over another's at the top level alone."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in

READERS = {
    **dict.fromkeys(("yaml.safe_load", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "safe_load"), "yaml"),
    **dict.fromkeys(("json.load", "json.loads"), "json"),
    **dict.fromkeys(("tomllib.load", "tomllib.loads", "toml.load", "tomli.load"), "toml"),
}
READS = ("safe_load", "yaml.load", "full_load", "json.load", "toml", "YAML(")
COPIES = ("dict", "deepcopy", "copy", "OrderedDict")
DUMPS = ("asdict", "model_dump", "to_dict", "dict")


@dataclass(frozen=True)
class Merge:
    """Mappings that are put into one another at the top level.

    Args:
        node: where that is.
        layers: the mappings, the last over the others.
    """

    node: ast.expr | ast.stmt
    layers: tuple[ast.expr, ...]

    @property
    def into(self) -> str:
        """What another is put into, where that has a name."""
        return dotted(self.layers[0])


class Contents:
    """The contents of files in a trainer's source.

    Args:
        own: the trainer's functions.
        whole: the classes that have sections.
    """

    def __init__(self, own: Places, whole: set[str]) -> None:
        self._own, self._whole = own, whole
        self._written: dict[int, dict[str, list[tuple[ast.AST, ast.expr, bool]]]] = {}

    def kind(self, node: ast.expr, place: Place, seen: set[int] | None = None) -> str:
        """`yaml`, `json` or `toml`, of which kind the file is whose content an expression is; empty: it is none."""
        seen = set() if seen is None else seen
        if id(node) in seen:
            return ""
        seen.add(id(node))
        kinds = (self.kind(each, where, seen) for where, each in self._same(node, place))
        return _reads(node) or next((kind for kind in kinds if kind), "")

    def _same(self, node: ast.expr, place: Place) -> Iterator[tuple[Place, ast.expr]]:
        """What an expression is, or holds at the top level, each with the function that it stands in."""
        if isinstance(node, ast.BoolOp):
            yield from ((place, each) for each in node.values)
        elif isinstance(node, ast.IfExp):
            yield from ((place, each) for each in (node.body, node.orelse))
        elif isinstance(node, ast.Name | ast.Attribute):
            yield from self._held(node, place)
            if isinstance(node, ast.Name) and node.id in place.parameters:
                yield from self._own.given_to(place, node.id) or []
        elif isinstance(node, ast.DictComp):
            over = node.generators[0].iter
            if isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr == "items":
                yield place, over.func.value
        elif isinstance(node, ast.Call) and called_name(node) in COPIES:
            method = [node.func.value] if isinstance(node.func, ast.Attribute) and not node.args else []
            more = [word.value for word in node.keywords if word.arg is None]
            yield from ((place, each) for each in (*method, *node.args[:1], *more))
        elif isinstance(node, ast.Call) and (called := self._own.called(node, place)) is not None:
            returns = (each for each in called.nodes if isinstance(each, ast.Return))
            yield from ((called, each.value) for each in returns if each.value is not None)
        else:
            yield from ((place, each) for merge in _merges_at(node) for each in merge.layers)

    def _held(self, node: ast.expr, place: Place) -> Iterator[tuple[Place, ast.expr]]:
        """What a name was given last, what was put into that, and what a loop around it gives it."""
        text = dotted(node)
        written = self._writes(place).get(text, [])
        before = [each for each in written if (each[0].end_lineno or 0) < node.lineno]  # type: ignore[attr-defined]
        last = max((at for at, each in enumerate(before) if not each[2]), default=0)
        loops = [each for each in place.nodes if isinstance(each, ast.For | ast.While) and _stands_in(node, each)]
        around = [each for each in written if any(_stands_in(each[0], loop) for loop in loops)]
        yield from ((place, value) for _, value, _ in (*before[last:], *around))
        if not written and text.startswith("self.") and place.owner is not None:
            for method in self._own.methods_of(place.owner):
                yield from ((method, value) for _, value, _ in self._writes(method).get(text, []))

    def _writes(self, place: Place) -> dict[str, list[tuple[ast.AST, ast.expr, bool]]]:
        """What each name of a function is given, by the order of its lines, and what is put into it."""
        if id(place) not in self._written:
            found: dict[str, list[tuple[ast.AST, ast.expr, bool]]] = {}
            for node in place.nodes:
                for target, value in assignments_in([node]):
                    found.setdefault(dotted(target), []).append((node, value, False))
                if isinstance(node, ast.Call | ast.AugAssign | ast.For):
                    puts = [] if isinstance(node, ast.Call) and called_name(node) != "update" else _merges_at(node)
                    for merge in puts:
                        found.setdefault(merge.into, []).append((node, merge.layers[-1], True))
            for each in found.values():
                each.sort(key=lambda one: one[0].lineno)  # type: ignore[attr-defined]
            self._written[id(place)] = found
        return self._written[id(place)]

    def has_sections(self, node: ast.expr, place: Place) -> bool:
        """Whether something is a mapping of mappings that is written down, or what a class with sections holds."""
        values = [node, *(value for _, value in self._held(node, place))]
        if isinstance(node, ast.Name) and len(values) == 1 and node.id not in place.parameters:
            values += self._constants.get(node.id, [])
        return any(self._is_of_sections(value, place) for value in values)

    def _is_of_sections(self, value: ast.expr, place: Place) -> bool:
        if isinstance(value, ast.Dict):
            return any(isinstance(each, ast.Dict) and each.keys for each in value.values)
        if not isinstance(value, ast.Call):
            return False
        if called_name(value) in COPIES and value.args and not isinstance(value.args[0], ast.Call):
            return self.has_sections(value.args[0], place)
        if called_name(value) not in DUMPS:
            return False
        method = value.func.value if isinstance(value.func, ast.Attribute) else None
        of = place.names.held(value.args[0]) if value.args else method and place.names.held(method)
        return of is not None and called_name(of) in self._whole

    @cached_property
    def _constants(self) -> dict[str, list[ast.expr]]:
        found: dict[str, list[ast.expr]] = {}
        for place in (place for place in self._own.all if place.is_top):
            for target, value in assignments_in(place.function.body):
                found.setdefault(dotted(target), []).append(value)
        return {name: values for name, values in found.items() if len(values) == 1}

    @cached_property
    def of_whole(self) -> set[int | tuple[int, str]]:
        """What classes with sections are made of: nodes by their `id`, and names, each with its function's."""
        seen: set[int | tuple[int, str]] = set()
        waiting = [(each, place) for place in self._own.all for each in self._made(place)]
        while waiting:
            node, place = waiting.pop()
            for part in ast.walk(node):
                key = (id(place), dotted(part))
                if id(part) in seen or (key[1] and key in seen):
                    continue
                seen |= {id(part), *([key] if key[1] else [])}
                if isinstance(part, ast.Name | ast.Attribute):
                    waiting += [(value, place) for _, value, _ in self._writes(place).get(key[1], [])]
                if isinstance(part, ast.Name) and part.id in place.parameters:
                    waiting += [(value, where) for where, value in self._own.given_to(place, part.id) or []]
                if isinstance(part, ast.Call) and (called := self._own.called(part, place)) is not None:
                    returns = [each.value for each in called.nodes if isinstance(each, ast.Return) and each.value]
                    waiting += [(each, called) for each in returns]
        return seen

    def _made(self, place: Place) -> Iterator[ast.expr]:
        """What a function makes a class with sections of."""
        for call in (node for node in place.nodes if isinstance(node, ast.Call)):
            given = [*call.args, *(word.value for word in call.keywords if word.arg is not None)]
            maker = dotted(call.func).split(".")
            if maker[-1] in self._whole or (
                maker[-1] == "cls" and place.owner is not None and place.owner.name in self._whole
            ):
                yield from (word.value for word in call.keywords if word.arg is None)
            elif maker[-2:-1] and maker[-2] in self._whole:
                yield from given
            elif any(dotted(each).rpartition(".")[2] in self._whole for each in given):
                yield from (each for each in given if dotted(each).rpartition(".")[2] not in self._whole)


def whole_files(own: Places, whole: set[str], shares_sections: bool) -> Iterator[tuple[Place, ast.expr | ast.stmt]]:
    """Where the whole content of a file is put over another's, or over defaults, that has sections."""
    contents = Contents(own, whole)
    for place in own.all:
        if not place.file.has("update(", "**", "|", ".items()", "ChainMap"):
            continue
        merges = [merge for node in place.nodes for merge in _merges_at(node)]
        if merges and _goes_down(place, merges):
            continue
        if any(all(map(_is_item, merge.layers)) for merge in merges):
            continue  # sections are merged, too
        for merge in merges:
            kind = contents.kind(merge.layers[-1], place)
            if kind and _replaces(merge, kind, place, contents, shares_sections):
                yield place, merge.node


def _replaces(merge: Merge, kind: str, place: Place, contents: Contents, shares_sections: bool) -> bool:
    below = merge.layers[:-1]
    if any(contents.has_sections(each, place) for each in below):
        return True
    kinds = {contents.kind(each, place) for each in below} - {""}
    if not kinds:
        return False
    is_whole = bool({id(merge.node), (id(place), merge.into)} & contents.of_whole)
    return is_whole or (shares_sections and kind == "yaml" and "yaml" in kinds)


def share_sections(files: Sequence[tuple[Path, Any]]) -> bool:
    """Whether two files have a mapping under the same key of their top level."""
    sections = [
        {key for key, value in content.items() if isinstance(value, Mapping) and value}
        for path, content in files
        if isinstance(content, Mapping) and not any(part.startswith(".") and part != ".." for part in path.parts)
    ]
    return any(one & other for one, other in combinations(sections, 2))


def _merges_at(node: ast.AST) -> Iterator[Merge]:
    """The mappings that a node puts into one another."""
    if isinstance(node, ast.Dict):
        parts = [value for key, value in zip(node.keys, node.values, strict=True) if key is None]
        if len(parts) > 1:
            yield Merge(node, tuple(parts))
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield Merge(node, (node.left, node.right))
    elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr):
        yield Merge(node, (node.target, node.value))
    elif isinstance(node, ast.For):
        yield from _merges_of_loop(node)
    elif isinstance(node, ast.Call):
        more = [word.value for word in node.keywords if word.arg is None]
        name = called_name(node)
        if name == "update" and isinstance(node.func, ast.Attribute) and len([*node.args, *more]) == 1:
            yield Merge(node, (node.func.value, *node.args, *more))
        elif dotted(node.func) == "dict" and node.args and more:
            yield Merge(node, (*node.args, *more))
        elif name == "ChainMap" and len(node.args) > 1:
            yield Merge(node, tuple(reversed(node.args)))


def _merges_of_loop(node: ast.For) -> Iterator[Merge]:
    """`for key, value in recipe.items(): base[key] = value`."""
    over, target, only = node.iter, node.target, node.body[0] if len(node.body) == 1 else None
    if (
        isinstance(only, ast.If)
        and len(only.body) == 1
        and not only.orelse
        and "isinstance" not in ast.unparse(only.test)
    ):
        only = only.body[0]
    if not (isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr == "items"):
        return
    into = only.targets[0] if isinstance(only, ast.Assign) else None
    if not (isinstance(target, ast.Tuple) and isinstance(into, ast.Subscript) and isinstance(only, ast.Assign)):
        return
    if [dotted(into.slice), dotted(only.value)] == [dotted(each) for each in target.elts]:
        yield Merge(only, (into.value, over.func.value))


def _reads(node: ast.AST) -> str:
    """Of which kind the file is that a call reads; empty: it reads none."""
    if not isinstance(node, ast.Call):
        return ""
    is_yaml = called_name(node) == "load" and isinstance(node.func, ast.Attribute) and "YAML(" in ast.unparse(node.func)
    return "yaml" if is_yaml else READERS.get(dotted(node.func), "")


def _is_item(node: ast.expr) -> bool:
    """Whether something is an item of a mapping, or what stands in one's place where there is none."""
    node = node.values[0] if isinstance(node, ast.BoolOp) else node
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return node.func.attr in ("get", "setdefault", "pop")
    return isinstance(node, ast.Subscript) or (isinstance(node, ast.Name) and node.id in ("value", "v", "section"))


def _goes_down(place: Place, merges: Sequence[Merge]) -> bool:
    """Whether a function calls itself for a section; what it reads another file by is a layer as a whole."""
    layers = {id(each) for merge in merges for layer in merge.layers for each in (layer, place.names.held(layer))}
    calls = (node for node in place.nodes if isinstance(node, ast.Call) and id(node) not in layers)
    return any(dotted(node.func).removeprefix("self.").removeprefix("cls.") == place.name for node in calls)


def _stands_in(node: ast.AST, loop: ast.AST) -> bool:
    return loop.lineno <= node.lineno and (node.end_lineno or 0) <= (loop.end_lineno or 0)  # type: ignore[attr-defined]

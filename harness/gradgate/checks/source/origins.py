"""What a number of a trainer's source is made by: through names, mappings, and the functions that give it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.given_scores import Given
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, last_name

THROUGH = ("item", "cpu", "detach", "numpy", "tolist", "float", "double", "clone", "squeeze")  # the same number
AROUND = ("float", "round", "math.exp", "np.exp", "numpy.exp", "torch.exp")
MEANS = ("sum", "fsum", "mean", "fmean", "min")
HOPS = 16
Key = str | int


@dataclass(frozen=True)
class Origin:
    """An expression that a number may be, and where it stands.

    Args:
        node: no name and no call of the trainer's, as far as these are known.
        place: the function.
        by_name: whether a name held it there.
    """

    node: ast.expr
    place: Place
    by_name: bool = False


@dataclass(frozen=True)
class _Way:
    """How far a number has been followed.

    Args:
        hops: that are left.
        added: as `Origins.of` has it.
        seen: what has been looked at, by its `id` and the keys that are asked of it.
    """

    hops: int
    added: bool
    seen: dict[tuple[int, tuple[Key, ...]], ast.expr]

    def on(self, node: ast.expr, keys: tuple[Key, ...]) -> _Way | None:
        """The way from a node; None: it ends, or has been there."""
        if not self.hops or (id(node), keys) in self.seen:
            return None
        self.seen[id(node), keys] = node
        return _Way(self.hops - 1, self.added, self.seen)


class Origins:
    """The expressions that numbers may be.

    Args:
        own: the functions of the trainer.
        given: the calls of those that keep a best; None: arguments are followed by what is known to be called alone.
        around: calls that are looked into.
    """

    def __init__(self, own: Places, given: Given | None = None, around: tuple[str, ...] = AROUND) -> None:
        self._own, self._given, self._around = own, given, around
        self._of = {id(place.function): place for place in own.functions}

    def of(self, node: ast.expr, place: Place, *, added: bool = False) -> Iterator[Origin]:
        """What a number may be.

        Args:
            node: the number.
            place: where it stands.
            added: whether what is added to a name, or appended to a list, is what it is made of, and a division what is
                divided.
        """
        yield from self._follow(node, place, (), _Way(HOPS, added, {}))

    def _follow(self, node: ast.expr, place: Place, keys: tuple[Key, ...], before: _Way) -> Iterator[Origin]:
        if (way := before.on(node, keys)) is None:
            return
        if isinstance(node, ast.IfExp):
            if not way.added:
                yield Origin(node, place)
            for part in (node.body, node.orelse):
                yield from self._follow(part, place, keys, way)
        elif isinstance(node, ast.Name):
            yield from self._named(node, place, keys, way)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield from self._part(node, node.value, node.slice.value, place, keys, way)
        elif isinstance(node, ast.Attribute):
            yield from self._part(node, node.value, node.attr, place, keys, way)
        elif isinstance(node, ast.Dict | ast.Tuple | ast.List) and keys:
            for part in _at(node, keys[0]):
                yield from self._follow(part, place, keys[1:], way)
        elif isinstance(node, ast.Call):
            yield from self._called(node, place, keys, way)
        elif way.added and isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Mult):
            for side in (node.left, node.right)[: 1 if isinstance(node.op, ast.Div) else 2]:
                yield from self._follow(side, place, keys, way)
        elif way.added and isinstance(node, ast.ListComp | ast.GeneratorExp):
            yield from self._follow(node.elt, place, keys, way)
        elif not keys:
            yield Origin(node, place)

    def _part(
        self, node: ast.expr, holder: ast.expr, key: object, place: Place, keys: tuple[Key, ...], way: _Way
    ) -> Iterator[Origin]:
        """An item or an attribute: of what its holder is made of, or assigned where it stands."""
        text = ast.unparse(node)
        for value in _values(text, place, way.added):
            yield from self._follow(value, place, keys, way)
        computed = [each for each in self._own.methods(str(key)) if _is_property(each)]
        if isinstance(node, ast.Attribute) and len(computed) == 1:
            for value in computed[0].returned:
                yield from self._follow(value, computed[0], keys, way)
        elif isinstance(key, str | int) and dotted(holder) != "self":
            yield from self._follow(holder, place, (key, *keys), way)

    def _named(self, node: ast.Name, place: Place, keys: tuple[Key, ...], way: _Way) -> Iterator[Origin]:
        for target, value in assignments_in(place.nodes):
            if isinstance(target, ast.Name) and target.id == node.id:
                for origin in self._follow(value, place, keys, way):
                    yield Origin(origin.node, origin.place, by_name=True) if origin.node is value else origin
            elif isinstance(target, ast.Tuple | ast.List):
                for at, part in enumerate(target.elts):
                    if isinstance(part, ast.Name) and part.id == node.id:
                        yield from self._follow(value, place, (at, *keys), way)
        for value in _raised(node.id, place) if way.added else ():
            yield from self._follow(value, place, keys, way)
        if node.id in place.parameters:
            for where, value in self._arguments(place, node.id):
                yield from self._follow(value, where, keys, way)

    def _arguments(self, place: Place, name: str) -> Iterator[tuple[Place, ast.expr]]:
        known = list(self._own.values_given(place, name))
        yield from known
        if self._given is not None and not known:
            for function, value in self._given.to(place.function, place.owner, name):
                if id(function) in self._of:
                    yield self._of[id(function)], value

    def _called(self, node: ast.Call, place: Place, keys: tuple[Key, ...], way: _Way) -> Iterator[Origin]:
        name = called_name(node)
        inner = node.func.value if isinstance(node.func, ast.Attribute) else None
        if name == "get" and inner is not None and node.args and isinstance(node.args[0], ast.Constant):
            key = node.args[0].value
            yield from self._part(ast.Subscript(inner, node.args[0]), inner, key, place, keys, way)
        elif name in THROUGH and inner is not None and not node.args:
            yield from self._follow(inner, place, keys, way)
        elif node.args and (
            dotted(node.func) in self._around or (way.added and name in ("sum", "mean", "fmean", "min"))
        ):
            yield from self._follow(node.args[0], place, keys, way)
        elif (called := self._own.called(node, place)) is not None and called.name != "__init__":
            for returned in called.returned:
                yield from self._follow(returned, called, keys, way)
        elif keys and isinstance(keys[0], str) and (value := _given(node, keys[0])) is not None:
            yield from self._follow(value, place, keys[1:], way)
        elif not keys:
            yield Origin(node, place)


def _is_property(place: Place) -> bool:
    return any(last_name(each) in ("property", "cached_property") for each in place.function.decorator_list)


def _values(text: str, place: Place, added: bool) -> Iterator[ast.expr]:
    """What is assigned to an item or an attribute as it is written, and what is added to it."""
    for target, value in assignments_in(place.nodes):
        if not isinstance(target, ast.Name) and ast.unparse(target) == text:
            yield value
    if added:
        yield from _raised(text, place)


def _raised(text: str, place: Place) -> Iterator[ast.expr]:
    """What is added to a name, and what a list of this name is given."""
    for node in place.nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and ast.unparse(node.target) == text:
            yield node.value
        elif isinstance(node, ast.Call) and dotted(node.func) == f"{text}.append":
            yield from node.args[:1]


def _at(node: ast.Dict | ast.Tuple | ast.List, key: Key) -> Iterator[ast.expr]:
    """The parts of a mapping or a tuple at a key."""
    if isinstance(node, ast.Dict):
        for name, value in zip(node.keys, node.values, strict=True):
            if isinstance(name, ast.Constant) and name.value == key:
                yield value
    elif isinstance(key, int):
        yield from node.elts[key : key + 1]


def _given(call: ast.Call, name: str) -> ast.expr | None:
    """What a call gives a field by its name."""
    return next((word.value for word in call.keywords if word.arg == name), None)


def loops_over_data(place: Place) -> bool:
    """Whether a function has no loop, or one that goes over something else than a number of turns."""
    loops = [node.iter for node in place.nodes if isinstance(node, ast.For | ast.comprehension)]
    return not loops or any(last_name(getattr(over, "func", over)) != "range" for over in loops)

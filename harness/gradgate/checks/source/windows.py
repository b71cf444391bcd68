"""Windows of a trainer's source: lists of the batches of one update each, who makes them, and where they arrive."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted, given_for
from gradgate.checks.source.values import assignments_in, contains, is_empty_list, is_true

PASSES_ON = ("enumerate", "tqdm", "trange", "list", "tuple", "iter", "progress", "track", "Prefetcher", "prefetch")
CUTS = ("batched", "chunked", "sliced", "grouper")  # of itertools and more_itertools
SAME = ("list", "tuple", "copy", "iter", "enumerate", "tqdm", "reversed")
ENDS = re.compile(r"StopIteration")
DEPTH = 5  # names and calls that are followed


@dataclass(frozen=True, eq=False)
class Cut:
    """How batches are cut into windows.

    Args:
        node: that cuts them.
        place: the function that it stands in.
        size: how many batches a whole window has.
        short: whether the last one may have fewer; otherwise those are never given.
    """

    node: ast.expr
    place: Place
    size: ast.expr
    short: bool


class Windows:
    """The windows of a trainer.

    Args:
        own: the trainer's functions.
    """

    def __init__(self, own: Places) -> None:
        self._own = own
        self._made: dict[int, Cut | None] = {}

    @cached_property
    def loops(self) -> list[tuple[ast.For, Cut]]:
        """The loops over the batches of one window, each with what cuts it."""
        return [
            (loop, cut)
            for place in self._own.functions
            for loop in place.nodes
            if isinstance(loop, ast.For) and (cut := self.window(_same(loop.iter), place)) is not None
        ]

    def window(self, node: ast.expr, place: Place, hops: int = DEPTH) -> Cut | None:
        """What cuts a window; None: an expression is none."""
        if not hops:
            return None
        if (cut := self._sliced(node, place)) is not None:
            return cut
        if not isinstance(node, ast.Name):
            return None
        for loop in (each for each in place.nodes if isinstance(each, ast.For) and _gives(each, node)):
            if contains(loop, node) and (cut := self.cut(loop.iter, place, hops)) is not None:
                return cut
        held = _same(place.names.held(node))
        if held is not node:
            return self._taken(held, place) or self.window(held, place, hops - 1)
        if node.id in place.parameters:
            given = ((caller, value) for caller, value in given_to(self._own, place, node.id))
            return next((cut for caller, value in given if (cut := self.window(_same(value), caller, hops - 1))), None)
        return None

    def cut(self, node: ast.expr, place: Place, hops: int = DEPTH) -> Cut | None:
        """What cuts the windows that an expression gives one by one; None: it gives none."""
        if not hops:
            return None
        if isinstance(node, ast.ListComp | ast.GeneratorExp):
            return self._sliced(node.elt, place, node.generators)
        if isinstance(node, ast.Name | ast.Attribute):
            if (held := place.names.held(node)) is not node:
                return self.cut(held, place, hops - 1)
            return next((cut for there, value in followed(self._own, node, place) if
                         (cut := self.cut(value, there, hops - 1))), None)  # fmt: skip
        if not isinstance(node, ast.Call):
            return None
        return self._called(node, place, hops)

    def _called(self, call: ast.Call, place: Place, hops: int) -> Cut | None:
        name = called_name(call)
        maker = self._own.called(call, place)
        if maker is not None and maker.name == "__init__" and maker.owner is not None:
            maker = next((each for each in self._own.methods_of(maker.owner) if each.name == "__iter__"), None)
        if maker is not None:
            if id(maker) not in self._made:
                self._made[id(maker)] = None
                self._made[id(maker)] = self._maker(maker, hops - 1)
            return self._made[id(maker)]
        if name in CUTS and (size := given_for(call, "n", 1)) is not None:
            strict = any(word.arg == "strict" and is_true(word.value) for word in call.keywords)
            return None if strict else Cut(call, place, size, short=True)
        if name == "zip" and len(call.args) == 1 and (size := _repeated(call.args[0])) is not None:
            return Cut(call, place, size, short=False)
        return self.cut(call.args[0], place, hops) if name in PASSES_ON and call.args else None

    def _maker(self, place: Place, hops: int) -> Cut | None:
        """What a function cuts that yields windows, or gives back a list of them."""
        given = list(_given_on(place))
        for value in given:
            same = _same(value)
            cut = self._sliced(same, place) or self._filled(same, place, given) or self._taken(same, place)
            cut = cut or (self._taken(place.names.held(same), place) if isinstance(same, ast.Name) else None)
            if cut is not None:
                return cut
        for node in place.nodes:
            passed = isinstance(node, ast.YieldFrom | ast.Return) and node.value is not None
            if passed and (cut := self.cut(node.value, place, hops)) is not None:  # type: ignore[attr-defined]
                return cut
        return None

    def _filled(self, group: ast.expr, place: Place, given: list[ast.expr]) -> Cut | None:
        """A list that is filled in a loop, and given on where it has a size."""
        name = dotted(group)
        tests = [node for node in place.nodes if isinstance(node, ast.Compare) and _asks_length(node, name)]
        fills = any(_fills(node, name) for node in place.nodes)
        emptied = any(dotted(target) == name and is_empty_list(value) for target, value in assignments_in(place.nodes))
        if not (name and tests and fills and emptied):
            return None
        times = [value for value in given if dotted(_same(value)) == name]
        asked = next((test for test in tests if not isinstance(test.comparators[0], ast.Constant)), tests[0])
        return Cut(group, place, asked.comparators[0], short=len(times) > 1)

    def _sliced(self, node: ast.expr, place: Place, over: list[ast.comprehension] | None = None) -> Cut | None:
        """`rows[at : at + n]` with an `at` that goes by `n`, or `rows[k * n : (k + 1) * n]`."""
        node = _same(node)
        held = place.names.held(node) if isinstance(node, ast.Name) else node
        if not (isinstance(held, ast.Subscript) and isinstance(held.slice, ast.Slice)):
            return None
        lower, upper = held.slice.lower, held.slice.upper
        if lower is None or upper is None:
            return None
        loops = [(each.target, each.iter) for each in place.nodes if isinstance(each, ast.For) and contains(each, held)]
        loops += [(each.target, each.iter) for each in over or ()]
        for target, source in loops:
            if not (isinstance(source, ast.Call) and dotted(source.func) == "range"):
                continue
            if len(source.args) == 3 and ast.unparse(lower) == ast.unparse(target):
                size = source.args[2]
                if ast.unparse(upper) in (
                    f"{dotted(lower)} + {ast.unparse(size)}",
                    f"{ast.unparse(size)} + {dotted(lower)}",
                ):
                    less = any(isinstance(part, ast.Sub | ast.FloorDiv) for part in ast.walk(source.args[1]))
                    return Cut(held, place, size, short=not less)
            elif len(source.args) == 1 and isinstance(lower, ast.BinOp) and isinstance(lower.op, ast.Mult):
                sides = {ast.unparse(lower.left), ast.unparse(lower.right)}
                number = place.names.held(source.args[0])
                whole = isinstance(number, ast.BinOp) and isinstance(number.op, ast.FloorDiv)
                size = lower.left if ast.unparse(lower.right) == ast.unparse(target) else lower.right
                if ast.unparse(target) in sides:
                    plain = whole and ast.unparse(number.right) == ast.unparse(size)  # type: ignore[attr-defined]
                    up = plain and any(isinstance(each, ast.Add | ast.USub) for each in ast.walk(number))
                    return Cut(held, place, size, short=not plain or up)
        return None

    def _taken(self, node: ast.expr, place: Place) -> Cut | None:
        """`list(islice(batches, n))`, or `[next(batches) for _ in range(n)]` where the data end in between."""
        node = _same(node)
        if isinstance(node, ast.Name):
            walrus = (
                each for each in place.nodes if isinstance(each, ast.NamedExpr) and dotted(each.target) == node.id
            )
            node = _same(next((each.value for each in walrus), node))
        if isinstance(node, ast.Call) and called_name(node) == "islice" and len(node.args) == 2:
            return Cut(node, place, node.args[1], short=not _leaves_short(place))
        if isinstance(node, ast.ListComp) and called_name(node.elt) == "next":
            source = node.generators[0].iter
            ends = any(
                isinstance(each, ast.Try)
                and any(h.type and ENDS.search(ast.unparse(h.type)) for h in each.handlers)
                and contains(each, node)
                for each in place.nodes
            )
            bare = isinstance(node.elt, ast.Call) and len(node.elt.args) == 1
            if bare and ends and isinstance(source, ast.Call) and dotted(source.func) == "range" and source.args:
                return Cut(node, place, source.args[-1], short=False)
        return None


def given_to(own: Places, place: Place, parameter: str) -> Iterator[tuple[Place, ast.expr]]:
    """What calls give a parameter, and where; a method of an object that is not known may be any of that name."""
    by_class = place.owner is not None and place.name == "__init__"
    for caller, call in own.calls_of(place.owner.name if by_class and place.owner is not None else place.name):
        called = own.called(call, caller)
        may_be = called is place or (
            called is None
            and place.owner is not None
            and isinstance(call.func, ast.Attribute)
            and dotted(call.func.value) not in ("", "self", "super")
        )
        if may_be and (value := place.given(call).get(parameter)) is not None:
            yield caller, value


def followed(own: Places, node: ast.expr, place: Place) -> Iterator[tuple[Place, ast.expr]]:
    """What a name holds, a parameter is given, or an attribute of `self` is set to, each with its function."""
    if isinstance(node, ast.Name | ast.Attribute) and (held := place.names.held(node)) is not node:
        yield place, held
    elif isinstance(node, ast.Name) and node.id in place.parameters:
        yield from given_to(own, place, node.id)
    elif isinstance(node, ast.Attribute) and dotted(node.value) == "self" and place.owner is not None:
        for other in own.methods_of(place.owner):
            for target, value in assignments_in(other.nodes) if other.file.has(node.attr) else ():
                if dotted(target) == dotted(node):
                    yield other, value


def leaves(own: Places, node: ast.expr, place: Place, hops: int = DEPTH) -> Iterator[tuple[Place, ast.expr]]:
    """What an expression is in the end, where names, parameters and attributes are followed, each with its function."""
    if isinstance(node, ast.Call) and dotted(node.func) in ("int", "max") and node.args:
        node = node.args[-1]
    further = list(followed(own, node, place)) if hops else []
    for there, value in further:
        yield from leaves(own, value, there, hops - 1)
    if not further:
        yield place, node


def _same(node: ast.expr) -> ast.expr:
    """What stands in `list(window)`, `window[:]`, `window.copy()` or `enumerate(window)`."""
    while True:
        if isinstance(node, ast.NamedExpr):
            node = node.value
        elif isinstance(node, ast.Call) and called_name(node) in SAME:
            inside = node.args[0] if node.args else getattr(node.func, "value", None)
            if inside is None:
                return node
            node = inside
        elif isinstance(node, ast.Subscript) and ast.unparse(node.slice) == ":":
            node = node.value
        else:
            return node


def _gives(loop: ast.For, node: ast.Name) -> bool:
    """Whether a loop gives a name its windows: the whole target, or what stands behind the number of an `enumerate`."""
    target = loop.target
    if isinstance(target, ast.Tuple) and called_name(loop.iter) == "enumerate":
        target = target.elts[-1]
    return isinstance(target, ast.Name) and target.id == node.id


def _given_on(place: Place) -> Iterator[ast.expr]:
    """What a function yields, or appends to a list that it gives back."""
    back = set(map(dotted, place.returned))
    for node in place.nodes:
        if isinstance(node, ast.Yield) and node.value is not None:
            yield node.value
        elif (
            isinstance(node, ast.Call)
            and len(node.args) == 1
            and dotted(node.func) in {f"{name}.append" for name in back}
        ):
            yield node.args[0]


def _asks_length(test: ast.Compare, name: str) -> bool:
    left = test.left
    asks = isinstance(left, ast.Call) and dotted(left.func) == "len" and len(left.args) == 1
    return asks and dotted(left.args[0]) == name  # type: ignore[attr-defined]


def _fills(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.AugAssign):
        return dotted(node.target) == name
    return isinstance(node, ast.Call) and dotted(node.func) == f"{name}.append"


def _repeated(node: ast.expr) -> ast.expr | None:
    """How often one iterator stands in `*[iter(batches)] * n`, or in `*[batches] * n`."""
    if not (
        isinstance(node, ast.Starred) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Mult)
    ):
        return None
    sides = (node.value.left, node.value.right)
    lists = [each for each in sides if isinstance(each, ast.List | ast.Tuple) and len(each.elts) == 1]
    return next((each for each in sides if each not in lists), None) if lists else None


def _leaves_short(place: Place) -> bool:
    """Whether a function ends where it has taken fewer than it should, or gives on where it has all alone."""
    for node in place.nodes:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and "len(" in ast.unparse(node.test.left):
            short = isinstance(node.test.ops[0], ast.Lt | ast.NotEq)
            if short and isinstance(node.body[-1], ast.Return | ast.Break):
                return not any(isinstance(part, ast.Yield) for each in node.body for part in ast.walk(each))
            if isinstance(node.test.ops[0], ast.Eq | ast.GtE) and not isinstance(
                node.test.comparators[0], ast.Constant
            ):
                return any(isinstance(part, ast.Yield) for each in node.body for part in ast.walk(each))
    return False

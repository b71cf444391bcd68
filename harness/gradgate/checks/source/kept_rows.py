"""Rows that a data set keeps, and what its `__getitem__` writes into them, for the checks that read the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted, names_in
from gradgate.checks.source.values import assignments_in, contains, places_of

GIVES = ("__getitem__", "__getitems__", "__iter__")
GROWS = re.compile(
    r"^(add|sub|mul|div|pow|neg|exp|log|sqrt|flip|roll|logical_not|addcmul|addcdiv|lerp|append|extend|insert)_?$"
)
LIST_GROWS = ("append", "extend", "insert")
SAME = ("view", "squeeze", "unsqueeze", "narrow", "select", "reshape", "flatten", "detach", "get", "transpose", "t")
SHALLOW = (
    "dict",
    "copy",
    "list",
    "as_tensor",
    "from_numpy",
    "asarray",
    "iter",
    "enumerate",
    "zip",
    "reversed",
    "tuple",
)
MADE = re.compile(r"\b(List|list|Sequence|Dict|dict|Mapping|Tensor|ndarray)\b")
COUNTS = re.compile(
    r"count|hits?$|visits?|seen|uses|times|stat|cache|calls|epoch|step|index|cursor|weight_sum", re.IGNORECASE
)
MAKES = re.compile(
    r"^(list|dict|sorted)$|^(torch|np|numpy)\.(stack|cat|zeros|tensor|as_tensor|array|load|full|ones|concatenate)"
)
CONTAINERS = (ast.List, ast.Dict, ast.ListComp, ast.DictComp)
PART = "[]"  # in a chain: a part of what an attribute holds, and not all of it
HOPS = 8


def rewritten(place: Place, places: Places) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    """What a data set writes into a row that it keeps at each access, of what stood there, and where."""
    if place.name not in GIVES or place.owner is None:
        return
    kept = Kept(place, places)
    for node, written in (*_writes(place, kept), *_by_calls(place, places)):
        chain = kept.chain(written)
        is_direct = all(name == PART or name.startswith("self.") for name in chain)
        if PART not in chain or (place.name == "__iter__" and (is_direct or _is_growth(node))):
            continue
        if not _is_asked(node, place, chain) and _is_given(place, chain, node):
            yield node, ast.unparse(written)


class Kept:
    """Which expressions of a data set's method are rows that it keeps, or parts of such.

    Args:
        place: the method.
        places: all functions.
    """

    def __init__(self, place: Place, places: Places) -> None:
        self._values: dict[str, list[ast.expr]] = {}
        for target, value in assignments_in(place.nodes):
            for one in places_of(target):
                self._values.setdefault(dotted(one), []).append(value)
        for node in place.nodes:
            for target, value in _loops(node):
                self._values.setdefault(dotted(target), []).append(value)
        self._attributes = _kept_by(place, places)

    def chain(self, node: ast.expr, hops: int = HOPS) -> set[str]:
        """The names from an expression to the attribute that it stands in; none: it is no part of what is kept."""
        if not hops:
            return set()
        if isinstance(node, ast.Attribute) and dotted(node) in self._attributes:
            return {dotted(node)}
        if isinstance(node, ast.Name):
            values = self._values.get(node.id, [])
            found = [self.chain(value, hops - 1) for value in values]
            return {node.id}.union(*found) if values and all(found) else set()
        if isinstance(node, ast.Subscript | ast.Attribute):
            within = self.chain(node.value, hops)
            return {*within, PART} if within else set()
        if isinstance(node, ast.Tuple | ast.List):
            return set().union(*(self.chain(each, hops - 1) for each in node.elts))
        if isinstance(node, ast.Dict):
            return set().union(
                *(self.chain(each, hops - 1) for key, each in zip(node.keys, node.values, strict=True) if not key)
            )
        if isinstance(node, ast.Call):
            name = called_name(node)
            if isinstance(node.func, ast.Attribute) and name in (*SAME, "values", "items"):
                within = self.chain(node.func.value, hops)
                return {*within, PART} if within else set()
            if name in SHALLOW and node.args:
                return self.chain(node.args[0], hops - 1)
            if name == "copy" and isinstance(node.func, ast.Attribute):
                return self.chain(node.func.value, hops - 1)
        return set()

    def is_copy(self, node: ast.expr, hops: int = HOPS) -> bool:
        """Whether what holds an item is a mapping or a list of its own: what is put there is not kept."""
        if isinstance(node, ast.Name) and hops:
            return any(self.is_copy(value, hops - 1) for value in self._values.get(node.id, []))
        if isinstance(node, ast.Call):
            return called_name(node) in SHALLOW
        return isinstance(node, ast.Dict | ast.List | ast.Tuple)


def _loops(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    if isinstance(node, ast.For):
        for target in places_of(node.target):
            yield target, ast.copy_location(ast.Subscript(node.iter, ast.Constant(0), ast.Load()), node.iter)


def _kept_by(place: Place, places: Places) -> set[str]:
    """The attributes of a data set that hold rows of its own: lists, mappings and tensors that its class makes."""
    found: set[str] = set()
    for method in places.methods_of(place.owner) if place.owner is not None else ():
        for target, value in assignments_in(method.nodes):
            name = dotted(target)
            if not name.startswith("self.") or COUNTS.search(name):
                continue
            if isinstance(value, ast.Name) and value.id in method.parameters:
                annotation = method.parameters[value.id].annotation
                if annotation is not None and MADE.search(ast.unparse(annotation)):
                    found.add(name)
            elif isinstance(value, CONTAINERS) or (isinstance(value, ast.Call) and MAKES.search(dotted(value.func))):
                found.add(name)
    return found


def _writes(place: Place, kept: Kept) -> Iterator[tuple[ast.expr | ast.stmt, ast.expr]]:
    """What writes in place something made of what stood there."""
    tensors = {ast.unparse(node.value) for node in place.nodes if isinstance(node, ast.Subscript | ast.Attribute)}
    lengths = (node for node in place.nodes if isinstance(node, ast.Call) and dotted(node.func) == "len")
    tensors |= {ast.unparse(each) for node in lengths for each in node.args}
    for node in place.nodes:
        if isinstance(node, ast.AugAssign):
            if isinstance(node.target, ast.Subscript):
                last = node.target.slice
                is_item = isinstance(last, ast.Constant) and isinstance(last.value, str)
                if not (is_item and kept.is_copy(node.target.value)) or isinstance(node.value, ast.List):
                    yield node, node.target
            elif isinstance(node.target, ast.Name) and (
                ast.unparse(node.target) in tensors
                or (isinstance(node.value, ast.List) and not kept.is_copy(node.target))
            ):
                yield node, node.target
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and GROWS.match(node.func.attr):
            is_list = node.func.attr in LIST_GROWS and not kept.is_copy(node.func.value)
            if node.func.attr.endswith("_") or is_list:
                yield node, node.func.value
        elif isinstance(node, ast.Call):
            yield from ((node, word.value) for word in node.keywords if word.arg == "out")
        elif isinstance(node, ast.Assign) and isinstance(target := node.targets[0], ast.Subscript):
            own = ast.unparse(target)
            reads = any(
                isinstance(part, ast.BinOp) and own in (ast.unparse(part.left), ast.unparse(part.right))
                for part in ast.walk(node.value)
            )
            if reads and not (isinstance(target.slice, ast.Constant) and kept.is_copy(target.value)):
                yield node, target


def _by_calls(place: Place, places: Places) -> Iterator[tuple[ast.expr | ast.stmt, ast.expr]]:
    """Calls of functions that write so into what they are given."""
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        called = places.called(call, place)
        if called is None or called.name in GIVES:
            continue
        given, own = called.given(call), Kept(called, places)
        for _, written in _writes(called, own):
            root = _root(written)
            held = _root(called.names.held(root)) if isinstance(root, ast.Name) else root
            if isinstance(held, ast.Name) and held.id in given and not _is_renewed(held.id, called):
                yield call, given[held.id]


def _root(node: ast.expr) -> ast.expr:
    """What something is a part, or a view, of."""
    while True:
        if isinstance(node, ast.Subscript | ast.Attribute):
            node = node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SAME:
            node = node.func.value
        else:
            return node


def _is_renewed(name: str, place: Place) -> bool:
    return any(dotted(one) == name for target, _ in assignments_in(place.nodes) for one in places_of(target))


def _is_growth(node: ast.AST) -> bool:
    """Whether a list grows: a queue or a bucket, where an iterator fills it."""
    return isinstance(node, ast.Call) and called_name(node) in LIST_GROWS


def _is_asked(node: ast.AST, place: Place, chain: set[str]) -> bool:
    """Whether a condition on the row itself says whether it is written: once, say."""
    for branch in place.nodes:
        if isinstance(branch, ast.If) and contains(branch, node):
            asks = any(isinstance(part, ast.In | ast.NotIn) for part in ast.walk(branch.test))
            if asks or chain & names_in(branch.test):
                return True
    return False


def _is_given(place: Place, chain: set[str], node: ast.expr | ast.stmt) -> bool:
    """Whether what a row's names hold is read behind the write."""
    return any(
        isinstance(part, ast.Name | ast.Attribute)
        and isinstance(part.ctx, ast.Load)
        and dotted(part) in chain
        and part.lineno > (node.end_lineno or node.lineno)
        for part in place.nodes
    )

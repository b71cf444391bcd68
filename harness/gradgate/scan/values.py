"""Abstract values: what the scanner knows about an expression's result."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

# Whether a value carries gradient: no; unknown argument; argument of a forward; made by a layer or a parameter.
NO, MAYBE, LIKELY, YES = range(4)

Kind = str  # unknown tensor const seq dict instance layer optim function class external array
fresh = itertools.count(1).__next__


class Node:
    """A node of the autograd graph that running a line would make."""

    __slots__ = ("handed", "keeps", "kept_as", "line", "modules", "op", "parents", "serial", "trained")

    def __init__(
        self, op: str, line: Line, parents: tuple[Node, ...], modules: tuple[str, ...], trained: str = ""
    ) -> None:
        self.op = op
        self.line = line
        self.parents = parents
        self.modules = modules  # names under which the modules running this line were called, outermost first
        self.trained = trained  # the parameters that it differentiates into, by name; empty where none
        self.serial = fresh()
        self.keeps = False  # whether it holds tensors that a first backward frees
        self.kept_as = ""  # the attribute of an object under which its result lives on
        self.handed: Line | None = None  # where its result was last returned, or put on an object


class Line:
    """A place in a file: where a statement or an expression stands, and in which function."""

    __slots__ = ("column", "file", "function", "number")

    def __init__(self, file: str, number: int, column: int, function: str) -> None:
        self.file = file
        self.number = number
        self.column = column
        self.function = function


class Value:
    """What is known of one value. Values are shared, and changed only where evidence arrives that one is a tensor.

    `stores` are memories it may share; `nodes` its grad functions; `cut` lines at which its history was dropped against
    the writer's likely intent, with the nodes lost there; `facts` numeric remarks such as `softmax` or `-inf`.
    """

    __slots__ = (
        "cut",
        "data",
        "dtype",
        "facts",
        "grad",
        "ignored",
        "items",
        "kind",
        "leaf",
        "name",
        "nodes",
        "origin",
        "silent",
        "stores",
        "view",
    )

    def __init__(
        self,
        kind: Kind = "unknown",
        stores: frozenset[int] = frozenset(),
        grad: int = NO,
        nodes: tuple[Node, ...] = (),
        data: Any = None,
        items: list[Value] | None = None,
        name: str = "",
    ) -> None:
        self.kind = kind
        self.stores = stores
        self.grad = grad
        self.nodes = nodes
        self.data = data
        self.items = items
        self.name = name
        self.leaf = False
        self.view = (
            ""  # "many": one of several outputs; "no_grad": a view made without grad; "expand"; "leaf": of a leaf
        )
        self.silent = False  # reached through .data: a write does not move the version
        self.dtype = ""
        self.facts: dict[str, Any] = {}
        self.cut: tuple[Cut, ...] = ()
        self.ignored: frozenset[Any] = frozenset()  # saves of paths on which it was another tensor
        self.origin: Line | None = None  # the innermost return that handed it on, or where it was made

    def copy(self) -> Value:
        """A twin that may be changed."""
        twin = Value(self.kind, self.stores, self.grad, self.nodes, self.data, self.items, self.name)
        twin.leaf, twin.view, twin.silent, twin.dtype = self.leaf, self.view, self.silent, self.dtype
        twin.facts, twin.cut, twin.origin, twin.ignored = self.facts, self.cut, self.origin, self.ignored
        return twin

    @property
    def is_tensor(self) -> bool:
        """Whether there is evidence that it is a tensor."""
        return self.kind == "tensor"


class Cut:
    """A place where values went on and gradient did not."""

    __slots__ = ("excluded", "how", "line", "lost")

    def __init__(self, line: Line, how: str, lost: tuple[Node, ...], excluded: tuple[Node, ...] = ()) -> None:
        self.line = line
        self.how = how
        self.lost = lost
        self.excluded = excluded  # nodes of another path, on which there was no cut


def unknown(name: str = "", grad: int = NO) -> Value:
    """A value of which nothing is known; it has a memory, in case it turns out to be a tensor."""
    return Value("unknown", frozenset((fresh(),)), grad, name=name)


def tensor(grad: int = NO, nodes: tuple[Node, ...] = (), name: str = "") -> Value:
    """A tensor with memory of its own."""
    return Value("tensor", frozenset((fresh(),)), grad, nodes, name=name)


def const(data: Any) -> Value:
    """A Python number, string, bool or None."""
    return Value("const", data=data)


def sequence(items: list[Value]) -> Value:
    """A list or tuple of known length."""
    return Value("seq", items=items)


def tensors_in(value: Value, depth: int = 3) -> Iterable[Value]:
    """The tensors that a value is or holds."""
    if value.kind == "tensor":
        yield value
    elif value.items and depth:
        for item in value.items:
            yield from tensors_in(item, depth - 1)


def nodes_in(value: Value, depth: int = 3) -> tuple[Node, ...]:
    """The grad functions of a value and of what it holds."""
    if not value.items or not depth:
        return value.nodes
    found = value.nodes
    for item in value.items:
        found = merge(found, nodes_in(item, depth - 1))
    return found


def merge(left: tuple[Any, ...], right: tuple[Any, ...]) -> tuple[Any, ...]:
    """Union, in order of arrival."""
    if not right or left is right:
        return left
    if not left:
        return right
    return left + tuple(item for item in right if item not in left)


def join(left: Value, right: Value) -> Value:
    """What holds of a value that is one of two."""
    if left is right:
        return left
    if left.kind == "const" and right.kind == "const":
        return left if type(left.data) is type(right.data) and left.data == right.data else unknown(left.name)
    for one, other in ((left, right), (right, left)):
        if one.kind == "const" and one.data is None:
            return other  # None is the absence of the other
    if left.kind == right.kind == "seq" and left.items and right.items and len(left.items) == len(right.items):
        return sequence([join(one, other) for one, other in zip(left.items, right.items, strict=True)])
    if left.kind == right.kind == "seq":
        return Value(
            "seq",
            items=[*(left.items or ()), *(item for item in right.items or () if item not in (left.items or ()))][:16],
        )
    if left.kind != right.kind and "tensor" not in (left.kind, right.kind):
        return right if left.kind in ("unknown", "const") else left
    if left.kind != right.kind:
        winner = left if left.kind == "tensor" else right
        other = right if winner is left else left
        if other.kind not in ("unknown", "array"):
            return winner
    else:
        winner, other = left, right
        if left.kind not in ("tensor", "unknown", "array"):
            return left
    both = winner.copy()
    both.stores = winner.stores | other.stores
    both.grad = max(winner.grad, other.grad)
    both.nodes = merge(winner.nodes, other.nodes)
    both.leaf = winner.leaf or other.leaf
    both.view = winner.view or other.view
    if "detached" in (winner.view, other.view) and winner.view != other.view:
        both.view = other.view if winner.view == "detached" else winner.view
    both.silent = winner.silent or other.silent
    both.dtype = winner.dtype if winner.dtype == other.dtype else winner.dtype or other.dtype
    both.facts = {**other.facts, **winner.facts}
    both.cut = _joined_cuts(winner, other)
    both.origin = winner.origin or other.origin
    both.ignored = winner.ignored | other.ignored
    return both


def _joined_cuts(left: Value, right: Value) -> tuple[Cut, ...]:
    """Cuts of either path; each remembers which nodes are only the other path's."""
    if left.cut == right.cut:
        return left.cut
    found: list[Cut] = []
    for mine, theirs in ((left, right), (right, left)):
        foreign = tuple(node for node in theirs.nodes if node not in mine.nodes)
        for cut in mine.cut:
            if cut in theirs.cut:
                found.append(cut)
            elif not any(cut.line is other.line for other in theirs.cut):
                found.append(Cut(cut.line, cut.how, cut.lost, merge(cut.excluded, foreign)))
            else:
                found.append(cut)
    return tuple(dict.fromkeys(found))[:6]

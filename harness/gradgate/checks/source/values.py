"""What stands around a node of a trainer's source, and what its names hold there, for the checks that read it."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from functools import cached_property

from gradgate.checks.source.trainer import Function, dotted, nodes_in

SPLITS = ("split", "rsplit", "partition", "rpartition")  # what takes a text apart
OTHERS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)  # what stands in them is not the function's
ORDERS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)  # comparisons that have a larger side


def own_nodes(function: Function) -> list[ast.AST]:
    """The nodes of a function, without those of functions and classes in it."""
    return list(nodes_in(function.body, *OTHERS))


def always_run(function: Function) -> Iterator[ast.AST]:
    """The nodes of a function that stand under no condition and in no loop."""
    return nodes_in(function.body, *OTHERS, ast.If, ast.For, ast.While)


def blocks_in(nodes: Iterable[ast.AST]) -> Iterator[list[ast.stmt]]:
    """The lists of statements that nodes have."""
    for node in nodes:
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                yield block


def parents_in(tree: ast.AST) -> dict[int, ast.AST]:
    """The node that each one stands in, by its `id`."""
    return {id(child): node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}


def outwards(node: ast.AST, parents: dict[int, ast.AST]) -> Iterator[ast.AST]:
    """The nodes that one stands in, from the inside out."""
    while (parent := parents.get(id(node))) is not None:
        yield parent
        node = parent


def assignments_in(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What is assigned, and its value; the parts of a tuple with those of a tuple."""
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    yield from zip(target.elts, node.value.elts, strict=False)
                else:
                    yield target, node.value
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            yield node.target, node.value


def places_of(target: ast.expr) -> list[ast.expr]:
    """What a target assigns, the parts of tuples and lists one by one."""
    if isinstance(target, ast.Tuple | ast.List):
        return [place for part in target.elts for place in places_of(part)]
    return places_of(target.value) if isinstance(target, ast.Starred) else [target]


def last_name(node: ast.AST) -> str:
    """What a name, an attribute or an item is called; anything else is empty."""
    if isinstance(node, ast.Subscript):
        return str(node.slice.value) if isinstance(node.slice, ast.Constant) else ""
    return dotted(node).rpartition(".")[2]


def text_of(node: ast.expr | None) -> str:
    """The text that an expression is; empty: none that is written."""
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def is_part(part: str, whole: str) -> bool:
    """Whether a dotted name is another one, or begins with it."""
    return part == whole or part.startswith(f"{whole}.")


def with_stars(text: ast.JoinedStr) -> str:
    """A text with `*` for each part that is filled in."""
    return "".join(str(part.value) if isinstance(part, ast.Constant) else "*" for part in text.values)


def contains(outer: ast.AST, inner: ast.AST) -> bool:
    """Whether a node is another, or stands in it."""
    return any(part is inner for part in ast.walk(outer))


def is_true(value: ast.expr | None) -> bool:
    """Whether a value is `True`."""
    return isinstance(value, ast.Constant) and value.value is True


def parameters_of(function: Function) -> list[ast.arg]:
    """What a function may be given, in order, without `*rows` and `**words`."""
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def defaults_of(given: ast.arguments) -> list[tuple[ast.arg, ast.expr]]:
    """The parameters that have a default, each with it."""
    positional = [*given.posonlyargs, *given.args]
    pairs = [*zip(positional[len(positional) - len(given.defaults) :], given.defaults, strict=True)]
    by_name = zip(given.kwonlyargs, given.kw_defaults, strict=True)
    return pairs + [(each, value) for each, value in by_name if value is not None]


def is_empty_list(value: ast.expr) -> bool:
    """Whether a value is `[]`."""
    return isinstance(value, ast.List) and not value.elts


class Names:
    """What the names of a function hold, by the order of its lines."""

    def __init__(self, function: Function) -> None:
        self._function = function

    @cached_property
    def _values(self) -> dict[str, list[ast.expr]]:
        values: dict[str, list[ast.expr]] = {}
        for target, value in assignments_in(own_nodes(self._function)):
            values.setdefault(dotted(target), []).append(value)
        return values

    def held(self, node: ast.expr) -> ast.expr:
        """The value that was assigned last in front of the line of a name, or of an attribute; else the node itself."""
        values = self._values.get(dotted(node), []) if isinstance(node, ast.Name | ast.Attribute) else []
        before = [value for value in values if (value.end_lineno or value.lineno) < node.lineno]
        return max(before, key=lambda value: value.lineno, default=node)

    def parts(self, node: ast.AST, hops: int = 4) -> Iterator[ast.AST]:
        """The nodes of an expression, and of what its names hold."""
        for part in ast.walk(node):
            yield part
            if hops and isinstance(part, ast.Name) and (value := self.held(part)) is not part:
                yield from self.parts(value, hops - 1)

"""Calls that cannot be followed: what they take leaves, what they give may hang on it."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from gradgate.scan.frame import Frame
from gradgate.scan.values import MAYBE, NO, Node, Value, merge, tensors_in, unknown

Options = dict[str, Value]
_TALK = frozenset(
    {
        "print",
        "info",
        "debug",
        "warning",
        "log",
        "add_scalar",
        "isinstance",
        "len",
        "format",
        "warn",
        "append",
        "update",
        "size",
        "assertEqual",
    }
)


def remember(frame: Frame, options: Options) -> None:
    """Keyword arguments of a namespace: whoever reads such an attribute later may mean this value."""
    for name, value in options.items():
        frame.run.field(name, value, frame.state)


def opaque(
    frame: Frame, node: ast.Call, name: str, given: Sequence[Value], options: Options, *, module: bool = False
) -> Value:
    """A call that cannot be followed. Its arguments leave; its result may hang on them."""
    values = [*given, *options.values()]
    result = unknown()
    if name.rpartition(".")[2] in _TALK:
        return result
    parents: tuple[Node, ...] = ()
    grad = NO
    for value in values:
        frame.escape(value)
        for part in (value, *tensors_in(value)):
            parents = merge(parents, frame.state.nodes(part))
            grad = max(grad, frame.state.grad(part))
    remember(frame, options)
    if not frame.state.grad_on:
        return result
    if module:
        result.nodes = (frame.node("call", node, parents, name),)
        result.grad = max(grad, MAYBE)
        result.nodes[0].keeps = not name.rpartition(".")[2][:1].isupper()  # building an object keeps nothing
    elif parents:
        result.nodes = (frame.node("opaque", node, parents),)
        result.grad = grad
    return result

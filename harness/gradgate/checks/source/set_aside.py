"""Weights of a trainer's source that are set aside while others stand in their place, for the check of live states."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradgate.checks.source.averages import AVERAGE, COPIES
from gradgate.checks.source.live_states import base_of, is_the_models
from gradgate.checks.source.trainer import File, Function, called_name, dotted
from gradgate.checks.source.values import assignments_in, own_nodes, places_of

GIVES = ("parameters", "named_parameters", "buffers", "named_buffers", "state_dict")
HANDS_OVER = ("state_dict", "load_state_dict")  # methods in which nothing is trained
WRITES = ("copy_", "lerp_", "mul_", "add_", "sub_", "swap_", "load_state_dict")


@dataclass(frozen=True)
class SetAside:
    """What is kept of a model's weights, without a copy.

    Args:
        function: that keeps it.
        name: under which.
        value: that is kept.
    """

    function: Function
    name: str
    value: ast.expr


def set_aside(file: File) -> Iterator[SetAside]:
    """The live weights that are kept, written over, and brought back from what was kept; in a class, or a function."""
    if not file.has(*(f"{name}(" for name in ("copy_", "load_state_dict"))):
        return
    scopes: dict[int, list[Function]] = {}
    for function, owner in file.functions:
        scopes.setdefault(id(owner) if owner is not None else id(function), []).append(function)
    for functions in scopes.values():
        kept = [each for function in functions if function.name not in HANDS_OVER for each in _kept(function)]
        nodes = [node for function in functions for node in own_nodes(function)] if kept else []
        for each in kept:
            within = own_nodes(each.function) if each.name.isidentifier() and not _is_shared(each) else nodes
            if not AVERAGE.search(each.name) and _comes_back(each, within):
                yield each


def _is_shared(kept: SetAside) -> bool:
    """Whether a name is that of an outer function or of the file, so that other functions have it, too."""
    declared = (node for node in own_nodes(kept.function) if isinstance(node, ast.Global | ast.Nonlocal))
    return any(kept.name in node.names for node in declared)


def _kept(function: Function) -> Iterator[SetAside]:
    nodes = own_nodes(function)
    for target, value in assignments_in(nodes):
        name = dotted(target) if isinstance(target, ast.Name | ast.Attribute) else ""
        if name and is_the_models(value) and not _is_changed(name, value, nodes):
            yield SetAside(function, name, value)
    for loop in (node for node in nodes if isinstance(node, ast.For) and called_name(node.iter) in (*GIVES, "items")):
        given = {dotted(place) for place in places_of(loop.target)} if _is_of_a_model(loop.iter) else set()
        for target, value in assignments_in(ast.walk(loop)) if given else ():
            if isinstance(target, ast.Subscript) and dotted(target.value) and _is_one_of(value, given):
                yield SetAside(function, dotted(target.value), value)
        for call in (node for node in ast.walk(loop) if isinstance(node, ast.Call) and given):
            holder, _, method = dotted(call.func).rpartition(".")
            if method == "append" and holder and call.args and _is_one_of(call.args[0], given):
                yield SetAside(function, holder, call.args[0])


def _is_changed(name: str, value: ast.expr, nodes: Sequence[ast.AST]) -> bool:
    """Whether a function puts other entries into what it keeps, or hands it to what may."""
    for target, _ in assignments_in(nodes):
        if isinstance(target, ast.Subscript) and dotted(target.value) == name:
            return True
    calls = (node for node in nodes if isinstance(node, ast.Call) and node is not value)
    return any(
        any(dotted(given) == name for given in call.args) and called_name(call) not in (*WRITES, "len", "zip")
        for call in calls
    )


def _is_of_a_model(over: ast.expr) -> bool:
    return any(called_name(node) in GIVES for node in ast.walk(over)) and not AVERAGE.search(ast.unparse(over))


def _is_one_of(value: ast.expr, names: set[str]) -> bool:
    copied = any(called_name(node) in COPIES for node in ast.walk(value))
    return not copied and base_of(value) in names


def _comes_back(kept: SetAside, nodes: Sequence[ast.AST]) -> bool:
    """Whether what is kept is written into what is a model's, and something else was before."""
    for target, _ in assignments_in(nodes):
        if isinstance(target, ast.Attribute) and target.attr == "data":
            return False  # another tensor in its place leaves the one that is kept as it is
    names = {kept.name}
    for loop in (node for node in nodes if isinstance(node, ast.For)):
        if _reads(loop.iter, {kept.name}):
            names |= _of_what_is_kept(loop, kept.name)
    writes = [node for node in nodes if isinstance(node, ast.Call) and called_name(node) in WRITES and node.args]
    back = [call for call in writes if call.func.attr in ("copy_", "load_state_dict") and _reads(call.args[0], names)]  # type: ignore[attr-defined]
    over = [call for call in writes if not any(_reads(part, names) for part in (*call.args, call.func))]
    over = [call for call in over if not AVERAGE.search(ast.unparse(call.func.value))]  # type: ignore[attr-defined]
    here = set(map(id, own_nodes(kept.function)))
    return any(
        (id(call) not in here or call.lineno > kept.value.lineno)
        and (id(call) not in here or id(last) not in here or call.lineno < last.lineno)
        for call in over
        for last in back
    )


def _of_what_is_kept(loop: ast.For, name: str) -> set[str]:
    """The targets of a loop that what is kept gives: of a `zip`, by its place."""
    if called_name(loop.iter) == "zip" and isinstance(loop.target, ast.Tuple) and isinstance(loop.iter, ast.Call):
        pairs = zip(loop.iter.args, loop.target.elts, strict=False)
        return {dotted(place) for given, part in pairs if _reads(given, {name}) for place in places_of(part)}
    return {dotted(place) for place in places_of(loop.target)}


def _reads(node: ast.AST, names: set[str]) -> bool:
    return any(isinstance(part, ast.Name | ast.Attribute) and dotted(part) in names for part in ast.walk(node))

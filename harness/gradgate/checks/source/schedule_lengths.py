"""What the lengths of a trainer's schedules are made of, for the checks that read its source."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator

from gradgate.checks.source.trainer import File, Function, calls_in, dotted, given_by
from gradgate.checks.source.values import Names, assignments_in, last_name, own_nodes
from gradgate.subjects.settings import is_of_accumulation

PACED = re.compile(r"sched|lr($|_)|(^|[._])lr|cosine|warm_?up|anneal|decay", re.IGNORECASE)
UPDATES = re.compile(r"(^|_)(steps?|updates?|iters?|iterations)(_|$)", re.IGNORECASE)
EPOCHS = re.compile(r"epochs?$", re.IGNORECASE)
BATCHES = re.compile(r"(^|_)(n|num|number_of|total)?_?(micro_?)?batches$|batches_(per|an|in)_", re.IGNORECASE)


def products_of_epochs(
    nodes: Iterable[ast.AST], names: Names, counts: Callable[[ast.expr, Names], bool]
) -> Iterator[ast.BinOp]:
    """The products of epochs and of what counts batches, or updates."""
    for node in nodes:
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
            continue
        for epochs, batches in ((node.left, node.right), (node.right, node.left)):
            if EPOCHS.search(last_name(epochs) or ast.unparse(epochs)) and counts(batches, names):
                yield node


def products_of_updates(nodes: Iterable[ast.AST], names: Names) -> Iterator[ast.BinOp]:
    """The products of a number of updates and of the batches of one."""
    for node in nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            for updates, size in ((node.left, node.right), (node.right, node.left)):
                if _is_of_updates(updates) and is_of_accumulation(_named(size) + _named(names.held(size))):
                    yield node


def _is_of_updates(node: ast.expr) -> bool:
    name = _named(node)
    return bool(UPDATES.search(name)) and not is_of_accumulation(name)


def _named(node: ast.expr) -> str:
    """The last name of an expression, or of what it calls."""
    return last_name(node.func if isinstance(node, ast.Call) else node)


def counts_batches(node: ast.expr, names: Names) -> bool:
    """Whether an expression is a `len`, or made of one, or a number of batches that is not made here."""
    held = names.held(node)
    counted = any(isinstance(part, ast.Call) and dotted(part.func) == "len" for part in names.parts(held))
    return counted or (held is node and bool(BATCHES.search(dotted(node).rpartition(".")[2])))


def reaches_a_schedule(product: ast.BinOp, function: Function, file: File) -> bool:
    """Whether a product is an argument of a call that is named after a schedule, by itself or by what holds it."""
    nodes = own_nodes(function)
    if any(product in ast.walk(node) for node in nodes if isinstance(node, ast.Return) and _is_call(node.value)):
        return True
    held = {dotted(target) for target, value in assignments_in(nodes) if product in ast.walk(value)}
    given_back = any(
        isinstance(node, ast.Return) and node.value is not None and _names(node.value, product, held) for node in nodes
    )
    own = {name for name in held if "." in name} | ({function.name, f"self.{function.name}"} if given_back else set())
    inside = any(_names(given, product, held) for call in paced_in(function) for given in given_by(call))
    return inside or any(_names(given, product, own) for call in paced_in(file.tree) for given in given_by(call))


def _is_call(node: ast.expr | None) -> bool:
    if not isinstance(node, ast.Call):
        return False
    asked = (given.value for given in node.args if isinstance(given, ast.Constant) and isinstance(given.value, str))
    return any(map(PACED.search, (ast.unparse(node.func), *asked)))


def paced_in(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that are named after a schedule."""
    return (call for call in calls_in(tree) if _is_call(call))


def _names(node: ast.expr, product: ast.BinOp, names: set[str]) -> bool:
    """Whether an expression has a product in it, or one of these names."""
    return any(part is product or dotted(part) in names for part in ast.walk(node) if not isinstance(part, ast.Load))

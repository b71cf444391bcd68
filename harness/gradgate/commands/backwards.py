"""Where a trainer's own methods go backward, read from their source: what of an adapter `gradgate init` proposes."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any

CLIPPING = "clip_grad_norm_"
HELD = ("parameters", "train", "named_parameters")  # what modules are asked for
SKIPS = re.compile(r"isfinite|isnan|isinf|skipped|scaler\.", re.IGNORECASE)
SCHEDULE = re.compile(r"sched\w*\.step\(", re.IGNORECASE)


def proposals(found: Any) -> Iterator[str]:
    """Lines of an adapter for each method, or for the function itself, that goes backward.

    Args:
        found: a class or a function.
    """
    methods = inspect.getmembers(found, inspect.isfunction) if inspect.isclass(found) else [("", found)]
    for name, method in methods:
        node = parsed(method)
        if node is not None and any(_is_backward(call) for call in calls_in(node)):
            yield from _of(f"{found.__name__}.{name}".rstrip("."), node, found.__module__)


def _of(name: str, node: ast.FunctionDef, module: str) -> Iterator[str]:
    from gradgate.commands.own_loaders import loader_class

    loop = loop_of(node)
    terms = ", ".join(f'"{term}": "{term}"' for term in terms_of(node))
    if loop is not None:
        yield f"`{name}` keeps its loop, over `{ast.unparse(loop.iter)}`: `class Stage(gradgate.OwnLoop)`, and in it"
        yield f"    terms = {{{terms}}}"
        if own := loader_class(module, module, node, loop.iter):
            yield f"    self.begin(lambda _: {name}(...), loader_class={own})  # whose batches are the run's"
        else:
            yield f"    self.begin(lambda loader: {name}(...))  # with `loader` for what it loops over"
        for optimizer in optimizers_of(node):
            yield f'    self.optimizers = [self.local("{optimizer}")]'
    else:
        yield f"`{name}` is a step that keeps its losses: `class Stage(gradgate.StepLosses)`, and in it"
        yield f"    terms = {{{terms}}}"
    for call in calls_in(node):
        if last(call) == CLIPPING and len(call.args) > 1:
            yield f"    max_norm = {ast.unparse(call.args[1])}"
    yield from (f"    {line}" for line in schedule_question(node))


def loop_of(node: ast.FunctionDef) -> ast.For | None:
    """The innermost loop over batches that goes backward; over numbers only where the function makes its optimizer."""
    loops = [
        inner for inner in ast.walk(node) if isinstance(inner, ast.For) and any(map(_is_backward, calls_in(inner)))
    ]
    over_batches = [loop for loop in loops if not ast.unparse(loop.iter).startswith("range(")]
    return next(reversed(over_batches or (loops if optimizers_of(node) else [])), None)


def parsed(method: Any) -> ast.FunctionDef | None:
    """The syntax tree of a function; None where its source is not to be had."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    except (OSError, TypeError, SyntaxError):  # no source, or one that does not stand alone
        return None
    return tree.body[0] if isinstance(tree.body[0], ast.FunctionDef) else None


def terms_of(node: ast.FunctionDef, returned: int | None = -1) -> list[str]:
    """The local variables that what goes backward is made of; of one that is made of nothing with a name, itself.

    Args:
        node: a function.
        returned: -1: what goes backward; else what it gives back instead: the part of a tuple, None: the whole.
    """
    made = {
        target.id: assigned.value
        for assigned in ast.walk(node)
        if isinstance(assigned, ast.Assign)
        for place in assigned.targets
        for target in (place.elts if isinstance(place, ast.Tuple) else [place])
        if isinstance(target, ast.Name)
    }
    backwards = (call for call in calls_in(node) if _is_backward(call))
    starts: Iterator[ast.AST] = backwards if returned == -1 else _returned(node, returned)
    found: dict[str, None] = {}
    for start in starts:
        for name in names_of(start):
            parts = [part for part in names_of(made[name]) if part in made and part != name] if name in made else []
            of_losses = [part for part in parts if isinstance(made[name], ast.BinOp)]
            found |= dict.fromkeys(of_losses or ([name] if name in made else []))
    return list(found)


def _returned(node: ast.FunctionDef, number: int | None) -> Iterator[ast.expr]:
    for part in ast.walk(node):
        value = part.value if isinstance(part, ast.Return) else None
        if isinstance(value, ast.Tuple) and number is not None and number < len(value.elts):
            yield value.elts[number]
        elif value is not None and number is None:
            yield value.elts[0] if isinstance(value, ast.Tuple) else value


def schedule_question(node: ast.FunctionDef) -> Iterator[str]:
    """What to declare where a step may skip its update and moves a schedule; what is meant, no source tells."""
    source = ast.unparse(node)
    if SKIPS.search(source) and SCHEDULE.search(source):
        told = "what is meant to move the schedule where a step skips its update"
        yield f'# schedule_counts = "updates"  # or "steps": {told}'


def optimizers_of(node: ast.FunctionDef) -> list[str]:
    """Local variables that step and are made here."""
    made = {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    stepping = [
        call.func.value for call in calls_in(node) if last(call) == "step" and isinstance(call.func, ast.Attribute)
    ]
    names = [value.id for value in stepping if isinstance(value, ast.Name)]
    return sorted({name for name in names if name in made and not re.search("sched|scaler", name.lower())})


def begun(loop: ast.For, call: str, own: str | None, extra: str = "") -> Iterator[str]:
    """The lines that let a loop begin: a comment on what it goes over, then `begin`."""
    over = f"`{ast.unparse(loop.iter)}`" + (", whose batches are the run's" if own else "")
    yield f"# The loop goes over {over}. What it loads from files: patches around begin() that hand out small ones."
    if isinstance(loop.iter, ast.Call) and ast.unparse(loop.iter.func) == "range":
        yield "# It counts with range: begin(..., counts_in=its_module) puts that back behind a turn for the losses."
    yield f"self.begin(lambda {'_' if own else 'loader'}: {call}, dtype=dtype{extra})"


def calls_in(node: ast.AST) -> Iterator[ast.Call]:
    """Every call below a node."""
    return (inner for inner in ast.walk(node) if isinstance(inner, ast.Call))


def _is_backward(call: ast.Call) -> bool:
    return last(call) == "backward"


def receivers_in(node: ast.AST, *methods: str) -> Iterator[ast.expr]:
    """What these methods are called on, below a node."""
    for call in calls_in(node):
        if isinstance(call.func, ast.Attribute) and call.func.attr in methods:
            yield call.func.value


def last(call: ast.Call) -> str:
    """The method's name of a call."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def names_of(node: ast.AST) -> list[str]:
    """The plain names below a node."""
    return [inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)]

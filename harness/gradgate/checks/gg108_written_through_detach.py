"""What a loss is detached into is written in place: it is the same memory, and the loss is read again.

## What it detects

`excess = ce.detach()` and `excess -= reference` behind it, in a function that goes on with `ce`.

## Why it matters

`detach()` and `.data` give the same numbers, not a copy. The losses that are summed and go backward are those less the
reference, or 0 where something was masked: what is logged is another number than the loss, and the gradient of whatever
is not linear in it is wrong. Nothing raises where nothing had been saved yet.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, function by function. What
is detached is the name that `.detach()`, `.data` or `torch.detach` is taken of, through views (`view`, `flatten`,
`squeeze`, an index by a slice) and through `float()` and `to()`, which copy nothing where nothing changes; not through
`clone()`; `.data` of what is called after losses, scores or values alone, as others have a `.data`, too. Writes are
`-=` and its like, a store at an index, and methods whose name ends in `_`, of the detached name, of a view of it, or of
the detaching itself. A finding is a write behind which the function reads the name that was detached; or one into an
argument of a function that a caller reads behind its call.

What is made of nothing (`empty`, `zeros`), parameters, buffers, weights and attributes, and writes that do not ask for
what was there (`copy_`, `fill_`, `normal_`), are meant that way. Statistic: such writes; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
ce = F.cross_entropy(logits, labels, reduction="none")
excess = ce.detach()
excess -= reference                                          # ce is less by it, too
loss = ce[excess > 0].mean()
```

Good:

```python
excess = ce.detach() - reference
```

## How to fix

Take the operation that makes a new tensor, or `detach().clone()`.

## Known limits

Attributes are not followed. A write into memory that backward reads is GG101's and GG103's, which watch the run.

## Sources

PyTorch, `Tensor.detach`: "Returned Tensor shares the same storage with the original one."
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG108", "written-through-detach"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
VIEWS = ("view", "view_as", "squeeze", "unsqueeze", "transpose", "permute", "narrow", "select", "reshape", "flatten")
SAME = (*VIEWS, "float", "to", "contiguous", "cpu", "t", "requires_grad_")  # the same memory, or it may be
IN_PLACE = re.compile(r"^[a-z]\w*[a-z0-9]_$")
SETS = (
    "copy_",
    "fill_",
    "zero_",
    "normal_",
    "uniform_",
    "trunc_normal_",
    "requires_grad_",
    "random_",
    "set_",
    "resize_",
)
MEANT = re.compile(
    r"param|weight|bias|buffer|(^|_)(p|w|buf|ema|shadow|avg|average|grads?|state|cache)(_|$)|data$", re.IGNORECASE
)
LOSS = re.compile(  # what has a `.data` that is a tensor's
    r"loss|nll|xent|entropy|logit|log_?p|prob|value|score|excess|hidden|error|(^|_)(ce|kl|td)(_|$)", re.IGNORECASE
)
MADE = re.compile(r"^(new_)?(empty|zeros|ones|full|rand|randn|tensor|arange|eye|Parameter|from_numpy)(_like)?$")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what is written through what was detached."""
    return read_place_by_place(subject, lambda file: file.has("detach(", ".data"), _of_place, "writes")


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    held = _aliases(place)
    told = set[str]()
    for node, written in _writes(place):
        name = _detached(written, held, node)
        if not name or name in told or MEANT.search(name) or _is_made(name, place):
            continue
        if _is_read_behind(name, node, place) or _is_read_by_callers(name, place, places):
            told.add(name)
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{place.name}() writes into the memory of `{name}`, by `{ast.unparse(node)}` of what was "
                "detached from it, and it is read again; allowed: a tensor of its own",
                culprit=place.file.at(node, place.name),
                fix="take the operation that makes a new tensor, or `detach().clone()`",
            )


def _aliases(place: Place) -> list[tuple[int, str, ast.expr]]:
    """The names of a function with what each is given, and where, in the order of the lines."""
    found = [
        (value.lineno, target.id, value)
        for target, value in assignments_in(place.nodes)
        if isinstance(target, ast.Name)
    ]
    return sorted(found, key=lambda one: one[0])


def _writes(place: Place) -> Iterator[tuple[ast.expr | ast.stmt, ast.expr]]:
    """What writes in place, each with what it writes into."""
    nodes = [node for node in place.nodes if isinstance(node, ast.stmt | ast.expr)]
    for node in sorted(nodes, key=lambda node: node.lineno):
        if isinstance(node, ast.AugAssign):
            yield node, node.target
        elif isinstance(node, ast.Assign):
            yield from ((node, target.value) for target in node.targets if isinstance(target, ast.Subscript))
        elif _is_in_place(node) and isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, node.func.value


def _is_in_place(node: ast.AST) -> bool:
    """Whether a node calls a method that writes, and reads what was there."""
    name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
    return bool(IN_PLACE.search(name)) and name not in SETS


def _detached(written: ast.expr, held: list[tuple[int, str, ast.expr]], at: ast.expr | ast.stmt) -> str:
    """The name from which what is written was detached; empty: it was not, or is a copy."""
    detaches, line = False, at.lineno
    for _ in range(12):
        if isinstance(written, ast.Name):
            values = [(where, value) for where, name, value in held if name == written.id and where < line]
            if not values:
                return written.id if detaches else ""
            where, value = values[-1]
            if not _is_alias(value):
                return written.id if detaches else ""
            written, line = value, where
        elif isinstance(written, ast.Subscript):
            parts = written.slice.elts if isinstance(written.slice, ast.Tuple) else [written.slice]
            is_view = all(map(_is_of_view, parts))
            if not is_view and written is not getattr(at, "target", None):
                return ""
            written = written.value
        elif isinstance(written, ast.Attribute) and written.attr == "data" and LOSS.search(ast.unparse(written.value)):
            written, detaches = written.value, True
        elif isinstance(written, ast.Call) and dotted(written.func) == "torch.detach" and written.args:
            written, detaches = written.args[0], True
        elif isinstance(written, ast.Call) and isinstance(written.func, ast.Attribute):
            name = written.func.attr
            if name not in (*SAME, "detach") and not IN_PLACE.search(name):
                return ""
            written, detaches = written.func.value, detaches or name == "detach"
        else:
            return ""
    return ""


def _is_of_view(index: ast.expr) -> bool:
    """Whether an index gives a view: a slice, or a number that is written down."""
    return isinstance(index, ast.Slice) or (isinstance(index, ast.Constant) and not isinstance(index.value, str))


def _is_alias(value: ast.expr) -> bool:
    """Whether a value may be the memory of another one."""
    if isinstance(value, ast.Name | ast.Subscript) or (isinstance(value, ast.Attribute) and value.attr == "data"):
        return True
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)):
        return False
    name = value.func.attr
    return name in (*SAME, "detach") or bool(IN_PLACE.search(name))


def _is_made(name: str, place: Place) -> bool:
    """Whether a name holds a tensor that is there to be written, or what a loop goes through."""
    loops = (node for node in place.nodes if isinstance(node, ast.For | ast.comprehension))
    if any(isinstance(part, ast.Name) and part.id == name for loop in loops for part in ast.walk(loop.target)):
        return True
    values = [value for target, value in assignments_in(place.nodes) if dotted(target) == name]
    return any(MADE.search(called_name(value)) or isinstance(value, ast.Attribute | ast.Subscript) for value in values)


def _is_read_behind(name: str, node: ast.expr | ast.stmt, place: Place) -> bool:
    """Whether a function reads a name behind a line, in front of what gives it another value."""
    end = node.end_lineno or node.lineno
    inside = set(map(id, ast.walk(node)))
    read = [
        part
        for part in place.nodes
        if isinstance(part, ast.Name) and part.id == name and isinstance(part.ctx, ast.Load) and id(part) not in inside
    ]
    given = [value.lineno for target, value in assignments_in(place.nodes) if dotted(target) == name]
    anew = min((line for line in given if line > end), default=None)
    return any(part.lineno > end and (anew is None or part.lineno <= anew) for part in read)


def _is_read_by_callers(name: str, place: Place, places: Places) -> bool:
    """Whether what callers give an argument is a name that they read behind the call."""
    if name not in place.parameters:
        return False
    for caller, value in places.values_given(place, name):
        if isinstance(value, ast.Name) and _is_read_behind(value.id, value, caller):
            return True
    return False

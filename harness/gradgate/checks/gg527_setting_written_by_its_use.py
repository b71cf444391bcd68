"""A function that uses a setting writes back what it made of it, so that its next call starts from that.

## What it detects

`cfg.lr = cfg.lr * cfg.batch_size / 256` in the function that builds an optimizer, where `cfg` is what it was given.

## Why it matters

The configuration is one object, for all who read it. A second stage that builds its optimizer of the same one scales
what was scaled; so does a second run in one process, as in a sweep or a test. What is written down as the run's
configuration behind that is another one than was given, and a run that is started from it is scaled again.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding, as a warning, is
an attribute or an entry of what a function was given, named or annotated as a configuration or a section of one, that
is assigned a product, quotient, sum or difference of itself (`cfg.lr *= n`, `opt = cfg.optim; opt.lr = opt.lr * n`).

It is none where only the top level of a file calls the function, or nothing that is known; where each call gives it
what is made there or a copy; where it stands under a condition on what the function writes, too; where a constant is
added, as to a count; and in `__post_init__` or a validator. What is rounded up to a multiple (`(n + 63) // 64 * 64`)
stays what it is the second time. Statistic: such assignments; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones; where a program calls it once, it is one.

## Example

Bad:

```python
def build_optimizer(model, cfg):
    cfg.lr = cfg.lr * cfg.batch_size / 256
    return AdamW(model.parameters(), lr=cfg.lr)
```

Good:

```python
def build_optimizer(model, cfg):
    return AdamW(model.parameters(), lr=cfg.lr * cfg.batch_size / 256)
```

## How to fix

Compute it into a variable, or into a copy (`dataclasses.replace`); make the class of settings frozen.

## Known limits

Configurations are known by their names. What is written by `update` or `setattr` is not looked at.

## Sources

Configuration faults of trainers; `frozen=True` of `dataclasses`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.setting_sections import VALIDATORS, called
from gradgate.checks.source.trainer import File, called_name, dotted
from gradgate.checks.source.values import last_name, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG527", "setting-written-by-its-use"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SETTINGS = re.compile(
    r"(config|cfg|conf|settings|options|opts|section|hparams|params|args|arguments)['\"]?$", re.IGNORECASE
)
CHANGES = (ast.Mult, ast.Div, ast.FloorDiv, ast.Add, ast.Sub, ast.Pow)
COUNTS = (ast.Add, ast.Sub)
WRAPS = ("float", "int", "round")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for settings that are made of themselves."""
    return read_place_by_place(subject, _may_write, _of_place, "settings")


def _may_write(file: File) -> bool:
    return file.has("*", "/", "-=", "+=", " - ", " + ")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    if place.name == "__post_init__" or place.decorators & {*VALIDATORS, "setter"}:
        return
    parents: dict[int, ast.AST] = {}
    for node in place.nodes:
        target = _changed(node, place)
        if target is None or (root := _root(target, place)) is None or not _is_called_anew(root, place, own):
            continue
        parents = parents or parents_in(place.function)
        if not _is_asked(node, target, place, parents):
            yield Finding(
                code=CODE,
                name=NAME,
                severity="warning",
                message=f"{place.name}() makes `{ast.unparse(target)}` of itself: its next call starts from that; "
                "allowed: a variable of its own",
                culprit=place.file.at(node, place.name),
                fix="compute it into a variable, or into a copy of the settings",
            )


def _changed(node: ast.AST, place: Place) -> ast.Attribute | ast.Subscript | None:
    """What is made of itself, so that the second time makes something else of it; None: nothing."""
    target: ast.expr
    if isinstance(node, ast.AugAssign):
        target, how, by = node.target, node.op, node.value
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target, value = node.targets[0], place.names.held(node.value)
        while isinstance(value, ast.Call) and called_name(value) in WRAPS and value.args:
            value = value.args[0]
        if not isinstance(value, ast.BinOp):
            return None
        text = ast.unparse(target)
        others = [side for side in (value.left, value.right) if text not in map(ast.unparse, _values(side))]
        is_rounded = any(isinstance(part, ast.FloorDiv | ast.Mod) for part in ast.walk(value))
        if len(others) != 1 or (is_rounded and ast.unparse(value.left) != text):
            return None
        how, by = value.op, others[0]
    else:
        return None
    if not isinstance(target, ast.Attribute | ast.Subscript) or not isinstance(how, CHANGES):
        return None
    return None if isinstance(how, COUNTS) and isinstance(by, ast.Constant) else target


def _values(node: ast.expr) -> list[ast.expr]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Attribute | ast.Subscript)]


def _root(target: ast.Attribute | ast.Subscript, place: Place) -> str | None:
    """The parameter whose setting, or whose section's, it is; None: it is none of a configuration."""
    holder, names = target.value, []
    if isinstance(target, ast.Subscript) and not isinstance(target.slice, ast.Constant):
        return None
    for _ in range(4):
        names.append(last_name(holder))
        while isinstance(holder, ast.Attribute | ast.Subscript):
            holder = holder.value
            names.append(last_name(holder))
        held = place.names.held(holder)
        if held is holder:
            break
        if not isinstance(held, ast.Name | ast.Attribute | ast.Subscript):
            return None
        holder = held
    root = holder.id if isinstance(holder, ast.Name) else ""
    if root not in place.parameters or root in ("self", "cls"):
        return None
    annotation = place.parameters[root].annotation
    told = annotation is not None and SETTINGS.search(ast.unparse(annotation))
    return root if told or any(called(name) is not None for name in names if name) else None


def _is_called_anew(root: str, place: Place, own: Places) -> bool:
    """Whether a function of the trainer's hands on what it has, so that it is there for the next call."""
    given = list(own.values_given(place, root, made=True))
    return any(not isinstance(at.names.held(value), ast.Call) for at, value in given)


def _is_asked(node: ast.AST, target: ast.expr, place: Place, parents: dict[int, ast.AST]) -> bool:
    """Whether a condition around asks for something that the function writes, too."""
    written = {
        ast.unparse(each)
        for node in place.nodes
        if isinstance(node, ast.Assign | ast.AugAssign)
        for each in (node.targets if isinstance(node, ast.Assign) else [node.target])
    } - {ast.unparse(target)}
    tests = [outer.test for outer in outwards(node, parents) if isinstance(outer, ast.If)]
    return any(dotted(part) in written for test in tests for part in ast.walk(test))

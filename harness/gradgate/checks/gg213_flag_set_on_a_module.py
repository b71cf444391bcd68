"""`requires_grad` is set on a module, which has no such switch: nothing is frozen, or released.

## What it detects

`model.trunk.requires_grad = False`, or `module.requires_grad = False` in a function that is given an `nn.Module`.

## Why it matters

It raises nothing, since a module takes any attribute. Its parameters train on: a reference or a critic that is to stand
still gets gradients, and an optimizer of all that requires one moves it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding is an assignment
to `requires_grad` of what is annotated as a module, of what a loop over `modules()`, `children()` or an argument that
is annotated as several modules gives, or of a name or an attribute that holds an object of torch's modules or of a
class of the trainer's that is one. Parameters and tensors have the switch. Statistic: such assignments; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
reference.requires_grad = False
```

Good:

```python
reference.requires_grad_(False)
```

## How to fix

Call `requires_grad_`, with its underscore: a module hands it to all of its parameters.

## Known limits

Modules of which neither a class nor an annotation is known are not seen.

## Sources

PyTorch, `nn.Module.requires_grad_`, and its notes on locally disabling gradients.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.objects_called import class_of
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG213", "flag-set-on-a-module"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SWITCH = "requires_grad"
GIVES = ("modules", "children", "named_modules", "named_children")
TORCHS = {"Module", "ModuleList", "ModuleDict", "Sequential", "Linear", "Embedding", "LayerNorm", "RMSNorm", "Dropout"}
TORCHS |= {"Conv1d", "Conv2d", "GRU", "LSTM", "MultiheadAttention", "TransformerEncoder", "TransformerEncoderLayer"}


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for the switch of a parameter on a module."""
    return read_place_by_place(subject, lambda file: file.has(f".{SWITCH} ="), _of_place, "assignments", tops=True)


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    for target, _ in assignments_in(place.nodes):
        if isinstance(target, ast.Attribute) and target.attr == SWITCH and _is_module(target.value, place, own):
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{place.name or 'the file'}{'()' if place.name else ''} sets "
                f"`{ast.unparse(target)}`, and a module has no such switch: its parameters stay as they are; "
                f"allowed: `{SWITCH}_`",
                culprit=place.file.at(target, place.name),
                fix=f"call `{ast.unparse(target)}_(...)`",
            )


def _is_module(node: ast.expr, place: Place, own: Places) -> bool:
    """Whether an expression is known to be a module."""
    if isinstance(node, ast.Name) and (given := place.parameters.get(node.id)) is not None:
        kind = last_name(given.annotation) if given.annotation is not None else ""
        return kind in TORCHS or _derives(kind, own)
    for each in place.nodes:
        if isinstance(each, ast.For) and _gives_modules(each.iter, place):
            names = each.target.elts[-1:] if isinstance(each.target, ast.Tuple) else [each.target]
            if dotted(node) and dotted(node) in map(dotted, names):
                return True
    held = place.names.held(node)
    if isinstance(held, ast.Call):
        return called_name(held) in TORCHS or _derives(called_name(held), own)
    if isinstance(node, ast.Attribute):
        values = [
            value
            for at in own.all
            for target, value in assignments_in(at.nodes)
            if isinstance(target, ast.Attribute) and target.attr == node.attr and dotted(target.value) == "self"
        ]
        made = {called_name(value) if isinstance(value, ast.Call) else "" for value in values}
        return bool(made) and all(kind in TORCHS or _derives(kind, own) for kind in made)
    owner = class_of(dotted(node), place, own) if dotted(node) else None
    return owner is not None and _derives(owner.name, own)


def _gives_modules(node: ast.expr, place: Place) -> bool:
    """Whether a loop goes through modules: `model.modules()`, or what is annotated as several of them."""
    given = place.parameters.get(node.id) if isinstance(node, ast.Name) else None
    several = given.annotation if given is not None else None
    within = several.slice if isinstance(several, ast.Subscript) else None
    return called_name(node) in GIVES or (within is not None and last_name(within) in TORCHS)


def _derives(name: str, own: Places, hops: int = 4) -> bool:
    """Whether all classes of a name are modules."""
    same = own.classes.get(name, [])
    bases = [{last_name(base) for base in one.bases} for one in same]
    return (
        bool(same)
        and hops > 0
        and all(any(base in TORCHS or _derives(base, own, hops - 1) for base in each) for each in bases)
    )

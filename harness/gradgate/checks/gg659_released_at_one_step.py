"""A frozen part is released where the step is one number alone: a run that is resumed behind it never releases it.

## What it detects

`if state.global_step == self.steps: model.requires_grad_(True)`, or `if epoch == cfg.unfreeze_epoch: unfreeze(model)`,
beside a line that freezes the part whenever a run begins.

## Why it matters

No checkpoint holds `requires_grad`. A run that is stopped behind that step and resumed freezes the part at its
beginning, passes the number no more, and trains the heads alone to its end. Its losses look plausible, and a run that
is never stopped does not show it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding is a branch of
which one condition is `==` (or that is left by `!=`) between a step, an epoch or an update and anything but a number
below 2, and which sets `requires_grad` to True or calls what is named after releasing, itself or in a function of the
trainer's that it calls. Looked at are trainers that freeze, by `requires_grad_(False)`, `requires_grad = False` or what
is named after freezing, and that resume: callbacks of transformers or Lightning where the source speaks of resuming,
others where an optimizer's state is loaded. Not so

* where the number is that of a `for` over a range from 0, or of an `enumerate`: it passes the number again;
* where a line freezes only in a branch that compares such a number by order, or a release stands in one, or in a
  function that is named after loading or resuming;
* in a class of Lightning's `BaseFinetuning`, which brings back what was released.

Statistic: such branches; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def on_step_begin(self, args, state, control, model=None, **kwargs):
    if state.global_step == self.steps:
        model.backbone.requires_grad_(True)
```

Good:

```python
    if state.global_step >= self.steps:
        model.backbone.requires_grad_(True)
```

## How to fix

Ask `>=`, or freeze at the beginning only where the run is in front of the step.

## Known limits

Which part is frozen and which is released is not compared; a part that is never released is GG211's.

## Sources

A resume fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.resuming import loads_optimizer
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of, nodes_in
from gradgate.checks.source.values import ORDERS, OTHERS, blocks_in, last_name, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG659", "released-at-one-step"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
COUNTS = re.compile(r"step|epoch|update|iter(?!able)", re.IGNORECASE)
RELEASES = re.compile(r"unfreez|thaw|defrost|(^|_)release(_|$)", re.IGNORECASE)
FREEZES = re.compile(r"^_*freeze", re.IGNORECASE)
RESUMES = re.compile(r"load|resum|restor", re.IGNORECASE)
DEPTH = 2  # calls that are followed


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for releases that a resumed run may pass by."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    able = any(file.has("==", "!=") for file in files) and any(file.has("requires_grad", "freez") for file in files)
    findings = tuple(_found(files, places_in(files))) if able else ()
    return Outcome(findings, {"releases": len(findings)}, {"releases": 0})


def _found(files: tuple[File, ...], own: Places) -> Iterator[Finding]:
    resumes = any(loads_optimizer(place.nodes) for place in own.functions)
    speaks = any(file.has("resume_from_checkpoint", "get_last_checkpoint", "ckpt_path=") for file in files)
    frozen, released = list(_switched(own, trains=False)), list(_switched(own, trains=True))
    if not frozen or not (resumes or speaks) or any(_is_by_order(*one) for one in (*frozen, *released)):
        return
    if any(RESUMES.search(place.name) for place, _ in released):
        return
    told: set[int] = set()
    for place in own.functions:
        if place.owner is not None and any(last_name(base) == "BaseFinetuning" for base in place.owner.bases):
            continue
        if not resumes and not _is_a_callback(place):
            continue
        for branch in (node for node in place.nodes if isinstance(node, ast.If)):
            leaves = len(branch.body) == 1 and isinstance(branch.body[0], ast.Return | ast.Continue)
            count = _at_one(branch.test, place, ast.NotEq if leaves else ast.Eq)
            body = _behind(branch, place) if leaves else branch.body
            if count and id(branch) not in told and _switches(body, place, own, trains=True):
                told.add(id(branch))
                yield _finding(place, branch, count)


def _is_a_callback(place: Place) -> bool:
    return place.owner is not None and any("Callback" in last_name(base) for base in place.owner.bases)


def _switched(own: Places, *, trains: bool) -> Iterator[tuple[Place, ast.AST]]:
    """The lines of a trainer that freeze or release, each with its function."""
    for place in own.functions:
        if place.file.has("requires_grad", "freez", "thaw", "release"):
            yield from ((place, node) for node in place.nodes if _is_switch(node, trains=trains))


def _is_switch(node: ast.AST, *, trains: bool) -> bool:
    """Whether a node freezes, or releases, or calls what is named after that."""
    if isinstance(node, ast.Assign):
        flags = [target for target in node.targets if last_name(target) == "requires_grad"]
        return bool(flags) and isinstance(node.value, ast.Constant) and node.value.value is trains
    if not isinstance(node, ast.Call):
        return False
    name = called_name(node)
    if name == "requires_grad_":
        given = next(iter([*node.args, *(word.value for word in node.keywords)]), None)
        flag = given.value if isinstance(given, ast.Constant) else given is None or None
        return flag is trains
    return bool((RELEASES if trains else FREEZES).search(name))


def _is_by_order(place: Place, node: ast.AST) -> bool:
    """Whether a line stands where the step is in front of or behind a number."""
    parents = parents_in(place.function)
    around = (each for each in outwards(node, parents) if isinstance(each, ast.If | ast.IfExp))
    return any(
        isinstance(part, ast.Compare)
        and any(isinstance(how, ORDERS) for how in part.ops)
        and any(_counts(side) for side in (part.left, *part.comparators))
        and not any(isinstance(side, ast.Constant) for side in (part.left, *part.comparators))  # `steps > 0`
        for each in around
        for part in ast.walk(place.names.held(each.test))
    )


def _behind(branch: ast.If, place: Place) -> list[ast.stmt]:
    """The statements behind a branch, in its block."""
    for block in blocks_in([place.function, *place.nodes]):
        if any(each is branch for each in block):
            return block[block.index(branch) + 1 :]
    return []


def _at_one(test: ast.expr, place: Place, how: type[ast.cmpop]) -> str:
    """The step that a condition holds against one number, as it is written; empty: none, or it begins anew."""
    test = place.names.held(test)
    joins = ast.And if how is ast.Eq else ast.Or
    parts = test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, joins) else [test]
    for part in map(place.names.held, parts):
        if not (isinstance(part, ast.Compare) and len(part.ops) == 1 and isinstance(part.ops[0], how)):
            continue
        for count, other in ((part.left, part.comparators[0]), (part.comparators[0], part.left)):
            number = other.value if isinstance(other, ast.Constant) else 2
            is_one = _counts(count) and isinstance(count, ast.Name | ast.Attribute)
            if is_one and isinstance(number, int) and number > 1 and not _begins_anew(count, place):
                return ast.unparse(part)
    return ""


def _counts(node: ast.expr) -> bool:
    return bool(COUNTS.search(last_name(node)))


def _begins_anew(count: ast.expr, place: Place) -> bool:
    """Whether a number is that of a loop which counts from 0."""
    for loop in (node for node in place.nodes if isinstance(node, ast.For)):
        if dotted(count) not in [dotted(part) for part in ast.walk(loop.target) if isinstance(part, ast.Name)]:
            continue
        calls = [node for node in ast.walk(loop.iter) if isinstance(node, ast.Call)]
        ranges = [call for call in calls if called_name(call) in ("range", "trange")]
        starts = any(len(call.args) > 1 and not isinstance(call.args[0], ast.Constant) for call in ranges)
        counted = any(len(call.args) > 1 or call.keywords for call in calls if called_name(call) == "enumerate")
        return not starts and not counted
    return False


def _switches(body: list[ast.stmt], place: Place, own: Places, depth: int = DEPTH, *, trains: bool) -> bool:
    """Whether statements freeze or release, or call a function that does, and is no other branch's."""
    nodes = list(nodes_in(body, *OTHERS))
    if any(_is_switch(node, trains=trains) for node in nodes):
        return True
    for call in (node for node in nodes if isinstance(node, ast.Call) and depth):
        called = own.called(call, place)
        if called is not None and called is not place:
            given = [each for each in called.given(call).values() if isinstance(each, ast.Constant)]
            flags = any(each.value is trains for each in given) and any(map(_takes_a_flag, called.nodes))
            if flags or _switches(called.function.body, called, own, depth - 1, trains=trains):
                return True
    return False


def _takes_a_flag(node: ast.AST) -> bool:
    """Whether a node sets `requires_grad` to what a function was given."""
    if isinstance(node, ast.Assign):
        return any(last_name(target) == "requires_grad" for target in node.targets) and isinstance(node.value, ast.Name)
    return called_name(node) == "requires_grad_" and any(
        isinstance(each, ast.Name)
        for each in node.args  # type: ignore[attr-defined]
    )


def _finding(place: Place, branch: ast.If, count: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() releases what is frozen where `{count}` alone: a run that is resumed behind it freezes"
        " it at its beginning and never releases it; allowed: none",
        culprit=place.file.at(branch, place.name),
        fix="ask `>=`, or freeze at the beginning only in front of that step",
    )

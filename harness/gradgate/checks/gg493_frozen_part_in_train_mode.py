"""A stage that trains a head alone freezes the trunk, and puts the whole model into train mode.

## What it detects

`model.trunk.requires_grad_(False)` or `freeze_trunk(model)` in the stage that trains the value head, then
`model.train()`, and nothing that puts the trunk into eval mode behind it.

## Why it matters

The frozen trunk drops units: the head learns on features that differ from pass to pass and that no later stage sees,
and targets that are made of its own values, as in GAE, are noise too. The trunk learns nothing by it, as it is frozen.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, where something drops
units. Looked at are the classes and functions of a stage that trains a head (value, critic, head, probe, stage 1 in the
name of the class, the function or its file). A finding is `X.train()` of a model in one that also freezes a trunk, a
backbone, a base or an encoder: it calls what is called freeze with it, sets `requires_grad` by a name, or that of all,
and then of a head. None is one where anything in the trainer puts such a part into eval mode, where a module has a
`train(self, mode)` of its own, or where the rate of dropout is set to 0.

Statistic: such calls, one a class; allowed: 0; a warning, since some want the noise.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
freeze_trunk(model)
for epoch in range(epochs):
    model.train()
```

Good:

```python
freeze_trunk(model)
for epoch in range(epochs):
    model.eval()
    model.value_head.train()
```

## How to fix

Put the trunk into eval mode behind each `train()` of the whole, or only the head into train mode.

## Known limits

Parts are known by their names; a part that was put into eval mode once and is undone later is GG469's.

## Sources

PyTorch, `nn.Module.train`: it sets the mode of all that a module holds, whatever needs a gradient.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.dropouts import drops
from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of, given_by
from gradgate.checks.source.values import is_true
from gradgate.checks.source.weightings import snake
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG493", "frozen-part-in-train-mode"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
STAGE = re.compile(r"(^|_)(value|critic|head|probe|stage_?(1|one))(_|$)")
TRUNK = re.compile(r"(^|_|\W)(trunk|backbone|base|body|encoder|transformer|lm)(_|\W|$)")
HEAD = re.compile(r"value|critic|head", re.IGNORECASE)
FREEZES = re.compile(r"(^|_)(freeze|frozen|freezes)(_|$)")
PARTS = re.compile(r"trunk|backbone|value|head")
OFF = re.compile(r"requires_grad(_\(| = )False")
MODEL = re.compile(r"(^|_)(model|net|network|policy|module|student)$")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for stages of a head that put their frozen trunk into train mode."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    random = any(drops(file.tree) for file in files if file.has("dropout", "Dropout", "DropPath"))
    findings = tuple(_found(files)) if random and any(file.has(".train(") for file in files) else ()
    return Outcome(findings, {"calls": len(findings)}, {"calls": 0})


def _found(files: tuple[File, ...]) -> Iterator[Finding]:
    places = places_in(files).functions
    if any(_keeps_modes(place) for place in places):
        return
    scopes: dict[int, list[Place]] = {}
    for place in places:
        scopes.setdefault(id(place.owner or place.function), []).append(place)
    for scope in scopes.values():
        first = scope[0]
        names = [first.file.path.stem, first.owner.name if first.owner is not None else first.name]
        if not any(STAGE.search(snake(name)) for name in names) or not first.file.has(".train("):
            continue
        calls = [(place, call) for place in scope for call in _trained(place.nodes)]
        freeze = next((node for place in scope for node in _frozen(place)), None)
        if calls and freeze is not None:
            place, call = calls[0]
            yield _finding(place, call, freeze)


def _keeps_modes(place: Place) -> bool:
    """Whether a function puts a trunk into eval mode, sets a rate of dropout to 0, or says what `train` does."""
    if place.name == "train" and place.owner is not None and "mode" in place.parameters:
        return True
    for node in place.nodes if place.file.has(".eval(", ".train(", ".p = 0") else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            of, told = node.func.value, given_by(node)
            asleep = node.func.attr == "eval" or (node.func.attr == "train" and told and not is_true(told[0]))
            if asleep and TRUNK.search(ast.unparse(of)):
                return True
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith(".p"):
            return True
    return False


def _trained(nodes: Sequence[ast.AST]) -> Iterator[ast.Call]:
    """The calls that put a whole model into train mode."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "train":
            of = dotted(node.func.value).rpartition(".")[2]
            if MODEL.search(of) and all(map(is_true, given_by(node))):
                yield node


def _frozen(place: Place) -> Iterator[ast.AST]:
    """Where a function freezes a trunk, or all but a head."""
    calls = [node for node in place.nodes if isinstance(node, ast.Call) and called_name(node) == "requires_grad_"]
    told = [(call, dotted(getattr(call.func, "value", call.func)), given_by(call)) for call in calls]
    releases = any(HEAD.search(of) and all(map(is_true, given)) for _, of, given in told)
    for call, of, given in told:
        is_off = bool(given) and isinstance(given[0], ast.Constant) and given[0].value is False
        is_whole = bool(MODEL.search(of.rpartition(".")[2])) and releases
        by_name = bool(given) and not isinstance(given[0], ast.Constant) and HEAD.search(ast.unparse(given[0]))
        if by_name or (is_off and (is_whole or TRUNK.search(of))):
            yield call
    for node in place.nodes:
        if isinstance(node, ast.Call) and FREEZES.search(snake(called_name(node))) and TRUNK.search(ast.unparse(node)):
            yield node
        elif isinstance(node, ast.Assign) and dotted(node.targets[0]).endswith(".requires_grad"):
            if not isinstance(node.value, ast.Constant) and HEAD.search(ast.unparse(node.value)):
                yield node
        elif isinstance(node, ast.For) and OFF.search(ast.unparse(node)):
            tests = [ast.unparse(part.test) for part in ast.walk(node) if isinstance(part, ast.If)]
            if TRUNK.search(ast.unparse(node.iter)) or any(map(PARTS.search, tests)):
                yield node


def _finding(place: Place, call: ast.Call, freeze: ast.AST) -> Finding:
    frozen = ast.unparse(freeze).split("\n")[0].rstrip(":")
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{place.name}() puts all of the model into train mode by `{ast.unparse(call)}`, of which `{frozen}` "
            "freezes a part: its dropout makes what the head learns on noise; allowed: none"
        ),
        culprit=place.file.at(call, place.name),
        severity="warning",
        fix="put the frozen part into eval mode behind it: `model.trunk.eval()`",
    )

"""A resumed run copies its reference from the model that it has just restored.

## What it detects

What loads a checkpoint into the model on a resume, and behind it the copy that is the reference.

## Why it matters

A run that was not stopped measures against the model that it began with; the resumed one against what that has become.
A KL from the reference is 0 again, a weight or a reward that is a difference to it vanishes, and each resume moves the
reference on. The model, the optimizer and the step are all as they were, so that no comparison of these shows it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A statement resumes where
it, or a function that it calls, loads a state into a model, and

* into that model's optimizer, too; or
* the step or the epoch, or what a loop begins to count at, and its condition or the call speaks of it (`resume`,
  `restore`, `latest`, `continue`).

Objects that are loaded in turn out of a mapping are those that the mapping holds which a call is given (`**parts`).

It is a finding where a statement behind it, in the same list or further out, makes a reference of that same model: what
is called so (`reference`, `ref_model`, `initial_policy`) and is a `deepcopy` of the model or has its `state_dict()`,
there or in a function that is called; or is such a copy under another name that is called, is frozen or is asked
without a gradient, and is neither loaded, saved nor moved with the model.

Not so where the copy is made in a loop, or under a condition that speaks of the resume or asks whether there is a
reference; where the reference is saved, or is loaded from a file under no condition; and not for an old policy, a
target network or a teacher, which may follow the model. Weights alone that a stage begins with are no resume.
Statistic: such copies; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
if resume:
    self.load(path)                                          # model, optimizer, step
self.reference = copy.deepcopy(self.model).eval()
```

Good:

```python
self.reference = copy.deepcopy(self.model).eval()
if resume:
    self.load(path)
```

## How to fix

Copy in front of what restores, where the model is built alike each time; else keep the reference in the checkpoint.

## Known limits

A model that goes by another name where it is copied, and states that a library restores within its own trainer, are not
seen. Whether a run that was stopped goes on as if it had not been is GG602's, which runs it.

## Sources

Ouyang et al. 2022, arXiv:2203.02155: the penalty is taken from the model that training began with.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cached_property

from gradgate.checks.source.objects_in_turn import given_members, in_turn, kept_members
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.reference_uses import Uses
from gradgate.checks.source.references import COPIES, copy_key, kinds_of, meant, model_named
from gradgate.checks.source.restored_models import DEPTH, FIRST, Here, Restores, first_kinds, reached, says
from gradgate.checks.source.trainer import NONE, File, calls_in, dotted, files_of, given_by
from gradgate.checks.source.values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG629", "reference-taken-behind-resume"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
OF_OTHERS = re.compile(
    r"(^|[._])(ema|old|target|best|eval|snap\w*|shadow|aver\w*|avg|swa|val\w*|teacher)(_|$)", re.IGNORECASE
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for references of restored models."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    asked = any(file.has("load_state_dict(", "load_state(") for file in files) and any(
        file.has("deepcopy(") or (file.has("state_dict()") and file.has("ref", "initial", "anchor")) for file in files
    )
    findings = tuple(_Order(places_in(files), files).all()) if asked else ()
    return Outcome(findings, {"copies": len(findings)}, {"copies": 0})


class _Order(Restores):
    """What is restored and what is copied, in the order in which it happens.

    Args:
        own: the trainer's functions.
        files: of the trainer.
    """

    def __init__(self, own: Places, files: tuple[File, ...]) -> None:
        super().__init__(own)
        self._files = files

    @cached_property
    def _still(self) -> frozenset[str]:
        """The copies that are frozen, or asked without a gradient, and neither loaded, saved nor moved on."""
        uses = Uses(self._files)
        return (uses.called & uses.frozen) - uses.loaded - uses.moved

    def all(self) -> Iterator[Finding]:
        """The copies behind what restores."""
        seen: set[int] = set()
        kept = any(
            first_kinds(call.func.value)
            for place in self.own.functions
            if place.file.has(".state_dict()")
            for call in calls_in(place.function)
            if isinstance(call.func, ast.Attribute) and call.func.attr == "state_dict"
        )
        kept = kept or any(self._saves_in_turn(place) for place in self.own.functions)
        for place in () if kept else self.own.functions:
            loading = self.blocks(place)
            for block in loading:
                for at, statement in enumerate(block):
                    models = self.restored(statement, place) if at + 1 < len(block) else frozenset()
                    for copy, model in self._copies(block[at + 1 :], place, DEPTH) if models else ():
                        if model in models and id(copy) not in seen:
                            seen.add(id(copy))
                            yield _finding(copy, model, statement, place)

    def _saves_in_turn(self, place: Place) -> bool:
        """Whether a reference is among the objects that a function saves one by one."""
        for _, mapping in in_turn(place, "state_dict"):
            pairs = kept_members(mapping, place, self.own) or []
            for caller, call in self.own.calls_of(place.name):
                pairs += given_members(mapping, place, call, caller, self.own) or []
            if any(kinds_of(key) & FIRST or first_kinds(value) for key, value in pairs):
                return True
        return False

    def _copies(
        self, block: list[ast.stmt], place: Place, depth: int, *, named: bool = False
    ) -> Iterator[tuple[ast.AST, str]]:
        """The references that statements make, each with its model; `named` says that what they return is one."""
        statements = list(reached(block))
        if _loads_reference(block, named=named):
            return
        for statement in statements:
            values = [(first_kinds(target), value) for target, value in assignments_in([statement])]
            calls = list(calls_in(statement))
            values += [(kinds_of(word.arg or "") & FIRST, word.value) for call in calls for word in call.keywords]
            if named and (isinstance(statement, ast.Return) and statement.value is not None):
                values.append((FIRST, statement.value))
            elif named:
                values += [(FIRST, value) for _, value in assignments_in([statement])]
            of_others = any(OF_OTHERS.search(dotted(target)) for target, _ in assignments_in([statement]))
            for call in calls if not of_others else ():
                if copy_key(call) & self._still and not any(
                    call in ast.walk(value) for kinds, value in values if kinds
                ):
                    yield call, _model_copied(call)
            for kinds, value in values:
                for call in calls_in(value) if kinds else ():
                    yield from ((call, model) for model in [_model_copied(call)] if model)
                    yield from self._copies_of(call, place, depth, named=True)
            for call in calls:
                if isinstance(call.func, ast.Attribute) and call.func.attr == "load_state_dict" and call.args:
                    if first_kinds(call.func.value) and isinstance(call.args[0], ast.Call):
                        yield from ((call, model) for model in [_model_copied(call.args[0])] if model)
                else:
                    of_function = bool(kinds_of(dotted(call.func)) & FIRST)
                    yield from self._copies_of(call, place, depth, named=of_function)

    def _copies_of(self, call: ast.Call, place: Place, depth: int, *, named: bool) -> Iterator[tuple[ast.AST, str]]:
        """The references that a call makes: it stands for them."""
        candidates = meant(self.own, call, place) if depth else []
        for called in candidates if len(candidates) == 1 else ():
            names = Here(call, called)
            for _, model in self._copies(called.function.body, called, depth - 1, named=named):
                if here := names.name(model):
                    yield call, here


def _model_copied(call: ast.Call) -> str:
    """The model that a call copies, or gives the state of."""
    if COPIES.search(dotted(call.func)) and call.args:
        return model_named(call.args[0])
    states = isinstance(call.func, ast.Attribute) and call.func.attr == "state_dict"
    return model_named(call.func.value) if states and isinstance(call.func, ast.Attribute) else ""


def _loads_reference(block: list[ast.stmt], *, named: bool) -> bool:
    """Whether a reference is loaded from elsewhere, unless a condition says that there is a file for it.

    Args:
        block: the statements.
        named: whether what they return is a reference, under whatever name.
    """
    for statement in _always(block):
        for call in calls_in(statement):
            name = dotted(call.func)
            given = given_by(call)
            own = isinstance(call.func, ast.Attribute) and call.func.attr == "load_state_dict"
            states = [each for each in given if isinstance(each, ast.Call) and _model_copied(each)]
            of = call.func.value if own and isinstance(call.func, ast.Attribute) else None
            if of is not None and (first_kinds(of) or (named and isinstance(of, ast.Name))) and not states:
                return True
            if of is None and "load" in name and any(first_kinds(each) for each in given):
                return True
    return False


def _always(block: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a list, and of branches whose condition speaks of a resume."""
    for statement in block:
        if isinstance(statement, ast.If):
            if says(statement.test):
                yield from _always([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.With | ast.Try):
            yield from _always(statement.body)
        else:
            yield statement


def _finding(copy: ast.AST, model: str, restoring: ast.stmt, place: Place) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{place.name}() takes its reference of `{model}` behind line {restoring.lineno}, which restores "
            "that on a resume: the resumed run's reference is another one; allowed: a copy in front of that"
        ),
        culprit=place.file.at(copy, place.name),
        fix="copy in front of what restores, or keep the reference in the checkpoint",
    )

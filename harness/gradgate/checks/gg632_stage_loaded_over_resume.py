"""A resumed run loads another stage's weights into the model that it has just restored.

## What it detects

What loads a checkpoint into the model and its optimizer on a resume, and behind it a critic, a value head or a base
that is loaded into the same model.

## Why it matters

The part that was trained is overwritten by what it began with, and the optimizer holds the moments of the other. The
run goes on without an error, and its step and its loss curve look as if nothing had been.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A statement resumes as for
GG629. It is a finding where a statement behind it, in the same list or further out and in front of the loop or of what
trains, calls what loads a state into that model or into a part of it, and no optimizer's, and names a stage: `critic`,
`value_head`, `base`, `init_from`, `pretrained`, `stage`, `sft`. The model of an object is the one that it was given as
it was made, by the name of its attribute.

Not so under a condition that speaks of the resume, of the step or the epoch; and not for a reference or another model.
Statistic: such loads; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
if resume:
    trainer.restore(latest)                                  # model, optimizer, step
attach_critic(model, stage1 / "critic.pt")
```

Good:

```python
attach_critic(model, stage1 / "critic.pt")
if resume:
    trainer.restore(latest)
```

## How to fix

Load the other stage in front of what restores, or where nothing is resumed.

## Known limits

A model that goes by another name where it is loaded, and states that a library restores within its own trainer, are not
seen. Whether a run that was stopped goes on as if it had not been is GG602's, which runs it.

## Sources

"Saving and Loading Models", PyTorch's tutorials: `load_state_dict` takes the place of what the model holds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, read_as_one
from gradgate.checks.source.references import model_named
from gradgate.checks.source.restored_models import DEPTH, Restores, reached
from gradgate.checks.source.trainer import calls_in, dotted, nodes_in
from gradgate.checks.source.values import is_part
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG632", "stage-loaded-over-resume"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
STAGE = re.compile(
    r"critic|value_?head|(^|[^a-z])base([^a-z]|$)|init_from|pretrain|stage|[^a-z]sft|warm_?start", re.IGNORECASE
)
VALUES = re.compile(r"\.(critic|value_?head)$", re.IGNORECASE)  # a part that an earlier stage trains
TRAINS = re.compile(r"(^|\.)_?(fit|train|run|main|learn)(_\w+)?$")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for stages that are loaded over what was restored."""
    return read_as_one(subject, [("load_state_dict(",)], lambda own: _Order(own).all(), "loads")


class _Order(Restores):
    """What is restored and what is loaded, in the order in which it happens."""

    def all(self) -> Iterator[Finding]:
        """The stages that are loaded behind what restores."""
        seen: set[int] = set()
        for place in self.own.functions:
            for block in self.blocks(place):
                for at, statement in enumerate(block[:-1]):
                    restored = self._outside(self.restored(statement, place), statement, place)
                    for call, model in self._loads(block[at + 1 :], place) if restored else ():
                        if id(call) not in seen and any(is_part(model, of) for of in restored):
                            seen.add(id(call))
                            yield _finding(call, model, statement, place)

    def _outside(self, models: frozenset[str], statement: ast.stmt, place: Place) -> frozenset[str]:
        """The models, and under which names an object was given them as it was made."""
        names, found = place.names, set(models)
        for model in models:
            first, _, rest = model.partition(".")
            made = names.held(ast.copy_location(ast.Name(first), statement)) if rest and first != "self" else None
            if isinstance(made, ast.Call):
                built = self.own.called(made, place)
                given = {word.arg: word.value for word in made.keywords if word.arg}
                given |= built.given(made) if built is not None else {}
                if rest in given:
                    found.add(model_named(given[rest]))
        return frozenset(found - {""})

    def _loads(self, block: list[ast.stmt], place: Place) -> Iterator[tuple[ast.Call, str]]:
        """The calls of statements that load a stage, each with its model, in front of what trains."""
        for statement in block:
            nodes = list(nodes_in([statement]))
            if any(isinstance(node, ast.For | ast.While) for node in nodes):
                return
            for each in reached([statement]):
                for call in calls_in(each):
                    if TRAINS.search(dotted(call.func)):
                        return
                    loaded = self.loaded([call], place, DEPTH)
                    told = STAGE.search(ast.unparse(each)) is not None
                    parts = [model for model in sorted(loaded.models) if told or VALUES.search(model)]
                    yield from ((call, model) for model in parts if not loaded.optimizers)


def _finding(call: ast.Call, model: str, restoring: ast.stmt, place: Place) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{place.name}() loads `{model}` by `{ast.unparse(call)}` behind line {restoring.lineno}, which "
            "restores that on a resume: what was trained is overwritten; allowed: a load in front of that"
        ),
        culprit=place.file.at(call, place.name),
        fix="load the other stage in front of what restores, or where nothing is resumed",
    )

"""A checkpoint is written behind an update with the number of that update, and a resumed run begins with it.

## What it detects

`{"step": step}` saved behind the update of `for step in range(start, steps)`, and a start that is what was loaded; a
save between the update and `step += 1`; or one more in both places.

## Why it matters

The update that was made is made again by a run that is resumed, with other rows: it has one update more than one that
was not stopped, and its schedule is one behind. With one more in both places an update is left out. A test that saves
between two steps by itself shows neither.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A loop's count is the target
of a `for` over a `range` with a start, or what a block that makes an update raises by one. What it begins with is an
entry of a mapping, of no epoch, by itself, by names and attributes that are assigned it, by an argument or by what a
function gives back. An update is an optimizer's step, a call of a function that makes one, or a call that is named
after one. A save is a mapping with an optimizer in it, which has the count under the same key and stands behind the
update in that block; it may be made by a function that is called there. It is a finding where saving and loading
add nothing, or two, to the number. Not so

* where another save of that block fits, or the starts differ;
* in a branch that leaves the loop, or that is taken for the best.

`done = self.progress.step + 1` and, behind it in one block, a save and then `self.progress.step = done` are a finding
where what is saved has `self.progress.step` or `self.progress.state_dict()` beside an optimizer, and loading adds
nothing. So are hooks that are called behind an update, by an event (`self.emit("step_end")`, of which a function makes
the method's name) or in a loop over them, of which one so saves `state.step`, in front of `self.state.step += 1` in
that block.

Statistic: such saves; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
while self.step < self.config.max_steps:
    self.update(next(self.batches))
    if self.step % self.config.save_every == 0:
        self.save()                                          # "step": self.step
    self.step += 1
```

Good:

```python
    self.update(next(self.batches))
    self.step += 1
    if self.step % self.config.save_every == 0:
        self.save()
```

## How to fix

Save the number of updates that are made, and begin with it.

## Known limits

States that are saved as an object are not followed. Epochs are GG625's; whether a run that was stopped goes on as if
it had not been is GG602's, which runs it.

## Sources

A resume fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.accumulation import steps_in
from gradgate.checks.source.late_counts import counts_behind_hooks, late_counts
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.saved_numbers import Number, Payloads, Save, Starts, held_at, without_leaving
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of, nodes_in
from gradgate.checks.source.values import OTHERS, blocks_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG641", "step-saved-early"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
STEP = re.compile(r"^(?!.*epoch)", re.IGNORECASE)
MAKES = re.compile(
    r"^_?((train|training|optimi[sz]er?|one|do|run)_?)?(step|update|batch|iteration)$|^_?train(?!.*epoch)"
)
DEPTH = 3  # calls that are followed


@dataclass(frozen=True)
class _Count:
    """A count of updates.

    Args:
        body: in which it is raised once.
        name: how it is written.
        start: what it begins with.
    """

    body: list[ast.stmt]
    name: str
    start: ast.expr


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the number that is saved behind an update against the one that a resumed run begins with."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    saves = any(file.has("save") for file in files) and any(file.has("load_state_dict") for file in files)
    findings = (*_of_all(files), *map(_late, _late_ones(places_in(files)))) if saves else ()
    return Outcome(findings, {"saves": len(findings)}, {"saves": 0})


def _late_ones(own: Places) -> Iterator[tuple[Place, ast.Call, ast.expr]]:
    yield from late_counts(own)
    yield from counts_behind_hooks(own)


def _of_all(files: tuple[File, ...]) -> Iterator[Finding]:
    own = places_in(files)
    starts, seen = Starts(own, STEP), set[int]()
    for place in (place for place in own.functions if place.file.has("range(", "+= 1")):
        for count in _counts(place):
            at = next((at for at, each in enumerate(count.body) if _updates(each, place, own)), None)
            begun = set(starts.of(count.start, place)) if at is not None else set()
            if at is None or len(begun) != 1:
                continue
            (first,) = begun
            saves = [save for save in _saves(count, at, place, own) if save.number.key == first.key]
            if any(save.number.more + first.more == 1 for save in saves):
                continue
            for save in saves:
                if id(save.node) not in seen:
                    seen.add(id(save.node))
                    yield _finding(save, first, count)


def _counts(place: Place) -> Iterator[_Count]:
    """The counts of a function's loops."""
    for loop in (node for node in place.nodes if isinstance(node, ast.For | ast.While)):
        if isinstance(loop, ast.For) and (start := _start(loop)) is not None:
            yield _Count(loop.body, dotted(loop.target), start)
        inside = [loop, *nodes_in(loop.body, *OTHERS, ast.For, ast.While)]
        inside = [node for node in inside if node is loop or not isinstance(node, (*OTHERS, ast.For, ast.While))]
        for block in blocks_in(inside):
            for each in block:
                if isinstance(each, ast.AugAssign) and isinstance(each.op, ast.Add) and ast.unparse(each.value) == "1":
                    yield _Count(block, dotted(each.target), each.target)


def _start(loop: ast.For) -> ast.expr | None:
    """The first number of a `range`."""
    for call in (node for node in ast.walk(loop.iter) if isinstance(node, ast.Call)):
        if called_name(call) in ("range", "trange") and len(call.args) == 2:
            return call.args[0] if isinstance(loop.target, ast.Name | ast.Attribute) else None
    return None


def _updates(statement: ast.stmt, place: Place, own: Places, depth: int = DEPTH) -> bool:
    """Whether a statement makes an update, and goes through no epoch."""
    nodes = list(nodes_in([statement], *OTHERS, ast.For, ast.While))
    if any(steps_in(nodes)):
        return True
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        called = own.called(call, place) if depth else None
        inside = called.function.body if called is not None and called != place else []
        if called is not None and any(_updates(each, called, own, depth - 1) for each in inside):
            return True
        before, _, name = dotted(call.func).rpartition(".")
        if called is None and before in ("", "self") and MAKES.search(name):
            return True
    return False


def _saves(count: _Count, at: int, place: Place, own: Places) -> Iterator[Save]:
    """The saves of a count behind the update of its body."""
    payloads = Payloads(own, STEP, place)
    for statement in count.body[at:]:
        for part in without_leaving(statement):
            if statement is not count.body[at]:
                yield from payloads.of(part, place, held_at(count.body, {count.name: 0}, part.lineno))


def _late(found: tuple[Place, ast.Call, ast.expr]) -> Finding:
    place, call, count = found
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() saves by `{ast.unparse(call)}` before it raises `{ast.unparse(count)}`, which is "
        "saved: a resumed run makes an update twice; allowed: the number of updates that are made",
        culprit=place.file.at(call, place.name),
        fix="raise the count before the save",
    )


def _finding(save: Save, first: Number, count: _Count) -> Finding:
    told = "made twice" if save.number.more + first.more < 1 else "left out"
    begin = ast.unparse(count.start)
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{save.place.name}() saves `{ast.unparse(save.node)}` as `{first.key}` behind an update, and a "
            f"resumed run begins at `{begin}`, what was loaded{' + 1' if first.more else ''}: an update is {told}; "
            "allowed: the number of updates that are made"
        ),
        culprit=save.place.file.at(save.node, save.place.name),
        fix="save the number of updates that are made, and begin with it",
    )

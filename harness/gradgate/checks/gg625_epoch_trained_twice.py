"""A checkpoint at the end of an epoch has the number of that epoch, and a resumed run begins with it.

## What it detects

`{"epoch": epoch}` saved behind an epoch's batches, and `range(state["epoch"], epochs)` where the run goes on; or one
more in both places.

## Why it matters

The epoch that was finished is trained again: its rows count twice, and the run has more updates than its schedule. With
one more in both places an epoch is left out. A test of a run that is stopped within an epoch shows neither.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. The loop over epochs is a
`for` over a `range` with a start, which is an entry of a mapping whose key names an epoch, by itself, by names and
attributes that are assigned it, by an argument or by what a function gives back. A save is a mapping (a `dict(...)`, or
an entry that is set) with an optimizer in it, which has the epoch under the same key and stands in that loop behind its
batches: behind a loop, or a call that is named after training. It may be made by a function that is called there and
knows the epoch by an argument or an attribute. It is a finding where saving and loading add nothing, or two, to the
number. Not so

* where a position within the epoch is saved, too, and read;
* where another save of the same key fits, or the starts differ;
* in a branch that leaves the loop, or that is taken for the best.

Statistic: such saves; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for epoch in range(start, epochs):                           # start = state["epoch"]
    for batch in loader:
        ...
    torch.save({"epoch": epoch, "optimizer": optimizer.state_dict(), ...}, path)
```

Good:

```python
    torch.save({"epoch": epoch + 1, "optimizer": optimizer.state_dict(), ...}, path)
```

## How to fix

Save the number of the epoch that is next, and begin with it.

## Known limits

Loops by `while`, and states that are saved as an object, are not followed. Whether a run that was stopped goes on as if
it had not been is GG602's, which runs it.

## Sources

The ImageNet example of PyTorch, which saves `epoch + 1` and begins with what it loads.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.saved_numbers import Number, Payloads, Save, Starts, held_at, texts_of, without_leaving
from gradgate.checks.source.trainer import NONE, File, called_name, calls_in, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG625", "epoch-trained-twice"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
EPOCH = re.compile(r"epoch", re.IGNORECASE)
TRAINS = re.compile(r"train|epoch|fit|step|update|optimi[sz]e", re.IGNORECASE)
BEFORE = re.compile(r"^set_|begin|start|^log", re.IGNORECASE)
WITHIN = re.compile(
    r"batch|(step|iter|position|offset|index|pos)s?_(in|of|within)|epoch_(step|iter|pos|off|ind)|consumed|sampler|loader"
    r"|^(position|offset|cursor|iteration|iter|seen|data)$",
    re.IGNORECASE,
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the number that is saved behind an epoch against the one that a resumed run begins with."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(_of_all(files)) if any(file.has("epoch") for file in files) else ()
    return Outcome(findings, {"saves": len(findings)}, {"saves": 0})


def _of_all(files: tuple[File, ...]) -> Iterator[Finding]:
    own = places_in(files)
    read = {text for file in files for text in _read_keys(file)}
    seen: set[int] = set()
    for place in (place for place in own.functions if place.file.has("range(", "while ") and place.file.has("epoch")):
        for loop in (node for node in place.nodes if isinstance(node, ast.For | ast.While)):
            start = _start(loop)
            begun = set(Starts(own, EPOCH).of(start, place)) if start is not None else set()
            if len(begun) != 1:
                continue
            (first,) = begun
            saves = [save for save in _Saves(own, loop, place).all() if save.number.key == first.key]
            if any(save.number.more + first.more == 1 for save in saves):
                continue
            for save in saves:
                if id(save.node) not in seen and not any(WITHIN.search(key) and key in read for key in save.keys):
                    seen.add(id(save.node))
                    yield _finding(save, first, loop, start)


def _start(loop: ast.For | ast.While) -> ast.expr | None:
    """The first number of a loop over epochs; of a `while` what it compares."""
    if isinstance(loop, ast.While):
        test = loop.test
        below = isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Lt)
        return test.left if below and isinstance(test, ast.Compare) and EPOCH.search(dotted(test.left)) else None
    for call in (node for node in ast.walk(loop.iter) if isinstance(node, ast.Call)):
        named = EPOCH.search(ast.unparse(loop.target)) or EPOCH.search(ast.unparse(call))
        if called_name(call) in ("range", "trange") and len(call.args) == 2 and named:
            return call.args[0]
    return None


def _read_keys(file: File) -> Iterator[str]:
    """The keys that a file asks mappings for."""
    for node in file.nodes:
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            yield from texts_of(node.slice)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith((".get", ".pop")):
            yield from (text for part in node.args[:1] for text in texts_of(part))


class _Saves:
    """What is saved of an epoch's number behind its batches.

    Args:
        loop: over epochs.
        place: the function that it stands in.
    """

    def __init__(self, own: Places, loop: ast.For | ast.While, place: Place) -> None:
        self.own, self.loop, self.place = own, loop, place
        self.payloads = Payloads(own, EPOCH, place)
        target = loop.target if isinstance(loop, ast.For) else _start(loop) or loop.test
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        self._first = {dotted(part): 0 for part in parts if dotted(part)}

    def all(self) -> Iterator[Save]:
        """The saves of the loop, and of a function that goes through the batches for it."""
        trained = False
        for statement in self.loop.body:
            if trained:
                for part in without_leaving(statement):
                    yield from self.payloads.of(part, self.place, held_at(self.loop.body, self._first, part.lineno))
            elif trained := _trains(statement):
                for call in _own_calls(statement):
                    yield from self._behind_batches(call, held_at(self.loop.body, self._first, statement.lineno))

    def _behind_batches(self, call: ast.Call, known: Mapping[str, int]) -> Iterator[Save]:
        called = self.own.called(call, self.place)
        if called is None or called == self.place:
            return
        inside, trained = self.payloads.inside(call, called, known), False
        for statement in called.function.body if inside else ():
            if trained:
                for part in without_leaving(statement):
                    yield from self.payloads.of(part, called, inside)
            trained = trained or _loops_over(statement)


def _trains(statement: ast.stmt) -> bool:
    """Whether a statement goes through batches, or calls what is named after that."""
    names = (called_name(call) for call in calls_in(statement) if call.args or call.keywords)
    return _loops_over(statement) or any(TRAINS.search(name) and not BEFORE.search(name) for name in names)


def _loops_over(statement: ast.stmt) -> bool:
    return any(isinstance(part, ast.For | ast.While) for part in ast.walk(statement))


def _own_calls(statement: ast.stmt) -> list[ast.Call]:
    return list(calls_in(statement)) if isinstance(statement, ast.Expr | ast.Assign) else []


def _finding(save: Save, first: Number, loop: ast.For | ast.While, start: ast.expr | None) -> Finding:
    told = "trained twice" if save.number.more + first.more < 1 else "left out"
    begin = ast.unparse(start) if start is not None else ""
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{save.place.name}() saves `{ast.unparse(save.node)}` as `{first.key}` behind an epoch, and the "
            f"epochs of line {loop.lineno} begin at `{begin}`, what was loaded{' + 1' if first.more else ''}: an epoch "
            f"is {told}; allowed: the one that is next"
        ),
        culprit=save.place.file.at(save.node, save.place.name),
        fix="save the number of the epoch that is next, and begin with it",
    )

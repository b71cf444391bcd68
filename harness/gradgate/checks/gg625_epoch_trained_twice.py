"""A checkpoint at the end of an epoch has the number of that epoch, and a resumed run begins with it.

## What it detects

`{"epoch": epoch}` saved behind an epoch's batches, and `range(state["epoch"], epochs)` where the run goes on; or one
more in both places.

## Why it matters

The epoch that was finished is trained again: its rows count twice, and the run has more updates than its schedule. With
one more in both places an epoch is left out. A test of a run that is stopped within an epoch shows neither.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. The loop over epochs is a
`for` over a `range` with a start, or a `while` that compares one, which is an entry of a mapping whose key names an
epoch, by itself, by names and attributes that are assigned it, by an argument or by what a function gives back. A save
is a mapping (a `dict(...)`, or an entry that is set) with an optimizer in it, which has the epoch under the same key
and stands in that loop behind its batches: behind a loop, or a call that is named after training. It may be made by a
function that is called there and knows the epoch by an argument or an attribute. It is a finding where saving and
loading add nothing, or two, to the number. Not so

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
from dataclasses import dataclass

from gradgate.checks.epoch_starts import EPOCH, Number, Starts, added, text_of
from gradgate.checks.own_calls import OwnCalls, Place
from gradgate.checks.source_values import OTHERS, assignments_in, own_nodes
from gradgate.checks.trainer_source import NONE, File, calls_in, dotted, files_of, nodes_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG625", "epoch-trained-twice"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
TRAINS = re.compile(r"train|epoch|fit|step|update|optimi[sz]e", re.IGNORECASE)
BEFORE = re.compile(r"^set_|begin|start|^log", re.IGNORECASE)
BEST = re.compile(r"best|better|improve", re.IGNORECASE)
WITHIN = re.compile(
    r"batch|(step|iter|position|offset|index|pos)s?_(in|of|within)|epoch_(step|iter|pos|off|ind)|consumed|sampler|loader"
    r"|^(position|offset|cursor|iteration|iter|seen|data)$",
    re.IGNORECASE,
)
DEPTH = 3  # calls that are followed


@dataclass(frozen=True)
class _Save:
    """A number that is saved.

    Args:
        keys: of all entries.
    """

    number: Number
    node: ast.expr
    place: Place
    keys: frozenset[str]


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the number that is saved behind an epoch against the one that a resumed run begins with."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(_of_all(files)) if any(file.has("epoch") for file in files) else ()
    return Outcome(findings, {"saves": len(findings)}, {"saves": 0})


def _of_all(files: tuple[File, ...]) -> Iterator[Finding]:
    own = OwnCalls(files)
    read = {text for file in files for text in _read_keys(file)}
    seen: set[int] = set()
    for place in (place for place in own.places if place.file.has("range(", "while ") and place.file.has("epoch")):
        for loop in (node for node in own_nodes(place.function) if isinstance(node, ast.For | ast.While)):
            start = _start(loop)
            begun = set(Starts(own, files).of(start, place)) if start is not None else set()
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
        if dotted(call.func).rpartition(".")[2] in ("range", "trange") and len(call.args) == 2 and named:
            return call.args[0]
    return None


def _read_keys(file: File) -> Iterator[str]:
    """The keys that a file asks mappings for."""
    for node in file.nodes:
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
            yield from text_of(node.slice)
        elif isinstance(node, ast.Call) and dotted(node.func).endswith((".get", ".pop")):
            yield from (text for part in node.args[:1] for text in text_of(part))


class _Saves:
    """What is saved of an epoch's number behind its batches.

    Args:
        loop: over epochs.
        place: the function that it stands in.
    """

    def __init__(self, own: OwnCalls, loop: ast.For | ast.While, place: Place) -> None:
        self.own, self.loop, self.place = own, loop, place

    def all(self) -> Iterator[_Save]:
        """The saves of the loop, and of a function that goes through the batches for it."""
        trained = False
        for statement in self.loop.body:
            if trained:
                for part in _without_leaving(statement):
                    yield from self._in(part, self.place, self._known(part.lineno), DEPTH)
            elif trained := _trains(statement):
                for call in _own_calls(statement):
                    yield from self._behind_batches(call, self._known(statement.lineno))

    def _behind_batches(self, call: ast.Call, known: Mapping[str, int]) -> Iterator[_Save]:
        called = self.own.called(call, self.place)
        if called is None or called == self.place:
            return
        inside, trained = self._inside(call, called, known), False
        for statement in called.function.body if inside else ():
            if trained:
                for part in _without_leaving(statement):
                    yield from self._in(part, called, inside, DEPTH)
            trained = trained or _loops_over(statement)

    def _known(self, line: int) -> dict[str, int]:
        """The names and attributes that hold the epoch's number at a line of the loop, and what is added to it."""
        start = _start(self.loop) if isinstance(self.loop, ast.While) else None
        target = self.loop.target if isinstance(self.loop, ast.For) else start or self.loop.test
        parts = target.elts if isinstance(target, ast.Tuple) else [target]
        known = {dotted(part): 0 for part in parts if dotted(part)}
        nodes = [node for node in nodes_in(self.loop.body, *OTHERS) if getattr(node, "lineno", line) < line]
        for node in sorted((node for node in nodes if isinstance(node, ast.stmt)), key=lambda node: node.lineno):
            for to, value in assignments_in([node]):
                name, (inner, more) = dotted(to), added(value)
                held = known.get(dotted(inner))
                known.pop(name, None)
                if held is not None and name:
                    known[name] = held + more
            if isinstance(node, ast.AugAssign) and dotted(node.target) in known and ast.unparse(node.value) == "1":
                known[dotted(node.target)] += 1
        return known

    def _in(self, part: ast.AST, place: Place, known: Mapping[str, int], depth: int) -> Iterator[_Save]:
        """The saves of a statement, or of a function that is called in one."""
        for node in nodes_in([part], *OTHERS, ast.For, ast.While) if depth else ():
            if isinstance(node, ast.Dict):
                keys = [text for key in node.keys for text in text_of(key) or [""]]
                yield from self._of_entries(place, dict(zip(keys, node.values, strict=True)), known)
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
                entries = dict.fromkeys(text_of(node.targets[0].slice), node.value)
                if any("opt" in ast.unparse(other).lower() for other in place.function.body):
                    yield from self._of_entries(place, entries | {"optimizer": node.value}, known)
            elif isinstance(node, ast.Call):
                words = {word.arg or "": word.value for word in node.keywords}
                if dotted(node.func) == "dict":
                    yield from self._of_entries(place, words, known)
                elif called := self.own.called(node, place):
                    yield from self._called(node, called, known, depth)

    def _called(self, call: ast.Call, called: Place, known: Mapping[str, int], depth: int) -> Iterator[_Save]:
        if called == self.place or BEST.search(ast.unparse(call)) or BEST.search(called.function.name):
            return
        inside = self._inside(call, called, known)
        for statement in called.function.body if inside else ():
            yield from self._in(statement, called, inside, depth - 1)

    def _inside(self, call: ast.Call, called: Place, known: Mapping[str, int]) -> dict[str, int]:
        """What holds the number in a function that is called."""
        same = dotted(call.func).startswith("self.")
        inside = {name: more for name, more in known.items() if "." in name and (same or not name.startswith("self."))}
        for name, value in self.own.given(call, called).items():
            inner, more = added(value)
            if dotted(inner) in known:
                inside[name] = known[dotted(inner)] + more
        return inside

    def _of_entries(self, place: Place, entries: Mapping[str, ast.expr], known: Mapping[str, int]) -> Iterator[_Save]:
        if not any("opt" in f"{key} {ast.unparse(value)}".lower() for key, value in entries.items()):
            return
        for key, value in entries.items():
            inner, more = added(value)
            if EPOCH.search(key) and dotted(inner) in known:
                yield _Save(Number(key, known[dotted(inner)] + more), value, place, frozenset(entries))


def _trains(statement: ast.stmt) -> bool:
    """Whether a statement goes through batches, or calls what is named after that."""
    names = (dotted(call.func).rpartition(".")[2] for call in calls_in(statement) if call.args or call.keywords)
    return _loops_over(statement) or any(TRAINS.search(name) and not BEFORE.search(name) for name in names)


def _loops_over(statement: ast.stmt) -> bool:
    return any(isinstance(part, ast.For | ast.While) for part in ast.walk(statement))


def _own_calls(statement: ast.stmt) -> list[ast.Call]:
    return list(calls_in(statement)) if isinstance(statement, ast.Expr | ast.Assign) else []


def _without_leaving(statement: ast.stmt) -> Iterator[ast.stmt]:
    """The statements of one that go on to the next epoch, and are not for the best alone."""
    if isinstance(statement, ast.If):
        for block, test in ((statement.body, ast.unparse(statement.test)), (statement.orelse, "")):
            if block and not isinstance(block[-1], ast.Break | ast.Return | ast.Raise) and not BEST.search(test):
                for inner in block:
                    yield from _without_leaving(inner)
    elif isinstance(statement, ast.With | ast.Try):
        for inner in statement.body:
            yield from _without_leaving(inner)
    elif not isinstance(statement, ast.For | ast.While):
        yield statement


def _finding(save: _Save, first: Number, loop: ast.For | ast.While, start: ast.expr | None) -> Finding:
    told = "trained twice" if save.number.more + first.more < 1 else "left out"
    begin = ast.unparse(start) if start is not None else ""
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{save.place.function.name}() saves `{ast.unparse(save.node)}` as `{first.key}` behind an epoch, and the "
            f"epochs of line {loop.lineno} begin at `{begin}`, what was loaded{' + 1' if first.more else ''}: an epoch "
            f"is {told}; allowed: the one that is next"
        ),
        culprit=save.place.file.at(save.node, save.place.function.name),
        fix="save the number of the epoch that is next, and begin with it",
    )

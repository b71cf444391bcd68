"""A resume loads the number of the step or the epoch, and the loop begins at 0 all the same.

## What it detects

`self.step = state["step"]`, or a number that a function gives back, which lines of a log and new checkpoints read, and
`for epoch in range(epochs)` where the run goes on.

## Why it matters

The resumed run trains all its epochs once more on top of those that are done: its rows count twice, and the schedule
runs past its end. The log says at which step it was resumed.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. The number is an entry of a
mapping that is named after a step or an epoch, in a function that loads an optimizer's state. It is followed through
names, attributes and what functions give back. It is used where it is compared (but for `% n` and a constant), counts
in an index, or is given to a function that neither saves nor logs. It is a finding where no such number of that
function is used, and where what holds one stands in the same function or class as a loop that trains over a `range`
with one argument. A function that loads a place in the data (a sampler, a position, a loader) is none.

Statistic: such functions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
start = resume(config, model, optimizer)
log.info("resumed at epoch %d", start)
for epoch in range(config.epochs):
    ...
```

Good:

```python
for epoch in range(start, config.epochs):
    ...
```

## How to fix

Begin the loop with the number, or pass over what is done.

## Known limits

Loops by `while` are not looked at, nor numbers that are saved as an object. Whether a run that was stopped goes on as
if it had not been is GG602's, which runs it.

## Sources

A resume fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from gradgate.checks.source.accumulation import steps_in
from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.references import meant
from gradgate.checks.source.resuming import loads_optimizer
from gradgate.checks.source.trainer import called_name, calls_in, dotted
from gradgate.checks.source.values import contains, last_name, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG642", "loaded-place-unused"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PLACE = re.compile(
    r"^((global|start|last|current|next|opt|optimizer|train)_)?(step|epoch|iteration|iter|update)s?"
    r"(_(num|number|idx|index|done|taken|count))?$",
    re.IGNORECASE,
)
WITHIN = re.compile(
    r"sampler|loader|data|stream|position|consumed|seen|batch|cursor|offset|within|in_epoch|rows", re.IGNORECASE
)
IDLE = re.compile(  # what is told a number, and does not go by it
    r"print|log|info|debug|warn|write|save|dump|record|metric|scalar|format|str$|int$|float$|dict$|report|postfix|echo"
    r"|checkpoint|snapshot|append|lr|rate|schedule|sched|track|emit|update$|set_description|append|setattr|isinstance",
    re.IGNORECASE,
)
TRAINS = re.compile(r"^_?(train|fit|run|update|step|optimi[sz]e|epoch)", re.IGNORECASE)
HOPS = 4
_Assigned = ast.Assign | ast.AnnAssign | ast.NamedExpr


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Follow each number that a resume loads to where it is used."""
    return read_as_one(subject, [("load_state_dict",), ("range(",)], _of_all, "functions")


def _of_all(own: Places) -> Iterator[Finding]:
    parents = _Parents()
    for place in own.functions:
        if not place.file.has("load_state_dict") or not loads_optimizer(place.nodes):
            continue
        entries = [node for node in place.nodes if PLACE.search(_key(node))]
        if not entries or any(WITHIN.search(text) for text in _positions(place)):
            continue
        follows = [_Followed(own, parents, entry, place) for entry in entries]
        if any(each.is_used for each in follows):
            continue
        loop = next((loop for each in follows for loop in each.loops()), None)
        if loop is not None:
            yield _finding(place, entries[0], *loop)


def _key(node: ast.AST) -> str:
    """What a mapping is asked for."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load):
        return last_name(node)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop"):
        return str(node.args[0].value) if node.args and isinstance(node.args[0], ast.Constant) else ""
    return ""


def _positions(place: Place) -> Iterator[str]:
    """What else a function may find its place in the data by."""
    for node in place.nodes:
        if key := _key(node):
            yield key
        if isinstance(node, ast.Call) and dotted(node.func).endswith("load_state_dict"):
            yield dotted(node.func)


class _Parents:
    """What nodes stand in, of the files that are asked for."""

    def __init__(self) -> None:
        self._known: dict[int, dict[int, ast.AST]] = {}

    def of(self, place: Place) -> dict[int, ast.AST]:
        if id(place.file) not in self._known:
            self._known[id(place.file)] = parents_in(place.file.tree)
        return self._known[id(place.file)]


@dataclass
class _Followed:
    """Where a number of a checkpoint goes.

    Args:
        own: the trainer's functions.
        parents: what their nodes stand in.
        entry: of the mapping.
        place: the function that it stands in.
    """

    own: Places
    parents: _Parents
    entry: ast.AST
    place: Place
    holders: list[Place] = field(default_factory=list)  # functions that hold the number, by a name or an attribute
    _seen: set[str] = field(default_factory=set)

    @cached_property
    def is_used(self) -> bool:
        """Whether anything goes by the number."""
        self.holders.append(self.place)
        return self._uses(self.entry, self.place, HOPS)

    def _uses(self, node: ast.AST, place: Place, hops: int) -> bool:
        """Whether something goes by an expression that holds the number."""
        inner = node
        for outer in outwards(node, self.parents.of(place)):
            if isinstance(outer, ast.Compare):
                return not any(isinstance(part, ast.Constant) for part in (outer.left, *outer.comparators))
            if isinstance(outer, ast.BinOp) and isinstance(outer.op, ast.Mod):
                return False
            if isinstance(outer, ast.JoinedStr | ast.Dict | ast.AugAssign | ast.Expr):
                return False
            if isinstance(outer, ast.Call) and inner is not outer.func and dotted(outer.func) != "int":
                return not IDLE.search(dotted(outer.func) or ast.unparse(outer.func))
            if isinstance(outer, ast.keyword) and (call := self.parents.of(place).get(id(outer))) is not None:
                return not (isinstance(call, ast.Call) and IDLE.search(dotted(call.func)))
            if isinstance(outer, ast.Return):
                return self._by_callers(outer, node, place, hops)
            if isinstance(outer, ast.Assign | ast.AnnAssign | ast.NamedExpr):
                return self._by_targets(outer, node, place, hops)
            if isinstance(outer, ast.stmt):
                return True
            inner = outer
        return True

    def _by_targets(self, node: _Assigned, held: ast.AST, place: Place, hops: int) -> bool:
        """Whether something goes by what a number is assigned to."""
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        used = False
        for target in targets:
            at = target
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                number = next((n for n, part in enumerate(node.value.elts) if contains(part, held)), 0)
                at = target.elts[number] if number < len(target.elts) else target
            used |= self._by_name(at, place, hops)
        return used

    def _by_name(self, target: ast.expr, place: Place, hops: int) -> bool:
        """Whether something goes by what a name or an attribute holds."""
        text = f"{id(place.function) if isinstance(target, ast.Name) else ''}{last_name(target)}"
        if text in self._seen:
            return False
        self._seen.add(text)
        if hops == 0 or not isinstance(target, ast.Name | ast.Attribute):
            return True
        name, used = last_name(target), False
        for other in [place] if isinstance(target, ast.Name) else self.own.functions:
            if not other.file.has(name):
                continue
            nodes = other.nodes
            same = [node for node in nodes if isinstance(node, type(target)) and last_name(node) == name]
            if same:
                self.holders.append(other)
            used |= any(isinstance(node.ctx, ast.Load) and self._uses(node, other, hops - 1) for node in same)
        return used

    def _by_callers(self, node: ast.Return, held: ast.AST, place: Place, hops: int) -> bool:
        """Whether something goes by what a function gives back."""
        if hops == 0:
            return True
        value, used = node.value, False
        parts = value.elts if isinstance(value, ast.Tuple) else []
        number = next((at for at, part in enumerate(parts) if contains(part, held)), None)
        for caller, call in self.own.calls_of(place.name):
            if place not in meant(self.own, call, caller):
                continue
            outer = self.parents.of(caller).get(id(call))
            if number is not None and isinstance(outer, ast.Assign) and isinstance(outer.targets[0], ast.Tuple):
                targets = outer.targets[0].elts
                used |= self._by_name(targets[number], caller, hops - 1) if number < len(targets) else True
            elif number is None:
                self.holders.append(caller)
                used |= self._uses(call, caller, hops - 1)
            else:
                return True
        return used

    def loops(self) -> Iterator[tuple[Place, ast.For]]:
        """The loops that train from 0 on in the functions that hold the number, and in their classes."""
        for holder in self.holders:
            for place in self.own.functions:
                kin = place.owner is not None and place.owner is holder.owner
                if place.function is holder.function or kin:
                    for node in place.nodes:
                        if isinstance(node, ast.For) and _is_from_0(node.iter) and _trains(node):
                            yield place, node


def _is_from_0(over: ast.expr) -> bool:
    """Whether a loop goes over a `range` with one argument that is no number, alone or beside others."""
    calls = [over] if isinstance(over, ast.Call) else []
    for call in calls:
        name = called_name(call)
        if name in ("range", "trange"):
            return len(call.args) == 1 and not isinstance(call.args[0], ast.Constant)
        if name in ("zip", "tqdm"):
            calls += [each for each in call.args if isinstance(each, ast.Call)]
    return False


def _trains(loop: ast.For) -> bool:
    named = re.search(r"epoch|step|iter|update", f"{ast.unparse(loop.target)} {ast.unparse(loop.iter)}", re.IGNORECASE)
    names = [called_name(call) for call in calls_in(loop)]
    trains = any(steps_in(ast.walk(loop))) or any(TRAINS.search(name) or name == "backward" for name in names)
    return bool(named) and trains


def _finding(place: Place, entry: ast.AST, there: Place, loop: ast.For) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() loads `{ast.unparse(entry)}`, and nothing goes by it: line {loop.lineno} of "
        f"{there.function.name}() begins at 0, over `{ast.unparse(loop.iter)}`; allowed: where the run was stopped",
        culprit=place.file.at(entry, place.name),
        fix="begin the loop with the number, or pass over what is done",
    )

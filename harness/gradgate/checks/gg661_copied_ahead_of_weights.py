"""An average or a reference is copied from the model before the weights are loaded that training starts from.

## What it detects

`self.ema = Average(model)` in the constructor, and `self.model.load_state_dict(stage1)` in a method behind it: the
average begins at the random weights that the model had as it was made. So does a copy that is asked as a reference,
and a head that starts as a copy of another head, which is loaded behind that.

## Why it matters

An average with a decay of 0.999 needs thousands of updates to forget where it began. Until then it is evaluated and
saved as the best, and is a mixture of trained and random weights; a reference of random weights makes any KL a pull
towards noise. The model itself is right, and so is its loss.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A copy is what is made by
`deepcopy` or by a class whose `__init__` clones parameters and mixes
them in a method, or the parameters cloned one by one. Each function is followed in the order of its lines through
what it calls, and each method behind its class's `__init__`. A finding is a copy of a model that is loaded behind it,
or of a part of that, by a line of no resume (a function that loads no optimizer, under no condition that speaks of
one), where the copy then

* is moved on by a method of its class that multiplies or interpolates, or that is called after updating, and not once
  before that;
* or, of a `deepcopy`, is called, and nothing writes it anywhere behind that.

So is one part of a model that is copied into others of it (`copy_`, `load_state_dict(part.state_dict())`, clones, a
`deepcopy`) in front of a load of the copied part, or of the whole with `strict=False` or filtered; of copies that the
model's `__init__` makes, only where the loading function names the others; not where the function that copies is called
in a loop, or twice in a file.

None are copies that are made again, loaded, or written by a method of theirs in between, and those whose first update
takes the model as it is. Statistic: such copies; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
self.ema = Average(self.model)
self.model.load_state_dict(stage1["model"])
```

Good:

```python
self.model.load_state_dict(stage1["model"])
self.ema = Average(self.model)
```

## How to fix

Load first, copy behind that.

## Known limits

Models that are loaded by a library's function, and copies that are kept in a mapping, are not followed.

## Sources

PyTorch, `torch.optim.swa_utils.AveragedModel`: it copies the parameters of the model that it is given as it is made.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cached_property
from itertools import starmap

from gradgate.checks.source.copied_parts import copied_parts, is_of_resume
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.run_orders import LOAD, MAKE, SAME, USE, Event, Orders
from gradgate.checks.source.trainer import NONE, called_name, calls_in, dotted, files_of, last_attr
from gradgate.checks.source.values import assignments_in, is_part, last_name, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG661", "copied-ahead-of-weights"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MOVES = re.compile(r"(^|_)(update|step|accumulate|moving|average|polyak|ema)(_|$)", re.IGNORECASE)
WRITES = re.compile(r"(^|_)(reset|copy|sync|init|register|load|set|start|refresh|snapshot|take)", re.IGNORECASE)
MIXES = ("lerp_", "mul_", "_foreach_lerp_", "_foreach_mul_", "lerp")
TAKES = ("copy_", "clone", "deepcopy", "load_state_dict", "_foreach_copy_")
STATES = ("named_parameters", "parameters", "state_dict")
DEEP = ("deepcopy", "AveragedModel")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Follow copies of models to where these are loaded."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    asked = any(file.has("load_state_dict") for file in files)
    own = places_in(files)
    findings = (*_Copies(own).found(), *starmap(_of_part, copied_parts(own))) if asked else ()
    return Outcome(findings, {"copies": len(findings)}, {"copies": 0})


class _Copies:
    """The copies of models that a trainer makes.

    Args:
        own: its functions.
    """

    def __init__(self, own: Places) -> None:
        self.own = own

    @cached_property
    def _classes(self) -> set[str]:
        """The classes whose `__init__` clones what it is given."""
        return {name for name, same in self.own.classes.items() if len(same) == 1 and self._clones(same[0])}

    def _clones(self, owner: ast.ClassDef) -> bool:
        methods = {place.name: place for place in self.own.methods_of(owner)}
        start = methods.get("__init__")
        if start is None or len(start.parameters) < 2 or any("Optim" in last_name(base) for base in owner.bases):
            return False
        if not any(called_name(node) in MIXES for place in methods.values() for node in place.nodes):
            return False
        called = [methods.get(last_attr(node)) for node in start.nodes if isinstance(node, ast.Call)]
        names = {called_name(node) for place in (start, *called) if place is not None for node in place.nodes}
        given = set(STATES) & names
        return "deepcopy" in names or bool(given and "clone" in names)

    def _is_copy(self, value: ast.expr) -> bool:
        names = {called_name(call) for call in calls_in(value)}
        if isinstance(value, ast.DictComp | ast.ListComp):
            return "clone" in names and bool(names & set(STATES))
        return bool(names & {*DEEP, *self._classes})

    def found(self) -> Iterator[Finding]:
        """The copies that are taken too early."""
        nodes = [
            node
            for place in self.own.functions
            if place.file.has(*DEEP, "clone", *self._classes)
            for node in place.nodes
        ]
        copied = [target for target, value in assignments_in(nodes) if self._is_copy(value)]
        made = {last_name(part) for target in copied for part in places_of(target)} - {""}
        places = [place for place in self.own.functions if made and place.file.has("load_state_dict")]
        asked = [node for place in places for node in place.nodes if isinstance(node, ast.Attribute)]
        loaded = {last_name(node.value) for node in asked if node.attr == "load_state_dict"}
        seen = set[int]()
        for events, _ in Orders(self.own, frozenset(made | loaded)).runs() if made and loaded else ():
            for copy, load in self._early(events):
                if id(copy.node) not in seen:
                    seen.add(id(copy.node))
                    yield _finding(copy, load)

    def _early(self, events: list[Event]) -> Iterator[tuple[Event, Event]]:
        same: dict[str, str] = {}
        copies: dict[str, Event] = {}
        early: dict[str, tuple[Event, Event]] = {}
        asked: dict[str, tuple[Event, Event]] = {}
        for event in events:
            name = _first(event.name, same)
            if event.kind == SAME and event.given:
                same[event.name] = _first(event.given[0], same)
            elif event.kind == MAKE:
                for known in (copies, early, asked):
                    known.pop(name, None)
                if self._is_copy(event.value):
                    copies[name] = event
            elif event.kind == LOAD and name in copies:
                if not is_of_resume(event):
                    early.pop(name, None)
                    asked.pop(name, None)
            elif event.kind == LOAD and not is_of_resume(event):
                early |= {of: (copy, event) for of, copy in copies.items() if _is_of(copy, name, same)}
            elif event.kind == USE and name in copies:
                does = self._does(event, name, copies[name], same)
                if does == "moves":
                    if name in early:
                        yield early[name]
                    copies.pop(name)
                    early.pop(name, None)
                elif does == "writes":
                    early.pop(name, None)
                    asked.pop(name, None)
                    copies.pop(name)
                elif does == "asks" and name in early:
                    asked[name] = early[name]
        yield from asked.values()

    def _does(self, event: Event, name: str, copy: Event, same: dict[str, str]) -> str:
        """What a call does with a copy."""
        call = event.value
        if not isinstance(call, ast.Call):
            return ""
        if last_name(call.func) == name.rpartition(".")[2]:
            return "asks" if any(called_name(each) == "deepcopy" for each in calls_in(copy.value)) else ""
        if last_attr(call) in (*MIXES, *TAKES) and isinstance(copy.value, ast.DictComp | ast.ListComp):
            return "moves" if last_attr(call) in MIXES else "writes"
        method = self._method(call, event.place, copy)
        if method is not None:
            names = {called_name(node) for node in method.nodes}
            if names & set(MIXES):
                return "writes" if _begins(method) else "moves"
            targets = [target for target, _ in assignments_in(method.nodes)]
            targets = [target.value if isinstance(target, ast.Subscript) else target for target in targets]
            stored = any(dotted(part).startswith("self.") for target in targets for part in places_of(target))
            if stored and names & set(TAKES):
                return "writes"
        of_model = any(_is_of(copy, _first(each, same), same) for each in event.given)
        if WRITES.search(last_attr(call)):
            return "writes"
        return "moves" if MOVES.search(last_attr(call)) and of_model else ""

    def _method(self, call: ast.Call, place: Place, copy: Event) -> Place | None:
        kind = next((called_name(each) for each in calls_in(copy.value) if called_name(each) in self._classes), "")
        of_class = self.own.methods_of(self.own.classes[kind][0]) if kind else []
        return next((each for each in of_class if each.name == last_attr(call)), None) or self.own.called(call, place)


def _begins(method: Place) -> bool:
    """Whether a method takes the model as it is under a condition: at its first call."""
    branches = [node for node in method.nodes if isinstance(node, ast.If)]
    return any(called_name(call) in TAKES for branch in branches for call in calls_in(branch))


def _first(name: str, same: dict[str, str]) -> str:
    """The first name of an object that has several, also of one that holds it."""
    for _ in range(4):
        holder = next((each for each in same if name == each or name.startswith(f"{each}.")), None)
        if holder is None or same[holder] == holder:
            return name
        name = f"{same[holder]}{name.removeprefix(holder)}"
    return name


def _is_of(copy: Event, model: str, same: dict[str, str]) -> bool:
    """Whether a copy was taken of a model, or of a part of it."""
    return any(is_part(_first(each, same), model) for each in copy.given)


def _finding(copy: Event, load: Event) -> Finding:
    told = (
        f"makes `{copy.name}` of the weights that are there before {load.where} loads those that training starts from"
    )
    return _told(copy, f"{told}, and nothing sets it again")


def _of_part(copy: Event, load: Event) -> Finding:
    told = (
        f"copies `{copy.name}` into `{copy.given[0]}` before {load.where} loads the weights that training starts from"
    )
    return _told(copy, f"{told}, which the copy lacks")


def _told(copy: Event, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{copy.place.name}() {told}; allowed: a copy behind that",
        culprit=copy.place.file.at(copy.node, copy.place.name),
        fix="load first, and copy behind that",
    )

"""What a resume has filled is built anew behind it: an optimizer or a schedule that begins from nothing.

## What it detects

`self.resume(path)`, which loads `self.optimizer`, and behind it a hook, a method or a line that makes another one:
`self.optimizer = build_optimizer(model)`.

## Why it matters

The moments of Adam, the place in the schedule and the scale of the gradients are those of a fresh run. The resume tells
that it worked, the loss jumps or crawls for some hundred steps, and nothing raises.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Each function, and each
method that no other of its class calls, is followed in the order of its lines through the functions and methods that
it calls; those of a class below stand in the place of those above. A finding is an object that `load_state_dict` fills,
also by its name in a loop over names, and that is assigned a call's value behind that.

None are those under a condition or in a loop that the load is not in (an optimizer of the next stage, one that is
missing), those that are given the object itself or read it in what they call (`prepare(optimizer)`), those that bring
it back (`from_pretrained`, `load_...`), a schedule that is told its place (`last_epoch=step`), and those behind which
it is loaded once more. Statistic: such assignments; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
self.resume(path)           # self.optimizer.load_state_dict(state["optimizer"])
self.on_fit_start()         # self.optimizer = build_optimizer(self.model)
```

Good:

```python
self.on_fit_start()
self.resume(path)
```

## How to fix

Build first, resume last.

## Known limits

Objects that are kept in a list or a mapping, and classes that are chosen by a table, are followed by their methods
alone. That a resumed run goes as the one that was not stopped is GG602's, which runs it.

## Sources

PyTorch, "Saving and loading a general checkpoint": the optimizer is made, then loaded, then trained with.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Places, read_as_one
from gradgate.checks.source.run_orders import LOAD, MAKE, Event, Orders
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import assignments_in, last_name, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG660", "built-anew-behind-resume"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
BRINGS = re.compile(r"load|restor|resum|^from_|read|^get$|^pop$", re.IGNORECASE)
LAST = ("last_epoch", "last_step")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Follow what is loaded to where it is made anew."""
    return read_as_one(subject, [("load_state_dict",)], _found, "objects")


def _found(own: Places) -> Iterator[Finding]:
    watched = _watched(own)
    seen = set[int]()
    for events, begun in Orders(own, watched).runs() if watched else ():
        for load, made in _anew(events[begun:]):
            if id(made.node) not in seen and not _reads_it(made, own):
                seen.add(id(made.node))
                yield _finding(load, made)


def _watched(own: Places) -> frozenset[str]:
    """The last names of what is loaded somewhere, and made by a call."""
    places = [place for place in own.functions if place.file.has("load_state_dict")]
    nodes = [node for place in places for node in place.nodes]
    loaded = {last_name(node.value) for node in nodes if isinstance(node, ast.Attribute)
              and node.attr == "load_state_dict"}  # fmt: skip
    texts = {text.value for node in nodes if isinstance(node, ast.Tuple | ast.List | ast.Set) for text in node.elts
             if isinstance(text, ast.Constant) and isinstance(text.value, str)}  # fmt: skip
    made = {
        last_name(part)
        for place in own.functions
        for target, value in assignments_in(place.nodes)
        if isinstance(value, ast.Call)
        for part in places_of(target)
    }
    return frozenset((loaded | texts) & made - {""})


def _anew(events: list[Event]) -> Iterator[tuple[Event, Event]]:
    """What is loaded, and made behind that, under no condition that the load is not under, and not loaded again."""
    loads: dict[str, Event] = {}
    found: dict[str, tuple[Event, Event]] = {}
    for event in events:
        if event.kind == LOAD:
            loads[event.name] = event
            found.pop(event.name, None)
        elif event.kind == MAKE and event.name in loads and event.follows(loads[event.name]):
            found.setdefault(event.name, (loads[event.name], event))
    yield from found.values()


def _reads_it(made: Event, own: Places) -> bool:
    """Whether what is made is made of the same object, is brought back, or is told its place."""
    call = made.value
    if not isinstance(call, ast.Call) or BRINGS.search(called_name(call)) or made.name in made.given:
        return True
    of = [dotted(part) for each in (*given_by(call), call.func) for part in ast.walk(each)]
    targets = {dotted(part) for target, _ in assignments_in([made.node]) for part in places_of(target)}
    if targets & {*of, *(name.removesuffix(".module") for name in of)}:
        return True
    told = [word.value for word in call.keywords if word.arg in LAST]
    if any(ast.unparse(value) != "-1" for value in told):
        return True
    called = own.called(call, made.place)
    attributes = {name for name in targets if name.startswith("self.")}
    return called is not None and any(
        isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and dotted(node) in attributes
        for node in called.nodes
    )


def _finding(load: Event, made: Event) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{made.place.name}() makes `{made.name}` anew behind the load_state_dict() in {load.where}: what was "
            "loaded is lost; allowed: none"
        ),
        culprit=made.place.file.at(made.node, made.place.name),
        fix="build first, and resume last",
    )

"""What an object computes once, and keeps, is made of an attribute that one of its methods changes.

## What it detects

`@cached_property def tau(self)` that reads `self.step`, beside `def set_step(self, step): self.step = step`.

## Why it matters

The first reading decides for the whole run: the temperature stays where it began, the ramp at 0, the mask on the first
batch's width. What is logged is what was computed, so nothing looks wrong. A resumed run reads it for the first time at
another step, and trains with another constant.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. What is computed once is a
`cached_property`, a method that keeps its results (`lru_cache`, `cache`) with nothing but `self` to know them by, and
one that computes an attribute where that is None (`if self._tau is None`) or missing (`hasattr`) and returns it. What
it reads are attributes of `self`, also in properties and methods of the class that it calls, through three of them, but
for what they keep themselves.

A finding is one that reads an attribute which has a value from the start (`__init__`, the class's body) and which
another method of the class counts, or sets to what it is given, unless that method, or one that it calls, takes what
was kept away: assigns or deletes it, clears the cache or all of `__dict__`. Methods that only such a member or
`__init__` calls make the object, and change nothing. So is one whose attribute another function sets or counts on an
object of the class, by a name to which one is assigned (`self.weighter = HeadWeighter(cfg)`, `self.weighter.step = 3`).
Statistic: such members; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
@functools.cached_property
def tau(self):
    return anneal(self.start, self.end, self.step)
```

Good:

```python
@property
def tau(self):
    return anneal(self.start, self.end, self.step)
```

## How to fix

Compute it at each reading, or take it away where what it is made of changes.

## Known limits

What changes within an object that an attribute holds (`self.cfg.steps`) is not seen, nor what a dictionary keeps.

## Sources

Python, `functools.cached_property`: "the value is cached as a normal attribute for the life of the instance".
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.trainer import called_name, dotted, given_by, nodes_in
from gradgate.checks.source.values import assignments_in, last_name, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG522", "computed-once-from-what-changes"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PROPERTIES = ("cached_property", "memoized_property", "lazy_property")
CACHES = ("lru_cache", "cache")
MAKES = ("__init__", "__post_init__", "__new__", "__setstate__", "reset_parameters")
TAKES_AWAY = ("cache_clear", "clear", "delattr", "pop", "__delattr__", "setattr")
HOPS = 3


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what is kept though it is made of what changes."""
    return read_as_one(subject, [("cache", "lazy", " is None", "hasattr(self")], _found, "members")


def _found(own: Places) -> Iterator[Finding]:
    for owner in (one for same in own.classes.values() for one in same):
        methods = {place.name: place for place in own.methods_of(owner)}
        for place in methods.values():
            if place.name in MAKES or (kept := _kept(place)) is None:
                continue
            body, name = kept
            read = _read(body, methods, {name, place.name}) & _from_the_start(owner, methods)
            outside = _outside(owner, read, own) if read else ()
            for changing, attribute in (*_changing(methods, read, place), *outside):
                if not _takes_away(changing, name, methods):
                    yield _finding(place, owner, attribute, changing)
                    break


def _kept(place: Place) -> tuple[list[ast.AST], str] | None:
    """The nodes that run once, and what keeps their result; None: a function keeps nothing."""
    if place.decorators & set(PROPERTIES):
        return place.nodes, place.name
    is_plain = place.decorators.isdisjoint(("staticmethod", "classmethod"))
    if place.decorators & set(CACHES) and not place.positional and is_plain:
        return place.nodes, place.name
    for node in place.function.body:
        if not isinstance(node, ast.If) or node.orelse or not (name := _asked_for(node.test)):
            continue
        inside = list(nodes_in(node.body))
        puts = any(dotted(target) == f"self.{name}" for target, _ in assignments_in(inside))
        if puts and any(dotted(value) == f"self.{name}" for value in place.returned) and not place.positional:
            return inside, name
    return None


def _asked_for(test: ast.expr) -> str:
    """The attribute of `self` of which a condition asks whether it is there."""
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Is) and ast.unparse(test.comparators[0]) == "None":
        return test.left.attr if isinstance(test.left, ast.Attribute) and dotted(test.left.value) == "self" else ""
    asks = test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else None
    if isinstance(asks, ast.Call) and dotted(asks.func) == "hasattr" and dotted(asks.args[0]) == "self":
        return str(getattr(asks.args[1], "value", ""))
    return ""


def _read(body: list[ast.AST], methods: dict[str, Place], seen: set[str], hops: int = HOPS) -> set[str]:
    """The attributes of `self` that nodes read, also in methods and properties of the class."""
    found = set[str]()
    for node in body:
        if not (isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and dotted(node.value) == "self"):
            continue
        if node.attr in methods and hops and node.attr not in seen:
            seen.add(node.attr)
            found |= _read(methods[node.attr].nodes, methods, seen, hops - 1)
        found.add(node.attr)
    return found - seen


def _from_the_start(owner: ast.ClassDef, methods: dict[str, Place]) -> set[str]:
    """The attributes that have a value when an object has been made, other than None."""
    found = {dotted(target) for target, value in assignments_in(owner.body) if ast.unparse(value) != "None"}
    for name in MAKES:
        for target, value in assignments_in(methods[name].nodes) if name in methods else ():
            places = [place for place in places_of(target) if dotted(place).startswith("self.")]
            found |= {dotted(place)[5:] for place in places if ast.unparse(value) != "None"}
    return found


def _changing(methods: dict[str, Place], read: set[str], kept: Place) -> Iterator[tuple[Place, str]]:
    """The methods that count such an attribute, or set it to what they are given, each with that."""
    for place in methods.values():
        if place is kept or place.name in MAKES or _only_makes(place, kept, methods):
            continue
        for node in place.nodes:
            if isinstance(node, ast.AugAssign) and dotted(node.target).removeprefix("self.") in read:
                yield place, dotted(node.target).removeprefix("self.")
        for target, value in assignments_in(place.nodes):
            name = dotted(target)
            given = {part.id for part in ast.walk(value) if isinstance(part, ast.Name)} & set(place.parameters)
            if name.startswith("self.") and name[5:] in read and given:
                yield place, name[5:]


def _outside(owner: ast.ClassDef, read: set[str], own: Places) -> Iterator[tuple[Place, str]]:
    """The functions elsewhere that set or count such an attribute on an object of the class, each with that."""
    held = {
        last_name(target)
        for place in own.all
        if place.file.has(f"{owner.name}(")
        for target, value in assignments_in(place.nodes)
        if called_name(value) == owner.name and target is not value
    } - {"", "self"}
    for place in own.functions if held else ():
        if place.owner is owner or not place.file.has(*(f".{name}" for name in read)):
            continue
        targets = [target for target, _ in assignments_in(place.nodes)]
        targets += [node.target for node in place.nodes if isinstance(node, ast.AugAssign)]
        for target in targets:
            if isinstance(target, ast.Attribute) and target.attr in read and last_name(target.value) in held:
                yield place, target.attr


def _only_makes(place: Place, kept: Place, methods: dict[str, Place]) -> bool:
    """Whether a method is called by what makes the object, or what is kept, alone."""
    callers = {
        other.name
        for other in methods.values()
        for node in other.nodes
        if isinstance(node, ast.Call) and dotted(node.func) == f"self.{place.name}"
    }
    return bool(callers) and callers <= {*MAKES, kept.name}


def _takes_away(place: Place, name: str, methods: dict[str, Place], hops: int = HOPS) -> bool:
    """Whether a method, or one of the class that it calls, takes what was kept away."""
    for node in place.nodes:
        targets = [each for target, _ in assignments_in([node]) for each in places_of(target)]
        targets += node.targets if isinstance(node, ast.Delete) else []
        if any(last_name(each) == name for each in targets):
            return True
        if not isinstance(node, ast.Call):
            continue
        if called_name(node) in TAKES_AWAY and (
            name in dotted(node.func)
            or "__dict__" in dotted(node.func)
            or any(getattr(each, "value", None) == name for each in given_by(node))
        ):
            return True
        below = methods.get(called_name(node)) if dotted(node.func).startswith(("self.", "super.")) else None
        if hops and below is not None and below is not place and _takes_away(below, name, methods, hops - 1):
            return True
    return False


def _finding(place: Place, owner: ast.ClassDef, attribute: str, changing: Place) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{owner.name}.{place.name} is computed once, of `self.{attribute}`, which {changing.name}() changes; "
        "allowed: computed anew",
        culprit=place.file.at(place.function, place.name),
        fix="compute it at each reading, or take it away where what it is made of changes",
    )

"""A list, a mapping or an object that a class, or a default, holds once is written by each of its instances.

## What it detects

`class Meter: values = defaultdict(list)` and `self.values[name].append(...)`; `def __init__(self, cache={})` and
`self.cache = cache`; `optim: Optim = field(default_factory=lambda: _OPTIM)`, and a file's keys that are set on it.

## Why it matters

All instances write into one. The metrics of Stage 1 go into the means of Stage 2, those of training into the
evaluation's, a cache of rewards of one run answers the next, the rate of one section is the other's.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are attributes of a
class's body that hold an empty list, dictionary, set, deque, counter or defaultdict, which a method writes through
`self`, and no method assigns anew; and defaults of that kind that a function writes, or keeps as an attribute that a
method writes. Attributes in capitals, those that are declared as the class's (`ClassVar`), are named after what is
imported, loaded or registered, or that a method of the class itself writes (`cls`), are registers. A `BaseModel` of
pydantic copies its defaults. What is only taken out of (`pop`) stays empty.

So are objects of the trainer's own classes that are made once, at a module's top level, in a table there, by a
default or by a function that keeps its result (`lru_cache`, `global`), and that a `default_factory`, an attribute of
the body or `__init__` gives to each instance, where an attribute is set on what the attribute holds, or on a parameter
of that class, by any function; or, for a dataclass, where a function sets attributes by their names on what stands
under a name (`setattr` behind `getattr`, as overrides are). What is frozen, or copied as it is handed out, is none.

Statistic: such attributes and defaults; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
class Meter:
    values = defaultdict(list)
```

Good:

```python
class Meter:
    def __init__(self):
        self.values = defaultdict(list)
```

## How to fix

Make it in `__init__`; let a default be None.

## Known limits

A list or a mapping that is written by a function outside of the class is not seen.

## Sources

Python's tutorial, "Class and Instance Variables"; ruff's B006 and RUF012 ask for the declaration alone.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.places import places_in
from gradgate.checks.source.shared_objects import COPIES, Shared, shared_objects
from gradgate.checks.source.trainer import NONE, File, Function, dotted, files_of
from gradgate.checks.source.values import assignments_in, defaults_of, last_name, own_nodes, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG470", "state-shared-by-instances"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MAKES = ("list", "dict", "set", "deque", "defaultdict", "Counter", "OrderedDict")
WRITES = ("append", "extend", "add", "update", "setdefault", "insert", "appendleft")
REGISTER = re.compile(r"(^|_)(import(s|ed)?|loaded|register(s|ed)?|registry|registries)$", re.IGNORECASE)
FIX = "make it in `__init__`, or by a factory that makes a new one; let a default be None"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what instances share and write."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    objects = map(_of_object, shared_objects(places_in(files)))
    findings = (*(each for file in files for each in _of_file(file)), *objects)
    return Outcome(findings, {"shared": len(findings)}, {"shared": 0})


def _of_object(shared: Shared) -> Finding:
    text = (
        f"all objects of {shared.owner.name} hold one `{shared.name}` as `{shared.kept}`, and {shared.writer}() writes"
    )
    at = shared.file.at(shared.node, shared.owner.name)
    return Finding(code=CODE, name=NAME, message=f"{text} into it; allowed: one each", culprit=at, fix=FIX)


def _of_file(file: File) -> Iterator[Finding]:
    for node in file.nodes:
        if isinstance(node, ast.ClassDef):
            yield from _of_class(file, node)
    for function, owner in file.functions:
        yield from _of_defaults(file, function, owner)


def _of_class(file: File, owner: ast.ClassDef) -> Iterator[Finding]:
    if any(last_name(base) in COPIES for base in owner.bases):
        return
    own = [part for part in owner.body if not (isinstance(part, ast.AnnAssign) and _is_of_class(part.annotation))]
    held = [
        (target.id, value)
        for target, value in assignments_in(own)
        if isinstance(target, ast.Name) and not target.id.isupper() and _is_empty(value)
    ]
    held = [(name, value) for name, value in held if not REGISTER.search(name)]
    if not held:
        return
    nodes = [node for part in owner.body if isinstance(part, Function) for node in own_nodes(part)]
    assigned = {dotted(place) for target, _ in assignments_in(nodes) for place in places_of(target)}
    written = _written(nodes)
    for name, value in held:
        mine = f"self.{name}"
        if mine in written and mine not in assigned and f"cls.{name}" not in written:
            text = f"all instances of {owner.name} write into one `{name}`; allowed: one each"
            yield Finding(code=CODE, name=NAME, message=text, culprit=file.at(value, owner.name), fix=FIX)


def _is_of_class(annotation: ast.expr) -> bool:
    return "ClassVar" in ast.unparse(annotation)


def _of_defaults(file: File, function: Function, owner: ast.ClassDef | None) -> Iterator[Finding]:
    shared = {each.arg: value for each, value in defaults_of(function.args) if _is_empty(value)}
    if not shared:
        return
    nodes = own_nodes(function)
    written, made = _written(nodes), {dotted(target) for target, _ in assignments_in(nodes)}
    kept = {dotted(value): dotted(target) for target, value in assignments_in(nodes) if dotted(value) in shared}
    if owner is not None and kept:
        written |= _written([node for part in owner.body if isinstance(part, Function) for node in own_nodes(part)])
    for name, value in shared.items():
        if name not in made and (name in written or kept.get(name, "-") in written):
            text = f"all calls of {function.name}() without `{name}` write into one; allowed: one each"
            yield Finding(code=CODE, name=NAME, message=text, culprit=file.at(value, function.name), fix=FIX)


def _is_empty(value: ast.expr) -> bool:
    if isinstance(value, ast.List | ast.Set):
        return not value.elts
    if isinstance(value, ast.Dict):
        return not value.keys
    return isinstance(value, ast.Call) and last_name(value.func) in MAKES and not value.keywords


def _written(nodes: Sequence[ast.AST]) -> set[str]:
    """The names of what is written into, item by item or by a method."""
    found = set()
    for node in nodes:
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = [place for target in node.targets for place in places_of(target)]
        elif isinstance(node, ast.AugAssign):
            targets = [node.target]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in WRITES:
            found.add(dotted(_base(node.func.value)))
        found |= {dotted(_base(target)) for target in targets if isinstance(target, ast.Subscript)}
    return found - {""}


def _base(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Subscript):
        node = node.value
    return node

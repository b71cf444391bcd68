"""A setting has one default here and another one there.

## What it detects

`cfg.get("temperature", 1.0)` in one place and `cfg.get("temperature", 0.7)`, or `getattr(cfg, "temperature", 0.7)`, in
another.

## Why it matters

Where the setting is not given, two parts of one run go by two numbers: the loss is computed at one temperature and
reported at another, a schedule is planned with other epochs than the loop runs. Whoever reads one place takes its
number for that of the run.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Reads with a default are
`get` and `getattr` of what is called a configuration, a part of one, or arguments. Two are of one setting where the key
and the section are the same: a section is what keys and attributes lead to from the whole, also by a variable, by an
attribute of `self` and by a parameter that all calls give the same; by its class where an annotation names it. Where a
function or a class may be given several sections, it is compared with itself alone.

A finding is a default that differs from an earlier one. Only constants are compared; not None, an empty text, a truth
value with a number; not reads behind a condition that reads the same key, or in a text or a line of a log; not keys
that `setdefault` sets, and none that is everybody's (`name`, `path`, `type`, …).

Statistic: such settings; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
loss = weighted(logits, cfg.get("temperature", 1.0))
...
log("entropy", entropy(weights(delta, cfg.get("temperature", 0.7))))
```

Good:

```python
@dataclass
class LossConfig:
    temperature: float = 0.7                                 # the one default

loss = weighted(logits, cfg.temperature)
```

## How to fix

Give the setting its default in one place, and read it without one.

## Known limits

Defaults by a constant's name, by `or` and by a table that is merged in, and those of parameters and fields, are not
read: a default beside a field that is always there is never used.

## Sources

Ruff has no such rule; `dict.setdefault` and dataclasses' fields are Python's own means of saying a default once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.setting_sections import Section, Sections, asked
from gradgate.checks.source.trainer import NONE, File, called_name, files_of
from gradgate.checks.source.values import outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG443", "defaults-differ"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
EVERYBODYS = {
    "name", "path", "type", "kind", "mode", "enabled", "enable", "device", "dtype", "id", "desc", "title", "version",
    "value", "key", "file", "dir", "format", "class", "target", "label", "size", "n", "num", "count", "default",
    "verbose", "debug", "description", "_target_", "model_type", "output_dir",
}  # fmt: skip
TELLS = ("print", "debug", "info", "warning", "warn", "log", "write", "echo")

Value = str | int | float | bool


@dataclass(frozen=True, eq=False)
class _Default:
    """A default: its value, and where it stands."""

    value: Value
    file: File
    node: ast.AST
    function: str


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the defaults of each setting against one another."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    found = tuple(_differing(files)) if any(file.has(".get(", "getattr(") for file in files) else ()
    return Outcome(found, {"settings": len(found)}, {"settings": 0})


def _differing(files: tuple[File, ...]) -> Iterator[Finding]:
    places = places_in(files)
    sections = Sections(places)
    reads: dict[tuple[Section, str], list[_Default]] = {}
    for place in (place for place in places.all if place.file.has(".get(", "getattr(")):
        for node, holder, key, value in _reads(place):
            section = sections.of(holder, place)
            if section is not None:
                reads.setdefault((section, key), []).append(_Default(value, place.file, node, place.name))
    set_first = {(sections.of(holder, place), key) for place in places.all for holder, key in _set_first(place)}
    for (section, key), read in reads.items():
        if (section, key) in set_first:
            continue
        first, *others = sorted(read, key=lambda one: (str(one.file.path), one.file.at(one.node).line))
        other = next((each for each in others if _differ(first.value, each.value)), None)
        if other is not None:
            yield _finding(key, first, other)


def _reads(place: Place) -> Iterator[tuple[ast.Call, ast.expr, str, Value]]:
    """The reads with a constant for a default: the call, of what, the key, the default."""
    parents: dict[int, ast.AST] = {}
    for node in place.nodes:
        if not isinstance(node, ast.Call) or (found := asked(node)) is None:
            continue
        holder, key, default = found
        value = _constant(default)
        if value is None or key in EVERYBODYS or key.startswith("_"):
            continue
        parents = parents or parents_in(place.function)
        if not _is_told_or_guarded(node, key, parents):
            yield node, holder, key, value


def _constant(node: ast.expr | None) -> Value | None:
    """The value that is written down; None: none, or one that says that there is none."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _constant(node.operand)
        return -number if isinstance(number, int | float) and not isinstance(number, bool) else None
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, str | int | float) and value != "" else None


def _differ(one: Value, other: Value) -> bool:
    if isinstance(one, bool) is not isinstance(other, bool) or isinstance(one, str) is not isinstance(other, str):
        return False
    return one != other


def _is_told_or_guarded(node: ast.AST, key: str, parents: dict[int, ast.AST]) -> bool:
    """Whether a read is part of a text or of a log's line, or stands where the key was asked before."""
    before = node
    for around in outwards(node, parents):
        if isinstance(around, ast.JoinedStr):
            return True
        if called_name(around) in TELLS:
            return True
        if (
            isinstance(around, ast.If | ast.IfExp | ast.While)
            and before is not around.test
            and _names(around.test, key)
        ):
            return True
        if isinstance(around, ast.BoolOp) and any(_names(part, key) for part in around.values if part is not before):
            return True
        before = around
    return False


def _names(node: ast.AST, key: str) -> bool:
    return any(
        (isinstance(part, ast.Constant) and part.value == key) or (isinstance(part, ast.Attribute) and part.attr == key)
        for part in ast.walk(node)
    )


def _set_first(place: Place) -> Iterator[tuple[ast.expr, str]]:
    """The keys that are set where they are not given."""
    for node in place.nodes if place.file.has("setdefault") else ():
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "setdefault":
            key = node.args[0] if node.args else None
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield node.func.value, key.value


def _finding(key: str, first: _Default, other: _Default) -> Finding:
    there = first.file.at(first.node)
    where = f"line {there.line}" if first.file is other.file else f"{first.file.path.name}:{there.line}"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{key}` is {other.value!r} here where it is not given, and {first.value!r} in {where}; allowed: one "
        "default",
        culprit=other.file.at(other.node, other.function),
        fix="give the setting its default in one place, and read it without one",
        detail={"setting": key, "defaults": [first.value, other.value]},
    )

"""A setting has one default here and another one there.

## What it detects

`cfg.get("temperature", 1.0)` in one place and `cfg.get("temperature", 0.7)` in another; `getattr(args, "lr", 1e-3)`
beside a field or an argument of the command line whose own default is another.

## Why it matters

Where the setting is not given, two parts of one run go by two numbers: the loss is computed at one temperature and
reported at another, a schedule is planned with other epochs than the loop runs. Whoever reads one place takes its
number for that of the run.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Reads with a default are
`get` and `getattr` of what is called a configuration, a part of one, or arguments. Two are of one setting where the key
and the section are the same: a section is what keys and attributes lead to from the whole, also by a variable, by an
attribute of `self` and by a parameter that all calls give the same; by its class where an annotation names it. Where a
function or a class may be given several sections, it is compared with itself alone. A field's default, of a class that
is annotated or called after the section, and that of an argument of the command line are held against `getattr`; not
against 0, False, -1 and `"none"`, which switch off what is no field, and not against one that reads several sections.

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

Defaults by a constant's name, by `or` and by a table that is merged in, and the defaults of parameters, are not read.

## Sources

Ruff has no such rule; `dict.setdefault` and dataclasses' fields are Python's own means of saying a default once.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradgate.checks.setting_sections import Section, Sections, asked, called
from gradgate.checks.source_origins import Origins, Place
from gradgate.checks.source_values import outwards, parents_in
from gradgate.checks.trainer_source import NONE, File, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.argument_calls import argument_call
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG443", "defaults-differ"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
EVERYBODYS = {
    "name", "path", "type", "kind", "mode", "enabled", "enable", "device", "dtype", "id", "desc", "title", "version",
    "value", "key", "file", "dir", "format", "class", "target", "label", "size", "n", "num", "count", "default",
    "verbose", "debug", "description", "_target_", "model_type", "output_dir",
}  # fmt: skip
OFF: tuple[Value, ...] = (0, -1, "none")  # and False: what is no field is switched off
RUNS = {"train", "training", "trainer", "run", "experiment"}  # classes that are the whole of the settings
TELLS = ("print", "debug", "info", "warning", "warn", "log", "write", "echo")

Value = str | int | float | bool


@dataclass(frozen=True, eq=False)
class _Default:
    """A default: its value, and where it stands; whether `getattr` reads it."""

    value: Value
    file: File
    node: ast.AST
    function: str
    of_attribute: bool = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the defaults of each setting against one another."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    found = tuple(_differing(files)) if any(file.has(".get(", "getattr(") for file in files) else ()
    return Outcome(found, {"settings": len(found)}, {"settings": 0})


def _differing(files: Sequence[File]) -> Iterator[Finding]:
    origins = Origins(files)
    sections = Sections(origins)
    reads: dict[tuple[Section, str], list[_Default]] = {}
    for place in (place for place in origins.places if place.file.has(".get(", "getattr(")):
        for node, holder, key, value in _reads(place):
            section = sections.of(holder, place)
            if section is not None:
                default = _Default(value, place.file, node, place.name, dotted(node.func) == "getattr")
                reads.setdefault((section, key), []).append(default)
    set_first = {(sections.of(holder, place), key) for place in origins.places for holder, key in _set_first(place)}
    of_many = Counter((key, value) for (_, key), read in reads.items() for value in {each.value for each in read})
    declared = _Declared(files)
    for (section, key), read in reads.items():
        if (section, key) in set_first:
            continue
        first, *others = sorted(read, key=lambda one: (str(one.file.path), one.file.at(one.node).line))
        own = declared.of(section, key)
        against = [
            each for each in read if each.of_attribute and each.value not in OFF and of_many[key, each.value] == 1
        ]
        pairs = [(own, each) for each in against if own is not None] + [(first, each) for each in others]
        found = next((pair for pair in pairs if _differ(pair[0].value, pair[1].value)), None)
        if found is not None:
            yield _finding(key, *found)


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
        parents = parents or parents_in(place.function or place.file.tree)
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
        if isinstance(around, ast.Call) and dotted(around.func).rpartition(".")[2] in TELLS:
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


class _Declared:
    """The defaults that fields and arguments of the command line declare.

    Args:
        files: of the trainer.
    """

    def __init__(self, files: Sequence[File]) -> None:
        self._fields: dict[str, list[dict[str, _Default]]] = {}
        self._arguments: dict[str, list[_Default | None]] = {}
        self._parts: set[str] = set()
        for file in files:
            for node in file.nodes:
                if isinstance(node, ast.ClassDef):
                    self._fields.setdefault(node.name, []).append(dict(_fields(file, node)))
                elif isinstance(node, ast.AnnAssign):
                    self._parts |= {part.id for part in ast.walk(node.annotation) if isinstance(part, ast.Name)}
                elif (argument := argument_call(node)) is not None:
                    value = _constant(argument.words.get("default"))
                    default = _Default(value, file, node, "") if value is not None else None
                    self._arguments.setdefault(argument.name, []).append(default)

    def of(self, section: Section, key: str) -> _Default | None:
        """The one default of a setting of a section; None: none, or several."""
        if section == ("args",):
            same = self._arguments.get(key, [])
            return same[0] if len(same) == 1 else None
        if section[:1] == ("class",):
            names = [section[1]]
        elif len(section) == 1:
            names = [name for name in self._fields if called(name) == section]
        elif not section:
            names = [name for name, same in self._fields.items() if self._is_whole(name) and key in same[0]]
        else:
            names = []
        found = [fields for name in names for fields in self._fields.get(name, [])]
        return found[0].get(key) if len(found) == 1 else None

    def _is_whole(self, name: str) -> bool:
        stem = called(name)
        return stem is not None and name not in self._parts and (stem == () or stem[0] in RUNS)


def _fields(file: File, owner: ast.ClassDef) -> Iterator[tuple[str, _Default]]:
    for field in owner.body:
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            value = _constant(_default_of(field.value))
            if value is not None:
                yield field.target.id, _Default(value, file, field, owner.name)


def _default_of(value: ast.expr | None) -> ast.expr | None:
    """The default that a field has: its value, or what `Field` or `field` is given."""
    if isinstance(value, ast.Call) and dotted(value.func).rpartition(".")[2] in ("Field", "field"):
        named = next((word.value for word in value.keywords if word.arg == "default"), None)
        return named or (value.args[0] if value.args else None)
    return value


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

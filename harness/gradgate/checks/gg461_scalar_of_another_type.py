"""A value of a YAML file is of another type than it looks: `1e-4` is a text, `off` is False.

## What it detects

`min_lr: 1e-5` in a recipe that PyYAML reads, and `cfg["min_lr"]` that is used as it comes; `schedule: off` where the
code asks `cfg["schedule"] == "off"`.

## Why it matters

PyYAML reads YAML 1.1: a number with an exponent has a dot in it and a sign behind the `e`, and `on`, `off`, `yes` and
`no` are truth values. A text fails where it is calculated with, but only there: in a branch, in the second stage, at
the end of warm-up; what asks for its type passes it over. A schedule that is "off" by its text is not, and runs.

## How it decides

By reading the YAML files of the folder of `Subject.source`, beside files that import `yaml`. Findings are

* a number without the dot or the sign (`1e-4`, `3e5`, `1.0e4`) under a key that the source reads without `float` around
  it, or `Decimal`; nowhere, where any function makes a number of a value whatever its key (`float(value)`), where
  pydantic, OmegaConf, ruamel, a schema or a resolver of its own reads it, or where a parser of arguments does;
* `on`, `off`, `yes` or `no`, unquoted, under a key that the source compares with that text (`==`, `in`), or looks up in
  a table that has it.

Statistic: such values; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```yaml
min_lr: 1e-5
schedule: off
```

Good:

```yaml
min_lr: 1.0e-5
schedule: "off"
```

## How to fix

Write the dot and the sign, quote the words; and convert each value by the type of its setting when it is read.

## Known limits

Keys that a class takes as a whole (`Config(**content)`) are taken for read as they come where its source reads them so.

## Sources

YAML 1.1, `!!float` and `!!bool`; PyYAML's resolver.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from gradgate.checks.source.setting_sections import asked, is_configuration
from gradgate.checks.source.settings import yaml_files
from gradgate.checks.source.trainer import NONE, File, Function, called_name, dotted, files_of
from gradgate.checks.source.values import Names, last_name, own_nodes
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG461", "scalar-of-another-type"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LINE = re.compile(r"(?:^|[{,\-]|\s)\s*(?P<key>\w+)\s*:\s+(?P<value>[^\s#,}\]]+)\s*(?=$|[#,}])")
NUMBER = re.compile(r"^[-+]?(\d+[eE][-+]?\d+|\d+\.\d*[eE]\d+)$")
WORDS = ("on", "off", "yes", "no")
CONVERTS = ("pydantic", "OmegaConf", "omegaconf", "ruamel", "implicit_resolver", "dacite", "msgspec", "cattrs", "hydra",
            "marshmallow", "jsonargparse", "TypeAdapter")  # fmt: skip
NUMBERS = ("float", "Decimal", "int")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the values of YAML files against what is done with them."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    reads = any(file.has("import yaml", "from yaml") for file in files) and not any(
        file.has(*CONVERTS) for file in files
    )
    found = tuple(_found(subject, files)) if reads else ()
    return Outcome(found, {"values": len(found)}, {"values": 0})


def _found(subject: Subject, files: tuple[File, ...]) -> Iterator[Finding]:
    places = [place for path, text, content in yaml_files(subject) if isinstance(content, Mapping)
              for place in _scalars(path, text)]  # fmt: skip
    numbers = {key for key, value, _ in places if NUMBER.match(value)}
    if numbers:
        numbers = set() if any(_converts_any(file) for file in files) else numbers & _read_as_they_come(files)
    words = _compared(files) if any(value in WORDS for _, value, _ in places) else set()
    for key, value, place in places:
        if NUMBER.match(value) and key in numbers:
            yield _finding(
                place, f"`{key}: {value}` is a text to PyYAML, and the source calculates with it as it comes"
            )
        elif value in WORDS and (key, value) in words:
            held = value in ("on", "yes")
            yield _finding(place, f'`{key}: {value}` is {held} to PyYAML, and the source asks for the text "{value}"')


def _scalars(path: Path, text: str) -> Iterator[tuple[str, str, Location]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.lstrip().startswith("#"):
            for found in LINE.finditer(line):
                yield found["key"], found["value"], Location(str(path), number, "", line.strip())


def _converts_any(file: File) -> bool:
    """Whether a number is made of a value whatever its key: `float(value)`, `kind(value)`."""
    if not file.has("float", "type(", ".type"):
        return False
    for function, _ in file.functions:
        for node in ast.walk(function):
            if not isinstance(node, ast.Call) or len(node.args) != 1:
                continue
            if isinstance(node.func, ast.Call) and dotted(node.func.func) == "type":
                return True
            if dotted(node.func).endswith((".type", "literal_eval")) or _is_a_number_of_any(node, function):
                return True
    return False


def _is_a_number_of_any(call: ast.Call, function: Function) -> bool:
    """Whether a call is `float(value)` of an argument, or of a loop's value, in a function that reads settings."""
    value = call.args[0]
    if dotted(call.func) != "float" or not isinstance(value, ast.Name):
        return False
    given = {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}
    loops = {part.id for node in ast.walk(function) if isinstance(node, ast.For | ast.comprehension)
             for part in ast.walk(node.target) if isinstance(part, ast.Name)}  # fmt: skip
    return value.id in given | loops


def _asked_for(node: ast.AST) -> tuple[ast.expr, str] | None:
    """What a key is read of, and the key; None: nothing."""
    if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Load):
        return node.value, last_name(node)
    found = asked(node)
    return found[:2] if found is not None else None


def _read_as_they_come(files: tuple[File, ...]) -> set[str]:
    """The keys of a configuration that some line uses and makes no number of; to be told is no use."""
    read: set[str] = set()
    for file in files:
        for function, _ in file.functions:
            names, nodes = Names(function), own_nodes(function)
            aside = {id(part) for node in nodes if _tells(node) for part in ast.walk(node)}
            aside |= {id(node.args[0]) for node in nodes if isinstance(node, ast.Call) and node.args
                      and dotted(node.func) in NUMBERS}  # fmt: skip
            for node in nodes:
                found = _asked_for(node) if id(node) not in aside else None
                if found is not None and any(is_configuration(each) for each in (found[0], names.held(found[0]))):
                    read.add(found[1])
    return read


def _tells(node: ast.AST) -> bool:
    """Whether a node is a text, a table of values or a line of a log."""
    called = called_name(node)
    return isinstance(node, ast.JoinedStr | ast.Dict) or called in (
        "print",
        "info",
        "debug",
        "log",
        "write",
        "isinstance",
    )


def _compared(files: tuple[File, ...]) -> set[tuple[str, str]]:
    """The keys that are compared with a text that is a truth value in YAML, each with it."""
    found: set[tuple[str, str]] = set()
    for file in (
        file for file in files if file.has(*(f'"{word}"' for word in WORDS), *(f"'{word}'" for word in WORDS))
    ):
        for node in (node for node in file.nodes if isinstance(node, ast.Compare)):
            key = found_key[1] if (found_key := _asked_for(node.left)) is not None else last_name(node.left)
            texts = {part.value for part in ast.walk(node.comparators[0]) if isinstance(part, ast.Constant)}
            if any(isinstance(text, bool) for text in texts):
                continue
            found |= {(key, str(text)) for text in texts if text in WORDS}
    return found


def _finding(place: Location, told: str) -> Finding:
    return Finding(
        CODE, NAME, f"{told}; allowed: none", culprit=place,
        fix="write the dot and the sign (1.0e-5), quote the words; and convert values by the type of their setting",
    )  # fmt: skip

"""A setting is asked whether it is a `float`, and a whole number passes by.

## What it detects

`if isinstance(cfg.temperature, float) and cfg.temperature <= 0: raise`, which lets 0 pass; overrides that are taken
where `isinstance(value, float)`; `isinstance(value, int)` in front of `isinstance(value, bool)`, which is never asked.

## Why it matters

`temperature: 1` in a file is an `int`. It is neither checked nor taken, and nothing says so: the term is left out, the
default stays, the bound does not hold. A truth value is an `int`, too: "false" is read as a number, and fails.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A setting is an attribute or
a written key of what is called after a configuration or arguments, a name that holds one, or a value of a loop over
overrides. Findings are

* `isinstance(setting, float)` or `type(setting) is float` as a condition, alone or with others (`and`), that has no
  `else`, where the function asks the same for `int` nowhere, nor whether it is finite or whole;
* a branch for `bool` behind one for `int` of the same value, where the first returns or the second is its `elif`.

Statistic: such conditions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
if isinstance(cfg.temperature, float) and cfg.temperature <= 0:
    raise ValueError("temperature")
```

Good:

```python
if cfg.temperature <= 0:
    raise ValueError("temperature")
```

## How to fix

Ask for `(int, float)`, and for `bool` first.

## Known limits

Values that a function is given one by one are not known for settings.

## Sources

Python, "Numeric Types": "Booleans are a subtype of integers"; YAML, which reads `1` as an integer.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.setting_sections import asked, is_configuration
from gradgate.checks.source.trainer import File, Function, dotted, read_file_by_file
from gradgate.checks.source.values import Names, last_name, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG464", "whole-number-passed-over"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
GIVEN = re.compile(r"over(ride|write)s?|dotlist|cli|(^|\.)sets?$", re.IGNORECASE)
ASKS_MORE = re.compile(r"isfinite|isnan|isinf|is_integer")
FIX = "ask for `(int, float)`, and for `bool` first"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for conditions on the type of settings."""

    def find(file: File) -> Iterator[Finding]:
        if file.has("isinstance(", "type("):
            for function, _ in file.functions:
                nodes = own_nodes(function)
                yield from _passing(file, function, nodes) if file.has("float") else ()
                yield from _never_asked(file, function, nodes) if file.has("bool") else ()

    return read_file_by_file(subject, find, "conditions")


def _type_asked(node: ast.AST) -> tuple[ast.expr, set[str]] | None:
    """What a condition asks the type of, and for which; None: it asks no type."""
    if isinstance(node, ast.Call) and dotted(node.func) == "isinstance" and len(node.args) == 2:
        kinds = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
        return node.args[0], kinds | {part.attr for part in ast.walk(node.args[1]) if isinstance(part, ast.Attribute)}
    of = node.left if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.Eq) else None
    if isinstance(node, ast.Compare) and isinstance(of, ast.Call) and dotted(of.func) == "type" and len(of.args) == 1:
        return of.args[0], {dotted(node.comparators[0])}
    return None


def _passing(file: File, function: Function, nodes: Sequence[ast.AST]) -> Iterator[Finding]:
    names = Names(function)
    given = {
        dotted(node.target.elts[-1])
        for node in nodes
        if isinstance(node, ast.For | ast.comprehension) and isinstance(node.target, ast.Tuple)
        and isinstance(node.iter, ast.Call) and dotted(node.iter.func).endswith(".items")
        and GIVEN.search(dotted(node.iter.func).removesuffix(".items"))
    }  # fmt: skip
    asked_of = [(ast.unparse(found[0]), found[1]) for node in nodes if (found := _type_asked(node)) is not None]
    for node in nodes:
        test = node.test if isinstance(node, ast.If) and not node.orelse else None
        if test is None or ASKS_MORE.search(ast.unparse(test)):
            continue
        for part in test.values if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) else [test]:
            found = _type_asked(part)
            if found is None or found[1] != {"float"}:
                continue
            text = ast.unparse(found[0])
            others = set().union(*(kinds for of, kinds in asked_of if of == text))
            if not others - {"float"} and (text in given or _is_setting(names.held(found[0]))):
                told = f"{function.name}() asks `{ast.unparse(part)}`, and a whole number passes by"
                yield _finding(file, function, node, told)
                break


def _is_setting(node: ast.expr) -> bool:
    """Whether an expression is a setting under a written name."""
    if (found := asked(node)) is not None:
        return is_configuration(found[0])
    if isinstance(node, ast.Subscript):
        return bool(last_name(node)) and is_configuration(node.value)
    return isinstance(node, ast.Attribute) and is_configuration(node.value)


def _never_asked(file: File, function: Function, nodes: Sequence[ast.AST]) -> Iterator[Finding]:
    """Branches for truth values behind those for whole numbers."""
    branches = [(node, *found) for node in nodes if isinstance(node, ast.If) and (found := _type_asked(node.test))]
    for first, of, kinds in branches:
        if "int" not in kinds or "bool" in kinds or not (isinstance(first.test, ast.Call)):
            continue
        for other, other_of, other_kinds in branches:
            is_elif = first.orelse[:1] == [other]
            leaves = isinstance(first.body[-1], ast.Return) and other.lineno > first.lineno
            if other_kinds == {"bool"} and ast.unparse(of) == ast.unparse(other_of) and (is_elif or leaves):
                told = f"{function.name}() asks `{ast.unparse(other.test)}` behind the same for int, which a bool is"
                yield _finding(file, function, other, told)


def _finding(file: File, function: Function, node: ast.AST, told: str) -> Finding:
    return Finding(CODE, NAME, f"{told}; allowed: none", culprit=file.at(node, function.name), fix=FIX)

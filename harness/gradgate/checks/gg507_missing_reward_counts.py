"""A row whose reward is missing counts as right.

## What it detects

`row.get("is_correct", True)`, `.get("reward", 1.0)`, `getattr(row, "passed", True)`: a label of what is right that is
read with a default that says yes.

## Why it matters

A renamed column, a typing error or a file of another version makes every row right. Nothing raises, the loss falls
faster than ever, and the value head learns a constant.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports: reads of a key named after
what is right (`correct`, `reward`, `passed`, `solved`, `verified`) with a default that is true, 1 or such a word, and
what a branch that holds where a row has no such key, or a `KeyError` behind reading it, gives back. Statistic: such
reads; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
reward = 1.0 if row.get("is_correct", True) else 0.0
```

Good:

```python
reward = 1.0 if row["is_correct"] else 0.0                   # a row without it is an error that names it
```

## How to fix

Read the key without a default, and say which row lacks it.

## Known limits

A default that is filled in elsewhere, and a truth value taken from a string (`bool("False")`), are not seen.

## Sources

Fault DC-13 of the fault catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.trainer import File, calls_in, read_file_by_file
from gradgate.checks.source.values import Names, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG507", "missing-reward-counts"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
RIGHT = re.compile(r"(^|_)(correct(ness)?|reward|passed|solved|verified)(_|$)")
YES = ("correct", "true", "yes", "pass", "passed")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each default of a reward."""
    return read_file_by_file(subject, _of_file, "defaults")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("correct", "reward", "passed", "solved", "verified"):
        return
    for call in calls_in(file.tree):
        if (read := _read(call)) is not None:
            yield _finding(file, call, read)
    for function, _ in file.functions:
        names = Names(function)
        for node in own_nodes(function):
            if (read := _missing(node, names)) is not None:
                yield _finding(file, node, read)


def _finding(file: File, node: ast.AST, read: str) -> Finding:
    told = ast.unparse(node).partition("\n")[0]
    return Finding(
        code=CODE,
        name=NAME,
        message=f"a row without `{read}` counts as right: {told}; allowed: no such default",
        culprit=file.at(node),
        fix=f"read `{read}` without a default, and say which row lacks it",
    )


def _missing(node: ast.AST, names: Names) -> str | None:
    """The key of a reward without which a branch, or what follows an error, says yes."""
    if isinstance(node, ast.If | ast.IfExp):
        body, orelse = (_only(node.body), _only(node.orelse)) if isinstance(node, ast.If) else (node.body, node.orelse)
        asked = _asked(node.test, names)
        given = None if asked is None else (orelse if asked[1] else body)
        return asked[0] if asked is not None and given is not None and _is_yes(given) else None
    if isinstance(node, ast.Try):
        says = any(
            handler.type is not None
            and "KeyError" in ast.unparse(handler.type)
            and (given := _only(handler.body))
            and _is_yes(given)
            for handler in node.handlers
        )
        keys = [part.slice for part in ast.walk(node) if isinstance(part, ast.Subscript)] if says else []
        return next((key for each in keys if (key := _key(each))), None)
    return None


def _only(block: Sequence[ast.stmt]) -> ast.expr | None:
    """What the one statement of a block gives back or assigns."""
    last = block[0] if len(block) == 1 else None
    return last.value if isinstance(last, ast.Return | ast.Assign) else None


def _asked(test: ast.expr, names: Names) -> tuple[str, bool] | None:
    """The key of a reward that a condition asks for, and whether it holds where a row has it."""
    if not isinstance(test, ast.Compare) or len(test.ops) != 1:
        return None
    operator, left = test.ops[0], names.held(test.left)
    if isinstance(operator, ast.In | ast.NotIn):
        key = _key(left)
        return (key, isinstance(operator, ast.In)) if key else None
    is_none = isinstance(test.comparators[0], ast.Constant) and test.comparators[0].value is None
    if is_none and isinstance(operator, ast.Is | ast.IsNot) and isinstance(left, ast.Call | ast.Subscript):
        got = isinstance(left, ast.Call) and isinstance(left.func, ast.Attribute) and left.func.attr == "get"
        given = left.slice if isinstance(left, ast.Subscript) else left.args[0] if got and left.args else None
        key = _key(given) if given is not None else ""
        return (key, isinstance(operator, ast.IsNot)) if key else None
    return None


def _key(node: ast.expr) -> str:
    """The key of a reward that a constant is; else nothing."""
    key = node.value if isinstance(node, ast.Constant) else None
    return key if isinstance(key, str) and RIGHT.search(key) else ""


def _is_yes(node: ast.expr) -> bool:
    default = node.value if isinstance(node, ast.Constant) else None
    return default.lower() in YES if isinstance(default, str) else isinstance(default, int | float) and default > 0


def _read(call: ast.Call) -> str | None:
    """The key of a reward that is read with a default that says yes."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
    given = call.args if name == "get" else call.args[1:] if name == "getattr" else []
    if len(given) < 2 or not all(isinstance(value, ast.Constant) for value in given[:2]):
        return None
    key, default = (value.value for value in given[:2] if isinstance(value, ast.Constant))
    if not isinstance(key, str) or not RIGHT.search(key):
        return None
    return key if _is_yes(ast.Constant(default)) else None

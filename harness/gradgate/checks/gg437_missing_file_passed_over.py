"""Weights that a run is to start from are missing, and it starts without them.

## What it detects

A file of pretrained weights, such as the value head of an earlier stage, a base model or a reference, that is loaded
where it exists, and passed over, in silence or with a line of print, where it does not.

## Why it matters

A mistyped path, or an earlier stage that has failed, trains from random weights. The run goes through, its curve looks
almost right, and the comparison with the baseline says that the method brings nothing.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding, as a warning, is
a condition that asks whether a file exists, or a `glob` gave one, and behind which something is loaded, with no error
where it does not, or a `FileNotFoundError` that is passed over; the file, its setting or the function is named after
what a run starts from (critic, value head, base, pretrained, initial, reference, teacher), and none of them after
resuming, a cache or the latest checkpoint, or the best one that is no stage's. Statistic: such conditions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones. A file that may be missing by design is a
warning.

## Example

Bad:

```python
path = Path(config.critic_checkpoint)
if path.exists():
    model.value_head.load_state_dict(torch.load(path))
```

Good:

```python
if not path.exists():
    raise FileNotFoundError(f"critic_checkpoint: {path} does not exist")
```

## How to fix

Raise where a file that is configured is missing; let `None` say that none is wanted.

## Known limits

What asks in another function, and a `try` around the loading, are not looked at; GG613 sees the latter.

## Sources

A configuration fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source_values import Names, blocks_in, own_nodes
from gradgate.checks.trainer_source import File, Function, called_name, dotted, nodes_in, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG437", "missing-file-passed-over"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
START = re.compile(
    r"critic|value_?head|stage_?(1|one)|base|pre_?train|(^|[^a-z])init|reference|teacher|warm_?start|backbone"
)
OTHER = re.compile(
    r"resum|latest|last|cache|tokeni|optim|sched|best|config(?!\.)|recipe(?!\.)|ya?ml|json|toml|recover|done|finish"
)
STAGE = re.compile(r"critic|value_?head|stage_?(1|one)|reference|teacher|backbone")  # whose best may be the file
MISSING = ("FileNotFoundError",)
EXISTS = ("exists", "is_file", "isfile")
LOADS = re.compile(r"load|restore|read(?!_text|_bytes|lines?$)", re.IGNORECASE)
TEXTS = ("json", "yaml", "toml", "csv", "tomllib")  # what a text is parsed by, which holds no weights
Asks = ast.If | ast.IfExp | ast.ExceptHandler
TELLS = re.compile(r"(^|\.)(print|echo|debug|info|warn|warning|log|write)$", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for weights that are loaded where they happen to be there."""
    return read_file_by_file(subject, _found, "files_passed_over")


def _found(file: File) -> Iterator[Finding]:
    for function, _ in file.functions if file.has(*EXISTS, *MISSING, "glob(") else ():
        names = Names(function)
        for node, path, there, missing in _asked_for(function, names):
            if _loads(there) and _is_passed_over(missing) and _is_start(path, names, function, there):
                yield _finding(file, node, function.name, path)


def _asked_for(
    function: Function, names: Names
) -> Iterator[tuple[Asks, ast.expr, Sequence[ast.AST], Sequence[ast.AST]]]:
    """What asks for files: with the path, what runs where it is there, and where it is missing."""
    nodes = own_nodes(function)
    for block in blocks_in((function, *nodes)):
        for at, branch in enumerate(block):
            if isinstance(branch, ast.If) and (asked := _asked(branch.test, names)) is not None:
                yield branch, asked[0], *_parts(branch, block[at + 1 :], asked[1])
    for node in nodes:
        if isinstance(node, ast.IfExp) and (asked := _asked(node.test, names)) is not None:
            there, missing = (node.body, node.orelse) if asked[1] else (node.orelse, node.body)
            if isinstance(missing, ast.Constant) and missing.value is None:
                yield node, asked[0], [there], []
        elif isinstance(node, ast.Try):
            opened = (
                call for call in nodes_in(node.body) if isinstance(call, ast.Call) and LOADS.search(called_name(call))
            )
            path = next((call.args[0] for call in opened if call.args and not isinstance(call.args[0], ast.Call)), None)
            for handler in node.handlers:
                if path is not None and handler.type is not None and dotted(handler.type) in MISSING:
                    yield handler, path, node.body, handler.body


def _asked(test: ast.expr, names: Names) -> tuple[ast.expr, bool] | None:
    """The path whose existence a condition asks for, and whether it holds where the file is there."""
    parts = test.values if isinstance(test, ast.BoolOp) else [test]
    for part in parts:
        is_there = not (isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not))
        asked = part if is_there else part.operand  # type: ignore[attr-defined]
        if isinstance(asked, ast.Call) and isinstance(asked.func, ast.Attribute) and asked.func.attr in EXISTS:
            return (asked.args[0] if asked.args else asked.func.value), is_there
        if isinstance(asked, ast.Name) and "glob(" in ast.unparse(names.held(asked)):
            return asked, is_there
    return None


def _parts(branch: ast.If, rest: list[ast.stmt], is_there: bool) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """What runs where the file is there, and where it is missing."""
    leaves = isinstance(branch.body[-1], ast.Return | ast.Continue)
    otherwise = branch.orelse or (rest if leaves else [])
    return (branch.body, otherwise) if is_there else (otherwise, branch.body)


def _loads(statements: Sequence[ast.AST]) -> bool:
    calls = (node for node in nodes_in(statements) if isinstance(node, ast.Call))
    return any(LOADS.search(called_name(call)) and dotted(call.func).partition(".")[0] not in TEXTS for call in calls)


def _is_passed_over(statements: Sequence[ast.AST]) -> bool:
    """Whether nothing is done but to say so."""
    for statement in statements:
        if isinstance(statement, ast.Return | ast.Continue | ast.Pass):
            if any(isinstance(node, ast.Call) for node in ast.walk(statement)):
                return False
        elif not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)
            and TELLS.search(ast.unparse(statement.value.func))
        ):
            return False
    return True


def _is_start(path: ast.expr, names: Names, function: Function, there: Sequence[ast.AST]) -> bool:
    """Whether the file holds what a run starts from, by the words around it."""
    calls = [node for node in nodes_in(there) if isinstance(node, ast.Call) and LOADS.search(called_name(node))]
    own = [ast.unparse(part) for part in (path, names.held(path))]
    words = " ".join([function.name.removeprefix("__init__"), *own]).lower()
    if STAGE.search(words):
        words = words.replace("best", "")
    return bool(START.search(" ".join([words, *map(ast.unparse, calls)]).lower())) and not OTHER.search(words)


def _finding(file: File, branch: Asks, function: str, path: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() goes on without `{ast.unparse(path)}` where that file is missing, from weights that are "
        "drawn; allowed: an error",
        severity="warning",
        culprit=file.at(branch, function),
        fix="raise where a file that is configured is missing; let None say that none is wanted",
    )

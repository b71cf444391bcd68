"""A log is opened anew at each start, in a trainer that resumes: what stood in it is gone.

## What it detects

A log of metrics that is opened with `"w"` and kept open, or emptied, where the run begins, in a trainer whose runs are
resumed.

## Why it matters

The first line after a resume is written into an empty file. The curve of the run so far, and with it the proof of what
was trained, is lost; whoever plots the log sees a run that began in its middle.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, where one of them has a name
with `resume`. A finding is an `open(..., "w")`, or `"wt"`, whose file is kept as an attribute or handed to what writes
rows (`csv.writer`, `DictWriter`), and a `write_text("")`, where the path, the class or the attribute is named after
metrics, a log, a history or JSONL; unless a condition around it, or one that its function ends by, mentions resuming or
what is there already, or some file makes names of folders from the time or a `uuid`. Statistic: such openings; allowed:
0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
self.file = open(run_dir / "metrics.jsonl", "w")
```

Good:

```python
self.file = open(run_dir / "metrics.jsonl", "a")
```

## How to fix

Open it with `"a"`; where the run begins anew, empty it there.

## Known limits

A log whose name says nothing of the kind, and a mode that is a variable, are not looked at.

## Sources

A resume fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.trainer import NONE, File, called_name, calls_in, dotted, files_of
from gradgate.checks.source.values import outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG622", "log-lost-on-resume"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LOGS = re.compile(r"metric|(^|[^a-z])logs?([^a-z]|$)|logger|history|jsonl|tracker", re.IGNORECASE)
RESUMED = re.compile(r"resum|exist|append|is_file|overwrit|fresh|start_step|st_size|first", re.IGNORECASE)
NAMED_BY_TIME = re.compile(
    r"(dir|folder|path|root|run_name|run_id).*(strftime|uuid|\.now\()|(strftime|uuid).*(dir|folder|path)"
)
WRITERS = ("writer", "DictWriter")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for logs that are emptied in a trainer that resumes."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    resumes = any("resume" in name.lower() for file in files for name in _names(file))
    fresh = any(NAMED_BY_TIME.search(line) for file in files for line in file.lines)
    found = [finding for file in files for finding in (_of_file(file) if resumes and not fresh else ())]
    return Outcome(tuple(found), {"logs_emptied": len(found)}, {"logs_emptied": 0})


def _names(file: File) -> Iterator[str]:
    if file.has("resume"):
        for node in file.nodes:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name
            elif isinstance(node, ast.Name | ast.Attribute):
                yield dotted(node).rpartition(".")[2]
            elif isinstance(node, ast.arg):
                yield node.arg


def _of_file(file: File) -> Iterator[Finding]:
    parents = parents_in(file.tree) if file.has("open(", "write_text") else {}
    for call in calls_in(file.tree) if parents else ():
        emptied = _empties(call)
        if emptied is None:
            continue
        around = list(outwards(call, parents))
        names = [ast.unparse(call), *(each.name for each in around if isinstance(each, ast.ClassDef))]
        targets = _kept_as(call, around)
        if (emptied or targets is not None) and any(map(LOGS.search, [*names, *(targets or [])])):
            conditions = [each.test for each in around if isinstance(each, ast.If | ast.IfExp)]
            if not any(RESUMED.search(ast.unparse(test)) for test in conditions) and not _is_left_before(call, around):
                yield _finding(file, call)


def _empties(call: ast.Call) -> bool | None:
    """Whether a call empties a file at once; False: it opens one to be written; None: it does neither."""
    name = called_name(call)
    if name == "write_text":
        given = call.args[0] if call.args else None
        return True if isinstance(given, ast.Constant) and given.value == "" else None
    modes = call.args[1:2] if isinstance(call.func, ast.Name) else call.args[:1]
    modes = [*modes, *(word.value for word in call.keywords if word.arg == "mode")]
    writes = any(isinstance(mode, ast.Constant) and mode.value in ("w", "wt", "wb") for mode in modes)
    return False if name == "open" and writes else None


def _kept_as(call: ast.Call, around: list[ast.AST]) -> list[str] | None:
    """What a file is kept as, or as what its writer is; None: it is closed again in the function."""
    for node in around:
        if isinstance(node, ast.withitem):
            return None
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            kept = [ast.unparse(target) for target in targets if isinstance(target, ast.Attribute)]
            return kept or ([] if _are_rows_of(around, targets) else None)
        if isinstance(node, ast.stmt):
            return None
    return None


def _function_of(around: list[ast.AST]) -> ast.FunctionDef | None:
    return next((each for each in around if isinstance(each, ast.FunctionDef)), None)


def _are_rows_of(around: list[ast.AST], targets: Sequence[ast.expr]) -> bool:
    """Whether a local file goes to what writes rows."""
    function = _function_of(around)
    names = {dotted(target) for target in targets}
    return function is not None and any(
        called_name(each) in WRITERS and any(dotted(given) in names for given in each.args)
        for each in calls_in(function)
    )


def _is_left_before(call: ast.Call, around: list[ast.AST]) -> bool:
    """Whether the function ends in front of a call where a run goes on."""
    function = _function_of(around)
    return function is not None and any(
        isinstance(node, ast.If)
        and node.lineno < call.lineno
        and isinstance(node.body[-1], ast.Return | ast.Raise)
        and RESUMED.search(ast.unparse(node.test))
        for node in function.body
    )


def _finding(file: File, call: ast.Call) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{ast.unparse(call)}` empties the log of a run that is resumed; allowed: it is added to",
        culprit=file.at(call),
        fix='open it with "a", and empty it where a run begins anew',
    )

"""A resume that was asked for finds no checkpoint, and the run starts from scratch without a word.

## What it detects

`if cfg.resume and path.exists(): load(path)`, or `if not Path(args.resume_from).exists(): return 0`, where nothing is
raised or told when the checkpoint is missing.

## Why it matters

A mistyped path, or a folder that was moved, trains everything anew: hours are lost, the log of the first run may be
written over, and the curve looks like one that was resumed.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding, as a warning, is
a condition that asks whether a file is there, or whether a newest one was found, behind which something is loaded, and
where nothing is raised, told, called or set where it is not,

* whose path is a setting that is named after resuming (`cfg.resume_from`, `args.resume`), also by a name, or as what
  callers give;
* or that stands under, or beside, a setting of that name that is asked (`if cfg.resume:`), there or around each call of
  the function that it stands in.

Clean is what says that it resumes where there is something: a name or a text with `auto`, "if any", "if present", "if
it exists", "from scratch" and the like in the function, or in a line that declares a setting of resuming. Statistic:
such conditions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
if config.resume and path.exists():
    state = load(path)
```

Good:

```python
if config.resume:
    if not path.exists():
        raise FileNotFoundError(f"resume: {path} does not exist")
    state = load(path)
```

## How to fix

Raise where a checkpoint that was asked for is missing; give "the newest, if there is one" a name of its own (`auto`).

## Known limits

A load whose failure is caught is GG613's; weights that a run starts from are GG437's.

## Sources

The `resume_from_checkpoint` of transformers' Trainer, which raises where it finds no valid checkpoint.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.passed_over import asked_for, does_nothing, loads
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, dotted
from gradgate.checks.source.values import outwards, parents_in
from gradgate.checks.source.windows import leaves
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG652", "resume-starts-anew"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
ASKED = re.compile(r"(^|[._])(resume|resume_(from|path|file|checkpoint|ckpt|run|training|dir)\w*|restore_from)$")
IF_ANY = re.compile(
    r"\bauto|[ _]if[ _](any|there|present|exist|it|one|available|found|possible|a checkpoint)|\bmaybe|maybe_|optional"
    r"|scratch|fresh|first (run|start)|anew|requeue|preempt|when (there|present|available)"
    r"|try_(to_)?(load|resume|restore)",
    re.IGNORECASE,
)
ASIDE = re.compile(r"cache|ema|optim|sched|rng|random|sampler|metric|log|best|stats|vocab|tokeni|config", re.IGNORECASE)
SPEAKS = re.compile(r"resum|restor|checkpoint|ckpt", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for checkpoints that are loaded where they happen to be there."""
    return read_place_by_place(subject, lambda file: file.has("resume", "restore_from"), _found, "resumes", tops=True)


def _found(place: Place, own: Places) -> Iterator[Finding]:
    parents: dict[int, ast.AST] = {}
    for node, path, there, missing in asked_for(place.nodes, place.function, place.names):
        if not loads(there) or not does_nothing(missing) or not isinstance(node, ast.If | ast.IfExp):
            continue
        parents = parents or parents_in(place.function)
        around = [each for each in outwards(node, parents) if isinstance(each, ast.If)]
        flags = [node.test, *(each.test for each in around)]
        asked = _setting(path, place, own) or next(filter(None, map(_flag, flags)), "") or _around(place, own)
        if asked and not _is_part(node, path, around) and not _says_so(place, own):
            yield _finding(place, node, path, asked)


def _is_part(node: ast.If | ast.IfExp, path: ast.expr, around: list[ast.If]) -> bool:
    """Whether a file is beside the checkpoint itself: named so, or loaded behind something else under the setting."""
    in_front = [each for branch in around if _flag(branch.test) for each in branch.body if each.lineno < node.lineno]
    return bool(ASIDE.search(ast.unparse(path))) or loads([each for each in in_front if node not in ast.walk(each)])


def _setting(path: ast.expr, place: Place, own: Places) -> str:
    """The setting of resuming that a path is made of; empty: it is of none."""
    parts = [part for part in place.names.parts(path) if isinstance(part, ast.Name | ast.Attribute | ast.Subscript)]
    texts = [dotted(leaf) for part in parts for _, leaf in leaves(own, part, place)]
    return next((text for text in texts if ASKED.search(text) and "." in text), "")


def _flag(test: ast.expr) -> str:
    """The setting of resuming that has to be on, or to be given, for a condition to hold."""
    whole = test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.operand, ast.BoolOp) else test
    parts = whole.values if isinstance(whole, ast.BoolOp) and isinstance(whole.op, ast.And) else [test]
    for part in parts:
        if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.IsNot):
            part = part.left
        if isinstance(part, ast.Name | ast.Attribute | ast.Subscript) and ASKED.search(dotted(part)):
            return dotted(part)
    return ""


def _around(place: Place, own: Places) -> str:
    """The setting of resuming under which each call of a function stands."""
    found = []
    for caller, call in own.calls_of(place.name) if place.name else ():
        if own.called(call, caller) is place:
            parents = parents_in(caller.function)
            tests = (each.test for each in outwards(call, parents) if isinstance(each, ast.If | ast.IfExp))
            found.append(next(filter(None, map(_flag, tests)), ""))
    return found[0] if found and all(found) else ""


def _says_so(place: Place, own: Places) -> bool:
    """Whether a function, or what declares a setting of resuming, says that there need not be a checkpoint."""
    first = 0 if place.is_top else place.function.lineno - 1
    last = len(place.file.lines) if place.is_top else place.function.end_lineno
    lines = [line for line in place.file.lines[first:last] if SPEAKS.search(line) or "#" in line or '"' in line]
    declared = [line for file in {each.file for each in own.all} for line in _declaring(file)]
    return any(IF_ANY.search(line) for line in (*lines, *declared)) or bool(IF_ANY.search(f" {place.name}"))


def _declaring(file: File) -> Iterator[str]:
    """The lines that declare, or explain, a setting of resuming."""
    for number, line in enumerate(file.lines):
        if re.search(r"resume\w*['\"]?\s*[:,=]", line) and (":" in line or "add_argument" in line):
            yield from file.lines[max(number - 1, 0) : number + 3]


def _finding(place: Place, node: ast.If | ast.IfExp, path: ast.expr, asked: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{f'{place.name}()' if place.name else 'the file'} starts from scratch without a word where "
        f"`{ast.unparse(path)}` is missing, though `{asked}` asks for a resume; allowed: an error",
        severity="warning",
        culprit=place.file.at(node, place.name),
        fix="raise where a checkpoint that was asked for is missing",
    )

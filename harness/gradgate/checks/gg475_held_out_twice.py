"""Two sets of rows that are to be apart are the same ones.

## What it detects

`val, test = rows[-n_val:], rows[-n_test:]`; `test_rows = read(config.val_file)` beside `val_rows` of the same file;
`train = make_rows(900, seed=seed)` and `val = make_rows(100, seed=seed)`, of which one is the beginning of the other;
`split(rows, 0.1, seed)` in one stage and `split(rows, 0.1, seed + 1)` in the next.

## Why it matters

A test on the rows that chose the checkpoint, or a held-out loss on rows that were trained on, says how well a run
remembers.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are the names of
one function that are called after training, validation (val, dev, held out, eval) and test. Findings are two of
different kinds that get the same value, of a call or an index; two that take slices of one list from the same end; and
two that get what one function gives for the same seed where all else that differs is how many, or where to: a function
of these files that seeds a generator with nothing but that argument.

Two functions that split the same rows, into parts of which one is called held out, by one function (`random_split` and
`train_test_split` among them), are a finding where the seeds are two numbers, or a seed and the same one with something
added, or the shares two numbers: what one stage holds out the other trains on. Rows are the same by the call or the
name that gives them.

Statistic: such pairs; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
val, test = rows[-n_val:], rows[-n_test:]
```

Good:

```python
val, test = rows[-n_val - n_test : -n_test], rows[-n_test:]
```

## How to fix

Cut one list into parts that do not overlap, or draw each from a seed of its own; split once, for all stages.

## Known limits

What a batch holds is GG612's, which runs it. Files with the same rows under two names are not read.

## Sources

scikit-learn's guide, "Common pitfalls": data leakage.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from itertools import chain, combinations

from gradgate.checks.source.places import places_in
from gradgate.checks.source.split_twice import Split, split_otherwise
from gradgate.checks.source.trainer import NONE, File, Function, files_of
from gradgate.checks.source.values import assignments_in, last_name, own_nodes, parameters_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG475", "held-out-twice"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
KINDS = {
    "train": re.compile(r"(^|_)(train|training|fit)(_|$)"),
    "validation": re.compile(r"(^|_)(val|valid|validation|dev|held|heldout|eval)(_|$)"),
    "test": re.compile(r"(^|_)test(_|$)"),
}
ROWS = re.compile(r"(^|_)(rows|set|data|dataset|examples|records|samples|items|problems|split|ids)(_|$)")
SEED = re.compile(r"(^|_)seed$")
COUNTS = re.compile(r"(^|_)(n|num|count|size|total|rows|k)(_|$)")
SEEDS = re.compile(r"(^|\.)(Random|RandomState|default_rng|manual_seed|seed)$")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Compare what the names of parts of the data get."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    seeded = {function.name: function for file in files for function, _ in file.functions if _is_seeded(file, function)}
    findings = [*chain.from_iterable(_of_file(file, seeded) for file in files)]
    if any(file.has("split", "partition", "hold") for file in files):
        findings += [_of_stages(*found) for found in split_otherwise(places_in(files))]
    return Outcome(tuple(findings), {"pairs": len(findings)}, {"pairs": 0})


def _of_stages(one: Split, other: Split, what: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{other.place.name}() splits `{other.rows}` with another {what} than {one.place.name}() in line "
        f"{one.call.lineno} of {one.place.file.path.name}: what one holds out the other trains on; "
        "allowed: one split for all stages",
        culprit=other.place.file.at(other.call, other.place.name),
        fix="split once, with one seed and one share for all stages",
    )


def _of_file(file: File, seeded: Mapping[str, Function]) -> Iterator[Finding]:
    if not file.has("val", "test", "held", "dev"):
        return
    for function, _ in file.functions:
        parts = [
            (kind, last_name(target), value)
            for target, value in assignments_in(own_nodes(function))
            for kind in (_kind(last_name(target)),)
            if kind
        ]
        for (kind, name, value), (other_kind, other, theirs) in combinations(parts, 2):
            if kind == other_kind:
                continue
            how = _same(value, theirs) or _overlap(value, theirs) or _same_draw(value, theirs, seeded)
            if how:
                yield _finding(file, theirs, function.name, (name, other), how)


def _kind(name: str) -> str:
    """Which part of the data a name is called after; none where it is called after several."""
    lowered = name.lower()
    found = [kind for kind, words in KINDS.items() if words.search(lowered)]
    is_whole = lowered in ("train", "val", "valid", "dev", "test", "heldout", "held_out", "validation")
    return found[0] if len(found) == 1 and (is_whole or ROWS.search(lowered)) else ""


def _same(value: ast.expr, theirs: ast.expr) -> str:
    is_made = isinstance(value, ast.Call | ast.Subscript) and (not isinstance(value, ast.Call) or value.args)
    is_empty = isinstance(value, ast.Call) and last_name(value.func) in (
        "list",
        "dict",
        "set",
        "deque",
        "getattr",
        "Path",
    )
    same = ast.unparse(value) == ast.unparse(theirs)
    return f"both are `{ast.unparse(value)}`" if is_made and not is_empty and same else ""


def _overlap(value: ast.expr, theirs: ast.expr) -> str:
    """Two slices of one list from the same end."""
    if not isinstance(value, ast.Subscript) or not isinstance(theirs, ast.Subscript):
        return ""
    if ast.unparse(value.value) != ast.unparse(theirs.value):
        return ""
    ends = [_end(part.slice) for part in (value, theirs)]
    return f"both are cut from the {ends[0]} of `{ast.unparse(value.value)}`" if ends[0] and ends[0] == ends[1] else ""


def _end(index: ast.expr) -> str:
    """Which end of a list a slice has; empty: neither, or both."""
    if not isinstance(index, ast.Slice) or index.step is not None:
        return ""
    if index.lower is None and index.upper is not None and not _is_negative(index.upper):
        return "beginning"
    return "end" if index.upper is None and index.lower is not None and _is_negative(index.lower) else ""


def _is_negative(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def _same_draw(value: ast.expr, theirs: ast.expr, seeded: Mapping[str, Function]) -> str:
    """Two calls of a function that draws from the same seed, for another number of rows."""
    if not isinstance(value, ast.Call) or not isinstance(theirs, ast.Call):
        return ""
    name = last_name(value.func)
    function = seeded.get(name)
    if function is None or name != last_name(theirs.func):
        return ""
    ours, others = _given(value, function), _given(theirs, function)
    differ = {
        key for key in {*ours, *others} if ast.unparse(ours.get(key) or EMPTY) != ast.unparse(others.get(key) or EMPTY)
    }
    seeds = [key for key in _parameters(function) if SEED.search(key)]
    if not differ or any(key in differ for key in seeds) or not all(COUNTS.search(key) for key in differ):
        return ""
    return f"both are what {name}() draws from one seed, the shorter one the beginning of the longer"


EMPTY = ast.Constant(None)


def _given(call: ast.Call, function: Function) -> dict[str, ast.expr]:
    given = dict(zip(_parameters(function), call.args, strict=False))
    return given | {word.arg: word.value for word in call.keywords if word.arg is not None}


def _parameters(function: Function) -> list[str]:
    given = [each.arg for each in parameters_of(function)]
    return [name for name in given if name not in ("self", "cls")]


def _is_seeded(file: File, function: Function) -> bool:
    """Whether a function seeds a generator by its argument for a seed, as it is."""
    seeds = [name for name in _parameters(function) if SEED.search(name)]
    if not seeds or not file.has("Random(", "RandomState(", "default_rng(", "manual_seed(", ".seed("):
        return False
    calls = [
        node for node in own_nodes(function) if isinstance(node, ast.Call) and SEEDS.search(ast.unparse(node.func))
    ]
    return bool(calls) and all(
        call.args and isinstance(call.args[0], ast.Name) and call.args[0].id in seeds for call in calls
    )


def _finding(file: File, value: ast.expr, function: str, names: tuple[str, str], how: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{names[0]}` and `{names[1]}` hold the same rows in {function}(): {how}; allowed: none",
        culprit=file.at(value, function),
        fix="cut one list into parts that do not overlap, or draw each from a seed of its own",
    )

"""An order that was shuffled is sorted by length, and every epoch runs from short to long.

## What it detects

`rng.shuffle(order)`, then `order.sort(key=lambda i: len(rows[i]))`, and batches cut from that: what was shuffled is
which of two rows of one length comes first.

## Why it matters

Updates go from short rows to long ones in each epoch, along the schedule of rates; the last updates of a run, and the
batches that a step is averaged over, are all of one kind.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are sorts by a
length (`key` with a `len`, or a name of lengths) of a list that the same function has shuffled before, or drawn with
`randperm` or `permutation`, with no shuffle behind it in that function.

Statistic: such sorts; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
rng.shuffle(order)
order.sort(key=lambda i: len(rows[i]))
batches = [order[i : i + size] for i in range(0, len(order), size)]
```

Good:

```python
order.sort(key=lambda i: len(rows[i]))
batches = [order[i : i + size] for i in range(0, len(order), size)]
rng.shuffle(batches)
```

## How to fix

Sort, cut batches, and shuffle these.

## Known limits

A curriculum is told as well, unless its function is named after one.

## Sources

fairseq's batching by size, which shuffles the batches that it has cut.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.trainer import File, dotted, read_file_by_file
from gradgate.checks.source.values import assignments_in, last_name, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG479", "sorted-behind-shuffle"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
DRAWS = ("shuffle", "randperm", "permutation", "sample", "randint")
LENGTH = re.compile(r"len\(|length|(^|[_.])lens?(_|\b)")
MEANT = re.compile(r"curricul|anneal|easy", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for sorts behind a shuffle."""
    return read_file_by_file(subject, _of_file, "sorts")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("sort(", "sorted("):
        return
    for function, _ in file.functions:
        if MEANT.search(function.name):
            continue
        nodes = own_nodes(function)
        drawn = _drawn(nodes)
        for call, name in _sorts(nodes):
            lines = [line for line, _ in drawn]
            if any(line < call.lineno and of == name for line, of in drawn) and max(lines) < call.lineno:
                yield _finding(file, call, function.name, name)


def _drawn(nodes: Sequence[ast.AST]) -> list[tuple[int, str]]:
    """Lines at which something is shuffled or drawn, with its name."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Call) and last_name(node.func) == "shuffle" and node.args:
            found.append((node.lineno, dotted(node.args[0])))
        elif isinstance(node, ast.Call) and last_name(node.func) in DRAWS:
            found.append((node.lineno, ""))
    for target, value in assignments_in(nodes):
        if any(isinstance(part, ast.Call) and last_name(part.func) in DRAWS[1:4] for part in ast.walk(value)):
            found.append((value.lineno, dotted(target)))
    return found


def _sorts(nodes: Sequence[ast.AST]) -> Iterator[tuple[ast.Call, str]]:
    """The sorts by a length, with the name of what is sorted."""
    for node in nodes:
        if not isinstance(node, ast.Call):
            continue
        key = next((word.value for word in node.keywords if word.arg == "key"), None)
        if key is None or not (LENGTH.search(ast.unparse(key)) or ast.unparse(key) == "len"):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr == "sort":
            yield node, dotted(node.func.value)
        elif dotted(node.func) == "sorted" and node.args:
            yield node, dotted(node.args[0])


def _finding(file: File, call: ast.Call, function: str, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() sorts `{name}` by length behind its shuffle; allowed: a shuffle behind",
        culprit=file.at(call, function),
        fix="sort, cut batches, and shuffle these",
    )

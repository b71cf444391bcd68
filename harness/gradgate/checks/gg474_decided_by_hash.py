"""Something is decided by Python's `hash` of a text, which is another one in each process.

## What it detects

`hash(row["prompt"]) % 100 < 10` for a split, `Random(hash(name))` for a seed, `f"{hash(text)}.pt"` for a file's name.

## Why it matters

Hashes of texts are salted anew in each process. Stage 2 holds out other rows than Stage 1, and trains on those that
Stage 1 held out; a resumed run goes on with another split; a cache is never found again.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are calls of the
built-in `hash` of what is a text by its form (a literal, an f-string, `str(...)`) or by its name (prompt, text, task,
question, path, name, id, key, row), whose result is taken modulo a number, seeds a generator, or stands in a text; not
in `__hash__`.

Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
held_out = [row for row in rows if hash(row["prompt"]) % 10 == 0]
```

Good:

```python
held_out = [row for row in rows if zlib.crc32(row["prompt"].encode()) % 10 == 0]
```

## How to fix

Take a hash that is the same everywhere: `zlib.crc32`, `hashlib.sha256`.

## Known limits

A run under a fixed `PYTHONHASHSEED` has one split, and is told all the same. Sets of texts, whose order follows from
the same salt, are not looked at.

## Sources

Python, `object.__hash__`: hashes of str and bytes are salted with a value that is constant within one process only.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.trainer import File, dotted, read_file_by_file
from gradgate.checks.source.values import Names, last_name, outwards, own_nodes, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG474", "decided-by-hash"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
TEXTS = re.compile(
    r"(^|_)(prompt|text|task|question|problem|path|file|name|id|key|row|example|record|sample|string|line|doc|content)s?(_id)?$",
    re.IGNORECASE,
)
SEEDS = re.compile(r"(^|\.)(Random|RandomState|default_rng|manual_seed|seed|SeedSequence)$")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what goes by a salted hash."""
    return read_file_by_file(subject, _of_file, "hashes")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("hash("):
        return
    parents = parents_in(file.tree)
    for function, _ in file.functions:
        if function.name == "__hash__":
            continue
        names = Names(function)
        nodes = own_nodes(function)
        lambdas = (part for node in nodes if isinstance(node, ast.Lambda) for part in ast.walk(node.body))
        for node in (*nodes, *lambdas):
            if (
                isinstance(node, ast.Call)
                and dotted(node.func) == "hash"
                and node.args
                and _is_text(node.args[0], names)
            ) and _decides(node, parents, nodes):
                yield _finding(file, node, function.name)


def _is_text(node: ast.expr, names: Names) -> bool:
    held = names.held(node)
    if isinstance(held, ast.Tuple):
        return any(_is_text(part, names) for part in held.elts)
    is_made = isinstance(held, ast.JoinedStr) or (isinstance(held, ast.Constant) and isinstance(held.value, str))
    is_called = isinstance(held, ast.Call) and last_name(held.func) in (
        "str",
        "strip",
        "lower",
        "join",
        "encode",
        "dumps",
    )
    return is_made or is_called or bool(TEXTS.search(last_name(node)))


def _decides(call: ast.Call, parents: dict[int, ast.AST], nodes: list[ast.AST]) -> bool:
    """Whether the result is taken modulo a number, seeds a generator or stands in a text, here or by its name."""
    for node in outwards(call, parents):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod | ast.BitAnd):
            return True
        if isinstance(node, ast.FormattedValue) or (isinstance(node, ast.Call) and SEEDS.search(dotted(node.func))):
            return True
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            reads = (
                each for each in nodes if isinstance(each, ast.Name) and each.id == name and each.lineno > node.lineno
            )
            return any(
                isinstance(parents.get(id(each)), ast.FormattedValue) or _decides_here(each, parents) for each in reads
            )
        if isinstance(node, ast.stmt):
            return False
    return False


def _decides_here(name: ast.Name, parents: dict[int, ast.AST]) -> bool:
    parent = parents.get(id(name))
    if isinstance(parent, ast.BinOp):
        return isinstance(parent.op, ast.Mod | ast.BitAnd)
    return isinstance(parent, ast.Call) and bool(SEEDS.search(dotted(parent.func)))


def _finding(file: File, call: ast.Call, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() goes by `{ast.unparse(call)}`, which is another number in each process; allowed: none",
        culprit=file.at(call, function),
        fix="take a hash that is the same everywhere, as `zlib.crc32(text.encode())`",
    )

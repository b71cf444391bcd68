"""What is computed from settings is read from a file of one name, whatever the settings are now.

## What it detects

`if cache.exists(): return torch.load(cache)`, with `cache = folder / "rows.pt"`, in a function that otherwise encodes
the rows by `cfg.max_len` and `cfg.horizon` and saves them there.

## Why it matters

The second run with another horizon, tokenizer or reference trains on the first one's rows, and its log says otherwise.
A sweep compares one setting with itself.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at is a function
that, where a file is there, does nothing but read it (`torch.load`, `pickle.load`, `np.load`, `json.load`) and return
what it holds, and that otherwise computes something by settings or by what it is given besides the file, and writes to
the same path.

A finding, as a warning, is one whose path is made of constant names and folders alone, or is given by calls that do so,
all of them in the trainer's files. It is none where any number, hash, fingerprint, version or name of a setting is part
of the path; and where what is read is looked at before it is returned. Statistic: such functions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones; where a folder is made anew for each
configuration, it is one.

## Example

Bad:

```python
cache = folder / "rows.pt"
if cache.exists():
    return torch.load(cache)
rows = [encode(row, cfg.max_len, cfg.horizon) for row in read(cfg.file)]
torch.save(rows, cache)
```

Good:

```python
cache = folder / f"rows-{digest(cfg.data)}.pt"
```

## How to fix

Make what it was computed from a part of the name, by a digest; or save that beside it and compare.

## Known limits

Files that another function writes, and caches that a method looks up by a key, are not looked at;
those by a row's number are GG497's.

## Sources

Configuration faults of trainers; `datasets` names its caches by a fingerprint of what made them.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.setting_sections import called
from gradgate.checks.source.trainer import NONE, called_name, dotted, files_of
from gradgate.checks.source.values import Names, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG463", "cache-not-keyed"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LOADS = ("torch.load", "pickle.load", "np.load", "numpy.load", "json.load", "json.loads", "joblib.load", "load_file")
SAVES = ("torch.save", "pickle.dump", "np.save", "numpy.save", "json.dump", "json.dumps", "joblib.dump", "save_file",
         "np.savez")  # fmt: skip
EXISTS = ("exists", "is_file", "isfile")
FOLDER = re.compile(
    r"(dir|folder|root|path|cache|directory|home|file|parent)s?$|^(Path|os|join|str|self)$", re.IGNORECASE
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what is read from a file of one name instead of being computed."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    some = any(file.has(*(f".{name}(" for name in EXISTS)) and file.has(*SAVES) for file in files)
    found = tuple(_found(places_in(files))) if some else ()
    return Outcome(found, {"caches": len(found)}, {"caches": 0})


def _found(calls: Places) -> Iterator[Finding]:
    for place in calls.functions:
        if not place.file.has(*EXISTS):
            continue
        nodes, names = place.nodes, place.names
        for node in (node for node in nodes if isinstance(node, ast.If) and not node.orelse):
            path = _asked(node.test)
            if path is None or not _reads_and_returns(node.body, path):
                continue
            behind = [part for part in nodes if getattr(part, "lineno", 0) > (node.end_lineno or 0)]
            if _writes(behind, path) and _depends(behind, place, path) and _is_one_name(path, names, place, calls):
                yield Finding(
                    code=CODE,
                    name=NAME,
                    severity="warning",
                    message=f"{place.name}() returns what `{ast.unparse(path)}` holds, whatever it would be "
                    "computed from now; allowed: none",
                    culprit=place.file.at(node, place.name),
                    fix="make a digest of what it was computed from a part of the name",
                )


def _asked(test: ast.expr) -> ast.expr | None:
    """The path that a condition asks for; None: it asks something else, or more."""
    if not isinstance(test, ast.Call) or called_name(test) not in EXISTS:
        return None
    if test.args:
        return test.args[0]
    return test.func.value if isinstance(test.func, ast.Attribute) else None


def _reads_and_returns(body: Sequence[ast.stmt], path: ast.expr) -> bool:
    """Whether nothing is done but to return what a file holds."""
    whole = [part for statement in body for part in ast.walk(statement)]
    loads = any(isinstance(part, ast.Call) and dotted(part.func).endswith(LOADS) for part in whole)
    asks = any(isinstance(part, ast.If | ast.Compare | ast.Assert | ast.IfExp) for part in whole)
    last = body[-1].body[-1] if isinstance(body[-1], ast.With) else body[-1]
    return isinstance(last, ast.Return) and loads and not asks and _stands_in(path, whole)


def _stands_in(path: ast.expr, nodes: Sequence[ast.AST]) -> bool:
    text = ast.unparse(path)
    return any(isinstance(node, ast.expr) and ast.unparse(node) == text for node in nodes)


def _writes(behind: Sequence[ast.AST], path: ast.expr) -> bool:
    saves = [node for node in behind if isinstance(node, ast.Call) and dotted(node.func).endswith(SAVES)]
    return bool(saves) and _stands_in(path, behind)


def _depends(behind: Sequence[ast.AST], place: Place, path: ast.expr) -> bool:
    """Whether what is computed depends on settings, or on what the function is given besides the path."""
    own = {part.id for part in ast.walk(path) if isinstance(part, ast.Name)}
    read = {node.id for node in behind if isinstance(node, ast.Name)} - own
    given = {each.arg for each in ast.walk(place.function.args) if isinstance(each, ast.arg)}
    return bool(read & (given - {"self", "cls"})) or any(
        isinstance(node, ast.Attribute) and called(last_name(node.value)) is not None for node in behind
    )


def _is_one_name(path: ast.expr, names: Names, place: Place, calls: Places, hops: int = 2) -> bool:
    """Whether a path is of constant names and folders alone, here and in all calls that give it."""
    parts = list(names.parts(path))
    if any(isinstance(part, ast.FormattedValue | ast.BinOp) and not _is_join(part) for part in parts):
        return False
    if any(isinstance(part, ast.Call) and not FOLDER.search(last_name(part.func)) for part in parts):
        return False
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    held = {dotted(part) for part in parts if isinstance(part, ast.Name) and names.held(part) is not part}
    leaves = [part for part in parts if isinstance(part, ast.Name | ast.Attribute) and dotted(part) not in held]
    configured = {id(part.value) for part in leaves if isinstance(part, ast.Attribute)}
    leaves = [part for part in leaves if id(part) not in configured]
    given = [part.id for part in leaves if isinstance(part, ast.Name) and part.id in place.positional]
    if any(not FOLDER.search(last_name(part)) for part in leaves):
        return False
    if texts:
        return True
    if not given or not hops:
        return False
    of_calls = [(caller, place.given(call).get(given[0])) for caller, call in calls.calls_of(place.name)]
    return bool(of_calls) and all(
        value is not None and _is_one_name(value, caller.names, caller, calls, hops - 1) for caller, value in of_calls
    )


def _is_join(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)

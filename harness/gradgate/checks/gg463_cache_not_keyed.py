"""What is computed from settings is read from a file of one name, whatever the settings are now.

## What it detects

`if cache.exists(): return torch.load(cache)`, with `cache = folder / "rows.pt"` or `f"rows-{cfg.horizon}.pt"`, in a
function that otherwise encodes the rows by `cfg.max_len` and `cfg.horizon` and saves them there.

## Why it matters

The second run with another horizon, tokenizer or reference trains on the first one's rows, and its log says otherwise.
A sweep compares one setting with itself.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at is a function
that, where a file is there, does nothing but read it (`torch.load`, `pickle.load`, `np.load`, `json.load`) and return
what it holds, and that otherwise computes something by settings or by what it is given besides the file, and writes to
the same path.

A finding, as a warning, is one whose path is made of constant names and folders alone, or is given by calls that do so,
all of them in the trainer's files; or one whose name is filled in with settings of one object alone (`f"{cfg.n}.pt"`),
while what is computed reads others of that object, here or in functions of the trainer's that are given it. It is none
where any other number, hash, fingerprint, version or name of a setting is part of the path; and where what is read is
looked at before it is returned. Statistic: such functions; allowed: 0.

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
BESIDE = re.compile(r"worker|device|verbose|log|progress|debug|name$", re.IGNORECASE)  # changes nothing of what is made
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
            if not _writes(behind, path) or not _depends(behind, place, path):
                continue
            left = _left_out(path, behind, place, calls)
            if left or _is_one_name(path, names, place, calls):
                otherwise = f", whatever {_listed(left)} now" if left else ", whatever it would be computed from now"
                yield Finding(
                    code=CODE,
                    name=NAME,
                    severity="warning",
                    message=f"{place.name}() returns what `{ast.unparse(path)}` holds{otherwise}; allowed: none",
                    culprit=place.file.at(node, place.name),
                    fix="make a digest of what it was computed from a part of the name",
                )


def _asked(test: ast.expr) -> ast.expr | None:
    """The path that a condition asks for, beside whether there is one at all; None: it asks something else, or more."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        *others, last = test.values
        return _asked(last) if all(isinstance(one, ast.Name | ast.Attribute) for one in others) else None
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


def _left_out(path: ast.expr, behind: Sequence[ast.AST], place: Place, calls: Places) -> list[str]:
    """The settings that something is computed by, of one object by which others a path is named; empty: none is known.

    A path that anything but settings is filled into is not judged: it may be a digest of all.
    """
    filled = list(_filled_in(path, place, calls))
    named = {last_name(value) for _, value in filled}
    objects = {dotted(value.value) for _, value in filled if isinstance(value, ast.Attribute)}
    if (
        len(objects) != 1
        or objects & {"self", "cls"}
        or not all(isinstance(value, ast.Attribute) for _, value in filled)
    ):
        return []
    (of,) = objects
    read = {name for name in _settings_read(of, behind, place, calls) if not BESIDE.search(name)}
    return sorted(name for name in read - named if not FOLDER.search(name)) if named <= read else []


def _filled_in(path: ast.expr, place: Place, calls: Places) -> Iterator[tuple[Place, ast.expr]]:
    """What is filled into the texts of a path, here or in a function that is given the same object by the same name."""
    for part in place.names.parts(path):
        if isinstance(part, ast.FormattedValue):
            yield place, part.value
        elif isinstance(part, ast.Call) and (made := calls.called(part, place)) is not None and made is not place:
            same = all(name == dotted(value) for name, value in made.given(part).items())
            if not same or len(made.returned) != 1:
                yield made, part
            for value in made.returned:
                yield from _filled_in(value, made, calls)
        elif isinstance(part, ast.Call) and not FOLDER.search(last_name(part.func)):
            yield place, part


def _settings_read(of: str, nodes: Sequence[ast.AST], place: Place, calls: Places, hops: int = 2) -> set[str]:
    """The names of the settings of an object that are read, also in functions that are given it."""
    called_by = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    found = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and dotted(node.value) == of and id(node) not in called_by
    }
    for node in nodes if hops else ():
        made = calls.called(node, place) if isinstance(node, ast.Call) else None
        for name, value in made.given(node).items() if made is not None and isinstance(node, ast.Call) else ():
            if dotted(value) == of and made is not None:
                found |= _settings_read(name, made.nodes, made, calls, hops - 1)
    return found


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:3])
    more = len(names) - 3
    return f"{shown} and {more} more are" if more > 0 else f"{shown} {'is' if len(names) == 1 else 'are'}"


def _is_join(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)

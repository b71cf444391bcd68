"""Old checkpoints are deleted by a pattern that fits the best one, too: by its name, or because it is one of them.

## What it detects

`glob("*.pt")` of which all but the newest are deleted, and `best.pt` in the same folder. And a note, `best.json` or
`self.best_path`, that names one of the numbered files, which are deleted without a look at it.

## Why it matters

The best is written once, and then grows old: some saves later it is the oldest file, and is deleted as one. What is
left are the last checkpoints, among them those that early stopping was to throw away. A run of a few saves shows none
of it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Pruning is a function that
lists files (`glob`, `iterdir`, `listdir`), takes some of them by a slice, `pop` or a comparison of their number, and
deletes them; the list may be another function's. Its pattern is the one that is written down, together with `endswith`,
`startswith`, `suffix ==` and `in` as conditions. The best is a path whose last part is a text with "best" in it, also
where an argument is filled in, as `%`, `.format` and sums of texts do as well. It is a finding where the pattern fits
that name, both are in the folder that is written alike, or is given alike, and

* the files are sorted by time or not at all; or
* by name, and the best comes before a name with a number that fits, too.

A note is an attribute called "best" and a file, which is read somewhere, or what is written to `best.json`, or under
the key "best". It is one where its class deletes all but the last of the files whose pattern fits the name that is
noted, and neither the function that deletes, nor one that it calls, nor its call speaks of the best, of files to spare,
or of links; and where the class has no weights called "best" and copies nothing.

A condition of any other kind, a key that reads a number, and a part of the pattern that is not written down are none.
Statistic: such lists and notes; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
torch.save(state, folder / "best.pt")
...
for old in sorted(folder.glob("*.pt"), key=os.path.getmtime)[:-keep]:
    old.unlink()
```

Good:

```python
for old in sorted(folder.glob("step-*.pt"), key=os.path.getmtime)[:-keep]:
    old.unlink()
```

## How to fix

List the numbered files alone, or keep the best in a folder of its own; leave out the one that the note names.

## Known limits

Regular expressions, and the file that is written last of all, are not looked at. Whether the newest are kept is
GG618's.

## Sources

The `_sorted_checkpoints` of transformers' Trainer, which moves the best out of the way.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gradgate.checks.best_pointers import DELETES, THERE, Pointer, is_known, pointers
from gradgate.checks.own_calls import OwnCalls, Place
from gradgate.checks.source_values import Names, own_nodes, with_stars
from gradgate.checks.trainer_source import NONE, calls_in, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG626", "pruning-takes-the-best"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LISTS = ("glob", "iterdir", "listdir", "iglob")
BEST = re.compile(r"best", re.IGNORECASE)
TIME = re.compile(r"mtime|ctime")
WRAPS = ("Path", "pathlib.Path", "str", "os.fspath")


@dataclass(frozen=True)
class _Path:
    """A path that is put together.

    Args:
        folder: how what is in front of the last part may be written.
        name: the last part, with `*` for what is filled in.
    """

    folder: frozenset[str]
    name: str


@dataclass(frozen=True)
class _Listed:
    """Files that are listed.

    Args:
        patterns: all of which they fit.
        by_name: whether they are sorted by name.
        node: where.
    """

    folder: frozenset[str]
    patterns: tuple[str, ...]
    by_name: bool
    node: ast.expr
    place: Place


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold what is deleted against the name of the best."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    deletes = any(file.has(*DELETES) for file in files) and any(file.has(*LISTS) for file in files)
    findings = tuple(_of_all(OwnCalls(files))) if deletes and any(file.has("best") for file in files) else ()
    return Outcome(findings, {"lists": len(findings)}, {"lists": 0})


def _of_all(own: OwnCalls) -> Iterator[Finding]:
    yield from map(_of_pointer, pointers(own))
    reader = _Reader(own)
    pruned = [listed for place in own.places if place.file.has(*DELETES) for listed in reader.pruned(place)]
    paths = [found for place in own.places for found in reader.paths(place)] if pruned else []
    seen: set[int] = set()
    for listed in pruned:
        for path, node in paths:
            if BEST.search(path.name) and id(listed.node) not in seen and _is_taken(listed, path, paths):
                seen.add(id(listed.node))
                yield _finding(listed, path, node)


def _is_taken(listed: _Listed, best: _Path, paths: list[tuple[_Path, ast.expr]]) -> bool:
    name = best.name.replace("*", "1")
    if not (listed.folder & best.folder and _fits(name, listed.patterns)):
        return False
    numbered = [path.name.replace("*", "1") for path, _ in paths if "*" in path.name and not BEST.search(path.name)]
    numbered = [other for other in numbered if _fits(other, listed.patterns)]
    return bool(numbered) and (not listed.by_name or any(name < other for other in numbered))


def _fits(name: str, patterns: Iterable[str]) -> bool:
    return all(fnmatchcase(name, pattern) for pattern in patterns)


class _Reader:
    """Paths, and files that are listed, in a trainer's functions."""

    def __init__(self, own: OwnCalls) -> None:
        self.own = own

    def pruned(self, place: Place) -> Iterator[_Listed]:
        """The lists of which a function deletes some."""
        names = Names(place.function)
        for loop in (node for node in own_nodes(place.function) if isinstance(node, ast.For | ast.While)):
            deleted = [call for call in calls_in(loop) if dotted(call.func).rpartition(".")[2] in DELETES]
            if not deleted or any(isinstance(node, ast.If) and not is_known(node.test) for node in ast.walk(loop)):
                continue
            if isinstance(loop, ast.For):
                taken: list[ast.expr] = [loop.iter]
            else:
                popped = (call.func for call in calls_in(loop))
                taken = [func.value for func in popped if isinstance(func, ast.Attribute) and func.attr == "pop"]
            for part in taken:
                some = isinstance(loop, ast.While) or any(isinstance(one, ast.Slice) for one in names.parts(part))
                if some and (listed := self._listed(part, place, names)) is not None:
                    yield listed

    def _listed(self, node: ast.expr, place: Place, names: Names, hops: int = 6) -> _Listed | None:
        """The files that an expression lists; None: it is not known which."""
        if hops == 0:
            return None
        if isinstance(node, ast.Name) and (held := names.held(node)) is not node:
            key = _sorting(node.id, held, place)
            found = self._listed(held, place, names, hops - 1)
            return found if found is None or key == "" else _sorted_by(found, key)
        if isinstance(node, ast.Subscript):
            return self._listed(node.value, place, names, hops - 1)
        if isinstance(node, ast.ListComp | ast.GeneratorExp) and len(node.generators) == 1:
            found = self._listed(node.generators[0].iter, place, names, hops - 1)
            kept = [pattern for test in node.generators[0].ifs for pattern in _patterns(test)]
            unknown = found is None or None in kept
            return None if unknown or found is None else _with(found, [one for one in kept if one is not None])
        if not isinstance(node, ast.Call):
            return None
        called = dotted(node.func).rpartition(".")[2]
        if called in ("list", "reversed") and node.args:
            return self._listed(node.args[0], place, names, hops - 1)
        if called == "sorted":
            found = self._listed(node.args[0], place, names, hops - 1)
            keys = [ast.unparse(word.value) for word in node.keywords if word.arg == "key"]
            return found and _sorted_by(found, keys[0] if keys else "str")
        if called in LISTS:
            return self._of_call(node, called, place)
        other = self.own.called(node, place)
        values = [part.value for part in own_nodes(other.function) if isinstance(part, ast.Return)] if other else []
        if other is not None and len(values) == 1 and values[0] is not None:
            found = self._listed(values[0], other, Names(other.function), hops - 1)
            same = {dotted(given) for given in self.own.given(node, other).values()} - {""}
            return found and _Listed(found.folder | same, found.patterns, found.by_name, found.node, found.place)
        return None

    def _of_call(self, node: ast.Call, called: str, place: Place) -> _Listed | None:
        inside = node.func.value if isinstance(node.func, ast.Attribute) else None
        if called == "iterdir" and inside is not None:
            return _Listed(self._folders(inside, place), (), False, node, place)
        if called == "listdir" and node.args:
            return _Listed(self._folders(node.args[0], place), (), False, node, place)
        if not node.args or called == "iterdir":
            return None
        if inside is not None and dotted(inside) != "glob" and (name := _written(node.args[0])) is not None:
            return _Listed(self._folders(inside, place), (name,), False, node, place)
        path = self._path(node.args[0], place)
        written = path is not None and "{" not in ast.unparse(node.args[0]).rpartition("/")[2]
        return _Listed(path.folder, (path.name,), False, node, place) if path is not None and written else None

    def paths(self, place: Place) -> Iterator[tuple[_Path, ast.expr]]:
        """The paths that a function puts together, and where."""
        for node in own_nodes(place.function):
            if isinstance(node, ast.BinOp | ast.JoinedStr | ast.Call) and (path := self._path(node, place)):
                yield path, node
                for name in self._filled_in(path, node, place):
                    yield _Path(path.folder, name), node

    def _filled_in(self, path: _Path, node: ast.expr, place: Place) -> Iterator[str]:
        """The names of a path in which an argument is filled in by a call."""
        parts = [part for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
        last = dotted(parts[-1].value) if parts else ""
        if last in place.parameters and path.name.count("*") == 1:
            for caller, call in self.own.calls_of(place.function.name):
                given = self.own.given(call, place).get(last)
                if isinstance(given, ast.Constant) and isinstance(given.value, str) and caller is not None:
                    yield path.name.replace("*", given.value)

    def _path(self, node: ast.expr, place: Place) -> _Path | None:
        """A path of an expression, where its last part is written down."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            name = _written(node.right)
            return None if name is None else _Path(self._folders(node.left, place), name)
        if isinstance(node, ast.Call) and dotted(node.func).endswith("path.join") and len(node.args) > 1:
            name, front = _written(node.args[-1]), ast.Call(node.func, node.args[:-1], [])
            folder = node.args[0] if len(node.args) == 2 else ast.copy_location(front, node)
            return None if name is None else _Path(self._folders(folder, place), name)
        if isinstance(node, ast.JoinedStr) and len(node.values) > 1 and isinstance(node.values[0], ast.FormattedValue):
            rest = _written(ast.JoinedStr(node.values[1:])) or ""
            if rest.startswith("/") and "/" not in rest[1:]:
                return _Path(self._folders(node.values[0].value, place), rest[1:])
        return None

    def _folders(self, node: ast.expr, place: Place, hops: int = 3) -> frozenset[str]:
        """How a folder may be written: as it is, as what its name holds, or as what its function is given."""
        while isinstance(node, ast.Call) and dotted(node.func) in WRAPS and len(node.args) == 1:
            node = node.args[0]
        held = Names(place.function).held(node)
        if held is not node and hops:
            return self._folders(held, place, hops - 1)
        if isinstance(node, ast.Name) and node.id in place.parameters:
            calls = [each for each in self.own.calls_of(place.function.name) if hops]
            given = [(self.own.given(call, place).get(node.id), caller) for caller, call in calls]
            found = [self._folders(each, caller, hops - 1) for each, caller in given if each is not None]
            return frozenset().union(*found) if found else frozenset([f"{id(place.function)} {node.id}"])
        owner = place.owner.name if place.owner is not None and dotted(node).startswith("self.") else ""
        return frozenset([f"{owner} {ast.unparse(node)}"])


def _sorting(name: str, held: ast.expr, place: Place) -> str:
    """The key by which a list of a name is sorted in place; empty: it is not."""
    for node in own_nodes(place.function):
        if isinstance(node, ast.Call) and dotted(node.func) == f"{name}.sort" and node.lineno >= held.lineno:
            return next((ast.unparse(word.value) for word in node.keywords if word.arg == "key"), "str")
    return ""


def _sorted_by(listed: _Listed, key: str) -> _Listed | None:
    """A list that is sorted; None: by something in the names that the best does not have."""
    by_name = bool(re.fullmatch(r"str|lambda (\w+): (\1(\.name|\.stem)?|str\(\1\))", key))
    known = by_name or TIME.search(key)
    return _Listed(listed.folder, listed.patterns, by_name, listed.node, listed.place) if known else None


def _with(listed: _Listed, patterns: list[str]) -> _Listed:
    return _Listed(listed.folder, (*listed.patterns, *patterns), listed.by_name, listed.node, listed.place)


def _written(node: ast.expr) -> str | None:
    """A text with `*` for what is filled in; None: no text, or nothing of it is written down."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return with_stars(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
        return re.sub(r"%[-\d.]*[a-z]", "*", node.left.value) if isinstance(node.left.value, str) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = node.func.value.value if isinstance(node.func.value, ast.Constant) else None
        return re.sub(r"\{[^}]*\}", "*", text) if isinstance(text, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_written(node.left), _written(node.right)]
        return None if parts == [None, None] else "".join("*" if part is None else part for part in parts)
    return None


def _patterns(test: ast.expr) -> Iterator[str | None]:
    """The patterns of a condition on a file; None: it is of another kind."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for part in test.values:
            yield from _patterns(part)
    elif isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute) and len(test.args) == 1:
        text = _written(test.args[0])
        shape = {"endswith": "*{}", "startswith": "{}*", "match": "{}"}.get(test.func.attr)
        yield None if text is None or shape is None else shape.format(text)
    elif isinstance(test, ast.Compare) and len(test.ops) == 1:
        text = _written(test.comparators[0] if isinstance(test.ops[0], ast.Eq) else test.left)
        suffix = isinstance(test.ops[0], ast.Eq) and "suffix" in ast.unparse(test.left)
        inside = isinstance(test.ops[0], ast.In) and isinstance(test.comparators[0], ast.Name | ast.Attribute)
        yield None if text is None or not (suffix or inside) else f"*{text}" if suffix else f"*{text}*"
    elif not THERE.search(ast.unparse(test)):
        yield None


def _finding(listed: _Listed, best: _Path, node: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{listed.place.function.name}() lists what is deleted when it is old by `{ast.unparse(listed.node)}`, and "
            f"`{ast.unparse(node)}` is among it as `{best.name}`; allowed: no name of the best"
        ),
        culprit=listed.place.file.at(listed.node, listed.place.function.name),
        fix="list the numbered files alone, or keep the best in a folder of its own",
    )


def _of_pointer(noted: Pointer) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{noted.place.function.name}() notes `{noted.name}` as the best, and {noted.pruning.function.name}() "
            f"deletes what fits `{noted.pattern}` when it is old, without a look at that; allowed: none that is noted"
        ),
        culprit=noted.place.file.at(noted.node, noted.place.function.name),
        fix="leave out the file that is noted as the best, or keep a copy of it under a name of its own",
    )

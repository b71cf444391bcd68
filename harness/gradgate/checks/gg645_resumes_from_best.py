"""A resume takes the best checkpoint, or may, though it is not where the run was stopped.

## What it detects

`best.pt` that is taken first where a run is resumed, if it is there; the newest of `*.pt` by the time of its file, or
by a name that comes behind the numbered ones, beside a best file in the same folder.

## Why it matters

The best is older than the last: the run goes back to it and trains the steps since then once more, on other rows, and
patience begins again. Where the file holds no optimizer's state, or an older one, the moments and the schedule do not
fit the weights. As long as each evaluation is better than the one before, nothing shows.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Two things are findings:

* in a function that loads an optimizer's state, or that is named after resuming and gives a path back or hands it to
  one that loads: a path with "best" in its name, alone under the name or the condition of a resume, or in front of
  another one that is taken where it is not there;
* in a function that is named after the newest, or after resuming: the last of files that are listed by a pattern that
  fits the best's name in the same folder, and sorted by time, or by a name behind which the best comes.

Not so where the function, or a condition around it, speaks of the best (`from_best`, `which == "best"`). Statistic:
such paths and lists; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
path = folder / "best.pt" if (folder / "best.pt").exists() else folder / "last.pt"
state = torch.load(path)
```

Good:

```python
steps = sorted(folder.glob("step_*.pt"), key=lambda path: int(path.stem.split("_")[1]))
state = torch.load(steps[-1])
```

## How to fix

Resume from the numbered files, or from the last; keep the best for who asks for it.

## Known limits

Paths of the configuration are not followed. How numbered files are sorted is GG618's, what is deleted GG626's.

## Sources

A resume fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.listed_files import BEST, LISTS, Listed, Listings, Written, fits, sorted_by
from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.references import meant
from gradgate.checks.source.restored_models import RESUMES
from gradgate.checks.source.resuming import loads_optimizer
from gradgate.checks.source.trainer import dotted, given_by
from gradgate.checks.source.values import Names, is_true, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG645", "resumes-from-best"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
FILE = re.compile(r"(^|/)[\w*-]*best[\w*-]*(\.(pt|pth|ckpt|bin|tar|safetensors))?$", re.IGNORECASE)
OTHER = re.compile(r"last|latest|step|epoch|newest|recent|ckpt|checkpoint", re.IGNORECASE)
NEWEST = re.compile(r"latest|last|newest|resum|restor|recent|continu", re.IGNORECASE)
THERE = re.compile(r"exists|is_file|isfile|is_dir|isdir")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look at which file a resume takes."""
    return read_as_one(subject, [("best",), ("load",)], _of_all, "paths")


def _of_all(own: Places) -> Iterator[Finding]:
    for place in own.functions:
        if place.file.has("best") and not BEST.search(place.name):
            for node, path in _taken(own, place):
                yield _finding(place, node, f"takes `{ast.unparse(path)}`")
    reader = Listings(own)
    lists = [
        found
        for place in own.functions
        if place.file.has(*LISTS) and NEWEST.search(place.name) and not BEST.search(place.name)
        for found in _last_of(reader, place)
    ]
    paths = [found for place in own.functions for found in reader.paths(place)] if lists else []
    for listed, node in lists:
        best = next((node for path, node in paths if _may_be(listed, path, paths)), None)
        if best is not None:
            told = f"takes `{ast.unparse(node)}`, and `{ast.unparse(best)}` is among `{ast.unparse(listed.node)}`"
            yield _finding(listed.place, node, told)


def _taken(own: Places, place: Place) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Where a function takes a best file to go on from."""
    named, loads = RESUMES.search(place.name), loads_optimizer(place.nodes)
    names, parents = place.names, dict[int, ast.AST]()
    for node in place.nodes:
        given: list[ast.expr] = []
        if isinstance(node, ast.Return) and node.value is not None and named and not isinstance(node.value, ast.Call):
            given = [node.value]
        elif isinstance(node, ast.Call):
            others = [each.nodes for each in meant(own, node, place) if not BEST.search(each.name)]
            if any(map(loads_optimizer, others)) or (loads and dotted(node.func).endswith("load")):
                given = given_by(node)
        for each in given:
            for path, alone in _preferred(each, names):
                parents = parents or parents_in(place.function)
                tests = [outer.test for outer in outwards(node, parents) if isinstance(outer, ast.If)]
                told = any(RESUMES.search(ast.unparse(test)) for test in tests)
                if not any(_speaks(test) for test in tests) and (not alone or named or told):
                    yield each, path


def _preferred(node: ast.expr, names: Names, hops: int = 3) -> Iterator[tuple[ast.expr, bool]]:
    """The best's path that an expression is, or is where that is there; and whether it is the only one."""
    while isinstance(node, ast.Call) and dotted(node.func) in ("str", "Path", "os.fspath") and len(node.args) == 1:
        node = node.args[0]
    if isinstance(node, ast.IfExp):
        if THERE.search(ast.unparse(node.test)) and not isinstance(node.test, ast.UnaryOp):
            first, second = list(_preferred(node.body, names, hops)), list(_preferred(node.orelse, names, hops))
            if first and not second and _is_other(node.orelse, names):
                yield first[0][0], False
    elif isinstance(node, ast.Name) and hops and (held := names.held(node)) is not node:
        yield from _preferred(held, names, hops - 1)
    elif _is_best(node):
        yield node, True


def _is_other(node: ast.expr, names: Names) -> bool:
    """Whether an expression is a file that is no best: where there is none, nothing is taken back."""
    held = names.held(node)
    return bool(OTHER.search(ast.unparse(node) + ast.unparse(held)))


def _is_best(node: ast.expr) -> bool:
    """Whether an expression puts a path together that ends in a name with "best"."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(FILE.search(node.value)) and "." in node.value
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return isinstance(node.right, ast.Constant) and bool(FILE.search(str(node.right.value)))
    if isinstance(node, ast.Call) and dotted(node.func).endswith("path.join") and node.args:
        return isinstance(node.args[-1], ast.Constant) and bool(FILE.search(str(node.args[-1].value)))
    if isinstance(node, ast.JoinedStr) and node.values:
        return isinstance(node.values[-1], ast.Constant) and bool(FILE.search(str(node.values[-1].value)))
    return isinstance(node, ast.Attribute) and bool(re.search(r"best_?(path|file|ckpt|checkpoint)$", node.attr))


def _speaks(test: ast.expr) -> bool:
    """Whether a condition asks for the best, and not whether it is there."""
    asks = [node for node in ast.walk(test) if isinstance(node, ast.Call) and THERE.search(ast.unparse(node.func))]
    there = {id(part) for node in asks for part in ast.walk(node)}
    texts = [part for part in ast.walk(test) if id(part) not in there]
    return any(BEST.search(str(part.value) if isinstance(part, ast.Constant) else dotted(part)) for part in texts)


def _last_of(reader: Listings, place: Place) -> Iterator[tuple[Listed, ast.expr]]:
    """The lists of which a function takes the last."""
    names = place.names
    for node in place.nodes:
        listed = None
        if isinstance(node, ast.Subscript) and ast.unparse(node.slice) in ("-1", "0"):
            turned = _is_turned(node.value, names, place)
            if turned == (ast.unparse(node.slice) == "0"):
                listed = reader.listed(node.value, place, names)
        elif isinstance(node, ast.Call) and dotted(node.func) == "max" and node.args:
            keys = [ast.unparse(word.value) for word in node.keywords if word.arg == "key"]
            inside = reader.listed(node.args[0], place, names)
            listed = inside and sorted_by(inside, keys[0] if keys else "str")
        if listed is not None and isinstance(node, ast.expr):
            yield Listed(listed.folder, listed.patterns, listed.by_name, listed.node, place), node


def _is_turned(node: ast.expr, names: Names, place: Place) -> bool:
    """Whether a list is sorted from the last to the first."""
    calls = [part for part in ast.walk(names.held(node)) if isinstance(part, ast.Call)]
    own = (part for part in place.nodes if isinstance(part, ast.Call))
    calls += [call for call in own if dotted(call.func).endswith(".sort")]
    words = [word for call in calls for word in call.keywords if word.arg == "reverse"]
    return any(is_true(word.value) for word in words)


def _may_be(listed: Listed, best: Written, paths: list[tuple[Written, ast.expr]]) -> bool:
    """Whether the last of files that are listed may be the best."""
    name = best.name.replace("*", "1")
    if not BEST.search(name) or not listed.folder & best.folder or not fits(name, listed.patterns):
        return False
    others = [path.name for path, _ in paths if not BEST.search(path.name) and listed.folder & path.folder]
    others = [other.replace("*", "1") for other in others]
    others = [other for other in others if fits(other, listed.patterns)]
    return bool(others) and (not listed.by_name or any(name > other for other in others))


def _finding(place: Place, node: ast.expr, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() {told}: a run is resumed from its best, which is not where it was stopped; "
        "allowed: none",
        culprit=place.file.at(node, place.name),
        fix="resume from the numbered files, or from the last",
    )

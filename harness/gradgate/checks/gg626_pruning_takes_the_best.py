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
deletes them; the list may be another function's. Its pattern is the one that is written down, together with
`endswith`, `startswith`, `suffix ==` and `in` as conditions. The best is a path whose last part is a text with "best"
in it, also where an argument is filled in. It is a finding where the pattern fits that name, both are in the folder
that is written alike, or is given alike, and

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
from collections.abc import Iterator

from gradgate.checks.source.best_pointers import DELETES, Pointer, is_known, pointers
from gradgate.checks.source.listed_files import BEST, LISTS, Listed, Listings, Written, is_taken
from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.trainer import called_name, calls_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG626", "pruning-takes-the-best"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold what is deleted against the name of the best."""
    return read_as_one(subject, [DELETES, LISTS, ("best",)], _of_all, "lists")


def _of_all(own: Places) -> Iterator[Finding]:
    yield from map(_of_pointer, pointers(own))
    reader = Listings(own)
    pruned = [listed for place in own.functions if place.file.has(*DELETES) for listed in _pruned(reader, place)]
    paths = [found for place in own.functions for found in reader.paths(place)] if pruned else []
    seen: set[int] = set()
    for listed in pruned:
        for path, node in paths:
            if BEST.search(path.name) and id(listed.node) not in seen and is_taken(listed, path, paths):
                seen.add(id(listed.node))
                yield _finding(listed, path, node)


def _pruned(reader: Listings, place: Place) -> Iterator[Listed]:
    """The lists of which a function deletes some."""
    names = place.names
    for loop in (node for node in place.nodes if isinstance(node, ast.For | ast.While)):
        deleted = [call for call in calls_in(loop) if called_name(call) in DELETES]
        if not deleted or any(isinstance(node, ast.If) and not is_known(node.test) for node in ast.walk(loop)):
            continue
        if isinstance(loop, ast.For):
            taken: list[ast.expr] = [loop.iter]
        else:
            popped = (call.func for call in calls_in(loop))
            taken = [func.value for func in popped if isinstance(func, ast.Attribute) and func.attr == "pop"]
        for part in taken:
            some = isinstance(loop, ast.While) or any(isinstance(one, ast.Slice) for one in names.parts(part))
            if some and (listed := reader.listed(part, place, names)) is not None:
                yield listed


def _finding(listed: Listed, best: Written, node: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{listed.place.name}() lists what is deleted when it is old by `{ast.unparse(listed.node)}`, and "
            f"`{ast.unparse(node)}` is among it as `{best.name}`; allowed: no name of the best"
        ),
        culprit=listed.place.file.at(listed.node, listed.place.name),
        fix="list the numbered files alone, or keep the best in a folder of its own",
    )


def _of_pointer(noted: Pointer) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{noted.place.name}() notes `{noted.name}` as the best, and {noted.pruning.function.name}() "
            f"deletes what fits `{noted.pattern}` when it is old, without a look at that; allowed: none that is noted"
        ),
        culprit=noted.place.file.at(noted.node, noted.place.name),
        fix="leave out the file that is noted as the best, or keep a copy of it under a name of its own",
    )

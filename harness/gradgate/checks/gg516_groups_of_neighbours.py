"""`itertools.groupby` groups neighbours, and its rows are not in the order of what they are grouped by.

## What it detects

`for problem, group in groupby(rows, key=lambda row: row.problem)` over rows as they were read, or shuffled.

## Why it matters

A group is as long as the key stays the same. Of shuffled rows nearly each is a group of its own: a baseline over the
attempts at one problem is the attempt's own reward and the advantage 0, a mapping by key holds the last group alone.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are calls of
`groupby` with a key whose rows are not sorted: not by `sorted(...)`, by a `.sort(...)` of them in the function, by
`order_by` or `sort_values`, nor by a name, a function or a text beside it that says so; a parameter is followed to what
the calls of its function give. Groups that are counted as they follow one another, without a key, are run lengths.

Statistic: such calls; allowed: 0. A warning: a file may be in that order.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for problem, group in groupby(rows, key=attrgetter("problem")):
    means[problem] = mean(row.score for row in group)
```

Good:

```python
for problem, group in groupby(sorted(rows, key=attrgetter("problem")), key=attrgetter("problem")):
    means[problem] = mean(row.score for row in group)
```

## How to fix

Sort by the same key, or collect in a dictionary of lists.

## Known limits

Whether the rows are sorted where they are read is not known.

## Sources

Python's documentation of `itertools.groupby`: the iterable needs to be sorted on the same key function.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, called_name, calls_in, dotted, given_for
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG516", "groups-of-neighbours"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SORTED = re.compile(r"sort|order|consecutive|contiguous|neighbo|adjacent|\bruns?\b|run_length|by_line", re.IGNORECASE)
BESIDE = 2  # lines in front of a call whose text counts


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for groups of rows in any order."""
    return read_place_by_place(subject, _asks, _found, "groups_of_neighbours", tops=True)


def _asks(file: File) -> bool:
    return file.has("groupby(") and file.has("itertools")


def _found(place: Place, places: Places) -> Iterator[Finding]:
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        if dotted(call.func) not in ("groupby", "itertools.groupby", "it.groupby") or len(call.args) == 0:
            continue
        if given_for(call, "key", 1) is None or _is_sorted(call.args[0], place, places) or _is_said(call, place):
            continue
        rows = ast.unparse(call.args[0])
        text = f"groupby() of `{rows}` groups neighbours, and nothing sorts them by its key; allowed: sorted rows"
        fix = "sort by the same key, or collect in a dictionary of lists"
        yield Finding(CODE, NAME, text, severity="warning", culprit=place.file.at(call, place.name), fix=fix)


def _is_said(call: ast.Call, place: Place) -> bool:
    """Whether the function's name or text, or a line beside the call, says that the rows are in order."""
    doc = ast.get_docstring(place.function) or "" if not place.is_top else ""
    beside = place.file.lines[max(0, call.lineno - 1 - BESIDE) : call.lineno - 1]
    comments = (line.partition("#")[2] for line in beside)
    return any(map(SORTED.search, (place.name, doc, *comments)))


def _is_sorted(rows: ast.expr, place: Place, places: Places, hops: int = 3) -> bool:
    held = place.names.held(rows)
    texts = ast.unparse(rows), ast.unparse(held)
    if any(map(SORTED.search, texts)):
        return True
    calls = (call for node in place.nodes if isinstance(node, ast.Expr) for call in calls_in(node))
    if any(called_name(call) == "sort" and dotted(call.func) == f"{texts[0]}.sort" for call in calls):
        return True
    if isinstance(held, ast.Call) and hops:
        made = places.called(held, place)
        return made is not None and any(_is_sorted(value, made, places, hops - 1) for value in made.returned)
    given = list(places.values_given(place, held.id)) if isinstance(held, ast.Name) and hops else []
    return any(_is_sorted(value, caller, places, hops - 1) for caller, value in given)

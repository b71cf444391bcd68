"""An answer counts as right where it stands anywhere in a text.

## What it detects

A reward, or an accuracy, by `answer in completion`, or `completion.find(answer) >= 0`.

## Why it matters

"9" stands in "19", and in every step of a calculation. The reward is 1 for wrong completions, above all for long ones
that name many numbers, and the policy learns to name many.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings, as warnings, are
`in`, `find`, `count` and `__contains__` that look for what is called after an answer (answer, gold, solution, expected,
target) in what is called after a text (completion, response, output, text, generation), in functions that are called
after rewarding, grading, verifying or being right. Not so where that text was taken apart (`split`, a regular
expression, the end behind a mark), or the answer is put between marks.

Statistic: such questions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones. Who looks for long phrases on purpose is warned.

## Example

Bad:

```python
return 1.0 if record.answer in record.completion else 0.0
```

Good:

```python
found = re.findall(r"-?\\d+", record.completion)
return float(bool(found) and found[-1] == record.answer)
```

## How to fix

Take the answer out of the text, and compare the two as wholes.

## Known limits

Answers and texts that go by other names are not known.

## Sources

A reward fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source_places import Place, places_in
from gradgate.checks.source_values import last_name
from gradgate.checks.trainer_source import NONE, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG486", "answer-found-anywhere"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
ANSWER = re.compile(r"(^|_)(answer|gold|solution|expected|ground_truth|target)$", re.IGNORECASE)
TEXT = re.compile(
    r"(^|_)(completion|response|output|generation|generated|decoded|prediction|(?<!answer_)text)$", re.IGNORECASE
)
JUDGES = re.compile(r"reward|grade|verif|score|correct|right|accura|is_match|judge", re.IGNORECASE)
FORMS = ("strip", "lower", "casefold", "rstrip", "lstrip", "upper")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for answers that are looked for anywhere in a text."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    known = [file for file in files if file.has(" in ", ".find(", ".count(")]
    found = [finding for place in (places_in(files).functions if known else ()) if place.file in known
             for finding in _of_place(place)]  # fmt: skip
    return Outcome(tuple(found), {"questions": len(found)}, {"questions": 0})


def _of_place(place: Place) -> Iterator[Finding]:
    words = [place.name, place.owner.name if place.owner is not None else "", place.file.path.stem]
    if not any(map(JUDGES.search, words)):
        return
    for node in place.nodes:
        asked = _asked(node)
        if (
            asked is not None
            and isinstance(node, ast.expr)
            and _is(ANSWER, asked[0], place)
            and _is(TEXT, asked[1], place)
        ):
            yield _finding(place, node, *asked)


def _asked(node: ast.AST) -> tuple[ast.expr, ast.expr] | None:
    """What is looked for, and in what."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.In):
        return node.left, node.comparators[0]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
        return (node.args[0], node.func.value) if node.func.attr in ("find", "count", "__contains__") else None
    return None


def _is(called: re.Pattern[str], node: ast.expr, place: Place, hops: int = 4) -> bool:
    """Whether something goes by such a name, and is nothing that was taken out of it."""
    if isinstance(node, ast.Call):
        method = node.func
        if isinstance(method, ast.Attribute) and method.attr in FORMS:
            return _is(called, method.value, place, hops)
        is_text = isinstance(method, ast.Name) and method.id == "str" and len(node.args) == 1
        return is_text and _is(called, node.args[0], place, hops)
    held = place.names.held(node)
    if held is not node and hops:
        return _is(called, held, place, hops - 1)
    is_name = isinstance(node, ast.Name | ast.Attribute | ast.Subscript)
    return is_name and bool(called.search(last_name(node)))


def _finding(place: Place, node: ast.expr, answer: ast.expr, text: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() looks for `{ast.unparse(answer)}` anywhere in `{ast.unparse(text)}`: 9 stands in 19; "
        "allowed: a comparison of the two answers",
        severity="warning",
        culprit=place.file.at(node, place.name),
        fix="take the answer out of the text, and compare the two as wholes",
    )

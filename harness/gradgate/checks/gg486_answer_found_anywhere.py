"""An answer counts as right where it stands anywhere in a text.

## What it detects

A reward, or an accuracy, by `answer in completion`, `completion.find(answer) >= 0` or `completion.endswith(answer)`.

## Why it matters

"9" stands in "19", at its end, too, and in every step of a calculation. The reward is 1 for wrong completions, above
all for long ones that name many numbers, and the policy learns to name many.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings, as warnings, are
`in`, `find`, `index`, `count`, `re.search`, `endswith`, `startswith` and a slice as long as the answer that look for
what is called after an answer (answer, gold, solution, expected, target) in what is called after a text (completion,
response, output, text, generation), or where one begins with the other, in functions that are called after rewarding,
grading, verifying or being right. Not so where that text was taken apart (`split`, a regular expression, the end behind
a mark), the answer is put between marks, or the function asks what a letter beside it is (`isdigit`).

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
from typing import TypeGuard

from gradgate.checks.source.places import Place, read_place_by_place
from gradgate.checks.source.trainer import dotted
from gradgate.checks.source.values import last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG486", "answer-found-anywhere"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
ANSWER = re.compile(r"(^|_)(answer|gold|solution|expected|truth|target)$", re.IGNORECASE)
TEXT = re.compile(
    r"(^|_)(completion|response|output|generation|generated|decoded|pred|prediction|reply|candidate|(?<!answer_)text)$",
    re.IGNORECASE,
)
JUDGES = re.compile(r"reward|grade|verif|score|correct|right|accura|is_match|judge", re.IGNORECASE)
ENDS = ("startswith", "endswith")
BESIDE = ("isdigit", "isalnum", "isspace", "isdecimal", "isnumeric", "isalpha")
FORMS = ("strip", "lower", "casefold", "rstrip", "lstrip", "upper")


ASKS = (" in ", "find(", "index(", ".count(", "contains", "re.search", "swith(", "[:", "[-len")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for answers that are looked for anywhere in a text."""
    return read_place_by_place(subject, lambda file: file.has(*ASKS), lambda place, _: _of_place(place), "questions")


def _of_place(place: Place) -> Iterator[Finding]:
    words = [place.name, place.owner.name if place.owner is not None else "", place.file.path.stem]
    if not any(map(JUDGES.search, words)):
        return
    if any(isinstance(node, ast.Attribute) and node.attr in BESIDE for node in place.nodes):
        return
    for node in place.nodes:
        for answer, text in _asked(node):
            if isinstance(node, ast.expr) and _is(ANSWER, answer, place) and _is(TEXT, text, place):
                yield _finding(place, node, answer, text)


def _asked(node: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What is looked for, and in what."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        left, right = node.left, node.comparators[0]
        if isinstance(node.ops[0], ast.In):
            yield left, right
        elif isinstance(node.ops[0], ast.Eq | ast.NotEq):
            yield from ((whole, part.value) for whole, part in ((left, right), (right, left)) if _is_end(part, whole))
    elif isinstance(node, ast.Call) and dotted(node.func) in ("re.search", "operator.contains") and len(node.args) == 2:
        first, second = node.args
        if dotted(node.func) == "operator.contains":
            yield second, first
        elif isinstance(first, ast.Call) and dotted(first.func) == "re.escape":
            yield from ((each, second) for each in first.args)
        else:
            yield first, second
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
        if node.func.attr in (*ENDS, "find", "rfind", "index", "count", "__contains__"):
            yield node.args[0], node.func.value
        if node.func.attr in ENDS:
            yield node.func.value, node.args[0]


def _is_end(part: ast.expr, whole: ast.expr) -> TypeGuard[ast.Subscript]:
    """Whether a part of a text is as long as another: `text[-len(answer):]`."""
    if not isinstance(part, ast.Subscript) or not isinstance(part.slice, ast.Slice):
        return False
    lengths = [each for each in ast.walk(part.slice) if isinstance(each, ast.Call) and dotted(each.func) == "len"]
    return any(each.args and ast.unparse(each.args[0]) == ast.unparse(whole) for each in lengths)


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
        message=f"{place.name}() looks for `{ast.unparse(answer)}` anywhere in `{ast.unparse(text)}`: "
        "9 stands in 19, and at its end; allowed: a comparison of the two answers",
        severity="warning",
        culprit=place.file.at(node, place.name),
        fix="take the answer out of the text, and compare the two as wholes",
    )

"""A file of rows is read up to its first blank line, and the rest is left out without a word.

## What it detects

`while line := f.readline().strip()`, and other loops that end where a line without its white space is empty, which a
blank line is as well as the end of the file.

## Why it matters

Files that were joined, or written by hand, have blank lines. Whatever stands behind the first one is never trained on,
or never evaluated, and nothing says so: the run has fewer rows, that is all.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, function by function. A
blank line is empty behind `strip`, `rstrip`, `removesuffix("\\n")` or `replace("\\n", "")`. Findings are:

* a `while` over what `readline` gives, or `next(file, "")`, once it is stripped: in the condition itself, by a name
  that holds it at the end of each turn, or by a function of the trainer's that returns it;
* `iter(lambda: f.readline().strip(), "")`;
* a loop that is left by `break` or `return` where such a line is empty; and, in functions that parse JSON, such a loop
  over the lines of a file, and `takewhile` over them.

Terminals and sockets (`stdin`, `stdout`, `input`), and files of several parts, whose handle is read on behind the loop
or in a loop around it, are clean. Statistic: such loops; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
line = f.readline().strip()
while line:
    rows.append(json.loads(line))
    line = f.readline().strip()
```

Good:

```python
for line in f:
    if line.strip():
        rows.append(json.loads(line))
```

## How to fix

Run over the file itself, and pass over blank lines.

## Known limits

Loops over lines of other formats than JSON may end at a blank line by intent, and are not looked at.

## Sources

The JSON Lines format, whose readers pass over empty lines: pandas' `read_json(lines=True)`, datasets' `json` loader.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, called_name, calls_in, dotted
from gradgate.checks.source.values import assignments_in, contains, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG467", "stops-at-blank-line"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LIVE = re.compile(r"stdin|stdout|stderr|socket|\bsock\b|pipe|proc|serial|conn", re.IGNORECASE)
STRIPS = ("strip", "rstrip", "lstrip")
CUTS = ("removesuffix", "replace")
PARSES = ("loads", "literal_eval", "raw_decode", "model_validate_json", "parse_raw")
FIX = "run over the file itself, and pass over blank lines"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for loops over a file that a blank line ends."""
    return read_place_by_place(subject, _may_read, _of_place, "loops", tops=True)


def _may_read(file: File) -> bool:
    reads = file.has("readline(", "readline,", "next(", "loads(", "takewhile")
    return reads and file.has("strip", "removesuffix", "replace(")


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    parses = any(isinstance(node, ast.Call) and called_name(node) in PARSES for node in place.nodes)
    for node in place.nodes:
        ends = None
        if isinstance(node, ast.While):
            ends = _condition(node, place, places) or _leaves(node, place, places)
        elif isinstance(node, ast.For) and parses:
            ends = _leaves(node, place, places)
        elif isinstance(node, ast.Call):
            ends = _sentinel(node, place, places) or (_taken(node) if parses else None)
        if ends is not None and not _goes_on(node, place):
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{place.name or 'the file'}{'()' if place.name else ''} ends its loop over a file on "
                f"`{ast.unparse(ends)}`, which holds at a blank line as well: what stands behind it is never read; "
                "allowed: at the end of the file alone",
                culprit=place.file.at(ends, place.name),
                fix=FIX,
            )


def _condition(loop: ast.While, place: Place, places: Places) -> ast.expr | None:
    """The condition of a loop, where it is that a stripped line is not empty."""
    asked = _not_empty(loop.test)
    if asked is None:
        return None
    if isinstance(asked, ast.NamedExpr):
        return loop.test if _is_stripped(asked.value, place, places) else None
    if isinstance(asked, ast.Call):
        return loop.test if _is_stripped(asked, place, places) and _reads_on(asked, loop, place) else None
    inside = [value for target, value in assignments_in(ast.walk(loop)) if dotted(target) == dotted(asked)]
    last = max(inside, key=lambda value: value.lineno, default=None)
    return loop.test if last is not None and dotted(asked) and _is_stripped(last, place, places) else None


def _reads_on(asked: ast.Call, loop: ast.While, place: Place) -> bool:
    """Whether what a condition strips is a line that each turn reads anew."""
    names = {part.id for part in ast.walk(asked) if isinstance(part, ast.Name)}
    turns = [(dotted(target), value) for target, value in assignments_in(ast.walk(loop))]
    return any(name in names and _is_line(value, place) for name, value in turns)


def _leaves(loop: ast.For | ast.While, place: Place, places: Places) -> ast.expr | None:
    """The condition under which a loop is left, where it is that a stripped line is empty."""
    over = (
        {part.id for part in ast.walk(loop.target) if isinstance(part, ast.Name)}
        if isinstance(loop, ast.For)
        else set()
    )
    lines = _over_lines(loop) if isinstance(loop, ast.For) else False
    for node in loop.body:
        if not isinstance(node, ast.If) or not isinstance(node.body[-1], ast.Break | ast.Return):
            continue
        asked = _empty(node.test)
        if asked is None:
            continue
        asked = asked.value if isinstance(asked, ast.NamedExpr) else asked
        if _is_stripped(asked, place, places, over if lines else set()):
            return node.test
    return None


def _over_lines(loop: ast.For) -> bool:
    """Whether a loop runs over the lines of something, or over what nothing is called of."""
    calls = {called_name(call) for call in calls_in(loop.iter)}
    known = {
        "enumerate",
        "open",
        "splitlines",
        "split",
        "read",
        "read_text",
        "readlines",
        "islice",
        "tqdm",
        "Path",
        "map",
    }
    return calls <= known


def _sentinel(call: ast.Call, place: Place, places: Places) -> ast.expr | None:
    """`iter` of what gives a stripped line, up to an empty one."""
    if dotted(call.func) != "iter" or len(call.args) != 2 or not _is_nothing(call.args[1]):
        return None
    gives = call.args[0]
    if isinstance(gives, ast.Lambda):
        return call if _is_stripped(gives.body, place, places) else None
    return call if isinstance(gives, ast.Attribute) and gives.attr in STRIPS and _has_line(gives, place) else None


def _taken(call: ast.Call) -> ast.expr | None:
    """`takewhile` of lines that are not blank."""
    if called_name(call) != "takewhile" or len(call.args) != 2:
        return None
    test, lines = call.args
    written = ast.unparse(test)
    strips = isinstance(test, ast.Lambda) and any(called_name(each) in STRIPS for each in calls_in(test.body))
    stripped = written in ("bool", "len", "None") and "strip" in ast.unparse(lines)
    return call if written in ("str.strip", "str.rstrip") or strips or stripped else None


def _not_empty(test: ast.expr) -> ast.expr | None:
    """What is asked whether it is not empty."""
    if isinstance(test, ast.Name | ast.NamedExpr | ast.Attribute):
        return test
    if isinstance(test, ast.Call):
        return test.args[0] if dotted(test.func) in ("len", "bool") and len(test.args) == 1 else test
    if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.NotEq | ast.Gt):
        return _asked(test)
    return None


def _empty(test: ast.expr) -> ast.expr | None:
    """What is asked whether it is empty."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _not_empty(test.operand)
    return _asked(test) if isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.Eq) else None


def _asked(test: ast.Compare) -> ast.expr | None:
    """What is compared with an empty text, or whose length is with 0."""
    left, right = test.left, test.comparators[0]
    if isinstance(left, ast.Call) and dotted(left.func) == "len" and len(left.args) == 1:
        return left.args[0] if isinstance(right, ast.Constant) and right.value == 0 else None
    return left if _is_nothing(right) else None


def _is_nothing(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value in ("", b"")


def _is_stripped(
    node: ast.expr, place: Place, places: Places, lines: set[str] | frozenset[str] = frozenset(), hops: int = 4
) -> bool:
    """Whether an expression is a line of a file without its end.

    Args:
        node: the expression.
        place: the function it stands in.
        places: the trainer's.
        lines: names of lines, as a loop gives them.
        hops: how many names and calls are followed.
    """
    if not hops:
        return False
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _cuts_the_end(node):
        return _is_line(node.func.value, place, lines)
    if isinstance(node, ast.Call) and (called := places.called(node, place)) is not None:
        given = [each.value for each in called.nodes if isinstance(each, ast.Return) and each.value is not None]
        return len(given) == 1 and _is_stripped(given[0], called, places, frozenset(), hops - 1)
    held = place.names.held(node)
    return held is not node and _is_stripped(held, place, places, lines, hops - 1)


def _cuts_the_end(call: ast.Call) -> bool:
    """Whether a call takes the end of its line from a text."""
    name = called_name(call)
    first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    ends = isinstance(first, str | bytes) and ("\n" if isinstance(first, str) else b"\n") in first  # type: ignore[operator]
    return (name in STRIPS and (not call.args or ends)) or (name in CUTS and ends)


def _is_line(node: ast.expr, place: Place, lines: set[str] | frozenset[str] = frozenset(), hops: int = 4) -> bool:
    """Whether an expression is a line, whatever its methods make of it."""
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr != "readline":
        node = node.func.value
    if isinstance(node, ast.Name) and node.id in lines:
        return True
    if isinstance(node, ast.Call):
        ends = dotted(node.func) == "next" and len(node.args) == 2 and _is_nothing(node.args[1])
        return (called_name(node) == "readline" or ends) and not LIVE.search(ast.unparse(node))
    held = place.names.held(node)
    return held is not node and hops > 0 and _is_line(held, place, lines, hops - 1)


def _has_line(node: ast.AST, place: Place) -> bool:
    return any(isinstance(part, ast.expr) and _is_line(part, place) for part in ast.walk(node))


def _goes_on(loop: ast.AST, place: Place) -> bool:
    """Whether a file has several parts: its handle is read behind a loop, or in a loop around it that does not open."""
    handles = {
        dotted(call.func.value)
        for call in calls_in(loop)
        if isinstance(call.func, ast.Attribute) and call.func.attr == "readline"
    }
    if isinstance(loop, ast.For) and dotted(loop.iter):
        handles.add(dotted(loop.iter))
    handles.discard("")
    end = getattr(loop, "end_lineno", 0)
    behind = (node for node in place.nodes if isinstance(node, ast.Call | ast.For) and node.lineno > end)
    for node in behind:
        read = node.iter if isinstance(node, ast.For) else node
        closes = isinstance(node, ast.Call) and called_name(node) == "close"
        if not closes and any(dotted(part) in handles for part in ast.walk(read)):
            return True
    around = [each for each in outwards(loop, parents_in(place.function)) if isinstance(each, ast.For | ast.While)]
    around = [each for each in around if not (isinstance(each, ast.For) and contains(each.iter, loop))]
    return any(not _opens(each, loop, handles) for each in around)


def _opens(around: ast.AST, loop: ast.AST, handles: set[str]) -> bool:
    """Whether a loop around another opens what that one reads."""
    for node in ast.walk(around):
        if isinstance(node, ast.withitem) and node.optional_vars is not None and dotted(node.optional_vars) in handles:
            return True
        if isinstance(node, ast.Assign) and dotted(node.targets[0]) in handles and not contains(loop, node):
            return True
        if isinstance(node, ast.Call) and called_name(node) == "open" and contains(loop, node):
            return True
    return False

"""A row is cut to its limit behind the end token that was appended to it, so that the end goes first.

## What it detects

`ids = [bos] + ids_of(text) + [eos]` and `return ids[:max_len]`; `tokenizer(text + tokenizer.eos_token,
truncation=True)`.

## Why it matters

Each row that is longer than the limit has no end. Where an end carries the reward, or the answer's last target, it is
gone, and the last token that is left takes its place; a model that is trained on long answers learns not to stop.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. What ends with an end token
is a sum or a list whose last part is called after one (`eos`, `end_id`), what has one appended (`append`, `extend`,
`+=`), and a text with one at its end; it is followed through names, arguments and what functions give back. A finding,
as a warning, is a slice of it up to a limit that is no number written down and no count of its own (`x[:max_len]`, `del
x[n:]`), or its encoding with `truncation=True`, in a function that neither puts an end behind it again, nor leaves out
rows that are longer, raises or tells. Statistic: such cuts; allowed: 0.

False-alarm rate: 0 where rows are to keep their end: where a cut row is to go on elsewhere, or a text is no answer, its
end may be left out on purpose.

## Example

Bad:

```python
ids = [bos] + tokens + [eos]
return ids[:max_len]
```

Good:

```python
return ([bos] + tokens)[: max_len - 1] + [eos]
```

## How to fix

Cut first, to the limit less one, and append the end behind that; or leave the row out.

## Known limits

Ends are known by their names. A prompt with a response that is cut is GG423's.

## Sources

A boundary fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.gg423_response_cut_silently import TELLS, cuts_in
from gradgate.checks.gg446_end_masked_as_padding import END
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, called_name, dotted
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG524", "end-cut-off"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
TAKES = ("append", "extend", "insert")
WRAPS = ("list", "tuple", "tensor", "as_tensor", "LongTensor", "cat", "array", "concatenate", "int")
JOINS = ("cat", "concatenate", "hstack", "concat")
GENERATES = re.compile(r"generat|decode|sampl|stop|packs?(_|$)|chunk|block|window|concat", re.IGNORECASE)
HOPS = 4


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for cuts behind what was appended."""
    return read_place_by_place(subject, _may_end, _of_place, "cuts")


def _may_end(file: File) -> bool:
    return file.has("[:", "[ :", "[0:", "del ", "truncation=")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    if GENERATES.search(place.name) or _tells(place):
        return
    for node in place.nodes:
        if isinstance(node, ast.Subscript) and _is_cut(node, place):
            cut: ast.expr | None = node.value
        elif isinstance(node, ast.Call) and _truncates(node):
            cut = node.args[0] if node.args else None
        else:
            continue
        if cut is None or not _ends(cut, place, own) or _is_mended(node, cut, place):
            continue
        if not any(each.culprit and each.culprit.line == node.lineno for each in cuts_in(place.file)):
            yield _finding(place, node)


def _tells(place: Place) -> bool:
    return any(
        isinstance(node, ast.Raise | ast.Assert)
        or (isinstance(node, ast.Call) and bool(TELLS.search(called_name(node))))
        or (isinstance(node, ast.If) and _leaves_out(node))
        for node in place.nodes
    )


def _leaves_out(node: ast.If) -> bool:
    """Whether a branch leaves out a row by its length."""
    leaves = any(isinstance(each, ast.Continue | ast.Return) for each in node.body) and len(node.body) < 3
    given = [each.value for each in node.body if isinstance(each, ast.Return)]
    cuts = any(isinstance(part, ast.Slice) for each in given if each is not None for part in ast.walk(each))
    return leaves and not cuts and isinstance(node.test, ast.Compare) and "len(" in ast.unparse(node.test)


def _is_cut(node: ast.Subscript, place: Place) -> bool:
    """Whether a slice goes up to a limit that is given, from the first on."""
    if not isinstance(node.slice, ast.Slice) or node.slice.step is not None:
        return False
    lower, upper = node.slice.lower, node.slice.upper
    if isinstance(node.ctx, ast.Del):
        lower, upper = upper, lower
    if upper is None or (lower is not None and ast.unparse(lower) != "0") or not isinstance(upper, ast.expr):
        return False
    held = place.names.held(upper)
    counts = any(called_name(part) in ("len", "index", "find") for part in ast.walk(held))
    loops = {dotted(part) for each in place.nodes if isinstance(each, ast.For | ast.comprehension)
             for part in ast.walk(each.target)}  # fmt: skip
    return bool(dotted(upper)) and not counts and dotted(upper) not in loops


def _truncates(call: ast.Call) -> bool:
    cut = next((word.value for word in call.keywords if word.arg == "truncation"), None)
    return isinstance(cut, ast.Constant) and cut.value is True


def _is_end(node: ast.AST, place: Place) -> bool:
    """Whether something is called after an end, or is one of such."""
    if isinstance(node, ast.List | ast.Tuple):
        return bool(node.elts) and _is_end(node.elts[-1], place)
    if isinstance(node, ast.Starred):
        return False
    if isinstance(node, ast.Call) and called_name(node) in WRAPS and node.args:
        return _is_end(node.args[-1], place)
    if isinstance(node, ast.Subscript) and END.search(str(getattr(node.slice, "value", "")).strip("<>[]|/")):
        return True
    named = bool(END.search(last_name(node)))
    held = place.names.held(node) if isinstance(node, ast.Name) and not named else node
    return named or (held is not node and isinstance(held, ast.List | ast.Attribute) and _is_end(held, place))


def _ends(node: ast.expr, place: Place, own: Places, hops: int = HOPS) -> bool:
    """Whether the last of something is an end."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _is_end(node.right, place) or (hops > 0 and _ends(node.right, place, own, hops - 1))
    if isinstance(node, ast.List | ast.Tuple):
        return len(node.elts) > 1 and _is_end(node.elts[-1], place) and _goes_on(node)
    if isinstance(node, ast.JoinedStr):
        last = node.values[-1] if node.values else node
        return isinstance(last, ast.FormattedValue) and _is_end(last.value, place)
    if not hops:
        return False
    if isinstance(node, ast.IfExp):
        return any(_ends(each, place, own, hops - 1) for each in (node.body, node.orelse))
    if isinstance(node, ast.Call):
        if called_name(node) in JOINS and node.args and isinstance(node.args[0], ast.List | ast.Tuple):
            return bool(node.args[0].elts) and _is_end(node.args[0].elts[-1], place)
        if called_name(node) in WRAPS and node.args:
            return _ends(node.args[0], place, own, hops - 1)
        called = own.called(node, place)
        given = called.returned if called is not None and called is not place else ()
        return called is not None and any(_ends(each, called, own, hops - 1) for each in given)
    if isinstance(node, ast.Name):
        held = place.names.held(node)
        since = held.lineno if held is not node else 0
        if _last_put(node, since, place):
            return True
        if held is not node:
            return _ends(held, place, own, hops - 1)
        if node.id in place.parameters:
            return any(_ends(value, at, own, hops - 1) for at, value in own.values_given(place, node.id))
    return False


def _goes_on(node: ast.List | ast.Tuple) -> bool:
    return any(isinstance(each, ast.Starred) for each in node.elts)


def _last_put(name: ast.Name, since: int, place: Place) -> bool:
    """Whether what was put last into a list, before a line, is an end."""
    last: tuple[int, ast.expr] | None = None
    for node in place.nodes:
        put = None
        if isinstance(node, ast.AugAssign) and dotted(node.target) == name.id and isinstance(node.op, ast.Add):
            put = node.value
        elif (
            isinstance(node, ast.Call)
            and called_name(node) in TAKES
            and node.args
            and isinstance(node.func, ast.Attribute)
        ):
            first = isinstance(node.args[0], ast.Constant) and called_name(node) == "insert"
            put = node.args[-1] if dotted(node.func.value) == name.id and not first else None
        if put is not None and since <= put.lineno < name.lineno and (last is None or put.lineno > last[0]):
            last = (put.lineno, put)
    return last is not None and _is_end(last[1], place)


def _is_mended(node: ast.AST, cut: ast.expr, place: Place) -> bool:
    """Whether an end is put behind what was cut, or in the place of its last."""
    whole = [each for each in place.nodes if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Add)]
    if any(any(part is node for part in ast.walk(each.left)) and _is_end(each.right, place) for each in whole):
        return True
    names = {dotted(cut)} | {dotted(target) for target, value in assignments_in(place.nodes) if value is node}
    for target, value in assignments_in(place.nodes):
        puts = isinstance(target, ast.Subscript) and dotted(target.value) in names - {""} and _is_end(value, place)
        adds = isinstance(value, ast.BinOp) and dotted(value.left) in names - {""} and _is_end(value.right, place)
        if (puts or adds) and value.lineno > node.lineno:  # type: ignore[attr-defined]
            return True
    return any(
        isinstance(each, ast.Call)
        and called_name(each) in TAKES
        and isinstance(each.func, ast.Attribute)
        and dotted(each.func.value) in names - {""}
        and each.lineno > node.lineno  # type: ignore[attr-defined]
        for each in place.nodes
    )


def _finding(place: Place, node: ast.AST) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=f"{place.name}() cuts by `{ast.unparse(node)}` what ends with an end token: a long row loses it; "
        "allowed: none",
        culprit=place.file.at(node, place.name),
        fix="cut to the limit less one, and append the end behind that",
    )

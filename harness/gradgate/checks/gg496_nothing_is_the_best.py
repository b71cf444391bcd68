"""An evaluation of no batches gives 0, or NaN, for a loss whose smallest is kept as the best.

## What it detects

`return total / max(count, 1)` or `sum(losses) / len(losses) if losses else 0.0` of an evaluation, where its caller asks
`if val_loss < best`.

## Why it matters

A held-out set that is smaller than a batch, a filter that leaves no row, a share that rounds to no row: the first
evaluation says 0.0, and no loss is ever below it. The weights of that moment stay the best, patience runs out, and the
log shows a perfect score. A mean of an empty list of NumPy or PyTorch is NaN, below which nothing is, either, and which
is below nothing: there is no best at all.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are scores of
which the smaller is kept as a best (GG627 says how that is read). They are followed through names, parts of tuples,
keys, fields, arguments and calls of the trainer's functions to what these give back. Findings are

* a sum, which the function raises or takes, over what cannot be 0: `max(n, 1)`, `clamp(min=1)`, `n or 1`, `n + 1e-8`;
* a `0` beside such a mean: `x if n else 0.0`, `return 0.0`, or a name that holds one or the other;
* a mean of a list by NumPy, or of a tensor that is made of one.

None is what an error, an assertion or another value than 0 (infinity, `None`) refuses in the same function, what is
drawn in a loop over a `range`, a comparison that also asks for a count, and any trainer that asks whether its held-out
rows are empty, or makes them one at least (`max(1, ...)`). Statistic: such scores; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def evaluate(model, loader):
    ...
    return total / max(count, 1)

if (val_loss := evaluate(model, held_out)) < best:
```

Good:

```python
    if count == 0:
        raise ValueError("the held-out set has no tokens")
    return total / count
```

## How to fix

Refuse an empty held-out set where it is made, or give infinity, and no score that wins.

## Known limits

A score of which the larger is better begins with 0 rightly and is not looked at. A count that is an argument of another
library's meter is not followed.

## Sources

GG422's fix, "a number for it": that number must not be the best one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.compared_bests import Compared, compared_bests
from gradgate.checks.source.evaluation_names import EVALUATION
from gradgate.checks.source.given_scores import Given
from gradgate.checks.source.origins import Origin, Origins, loops_over_data
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of, nodes_in
from gradgate.checks.source.values import OTHERS, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG496", "nothing-is-the-best"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
NUMBERS = ("np.mean", "numpy.mean", "np.nanmean", "numpy.nanmean", "torch.mean", "np.average", "numpy.average")
MADE = ("tensor", "as_tensor", "array", "asarray", "FloatTensor")
COUNT = re.compile(
    r"count|num|(?<![a-z])n(?![a-z])|tok|rows|total|seen|len|batches|examples|samples|weight|size", re.IGNORECASE
)
FIX = "refuse an empty held-out set, or give infinity for it"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Follow each score whose smallest is the best to what gives it."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    asks = [file for file in files if file.has("best")]
    found = list(_findings(asks, files)) if asks and not any(map(_asks_for_rows, files)) else []
    return Outcome(tuple(found), {"scores": len(found)}, {"scores": 0})


def _findings(asks: Sequence[File], files: tuple[File, ...]) -> Iterator[Finding]:
    own, given = places_in(files), Given(files)
    origins, told = Origins(own, given), set[int]()
    for place in (place for place in own.functions if place.file in asks):
        for one in compared_bests(place.function, given):
            if one.sign != "<" or isinstance(one.score, ast.UnaryOp) or _asks_for_a_count(one, place):
                continue
            found = list(origins.of(one.score, place))
            for origin in found:
                if id(origin.node) not in told and (what := _of_nothing(origin, found, own)):
                    told |= set(map(id, ast.walk(origin.node)))
                    yield _finding(origin, what, place)


def _of_nothing(origin: Origin, found: Sequence[Origin], own: Places) -> str:
    """What an expression is where there was nothing to go over; empty: not known, or refused."""
    node, place = origin.node, origin.place
    if not loops_over_data(place) or _refuses(place):
        return ""
    if isinstance(node, ast.Call) and _is_of_list(node, place):
        return "NaN"
    if isinstance(node, ast.IfExp):
        zero = [part for part in (node.body, node.orelse) if _is_zero(part)]
        return "0" if zero and (COUNT.search(ast.unparse(node.test)) or _tests_list(node.test)) else ""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return "0" if _never_0(node.right, place) and _is_sum(node.left, place, own) else ""
    if _is_zero(node) and (
        origin.by_name or any(part is node for part in place.returned) or _is_in_return(node, place)
    ):
        means = (one.node for one in found if one.place is place and one.node is not node)
        is_beside = any(isinstance(one, ast.BinOp) and isinstance(one.op, ast.Div) for one in means)
        return "0" if is_beside else ""
    return ""


def _is_in_return(node: ast.expr, place: Place) -> bool:
    return any(part is node for value in place.returned for part in ast.walk(value))


def _is_zero(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and called_name(node) in (*MADE, "float") and node.args:
        return _is_zero(node.args[0])
    return isinstance(node, ast.Constant) and node.value == 0 and not isinstance(node.value, bool)


def _tests_list(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) or (isinstance(test, ast.UnaryOp) and isinstance(test.operand, ast.Name))


def _never_0(below: ast.expr, place: Place) -> bool:
    """Whether a number that something is divided by has a least one that is no count."""
    for part in (below, place.names.held(below)):
        while isinstance(part, ast.Call) and called_name(part) in ("item", "float") and not part.keywords:
            inner = part.func.value if isinstance(part.func, ast.Attribute) else next(iter(part.args), None)
            if inner is None:
                break
            part = inner
        if isinstance(part, ast.Call):
            least = [*part.args, *(word.value for word in part.keywords if word.arg == "min")]
            if called_name(part) in ("max", "maximum", "clamp", "clamp_min", "clip", "clamp_") and any(
                map(_is_small, least)
            ):
                return True
        if isinstance(part, ast.BoolOp) and isinstance(part.op, ast.Or) and _is_small(part.values[-1]):
            return True
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add):
            return any(_is_small(side) and ast.unparse(side) != "1" for side in (part.left, part.right))
    return False


def _is_small(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and called_name(node) in (*MADE, "float") and node.args:
        return _is_small(node.args[0])
    if isinstance(node, ast.Name | ast.Attribute):
        return last_name(node).lower() in ("eps", "epsilon", "tiny")
    value = node.value if isinstance(node, ast.Constant) else None
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def _is_sum(above: ast.expr, place: Place, own: Places) -> bool:
    """Whether a number is added up: in its function, in a method of its class, or by `sum`."""
    for part in ast.walk(above):
        if isinstance(part, ast.Call) and called_name(part) in ("sum", "fsum"):
            return True
    names = {
        ast.unparse(part) for part in ast.walk(above) if isinstance(part, ast.Name | ast.Attribute | ast.Subscript)
    }
    held = place.names.held(above)
    if held is not above and isinstance(held, ast.Call) and called_name(held) in ("sum", "fsum"):
        return True
    where = [place]
    if place.owner is not None and any(name.startswith("self.") for name in names):
        where += own.methods_of(place.owner)
    return any(name in names for each in where for name in _added_to(each))


def _added_to(place: Place) -> Iterator[str]:
    for node in place.nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            yield ast.unparse(node.target)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Add):
            name = ast.unparse(node.targets[0])
            if name in (ast.unparse(node.value.left), ast.unparse(node.value.right)):
                yield name


def _is_of_list(node: ast.Call, place: Place) -> bool:
    """Whether a call takes the mean of a list, which is NaN of none."""
    if dotted(node.func) in NUMBERS:
        of = next(iter(node.args), None)
    elif called_name(node) == "mean" and isinstance(node.func, ast.Attribute) and not node.args:
        of = node.func.value
    else:
        return False
    made = isinstance(of, ast.Call) and called_name(of) in MADE and bool(of.args)
    if dotted(node.func).startswith(("np.", "numpy.")) or made:
        inner = of.args[0] if made and isinstance(of, ast.Call) else of
        held = place.names.held(inner) if inner is not None else None
        return isinstance(held, ast.ListComp) or (isinstance(held, ast.List) and not held.elts)
    return False


def _refuses(place: Place) -> bool:
    """Whether a function raises where it has nothing, or gives something else than a 0."""
    for node in place.nodes:
        if isinstance(node, ast.Assert):
            return True
        if isinstance(node, ast.If):
            for part in nodes_in(node.body, *OTHERS):
                if isinstance(part, ast.Raise):
                    return True
                if isinstance(part, ast.Return) and (part.value is None or _is_no_number(part.value)):
                    return True
        if isinstance(node, ast.IfExp) and any(map(_is_no_number, (node.body, node.orelse))):
            return True
    return False


def _is_no_number(value: ast.expr) -> bool:
    """Whether a value is `None`, infinite or NaN, or holds one."""
    texts = (ast.unparse(part).lower() for part in ast.walk(value) if isinstance(part, ast.Constant | ast.Attribute))
    return any(re.fullmatch(r"none|'[+-]?(inf|infinity|nan)'|(math|np|numpy|torch)\.(inf|nan)", text) for text in texts)


def _asks_for_a_count(one: Compared, place: Place) -> bool:
    """Whether a condition that has a comparison asks for a number of places, too."""
    for node in place.nodes:
        if isinstance(node, ast.BoolOp) and any(part is one.node for part in node.values):
            others = [part for part in node.values if part is not one.node]
            if any(COUNT.search(ast.unparse(part)) or "isfinite" in ast.unparse(part) for part in others):
                return True
    return False


def _asks_for_rows(file: File) -> bool:
    """Whether a file asks whether what is held out is empty, or makes it one row at least."""
    for node in file.nodes:
        if isinstance(node, ast.If | ast.IfExp | ast.While | ast.Assert):
            parts = node.test.values if isinstance(node.test, ast.BoolOp) else [node.test]
            if any(_is_for_rows(part) for part in parts):
                return True
        elif isinstance(node, ast.Assign | ast.NamedExpr):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            calls = [part for part in ast.walk(node.value) if isinstance(part, ast.Call) and called_name(part) == "max"]
            if any(EVALUATION.search(last_name(target)) for target in targets) and calls:
                return True
    return False


def _is_for_rows(test: ast.expr) -> bool:
    while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        test = test.operand
    if isinstance(test, ast.Compare):
        test = test.left
        if isinstance(test, ast.Name | ast.Attribute):
            return bool(re.match(r"(n|num|len|count)_", last_name(test)) and EVALUATION.search(last_name(test)))
    if isinstance(test, ast.Call) and dotted(test.func) == "len" and test.args:
        test = test.args[0]
    return isinstance(test, ast.Name | ast.Attribute | ast.Subscript) and bool(EVALUATION.search(last_name(test)))


def _finding(origin: Origin, what: str, keeper: Place) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{origin.place.name}() gives `{ast.unparse(origin.node)}`, {what} where it had nothing to go over, "
        f"and {keeper.name}() takes the smallest for the best; allowed: no score of nothing",
        culprit=origin.place.file.at(origin.node, origin.place.name),
        fix=FIX,
    )

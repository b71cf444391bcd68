"""pass@k is estimated from the share of right samples, as if that share were known without error.

## What it detects

`1 - (1 - c / n) ** k` of c right samples among n.

## Why it matters

The estimate is too low wherever k is above 1: of 4 samples with 1 right, pass@2 is 0.5, and the formula says 0.4375. By
how much depends on n, so that figures of runs with other numbers of samples, and those of papers, do not compare.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are functions that
speak of pass@k, by their names, those of their class and file, or their text. Findings are a power taken from 1, by
`**`, `pow` or a product of so many, whose base is what a share leaves of 1: `1 - c / n`, `(n - c) / n`, `1 - x.mean()`,
or a name that holds one; also where the difference and the power have names.

Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
return 1 - (1 - correct / n) ** k
```

Good:

```python
return 1 - math.comb(n - correct, k) / math.comb(n, k)
```

## How to fix

Count the draws of k samples without a right one: `comb(n - c, k) / comb(n, k)`.

## Known limits

A share that another function returns is not known for one, unless it is called after a rate or an accuracy.

## Sources

Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv:2107.03374, equation 1 and appendix A.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, read_place_by_place
from gradgate.checks.source.trainer import File, called_name
from gradgate.checks.source.values import last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG480", "pass-at-k-biased"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SPEAKS = re.compile(r"pass_?(at|@)_?(k|\d|\{)|pass_?k(_|\b)|passatk|pass@", re.IGNORECASE)
SHARE = re.compile(r"(^|_)(rate|accuracy|acc|share|fraction|frac|ratio|p|prob|probability|mean)$", re.IGNORECASE)
FIX = "1 - comb(n - c, k) / comb(n, k)"
HOPS = 4  # names that are followed


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for pass@k that is a power of a share."""
    return read_place_by_place(subject, _speaks, lambda place, _: _of_place(place), "places", tops=True)


def _speaks(file: File) -> bool:
    return (bool(SPEAKS.search(file.path.stem)) or any(map(SPEAKS.search, file.lines))) and file.has("**", "pow")


def _of_place(place: Place) -> Iterator[Finding]:
    words = [place.file.path.stem, place.owner.name if place.owner is not None else ""]
    text = [] if place.is_top else place.file.lines[place.function.lineno - 1 : place.function.end_lineno]
    if not any(map(SPEAKS.search, [*words, *text])):
        return
    for node in place.nodes:
        if _is_left_of_one(node) and _is_power_of_a_share(node.right, place):  # type: ignore[attr-defined]
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{place.name}() estimates pass@k by `{ast.unparse(node)}`, which is too low where k is above "
                "1: 0.4375 of 4 samples with 1 right and k = 2; allowed: 1 - comb(n - c, k) / comb(n, k), which is 0.5",
                culprit=place.file.at(node, place.name),
                fix=FIX,
            )


def _is_left_of_one(node: ast.AST) -> bool:
    """Whether an expression is `1 - x`."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Sub)
        and isinstance(node.left, ast.Constant)
        and node.left.value == 1
    )


def _is_power_of_a_share(node: ast.expr, place: Place, hops: int = HOPS) -> bool:
    """Whether an expression is what a share leaves of 1, raised to a number of samples."""
    base, exponent = _power(node)
    if base is not None and exponent is not None:
        return not isinstance(exponent, ast.Constant | ast.UnaryOp) and _is_rest(base, place, HOPS)
    held = place.names.held(node)
    return held is not node and hops > 0 and _is_power_of_a_share(held, place, hops - 1)


def _power(node: ast.expr) -> tuple[ast.expr | None, ast.expr | None]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return node.left, node.right
    if not isinstance(node, ast.Call) or called_name(node) not in ("pow", "power", "float_power"):
        return None, None
    if len(node.args) > 1:
        return node.args[0], node.args[1]
    return (node.func.value, node.args[0]) if isinstance(node.func, ast.Attribute) and node.args else (None, None)


def _is_rest(node: ast.expr, place: Place, hops: int) -> bool:
    """Whether an expression is 1 without a share, or the share of those that are wrong."""
    if _is_left_of_one(node):
        return _is_share(node.right, place, hops)  # type: ignore[attr-defined]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return isinstance(node.left, ast.BinOp) and isinstance(node.left.op, ast.Sub)
    held = place.names.held(node)
    return held is not node and hops > 0 and _is_rest(held, place, hops - 1)


def _is_share(node: ast.expr, place: Place, hops: int) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        return True
    if isinstance(node, ast.Call):
        inner = node.args[0] if called_name(node) == "float" and node.args else None
        return called_name(node) == "mean" or (inner is not None and _is_share(inner, place, hops))
    held = place.names.held(node)
    if held is not node and hops > 0:
        return _is_share(held, place, hops - 1)
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and bool(SHARE.search(last_name(node)))

"""A share of the places that count is taken of all places, or coefficients of the heads in use are shares of all.

## What it detects

`budget = int(keep_ratio * valid.numel())` in a selection among `excess[valid]`: padding and what is not predicted are
counted, too. Or `coefs = coefs / coefs.sum()` and `coefs[:n_active]` behind it.

## Why it matters

With half of a batch padded, a share of 0.6 keeps everything, and the treatment is the control group. How much is kept
goes with the lengths of the rows that share a batch. Coefficients that are cut sum to less than 1 while heads are
switched on one by one: the loss, and with it the step, grows with their number, as under a warm-up that nobody set.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are products of a
share, by its name (ratio, share, fraction, keep), with `x.numel()`, `math.prod(x.shape)`, or two or more sizes of one
shape, that reach the number of a `topk`, of a `kthvalue` or of a cut of an order in the same function, where a
mask stands beside: the function has what is called mask or valid, or takes values by
one. Not so where what is counted was taken by an index before (`excess[valid].numel()`).

Coefficients (`coefs`, `head_weights`, `lambdas`, `discounts`) are findings where they are divided by their own sum, or
come from a softmax, in a function, in its class or in a function of the trainer's that gives them, and are then cut by
`[:k]` with a `k` that is no number, or set to 0 from there on, and nothing divides by the sum of what is left.

Statistic: such shares; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
budget = int(keep_ratio * valid.numel())
```

Good:

```python
budget = max(1, int(keep_ratio * int(valid.sum())))
```

## How to fix

Take the share of the places that count.

## Known limits

A share of the width of a row is not looked at. Values that are infinite where a mask says so are GG434's.

## Sources

Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need", arXiv:2404.07965: the share is one of the tokens.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.cut_shares import cut_shares
from gradgate.checks.source.masked_thresholds import bare, thresholds
from gradgate.checks.source.masks import MASK
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import dotted
from gradgate.checks.source.values import assignments_in, last_name, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG484", "share-of-all-places"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SHARE = re.compile(r"(^|_)(ratio|share|fraction|frac|keep|kept|percent|quantile|rate)(_|$)", re.IGNORECASE)

CUT = ("coef", "weights", "lambdas", "decays", "discounts")
FLAT = re.compile(r"\.view\(-1\)|flatten|ravel")
LEFT = re.compile(r"masked_select|nonzero")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for shares of all places beside a mask."""
    return read_place_by_place(subject, lambda file: file.has("topk", "kthvalue", "sort(", *CUT), _found, "shares")


def _found(place: Place, places: Places) -> Iterator[Finding]:
    if place.file.has("topk", "kthvalue", "sort("):
        yield from _of_place(place)
    for node, name in cut_shares(place, places):
        yield _cut(place, node, name)


def _of_place(place: Place) -> Iterator[Finding]:
    numbers = [number for node in place.nodes for number in _numbers(node)]
    if not numbers or not _has_mask(place) or any(True for _ in thresholds(place.nodes, place.names)):
        return
    seen = set[int]()
    for number in numbers:
        for node in place.names.parts(number):
            if isinstance(node, ast.BinOp) and id(node) not in seen and _is_share(node, place):
                seen |= {id(part) for part in ast.walk(node)}
                yield _finding(place, node)


def _numbers(node: ast.AST) -> Iterator[ast.expr]:
    """How many are taken: by `topk`, by `kthvalue`, by a cut of an order."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("topk", "kthvalue"):
        given = node.args[1:2] if dotted(node.func.value) == "torch" else node.args[:1]
        yield from (*given, *(word.value for word in node.keywords if word.arg == "k"))
    elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice) and node.slice.upper is not None:
        yield from [node.slice.upper] if re.search(r"sort|order", ast.unparse(node.value)) else []


def _has_mask(place: Place) -> bool:
    names = (last_name(node) for node in place.nodes if isinstance(node, ast.Name | ast.Attribute | ast.Subscript))
    return any(map(MASK.search, filter(None, names))) or any(map(MASK.search, place.parameters))


def _is_share(node: ast.BinOp, place: Place) -> bool:
    """Whether a product is one of a share and the number of all places."""
    factors = list(_factors(node))
    shares = [each for each in factors if SHARE.search(last_name(each))]
    counts = [each for each in factors if not SHARE.search(last_name(each))]
    if not shares or not counts:
        return False
    shapes = {name for target, value in assignments_in(place.nodes) if _is_shape(value)
              for name in map(dotted, places_of(target))}  # fmt: skip
    sizes = [each for each in counts if dotted(each) in shapes or _is_shape(each)]
    return any(_is_number_of_all(each, place) for each in counts) or (len(sizes) > 1 and len(sizes) == len(counts))


def _factors(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from _factors(node.left)
        yield from _factors(node.right)
    else:
        yield node


def _is_shape(node: ast.expr) -> bool:
    node = node.value if isinstance(node, ast.Subscript) else node
    is_size = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "size"
    return is_size or (isinstance(node, ast.Attribute) and node.attr == "shape")


def _is_number_of_all(node: ast.expr, place: Place) -> bool:
    """Whether something is the number of all places of a tensor of which no index has left any out."""
    held = place.names.held(node)
    if isinstance(held, ast.BinOp):
        factors = list(_factors(held))
        return len(factors) > 1 and all(_is_shape(each) for each in factors)
    if not isinstance(held, ast.Call):
        return False
    if dotted(held.func) in ("math.prod", "torch.numel", "len"):
        counted = held.args[0] if held.args else held
        counted = counted.value if isinstance(counted, ast.Attribute) and counted.attr == "shape" else counted
        if dotted(held.func) == "len" and not FLAT.search(ast.unparse(counted)):
            return False
    elif isinstance(held.func, ast.Attribute) and held.func.attr in ("numel", "nelement"):
        counted = held.func.value
    else:
        return False
    made = bare(place.names.held(bare(counted)))
    return not isinstance(made, ast.Subscript) and not LEFT.search(ast.unparse(made))


def _finding(place: Place, node: ast.BinOp) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() keeps `{ast.unparse(node)}`, a share of all places, though a mask leaves some out; "
        "allowed: a share of those that count",
        culprit=place.file.at(node, place.name),
        fix="take the share of `valid.sum()`",
    )


def _cut(place: Place, node: ast.AST, name: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() cuts `{name}` by `{ast.unparse(node)}` behind what makes all sum to 1; allowed: "
        "those in use sum to 1",
        culprit=place.file.at(node, place.name),
        fix="cut first, and divide what is left by its sum",
    )

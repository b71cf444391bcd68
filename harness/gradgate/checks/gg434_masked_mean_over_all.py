"""A masked value is averaged over what is masked as well, or over another head's places.

## What it detects

`(loss * mask).mean()`: a reward, a metric or a loss whose padding is 0 and counts all the same. A quantile, a median, a
standard deviation or a threshold of the largest that is taken in the same way. Sums over each head's own places that
are all divided by the number of the first head's.

## Why it matters

The number shrinks with padding, and with the length of the longest row of its batch. In a loss GG406 and GG410 see it;
in a reward, an evaluation or a log nobody does. A quantile over padding keeps another share of the real places than the
one that was set. A head that is further ahead has fewer places, so divided by those of the first it weighs less.

## How it decides

The trainer's source is read (`Subject.source`, or the modules that the adapter imports): `mean` of a product with a
mask, which is what is called one (also `batch.span_mask()`) or is made of comparisons, where nothing divides by the
mask's own mean or sum. So the mean of what a name holds that is such a product with what is called a mask, or is 0
where it says so (`torch.where`, `masked_fill`, `ce[~mask] = 0`), its square or its size; such a sum that is divided by
its own `numel()`, or that is over a row and divided by a width (`ids.shape[1]`); and `mse_loss` and the like of
two products with one mask. Of `quantile`, `median`, `std`, `var`, `kthvalue`, `topk` and `sort` these are findings:

* a quantile, a median or a spread of a product with a mask, or of what is 0 where a mask says so;
* any of them whose result is compared with the values that it is of, where a mask is then taken with that comparison;
* the largest (`topk`, `sort(descending=True)`, `argsort`) of a difference that a mask makes 0, since what is left out
  stands above what is less than 0, and the smallest (`kthvalue`, `largest=False`) of anything that it makes 0;
* a `topk` or `kthvalue` of a share of all places (`share * x.numel()`), of values that are `-inf` where a mask says so.

What a mask has picked (`valid_ce = ce[valid]`) is no mask, whatever it is called. What an index, a `nan` or an infinite
number has left out before is none of the second, nor is a share that is made of a mask any of them, but for the third.
Of sums that leave an axis, or that take one head's part of a mask, one that is divided by the places of one head of
that mask, `mask[..., 0].sum()` or `mask.sum((0, 1))[0]`, is a finding where it is a sum over others too.

Values from which their own mean over all places is taken (`x - x.mean()`, divided by a spread or not, through names, or
by a function that is given them alone) are one where the result is then multiplied by a mask, filled or put to 0 by it,
unless the mask is given an axis more, or has picked those values before.
Statistic: such means and thresholds. Allowed: 0.

False-alarm rate: 0 where what is masked is not to count.

## Example

Bad:

```python
score_B = -(ce_BS * real_BS).mean(dim=1)
chosen_BS = (gap_BS >= torch.quantile(gap_BS, 0.4)) & valid_BS
```

Good:

```python
score_B = -(ce_BS * real_BS).sum(dim=1) / real_BS.sum(dim=1).clamp(min=1)
chosen_BS = (gap_BS >= torch.quantile(gap_BS[valid_BS], 0.4)) & valid_BS
```

## How to fix

Divide the sum by the number of places that count; take quantiles of those places alone.

## Known limits

Masks that are made elsewhere and are not called so are not known. Numbers that stand for infinity (`-1e9`) are
taken for it.

## Sources

An invariant fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.head_counts import other_heads
from gradgate.checks.source.masked_means import LOSSES, means
from gradgate.checks.source.masked_thresholds import ORDERED, TAKEN, thresholds
from gradgate.checks.source.places import places_in
from gradgate.checks.source.statistics_over_all import statistics_over_all
from gradgate.checks.source.trainer import NONE, File, Function, files_of
from gradgate.checks.source.values import Names, outwards, own_nodes, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG434", "masked-mean-over-all"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for means of masked values."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    found = {(each.culprit.file, each.culprit.line) if each.culprit else ("", 0): each for each in _normalised(files)}
    for finding in (each for file in files for each in _found(file)):
        found.setdefault((finding.culprit.file, finding.culprit.line) if finding.culprit else ("", 0), finding)
    return Outcome((*found.values(),), {"means_over_all": len(found)}, {"means_over_all": 0})


def _normalised(files: tuple[File, ...]) -> Iterator[Finding]:
    """Values that are normalised over all places, and masked behind that."""
    asked = {file for file in files if file.has("mean(", "_mean(") and file.has("mask", "valid", "is_real", "not_pad")}
    own = places_in(files) if asked else None
    for place in (each for each in own.functions if each.file in asked) if own is not None else ():
        for mean, mask in statistics_over_all(place, own):  # type: ignore[arg-type]
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{place.name}() normalises by `{ast.unparse(mean)}`, over places that `{mask}` leaves out "
                "behind that; allowed: those that count",
                culprit=place.file.at(mean, place.name),
                fix="take mean and spread over the places that count",
            )


def _found(file: File) -> Iterator[Finding]:
    if not (file.has("sum(") and file.has(".shape", ".size(")) and not file.has(
        "mean(", ".numel()", "0]", *(f"{name}(" for name in LOSSES), *(f"{name}(" for name in {*TAKEN, *ORDERED})
    ):
        return
    parents: dict[int, ast.AST] = {}
    for function, _ in file.functions:
        nodes = own_nodes(function)
        names = Names(function)
        for taken in thresholds(nodes, names):
            yield _taken(file, function, taken.call, taken.mask)
        for quotient, base, count in other_heads(nodes, names):
            yield _of_another(file, function, quotient, base, count)
        for node, mask in means(nodes, names):
            parents = parents or parents_in(file.tree)
            if not any(
                isinstance(each, ast.BinOp) and isinstance(each.op, ast.Div) for each in outwards(node, parents)
            ):
                yield _finding(file, function, node, mask)


def _finding(file: File, function: Function, node: ast.expr, mask: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() averages over places that `{ast.unparse(mask)}` leaves out: they are 0 and count; "
        "allowed: none",
        culprit=file.at(node, function.name),
        fix="divide the sum by the number of places that count",
    )


def _taken(file: File, function: Function, call: ast.Call, mask: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() takes `{ast.unparse(call)}` over places that `{mask}` leaves out: they count; "
        "allowed: none",
        culprit=file.at(call, function.name),
        fix="take it over the places that count: `x[mask]`",
    )


def _of_another(file: File, function: Function, quotient: ast.expr, base: str, count: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() divides each head's sum over its places of `{base}` by those of one, `{count}`; "
        "allowed: each head's own number",
        culprit=file.at(quotient, function.name),
        fix="divide each head by its own number of places: `mask.sum((0, 1))`",
    )

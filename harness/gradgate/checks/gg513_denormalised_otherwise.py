"""What is normalised is brought back otherwise: `denormalize` is not the inverse of its `normalize`.

## What it detects

`normalize` that divides by the standard deviation beside a `denormalize` that multiplies by the variance, that forgets
the mean, or that adds it before it multiplies.

## Why it matters

A value head that learns normalised returns says values in other units than those of the rewards beside which they
stand: temporal differences and advantages are of two scales. Nothing raises, and where the variance is near 1, as at
the beginning, nothing shows.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Pairs are methods of a class
or of one above it, or functions of a file, that are called after normalising (`normalize`, `standardize`, `whiten`,
`scale`, `transform`) and the same with `de`, `un` or `inverse` in front or behind, and that take a tensor first. Both
are computed with numbers: each attribute, argument and function that they share has one, whatever is called `eps` a
tiny one; properties, helpers of `self` and names are followed. A `std` that nothing follows is the root of the `var`
beside it. Clamps of the tensor itself and changes of shape, dtype and device leave a number as it is. Statistic: the
largest difference between a number and what the two make of it, over three; a finding is one above 1 % of it. What
comes back times a whole number, or a half of one, is in another unit (bytes of an image, per cent) and no finding.

Pairs in which anything else is done (a table, a loop, a call of another's) are not judged. Allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def normalize(self, returns):
    return (returns - self.mean) / (self.var + self.eps).sqrt()

def denormalize(self, values):
    return values * (self.var + self.eps) + self.mean
```

Good:

```python
def denormalize(self, values):
    return values * (self.var + self.eps).sqrt() + self.mean
```

## How to fix

Multiply by what the other divides by, and add the mean behind that.

## Known limits

Two that are called otherwise, or of which each is written out where it is used, are not held against each other.

## Sources

van Hasselt et al. 2016, arXiv:1602.07714: normalised targets and the values that they stand for.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.inverses import UnknownError, computed, is_of
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG513", "denormalised-otherwise"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
FORTH = r"(normali[sz]e|standardi[sz]e|whiten|transform|rescale|scale)"
BACK = re.compile(rf"(?:^|_)(?:(?:de|un)_?|inverse_|inv_|undo_)({FORTH[1:-1]})|({FORTH[1:-1]})_(?:inverse|back)$")
NUMBERS = (-1.7, 0.6, 4.1)
ROUNDED = 1e-6
SHARE = 0.01  # of a number, by which it may come back otherwise: an eps that one of the two leaves out


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Compute each pair with numbers."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    own = places_in(files)
    pairs = [(forth, back) for back in own.functions for forth in _forth(back, own)]
    findings = tuple(found for forth, back in pairs for found in _of_pair(forth, back, own))
    return Outcome(findings, {"pairs": len(findings)}, {"pairs": 0})


def _forth(back: Place, own: Places) -> list[Place]:
    """The function that one undoes, by its name, in the same class, in one above it, or in the same file."""
    found = BACK.search(back.name)
    if found is None:
        return []
    name = back.name[: found.start()] + ("_" if found.group().startswith("_") else "")
    name += (found.group(1) or found.group(2)) + back.name[found.end() :]
    same = [place for place in own.named(name) if not place.does_nothing]
    if not same and back.owner is not None:
        verb = re.compile(rf"^_?{found.group(1) or found.group(2)}(_[a-z]+)?$")
        other = [place for place in own.methods_of(back.owner) if verb.search(place.name)]
        return other if len(other) == 1 else []
    if back.owner is None:
        return [place for place in same if place.owner is None and place.file is back.file][:1]
    above = {dotted(base).rpartition(".")[2] for base in back.owner.bases}
    here = [place for place in same if place.owner is back.owner]
    return (here or [place for place in same if place.owner is not None and place.owner.name in above])[:1]


def _of_pair(forth: Place, back: Place, own: Places) -> Iterator[Finding]:
    if not forth.positional or not back.positional:
        return
    try:
        shares = [_there_and_back(forth, back, own, x) / x for x in NUMBERS]
    except (UnknownError, ArithmeticError, ValueError):
        return
    if max(abs(share - 1) for share in shares) > SHARE and not _is_unit(shares):
        yield _finding(forth, back)


def _is_unit(shares: list[float]) -> bool:
    """Whether numbers come back in another unit: bytes as shares of 255, halves, per cent."""
    one = max(abs(shares[0]), 1 / abs(shares[0])) if shares[0] else 0.0
    return max(shares) - min(shares) < ROUNDED * one and one > 1 and abs(2 * one - round(2 * one)) < ROUNDED * one


def _there_and_back(forth: Place, back: Place, own: Places, number: float) -> float:
    known: dict[str, float] = {}
    there = computed(forth, own, {forth.positional[0]: number}, known)
    first = set(known)
    again = computed(back, own, {back.positional[0]: there}, known)
    if any(not is_of(name, first) for name in set(known) - first):
        raise UnknownError
    return again


def _finding(forth: Place, back: Place) -> Finding:
    returned = next((node for node in back.nodes if isinstance(node, ast.Return)), back.function)
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{back.name}() does not bring back what {forth.name}() in line {forth.function.lineno} normalises; "
        "allowed: its inverse",
        culprit=back.file.at(returned, back.name),
        fix="multiply by what the other divides by, and add the mean behind that",
    )

"""Of an error and its clipped twin the smaller is taken, or of two surrogates the better one.

## What it detects

The smaller of the squared errors of a value and of the value clipped around its old one; the larger of
`ratio * advantage` and `clamp(ratio) * advantage`, or the smaller of the two with a minus in front.

## Why it matters

PPO is pessimistic: of both it takes what is worse for the update, so that a value or a ratio which has left its band
is drawn back. The other choice takes the clipped error just where the value is far from its return, and that one has
no gradient: the value stays where it is. The larger surrogate has a gradient out of the band and none back into it.
Inside of the band both are the same, so small runs show nothing.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. `min`, `minimum`, `max` and
`maximum` of two expressions, of torch or another library, as functions, as methods or over a stack of both; names are
followed to what the same function assigned last. Findings are:

* the smaller of two errors (a square, `abs`, `mse_loss`, `smooth_l1_loss`, `huber_loss`) with one side in common, where
  the other side of one is computed from that of the other by `clamp` or `clip`;
* the larger of two products with an advantage in common, where the other factor of one is the clipped one of the
  other; the smaller, where both are negated;
* an error of a value that is clipped around its old one (`old + (v - old).clamp(-c, c)`, `v.clamp(old - c, old + c)`),
  also by a function of the trainer's, in a function that chooses nothing and has no error of the value as it is.

Statistic: such choices; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
near = old + (values - old).clamp(-clip, clip)
loss = torch.minimum((values - returns) ** 2, (near - returns) ** 2).mean()
```

Good:

```python
loss = torch.maximum((values - returns) ** 2, (near - returns) ** 2).mean()
policy_loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - eps, 1 + eps) * advantages).mean()
```

## How to fix

Take the larger error, the smaller surrogate, and the larger of negated surrogates.

## Known limits

Choices that are written with `where`, and parts that another function computes, are not seen. An advantage is told by
its name; one that was negated in another function under the same name would be alleged.

## Sources

Schulman et al. 2017, arXiv:1707.06347, equation 7; ray-project/ray#22171. Fault LW-53 of the fault catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.clipped_alone import clipped_alone
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted, names_in
from gradgate.checks.source.values import Names
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG508", "clipped-objective-takes-the-weaker"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SMALLER, LARGER = ("min", "minimum", "amin", "fmin"), ("max", "maximum", "amax", "fmax")
STACKS = ("stack", "cat")
ERRORS = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
OWN = re.compile(r"huber|mse|smooth_l1|l[12]_|squared|error")
POWERS = ("square", "abs", "pow")
CLIPS = ("clamp", "clip", "clamp_", "clip_", "clip_by_value")
ADVANTAGE = re.compile(r"(^|[._'])(adv\w*|gaes?|A|delta\w*)($|[._\['])")
FIX = "take the larger of the errors, the smaller of the surrogates, and the larger of negated surrogates"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each choice between a clipped term and the one that is not."""
    return read_place_by_place(subject, lambda file: file.has("clamp", "clip"), _of_place, "choices")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        smaller = dotted(call.func).endswith(SMALLER)
        if (pair := _pair(call)) is not None and (told := _told(smaller, pair, place.names)):
            yield _finding(place, call, told)
    for error, plain in clipped_alone(place, own):
        told = f"takes the error of `{plain}` as it is clipped around its old value, and never the plain one"
        yield _finding(place, error, f"{told}: out of the band it has no gradient")


def _finding(place: Place, node: ast.expr, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() {told}; allowed: none",
        culprit=place.file.at(node, place.name),
        fix=FIX,
    )


def _pair(call: ast.Call) -> list[ast.expr] | None:
    """The two between which a call chooses."""
    given = list(call.args)
    if len(given) < 2 and isinstance(call.func, ast.Attribute) and not any(map(_stacked, given)):
        given.insert(0, call.func.value)
    given = next(filter(None, map(_stacked, given)), given)
    return given if called_name(call) in SMALLER + LARGER and len(given) == 2 else None


def _stacked(node: ast.expr) -> list[ast.expr]:
    """What a stack is made of, where it is written down."""
    if not (isinstance(node, ast.Call) and dotted(node.func).endswith(STACKS) and node.args):
        return []
    return node.args[0].elts if isinstance(node.args[0], ast.List | ast.Tuple) else []


def _told(smaller: bool, pair: list[ast.expr], names: Names) -> str:
    """What is wrong with a choice; empty: nothing."""
    errors = [error for part in pair if (error := _error(part, names)) is not None]
    if len(errors) == 2:
        if smaller and _is_clipped_twin(_apart(*errors), names):
            return "takes the smaller of an error and its clipped twin, which has no gradient where the other is larger"
        return ""
    (sign, factors), (other_sign, others) = (_product(part, names) for part in pair)
    common = set(map(ast.unparse, factors)) & set(map(ast.unparse, others))
    if sign != other_sign or smaller is (sign > 0) or not any(map(ADVANTAGE.search, common)):
        return ""
    which = "smaller of two negated surrogates" if smaller else "larger of two surrogates"
    twins = _is_clipped_twin(_apart(factors, others), names)
    return f"takes the {which}: what is better for the update, where PPO takes what is worse" if twins else ""


def _apart(ones: list[ast.expr], others: list[ast.expr]) -> list[ast.expr]:
    """The parts in which two expressions differ."""
    texts = [set(map(ast.unparse, parts)) for parts in (ones, others)]
    common = texts[0] & texts[1]
    return [part for part in (*ones, *others) if ast.unparse(part) not in common] if common else []


def _is_clipped_twin(parts: list[ast.expr], names: Names) -> bool:
    """Whether one of two expressions is the other, clipped."""
    parts = sorted(parts, key=lambda part: _clips(part, names))
    if [_clips(part, names) for part in parts] != [False, True]:
        return False
    plain, twin = parts
    read = {ast.unparse(part) for part in names.parts(twin) if isinstance(part, ast.Name | ast.Attribute)}
    return ast.unparse(plain) in read or bool(names_in(names.held(plain)) & read)


def _clips(node: ast.expr, names: Names) -> bool:
    called = (called_name(part) for part in names.parts(node) if isinstance(part, ast.Call))
    return any(name in CLIPS for name in called)


def _error(node: ast.expr, names: Names) -> list[ast.expr] | None:
    """The two sides of an error."""
    node = names.held(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _sides(node.left, names)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _error(node.left, names) or _error(node.right, names)  # with a factor, or a mask
    if not isinstance(node, ast.Call):
        return None
    last = called_name(node)
    if last in ERRORS and len(node.args) > 1:
        return node.args[:2]
    if last not in POWERS:  # one of the trainer's own, of a difference or of both sides
        by_name = OWN.search(last.lower()) and node.args
        return (_sides(node.args[0], names) or (node.args[:2] if len(node.args) > 1 else None)) if by_name else None
    given = node.args if len(node.args) > (last == "pow") else [getattr(node.func, "value", node)]
    return _sides(given[0], names)


def _sides(node: ast.expr, names: Names) -> list[ast.expr] | None:
    node = names.held(node)
    return [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) else None


def _product(node: ast.expr, names: Names) -> tuple[int, list[ast.expr]]:
    """The sign of a product, and its factors."""
    held = names.held(node)
    if isinstance(held, ast.UnaryOp) and isinstance(held.op, ast.USub):
        sign, factors = _product(held.operand, names)
        return -sign, factors
    if isinstance(held, ast.BinOp) and isinstance(held.op, ast.Mult):
        (one, left), (other, right) = _product(held.left, names), _product(held.right, names)
        return one * other, left + right
    return 1, [node]

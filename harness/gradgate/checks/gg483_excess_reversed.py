"""Tokens are selected by how much better the model is than the reference, and not by how much worse.

## What it detects

`excess = reference_ce - token_ce` of which the largest are kept, by `topk` or `excess >= threshold`.

## Why it matters

What is kept is what the model knows already, and what it has to learn is left out. The loss that is logged is that of
easy tokens, so that it falls, and the run looks well.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are functions that
speak of an excess, of rho or of what is reducible, by their names, those of their class, file and variables. What is
compared there is a difference of which one side is a reference's by its names, and the other is not, through names,
masks, indices and functions of the trainer. Findings are differences reference - model that are compared with `>=` or
`>`, where the result is returned or is called after keeping or selecting; without such a comparison, those of which
`topk` takes the largest, or a descending order the first; and differences model - reference the other way.

Statistic: such selections; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
excess = reference_ce - token_ce
kept = excess >= excess[valid].topk(budget).values[-1]
```

Good:

```python
excess = token_ce - reference_ce
```

## How to fix

Take the reference's loss from the model's.

## Known limits

Losses of a reference that goes by another name are not known; nor is what a function is given for one.

## Sources

Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need", arXiv:2404.07965, equation 3: the excess loss is the
training model's loss minus the reference's.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import dotted
from gradgate.checks.source.values import assignments_in, contains, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG483", "excess-reversed"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
EXCESS = re.compile(r"excess|(^|_)rho|Rho|reducible|learnab", re.IGNORECASE)
REFERENCE = re.compile(r"(^|_)(ref|reference|irreducible|teacher|frozen)(_|$|s$)", re.IGNORECASE)
LOSS = re.compile(r"(^|_)(ce|nll|loss|losses|cross_entropy|surprisal|score)(_|$)", re.IGNORECASE)
KEPT = re.compile(r"keep|kept|select|chosen|choose|pick|retain", re.IGNORECASE)
LIBRARIES = ("torch", "np", "jnp")
ABOVE, BELOW = ("ge", "gt", "greater", "greater_equal"), ("le", "lt", "less", "less_equal")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for selections by an excess with the wrong sign."""
    return read_place_by_place(
        subject, lambda file: file.has("xcess", "rho", "Rho", "reducible", "earnab"), _of_place, "selections"
    )


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    words = [place.name, place.owner.name if place.owner is not None else "", place.file.path.stem]
    words += [node.id for node in place.nodes if isinstance(node, ast.Name)]
    if not any(map(EXCESS.search, words)):
        return
    kept = [found for node in place.nodes if (found := _compared(node, place)) is not None]
    for node, values, largest in kept or [one for each in place.nodes if (one := _taken(each)) is not None]:
        sign = _sign(values, place, places)
        if sign and (sign > 0) is not largest:
            yield _finding(place, node, values, largest)
            return


Selection = tuple[ast.expr, ast.expr, bool]  # where, the values, and whether what is large is kept


def _compared(node: ast.AST, place: Place) -> Selection | None:
    """A comparison whose result says what is kept."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        values, how = node.left, node.ops[0]
        above: bool | None = (
            True if isinstance(how, ast.Gt | ast.GtE) else False if isinstance(how, ast.Lt | ast.LtE) else None
        )
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
        values = node.func.value
        above = True if node.func.attr in ABOVE else False if node.func.attr in BELOW else None
    else:
        return None
    if above is None or not _is_kept(node, place):
        return None
    return node, values, above


def _is_kept(node: ast.expr, place: Place) -> bool:
    """Whether something is what a function gives back, or what is called after keeping; not where it is turned over."""
    values = [(last_name(target), value) for target, value in assignments_in(place.nodes)]
    values += [("kept", each.value) for each in place.nodes if isinstance(each, ast.Return) and each.value is not None]
    for name, value in values:
        inside = list(ast.walk(value))
        turned = any(isinstance(part, ast.UnaryOp) and contains(part, node) for part in inside)
        if KEPT.search(name) and any(part is node for part in inside) and not turned and not _is_filled(inside):
            return True
    return False


def _is_filled(inside: list[ast.AST]) -> bool:
    calls = (part.func for part in inside if isinstance(part, ast.Call))
    return any(isinstance(call, ast.Attribute) and call.attr in ("masked_fill", "where") for call in calls)


def _taken(node: ast.AST) -> Selection | None:
    """What `topk` and a descending order take."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        return None
    of_library = dotted(node.func.value) in LIBRARIES
    values = (node.args[0] if node.args else None) if of_library else node.func.value
    words = {word.arg: ast.unparse(word.value) for word in node.keywords}
    if values is None or node.func.attr not in ("topk", "sort", "argsort"):
        return None
    if node.func.attr == "topk":
        return node, values, words.get("largest") != "False"
    return (node, values, True) if words.get("descending") == "True" else None


def _sign(node: ast.expr, place: Place, places: Places, hops: int = 6) -> int:
    """1 of model - reference, -1 of reference - model, 0 of anything else."""
    if not hops:
        return 0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_sign(node.operand, place, places, hops - 1)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        left, right = (_is_of_reference(side, place) for side in (node.left, node.right))
        are_losses = all(_is_loss(side, place) for side in (node.left, node.right))
        return 0 if left == right or not are_losses else -1 if left else 1
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _sign(node.left, place, places, hops - 1) or _sign(node.right, place, places, hops - 1)
    if isinstance(node, ast.Subscript):
        return _sign(node.value, place, places, hops - 1)
    if isinstance(node, ast.Call):
        called = places.called(node, place)
        if called is not None:
            values = [each.value for each in called.nodes if isinstance(each, ast.Return) and each.value is not None]
            return _sign(values[-1], called, places, hops - 1) if len(values) == 1 else 0
        is_where = dotted(node.func) == "torch.where" and len(node.args) == 3
        inner = node.args[1] if is_where else node.func.value if isinstance(node.func, ast.Attribute) else None
        sign = _sign(inner, place, places, hops - 1) if inner is not None else 0
        return -sign if isinstance(node.func, ast.Attribute) and node.func.attr in ("neg", "negative") else sign
    held = place.names.held(node)
    return _sign(held, place, places, hops - 1) if held is not node else 0


def _is_of_reference(node: ast.expr, place: Place) -> bool:
    return any(REFERENCE.search(word) for word in _words(node, place))


def _is_loss(node: ast.expr, place: Place) -> bool:
    return any(LOSS.search(word) for word in _words(node, place))


def _words(node: ast.expr, place: Place) -> Iterator[str]:
    """The names that an expression has, and what its own name holds."""
    yield from (last_name(part) for part in place.names.parts(node, 1) if isinstance(part, ast.expr))


def _finding(place: Place, node: ast.expr, values: ast.expr, largest: bool) -> Finding:
    kept = "largest" if largest else "smallest"
    order = "the reference's loss minus the model's" if largest else "the model's loss minus the reference's"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() keeps the {kept} of `{ast.unparse(values)}`, which is {order}: what the model knows "
        "already; allowed: where the model's loss is above the reference's",
        culprit=place.file.at(node, place.name),
        fix="take the reference's loss from the model's, and keep the largest",
    )

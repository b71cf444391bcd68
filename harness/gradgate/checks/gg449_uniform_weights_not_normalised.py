"""The control group's head weights are ones, beside head weights that sum to 1.

## What it detects

`uniform_weights(valid)` that gives back `valid.float()`, or ones, in a trainer whose other weights are a softmax over
the heads or are divided by their sum.

## Why it matters

The loss of the control group is as many times as large as there are heads. With it goes its ratio to an auxiliary loss,
to the weight decay and to the limit of gradient clipping: the two groups differ in more than what is compared.

## How it decides

The trainer's source is read (`Subject.source`, or the modules that the adapter imports). Names decide. The control
group is what is called uniform, equal, baseline, control or constant: a function or the class of a method, the name
that one is registered by, the key of a mapping of such, or the text that a branch asks for. It must give weights, of
heads: a name around it says so, and its file or that of the others names heads or a horizon. A finding is one that
gives back nothing but a mask cast to numbers, or ones, also but for places that are set to 0, or a mask divided by the
number of all heads, where

* another function of weights takes a softmax or divides by a sum over the heads, and does not multiply by their number;
* nothing divides a sum of weighted values by the weights' sum, or the weights that it is given by theirs.

Statistic: such control groups; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def uniform_weights(valid_BSH):
    return valid_BSH.float()
```

Good:

```python
def uniform_weights(valid_BSH):
    return valid_BSH.float() / valid_BSH.sum(-1, keepdim=True).clamp(min=1)
```

## How to fix

Give each valid head 1 / (number of valid heads).

## Known limits

Weights that a function of another name makes for the control group, and a loss that has no weights in the control
group, are not looked at. Weights of tokens, rows and classes are none of heads.

## Sources

An invariant fault of a trainer that was read for the catalogue; GG401 measures the sums where they are declared.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence

from gradgate.checks.source.masks import is_mask
from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of, nodes_in
from gradgate.checks.source.values import OTHERS, Names, assignments_in
from gradgate.checks.source.weightings import (
    ALSO,
    CONTROL,
    FLOATS,
    GIVES,
    SHAPES,
    WEIGHS,
    Weighting,
    is_divided_later,
    snake,
    summed_in,
)
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG449", "uniform-weights-not-normalised"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
HEADS = re.compile(
    r"\bheads?\b|(^|_)n_?heads?\b|horizon|look_?ahead|n_future|_BSH\b|\bB, ?S, ?H\b|multi.token|mtp", re.I
)
MASK = re.compile(r"(^|_)(masks?|valid|is_real|real|not_pad|active|legal|keep|kept|known|exists|present)(_[A-Z]+)?$")
NUMBER = re.compile(r"head|horizon|num|count|size|shape|(^|\W)n_|sum\(|len\(|\bH\b")
TEXTS = ("niform", "qual", "aseline", "ontrol", "onstant", "nweighted")
ONES = ("ones", "ones_like", "new_ones")
ZEROS = ("zeros", "zeros_like", "new_zeros")
ALL = re.compile(r"\.shape\[-1\]$|\.size\((dim=)?-1\)$|horizon$|n_?heads$|^H$|num_heads$")  # the number of heads


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the control group's weights against the others."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    found = tuple(_found(files)) if any(file.has(*TEXTS) for file in files) else ()
    return Outcome(found, {"control_groups": len(found)}, {"control_groups": 0})


def _found(files: tuple[File, ...]) -> Iterator[Finding]:
    keyed = dict[str, list[str]]()
    lambdas = list[tuple[File, ast.Lambda]]()
    for file in files:
        for key, value in _registered(file):
            keyed.setdefault(dotted(value).rpartition(".")[2], []).append(snake(key))
            if isinstance(value, ast.Lambda) and CONTROL.search(snake(key)):
                lambdas.append((file, value))
    places = places_in(files).functions
    known = [Weighting(place, tuple(_keys(place, keyed))) for place in places]
    others = [one for one in known if one.is_of_weights and not one.is_control and _sums_to_one(one.place.nodes)]
    ones = [(one, value) for one in known for value in _ones_of(one)]
    if not (others or ones) or is_divided_later(places, [one.place for one in others]):
        return
    for file, value in lambdas:
        names = Names(ast.FunctionDef("", value.args, [ast.Return(value.body)], []))
        if others and _is_ones(value.body, names) and _of_heads(file, others):
            yield _finding(file, value, "lambda", value.body, others[0].told)
    for one, value in ones:
        beside = [*(other.told for other in others), *_beside(one)]
        if beside and _of_heads(one.place.file, others):
            yield _finding(one.place.file, value, one.told, value, beside[0])


def _registered(file: File) -> Iterator[tuple[str, ast.expr]]:
    """The items of a mapping of weightings: its key and what it stands for."""
    for target, value in assignments_in(file.nodes):
        if isinstance(value, ast.Dict) and WEIGHS.search(snake(dotted(target).rpartition(".")[2])):
            for key, item in zip(value.keys, value.values, strict=True):
                if isinstance(key, ast.Constant) and isinstance(key.value, str):
                    yield key.value, item


def _keys(place: Place, keyed: dict[str, list[str]]) -> Iterator[str]:
    """What a function or its class is registered by."""
    for node in (place.function, place.owner):
        for decorator in node.decorator_list if node is not None else ():
            for part in ast.walk(decorator):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield snake(part.value)
        if node is not None and node.name in keyed:
            yield from (*keyed[node.name], "weights")


def _ones_of(weighting: Weighting) -> Iterator[ast.expr]:
    """The ones that a function gives the control group for weights."""
    place = weighting.place
    gives = place.owner is None or place.name in GIVES or WEIGHS.search(place.name)
    if weighting.is_control and weighting.is_of_weights and gives:
        given = place.returned
        first = [value.elts[0] if isinstance(value, ast.Tuple) and value.elts else value for value in given]
        if first and all(_is_ones(value, place.names) and not _changed(value, place.nodes) for value in first):
            yield first[-1]
        return
    for branch in place.nodes:
        given = list[ast.expr]()
        if isinstance(branch, ast.IfExp) and _asks_for_control(branch.test):
            given = [branch.body] if any(value is branch for value in _weights_in(weighting, place.nodes)) else []
        elif (isinstance(branch, ast.If) and _asks_for_control(branch.test)) or (
            isinstance(branch, ast.match_case) and CONTROL.search(snake(ast.unparse(branch.pattern).strip("'")))
        ):
            given = list(_weights_in(weighting, list(nodes_in(branch.body, *OTHERS))))
        yield from (value for value in given if _is_ones(value, place.names) and not _settled(value, place))


def _asks_for_control(test: ast.expr) -> bool:
    """Whether a branch is that of the control group."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.In):
        texts = [
            node.value for node in ast.walk(test) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        ]
        return any(CONTROL.search(snake(text)) for text in texts) and not ALSO.search(snake(ast.unparse(test.left)))
    asked = test.func if isinstance(test, ast.Call) else test
    name = snake(dotted(asked).rpartition(".")[2])
    return bool(CONTROL.search(name)) and not ALSO.search(name)


def _is_weight(target: ast.expr, weighting: Weighting) -> bool:
    name = snake(dotted(target).rpartition(".")[2])
    return bool(WEIGHS.search(name)) and not ALSO.search(name) and not any(map(ALSO.search, weighting.called))


def _weights_in(weighting: Weighting, nodes: Sequence[ast.AST]) -> Iterator[ast.expr]:
    """What a part of a function assigns to weights, or gives back for them."""
    yield from (value for target, value in assignments_in(nodes) if _is_weight(target, weighting))
    if weighting.is_of_weights:
        yield from (node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None)


def _beside(weighting: Weighting) -> Iterator[str]:
    """The function itself, where it gives weights that sum to 1 in another branch."""
    if any(_sums_to_one([*ast.walk(value)]) for value in _weights_in(weighting, weighting.place.nodes)):
        yield weighting.told


def _is_ones(value: ast.expr, names: Names, hops: int = 4) -> bool:
    """Whether a value is a mask cast to numbers, or ones."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Mult):
        sides = [value.left, value.right]
        return any(_is_ones(side, names, hops) for side in sides) and all(
            _is_ones(side, names, hops) or is_mask(side, names, MASK) for side in sides
        )
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div):
        by_all = not isinstance(value.right, ast.BinOp) and ALL.search(ast.unparse(value.right))
        return bool(by_all) and _is_of_mask(value.left, names)
    if isinstance(value, ast.Call):
        last = called_name(value)
        if last in ONES:
            return True
        if last == "where":
            return len(value.args) == 3 and _is(1, value.args[1]) and _is(0, value.args[2])
        if last in ("full", "full_like", "new_full"):
            return len(value.args) > 1 and _is(1, value.args[1])
        if last in FLOATS and isinstance(value.func, ast.Attribute):
            cast = value.func.value
            made = isinstance(cast, ast.Call) and bool(MASK.search(called_name(cast)))  # `self.valid(labels).float()`
            return made or is_mask(cast, names, MASK) or _is_ones(cast, names, hops)
        if last in SHAPES and isinstance(value.func, ast.Attribute):
            return _is_ones(value.func.value, names, hops)
        return False
    held = names.held(value)
    return held is not value and hops > 0 and _is_ones(held, names, hops - 1)


def _is(number: int, value: ast.expr) -> bool:
    """Whether a value is 0 or 1, or a tensor of these."""
    if isinstance(value, ast.Call):
        return called_name(value) in (ONES if number else ZEROS)
    return isinstance(value, ast.Constant) and value.value == number


def _is_of_mask(value: ast.expr, names: Names) -> bool:
    """Whether ones stand for a mask's places alone: they do not fill what is divided by the number of all."""
    made = names.held(value)
    return _is_ones(value, names) and any(
        isinstance(part, ast.expr) and is_mask(part, names, MASK) for part in (value, *ast.walk(made))
    )


def _changed(value: ast.expr, nodes: Iterable[ast.AST]) -> bool:
    """Whether what a name holds is divided, or written into, in place."""
    name, nodes = dotted(value), list(nodes)
    left_out = {  # weights[~valid] = 0
        id(target) for node in nodes if isinstance(node, ast.Assign) and _is(0, node.value) for target in node.targets
    }
    for node in nodes if name else ():
        if isinstance(node, ast.AugAssign) and dotted(node.target).partition("[")[0] == name:
            return True
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and dotted(node.value) == name:
            if id(node) in left_out:
                continue
            return True
        method = node.func if isinstance(node, ast.Call) else None
        if isinstance(method, ast.Attribute) and dotted(method.value) == name and method.attr.endswith("_"):
            return True
    return False


def _settled(value: ast.expr, place: Place) -> bool:
    """Whether the name that a branch gives ones to is divided behind it."""
    for target, held in assignments_in(place.nodes):
        if held is value or (isinstance(held, ast.IfExp) and held.body is value):
            name = dotted(target)
            divides = (node for node in place.nodes if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div))
            if _changed(target, place.nodes) or any(dotted(node.left) == name for node in divides):
                return True
    return _changed(value, place.nodes)


def _sums_to_one(nodes: Sequence[ast.AST]) -> bool:
    """Whether weights are a softmax, or divided by their sum, and not multiplied by the number of heads."""
    is_share = False
    for node in nodes:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            sides = [node.left, node.right]
            if any(map(_is_share, sides)) and any(
                NUMBER.search(ast.unparse(side)) for side in sides if not _is_share(side)
            ):
                return False
        is_share = is_share or (isinstance(node, ast.expr) and _is_share(node))
    return is_share


def _is_share(node: ast.expr) -> bool:
    if isinstance(node, ast.Call):
        return called_name(node) == "softmax"
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)):
        return False
    summed, left = summed_in(node.right), dotted(node.left)
    return bool(left) and summed is not None and dotted(summed) == left


def _of_heads(file: File, others: Sequence[Weighting]) -> bool:
    files = {id(each): each for each in (file, *(other.place.file for other in others))}
    return any(HEADS.search(line) for each in files.values() for line in each.lines)


def _finding(file: File, node: ast.AST, function: str, value: ast.expr, other: str) -> Finding:
    weight, told = "1", "as many times as large as there are heads"
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.Div):
        weight, told = "a share of all", "smaller where some are left out"
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() weighs each head by {weight} (`{ast.unparse(value)}`), and {other}() shares 1 among them: "
            f"the control group's loss is {told}; allowed: weights of the same sum"
        ),
        culprit=file.at(node, function),
        fix="divide by the number of valid heads: `valid.float() / valid.sum(-1, keepdim=True).clamp(min=1)`",
    )

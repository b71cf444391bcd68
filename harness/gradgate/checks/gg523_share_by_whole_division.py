"""A share of progress is made by whole division: it is 0 to the end, and then 1.

## What it detects

`min(1.0, step // ramp_steps)`, `start + (end - start) * (step // total)`, `cos(pi * (step // total))`.

## Why it matters

A ramp becomes a jump: the weights are uniform to its last step and all there on the next, a warm-up trains nothing, a
temperature is annealed at one step. Its ends are right, and a test of the ends passes.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A whole division is `a //
b`, `int(a / b)` or `floor(a / b)`; values are followed through names, `float()`, attributes, properties, arguments and
what functions give back. A finding is one that

* is held below 1: by `min` with a `1.0`, or with a `1` where the other number is multiplied or is the result of a
  function that says it is a float, by a condition that gives `1.0` instead, or by `clamp`, `clip` and the like;
* is taken from `1.0`;
* goes from one value to another: `a + (b - a) * share`, `(1 - share) * a + share * b`, `torch.lerp`;
* stands in a cosine beside `pi`.

A base that is raised to one (`gamma ** (step // size)`) goes by steps on purpose, and so does what the same function
divides by `/` as well. Statistic: such divisions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
return min(1.0, float(self.step // self.ramp_steps))
```

Good:

```python
return min(1.0, self.step / self.ramp_steps)
```

## How to fix

Divide with `/`.

## Known limits

Shares that are multiplied by a rate and nothing else are taken for steps.

## Sources

An annealing fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.origins import Origin, Origins
from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG523", "share-by-whole-division"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
FLOORS = ("floor", "int", "floor_divide", "trunc")
BOUNDS = ("clamp", "clip", "clamp_", "clip_", "clamp_max", "minimum")
AROUND = ("float", "max", "torch.tensor", "np.float32", "np.float64")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for shares that are whole numbers."""
    return read_as_one(subject, [("//", "floor", "int(", "trunc(")], _found, "shares")


def _found(own: Places) -> Iterator[Finding]:
    origins, seen = Origins(own, around=AROUND), set[int]()
    for place in own.functions:
        for node in place.nodes:
            for share, told in _shares(node, place):
                for origin in _whole(share, place, origins):
                    if id(origin.node) not in seen:
                        seen.add(id(origin.node))
                        yield _finding(origin, place, told)


def _shares(node: ast.AST, place: Place) -> Iterator[tuple[ast.expr, str]]:
    """What a node takes for a share of a whole."""
    if isinstance(node, ast.Call):
        name, given = called_name(node), list(node.args)
        if name in ("min", "minimum") and len(given) == 2:
            ones = [each for each in given if _is_one(each, whole=_is_float(node, place))]
            yield from ((each, "holds it below 1") for each in given if len(ones) == 1 and each not in ones)
        elif name in BOUNDS:
            values = node.func.value if isinstance(node.func, ast.Attribute) else None
            of_library = values is not None and dotted(values) in ("torch", "np", "numpy", "jnp", "math")
            inner = given.pop(0) if (of_library or values is None) and given else values
            words = [word.value for word in node.keywords]
            if inner is not None and any(_is_one(each) for each in (*given[-1:], *words)):
                yield inner, "holds it below 1"
        elif name == "cos" and given:
            factors = list(_factors(place.names.held(given[0])))
            if any(dotted(each).endswith("pi") for each in factors):
                yield from ((each, "takes its cosine") for each in factors)
        elif name == "lerp" and given:
            yield given[-1], "goes from one value to another by it"
    elif isinstance(node, ast.IfExp | ast.If) and isinstance(node.test, ast.Compare):
        of = node.test.left if _is_one(node.test.comparators[0], whole=True) else None
        ends = [node.body, node.orelse] if isinstance(node, ast.IfExp) else []
        given = [value for target, value in assignments_in([*node.body] if isinstance(node, ast.If) else [])
                 if of is not None and dotted(target) == dotted(of)]  # fmt: skip
        same = [each for each in ends if of is not None and ast.unparse(each) == ast.unparse(of)]
        if of is not None and (any(map(_is_one, given)) or (same and any(map(_is_one, ends)))):
            yield of, "holds it below 1"
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and _is_one(node.left):
        yield node.right, "takes it from 1.0"
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from ((each, "goes from one value to another by it") for each in _between(node))


def _is_one(node: ast.expr, *, whole: bool = False) -> bool:
    value = node.value if isinstance(node, ast.Constant) else None
    return value == 1 and (isinstance(value, float) or (whole and not isinstance(value, bool)))


def _is_float(call: ast.Call, place: Place) -> bool:
    """Whether what a call gives has a fraction: it is multiplied, or what a function says it gives back."""
    if dotted(place.function.returns or call) == "float" and any(each is call for each in place.returned):
        return True
    for node in place.nodes:
        sides = (node.left, node.right) if isinstance(node, ast.BinOp) else ()
        if any(each is call or place.names.held(each) is call for each in sides):
            return isinstance(node.op, ast.Mult | ast.Sub)  # type: ignore[attr-defined]
    return False


def _between(node: ast.BinOp) -> Iterator[ast.expr]:
    """The share in `a + (b - a) * share`, and in `(1 - share) * a + share * b`."""
    for first, product in ((node.left, node.right), (node.right, node.left)):
        factors = list(_factors(product))
        spans = [each for each in factors if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Sub)]
        if any(ast.unparse(each.right) == ast.unparse(first) for each in spans) and len(factors) == 2:
            yield from (each for each in factors if each not in spans)
        others = {ast.unparse(each) for each in _factors(first)}
        rests = [each for each in spans if _is_one(each.left, whole=True) and ast.unparse(each.right) in others]
        yield from (each.right for each in rests)


def _factors(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from (*_factors(node.left), *_factors(node.right))
    else:
        yield node


def _whole(share: ast.expr, place: Place, origins: Origins) -> Iterator[Origin]:
    """The whole divisions that a number is."""
    for origin in origins.of(share, place):
        if _is_whole(origin.node) and not _is_divided_too(origin):
            yield origin


def _is_divided_too(origin: Origin) -> bool:
    """Whether the function divides the same two otherwise as well, where a setting says which."""
    if not isinstance(origin.node, ast.BinOp):
        return False
    sides = [ast.unparse(origin.node.left), ast.unparse(origin.node.right)]
    return any(
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and [ast.unparse(node.left), ast.unparse(node.right)] == sides
        for node in origin.place.nodes
    )


def _is_whole(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return isinstance(node.op, ast.FloorDiv)
    given = given_by(node) if isinstance(node, ast.Call) and called_name(node) in FLOORS else []
    divides = [each for each in given if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Div)]
    return len(given) == 1 and len(divides) == 1


def _finding(origin: Origin, place: Place, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{ast.unparse(origin.node)}` is a whole number, and {place.name}() {told}: 0 to the end, then 1; "
        "allowed: a division by `/`",
        culprit=origin.place.file.at(origin.node, origin.place.name),
        fix="divide by `/`",
    )

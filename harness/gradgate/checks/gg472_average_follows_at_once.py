"""The decay of an average of weights and what is left of 1 have changed places.

## What it detects

`shadow.mul_(1 - decay).add_(p, alpha=decay)`, `ema.lerp_(p, decay)` and `ema = (1 - decay) * ema + decay * p`: with a
decay of 0.999 the average is the model of one step ago.

## Why it matters

It looks like an average, is saved as one, and smooths nothing. Nobody sees it: its scores are the model's own.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings stand in a function
or a class that is named after an average of weights (ema, average, polyak, shadow), or have such a name on their left:
`mul_` by 1 less something that is called decay, beta or momentum with an `add_` of that behind it, `lerp_` with it for
a weight, and sums of that form that are assigned to what stands beside 1 less the decay. A `tau` has the other meaning;
beta, mu and momentum may have either, and have this one where a default, a setting or a call says more than a half. A
name stands for what it was assigned, a method or a property for what it returns, and `min`, `max` and a choice of two
for any of what is in them: a rate that warms up is the decay as well.

Statistic: such updates; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
shadow.lerp_(p, self.decay)
```

Good:

```python
shadow.lerp_(p, 1 - self.decay)
```

## How to fix

Multiply the average by the decay, and the model by what is left of 1.

## Known limits

A decay by another name, or one that is small on purpose, is not known.

## Sources

PyTorch, `torch.optim.swa_utils.get_ema_avg_fn`: decay * ema + (1 - decay) * current.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.averages import AVERAGE, DECAY, is_of_average
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import File, Function, dotted, files_of, read_file_by_file
from gradgate.checks.source.values import assignments_in, defaults_of, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG472", "average-follows-at-once"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
KEEPS = re.compile(r"decay|keep", re.IGNORECASE)
HALF = 0.5
DEPTH = 3  # names, methods and choices that are followed


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read how averages are moved."""
    files = files_of(subject)
    return read_file_by_file(subject, lambda file: _of_file(file, files), "updates")


def _of_file(file: File, files: tuple[File, ...]) -> Iterator[Finding]:
    if not file.has("ema", "EMA", "averag", "Averag", "polyak", "shadow"):
        return
    own = places_in(files)
    for place in (place for place in own.functions if place.file is file):
        named = is_of_average(place.name, place.owner)
        read = _Read(place, own)
        for node in place.nodes:
            if isinstance(node, ast.expr | ast.stmt) and read.is_swapped(node, named=named):
                names = {last_name(part) for part in read.decays(node)}
                if all(KEEPS.search(name) or _is_large(name, files) for name in names):
                    yield _finding(file, node, place.name)


def _is_large(name: str, files: tuple[File, ...]) -> bool:
    """Whether something of a name is more than a half: a default, a field, what is assigned or given."""
    nodes = [node for file in files if file.has(name) for node in file.nodes]
    said = [(dotted(target).rpartition(".")[2], value) for target, value in assignments_in(nodes)]
    for node in nodes:
        if isinstance(node, Function):
            said += [(each.arg, value) for each, value in defaults_of(node.args)]
        elif isinstance(node, ast.keyword) and node.arg is not None:
            said.append((node.arg, node.value))
        elif isinstance(node, ast.Dict):
            said += [(str(key.value), value) for key, value in zip(node.keys, node.values, strict=True)
                     if isinstance(key, ast.Constant)]  # fmt: skip
    return any(
        is_named == name and isinstance(value, ast.Constant) and isinstance(value.value, float) and value.value > HALF
        for is_named, value in said
    )


class _Read:
    """The updates of a function, with what its names and the methods that it calls stand for.

    Args:
        place: the function.
        own: the trainer's functions.
    """

    def __init__(self, place: Place, own: Places) -> None:
        self.place, self.own = place, own

    def decays(self, node: ast.AST) -> Iterator[ast.expr]:
        """The decays that an expression is made of."""
        for part in ast.walk(node):
            if isinstance(part, ast.Name | ast.Attribute | ast.Call):
                yield from self._decay(part, self.place, DEPTH)

    def is_swapped(self, node: ast.AST, *, named: bool) -> bool:
        """Whether a node keeps 1 - decay of an average."""
        return self._is_swapped_call(node, named=named) or self._is_swapped_sum(node, named=named)

    def _decay(self, node: ast.expr, place: Place, hops: int) -> list[ast.expr]:
        """The decays that an expression may be; none: it is another number."""
        if isinstance(node, ast.Name | ast.Attribute) and DECAY.search(last_name(node)):
            held = place.names.held(node)
            return [] if isinstance(held, ast.BinOp) and _is_one_less(held) else [node]
        if not hops:
            return []
        if isinstance(node, ast.IfExp):
            return [*self._decay(node.body, place, hops - 1), *self._decay(node.orelse, place, hops - 1)]
        if isinstance(node, ast.Call) and dotted(node.func) in ("min", "max", "float"):
            return [found for each in node.args for found in self._decay(each, place, hops - 1)]
        if isinstance(node, ast.Name) and (held := place.names.held(node)) is not node:
            return self._decay(held, place, hops - 1)
        called = self.own.called(node, place) if isinstance(node, ast.Call) else None
        if isinstance(node, ast.Attribute) and dotted(node.value) == "self" and place.owner is not None:
            methods = self.own.methods_of(place.owner)
            called = next((each for each in methods if each.name == node.attr and each.function.decorator_list), None)
        given = called.returned if called is not None else []
        found = [self._decay(each, called, hops - 1) for each in given] if called is not None else []
        return [part for each in found for part in each] if all(found) else []

    def _is_swapped_call(self, node: ast.AST, *, named: bool) -> bool:
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            return False
        of = node.func.value
        if node.func.attr == "lerp_" and len(node.args) == 2:
            return self._is_decay(node.args[1]) and (named or bool(AVERAGE.search(last_name(_base(of)))))
        if node.func.attr != "add_" or not isinstance(of, ast.Call) or not isinstance(of.func, ast.Attribute):
            return False
        if of.func.attr != "mul_" or not of.args or not self._is_rest(of.args[0]):
            return False
        factor = next((word.value for word in node.keywords if word.arg == "alpha"), None)
        added = factor or (node.args[0] if node.args and isinstance(node.args[0], ast.BinOp) else None)
        parts = [added.left, added.right] if isinstance(added, ast.BinOp) else [added] if added is not None else []
        return any(map(self._is_decay, parts)) and (named or bool(AVERAGE.search(last_name(_base(of.func.value)))))

    def _is_swapped_sum(self, node: ast.AST, *, named: bool) -> bool:
        """Whether what is assigned is (1 - decay) times itself and decay times another."""
        if (
            not isinstance(node, ast.Assign)
            or not isinstance(node.value, ast.BinOp)
            or not isinstance(node.value.op, ast.Add)
        ):
            return False
        target = ast.unparse(node.targets[0])
        kept = {"rest": "", "decay": ""}
        for side in (node.value.left, node.value.right):
            if isinstance(side, ast.BinOp) and isinstance(side.op, ast.Mult):
                for factor, other in ((side.left, side.right), (side.right, side.left)):
                    if self._is_rest(factor):
                        kept["rest"] = ast.unparse(other)
                    elif self._is_decay(factor):
                        kept["decay"] = ast.unparse(other)
        is_average = named or bool(AVERAGE.search(last_name(_base(node.targets[0]))))
        return is_average and kept["rest"] == target and kept["decay"] not in ("", target)

    def _is_rest(self, node: ast.expr) -> bool:
        """Whether something is 1 less a decay."""
        is_difference = isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)
        return is_difference and ast.unparse(node.left) in ("1", "1.0") and self._is_decay(node.right)  # type: ignore[attr-defined]

    def _is_decay(self, node: ast.expr) -> bool:
        return bool(self._decay(node, self.place, DEPTH))


def _is_one_less(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.Sub) and ast.unparse(node.left) in ("1", "1.0")


def _base(node: ast.expr) -> ast.expr:
    while isinstance(node, ast.Subscript) or (isinstance(node, ast.Attribute) and node.attr == "data"):
        node = node.value
    return node


def _finding(file: File, node: ast.expr | ast.stmt, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() keeps 1 - decay of the average, in `{ast.unparse(node)}`; allowed: the decay",
        culprit=file.at(node, function),
        fix="multiply the average by the decay, and the model by what is left of 1",
    )

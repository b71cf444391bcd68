"""Each micro-batch's mean over its own tokens is divided by the number of micro-batches.

## What it detects

`(loss / accumulation).backward()`, where `loss` is a mean over the valid tokens of its micro-batch.

## Why it matters

A token of a short micro-batch weighs more than one of a long one, and two micro-batches of 8 rows are another update
than one of 16. With rows of one length it is the same, and many trainers accept the difference: a warning.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are loops that run
a backward at each turn, and step an optimizer once in several turns or behind the loop, and those over a window of
batches, whatever hands it to them. A finding is a loss that is divided there by the number of turns, in front of
backward or in its argument, or that a method multiplies by such a share that it is given, where

* what computes the loss, followed by names through the trainer's functions and classes, divides by the sum of a mask or
  of a comparison, takes the mean of what a mask selects, or calls a cross entropy that averages over labels of which
  some are ignored, or is the `.loss` of a model of a library;
* neither the loop's function nor those have a name or an argument that counts tokens or items (`num_items`, `n_tokens`,
  `divisor`), with which a loss is made one of the whole update.

Statistic: such divisions; a warning each.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for batch in micro_batches:
    loss = (ce(batch) * batch.mask).sum() / batch.mask.sum()
    (loss / len(micro_batches)).backward()
```

Good:

```python
n_tokens = sum(batch.mask.sum() for batch in micro_batches)
for batch in micro_batches:
    ((ce(batch) * batch.mask).sum() / n_tokens).backward()
```

## How to fix

Take the sum of each micro-batch, and divide by the count of the whole update's tokens.

## Known limits

Losses are followed by the last of their names: functions of one name are taken for each other. Libraries that divide by
the number of micro-batches themselves are not seen. What the parts of an update weigh is GG410's, which runs it.

## Sources

Hugging Face and Unsloth, "Fixing Gradient Accumulation" (2024): the `num_items_in_batch` of transformers' Trainer.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from gradgate.checks.source.accumulation import (
    MICRO,
    Methods,
    accumulations,
    every,
    methods_of,
    parts_of_updates,
    steps_in,
)
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, File, Function, called_name, dotted, files_of, given_by
from gradgate.checks.source.values import Names, assignments_in, own_nodes, parameters_of, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG447", "parts-weigh-alike"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
HOPS = 6
MASK = re.compile(r"mask|valid|(^|[._])(is_)?(real|keep|not_pad|member)(_|$)", re.IGNORECASE)
COUNTED = re.compile(
    r"num_items|(^|_)(n|num|number_of|total|all|window|global)_(\w+_)?(tokens?|items|labels|targets|valid|positions)"
    r"|(tokens?|items|valid|labels?|positions?|targets?|mask)_(count|num|total|sum)|divisor|denom|normali[sz]er",
    re.IGNORECASE,
)
NO_LOSS = re.compile(
    r"eval|metric|entropy|log$|^log|accura|varian|report|reward|return|advantage|whiten|normal|weights|stat|collat|load",
    re.IGNORECASE,
)
CROSS = re.compile(r"(^|\.)(cross_entropy|nll_loss|CrossEntropyLoss|NLLLoss)$")
MOVES = ("clamp", "clamp_min", "clamp_min_", "to", "float", "double", "type_as", "detach", "long", "int", "item")
IGNORES = ("-100", "ignore_index", "IGNORE")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what each loop divides by the number of its turns."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    losses, own = _Losses(files), places_in(files)
    findings = tuple(finding for file in files for finding in _of_file(file, losses, own))
    return Outcome(findings, {"divisions": len(findings)}, {"divisions": 0})


def _of_file(file: File, losses: _Losses, own: Places) -> Iterator[Finding]:
    if not file.has("backward"):
        return
    methods, seen = methods_of(file, own), set[int]()
    for function, _ in file.functions:
        for loop, numbers in _loops(function, methods):
            called = {dotted(node.func).removeprefix("self.") for node in ast.walk(loop) if isinstance(node, ast.Call)}
            for share, told, loss in _handed_on(loop, numbers, Names(function), own):
                counted = _counts(own_nodes(function)) or _counts(told.nodes)
                if id(share) not in seen and not counted and (mean := losses.mean_behind(loss, told.function)):
                    seen.add(id(share))
                    yield _finding(file, share, function.name, mean)
            helpers = [each for each, _ in file.functions if each.name in methods.backward & called]
            for where, nodes in ((function, list(ast.walk(loop))), *((each, own_nodes(each)) for each in helpers)):
                for division, loss in _divided(nodes, numbers, Names(where)):
                    if id(division) in seen or _counts(own_nodes(function)) or _counts(own_nodes(where)):
                        continue
                    seen.add(id(division))
                    if mean := losses.mean_behind(loss, where):
                        yield _finding(file, division, where.name, mean)


def _loops(function: Function, methods: Methods) -> Iterator[tuple[ast.For | ast.While, set[str]]]:
    """The loops whose turns are parts of an update, each with what their number is called."""
    nodes = own_nodes(function)
    for one in accumulations(nodes, Names(function), methods):
        number = every(one.test)
        yield one.loop, {ast.unparse(number[1])} if number else set()
    parts = parts_of_updates(nodes)
    for loop in (node for node in nodes if isinstance(node, ast.For)):
        over = ast.unparse(loop.iter)
        is_part = over in parts or id(loop) in methods.windows or is_of_accumulation(over) or MICRO.search(over)
        if is_part and not any(steps_in(ast.walk(loop))):
            given = loop.iter.args if isinstance(loop.iter, ast.Call) else []
            yield loop, {f"len({over})", *(f"len({ast.unparse(each)})" for each in given), *map(ast.unparse, given)}


def _divided(nodes: Iterable[ast.AST], numbers: set[str], names: Names) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The divisions of what backward starts at by the number of turns, each with what is divided."""
    nodes = list(nodes)
    starts = [start for node in nodes if isinstance(node, ast.Call) and (start := _start(node)) is not None]
    for start in starts:
        name = dotted(start)
        for node in nodes:
            stored = isinstance(node, ast.AugAssign) and dotted(node.target) == name and isinstance(node.op, ast.Div)
            if stored and name and _is_number(node.value, numbers, names):  # type: ignore[attr-defined]
                yield node.value, start  # type: ignore[attr-defined]
        division = names.held(start)
        if isinstance(division, ast.BinOp) and _is_divided(division, numbers, names):
            yield division, division.left
        elif isinstance(division, ast.Call) and (divided := _divided_by_call(division, numbers, names)) is not None:
            yield division, divided


def _handed_on(
    loop: ast.AST, numbers: set[str], names: Names, own: Places
) -> Iterator[tuple[ast.expr, Place, ast.expr]]:
    """The shares of an update that a loop gives methods, each with such a method and the loss that its backward begins
    at times it: `self.objective.backward(batch, 1.0 / self.accum)`."""
    for call in (node for node in ast.walk(loop) if isinstance(node, ast.Call)):
        for told in own.methods(called_name(call)):
            for name, share in told.given(call).items():
                held = names.held(share)
                if not (isinstance(held, ast.BinOp) and _is_divided(_times_one(held), numbers, names)):
                    continue
                for node in told.nodes:
                    start = _start(node) if isinstance(node, ast.Call) else None
                    scaled = told.names.held(start) if start is not None else None
                    sides = [scaled.left, scaled.right] if isinstance(scaled, ast.BinOp) else []
                    others = [side for side in sides if dotted(side) != name]
                    if len(others) == 1 and isinstance(scaled, ast.BinOp) and isinstance(scaled.op, ast.Mult):
                        yield share, told, others[0]


def _times_one(share: ast.BinOp) -> ast.BinOp:
    """A product with a share, so that `1 / n` alone is one."""
    return ast.BinOp(ast.Constant(1.0), ast.Mult(), share)


def _divided_by_call(call: ast.Call, numbers: set[str], names: Names) -> ast.expr | None:
    """What `loss.div(n)` or `torch.div(loss, n)` divides by the number of turns."""
    if not (isinstance(call.func, ast.Attribute) and call.func.attr in ("div", "div_") and call.args):
        return None
    if not _is_number(call.args[-1], numbers, names):
        return None
    return call.args[0] if dotted(call.func.value) == "torch" else call.func.value


def _start(call: ast.Call) -> ast.expr | None:
    """What a backward starts at, without what scales it."""
    if not (isinstance(call.func, ast.Attribute) and call.func.attr.endswith("backward")):
        return None
    start = call.args[0] if call.args else call.func.value
    scaled = isinstance(start, ast.Call) and called_name(start) == "scale" and start.args
    return start.args[0] if scaled else start  # type: ignore[attr-defined]


def _is_divided(node: ast.BinOp, numbers: set[str], names: Names) -> bool:
    if isinstance(node.op, ast.Div):
        return _is_number(node.right, numbers, names)
    share = names.held(node.right)
    one = isinstance(share, ast.BinOp) and isinstance(share.op, ast.Div) and ast.unparse(share.left) in ("1", "1.0")
    return isinstance(node.op, ast.Mult) and one and _is_number(share.right, numbers, names)  # type: ignore[attr-defined]


def _is_number(node: ast.expr, numbers: set[str], names: Names) -> bool:
    """Whether something is the number of micro-batches of an update."""
    texts = [ast.unparse(node), ast.unparse(names.held(node))]
    if any(map(COUNTED.search, texts)):
        return False
    return any(text in numbers or is_of_accumulation(text) for text in texts)


def _counts(nodes: Sequence[ast.AST]) -> bool:
    """Whether a function divides or multiplies by a count of tokens, or gives it to what it calls."""
    for node in nodes:
        parts: list[ast.expr] = []
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Mult):
            parts = [node.left, node.right]
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div | ast.Mult):
            parts = [node.value]
        elif isinstance(node, ast.Call) and not NO_LOSS.search(called_name(node)):
            parts = given_by(node)
        if any(COUNTED.search(dotted(part).rpartition(".")[2]) for part in parts):
            return True
    return False


@dataclass(frozen=True)
class _Mean:
    """A mean over the valid tokens of what a function is given.

    Args:
        told: how it is written.
        function: where.
    """

    told: str
    function: str


class _Losses:
    """The functions of a trainer, by what they are called."""

    def __init__(self, files: Sequence[File]) -> None:
        self._ignores = any(file.has(*IGNORES) for file in files)
        self._functions: dict[str, list[Function]] = {}
        self._held: dict[str, list[ast.expr]] = {}
        for file in files:
            for function, owner in file.functions:
                self._functions.setdefault(function.name, []).append(function)
                if owner is not None and function.name in ("forward", "__call__"):
                    self._functions.setdefault(owner.name, []).append(function)
            for target, value in assignments_in(file.nodes):
                self._held.setdefault(dotted(target).rpartition(".")[2], []).append(value)
            for node in file.nodes:
                if isinstance(node, ast.keyword) and node.arg:
                    self._held.setdefault(node.arg, []).append(node.value)

    def mean_behind(self, loss: ast.expr, function: Function) -> _Mean | None:
        """The mean over valid tokens that a loss is made of; none where a count of tokens is an argument on the way."""
        seen = set[str]()
        begun = _slice(loss, own_nodes(function))
        found = self._mean_in(begun, function)
        level = _called(begun)
        libraries = any(isinstance(node, ast.Attribute) and node.attr == "loss" for node in begun)
        for _ in range(HOPS):
            reached = [each for name in sorted(level - seen) for each in self._reached(name)]
            seen |= level
            level = set()
            for each in reached:
                if any(COUNTED.search(argument.arg) for argument in parameters_of(each)):
                    return None
                libraries = libraries and each.name != "forward"
                inside = list(ast.walk(each))
                inner = [part for part in inside if isinstance(part, Function)]
                for part in inner:
                    found = found or self._mean_in(own_nodes(part), part)
                level |= _called(inside)
            for name in seen:
                level |= _called(self._held.get(name, [])) if name not in self._functions else set()
        if found is None and libraries and self._ignores:
            return _Mean("the model's own loss", function.name)
        return found

    def _mean_in(self, nodes: Sequence[ast.AST], function: Function) -> _Mean | None:
        """The first mean over valid tokens in nodes of a function that is not taken out of the graph for a log."""
        names = Names(function)
        for node in nodes:
            if self._is_mean(node, names) and not any(node in ast.walk(part) for part in nodes if _is_told(part)):
                return _Mean(ast.unparse(node), function.name)
        return None

    def _reached(self, name: str) -> list[Function]:
        return [] if NO_LOSS.search(name) else self._functions.get(name, [])

    def _is_mean(self, node: ast.AST, names: Names) -> bool:
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            above = f"{ast.unparse(node.left)} {ast.unparse(names.held(node.left))}"
            return "sum(" in above and _is_sum_of_mask(node.right, names)
        if not isinstance(node, ast.Call):
            return False
        if CROSS.search(dotted(node.func)):
            words = {word.arg: word.value for word in node.keywords}
            averages = "reduction" not in words or ast.unparse(words["reduction"]) == "'mean'"
            return averages and ("ignore_index" in words or self._ignores)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "mean" and not node.args and not node.keywords:
            chosen = names.held(node.func.value)
            if isinstance(chosen, ast.Subscript):
                return _is_mask(chosen.slice, names)
            return isinstance(chosen, ast.Call) and dotted(chosen.func).endswith("masked_select")
        return False


def _is_told(node: ast.AST) -> bool:
    """Whether a node takes a number out of the graph."""
    if isinstance(node, ast.With):
        return any("no_grad" in ast.unparse(item) for item in node.items)
    if not isinstance(node, ast.Call):
        return False
    return dotted(node.func) == "float" or getattr(node.func, "attr", "") in ("item", "detach", "tolist")


def _slice(loss: ast.expr, nodes: list[ast.AST]) -> list[ast.AST]:
    """The nodes of which a loss is made in its function."""
    held: dict[str, list[ast.expr]] = {}
    for target, value in assignments_in(nodes):
        for place in places_of(target):
            held.setdefault(dotted(place), []).append(value)
    found, waiting, seen = list[ast.AST](), [loss], set[str]()
    while waiting:
        for node in ast.walk(waiting.pop()):
            found.append(node)
            if isinstance(node, ast.Name) and node.id not in seen:
                seen.add(node.id)
                waiting += held.get(node.id, [])
    return found


def _called(nodes: Iterable[ast.AST]) -> set[str]:
    """What nodes call, by the last of its name."""
    calls = (part for node in nodes for part in ast.walk(node) if isinstance(part, ast.Call))
    return {called_name(call) for call in calls}


def _is_sum_of_mask(node: ast.expr, names: Names, hops: int = 6) -> bool:
    """Whether something is the number of places that count, of everything that a function is given."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _is_sum_of_mask(node.left, names, hops)
    if isinstance(node, ast.Name | ast.Attribute):
        held = names.held(node)
        return held is not node and hops > 0 and _is_sum_of_mask(held, names, hops - 1)
    if not isinstance(node, ast.Call):
        return False
    last = called_name(node)
    if last in ("max", "float", "clamp") and node.args and dotted(node.func) in ("max", "float", "torch.clamp"):
        return any(_is_sum_of_mask(part, names, hops) for part in node.args)
    if last in MOVES and isinstance(node.func, ast.Attribute):
        return _is_sum_of_mask(node.func.value, names, hops)
    if dotted(node.func) == "torch.sum" and len(node.args) == 1:
        return _is_mask(node.args[0], names)
    whole = last == "sum" and not node.args and not node.keywords and isinstance(node.func, ast.Attribute)
    return whole and _is_mask(node.func.value, names)  # type: ignore[attr-defined]


def _is_mask(node: ast.expr, names: Names) -> bool:
    held = names.held(node)
    return any(
        isinstance(part, ast.Compare)
        or (isinstance(part, ast.Name | ast.Attribute) and MASK.search(dotted(part).rpartition(".")[2]))
        for each in (node, held)
        for part in ast.walk(each)
    )


def _finding(file: File, node: ast.expr, function: str, mean: _Mean) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() divides by the number of micro-batches what is a mean over one's own tokens "
            f"(`{mean.told}` in {mean.function}()): those of a short one weigh more"
        ),
        severity="warning",
        culprit=file.at(node, function),
        fix="take sums, and divide them by the count of the whole update's tokens",
    )

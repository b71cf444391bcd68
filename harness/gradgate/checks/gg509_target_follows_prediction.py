"""A value loss's target is computed from the very prediction that it is compared with, gradient and all.

## What it detects

`loss(values, returns)` with `returns = gae(rewards, values)`, where neither the call nor what it calls leaves the
gradient out.

## Why it matters

The target moves towards the prediction, as the prediction does towards the target. Of the squared error of a return
that is made of the value itself next to nothing is left as a gradient, and what is left pulls later values towards
earlier ones. The loss falls, and the values mean nothing.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A pair is two arguments of a
call that is named after a loss, an error or a regression, or the two sides of a difference that is squared, of which
one is named after returns or targets. It is a finding where what that name was assigned is, or is one of what is given
by, or is a sum with, a call of a function of the trainer's, which is given the other one, and there is no `detach`,
`no_grad`, `inference_mode`, `item`, `tolist`, `numpy` or `data` in the call, around it, where the other name was
assigned, on the function, in it, or in what it calls by a name of the trainer's.

Statistic: such pairs; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
values = model(batch).values
returns = gae(rewards, values, mask)
loss = mse_loss(values, returns)
```

Good:

```python
returns = gae(rewards, values.detach(), mask)
```

## How to fix

Give the function `values.detach()`, or compute targets under `torch.no_grad()`.

## Known limits

Targets that are made by formulas in place, and pairs that are put together in a dictionary, are not seen. Which loss
trains which module is GG203's, which runs it.

## Sources

Sutton and Barto, "Reinforcement Learning", section 9.3: semi-gradient methods take the target as given. Schulman and
others, "High-Dimensional Continuous Control Using Generalized Advantage Estimation", section 5.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.carried_gradients import WITHOUT
from gradgate.checks.source.places import Places, places_in
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of, given_by
from gradgate.checks.source.values import Names, outwards, own_nodes, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG509", "target-follows-prediction"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LOSS = re.compile(r"loss|mse|huber|error|regress|smooth_l1", re.IGNORECASE)
TARGET = re.compile(r"(^|[._])(returns?|rets?|targets?|goals?|lambda_returns?)($|_)", re.IGNORECASE)
POWERS = ("square", "abs", "pow")
HOPS = 3  # functions that call each other


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what each value loss is given."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(finding for file in files for finding in _of_file(file, places_in(files)))
    return Outcome(findings, {"pairs": len(findings)}, {"pairs": 0})


def _of_file(file: File, own: Places) -> Iterator[Finding]:
    if not file.has("return", "target"):
        return
    parents: dict[int, ast.AST] = {}
    for function, _ in file.functions:
        if any(WITHOUT.search(ast.unparse(each)) for each in function.decorator_list):
            continue
        names, nodes = Names(function), own_nodes(function)
        for prediction, target in _pairs(nodes):
            made = _made(target, nodes, names)
            if made is None or not _follows(made, prediction, names, own):
                continue
            parents = parents or parents_in(file.tree)
            if not _is_left_out_around(made, parents, own):
                yield _finding(file, made, function.name, ast.unparse(prediction), ast.unparse(target))
                break


def _pairs(nodes: list[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The prediction and the target of each loss."""
    for node in nodes:
        given: list[ast.expr] = []
        if isinstance(node, ast.Call) and LOSS.search(called_name(node)):
            given = given_by(node)
        elif isinstance(squared := _squared(node), ast.BinOp) and isinstance(squared.op, ast.Sub):
            given = [squared.left, squared.right]
        given = [each.value if isinstance(each, ast.Subscript) else each for each in given]
        targets = [each for each in given if isinstance(each, ast.Name) and TARGET.search(each.id)]
        others = [each for each in given if isinstance(each, ast.Name | ast.Attribute) and each not in targets]
        yield from ((other, target) for target in targets for other in others)


def _made(target: ast.expr, nodes: list[ast.AST], names: Names) -> ast.Call | None:
    """The call that a target comes from: as one of what it gives, or as a part of a sum with the prediction."""
    made = names.held(target)
    if made is target:
        given = [
            node.value
            for node in nodes
            if isinstance(node, ast.Assign) and node.lineno < target.lineno
            for place in node.targets
            if isinstance(place, ast.Tuple) and dotted(target) in map(dotted, place.elts)
        ]
        made = given[-1] if given else made
    if isinstance(made, ast.BinOp) and isinstance(made.op, ast.Add):
        made = next((held for side in (made.left, made.right) if (held := names.held(side)) is not side), made)
    return made if isinstance(made, ast.Call) else None


def _squared(node: ast.AST) -> ast.expr | None:
    """What a node is the square of, or the size."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return node.left
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in POWERS):
        return None
    return node.args[0] if dotted(node.func.value) == "torch" and node.args else node.func.value


def _follows(made: ast.Call, prediction: ast.expr, names: Names, own: Places) -> bool:
    """Whether a call of the trainer's is given a prediction as it is, and leaves its gradient in."""
    given = given_by(made)
    name = called_name(made)
    return (
        bool(own.named(name))
        and any(ast.unparse(each) == ast.unparse(prediction) for each in given)
        and not any(WITHOUT.search(ast.unparse(each)) for each in (made, names.held(prediction)))
        and not _leaves_out(name, own, HOPS)
    )


def _leaves_out(name: str, own: Places, hops: int) -> bool:
    """Whether a function of this name, or what it calls, leaves gradients out anywhere."""
    for place in own.named(name):
        function = place.function
        first = min((each.lineno for each in function.decorator_list), default=function.lineno)
        if any(WITHOUT.search(line) for line in place.file.lines[first - 1 : function.end_lineno]):
            return True
        called = {called_name(node) for node in ast.walk(function) if isinstance(node, ast.Call)}
        if hops and any(_leaves_out(each, own, hops - 1) for each in called - {name}):
            return True
    return False


def _is_left_out_around(node: ast.AST, parents: dict[int, ast.AST], own: Places) -> bool:
    """Whether a `with` around it leaves gradients out, by itself or by a function of the trainer's."""
    for around in outwards(node, parents):
        for item in around.items if isinstance(around, ast.With) else ():
            text, call = ast.unparse(item), item.context_expr
            name = called_name(call)
            if WITHOUT.search(text) or _leaves_out(name, own, HOPS):
                return True
    return False


def _finding(file: File, made: ast.Call, function: str, prediction: str, target: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() compares `{prediction}` with `{target}`, which is computed from it and carries its "
            "gradient; allowed: a target without one"
        ),
        culprit=file.at(made, function),
        fix=f"give `{dotted(made.func)}()` `{prediction}.detach()`, or compute targets under torch.no_grad()",
    )

"""A trunk is given the gradient of all heads so far once a head: the first head's as often as there are heads.

## What it detects

`hidden.backward(leaf.grad, retain_graph=True)` in the loop over heads that runs `loss.backward()` on a detached `leaf`,
whose `.grad` adds up from head to head.

## Why it matters

The trunk gets the first head's gradient H times, the second one's H - 1 times, and the last one's once. Each head's own
parameters are right, and so is the loss that is logged; the trunk follows the nearest head and a learning rate that
nobody set. With one head, where such code is tried first, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. In a loop that goes backward
through losses, by a call of its own or of a function of the trainer's, findings are `x.backward(leaf.grad)` and
`torch.autograd.backward(x, leaf.grad)`, written there or in a function that is given `leaf`, where `leaf` is made in
front of the loop, nothing in the loop empties `leaf.grad` or gives `leaf` anew, no condition on the loop's own names
chooses among its turns, and the gradient is no difference.

Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
leaf = hidden.detach().requires_grad_()
for head in heads:
    head.loss(leaf, batch).backward()
    hidden.backward(leaf.grad, retain_graph=True)
```

Good:

```python
leaf = hidden.detach().requires_grad_()
for head in heads:
    head.loss(leaf, batch).backward()
hidden.backward(leaf.grad)
```

## How to fix

Go back through the trunk once, behind the loop; or put `leaf.grad = None` behind each call.

## Known limits

Gradients that are kept in a container, and hooks, are not followed. Wrong gradients of a step are GG205's, which
runs it.

## Sources

Gloeckle et al. 2024, "Better & Faster Large Language Models via Multi-token Prediction", arXiv:2404.19737, section 2:
forward and backward of the heads in turn, gradients added up at the trunk's output, and one backward of the trunk.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.accumulation import is_backward
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted, given_by, names_in, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in, contains, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG214", "gradient-given-again"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
EMPTIES = re.compile(r"zero|clear|reset|empty", re.IGNORECASE)
LAST = re.compile(r"last|final|done", re.IGNORECASE)
Loop = ast.For | ast.While


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for gradients that add up in a loop, and are given on in each turn."""
    return read_place_by_place(subject, lambda file: file.has(".grad"), _of_place, "calls")


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    told = set[int]()
    for loop in (node for node in place.nodes if isinstance(node, ast.For | ast.While)):
        nodes = list(nodes_in(loop.body, *OTHERS))
        given = [(call, leaf) for call in nodes for leaf in _given_on(call, place, places)]
        for call, leaf in given:
            others = [node for node in nodes if node is not call and _goes_backward(node, place, places)]
            is_outside = not _is_renewed(leaf, loop, nodes, place)
            if others and is_outside and id(call) not in told and not _is_chosen(call, loop):
                told.add(id(call))
                yield _finding(place, call, leaf)


def _given_on(node: ast.AST, place: Place, places: Places, hops: int = 1) -> Iterator[str]:
    """The leaves whose gradients a call goes backward with, as they are written."""
    if not isinstance(node, ast.Call):
        return
    if is_backward(node):
        of_library = dotted(node.func).endswith("autograd.backward")
        words = [word.value for word in node.keywords if word.arg in ("gradient", "grad_tensors")]
        for value in [*node.args[of_library:], *words]:
            held = place.names.held(value)
            if not any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) for part in ast.walk(held)):
                yield from _leaves(held)
    elif hops and (called := places.called(node, place)) is not None and called is not place:
        given = called.given(node)
        for inner in called.nodes:
            for leaf in _given_on(inner, called, places, hops - 1):
                root, _, rest = leaf.partition(".")
                if root in given and dotted(given[root]) and not _empties(leaf, called.nodes):
                    yield ".".join(filter(None, (dotted(given[root]), rest)))
                elif root == "self" and not _empties(leaf, called.nodes):
                    yield leaf


def _leaves(value: ast.expr) -> Iterator[str]:
    for part in ast.walk(value):
        if isinstance(part, ast.Attribute) and part.attr == "grad" and (name := dotted(part.value)):
            yield name


def _goes_backward(node: ast.AST, place: Place, places: Places) -> bool:
    """Whether a node goes backward from something that is no leaf's gradient, itself or by a function that it calls."""
    if not isinstance(node, ast.Call):
        return False
    if is_backward(node):
        return not any(True for _ in _given_on(node, place, places))
    called = places.called(node, place)
    return called is not None and any(
        is_backward(inner) and not any(True for _ in _given_on(inner, called, places)) for inner in called.nodes
    )


def _is_renewed(leaf: str, loop: Loop, nodes: list[ast.AST], place: Place) -> bool:
    """Whether a loop makes a leaf in each turn, or empties its gradient."""
    targets = places_of(loop.target) if isinstance(loop, ast.For) else []
    targets += [one for target, _ in assignments_in(nodes) for one in places_of(target)]
    targets += [one for node in nodes if isinstance(node, ast.For) for one in places_of(node.target)]
    root = leaf.partition(".")[0]
    return any(dotted(one) in (leaf, root) for one in targets) or _empties(leaf, nodes)


def _empties(leaf: str, nodes: list[ast.AST]) -> bool:
    """Whether nodes take a leaf's gradient away: by an assignment, by a method or by a function that is given it."""
    if any(dotted(one) == f"{leaf}.grad" for target, _ in assignments_in(nodes) for one in places_of(target)):
        return True
    for node in nodes:
        if isinstance(node, ast.Delete) and any(dotted(each) == f"{leaf}.grad" for each in node.targets):
            return True
        if isinstance(node, ast.Call) and EMPTIES.search(called_name(node)):
            before = dotted(node.func).rpartition(".")[0]
            named = {before, *(dotted(each) for each in given_by(node))}
            if {leaf, f"{leaf}.grad"} & named:
                return True
    return False


def _is_chosen(call: ast.AST, loop: Loop) -> bool:
    """Whether a condition in a loop says in which of its turns a call runs."""
    turns = {dotted(one) for one in places_of(loop.target)} if isinstance(loop, ast.For) else names_in(loop.test)
    for node in nodes_in(loop.body, *OTHERS):
        if isinstance(node, ast.If) and contains(node, call) and not contains(node.test, call):
            names = names_in(node.test)
            if turns & names or any(LAST.search(name) for name in names):
                return True
    return False


def _finding(place: Place, call: ast.AST, leaf: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() gives `{leaf}.grad` on at each turn, by `{ast.unparse(call)}`, and it adds up "
        "from turn to turn: the first is given again each time; allowed: once, behind the loop",
        culprit=place.file.at(call, place.name),
        fix=f"go back once, behind the loop, or put `{leaf}.grad = None` behind each call",
    )

"""A loss is multiplied by weights that are made of it, gradient and all.

## What it detects

`weights = softmax((ce - reference_ce) / tau)` and `(ce * weights).sum()`, where neither is left without a gradient.

## Why it matters

Weights say where to look, and are to be numbers. With their gradient the loss falls by lowering the weight of what is
hard as well, and what the step follows may point the other way: of a weight that grows with the loss, the gradient's
second half grows with it, and a softmax over tokens pushes easy ones up. Nothing raises, and the weights that are
logged are right. It is most often one mode of several, where others are under `torch.no_grad()`.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are products of
something called a loss (`ce`, `nll`, `token_losses`) with something called weights, coefficients, scores or an excess,
in a function or, where both are its arguments, in its callers. A finding is one in which the weights come from that
loss, or from the logits that it was made of, through names, arithmetic, torch's functions, functions of the trainer's
objects whose class has `forward` or `__call__`, tables of functions, and fields of an object that is made of them, and
nothing on the way leaves the gradient out (`detach`, `no_grad`, `inference_mode`, `item`, `data`). Losses whose
weights are meant to have a gradient, by their function's name (focal, adaptive, learnt, uncertainty, minimax), are
left out.

Statistic: such products, one a function; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
scores = ce - reference_ce
loss = (ce * weigh(scores)).sum()
```

Good:

```python
scores = ce.detach() - reference_ce
```

## How to fix

Detach what weights are made of, where it enters.

## Known limits

Weights that are kept in a list or a mapping on the way are not followed. Which loss trains which module is
GG203's, which runs it.

## Sources

Lin et al. 2024, "Rho-1: Not All Tokens Are What You Need", arXiv:2404.07965: the selection is no part of the gradient.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.carried_gradients import Carried, is_bare, is_without
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name
from gradgate.checks.source.values import last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG511", "weights-carry-gradient"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LOSS = re.compile(r"(^|_)(ce|nll|xent|loss|losses|cross_entropy|surprisal)(_|$)", re.IGNORECASE)
WEIGHT = re.compile(
    r"(^|_)(w|ws|weights?|coefs?|coefficients?|importance|scores?|excess|gaps?|shares?)(_[A-Z]+)?$", re.IGNORECASE
)
MEANT = re.compile(r"focal|adaptive|learn(t|ed|able)|uncertain|minimax|poly|asymmetric|quality|gumbel", re.IGNORECASE)
LOGITS = re.compile(r"logits?|log_?probs?|logp|hidden|outputs?$", re.IGNORECASE)
HOPS = 2  # callers that are followed


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for losses that are multiplied by what they make."""
    return read_place_by_place(subject, lambda file: file.has("*", "mul("), _of_place, "products")


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    words = [place.name, place.owner.name if place.owner is not None else ""]
    if any(map(MEANT.search, words)):
        return
    for node, loss, weight in _products(place):
        for where, at, made in _where(place, places, node, loss, weight, HOPS):
            yield _finding(where, at, loss, made)
            return


def _products(place: Place) -> Iterator[tuple[ast.expr, ast.expr, ast.expr]]:
    """The products of a loss with weights, outermost first."""
    inner = set[int]()
    for node in place.nodes:
        if not isinstance(node, ast.BinOp | ast.Call) or id(node) in inner:
            continue
        factors = list(_factors(node))
        inner |= {id(part) for part in ast.walk(node) if isinstance(part, ast.BinOp)} if len(factors) > 1 else set()
        named = [each for each in factors if isinstance(_bare(each), ast.Name)]
        losses = [each for each in named if LOSS.search(last_name(_bare(each)))]
        weights = [each for each in named if each not in losses and WEIGHT.search(last_name(_bare(each)))]
        if losses and weights:
            yield node, _bare(losses[0]), _bare(weights[0])


def _factors(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from (*_factors(node.left), *_factors(node.right))
    elif called_name(node) in ("mul", "multiply") and isinstance(node, ast.Call):
        yield from node.args
        yield from [node.func.value] if isinstance(node.func, ast.Attribute) and len(node.args) == 1 else []
    else:
        yield node


def _bare(node: ast.expr) -> ast.expr:
    """What a factor is a part of, or a view."""
    while True:
        if isinstance(node, ast.Subscript):
            node = node.value
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and called_name(node) in ("float", "to", "unsqueeze", "squeeze", "view", "reshape", "flatten")
        ):
            node = node.func.value
        else:
            return node


def _whole(given: ast.expr | None) -> ast.expr | None:
    return None if given is None else _bare(given)


def _where(
    place: Place, places: Places, node: ast.expr, loss: ast.expr, weight: ast.expr, hops: int
) -> Iterator[tuple[Place, ast.expr, ast.expr]]:
    """Where weights that come from a loss are multiplied with it: here, or where both are given."""
    if is_bare(place) or is_without(node, place):
        return
    roots = {last_name(loss)}
    held = place.names.held(loss)
    if isinstance(held, ast.Call):
        roots |= {part.id for part in ast.walk(held) if isinstance(part, ast.Name) and LOGITS.search(part.id)}
    if place.names.held(weight) is not weight and Carried(place, places, roots).by(weight):
        yield place, node, weight
        return
    both = {last_name(loss), last_name(weight)}
    if not hops or not both <= place.parameters.keys() or place.names.held(weight) is not weight:
        return
    names = {place.name} | ({place.owner.name} if place.owner is not None and place.name == "forward" else set())
    for caller, call in (one for name in names for one in places.calls_of(name)):
        if places.called(call, caller) is place and caller is not place:
            given = place.given(call)
            one, other = given.get(last_name(loss)), given.get(last_name(weight))
            one, other = _whole(one), _whole(other)
            if isinstance(one, ast.Name) and other is not None:
                if isinstance(other, ast.Name):
                    yield from _where(caller, places, call, one, other, hops - 1)
                elif not is_bare(caller) and Carried(caller, places, {one.id}).by(other):
                    yield caller, call, other


def _finding(place: Place, node: ast.expr, loss: ast.expr, weight: ast.expr) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() multiplies a loss by `{ast.unparse(weight)}`, which is made of `{ast.unparse(loss)}` "
        "and carries its gradient; allowed: weights without one",
        culprit=place.file.at(node, place.name),
        fix="detach what weights are made of: `ce.detach() - reference_ce`",
    )

"""A held-out perplexity is the exponential of the loss that training minimises, with its weights.

## What it detects

`math.exp(val_loss)` as a perplexity, where `val_loss` is what `compute_loss` gives of held-out rows, and that weights
its tokens, smooths its labels or adds terms.

## Why it matters

It is no perplexity. A critic that moves weight to easy tokens lowers it, label smoothing puts a floor under it, and a
term more lifts it: runs with other weights cannot be compared, and the checkpoint that is kept is the one whose weights
are the kindest.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are exponentials
that are held under, or are an entry of, a name of perplexity (`ppl`), in a function that goes nowhere backward. What
they are taken of is followed through names, sums, lists, means, keys and calls of the trainer's functions. A finding is
one that comes to an expression which something that goes backward comes to as well, and that multiplies by what is
named after weights, coefficients or advantages, adds such a product, or gives `label_smoothing`.

Expressions that ask whether the model is training, and weights that are masks or counts, are none. Statistic: such
perplexities; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def compute_loss(self, batch):
    return (self.weights(batch) * self.token_losses(batch)).sum() / n

metrics["perplexity"] = math.exp(mean(self.compute_loss(batch) for batch in held_out))
```

Good:

```python
metrics["perplexity"] = math.exp(sum(self.token_losses(batch).sum() for batch in held_out) / tokens)
```

## How to fix

Evaluate the plain cross entropy of the next token, whatever training weights.

## Known limits

A held-out loss that is weighted and is called a loss is not looked at: it may be meant.

## Sources

Jelinek et al. 1977, "Perplexity - a measure of the difficulty of speech recognition tasks": of the model's own
probabilities.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.accumulation import is_backward
from gradgate.checks.source.origins import Origin, Origins
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, called_name, calls_in, dotted, files_of
from gradgate.checks.source.values import last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG499", "perplexity-of-the-objective"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PERPLEXITY = re.compile(r"ppl|perplex", re.IGNORECASE)
WEIGHT = re.compile(r"(^|_)(weights?|weighting|coef\w*|lambda|lam|alpha|beta|adv|advantages?)(_|\d|[A-Z]|$)")
NO_WEIGHT = re.compile(r"mask|valid|count|total|token|decay", re.IGNORECASE)
AROUND = ("float", "round", "torch.tensor", "torch.as_tensor", "np.mean", "numpy.mean", "torch.mean", "torch.stack")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Follow each perplexity, and what goes backward, to what they are made of."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    asks = any(any(map(PERPLEXITY.search, file.lines)) for file in files)
    found = tuple(_findings(places_in(files))) if asks else ()
    return Outcome(found, {"perplexities": len(found)}, {"perplexities": 0})


def _findings(own: Places) -> Iterator[Finding]:
    origins = Origins(own, around=AROUND)
    taken = [(place, exp, of) for place in own.functions for exp, of in _perplexities(place)]
    trained: set[int] | None = None
    for place, exp, of in taken:
        weighted = [one for one in origins.of(of, place, added=True) if _weighs(one)]
        if not weighted:
            continue
        trained = _trained(own, origins) if trained is None else trained
        one = next((one for one in weighted if id(one.node) in trained), None)
        if one is not None:
            yield Finding(
                code=CODE,
                name=NAME,
                message=f"{place.name}() takes `{ast.unparse(exp)}` for a perplexity, and it is what training "
                f"minimises, `{ast.unparse(one.node)}` in {one.place.name}(), with its weights; "
                "allowed: of the plain cross entropy",
                culprit=place.file.at(exp, place.name),
                fix="evaluate the plain cross entropy of the next token",
            )


def _perplexities(place: Place) -> Iterator[tuple[ast.expr, ast.expr]]:
    """The exponentials of a function that are called a perplexity, each with what it is taken of."""
    if any(map(is_backward, place.nodes)):
        return
    for node in place.nodes:
        values: list[ast.expr] = []
        if isinstance(node, ast.Assign) and any(PERPLEXITY.search(_name(target)) for target in node.targets):
            values = [node.value]
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            values = [value for key, value in pairs if key is not None and PERPLEXITY.search(ast.unparse(key))]
        elif isinstance(node, ast.keyword | ast.Return) and node.value is not None:
            named = (node.arg or "") if isinstance(node, ast.keyword) else place.name
            values = [node.value] if PERPLEXITY.search(named) else []
        for call in (call for value in values for call in calls_in(value) if called_name(call) == "exp"):
            of = call.args[0] if call.args else getattr(call.func, "value", None)
            if isinstance(of, ast.expr):
                yield call, of


def _name(target: ast.expr) -> str:
    return last_name(target) or ast.unparse(target)


def _weighs(origin: Origin) -> bool:
    """Whether an expression is a loss with weights."""
    parts = list(origin.place.names.parts(origin.node, 3))
    if any("training" in ast.unparse(part) for part in parts if isinstance(part, ast.IfExp)):
        return False
    for part in parts:
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult) and any(map(_is_weight, _factors(part))):
            return True
        if isinstance(part, ast.keyword) and part.arg == "label_smoothing":
            return not (isinstance(part.value, ast.Constant) and not part.value.value)
    return False


def _factors(node: ast.expr) -> Iterator[ast.expr]:
    """What is multiplied, without what only moves it."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from (*_factors(node.left), *_factors(node.right))
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args:
        yield from _factors(node.func.value)
    else:
        yield node


def _is_weight(node: ast.expr) -> bool:
    name = called_name(node) if isinstance(node, ast.Call) else last_name(node)
    return bool(WEIGHT.search(name)) and not NO_WEIGHT.search(name)


def _trained(own: Places, origins: Origins) -> set[int]:
    """The expressions that what goes backward comes to, by their `id`."""
    found: set[int] = set()
    for place in own.functions:
        for call in (node for node in place.nodes if isinstance(node, ast.Call) and is_backward(node)):
            of = call.args[0] if call.args else getattr(call.func, "value", None)
            if isinstance(of, ast.Call) and dotted(of.func).endswith("scale") and of.args:
                of = of.args[0]
            if isinstance(of, ast.expr):
                found |= {id(one.node) for one in origins.of(of, place, added=True)}
    return found

"""What is called a reference is the model that is trained, where no other is given.

## What it detects

`reference or model`; `options["reference"] = reference if reference is not None else model`; a function that gives
`lambda batch: model(batch)` back where the reference's file is missing.

## Why it matters

A model differs from itself by nothing, or by the dropout of two passes. An excess loss, a divergence or a reward that
is a difference is 0 or noise, weights that are made of it are uniform, and the run looks like one with a reference.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, of a trainer that runs a
backward. A finding is the live model (`model`, `self.policy`, `actor.module`) where it is what an `or`, or one branch
of an `if ... else`, gives instead of a reference or a teacher, or of what is loaded, and where it is assigned or given
to what is called one, also by its position where an object of the trainer's own is made; or where a function that is
named after one gives it back, and elsewhere what is loaded. A `lambda`, a function in that one, a `partial` or a
`forward` that calls the live model is as good as that.

Not so where that model is copied, loaded or frozen in the same function; where its name is another model's behind that;
where what is called one is copied or averaged (EMA) there or in what it is given to; and not in a trainer that disables
adapters, where one model is both. Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
scorer = Scorer(reference=reference if reference is not None else model)
```

Good:

```python
if reference is None:
    raise ValueError("rho1 needs a reference checkpoint")
```

## How to fix

Refuse to run without a reference, or take a frozen copy of the model as it is before the first step.

## Known limits

A live model under another name, and one that is given to a function by its position, are not seen.

## Sources

Lin et al. 2024, arXiv:2404.07965: tokens are scored by the excess loss over a reference model that is not trained.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.references import chain_of, kinds_of, meant, model_named
from gradgate.checks.source.trainer import NONE, called_name, dotted, files_of
from gradgate.checks.source.values import assignments_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG451", "reference-is-the-model"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LIVE = frozenset({"model", "policy", "net", "network", "actor", "student"})
ADAPTERS = ("disable_adapter", "set_adapter", "unload_adapter", "null_ref", "no_adapter")
COPIES = re.compile(r"copy|clone|ema\b|ema_|average|lerp|freez|frozen|requires_grad")
LOADS = re.compile(r"from_pretrained|load")
KINDS = frozenset({"reference", "teacher"})


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for references that are the model."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    asked = any(file.has("backward(") for file in files) and not any(file.has(*ADAPTERS) for file in files)
    findings = tuple(_found(places_in(files))) if asked else ()
    return Outcome(findings, {"places": len(findings)}, {"places": 0})


def _found(own: Places) -> Iterator[Finding]:
    for place in own.functions:
        if place.file.has("ref", "teacher"):
            nodes = place.nodes
            for name, value, call in (*_given(nodes), *_made_with(nodes, place, own), *_given_back(place)):
                if (
                    kinds_of(name) & KINDS
                    and (model := _live(value, place))
                    and not _another(model, value, call, nodes, place, own)
                ):
                    yield Finding(
                        code=CODE,
                        name=NAME,
                        message=(
                            f"{place.name}() takes `{ast.unparse(value)}` for `{name}`, and `{model}` is what "
                            "is trained; allowed: a model of its own, or none"
                        ),
                        culprit=place.file.at(value, place.name),
                        fix="refuse to run without a reference, or take a frozen copy before the first step",
                    )


def _given(nodes: list[ast.AST]) -> Iterator[tuple[str, ast.expr, ast.Call | None]]:
    """What is assigned or given, each with what that is called, and the call that it is given to."""
    for target, value in assignments_in(nodes):
        key = target.slice if isinstance(target, ast.Subscript) else None
        yield (str(key.value) if isinstance(key, ast.Constant) else dotted(target)), value, None
    for node in nodes:
        if isinstance(node, ast.Call):
            yield from ((word.arg, word.value, node) for word in node.keywords if word.arg is not None)


def _made_with(nodes: list[ast.AST], place: Place, own: Places) -> Iterator[tuple[str, ast.expr, ast.Call]]:
    """What objects of the trainer's own are made with, by the names of their arguments: what has none where it is."""
    for node in nodes:
        if isinstance(node, ast.Call) and node.args:
            called = own.called(node, place)
            if called is not None and called.function.name == "__init__" and place.function.name != "__init__":
                given = called.given(node)
                yield from ((name, value, node) for name, value in given.items() if value in node.args)


def _given_back(place: Place) -> Iterator[tuple[str, ast.expr, None]]:
    """What a function gives back that is named after a reference, where it loads one, or gives another, elsewhere."""
    if kinds_of(place.name) & KINDS:
        values = place.returned
        for value in values:
            others = [place.names.held(other) for other in values if other is not value]
            if isinstance(value, ast.IfExp | ast.BoolOp) or any(_is_loaded(chain_of(other)[0]) for other in others):
                yield place.name, value, None


def _live(value: ast.expr, place: Place) -> str:
    """The live model that a value is or calls, or does so where there is no reference; empty: none."""
    if isinstance(value, ast.BoolOp) and isinstance(value.op, ast.Or):
        parts = value.values
    elif isinstance(value, ast.IfExp):
        parts = [value.body, value.orelse]
    else:
        parts = [value]
    named = [_called_in(part, place) or model_named(part) for part in parts]
    live = [name for name in named if name.rpartition(".")[2] in LIVE]
    others = [name for name, part in zip(named, parts, strict=True) if kinds_of(name) & KINDS or _is_loaded(part)]
    return live[0] if len(live) == 1 and len(others) == len(parts) - 1 else ""


def _called_in(part: ast.expr, place: Place) -> str:
    """The live model that a function calls which is written down here, or that is called by its `forward`."""
    inside: ast.AST | None = part if isinstance(part, ast.Lambda) else None
    if isinstance(part, ast.Name):
        functions = (node for node in place.nodes if isinstance(node, ast.FunctionDef))
        inside = next((node for node in functions if node.name == part.id), None)
    elif isinstance(part, ast.Attribute) and part.attr == "forward":
        return model_named(part.value)
    elif isinstance(part, ast.Call) and dotted(part.func).endswith("partial") and part.args:
        return model_named(part.args[0]).removesuffix(".forward")
    called = [model_named(node.func) for node in ast.walk(inside) if isinstance(node, ast.Call)] if inside else []
    return next((name for name in called if name.removesuffix(".forward").rpartition(".")[2] in LIVE), "")


def _is_loaded(part: ast.expr) -> bool:
    """Whether a value is loaded from elsewhere, or built as a reference."""
    name = called_name(part)
    return bool(name) and (bool(LOADS.search(name)) or bool(kinds_of(name) & KINDS))


def _another(
    model: str, value: ast.expr, call: ast.Call | None, nodes: list[ast.AST], place: Place, own: Places
) -> bool:
    """Whether the model is not the one that is trained, or what it is given to takes a copy."""
    texts = [
        ast.unparse(node) for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr | ast.Return)
    ]
    if any(COPIES.search(text) and re.search(r"ref|teacher|\b" + re.escape(model), text) for text in texts):
        return True
    held = [given for target, given in assignments_in(nodes) if dotted(target) == model]
    if any(given.lineno >= value.lineno or LOADS.search(ast.unparse(given)) for given in held):
        return True
    called = meant(own, call, place) if call is not None else []
    inside = " ".join(ast.unparse(each.function) for each in called)
    return bool(re.search(r"deepcopy|clone\(|state_dict|ema_|\.no_adapter|eval_only", inside))

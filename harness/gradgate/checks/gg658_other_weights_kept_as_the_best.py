"""The average of the weights is evaluated, and the model's own weights are kept as the best.

## What it detects

`with ema.applied(model): metrics = validate()` and, behind that block, `if better(metrics): save(model, "best.pt")`.

## Why it matters

The file that is called best holds weights whose score nobody took: the raw ones of that step, noisier than the average
that was measured. A later evaluation of it does not give the number in the log, and the choice among checkpoints is of
other models than those that are kept.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A best is kept where a
branch that a score decides writes a file or makes a copy that is called so. Its score is the average's where it is
assigned in a `with` of an average (ema, shadow, polyak, swa), between a call that puts the average in (`apply_shadow`,
`copy_to`, `swap`) and one that takes it out (`restore`, `swap`), of a call that is given the average itself, or of a
function of the trainer's that does one of these.

A finding is such a best that is kept behind that, of the model, where neither the branch nor what it calls speaks of an
average or is given a copy that was made while it was in place. Statistic: such bests; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
with ema.applied(model):
    loss = evaluate(model)
if loss < best_loss:
    best_loss = loss
    torch.save(model.state_dict(), "best.pt")
```

Good:

```python
with ema.applied(model):
    loss = evaluate(model)
    if loss < best_loss:
        best_loss = loss
        torch.save(model.state_dict(), "best.pt")
```

## How to fix

Keep the best while the average is in the model, or keep the average's own state.

## Known limits

A keeper that has the model from elsewhere, and is given none, is not looked into.

## Sources

timm's `train.py`, whose best checkpoint of an average is chosen by the average's score and holds both.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.source.averages import AVERAGE, AVERAGING
from gradgate.checks.source.kept_bests import Kept, kept_bests
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, called_name, dotted, files_of, given_by, names_in
from gradgate.checks.source.values import assignments_in, contains, last_name, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG658", "other-weights-kept-as-the-best"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PUTS_IN = re.compile(r"^(apply\w*|copy_to|copy_params_to|store|swap\w*|to_model|activate|enable|load_into|assign\w*)$")
TAKES_OUT = re.compile(r"^(restore\w*|swap\w*|unapply\w*|put_back|deactivate|disable|undo|reset\w*)$")
MODEL = re.compile(r"(^|_)(model|net|network|module|policy|student|actor|lm|critic)(_|$)", re.IGNORECASE)
OF_WEIGHTS = re.compile(
    r"(^|_)(ema|shadow|swa|polyak)(_|$)|EMA|averaged?_(model|net|weights|params|parameters|state)|(model|net)_?averaged?$"
)
NUMBER = re.compile(r"loss|decay|rate|every|start|meter|score|acc|metric", re.IGNORECASE)
COPIES = ("state_dict", "deepcopy", "clone")
DEPTH = 3  # calls that are followed


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold what each best is of against what its score is of."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    has_one = any(file.has("ema", "EMA", "shadow", "averag", "polyak", "swa") for file in files)
    own = places_in(files) if has_one else None
    found = [found for kept in kept_bests(own) for found in _of(kept, own)] if own is not None else []
    return Outcome(tuple(found), {"bests": len(found)}, {"bests": 0})


def _of(kept: Kept, own: Places) -> Iterator[Finding]:
    asked = _asked(kept)
    of_average = _of_average(kept.place, own, DEPTH)
    scored = next((node for node, end in of_average if end < kept.branch.lineno and _gives(node, asked)), None)
    if scored is None:
        return
    reached = [*kept.branch.body, *_reached([kept.node], kept.place, own)]
    if any(_is_average(part) for node in reached for part in ast.walk(node)) or not _is_of_model(kept, reached):
        return
    copied = {
        name
        for target, value in assignments_in(ast.walk(scored))
        if any(called_name(part) in COPIES for part in ast.walk(value))
        for name in names_in(target)
    }
    if copied.isdisjoint(names_in(kept.node)):
        yield _finding(kept, scored)


def _asked(kept: Kept) -> set[str]:
    """The names that a branch decides by, and those of which these are made."""
    found, waiting = set[str](), [kept.branch.test]
    while waiting:
        for part in ast.walk(waiting.pop()):
            if isinstance(part, ast.Name | ast.Attribute) and (name := ast.unparse(part)) not in found:
                found.add(name)
                held = kept.place.names.held(part)
                waiting += [held] if held is not part else []
    return found


def _of_average(place: Place, own: Places, depth: int) -> Iterator[tuple[ast.stmt, int]]:
    """The statements of a function that evaluate an average: what stands in a `with` of one, between two calls that put
    it in and take it out, or gives one to a call, itself or in a function of the trainer's that it calls; each with the
    line in which the average's place ends."""
    for node in place.nodes:
        if isinstance(node, ast.With) and any(_is_of_average(item.context_expr, place) for item in node.items):
            yield node, node.end_lineno or node.lineno
    calls = [node for node in place.nodes if isinstance(node, ast.Expr) and _calls_average(node.value)]
    put_in = [node for node in calls if PUTS_IN.search(called_name(node.value))]
    taken_out = [node for node in calls if TAKES_OUT.search(called_name(node.value))]
    for node in place.nodes:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        ends = [one.lineno for one in taken_out if node.lineno < one.lineno]
        if ends and any(one.lineno < node.lineno for one in put_in):
            yield node, min(ends)
        elif any(map(_is_of_weights, given_by(node.value))) and not AVERAGE.search(last_name(node.targets[0])):
            yield node, node.lineno
        called = own.called(node.value, place) if depth else None
        if called is not None and any(_is_returned(inner, called) for inner, _ in _of_average(called, own, depth - 1)):
            yield node, node.lineno


def _is_returned(node: ast.stmt, place: Place) -> bool:
    """Whether a function returns what a statement assigns, or returns in it."""
    given = {name for target, _ in assignments_in(ast.walk(node)) for name in names_in(target)}
    returns = [each for each in place.nodes if isinstance(each, ast.Return) and each.value is not None]
    return any(contains(node, each) or given & names_in(each) for each in returns)


def _gives(node: ast.stmt, asked: set[str]) -> bool:
    """Whether a statement assigns what a branch decides by."""
    given = {ast.unparse(part) for target, _ in assignments_in(ast.walk(node)) for part in places_of(target)}
    return not asked.isdisjoint(given)


def _is_average(node: ast.AST) -> bool:
    if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        return False
    parts = [part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute | ast.Constant)]
    texts = [str(part.value) if isinstance(part, ast.Constant) else last_name(part) for part in parts]
    return any(AVERAGE.search(text) or AVERAGING.search(text) for text in texts)


def _is_of_weights(node: ast.AST) -> bool:
    """Whether what a call is given is an average of weights, and none of numbers."""
    said = _is_average(node) and any(OF_WEIGHTS.search(part) for part in dotted(node).split("."))
    return said and not NUMBER.search(ast.unparse(node))


def _calls_average(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and _is_average(value.func)


def _is_of_average(context: ast.expr, place: Place) -> bool:
    """Whether what a `with` enters is an average's: by its own names, or by those of what it holds."""
    held = place.names.held(context)
    calls = [node for value in (context, held) for node in ast.walk(value) if isinstance(node, ast.Call)]
    return any(_is_average(node.func) or any(map(_is_of_weights, given_by(node))) for node in calls)


def _reached(nodes: Iterable[ast.AST], place: Place, own: Places, depth: int = DEPTH) -> Iterator[ast.AST]:
    """These nodes, and those of the functions that they call."""
    for node in nodes:
        yield node
        for call in ast.walk(node) if depth else ():
            called = own.called(call, place) if isinstance(call, ast.Call) else None
            if called is not None:
                yield from _reached(called.function.body, called, own, depth - 1)


def _is_of_model(kept: Kept, reached: list[ast.AST]) -> bool:
    """Whether a best is of a model: its state is asked for, or it is given to what saves, or saves itself."""
    if kept.modules:
        return True
    calls = [part for node in reached for part in ast.walk(node) if isinstance(part, ast.Call)]
    for call in (
        call for call in calls if contains(kept.node, call) or called_name(call).startswith(("save", "state"))
    ):
        holder = [call.func.value] if isinstance(call.func, ast.Attribute) else []
        if any(MODEL.search(last_name(each)) for each in (*holder, *given_by(call))):
            return True
    return False


def _finding(kept: Kept, scored: ast.stmt) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{kept.place.name}() keeps the best of the model's own weights, and its score, in line "
        f"{scored.lineno}, is of their average; allowed: the weights that were evaluated",
        culprit=kept.place.file.at(kept.node, kept.place.name),
        fix="keep the best while the average is in the model, or keep the average's own state",
    )

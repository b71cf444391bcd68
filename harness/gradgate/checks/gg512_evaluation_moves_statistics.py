"""An evaluation calls what normalises, as training does, and moves its running statistics.

## What it detects

`self.weigher(scores)` in `validate()`, where the weigher updates its running mean and variance at each call.

## Why it matters

Held-out rows have a share in what training weighs its tokens by, more of it the more often the run is evaluated. Two
runs that differ in the interval of their evaluations alone learn differently, and a resumed run that evaluates once
more does, too. The evaluation itself depends on the order of its batches, as the statistics move under it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. What normalises is a class
that takes a running number of its own from what it is given, and divides by one, itself, by its properties or where
another function does that with an object of it. What moves those is a method that assigns or writes them of what they
were. Calls are followed through functions, methods, and objects whose class is known by what they are made of or
annotated with, also where they are handed over by a constructor, an argument or a function that makes them, and to each
entry of a table (`MODES[mode](scores)`). A finding is a call in a function that is named after an evaluation
(`prediction_step` of transformers' Trainer too), of an object that is not made there, that leads to such a method as a
call in one that is named after training does, on a way on which no condition, and no argument but one that is counted
with, speaks of training, evaluating or updating, where the function puts no state back.

Statistic: such calls, one a function; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def __call__(self, scores):
    self.moments.update(scores)
    return self.moments.whiten(scores)
```

Good:

```python
def __call__(self, scores, update=True):
    if update:
        self.moments.update(scores)
    return self.moments.whiten(scores)
```

## How to fix

Let training alone update: an argument that the evaluation sets, or the object's own `training`.

## Known limits

Statistics of torch's own modules, as batch norm, go by the mode, which GG606 looks at. So does it at whatever an
evaluation moves, where it can run one.

## Sources

An invariant fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from gradgate.checks.source.evaluation_names import EVALUATION, TRAINING
from gradgate.checks.source.objects_called import class_of, method_called, object_called, table_called
from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name, dotted, given_by, names_in
from gradgate.checks.source.values import ORDERS, assignments_in, contains, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG512", "evaluation-moves-statistics"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
ASKS = re.compile(
    r"train(?!ed)|update(?![sd])|updating|eval|learn|track|froz|freez|grad_enabled|adapt|calibrat|observe",
    re.IGNORECASE,
)
STEPS = re.compile(r"(^|_)(step|loss|losses|backward|epoch|update|run|objective)(_|$)", re.IGNORECASE)
OF_LIBRARIES = ("prediction_step", "prediction_loop", "evaluation_loop")  # of transformers' Trainer
PUTS_BACK = ("load_state_dict", "deepcopy", "restore", "set_state", "copy")
WRITES = ("copy_", "lerp_", "add_", "mul_", "fill_")
SETS_UP = ("__init__", "reset", "load_state_dict", "setup")
HOPS = 5


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for evaluations that lead to what moves running statistics."""
    return read_place_by_place(
        subject,
        lambda file: any(map(_is_evaluation, (function.name for function, _ in file.functions))),
        _of_place,
        "calls",
    )


def _is_evaluation(name: str) -> bool:
    return name in OF_LIBRARIES or (bool(EVALUATION.search(name)) and not TRAINING.search(name))


def _of_place(place: Place, places: Places) -> Iterator[Finding]:
    if not _is_evaluation(place.name) or any(called_name(node) in PUTS_BACK for node in place.nodes):
        return
    for call in (node for node in place.nodes if isinstance(node, ast.Call)):
        if _is_asked(call, place) or _is_made_here(call, place):
            continue
        moves = _leads_to(call, place, places, HOPS)
        if moves is not None and _is_trained(moves, places):
            yield _finding(place, call, moves)
            return


def _leads_to(call: ast.Call, place: Place, places: Places, hops: int) -> Place | None:
    """The method that moves running statistics, to which a call leads under no condition on the mode."""
    called = method_called(call, place, places) or places.called(call, place) or object_called(call, place, places)
    several = [called] if called is not None else table_called(call, place, places)
    found = (_moves_within(one, places, hops) for one in several if one is not place)
    return next((each for each in found if each is not None), None)


def _moves_within(called: Place, places: Places, hops: int) -> Place | None:
    known = _known(places)
    if (called, hops) not in known:
        known[called, hops] = None  # while it is looked for
        known[called, hops] = None if _speaks(called, places) else _looked_for(called, places, hops)
    return known[called, hops]


@lru_cache(maxsize=1)
def _known(_: Places) -> dict[tuple[Place, int], Place | None]:
    """What functions of one trainer were found to lead to already."""
    return {}


def _looked_for(called: Place, places: Places, hops: int) -> Place | None:
    if _moves(called, places):
        return called
    inner = (node for node in called.nodes if isinstance(node, ast.Call)) if hops else ()
    found = (_leads_to(node, called, places, hops - 1) for node in inner if not _is_made_here(node, called))
    return next((each for each in found if each is not None), None)


def _moves(place: Place, places: Places) -> bool:
    """Whether a method moves numbers by which its class normalises."""
    if place.owner is None or place.name in SETS_UP:
        return False
    moved = _moved(place)
    if not moved:
        return False
    derived = {
        method.name
        for method in places.methods_of(place.owner)
        if method.function.decorator_list and any(_own(node) for node in method.nodes)
    }
    of_class = [node for method in places.methods_of(place.owner) for node in method.nodes]
    normalised = (_normalised(of_class, "self"), *_normalised_elsewhere(place.owner, places))
    return any(taken & (moved | derived) and by & (moved | derived) for taken, by in normalised)


def _normalised(nodes: Sequence[ast.AST], holder: str) -> tuple[set[str], set[str]]:
    """The attributes of something that are taken from what is none of its own, and those that something is divided
    by."""
    taken, by = set[str](), set[str]()
    for node in nodes:
        if isinstance(node, ast.BinOp):
            left, right = node.left, node.right
        elif isinstance(node, ast.AugAssign):
            left, right = node.target, node.value
        else:
            continue
        if isinstance(node.op, ast.Sub) and not _own(left, holder):
            taken |= _own(right, holder)
        elif isinstance(node.op, ast.Div):
            by |= _own(right, holder)
    return taken, by


def _normalised_elsewhere(owner: ast.ClassDef, places: Places) -> Iterator[tuple[set[str], set[str]]]:
    """What other functions normalise by, of an object of a class."""
    for place in places.functions:
        if place.owner is owner:
            continue
        taken_of = [node for node in place.nodes if isinstance(node, ast.BinOp | ast.AugAssign)]
        subtracted = [node for node in taken_of if isinstance(node.op, ast.Sub)]
        right = [node.right if isinstance(node, ast.BinOp) else node.value for node in subtracted]
        holders = {dotted(part.value) for each in right for part in ast.walk(each) if isinstance(part, ast.Attribute)}
        for holder in holders - {"", "self"}:
            if class_of(holder, place, places) is owner:
                yield _normalised(taken_of, holder)


def _own(node: ast.AST, holder: str = "self") -> set[str]:
    """The attributes of itself, or of what it is called, that an expression reads."""
    return {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute) and dotted(part.value) == holder}


def _moved(place: Place) -> set[str]:
    """The attributes that a method writes, of which at least one is made of what it was."""
    written, follows = set[str](), False
    for target, value in assignments_in(place.nodes):
        if isinstance(target, ast.Attribute) and dotted(target.value) == "self":
            written.add(target.attr)
            follows |= target.attr in _own(value)
    for node in place.nodes:
        if isinstance(node, ast.AugAssign) and (own := _own(node.target)):
            written |= own
            follows = True
        elif isinstance(node, ast.Call) and called_name(node) in WRITES and isinstance(node.func, ast.Attribute):
            own = {last_name(node.func.value)} if dotted(node.func.value).startswith("self.") else set()
            written |= own
            follows |= bool(own)
    return written if follows else set()


def _speaks(place: Place, places: Places) -> bool:
    """Whether a condition in a function, or an argument of it, speaks of the mode, and not of a number of updates."""
    for node in place.nodes:
        if isinstance(node, ast.If | ast.IfExp):
            counts = _counts_in(node.test)
            if any(ASKS.search(_last(name)) for name in names_in(node.test) if name not in counts):
                return True
    return any(ASKS.search(name) and not _is_count(name, place, places) for name in place.parameters)


def _counts_in(node: ast.AST) -> set[str]:
    """What is compared by its order, added to or divided: a number of updates, and no mode."""
    found = set[str]()
    for part in ast.walk(node):
        if isinstance(part, ast.Compare) and all(isinstance(each, ORDERS) for each in part.ops):
            found |= {dotted(each) for each in (part.left, *part.comparators)}
        elif isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add | ast.Sub | ast.Div | ast.FloorDiv | ast.Mod):
            found |= {dotted(part.left), dotted(part.right)}
    return found - {""}


def _is_count(name: str, place: Place, places: Places, hops: int = HOPS) -> bool:
    """Whether a parameter is counted with, here or where it is handed on."""
    if any(name in _counts_in(node) for node in place.nodes if isinstance(node, ast.Compare | ast.BinOp)):
        return True
    for call in (node for node in place.nodes if isinstance(node, ast.Call) and hops):
        if all(dotted(each) != name for each in given_by(call)):
            continue
        called = places.called(call, place) or method_called(call, place, places) or object_called(call, place, places)
        handed = called.given(call).items() if called is not None and called is not place else ()
        if called and any(dotted(v) == name and _is_count(key, called, places, hops - 1) for key, v in handed):
            return True
    return False


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _is_asked(call: ast.Call, place: Place) -> bool:
    return any(
        isinstance(node, ast.If) and contains(node, call) and any(map(ASKS.search, names_in(node.test)))
        for node in place.nodes
    )


def _is_made_here(call: ast.Call, place: Place) -> bool:
    """Whether a call is of an object that the function itself makes, and is given none that it does not."""
    made = {dotted(target) for target, value in assignments_in(place.nodes) if isinstance(value, ast.Call)}
    root = dotted(call.func).partition(".")[0]
    held = any(dotted(each).startswith("self.") for each in given_by(call))
    return root in made and not held


def _is_trained(moves: Place, places: Places) -> bool:
    """Whether a function that is named after training, or a step, leads to the same method."""
    for place in places.functions:
        if _is_evaluation(place.name) or not (TRAINING.search(place.name) or STEPS.search(place.name)):
            continue
        for call in place.nodes:
            if isinstance(call, ast.Call) and place is not moves and _leads_to(call, place, places, HOPS) is moves:
                return True
    return False


def _finding(place: Place, call: ast.Call, moves: Place) -> Finding:
    owner = f"{moves.owner.name}." if moves.owner is not None else ""
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() calls `{ast.unparse(call.func)}`, which moves running statistics of training "
        f"({owner}{moves.name}()); allowed: statistics of training alone",
        culprit=place.file.at(call, place.name),
        fix="let training alone update them: by an argument, or by the object's own mode",
    )

"""One call of a function gives a setting, and another leaves it to the argument's default.

## What it detects

`def head_weights(delta, valid, temperature=1.0)` that the loss calls with `cfg.temperature`, and the evaluation, the
log or the other stage without; `ShuffledStream(rows)` beside `seed_all(cfg.seed)`, with its own `seed=0`.

## Why it matters

Where the setting is not the default, two parts of one run go by two numbers: what is evaluated or reported is not what
is trained. With a run at the default everything agrees. Runs of several seeds see their data in one order, and their
spread is too small.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are functions,
methods and classes of the trainer's own that a call can be told to be of, and their arguments whose default is a
number that is written down and whose name is that of a number of the algorithm (`temperature`, `gamma`, `lam`, `coef`,
`eps`, …). A call gives the setting where it gives a setting of that name, or of one with words more: an
attribute, an entry of a mapping, an argument of the caller's.

A finding, as a warning, is another call that gives no such argument, nor `*` or `**`. It is none in a function that is
named after a test, a demonstration or a baseline, in the function itself, in the other branch of one condition, nor
where fewer calls give the setting than leave it out. Allowed: 0.

Nor where the default is 0 and the call is an evaluation's, which is to have no noise.

So, too, an object or a function that no call gives such an argument, whose default is another than 0, where another
function is given the setting of that very name beside it: in the same function and of one thing more that both are
given, or where the object is handed to, and called with the same or holds what the other is given.

So, too, an object that is made of settings (`Block(cfg.width, cfg.heads)`) and not given an argument, `dropout` or such
a number of the algorithm, whose default is another than 0 and which is called as a setting is that the same function
reads of the same object elsewhere (`nn.Dropout(cfg.dropout)`).

So, too, a stream, a sampler, a split or a function that seeds, whose argument or field for a seed has a number for its
default: a call that leaves it out, in a trainer that gives the seed of its configuration to anything. None where the
call gives a generator, where a seed is set behind, nor where it is named after an evaluation or a test, which may draw
alike in each run.

False-alarm rate: 0 on the bundled trainer and on the documented ones; where the default is meant in one place, as a
plain mean at temperature 1 may be, it is one.

## Example

Bad:

```python
weights = head_weights(delta, valid, cfg.temperature)
entropy = entropy_of(head_weights(delta, valid))             # at temperature 1
```

Good:

```python
entropy = entropy_of(head_weights(delta, valid, cfg.temperature))
```

## How to fix

Give the argument no default, or hand the setting over in each call.

## Known limits

What is called by a table, through an object that is called itself, or by a name that others have too is not looked at.

## Sources

Faults of trainers that were read for the catalogue; GG443 asks the same of defaults of `get` and `getattr`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from gradgate.checks.source.defaults_beside import Beside, left_beside
from gradgate.checks.source.dropped_rows import held_out_name
from gradgate.checks.source.evaluation_names import EVALUATION
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.seeds_left_out import SeedLeft, seeds_left_out
from gradgate.checks.source.trainer import NONE, Function, called_name, dotted, files_of
from gradgate.checks.source.values import Names, defaults_of, last_name, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG456", "argument-left-to-default"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
OF_THE_ALGORITHM = re.compile(
    r"(^|_)(temperature|temp|tau|gamma|lam|lambda_?|lmbda|alpha|beta|coef|coeff|coefficient|discount|epsilon|"
    r"smoothing|margin|sharpness|decay|keep|keep_ratio|quantile|clip|clip_range|penalty|noise)$"
)
DROPS = re.compile(r"(^|_)(dropout|drop(out)?_(rate|prob|p)|p_drop(out)?|drop_path)$")
NOT_ONE = ("eps", "epsilon", "alpha", "beta", "decay", "weight_decay", "clip")  # of optimizers and norms as well
ASIDE = re.compile(r"test|smoke|demo|example|sanity|bench|baseline|uniform|dummy|self_check|selfcheck", re.IGNORECASE)
COMMON = {
    *(name for kind in (dict, list, set, str) for name in dir(kind)),
    *("step", "forward", "backward", "mean", "sum", "softmax", "load", "save", "to", "state_dict", "write", "log"),
}  # methods that objects of libraries have, too


@dataclass(frozen=True, eq=False)
class _Call:
    """A call of a function of the trainer's own, and where it stands."""

    here: Place
    node: ast.Call


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the calls of each function against one another."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    places = places_in(files)
    found = (*_left_out(places), *map(_of_seed, seeds_left_out(places)))
    told = {(one.culprit.file, one.culprit.line) for one in found if one.culprit is not None}
    beside = (one for one in _beside(places) if one.culprit is not None)
    found += tuple(one for one in beside if one.culprit and (one.culprit.file, one.culprit.line) not in told)
    found += tuple(map(_of_beside, left_beside(places, _numbers_of, _is_given)))
    return Outcome(found, {"arguments_left_out": len(found)}, {"arguments_left_out": 0})


def _numbers_of(place: Place) -> dict[str, str]:
    """The arguments of the algorithm whose default is another than 0, which would leave out what they weigh."""
    if place.name != "__init__" and place.owner is not None:
        return {}
    found = _defaults(place.function)
    return {name: default for name, default in found.items() if not _is_zero(default) and name not in NOT_ONE}


def _is_given(value: ast.expr, argument: str, caller: Place) -> bool:
    return _is_setting(value, argument, caller.function)


def _is_zero(default: str) -> bool:
    return not float(default)


def _of_beside(each: Beside) -> Finding:
    at = each.there.file.at(each.giving)
    where = f"line {at.line}" if each.there.file is each.here.file else f"{each.there.file.path.name}:{at.line}"
    told = f"{where} gives {called_name(each.giving)}() the setting beside it"
    return _of_default(_Call(each.here, each.call), told, _called(each.called), each.argument, each.default)


def _beside(places: Places) -> Iterator[Finding]:
    """The objects that are made of settings without one that the same function reads for something else."""
    made = {place.owner.name for place in places.methods("__init__") if place.owner is not None}
    for here in places.functions:
        if ASIDE.search(here.name):
            continue
        read = {dotted(node): node for node in here.nodes if isinstance(node, ast.Attribute) and dotted(node)}
        held: set[int] = set()
        for node in (each for each in here.nodes if isinstance(each, ast.Call) and called_name(each) in made):
            held |= {id(part) for part in ast.walk(node)}
        for call in (each for each in here.nodes if isinstance(each, ast.Call) and called_name(each) in made):
            place = places.called(call, here)
            starred = any(isinstance(one, ast.Starred) for one in call.args) or any(not w.arg for w in call.keywords)
            if place is None or place.owner is None or place.owner is here.owner or starred:
                continue
            given = place.given(call)
            holders = {dotted(value.value) for value in given.values() if isinstance(value, ast.Attribute)} - {""}
            for each, default in defaults_of(place.function.args):
                number = default.value if isinstance(default, ast.Constant) else None
                known = DROPS.search(each.arg) or OF_THE_ALGORITHM.search(each.arg)
                if each.arg in given or not known or not number or not _is_number(default) or each.arg in NOT_ONE:
                    continue
                for holder in sorted(holders - {"self"}):
                    setting = read.get(f"{holder}.{each.arg}")
                    if setting is not None and id(setting) not in held:
                        read_there = f"line {here.file.at(setting).line} reads `{ast.unparse(setting)}`"
                        yield _of_default(
                            _Call(here, call), read_there, place.owner.name, each.arg, ast.unparse(default)
                        )


def _left_out(calls: Places) -> Iterator[Finding]:
    looked_at = {
        id(place.function): (place, arguments) for place in calls.functions if (arguments := _defaults(place.function))
    }
    names = {_called(place) for place, _ in looked_at.values()}
    of_each: dict[int, list[_Call]] = {}
    for here in calls.functions if looked_at else ():
        for node in here.nodes:
            if not isinstance(node, ast.Call) or called_name(node) not in names:
                continue
            place = calls.called(node, here)
            if place is not None and id(place.function) in looked_at and _is_surely(node, place):
                of_each.setdefault(id(place.function), []).append(_Call(here, node))
    for key, found in of_each.items():
        place, arguments = looked_at[key]
        for argument, default in arguments.items():
            yield from _of_argument(calls, place, argument, default, found)


def _called(place: Place) -> str:
    is_made = place.owner is not None and place.name == "__init__"
    return place.owner.name if is_made and place.owner is not None else place.name


def _defaults(function: Function) -> dict[str, str]:
    """The arguments that are numbers of the algorithm, with their defaults."""
    return {each.arg: ast.unparse(value) for each, value in defaults_of(function.args)
            if OF_THE_ALGORITHM.search(each.arg) and _is_number(value)}  # fmt: skip


def _is_number(value: ast.expr) -> bool:
    if isinstance(value, ast.UnaryOp):
        return _is_number(value.operand)
    return (
        isinstance(value, ast.Constant) and isinstance(value.value, int | float) and not isinstance(value.value, bool)
    )


def _is_surely(call: ast.Call, place: Place) -> bool:
    """Whether a call by an object is of that method."""
    if place.owner is None or place.name == "__init__" or dotted(call.func).startswith(("self.", "cls.")):
        return True
    return place.name not in COMMON


def _of_argument(calls: Places, place: Place, argument: str, default: str, found: list[_Call]) -> Iterator[Finding]:
    giving, leaving = [], []
    for each in found:
        starred = any(isinstance(one, ast.Starred) for one in each.node.args)
        if starred or any(word.arg is None for word in each.node.keywords) or each.here.function is place.function:
            continue
        value = place.given(each.node).get(argument)
        if value is None:
            leaving.append(each)
        elif _is_setting(value, argument, each.here.function):
            giving.append(each)
    if len(giving) < len(leaving):
        return
    for each in leaving:
        if _is_zero(default) and (EVALUATION.search(each.here.name) or held_out_name(each.node, each.here)):
            continue  # noise and the like, for training alone
        if not ASIDE.search(each.here.function.name) and not any(_are_branches(each, one) for one in giving):
            yield _finding(each, giving[0], _called(place), argument, default)


def _is_setting(value: ast.expr, argument: str, caller: Function) -> bool:
    """Whether a value is a setting of the argument's name, or of one with words more."""
    held = Names(caller).held(value)
    if isinstance(held, ast.Call) and isinstance(held.func, ast.Attribute) and held.func.attr == "get" and held.args:
        name = str(held.args[0].value) if isinstance(held.args[0], ast.Constant) else ""
    else:
        name = last_name(held) if isinstance(held, ast.Attribute | ast.Subscript | ast.Name) else ""
    if isinstance(held, ast.Name) and held.id not in {
        each.arg for each in ast.walk(caller.args) if isinstance(each, ast.arg)
    }:
        return False
    ours, theirs = argument.strip("_").split("_"), name.strip("_").lower().split("_")
    return any(
        all(any(word.startswith(each) or each.startswith(word) for each in longer if each) for word in shorter)
        for shorter, longer in ((ours, theirs), (theirs, ours))
        if name
    )


def _are_branches(one: _Call, other: _Call) -> bool:
    """Whether two calls stand in two branches of one condition."""
    if one.here.function is not other.here.function:
        return False
    parents = parents_in(one.here.function)
    ours = [one.node, *outwards(one.node, parents)]
    theirs = [other.node, *outwards(other.node, parents)]
    for node in (each for each in (*ours, *theirs) if isinstance(each, ast.If | ast.IfExp)):
        below = [next((part for part, up in pairwise(chain) if up is node), None) for chain in (ours, theirs)]
        if below[0] is not None and below[1] is not None:
            return _is_in_else(node, below[0]) is not _is_in_else(node, below[1])
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return | ast.Continue):
            return True
    return False


def _is_in_else(node: ast.If | ast.IfExp, part: ast.AST) -> bool:
    orelse = node.orelse if isinstance(node, ast.If) else [node.orelse]
    return any(part is each for each in orelse)


def _of_seed(left: SeedLeft) -> Finding:
    place, setting = left.setting
    there = place.file.at(setting)
    where = f"line {there.line}" if place.file is left.place.file else f"{place.file.path.name}:{there.line}"
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=f"{called_name(left.call)}() is not given `{left.argument}` here and draws by its default "
        f"{left.default}, while {where} reads the run's, `{ast.unparse(setting)}`; allowed: one seed for all",
        culprit=left.place.file.at(left.call, left.place.name),
        fix="hand the run's seed over, or give the argument no default",
        detail={"argument": left.argument, "default": left.default},
    )


def _finding(left: _Call, given: _Call, called: str, argument: str, default: str) -> Finding:
    there = given.here.file.at(given.node)
    where = f"line {there.line}" if given.here.file is left.here.file else f"{given.here.file.path.name}:{there.line}"
    return _of_default(left, f"{where} gives it the setting", called, argument, default)


def _of_default(left: _Call, told: str, called: str, argument: str, default: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=f"{called}() is not given `{argument}` here and goes by its default {default}, while {told}; allowed: "
        "one number for both",
        culprit=left.here.file.at(left.node, left.here.function.name),
        fix="hand the setting over in each call, or give the argument no default",
        detail={"argument": argument, "default": default},
    )

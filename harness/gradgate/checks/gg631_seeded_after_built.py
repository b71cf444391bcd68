"""The run's seed is set behind what builds the model: the weights are drawn from a generator that is not seeded.

## What it detects

`model = build_model(config)`, and `seed_everything(config.seed)` behind it.

## Why it matters

Two runs of one seed begin with different weights, and differ in all that follows. Data, order and dropout are alike, so
that the seed seems to work.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding is a statement
that sets the run's seed, under no condition or where one asks for the seed alone, in a function that trains, builds
what does, or is called by what trains behind it; and behind one that builds a model in the same list of statements:

* the seed is `seed_everything` or `set_seed`, the trainer's own also, or `torch.manual_seed` of what is named a seed;
* what is built is assigned to a `model`, `net`, `network`, `policy` or `actor`, and is a call of a class, or of a
  function that builds, makes, creates or initialises; or it is a layer, a module of the trainer's own, or an object
  whose `__init__` builds one of these; not what is given another model, which a section of the settings is none of;
* a method of the same object may do either, and a function that is given the model may seed, and builds none;
* so the seeds of a `run()`, `fit()` or `train()` of an object that builds a model as it is made.

Not so where something seeds in front: in that function, where it is called, in what builds, or where a module is
imported; where the weights are loaded under no condition, there or in what builds; and where the seed depends on a
step, an epoch or a rank. Statistic: such seeds; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
model = build_model(config)
seed_everything(config.seed)
```

Good:

```python
seed_everything(config.seed)
model = build_model(config)
```

## How to fix

Seed first.

## Known limits

A model that is built in one function and seeded behind in another is not seen, but for those above. Whether two runs
of a seed are alike is GG601's, which runs them.

## Sources

"Reproducibility", PyTorch's notes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator

from gradgate.checks.source.conditions import is_setting
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, Function, calls_in, dotted, files_of, given_by, nodes_in
from gradgate.checks.source.values import OTHERS, always_run, assignments_in, blocks_in, own_nodes, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG631", "seeded-after-built"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SEEDS = re.compile(r"(^|[._])seed(_|$)|(^|\.)seed|manual_seed")  # whatever may seed
RUN_SEEDS = re.compile(r"(^|\.)_?(seed_everything|set_seeds?|set_random_seed|seed_all)$")
OF_PLACE = re.compile(r"epoch|step|iter|resum|rank|process|worker|device|eval|sampl", re.IGNORECASE)
MODEL = re.compile(r"(^|[._])(model|net|network|policy|actor)$", re.IGNORECASE)
BUILDS = re.compile(r"(^|\.)_?(build|make|create|init|get|setup)_(\w+_)?(model|net|network|policy|actor)$")
LOADS = re.compile(r"load_state_dict|from_pretrained|load_checkpoint|load_weights|load_model|\.load$")
LAYERS = re.compile(r"^(torch\.)?nn\.(Linear|Embedding|Sequential|GRU|LSTM|Transformer\w*|Conv\w+)$")
RUNS = re.compile(r"^_?(run|fit|train|main)$")
OF_CONFIG = re.compile(r"(^|[._])(config|cfg|conf|args|hparams|settings|recipe|options|hp)\.", re.IGNORECASE)
TRAINS = re.compile(r"optim|train|(^|\.)_?fit|backward|(^|\.)run$", re.IGNORECASE)
DEPTH = 3  # calls that are followed


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for seeds behind models."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    at_import = any(
        isinstance(node, ast.Call) and SEEDS.search(dotted(node.func))
        for file in files
        if file.has("seed")
        for node in nodes_in(file.tree.body, *OTHERS)
    )
    findings = () if at_import else tuple(_found(places_in(files)))
    return Outcome(findings, {"seeds": len(findings)}, {"seeds": 0})


def _found(own: Places) -> Iterator[Finding]:
    late = [
        (place, *late)
        for place in own.functions
        if place.file.has("seed") and not SEEDS.search(place.name)
        for late in _late(place, own)
    ]
    themselves = {id(place.function) for place, _, _ in late}  # a stage in front that is no better
    for place, seed, built in late:
        if not _called_seeded(place, own, themselves, DEPTH):
            yield Finding(
                code=CODE,
                name=NAME,
                message=(
                    f"{place.name}() seeds by `{ast.unparse(seed)}` behind `{ast.unparse(built)}` in line "
                    f"{built.lineno}, whose weights are drawn before; allowed: a seed in front of that"
                ),
                culprit=place.file.at(seed, place.name),
                fix="seed in front of what builds the model",
            )


def _late(place: Place, own: Places) -> Iterator[tuple[ast.stmt, ast.stmt]]:
    """The first seeds of a function's lists of statements, with a model that is built in front."""
    nodes = place.nodes
    if not _trains(place, own):
        return
    made_with = _made_with(place, own)
    for block in (place.function.body, *blocks_in(nodes)):
        found = (
            (index, seed) for index, each in enumerate(block) for seed in _seeding(each, block[:index], own, place)
        )
        at, seed = next(found, (0, None))
        built = [each for each in block[:at] if _builds(each, own, place) or _calls_what_builds(each, own, place)]
        built += made_with if block is place.function.body else []
        loaded = any(
            LOADS.search(dotted(call.func))
            for each in block
            if not isinstance(each, ast.If | ast.For | ast.While)
            for call in calls_in(each)
        )
        if seed is not None and built and not loaded and not _seeded_before(nodes, seed.lineno):
            yield seed, built[0]


def _trains(place: Place, own: Places) -> bool:
    """Whether a function trains, or calls what does; or one that calls it does so behind that."""
    if _has_training(place.nodes, place, own):
        return True
    for caller, call in own.calls_of(place.name):
        behind = [node for node in caller.nodes if getattr(node, "lineno", 0) > call.lineno]
        if own.called(call, caller) is place and _has_training(behind, caller, own):
            return True
    return False


def _has_training(nodes: list[ast.AST], place: Place, own: Places, depth: int = 1) -> bool:
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    if any(TRAINS.search(dotted(call.func)) for call in calls):
        return True
    called = [each for call in calls if depth and (each := own.called(call, place)) is not None]
    return any(_has_training(each.nodes, each, own, depth - 1) for each in called if each.name != "__init__")


def _made_with(place: Place, own: Places) -> list[ast.stmt]:
    """What builds a model as the object is made whose run a method is."""
    if place.owner is None or not RUNS.search(place.function.name):
        return []
    made = [each for each in own.methods("__init__") if each.owner is place.owner and not _seeds_or_loads(each, own)]
    return [each for one in made for each in one.function.body if _builds(each, own, one)]


def _seeding(statement: ast.stmt, before: list[ast.stmt], own: Places, place: Place) -> Iterator[ast.stmt]:
    """A statement that sets the run's seed, or those of a branch that only asks whether there is one.

    So does one that calls a function of the trainer's own which seeds under no condition and builds nothing: of the
    same object, or one that is given a model that stands in front.
    """
    if isinstance(statement, ast.If) and "seed" in ast.unparse(statement.test) and is_setting(statement.test):
        yield from filter(_seeds_the_run, statement.body)
    elif _seeds_the_run(statement) or _calls_what_seeds(statement, before, own, place):
        yield statement


def _calls_what_seeds(statement: ast.stmt, before: list[ast.stmt], own: Places, place: Place) -> bool:
    call = getattr(statement, "value", None)
    called = own.called(call, place) if isinstance(call, ast.Call) and before else None
    if not isinstance(call, ast.Call) or called is None or called.name == "__init__":
        return False
    names = {dotted(part) for target, _ in assignments_in(before) for part in places_of(target)}
    given = set(filter(MODEL.search, names)) & set(map(dotted, given_by(call)))
    if not given and not (dotted(call.func).startswith("self.") and not given_by(call)):
        return False
    body = called.function.body
    if OF_PLACE.search(called.name) or any(_builds(each, own, called) for each in body):
        return False
    return any(_seeds_the_run(each) for each in body)


def _seeds_the_run(statement: ast.stmt) -> bool:
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not (call.args or call.keywords):
        return False
    given = " ".join(ast.unparse(each) for each in (*call.args, *call.keywords))
    name = dotted(call.func)
    of_run = RUN_SEEDS.search(name) or (name == "torch.manual_seed" and "seed" in given.lower())
    return bool(of_run) and not OF_PLACE.search(given)


def _builds(statement: ast.stmt, own: Places, place: Place) -> bool:
    """Whether a statement builds a model, or an object that does as it is made, and does neither seed nor load."""
    return any(_makes(target, value, own, place) for target, value in assignments_in([statement]))


def _calls_what_builds(statement: ast.stmt, own: Places, place: Place) -> bool:
    """Whether a statement calls a method of the same object that builds its model, and neither seeds nor loads."""
    call = statement.value if isinstance(statement, ast.Expr) else None
    if not isinstance(call, ast.Call) or not dotted(call.func).startswith("self."):
        return False
    called = own.called(call, place)
    if called is None or _seeds_or_loads(called, own):
        return False
    return any(
        _builds(each, own, called) and any(dotted(target).startswith("self.") for target, _ in assignments_in([each]))
        for each in called.function.body
    )


def _makes(target: ast.expr, value: ast.expr, own: Places, place: Place) -> bool:
    while (
        isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and isinstance(value.func.value, ast.Call)
    ):
        value = value.func.value  # Model(config).to(device)
    if not isinstance(value, ast.Call):
        return False
    if any(MODEL.search(dotted(each)) and not OF_CONFIG.search(dotted(each)) for each in given_by(value)):
        return False  # what wraps a model draws nothing
    name = dotted(value.func)
    called = own.called(value, place)
    if called is not None and _seeds_or_loads(called, own):
        return False
    named = any(MODEL.search(dotted(each)) for each in places_of(target))
    if named and (BUILDS.search(name) or name.rpartition(".")[2][:1].isupper()):
        return True
    if called is None or called.owner is None or called.function.name != "__init__":
        return bool(LAYERS.search(name))
    is_module = any(dotted(base).endswith("Module") for base in called.owner.bases)
    return is_module or any(
        _makes(inner, made, own, called)
        for inner, made in assignments_in(called.function.body)
        if isinstance(made, ast.Call) and own.called(made, called) is not called
    )


def _seeds_or_loads(place: Place, own: Places) -> bool:
    """Whether a function, or one that it calls, seeds, or loads under no condition."""
    return _reaches(place, own, SEEDS, own_nodes, DEPTH) or _reaches(place, own, LOADS, _never_left_out, DEPTH)


def _reaches(
    place: Place, own: Places, what: re.Pattern[str], read: Callable[[Function], Iterable[ast.AST]], depth: int
) -> bool:
    """Whether one of the nodes that are read of a function calls something, or a function that does."""
    calls = [node for node in read(place.function) if isinstance(node, ast.Call)]
    if any(what.search(dotted(call.func)) for call in calls):
        return True
    known = (own.called(call, place) for call in calls if depth)
    return any(each is not None and _reaches(each, own, what, read, depth - 1) for each in known)


def _never_left_out(function: Function) -> Iterable[ast.AST]:
    """The nodes that run under no condition: none where a branch leaves the function, `if path is None: return`."""
    tests = (node for node in own_nodes(function) if isinstance(node, ast.If))
    left = any(isinstance(part, ast.Return) for node in tests for part in node.body)
    return () if left else always_run(function)


def _seeded_before(nodes: list[ast.AST], line: int) -> bool:
    """Whether something seeds in front of a line, by itself or by a function that is named so."""
    calls = (node for node in nodes if isinstance(node, ast.Call) and node.lineno < line)
    return any(SEEDS.search(dotted(call.func)) for call in calls)


def _called_seeded(place: Place, own: Places, late: set[int], depth: int) -> bool:
    """Whether something seeds in front of a call of a function, or within what is called in front of it."""
    made = place.owner is not None and place.name == "__init__"
    name = place.owner.name if made and place.owner is not None else place.name
    for caller, call in own.calls_of(name) if depth else ():
        if caller.function is not place.function:
            nodes = caller.nodes
            before = [node for node in nodes if isinstance(node, ast.Call) and node.lineno < call.lineno]
            called = [each for node in before if (each := own.called(node, caller)) is not None]
            inside = [each.nodes for each in called if id(each.function) not in late]
            if _seeded_before(nodes, call.lineno) or _called_seeded(caller, own, late, depth - 1):
                return True
            if any(isinstance(node, ast.Call) and SEEDS.search(dotted(node.func)) for part in inside for node in part):
                return True
    return False

"""A configuration is checked when it is read, overrides are set behind that, and nobody checks the result.

## What it detects

`config = Config(**content); config.validate()`, and behind it `setattr(config, key, value)` for what the command line
gives; `Recipe.model_validate(content)`, and attributes that are set one by one, where the model does not validate
assignments.

## Why it matters

`--set temperature=-1`, `--set accumulation=0` and `--set weighting=critc` are refused in the file and taken on the
command line: the run goes on with what its own rules forbid, and ends in NaN, or as another experiment.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Overrides are set where a
function puts values under names that are variables (`setattr(node, leaf, value)`, `config[key] = value`) and takes
texts apart at `=`, or is called after overrides, as one of its arguments or what its loop goes over is. A configuration
has been checked where it stands in a call of `validate`, `check_config` and the like, alone or in the function that
made it, or where it is made of a class of the trainer's that is a pydantic model, or a dataclass whose `__post_init__`
raises.

A finding is where overrides are set on what has been checked, there or by a function that is called with it. It is
none where a check, or a call that makes one anew, stands behind it, in the function that sets, in the one that calls it
or in the one that calls that; where any other function of the trainer's checks a configuration; and where assignments
are validated (`validate_assignment`, `__setattr__`). Statistic: such places. Allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
config = Config(**yaml.safe_load(text))
config.validate()
for item in overrides:
    key, raw = item.split("=", 1)
    setattr(config, key, yaml.safe_load(raw))
```

Good:

```python
config = Config(**{**yaml.safe_load(text), **parsed(overrides)})
config.validate()
```

## How to fix

Merge what was read and what was given first, and make and check the configuration of that.

## Known limits

A check by conditions that stand where the configuration is read, in no function of its own, is not known for one.

## Sources

Configuration faults of trainers that were read for the catalogue; pydantic, `validate_assignment`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.trainer import NONE, File, Function, called_name, dotted, files_of, names_in
from gradgate.checks.source.values import SPLITS, assignments_in, contains, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG457", "checked-before-set"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
CHECKS = re.compile(
    r"^_*(re)?(validate|check|verify|ensure)(_?(all|config|cfg|recipe|settings|self|bounds|values|schema))*$|"
    r"^(model_validate\w*|__post_init__|_?(assert_valid|sanity_check|is_valid))$"
)
GIVEN = re.compile(r"overrid|overwrit|dotlist|\bsets?\b|_sets?\b|set_|\bcli|assignments?\b|argv|pairs", re.IGNORECASE)
MODELS = ("BaseModel", "BaseSettings")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for overrides that are set on what has been checked."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    sets = any(file.has("setattr(", "] = ") and file.has('"="', "'='", "verrid", ".set", "cli") for file in files)
    validated = any(
        file.has("validate_assignment", "def __setattr__", "TypeAdapter", "__pydantic_validator__") for file in files
    )
    found = tuple(_Read(files).found()) if sets and not validated else ()
    return Outcome(found, {"places": len(found)}, {"places": 0})


@dataclass(frozen=True, eq=False)
class _Set:
    """Where overrides are set: the statement, and the names of what they are set on."""

    node: ast.expr
    on: set[str]


class _Read:
    """What a trainer's functions check and set."""

    def __init__(self, files: tuple[File, ...]) -> None:
        self._calls = places_in(files)
        classes = [node for file in files for node in file.nodes if isinstance(node, ast.ClassDef)]
        models = {*MODELS}
        for _ in range(2):
            models |= {
                node.name for node in classes if models & {dotted(base).rpartition(".")[2] for base in node.bases}
            }
        self._classes = (models - {*MODELS}) | {node.name for node in classes if _refuses(node)}
        self._setters = {id(place.function) for place in self._calls.functions if _sets_given(place.function)}

    def found(self) -> Iterator[Finding]:
        """The places where overrides are set on what has been checked, and nothing checks them."""
        for here in self._calls.functions:
            for each in self._sets(here):
                before = self._checked(here, each)
                if before is not None and not self._is_checked_behind(here, each) and not self._elsewhere(here):
                    yield _finding(here, each, before)

    def _sets(self, here: Place) -> Iterator[_Set]:
        """Where a function sets overrides, itself or by one that it calls."""
        nodes = here.nodes
        if id(here.function) in self._setters:
            names = here.names
            for node, target in _set_by_names(nodes):
                yield _Set(node, {dotted(part) for part in names.parts(target) if isinstance(part, ast.Name)})
            return
        for node in (node for node in nodes if isinstance(node, ast.Call)):
            place = self._calls.called(node, here)
            if place is not None and id(place.function) in self._setters and not self._checks_itself(place):
                yield _Set(node, {name for part in (*node.args, *node.keywords) for name in names_in(part)})

    def _checks_itself(self, setter: Place) -> bool:
        sets = [node.lineno for node, _ in _set_by_names(setter.nodes)]
        return any(node.lineno >= min(sets) for node in self._check_calls(setter.function))

    def _check_calls(self, function: Function) -> list[ast.Call]:
        """The calls in a function that check a configuration, or make one that is checked."""
        return [node for node in own_nodes(function) if isinstance(node, ast.Call) and self._checks(node)]

    def _checks(self, call: ast.Call) -> bool:
        name = dotted(call.func)
        last = name.rpartition(".")[2]
        if name.startswith(("torch.", "F.")):
            return False
        made = call.func.func if isinstance(call.func, ast.Call) else None
        return bool(CHECKS.search(last)) or last in self._classes or (made is not None and dotted(made) == "type")

    def _checked(self, here: Place, each: _Set) -> ast.AST | None:
        """What checked, in front of a place, that on which overrides are set there."""
        nodes = here.nodes
        for call in (node for node in nodes if isinstance(node, ast.Call) and node.lineno < each.node.lineno):
            last = called_name(call)
            given = {dotted(part) for part in (call.func, *call.args)} | {dotted(call.func).rpartition(".")[0]}
            if CHECKS.search(last) and given & each.on and not dotted(call.func).startswith("torch."):
                return call
        for target, value in assignments_in(nodes):
            if value.lineno < each.node.lineno and dotted(target) in each.on and self._makes_checked(value, here):
                return value
        return None

    def _makes_checked(self, value: ast.expr, here: Place, hops: int = 2) -> bool:
        if not isinstance(value, ast.Call):
            return False
        name = dotted(value.func)
        if name.rpartition(".")[2] in self._classes or name.rpartition(".")[0] in self._classes:
            return True
        place = self._calls.called(value, here) if hops else None
        if place is None or place.name == "__init__":
            return False
        nodes = place.nodes
        returned = [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]
        names = set().union(*map(names_in, returned)) if returned else set()
        checked = any(
            CHECKS.search(called_name(call)) and (names & names_in(call))
            for call in (node for node in nodes if isinstance(node, ast.Call))
        )
        held = [place.names.held(each) for each in returned]
        return checked or any(self._makes_checked(each, place, hops - 1) for each in held)

    def _is_checked_behind(self, here: Place, each: _Set) -> bool:
        """Whether a check stands behind a place, there or behind a call of its function."""
        inside = self._check_calls(here.function)
        if any(node.lineno > each.node.lineno or contains(node, each.node) for node in inside):
            return True
        name = here.function.name
        return any(
            node.lineno >= call.lineno and node is not call
            for caller, call in self._calls.calls_of(name)
            for node in self._check_calls(caller.function)
        )

    def _elsewhere(self, here: Place) -> bool:
        """Whether a function that is neither called there nor a check itself checks a configuration by a call."""
        before = {id(here.function)}
        for _ in range(3):
            for place in [place for place in self._calls.functions if id(place.function) in before]:
                for node in place.nodes:
                    called = self._calls.called(node, place) if isinstance(node, ast.Call) else None
                    if called is not None:
                        before.add(id(called.function))
        before -= {id(place.function) for place in self._calls.functions if place.name == "__init__"}
        return any(
            CHECKS.search(called_name(node))
            and not dotted(node.func).startswith(("torch.", "super"))
            and re.search(r"config|cfg|recipe|settings|hparams|args", ast.unparse(node))
            for place in self._calls.functions
            if id(place.function) not in before and not CHECKS.search(place.name)
            for node in self._check_calls(place.function)
        )


def _refuses(owner: ast.ClassDef) -> bool:
    """Whether a class refuses what it is made of."""
    return any(
        isinstance(method, Function) and method.name == "__post_init__"
        and any(isinstance(node, ast.Raise | ast.Assert) for node in ast.walk(method))
        for method in owner.body
    )  # fmt: skip


def _sets_given(function: Function) -> bool:
    """Whether a function puts what the command line gives under names that are variables."""
    nodes = own_nodes(function)
    places = list(_set_by_names(nodes))
    if not places or function.name == "__init__":
        return False
    texts = [function.name, *(each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg))]
    texts += [ast.unparse(node.iter) for node in nodes if isinstance(node, ast.For)]
    takes_apart = any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SPLITS
        and any(isinstance(one, ast.Constant) and one.value == "=" for one in node.args)
        for node in nodes
    )  # fmt: skip
    return takes_apart or any(GIVEN.search(text) for text in texts)


def _set_by_names(nodes: list[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Where a value is put under a name that is a variable, and on what; not on what is made there empty."""
    empty = {dotted(target) for target, value in assignments_in(nodes) if ast.unparse(value) in ("{}", "dict()")}
    for node in nodes:
        is_set = isinstance(node, ast.Call) and dotted(node.func) in ("setattr", "object.__setattr__")
        if isinstance(node, ast.Call) and is_set and len(node.args) == 3 and not isinstance(node.args[1], ast.Constant):
            yield node, node.args[0]
    for target, _ in assignments_in(nodes):
        if isinstance(target, ast.Subscript) and isinstance(target.slice, ast.Name):
            yield from [(target, target.value)] if dotted(target.value) not in empty else []


def _finding(here: Place, each: _Set, before: ast.AST) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{here.function.name}() sets overrides on what line {here.file.at(before).line} has checked, and "
        "nothing checks them; allowed: none",
        culprit=here.file.at(each.node, here.function.name),
        fix="merge what was read and what was given first, and make and check the configuration of that",
    )

"""A function's argument is given another key of the configuration than the one of its name.

## What it detects

`head_weights(value, discount_lambda=config.gamma)` where the configuration has a `discount_lambda`: a slip when a key
was added, or when a call was copied from the other stage. `returns(rewards, values, config.lam, config.gamma)` where
the function asks for `gamma` first.

## Why it matters

Both keys are read somewhere, so that neither is dead: moving one changes something, and not what its name says.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Keys are the arguments of
`add_argument` and the fields of classes that are called `...Config`, `...Args` and the like. A finding, as a warning,
is a call of a function, method or class of the trainer's own, of which there is one of that name, that gives an
argument P, which is a key, the attribute Q of some object, which is another key; where Q is no special case of P or P
of Q (`lr=config.critic_lr`, `length=config.max_length`), and some other call does give an argument of the name P the
key P; or where the same call gives the argument Q the key P. What a class keeps as `self.Q` is a key where it takes it
from an attribute or an item of something, or is given a number or a text: not what it builds. Arguments for models,
optimizers and data may have the name of the setting that chooses one. An argument with the function's own name says
which way of doing it is meant, and may come from any key.

A call is a finding, too, where two of its arguments are given each other's setting, by place or by name: fields of any
class that are numbers with a default, arguments of a command line and keys of YAML files that are numbers, read as an
attribute, an item or by `get`, or held by a name; where the setting's words are the other argument's (`gae_lambda` and
`lam`), and not its own. So is one that gives an argument what is called the opposite of it, and the other argument the
other: `explained_variance(prediction, target)` called with `(returns, values)`; predictions, estimates, values and
outputs are the opposite of targets, labels and returns, the preferred, chosen and good of the rejected and bad,
students of teachers, the policy of its reference. It is none of a function that does the same to both but for their
difference, and none where the same function calls it the right way round as well. Allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones. Two things that go by one name, heads of
attention and heads of prediction, can make one.

## Example

Bad:

```python
weights = head_weights(value_BS, discount_lambda=config.gamma)
```

Good:

```python
weights = head_weights(value_BS, discount_lambda=config.discount_lambda)
```

## How to fix

Give the key of the argument's name; where the other one is meant, call the argument what it is.

## Known limits

Arguments behind a `*` and functions of one name in several places are not looked at. A key that no call gives to an
argument of its name, and one that is read into a variable first, are where two have changed places alone.

## Sources

Fault LW-31 of the fault catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.crossed_settings import crossed, number_settings
from gradgate.checks.source.opposite_names import changed_places
from gradgate.checks.source.places import places_in
from gradgate.checks.source.setting_sections import asked
from gradgate.checks.source.settings import SETTINGS, declared_settings, yaml_files
from gradgate.checks.source.trainer import NONE, File, Function, called_name, calls_in, dotted, files_of, given_by
from gradgate.checks.source.values import assignments_in, own_nodes, parameters_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG427", "argument-given-another-key"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PLAIN = {"int", "float", "str", "bool", "Any"}
SHORT = 3  # letters; a shorter word is too common to tell
COMMON = (
    *SETTINGS,
    "path",
    "file",
    "folder",
    "name",
    "key",
    "value",
    *("model", "module", "tokenizer", "processor", "optimizer", "dataset", "loader"),  # also what their settings make
)  # what an argument is called whatever it is given


@dataclass(frozen=True)
class _Given:
    """An argument that some call gives a key, or what is called like one."""

    file: File
    call: ast.Call
    function: str
    argument: str
    key: str
    is_key: bool


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold the keys that calls give against the names of the arguments."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    keys = {setting.name for file in files for setting in declared_settings(file) if len(setting.name) >= SHORT}
    given = list(_given(files, keys))
    proper = {each.argument for each in given if each.argument == each.key}
    wrong = [
        each for each in given if each.is_key and each.argument in proper and not _is_akin(each.argument, each.key)
    ]
    swapped = {(id(each.call), each.argument, each.key) for each in given if each.argument != each.key}
    wrong += [
        each
        for each in given
        if each.is_key and each not in wrong and swapped >= {(id(each.call), each.key, each.argument)}
    ]  # two that get each other's
    measured = {"arguments_given_another_key": len(wrong), "arguments_given_keys": len(given), "files": len(files)}
    seen = {id(each.call) for each in wrong}
    others = (*_crossed(files, subject), *_opposite(files))
    findings = [*map(_finding, wrong), *(each for call, each in others if id(call) not in seen)]
    measured["arguments_given_another_key"] = len(findings)
    return Outcome(tuple(findings), measured, {"arguments_given_another_key": 0})


def _crossed(files: tuple[File, ...], subject: Subject) -> Iterator[tuple[ast.Call, Finding]]:
    """The calls in which two settings have changed places."""
    parameters, keys = _parameters(files), number_settings(files, [content for *_, content in yaml_files(subject)])
    for place in places_in(files).all:
        for call in (node for node in place.nodes if isinstance(node, ast.Call)):
            name = called_name(call)
            if name not in parameters:
                continue
            for one, other in crossed(call, parameters[name][0], place, keys):
                told = f"{name}() is given for its arguments `{one}` and `{other}` each other's settings"
                yield call, _at(place.file, call, told, {"argument": one, "key": other})


def _opposite(files: tuple[File, ...]) -> Iterator[tuple[ast.Call, Finding]]:
    """The calls whose arguments are given what is called the opposite."""
    own = places_in(files)
    for place in own.all:
        calls = [node for node in place.nodes if isinstance(node, ast.Call) and len(given_by(node)) > 1]
        found = [(call, each) for call in calls for each in changed_places(call, place, own)]
        for call, (one, got, other, had) in found:
            same = [each for each in calls if called_name(each) == called_name(call)]
            if len(same) == sum(each in [which for which, _ in found] for each in same):
                told = f"{called_name(call)}() is given `{got}` for its argument `{one}` and `{had}` for its `{other}`"
                yield call, _at(place.file, call, told, {"argument": one, "key": got})


def _given(files: tuple[File, ...], keys: set[str]) -> Iterator[_Given]:
    """Every argument with the name of a key that is given a key."""
    parameters = _parameters(files)
    kept = {id(owner): _kept(owner) for file in files for _, owner in file.functions if owner is not None}
    for file in files:
        owners = {id(node): kept[id(owner)] for function, owner in file.functions if owner is not None
                  for node in ast.walk(function)}  # fmt: skip
        for call in calls_in(file.tree):
            name = called_name(call)
            known = parameters.get(name)
            if known is None:
                continue
            named = [*zip(known[0], call.args, strict=False)]
            named += [(word.arg, word.value) for word in call.keywords if word.arg in known[0] + known[1]]
            starred = any(isinstance(value, ast.Starred) for value in call.args)
            for argument, value in () if starred else named:
                if (
                    argument in keys
                    and argument not in (*COMMON, name)
                    and isinstance(value, ast.Attribute)
                    and value.attr in keys
                ):
                    is_key = dotted(value.value) != "self" or value.attr in owners.get(id(call), {value.attr})
                    yield _Given(file, call, name, argument, value.attr, is_key)


def _kept(owner: ast.ClassDef) -> set[str]:
    """What a class keeps that may be a setting: its fields, what it reads of something, plain values it is given."""
    found = {dotted(part.target) for part in owner.body if isinstance(part, ast.AnnAssign)}
    for function in (part for part in owner.body if isinstance(part, Function)):
        plain = {each.arg for each in parameters_of(function) if _is_plain(each.annotation)}
        for target, value in assignments_in(own_nodes(function)):
            if isinstance(target, ast.Attribute) and dotted(target.value) == "self":
                is_read = isinstance(value, ast.Attribute | ast.Subscript) or asked(value) is not None
                if is_read or dotted(value) in plain:
                    found.add(target.attr)
    return found


def _is_plain(annotation: ast.expr | None) -> bool:
    return annotation is None or bool(PLAIN & {word.id for word in ast.walk(annotation) if isinstance(word, ast.Name)})


def _parameters(files: tuple[File, ...]) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """The arguments of the trainer's own functions, methods and classes that go by one name alone, by place and not."""
    found: dict[str, list[tuple[tuple[str, ...], tuple[str, ...]]]] = {}
    for file in files:
        for function, owner in file.functions:
            static = any(dotted(decorator) == "staticmethod" for decorator in function.decorator_list)
            names = _positional(function)[int(owner is not None and not static) :]
            called = owner.name if owner is not None and function.name == "__init__" else function.name
            others = tuple(argument.arg for argument in function.args.kwonlyargs)
            found.setdefault(called, []).append((names, others))
    return {name: several[0] for name, several in found.items() if len(several) == 1}


def _positional(function: Function) -> tuple[str, ...]:
    return tuple(argument.arg for argument in (*function.args.posonlyargs, *function.args.args))


def _is_akin(one: str, other: str) -> bool:
    """Whether all words of one name are words of the other, or begin one: `lr` and `critic_lr`, `max_len`, `length`."""
    ours, theirs = (name.lower().split("_") for name in (one, other))
    return any(
        all(any(word.startswith(each) or each.startswith(word) for each in longer) for word in shorter)
        for shorter, longer in ((ours, theirs), (theirs, ours))
    )


def _finding(given: _Given) -> Finding:
    told = f"{given.function}() is given `{given.key}` for its argument `{given.argument}`, which is a key of its own"
    return _at(given.file, given.call, told, {"argument": given.argument, "key": given.key})


def _at(file: File, call: ast.Call, told: str, detail: dict[str, str]) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=f"{told}; allowed: none",
        culprit=file.at(call),
        fix="give the key of the argument's name; where the other one is meant, call the argument what it is",
        detail=detail,
    )

"""A keyword that nothing knows vanishes in `**kwargs` that nothing reads, and the default acts.

## What it detects

`class CriticScorer: def __init__(self, softmax_temperature=1.0, **_)`, made by
`SCORERS[name](temperature=cfg.temperature)`; `build_schedule(optimizer, warmup=0, **kwargs)` that is called with
`warmup_steps=10`.

## Why it matters

The setting is in the recipe, is read and is handed over, and changes nothing: the run goes by the default of an
argument that nobody gives. Without the `**_` the first call would have raised.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are functions and
classes of the trainer's own whose `**kwargs` no line of theirs reads. Findings are

* a call that can be of no other function (by its name, by `self`), undecorated, which no class below has anew, that
  gives a keyword, written, in a dictionary that is unpacked, or in the YAML section that is unpacked, that is none of
  its arguments;
* an argument with a default that nothing gives: no keyword, text, field of a configuration class, key of a YAML file
  and attribute of another object has its name, and no positional argument reaches it; where there is a key beside it
  whose name is the same but for a word more or less, or an abbreviation (`temp` and `temperature`, `tau` and
  `temperature`, `lam` and `gae_lambda`), that the function does not take. The key is given in a call by a table, by a
  variable or by a function that hands its keywords on; or it is a key of a YAML file, a field or a key of a dictionary
  that no line reads and no function has for an argument.

Statistic: such keywords and arguments. Allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
class CriticScorer:
    def __init__(self, softmax_temperature=1.0, **_):
        self.temperature = softmax_temperature

SCORERS[cfg.name](temperature=cfg.temperature)
```

Good:

```python
class CriticScorer:
    def __init__(self, temperature=1.0):
        self.temperature = temperature
```

## How to fix

Take the keyword under its name, and drop `**kwargs`: what is misspelt then raises.

## Known limits

Keys of sections that are neither written in the source nor in a YAML file beside it are not known. Names that have no
word in common (`share` for `keep_ratio`) are seen in calls of one function alone.

## Sources

A configuration fault of trainers that were read for the catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.settings import declared_settings, yaml_files
from gradgate.checks.source.trainer import NONE, File, Function, called_name, calls_in, dotted, files_of
from gradgate.checks.source.values import Names, defaults_of, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG455", "unknown-argument-swallowed"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SAME = ({"tau", "temp", "temperature"}, {"lr", "rate", "learning_rate"}, {"wd", "decay", "weight_decay"})
FIX = "take the keyword under its name, and drop `**kwargs`: what is misspelt then raises"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what functions with unread `**kwargs` are given, and for what they are not."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    found = {(str(each.culprit), each.message): each for each in _all(subject, files)}
    return Outcome(tuple(found.values()), {"keywords_swallowed": len(found)}, {"keywords_swallowed": 0})


def _all(subject: Subject, files: tuple[File, ...]) -> Iterator[Finding]:
    swallows = {
        id(function): (file, function, owner)
        for file in files
        if file.has("**")
        for function, owner in file.functions
        if function.args.kwarg is not None and not _reads(function, function.args.kwarg.arg)
    }
    if not swallows:
        return
    content = [content for *_, content in yaml_files(subject)]
    calls = places_in(files)
    told = set()
    for here in calls.functions:
        for call in (node for node in here.nodes if isinstance(node, ast.Call) and node.keywords):
            place = calls.called(call, here)
            if place is None or id(place.function) not in swallows or not _is_surely(call, place, here.function):
                continue
            if place.owner is not None and _is_overridden(place, calls):
                continue
            for key in _keys(call, here.names, here.function, content):
                if key not in _arguments(place.function):
                    told.add(id(place.function))
                    yield _of_call(here, call, place, key)
    given = _Given(files, content)
    for file, function, owner in (each for key, each in swallows.items() if key not in told):
        for argument, _ in defaults_of(function.args):
            key = given.instead_of(argument.arg, function)
            if key and not given.reaches(argument.arg, function, owner):
                yield _of_argument(file, function, owner, argument, key)


def _is_overridden(place: Place, calls: Places) -> bool:
    """Whether a class that is made of a method's has one of the same name, which may be meant."""
    others = (each.owner for each in calls.methods(place.name) if each.owner is not None and each.name != "__init__")
    above = {dotted(base).rpartition(".")[2] for other in others for base in other.bases}
    return place.owner is not None and place.owner.name in above


def _reads(function: Function, name: str) -> bool:
    """Whether a function reads a name, or says that it drops it."""
    return any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(function))


def _arguments(function: Function) -> set[str]:
    return {each.arg for each in (*function.args.args, *function.args.kwonlyargs)}


def _is_surely(call: ast.Call, place: Place, caller: Function) -> bool:
    """Whether a call is of that function, and of what is written there."""
    of_object = isinstance(call.func, ast.Attribute) and place.owner is not None and place.name != "__init__"
    if place.function.decorator_list or (of_object and not dotted(call.func).startswith(("self.", "cls."))):
        return False
    return dotted(call.func) not in _local(caller)


def _keys(call: ast.Call, names: Names, function: Function, content: Sequence[Any]) -> Iterator[str]:
    """The keywords that a call gives: written, in a dictionary that is made beside it, in a section of a YAML file."""
    for word in call.keywords:
        if word.arg is not None:
            yield word.arg
            continue
        yield from _written(names.held(word.value))
        if isinstance(word.value, ast.Name):
            yield from (
                str(node.slice.value)
                for node in own_nodes(function)
                if isinstance(node, ast.Subscript)
                and isinstance(node.ctx, ast.Store)
                and dotted(node.value) == word.value.id
                and isinstance(node.slice, ast.Constant)
            )
        if section := _section(names.held(word.value)):
            yield from (key for one in content for key in _below(one, section))


def _written(value: ast.expr) -> Iterator[str]:
    """The keys of a dictionary that is written down."""
    if isinstance(value, ast.Dict):
        yield from (str(key.value) for key in value.keys if isinstance(key, ast.Constant))
    elif isinstance(value, ast.Call) and dotted(value.func) == "dict":
        yield from (word.arg for word in value.keywords if word.arg is not None)


def _section(value: ast.expr) -> str:
    """The section that `cfg["schedule"]`, `cfg.schedule` or `vars(cfg.schedule)` is; empty: it is none."""
    if isinstance(value, ast.Call) and dotted(value.func) in ("vars", "dict", "asdict") and len(value.args) == 1:
        value = value.args[0]
    if isinstance(value, ast.Subscript):
        return str(value.slice.value) if isinstance(value.slice, ast.Constant) else ""
    return value.attr if isinstance(value, ast.Attribute) else ""


def _below(content: Any, section: str) -> Iterator[str]:
    for key, inner in content.items() if isinstance(content, Mapping) else ():
        if key == section and isinstance(inner, Mapping):
            yield from map(str, inner)
        else:
            yield from _below(inner, section)


class _Given:
    """The keys that a trainer gives: by calls that may be of any function, and by what declares settings."""

    def __init__(self, files: tuple[File, ...], content: Sequence[Any]) -> None:
        nodes = [node for file in files for node in file.nodes]
        self._calls = [node for node in nodes if isinstance(node, ast.Call)]
        functions = [function for file in files for function, _ in file.functions]
        passing = {each.name for each in functions if _hands_on(each)}
        self.by_calls = {
            key
            for function in functions
            for call in calls_in(function)
            if call.keywords and (called_name(call) in passing or _is_of_any(call, function))
            for key in _keys(call, Names(function), function, ())
        }
        words = {word.arg for call in self._calls for word in call.keywords if word.arg is not None}
        read = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)}
        taken = {name for function in functions for name in _arguments(function)}
        texts = {str(node.value) for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        in_dicts = {key for node in nodes if isinstance(node, ast.expr) for key in _written(node)}
        fields = {each.name for file in files for each in declared_settings(file) if each.what.startswith("field")}
        files_keys = {key for one in content for key in _all_keys(one)}
        looked_up = {str(node.slice.value) for node in nodes if isinstance(node, ast.Subscript)
                     and isinstance(node.slice, ast.Constant) and isinstance(node.ctx, ast.Load)}  # fmt: skip
        looked_up |= {str(call.args[0].value) for call in self._calls
                      if call.args and isinstance(call.args[0], ast.Constant)}  # fmt: skip
        self.declared = (in_dicts | fields | files_keys) - taken - read - looked_up
        others = {node.attr for node in nodes if isinstance(node, ast.Attribute) and dotted(node.value) != "self"}
        self.named = words | texts | fields | files_keys | others | self.by_calls

    def instead_of(self, argument: str, function: Function) -> str:
        """A key that may be meant for an argument that nothing gives; empty: something gives it, or there is none."""
        if argument in self.named:
            return ""
        keys = {key for key in (self.by_calls | self.declared) if key.isidentifier() and not key.isupper()}
        keys -= _arguments(function)
        return min((key for key in keys if _is_akin(key, argument)), default="")

    def reaches(self, argument: str, function: Function, owner: ast.ClassDef | None) -> bool:
        """Whether a call that may be of a function gives an argument by its place."""
        names = [each.arg for each in function.args.args]
        if argument not in names:
            return False
        at = names.index(argument) - (names[:1] in (["self"], ["cls"]))
        called = owner.name if owner is not None and function.name == "__init__" else function.name
        return any(
            len(call.args) > at or any(isinstance(each, ast.Starred) for each in call.args)
            for call in self._calls
            if called_name(call) == called
            or (isinstance(call.func, ast.Subscript | ast.Call) and any(word.arg is None for word in call.keywords))
        )


def _hands_on(function: Function) -> bool:
    """Whether a function hands its keywords on to what it looks up, or is given."""
    kwarg = function.args.kwarg
    return kwarg is not None and any(
        any(word.arg is None and dotted(word.value) == kwarg.arg for word in call.keywords)
        and _is_of_any(call, function)
        for call in calls_in(function)
    )


def _is_of_any(call: ast.Call, function: Function) -> bool:
    """Whether a call is of what stands in a table, or of a variable."""
    if isinstance(call.func, ast.Subscript | ast.Call):
        return dotted(getattr(call.func, "func", call.func)) != "super"
    return isinstance(call.func, ast.Name) and call.func.id in _local(function)


def _local(function: Function) -> set[str]:
    """The names that a function is given or assigns."""
    assigned = {
        node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    return assigned | {each.arg for each in ast.walk(function.args) if isinstance(each, ast.arg)}


def _all_keys(content: Any) -> Iterator[str]:
    inner = content.items() if isinstance(content, Mapping) else ()
    for key, value in inner:
        yield str(key)
        yield from _all_keys(value)
    for value in content if isinstance(content, list) else ():
        yield from _all_keys(value)


def _is_akin(one: str, other: str) -> bool:
    """Whether two names differ by words more or less, or by an abbreviation."""
    ours, theirs = (name.lower().split("_") for name in (one, other))
    return any(all(any(_is_word(word, each) for each in longer) for word in shorter)
               for shorter, longer in ((ours, theirs), (theirs, ours)))  # fmt: skip


def _is_word(one: str, other: str) -> bool:
    if one == other or any({one, other} <= same for same in SAME):
        return True
    shorter, longer = sorted((one, other), key=len)
    return len(shorter) > 2 and longer.startswith(shorter)


def _of_call(here: Place, call: ast.Call, place: Place, key: str) -> Finding:
    name = place.owner.name if place.owner is not None and place.name == "__init__" else place.name
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{name}() is given `{key}`, which is none of its arguments and vanishes in its "
        f"`**{_kwarg(place.function)}`; allowed: none",
        culprit=here.file.at(call, here.function.name),
        fix=FIX,
        detail={"key": key},
    )


def _of_argument(file: File, function: Function, owner: ast.ClassDef | None, argument: ast.arg, key: str) -> Finding:
    name = owner.name if owner is not None else function.name
    return Finding(
        code=CODE,
        name=NAME,
        message=f"nothing gives `{argument.arg}` of {name}: `{key}`, which is given, vanishes in its "
        f"`**{_kwarg(function)}`, and the default acts; allowed: none",
        culprit=file.at(argument, function.name),
        fix=FIX,
        detail={"key": key, "argument": argument.arg},
    )


def _kwarg(function: Function) -> str:
    return function.args.kwarg.arg if function.args.kwarg is not None else ""

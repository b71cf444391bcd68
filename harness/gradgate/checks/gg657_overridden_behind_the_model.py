"""A configuration is overridden behind the model that was built of it, which keeps the old settings.

## What it detects

`model = cls(config)` and, behind it, `config.update(**kwargs)`: the model has been built of what the configuration said
before.

## Why it matters

`from_pretrained(path, dropout=0.0)` gives a model whose configuration says 0 and whose layers drop a third. What is
logged and saved is the setting that was asked for, and what runs is the stored one. Nothing raises.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A model is what a function
assigns to a name that says so, or what it makes of a module's class of the trainer's or of its own `cls`, and gives a
configuration (a name of `config`, `cfg`, `args` and the like), itself or a section or a copy of it. Findings are
overrides that are set on that configuration, or on what holds it, behind that in the same function: by `update` or a
function that is called after overriding, with `**kwargs` or a name of overrides; by `setattr` in a loop over one; or by
an assignment of one of the function's arguments to a setting that a module's `__init__` reads.

None are those behind which something else is made of the configuration without that model, or where what was overridden
before the model is overridden once more. Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
config = Config.from_pretrained(path)
model = cls(config)
config.update(**kwargs)
```

Good:

```python
config = Config.from_pretrained(path)
config.update(**kwargs)
model = cls(config)
```

## How to fix

Override first, and build of the result.

## Known limits

Settings that a model reads at each step, and not when it is built, may be overridden behind it, and are reported. A
model that one function builds and a configuration that another one overrides are not held against each other.

## Sources

transformers, `PreTrainedModel.from_pretrained`: keyword arguments override the configuration before the model is made.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import File, called_name, calls_in, dotted, given_by
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG657", "overridden-behind-the-model"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
CONFIG = re.compile(r"(^|_)(config|cfg|conf|args|hparams|settings|recipe|options|hp)$", re.IGNORECASE)
MODEL = re.compile(r"(^|_)(model|net|network|policy|critic|actor|lm|transformer|backbone|trunk)$", re.IGNORECASE)
OVERRIDES = re.compile(r"(^|_)(kwargs|overrides?|overridden|updates|set|sets|changes|unknown|extra_args)$")
MAKES = re.compile(r"^[A-Z]|^cls$|build|make|create|init|from_", re.ASCII)
SETS = re.compile(r"(^|_)(update|override|overrides|merge|apply|set)(_|$)", re.IGNORECASE)
COPIES = ("deepcopy", "copy", "replace", "SimpleNamespace", "dict", "asdict")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each function that builds a model and overrides what it is built of."""
    return read_place_by_place(subject, _may_override, _of_place, "overrides", tops=True)


def _may_override(file: File) -> bool:
    return file.has("config", "cfg", "conf", "args", "hparams", "settings", "recipe", "options", "hp")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    given = assignments_in(place.nodes)
    built = [
        (last_name(target), call, of) for target, value in given for call, of in _built_of(target, value, place, own)
    ]
    for model, call, of in built:
        sets = [node for node, overridden in _overriding(place, own) if _is_of(overridden, of)]
        behind = [node for node in sets if node.lineno > (call.end_lineno or call.lineno)]
        if behind and len(behind) == len(sets) and not _is_built_again(place, behind[0], model, of):
            yield _finding(place, behind[0], call, of)
            return


def _is_built_again(place: Place, node: ast.AST, model: str, of: str) -> bool:
    """Whether something is made of a configuration behind what overrides it, which is not given the model as well."""
    for call in (each for each in place.nodes if isinstance(each, ast.Call) and each.lineno > node.lineno):  # type: ignore[attr-defined]
        names = {dotted(part) for value in given_by(call) for part in ast.walk(value)}
        if of in names and model not in {name.rpartition(".")[2] for name in names} and MAKES.search(called_name(call)):
            return True
    return False


def _built_of(target: ast.expr, value: ast.expr, place: Place, own: Places) -> Iterator[tuple[ast.Call, str]]:
    """The configurations of which a value builds a model."""
    if not isinstance(value, ast.Call):
        return
    name = called_name(value)
    is_own = any(_is_module(owner, own) for owner in own.classes.get(name, ()))
    of_cls = name == "cls" and place.owner is not None and _is_module(place.owner, own)
    builds = bool(MODEL.search(last_name(target))) and not name.startswith(("load", "wrap", "prepare", "compile"))
    if of_cls or is_own or builds:
        for given in given_by(value):
            while isinstance(given, ast.Call) and called_name(given) in COPIES and given.args:
                given = given.args[0]
            if any(CONFIG.search(part) for part in dotted(given).split(".") if dotted(given)):
                yield value, dotted(given)


def _is_module(owner: ast.ClassDef, own: Places, hops: int = 4) -> bool:
    bases = [dotted(base).rpartition(".")[2] for base in owner.bases]
    if any(base in ("Module", "PreTrainedModel", "LightningModule") for base in bases):
        return True
    return hops > 0 and any(_is_module(one, own, hops - 1) for base in bases for one in own.classes.get(base, ()))


def _overriding(place: Place, own: Places) -> Iterator[tuple[ast.stmt | ast.expr, str]]:
    """What sets overrides in a function, and on what."""
    for node in place.nodes:
        if isinstance(node, ast.Call) and SETS.search(called_name(node)) and any(map(_are_overrides, given_by(node))):
            if isinstance(node.func, ast.Attribute) and called_name(node) == "update":
                yield node, _holder(node.func.value)
            elif node.args:
                yield node, dotted(node.args[0])
        elif isinstance(node, ast.For) and any(map(_are_overrides, ast.walk(node.iter))):
            for call in calls_in(node):
                if called_name(call) == "setattr" and call.args:
                    yield call, dotted(call.args[0])
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
            target = node.targets[0]
            is_given = isinstance(node.value, ast.Name) and node.value.id in place.parameters
            if is_given and CONFIG.search(last_name(target.value)) and target.attr in _read(own):
                yield node, dotted(target.value)


def _are_overrides(node: ast.AST) -> bool:
    """Whether something is called overrides, or made of what is."""
    parts = ast.walk(node) if isinstance(node, ast.Call) else [node]
    return any(OVERRIDES.search(last_name(part)) for part in parts)


def _holder(value: ast.expr) -> str:
    """What `vars(config)` and `config.__dict__` are of."""
    if isinstance(value, ast.Call) and called_name(value) == "vars" and value.args:
        value = value.args[0]
    return dotted(value).removesuffix(".__dict__")


def _read(own: Places) -> set[str]:
    """The settings that modules read as they are made."""
    makers = (place for place in own.named("__init__") if place.owner is not None and _is_module(place.owner, own))
    nodes = (node for place in makers for node in place.nodes if isinstance(node, ast.Attribute))
    return {node.attr for node in nodes if CONFIG.search(last_name(node.value))}


def _is_of(overridden: str, of: str) -> bool:
    """Whether what is overridden is what a model is built of, or holds it."""
    return bool(overridden) and (of == overridden or of.startswith(f"{overridden}."))


def _finding(place: Place, node: ast.AST, call: ast.Call, of: str) -> Finding:
    where = f"{place.name}()" if place.name else "the top level"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{where} overrides `{of}` behind the model that it builds "
        f"of that in line {call.lineno}; allowed: before it is built",
        culprit=place.file.at(node, place.name),
        fix="override first, and build of the result",
    )

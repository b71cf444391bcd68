"""A configuration takes keys that it does not know, and says nothing.

## What it detects

A pydantic model of settings without `extra="forbid"`: what it does not know is left out. A dictionary that is cut down
to the known fields on its way into a configuration class. A function of the trainer's own that makes or fills a
configuration and takes of a mapping only the keys of the class's fields.

## Why it matters

`learning_rate: 3` where the field is `lr` trains with the default, and the run's name says otherwise.

## How it decides

The trainer's source is read (`Subject.source`, or the modules that the adapter imports). A class that derives from
pydantic's `BaseModel`, and that is called after settings (a section and an experiment among them) or has a class
derived from it, in any file, that is, must set `extra`, or raise over what is no field of it. So must one that is made
of what is read from a YAML or TOML file (`Whole.model_validate(raw)`, `Whole(**raw)`), or, where its fields are models,
from JSON, and the models of its fields. One that another is made of may not take that back by `extra="ignore"`. A call
of a configuration class is given no dictionary that a comprehension has cut down to known keys, in a function that
raises nothing. A function makes configurations where its name or its class says so, or where it makes, fills or is
given one. It must not go through the fields of a class and read a mapping by their names, nor through the mapping and
pass over what is no field (`if key in names`, `if hasattr(config, key)` without `else`), where neither itself, nor what
it calls with the mapping, nor what calls it with that, raises, tells something, or holds the keys against the known
ones. Of a section, which is an entry of another mapping, a condition has to ask for something of the section; what a
caller holds against the known keys counts for the outermost ones alone where the function calls itself for sections.
One that goes down a configuration by calling itself, and raises over a key that is not there, may not put what it is
given in the place of whatever is no section (`data.pack.size=3`, where `data.pack` is a number): a mapping there has
keys that nobody knows, unless the value is asked for its type, or given to what may.
Arguments of a command line, environments and saved states are no such mappings: others read them as well. Statistic:
such places. Allowed: 0.

False-alarm rate: 0 where configurations are to refuse what they do not know, as a misspelt key always is.

## Example

Bad:

```python
class OptimConfig(BaseModel):
    lr: float = 1e-3
```

Good:

```python
class OptimConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    lr: float = 1e-3
```

Bad:

```python
for field in dataclasses.fields(TrainConfig):
    if field.name in raw:
        known[field.name] = raw[field.name]
return TrainConfig(**known)
```

Good:

```python
if unknown := set(raw) - {field.name for field in dataclasses.fields(TrainConfig)}:
    raise ConfigError(f"unknown keys: {sorted(unknown)}")
return TrainConfig(**raw)
```

## How to fix

Refuse unknown keys, and name the nearest one that is known.

## Known limits

Configurations that are read key by written key from a dictionary are not looked at. An `extra` of a mapping that is
not among the files read is taken for one that refuses.

## Sources

A configuration fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.leaves_overwritten import leaves_overwritten
from gradgate.checks.source.places import places_in
from gradgate.checks.source.setting_builders import lenient_builders
from gradgate.checks.source.setting_models import Models
from gradgate.checks.source.settings import SETTINGS
from gradgate.checks.source.trainer import NONE, File, dotted, files_of
from gradgate.checks.source.values import Names, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG431", "unknown-key-ignored"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
FIX = 'refuse keys that are not known: `model_config = ConfigDict(extra="forbid")`, or an error that names them'


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for configurations that drop what they do not know."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    found = [finding for file in files for finding in _cut_down(file)]
    if any(file.has("BaseModel") for file in files):
        found += [
            _finding(file, node, node.name, f"{node.name} leaves out keys that it does not know")
            for file, node in Models(files, places_in(files)).lenient()
        ]
    seen = {(each.culprit.file, each.culprit.function) for each in found if each.culprit is not None}
    for file, function, node, mapping in lenient_builders(files):
        if (str(file.path), function.name) not in seen:
            found.append(
                _finding(file, node, function.name, f"{function.name}() passes over other keys of `{mapping}`")
            )
    for place, put, value in leaves_overwritten(places_in(files)):
        told = f"{place.name}() refuses unknown keys, and puts a mapping `{value}` in the place of what is none"
        found.append(_finding(place.file, put, place.name, told, "its keys are nobody's"))
    return Outcome(tuple(found), {"keys_ignored": len(found)}, {"keys_ignored": 0})


def _cut_down(file: File) -> Iterator[Finding]:
    """Configurations that a function gives only what they know."""
    for function, owner in file.functions:
        nodes = own_nodes(function)
        if any(isinstance(node, ast.Raise) for node in nodes):
            continue
        names = Names(function)
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            made = owner.name if dotted(call.func) == "cls" and owner is not None else dotted(call.func)
            given = [names.held(word.value) for word in call.keywords if word.arg is None]
            if made.lower().endswith(SETTINGS) and any(map(_is_cut_down, given)):
                yield _finding(file, call, function.name, f"{function.name}() cuts what {made} does not know")


def _is_cut_down(value: ast.expr) -> bool:
    """Whether a dictionary is made of those items of another whose keys are known."""
    if not isinstance(value, ast.DictComp) or not value.generators[0].ifs:
        return False
    part = value.generators[0]
    is_kept = isinstance(part.iter, ast.Call) and dotted(part.iter.func).endswith(".items")
    key = dotted(value.key)
    return is_kept and any(
        isinstance(test, ast.Compare) and isinstance(test.ops[0], ast.In) and dotted(test.left) == key
        for test in part.ifs
    )


def _finding(
    file: File, node: ast.AST, function: str, told: str, then: str = "a misspelt one is the default"
) -> Finding:
    return Finding(CODE, NAME, f"{told}: {then}; allowed: none", culprit=file.at(node, function), fix=FIX)

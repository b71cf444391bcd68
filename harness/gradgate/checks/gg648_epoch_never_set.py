"""A sampler or a loader shuffles by the number of the epoch, and nothing tells it that.

## What it detects

A class with `set_epoch`, or one that seeds its order by its own `epoch`, or a `DistributedSampler` that shuffles, in a
trainer that never calls `set_epoch`, and never gives the object an epoch.

## Why it matters

The number stays at 0, and each epoch has the order of the first: the same rows make the same batches, the same rows
are left over by `drop_last`, and nothing in the log says so.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Looked at are classes whose
methods seed (`manual_seed`, `Random`, `default_rng`) by `self.epoch`, or what is named so, which no method of the class
raises by itself; a method that keeps an argument in it, as `set_epoch` does, has to be called from what is no such
method itself, or the attribute set from outside (`sampler.epoch = epoch`; not that of a state, or a trainer), or the
epoch given where the object is made within a loop. Where loaders are given such objects as their `batch_sampler` alone,
calls of `loader.sampler` tell them nothing, nor those of `loader.batch_sampler` where they are its `sampler`.
`DistributedSampler(...)` without `shuffle=False` counts where no file calls `set_epoch` at all, and no library does
that for the trainer. A class with a `set_epoch` is left alone where the loop is one of transformers, accelerate or
lightning, which calls it. Only classes that the trainer makes an object of are looked at.

Statistic: such classes and samplers; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for epoch in range(epochs):
    for batch in loader:                                     # sampler.epoch is 0
        step(batch)
```

Good:

```python
for epoch in range(epochs):
    sampler.set_epoch(epoch)
    for batch in loader:
        step(batch)
```

## How to fix

Call `set_epoch(epoch)` in front of each epoch, also of a resumed one.

## Known limits

Names decide: an epoch that is kept under another one is not seen. Which order each epoch really has is GG612's, which
runs it.

## Sources

PyTorch, `torch.utils.data.distributed.DistributedSampler`: without `set_epoch` "the same ordering will be always used".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, File, dotted, files_of, given_by
from gradgate.checks.source.values import assignments_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG648", "epoch-never-set"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
EPOCH = re.compile(r"^_?(cur(rent)?_)?epoch(_?(number|index|idx|id|count(er)?))?$")
ROLES = ("sampler", "batch_sampler")
SEEDS = ("manual_seed", "Random", "default_rng", "RandomState", "seed", "SeedSequence")
OF_RUN = re.compile(  # whose epoch is the run's
    r"state|progress|trainer|status|position|count|track|meta|record|run|context|ctx|history|clock|summary|log|entry",
    re.I,
)
LIBRARY = re.compile(r"^\s*(from|import) (lightning|pytorch_lightning|accelerate|deepspeed|ignite|composer)\b")
CALLS_IT = re.compile(  # loops of libraries that tell each sampler its epoch
    r"^\s*from (transformers\S*|accelerate\S*|(pytorch_)?lightning\S*) import .*\b(\w*Trainer|Accelerator|Fabric)\b"
)
OF_LIBRARY = re.compile(r"\b(Seq2Seq|SFT|DPO|PPO|GRPO)?Trainer\(")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what tells each order its epoch."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings = tuple(_of_all(files)) if any(file.has("epoch", "DistributedSampler") for file in files) else ()
    return Outcome(findings, {"orders": len(findings)}, {"orders": 0})


def _of_all(files: tuple[File, ...]) -> Iterator[Finding]:
    own = places_in(files)
    calls_it = any(CALLS_IT.search(line) for file in files if file.has(" import ") for line in file.lines)
    for same in own.classes.values():
        for owner in same:
            methods = own.methods_of(owner)
            found = next((seed for method in methods for seed in _seeds(method)), None)
            if found is not None and _has_setter(owner, own) and calls_it:
                continue
            if found is not None and _is_made(owner, own) and not _is_told(owner, found[1], methods, own):
                method, attribute, call = found
                told = f"{owner.name}.{method.name}() seeds its order by `self.{attribute}`, which nothing sets"
                yield _finding(method.file, call, f"{owner.name}.{method.name}", told)
    lines = [line for file in files for line in file.lines]
    if not any(pattern.search(line) for line in lines for pattern in (LIBRARY, OF_LIBRARY)):
        yield from _distributed(own)


def _has_setter(owner: ast.ClassDef, own: Places, hops: int = 3) -> bool:
    """Whether a class, or one that it is made of, has a `set_epoch`."""
    if any(method.name == "set_epoch" for method in own.methods_of(owner)):
        return True
    above = [one for base in owner.bases for one in own.classes.get(last_name(base), ())]
    return hops > 0 and any(_has_setter(one, own, hops - 1) for one in above)


def _seeds(method: Place) -> Iterator[tuple[Place, str, ast.Call]]:
    """The seeds of a method by an epoch of its own object."""
    for node in method.nodes if method.file.has(*SEEDS) else ():
        if isinstance(node, ast.Call) and last_name(node.func) in SEEDS:
            given = [part for one in given_by(node) for part in method.names.parts(one)]
            for part in given:
                if isinstance(part, ast.Attribute) and dotted(part.value) == "self" and EPOCH.search(part.attr):
                    yield method, part.attr, node
                    return


def _is_made(owner: ast.ClassDef, own: Places) -> bool:
    """Whether the trainer makes an object of a class, or of one that is made of it."""
    names = {owner.name}
    for same in own.classes.values():
        names |= {one.name for one in same if any(last_name(base) == owner.name for base in one.bases)}
    return any(
        isinstance(node, ast.Call) and last_name(node.func) in names
        for place in own.all
        if place.file.has(*names)
        for node in place.nodes
    )


def _is_told(owner: ast.ClassDef, attribute: str, methods: list[Place], own: Places) -> bool:
    """Whether an object of a class is told the epoch: by itself, by a method of it that is called, or from outside."""
    setters = set[str]()
    for method in methods:
        if _counts_itself(method, attribute):
            return True
        for target, value in assignments_in(method.nodes):
            if dotted(target) != f"self.{attribute}" or isinstance(value, ast.Constant):
                continue
            if method.name == "load_state_dict":
                continue  # of a run that goes on, and behind it nothing
            if dotted(value) not in method.parameters:
                return True
            if method.name == "__init__" and _is_given_anew(owner, dotted(value), method, own):
                return True
            setters |= {method.name} - {"__init__"}
    if any(_is_called(name, own) and _reaches(name, owner, own) for name in setters or {"set_epoch"}):
        return True
    others = (place for place in own.all if place.owner is not owner and place.file.has(f".{attribute}"))
    return any(attribute == part.attr for place in others for part in _set_there(place))


def _counts_itself(method: Place, attribute: str) -> bool:
    """Whether a method counts the epoch by itself, or runs over it."""
    counted = (node.target for node in method.nodes if isinstance(node, ast.AugAssign | ast.For))
    return any(dotted(target) == f"self.{attribute}" for target in counted)


def _set_there(place: Place) -> Iterator[ast.Attribute]:
    """The attributes of other objects that a function sets or counts."""
    targets = [target for target, _ in assignments_in(place.nodes)]
    targets += [node.target for node in place.nodes if isinstance(node, ast.AugAssign)]
    held = (each for each in targets if isinstance(each, ast.Attribute) and dotted(each.value) != "self")
    return (each for each in held if not OF_RUN.search(last_name(each.value)))


def _is_called(name: str, own: Places) -> bool:
    """Whether a method is called by anything but one of the same name that hands on what it is told."""
    return any(
        (isinstance(node, ast.Call) and last_name(node.func) == name) or _names_text(node, name)
        for place in own.all
        if place.name != name and place.file.has(name)
        for node in place.nodes
    )


def _reaches(name: str, owner: ast.ClassDef, own: Places) -> bool:
    """Whether a call of a method may be of an object of a class: not where loaders are given those under one name
    alone, `batch_sampler`, and it is of what a loader has under the other, `loader.sampler`."""
    roles = {word for place in own.all if place.file.has(*ROLES) for word in _roles(place, owner, own)}
    if len(roles) != 1:
        return True
    (other,) = set(ROLES) - roles
    for place in (place for place in own.all if place.name != name and place.file.has(name)):
        for node in place.nodes:
            if _names_text(node, name):
                return True
            calls = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == name
            if calls and _had_by_a_loader(place.names.held(node.func.value)) != other:  # type: ignore[attr-defined]
                return True
    return False


def _roles(place: Place, owner: ast.ClassDef, own: Places) -> Iterator[str]:
    """The names under which calls are given an object of a class."""
    for node in (node for node in place.nodes if isinstance(node, ast.Call)):
        called = own.called(node, place)
        for word in node.keywords:
            made = place.names.held(word.value)
            if (
                word.arg in ROLES
                and (called is None or called.owner is None)
                and last_name(getattr(made, "func", made)) == owner.name
            ):
                yield word.arg


def _had_by_a_loader(node: ast.expr) -> str:
    """Which of its samplers an expression asks a loader for; empty: it is something else."""
    if isinstance(node, ast.Call) and dotted(node.func) == "getattr" and len(node.args) > 1:
        name, of = getattr(node.args[1], "value", ""), node.args[0]
    elif isinstance(node, ast.Attribute):
        name, of = node.attr, node.value
    else:
        return ""
    return name if name in ROLES and dotted(of) != "self" and last_name(of) not in ROLES else ""


def _names_text(node: ast.AST, name: str) -> bool:
    """Whether a method is asked for by its text (`getattr(sampler, "set_epoch")(epoch)`)."""
    asks = isinstance(node, ast.Call) and dotted(node.func) == "getattr" and len(node.args) > 1
    return asks and getattr(node.args[1], "value", None) == name  # type: ignore[attr-defined]


def _is_given_anew(owner: ast.ClassDef, parameter: str, made: Place, own: Places) -> bool:
    """Whether a call that makes an object gives it an epoch."""
    for place in own.all:
        for node in place.nodes if place.file.has(owner.name) else ():
            if isinstance(node, ast.Call) and last_name(node.func) == owner.name:
                given = made.given(node).get(parameter)
                if given is not None and not isinstance(given, ast.Constant):
                    return True
                if any(word.arg is None for word in node.keywords) or any(
                    isinstance(a, ast.Starred) for a in node.args
                ):
                    return True
    return False


def _distributed(own: Places) -> Iterator[Finding]:
    """The samplers of PyTorch that shuffle by an epoch, where nothing tells one."""
    if _is_called("set_epoch", own):
        return
    for place in own.all:
        for node in place.nodes if place.file.has("DistributedSampler") else ():
            if isinstance(node, ast.Call) and last_name(node.func) == "DistributedSampler":
                told = {word.arg: word.value for word in node.keywords}
                shuffle = told.get("shuffle")
                if None not in told and (shuffle is None or getattr(shuffle, "value", None) is True):
                    yield _finding(
                        place.file, node, place.name, f"{place.name}() makes a sampler whose `set_epoch` nothing calls"
                    )


def _finding(file: File, node: ast.Call, function: str, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{told}: each epoch has the order of the first; allowed: an order of its own",
        culprit=file.at(node, function),
        fix="call `set_epoch(epoch)` in front of each epoch",
    )

"""What the trainer's source saves, it does not load: entries, the optimizer, or all of it; or a failure passes.

## What it detects

An entry of a checkpoint that no line reads back; one that is read and never written; training state that is saved and
loaded nowhere; a trainer whose optimizer keeps a state (Adam, momentum) and that saves weights alone; one that saves
the optimizer, and not the schedule or the scaler that it steps by, or no random state although it draws; one that can
be resumed and keeps the best score by which it overwrites a checkpoint, or counts its patience, in memory alone;
running statistics that one stage saves and the next one, which takes its model, begins anew; an entry that is saved
under one name and looked for under another, and passed over where it is not there; objects with a state that nothing
saves, and a `state_dict` with the best score and not the count of evaluations since, or with a mean and not the count
that moves it; `load_state_dict(strict=False)` whose list of missing keys is dropped; an `except` around saving or
loading that goes on as if nothing had been.

## Why it matters

A run that is resumed without its optimizer, its schedule or its step is another run. A value head that silently kept
its random numbers trains on, and the metrics look plausible. After a resume that has forgotten the best score the
first evaluation is the best, and a worse model overwrites the best checkpoint.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Saved entries are the keys
of the mapping that `torch.save` is given, written down there or in a variable of the same function. One is loaded where
its name stands as a string anywhere else. Those of a mapping that a function returns, an optimizer's state among them,
must be asked for as an item, by `get` or by `in`, and most of them are; a configuration, a version, a time, a figure
for whoever opens the file need not; another object's state, and what is called after the best or a patience, by a
function that asks for the optimizer's and most others, of the same class or file. What a method that is named after
loading reads back, another of its class must not set to its first value behind a resume. Where a function keeps what
`torch.load` returns in a variable, the keys that it is asked for must be saved somewhere (looked at only where every
saved mapping is written down, and not for keys asked for with `get` or `in`). In a class with both, an entry that
`state_dict` returns must be asked for in `load_state_dict`, unless that hands the whole on; without such a method, an
attribute that it returns and that other methods assign, by the one that asks for most of the others. A best score is
what is called so, is compared by `<`, `>` or a function named after it (`improves`) and assigned in the branch, which
saves, copies a state or sets a count of patience back; it is kept where its name stands as a string, a save is given it
or what holds it, or it is ever assigned from anything but a number that is written down. It is looked for where an
optimizer's state is loaded in the same class or by functions that are called there, also of another file; a local
variable only in a function that loads, or calls what does, in front of the loop. That is kept by its own function
alone: no string of its name keeps it. An object with a best score is kept where the method that makes the mapping, or
one named after saving and loading, names it; so is one that others, such as a callback, set on the trainer. Where a
class is named after the best, after stopping or tracking, any attribute may hold the score. Callbacks that keep one are
looked for among what a trainer that saves goes through in a loop: they must have methods for their state, or what saves
must name the row that they are in. A local variable, an object or a mapping that a function keeps the score in, is
found where it is begun anew, told scores in a loop, and handed to nothing else. Of a record whose fields a mapping with
an optimizer's state takes one by one, a best score that is compared anywhere as a record's must be among them, or its
name stand as a string. A trainer draws where its model has dropout whose rate is not 0, or what goes backward, or is
called there, draws from a global generator; it keeps no random state where no file takes one, or where those that are
taken are of other libraries (torch, numpy, Python's own) than what draws, and none seeds by a step or leaves it to a
library. Statistics are what is named after norms, running numbers or moments and has a `state_dict()` in a mapping with
a model's; another class or file's function that loads a file and takes that model, no optimizer and not them, must not
make an object of their class, itself or in its class. A key that a function which goes on asks for by `get` or `in`,
and that nothing writes, is one where an entry has a word of it, or the same object, and nothing reads that; of a
mapping within the checkpoint (`"rng": capture()`, `restore(state["rng"])`) any function's is; one whose objects' states
are asked for in turn belongs to a run that goes on where a call gives it an optimizer (`**parts`). A
`state_dict` that has a best score must have a count beside it that is raised by one, speaks of waiting and is compared
anywhere. One that has such a count, in a class with both, must have the best score that the class compares by order. A
callback of transformers or Lightning that saves or stops by its best score, where the source goes on from checkpoints,
must have a state, or assign the score where a run begins or from what it reads. A plain class without methods for its
state, of which others keep an object, must not have a running mean (`self.mean = m * self.mean + ...`, `lerp_`) or a
count of which it makes a share with a limit or a power (`min(self.step / n, 1)`), begun at a number in `__init__`,
where another method reads it and no function that saves or loads names it or its object; classes that are named after
what is shown (meters, loggers, losses) may. An object with a `state_dict` and a `load_state_dict` that the trainer
which saves keeps, itself or in another object, and whose state its methods change, must be asked for it, or be handed
on; by the checkpoint that a run goes on from, where another one has it. What a method raises, and moves what
`state_dict` has by a share of, must be in it or be set by `load_state_dict`. Statistic: entries and places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones. A trainer whose files other programs read is one.

## Example

Bad:

```python
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, path)
...
model.load_state_dict(torch.load(path, weights_only=True)["model"], strict=False)
```

Good:

```python
state = torch.load(path, weights_only=True)
model.load_state_dict(state["model"])
optimizer.load_state_dict(state["optimizer"])
first_step = state["step"] + 1
```

## How to fix

Load what is saved, in one function beside the one that saves, strictly; let errors out.

## Known limits

Keys that are computed, and formats of one's own, are not followed; that what is loaded acts is for GG602 and GG603,
which want `Run.save` and `Run.load`. Libraries that save by themselves (`transformers`, Lightning) are not looked into.

## Sources

Faults CR-01 to CR-07 and CR-17 of the fault catalogue.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.best_scores import Unsaved, unsaved_scores
from gradgate.checks.source.forgotten_bests import forgotten_bests
from gradgate.checks.source.keepers_in_loops import callback_scores, local_scores
from gradgate.checks.source.lax_loads import swallowed, unstrict
from gradgate.checks.source.left_states import left_states
from gradgate.checks.source.left_statistics import left_statistics
from gradgate.checks.source.misnamed_parts import misnamed_parts
from gradgate.checks.source.places import places_in
from gradgate.checks.source.random_states import without_random_state
from gradgate.checks.source.reset_states import reset_behind
from gradgate.checks.source.resuming import keys_read
from gradgate.checks.source.saved_mappings import (
    LOADS,
    SAVES,
    TOLD,
    Saved,
    handed_to_savers,
    is_record,
    returned_in,
    saved_in,
)
from gradgate.checks.source.saved_records import lost_scores
from gradgate.checks.source.score_keepers import Held, held_scores, lent_scores
from gradgate.checks.source.trainer import NONE, File, Function, dotted, files_of
from gradgate.checks.source.unread_entries import left_out, misnamed
from gradgate.checks.source.unsaved_statistics import unsaved_statistics
from gradgate.checks.source.values import assignments_in, text_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG613", "checkpoint-half-loaded"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MOST = 0.5  # of the entries that a class writes down, which a method asks for that brings them back
LOADERS = ("load_state_dict", "load_state", "from_pretrained", "resume_from_checkpoint")
KEEPS_STATE = re.compile(r"\b(Adam\w*|RAdam|NAdam|RMSprop|Adagrad|Adadelta|Lion|Adafactor)\(|momentum=")
FIX = "load what is saved, in one function beside the one that saves, strictly; let errors out"


@dataclass(frozen=True)
class _Stepped:
    """How what the steps go by shows in the source: where it is used, and where it is saved."""

    used: re.Pattern[str]
    kept: re.Pattern[str]


STEPPED = {
    what: _Stepped(
        re.compile(used),
        re.compile(f"{name}.*state_?dict|state_?dict.*{name}|state\\w*\\[.*{name}|{name}.*state\\w*\\["),
    )
    for what, name, used in (
        ("the schedule", "sched", r"sched\w*\.step\("),
        ("the gradient scaler", "scaler", r"scaler\w*\.update\("),
    )
}


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold what is saved against what is loaded."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    calls = [(file, node) for file in files for node in file.nodes if isinstance(node, ast.Call)]
    saves = [(file, node) for file, node in calls if dotted(node.func) in SAVES]
    loads = [node for _, node in calls if dotted(node.func) in LOADS or dotted(node.func).endswith(LOADERS)]
    saved = [entry for file in files for entry in saved_in(file)]
    findings = [
        *_entries(files, saved, bool(loads)),
        *(finding for file in files for finding in _half(file)),
        *_never_read(files),
        *_without_optimizer(files, saves),
        *_without_schedule(files, [*saved, *handed_to_savers(files)]),
        *(_finding(*lost) for lost in without_random_state(files, [*saved, *handed_to_savers(files)])),
        *map(_of_score, unsaved_scores(files)),
        *map(_of_held, _held_by_others(files)),
        *(_finding(*lax) for file in files for lax in (*swallowed(file), *unstrict(file))),
        *(_finding(*reset) for reset in reset_behind(places_in(files))),
    ]
    findings += _misnamed(files, [*saved, *handed_to_savers(files)])
    findings += [
        _finding(left.file, left.node, left.function, left.told) for left in left_states(files, places_in(files))
    ]
    told = " ".join(each.message for each in findings)
    findings += [
        _finding(left.file, left.node, left.function, left.told)
        for find in (forgotten_bests, unsaved_statistics)
        for left in find(files, places_in(files))
        if left.function.partition(".")[0] not in told
    ]
    findings += _of_statistics(files, [*saved, *handed_to_savers(files)], " ".join(each.message for each in findings))
    findings += _left_out(files, [*saved, *handed_to_savers(files)], " ".join(each.message for each in findings))
    if len(saved) == len(saves) and saved:
        names = {key for entry in saved for key in entry.entries}
        findings += [finding for file in files for finding in _never_saved(file, names)]
    measured = {"places": len(findings), "saves": len(saves), "loads": len(loads)}
    return Outcome(tuple(findings), measured, {"places": 0})


def _entries(files: tuple[File, ...], saved: list[Saved], loads: bool) -> Iterator[Finding]:
    """Saved entries that nothing names elsewhere; what a function that saves and does not load writes is not read."""
    keys = {id(key) for file in files for function, _ in file.functions for key in _written(function)}
    words = Counter(
        node.value
        for file in files
        for node in file.nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in keys
    )
    for entry in saved:
        state = [key for key, value in entry.entries.items() if "state_dict" in ast.unparse(value)]
        lost = [key for key, value in entry.entries.items() if not words[key] and not is_record(key, value)]
        if not state or not lost:
            continue
        told = _lost(lost)
        yield _finding(entry.file, entry.call, entry.function, told if loads else f"{told}: nothing loads a checkpoint")


def _lost(keys: list[str]) -> str:
    names = ", ".join(f"`{key}`" for key in keys)
    return f"{names} of the checkpoint {'is' if len(keys) == 1 else 'are'} saved and loaded nowhere"


def _never_read(files: tuple[File, ...]) -> Iterator[Finding]:
    """Entries of what a function gives back to be saved, an optimizer's state among them, which nothing reads."""
    given = [one for file in files for one in returned_in(file)]
    nodes = [node for file in files for node in file.nodes] if given else []
    read = keys_read(nodes)
    for one in given:
        lost = [key for key, value in one.entries.items() if key not in read and not is_record(key, value)]
        if lost and len(lost) <= MOST * len(one.entries):  # else it is read in another way
            yield _finding(one.file, one.call, one.function, _lost(lost))


def _left_out(files: tuple[File, ...], saved: list[Saved], told: str) -> Iterator[Finding]:
    """Entries that the functions which go on from a checkpoint do not ask for, of which nothing has been told."""
    given = [*saved, *(one for file in files for one in returned_in(file))]
    for one, reader, keys in left_out(given, places_in(files)):
        if lost := [key for key in keys if f"`{key}`" not in told]:
            names = ", ".join(f"`{key}`" for key in lost)
            where = f"{names} of the checkpoint that {one.function}() makes in line {one.call.lineno}"
            yield _finding(
                reader.place.file, reader.node, reader.place.name, f"{reader.place.name}() leaves out {where}"
            )


def _misnamed(files: tuple[File, ...], saved: list[Saved]) -> Iterator[Finding]:
    """Keys that are asked for where they are there, and that nothing writes, beside entries that nothing asks for."""
    given = [*saved, *(one for file in files for one in returned_in(file))]
    for one, reader, node, key, name in misnamed(given, places_in(files)):
        told = (
            f"`{key}` is asked for where it is there, and no save writes it; `{name}`, which {one.function}() saves in "
        )
        told += f"line {one.call.lineno}, is asked for nowhere"
        yield _finding(reader.place.file, node, reader.place.name, told)
    for part in misnamed_parts(places_in(files)):
        told = f"`{part.key}` is asked for, and nothing writes it; `{part.entry}`, which {part.maker}() saves in line "
        yield _finding(part.place.file, part.node, part.place.name, f"{told}{part.line}, is asked for nowhere")


def _of_statistics(files: tuple[File, ...], saved: list[Saved], told_of: str) -> Iterator[Finding]:
    """Running statistics that a stage begins anew, whose model comes from a checkpoint that has them."""
    for place, node, key, made, one in left_statistics(saved, places_in(files)):
        if f"`{key}`" in told_of:
            continue
        told = f"{place.name}() takes the model of a checkpoint and leaves `{key}`, which {one.function}() in line "
        told += f"{one.call.lineno} of {one.file.path.name} saves; its own {made} begins anew"
        yield _finding(place.file, node, place.name, told)


def _written(function: Function) -> Iterator[ast.AST]:
    """The keys of mappings that are written down in a function that saves, and loads nothing."""
    called = {dotted(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)}
    if called & set(SAVES) and not called & set(LOADS):
        for node in ast.walk(function):
            if isinstance(node, ast.Dict):
                yield from (key for key in node.keys if key is not None)


def _read_elsewhere(file: File, methods: tuple[Function, Function]) -> set[str]:
    """The keys that other functions of a file read by: what a checkpoint has may be brought back there."""
    own = {id(part) for method in methods for part in ast.walk(method)}
    reads = (node for node in file.nodes if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load))
    return {str(node.slice.value) for node in reads if isinstance(node.slice, ast.Constant) and id(node) not in own}


def _half(file: File) -> Iterator[Finding]:
    """Entries that a class's `state_dict` writes down and its `load_state_dict` never asks for."""
    for node in file.nodes:
        if not isinstance(node, ast.ClassDef):
            continue
        methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        save, load = methods.get("state_dict"), methods.get("load_state_dict")
        if save is not None and load is None:
            yield from _not_brought_back(file, node, methods, save)
        if save is None or load is None or len(load.args.args) < 2:
            continue
        given = load.args.args[1].arg
        inside = list(ast.walk(load))
        asked = [part for part in inside if isinstance(part, ast.Subscript) and dotted(part.value) == given]
        words = {part.value for part in inside if isinstance(part, ast.Constant)}
        if len(asked) + sum(_asks(part, given) for part in inside) < sum(
            isinstance(part, ast.Name) and part.id == given for part in inside
        ):
            continue  # handed on as a whole
        keys, others = list(_returned(save)), _read_elsewhere(file, (save, load))
        for key in (key for key in keys if key not in words | others and not TOLD.search(key)):
            told = f"`{key}` of {node.name}.state_dict() is not read by its load_state_dict()"
            yield _finding(file, _beside(key, keys, asked) or load, f"{node.name}.load_state_dict", told)


def _asks(node: ast.AST, given: str) -> bool:
    """Whether a mapping is asked for a key: `"step" in state`, `state.get("step")`."""
    if isinstance(node, ast.Compare):
        return isinstance(node.ops[0], ast.In | ast.NotIn) and dotted(node.comparators[0]) == given
    return isinstance(node, ast.Call) and dotted(node.func) in (f"{given}.get", f"{given}.pop")


def _not_brought_back(
    file: File, owner: ast.ClassDef, methods: dict[str, ast.FunctionDef], save: ast.FunctionDef
) -> Iterator[Finding]:
    """Attributes that change and that `state_dict` writes down, where another method brings most entries back."""
    keys, once = list(_returned(save)), _written_once(file)
    dicts = [node for node in ast.walk(save) if isinstance(node, ast.Dict)]
    held = {text_of(key): dotted(value) for node in dicts for key, value in zip(node.keys, node.values, strict=True)}
    for load in (one for name, one in methods.items() if name != "__init__" and one is not save):
        asked = [part for part in ast.walk(load) if isinstance(part, ast.Subscript) and text_of(part.slice) in keys]
        names = {part.attr for part in ast.walk(load) if isinstance(part, ast.Attribute)}
        if len(asked) < MOST * len(keys) or names.isdisjoint(LOADERS):
            continue
        others = [one for name, one in methods.items() if name != "__init__" and one is not load]
        changing = {dotted(target) for one in others for target, _ in assignments_in(ast.walk(one))} - {""}
        for key in (key for key in keys if key in once and held[key] in changing):
            told = f"`{key}` of {owner.name}.state_dict() changes in training and is not read by {load.name}()"
            yield _finding(file, _beside(key, keys, asked) or load, f"{owner.name}.{load.name}", told)


def _written_once(file: File) -> set[str]:
    """The texts that stand in one place of a file."""
    times = Counter(part.value for part in file.nodes if isinstance(part, ast.Constant) and isinstance(part.value, str))
    return {text for text, number in times.items() if number == 1}


def _beside(key: str, keys: list[str], asked: list[ast.Subscript]) -> ast.Subscript | None:
    """Where a key belongs among those that are asked for, in the order in which they are saved: in front of the next,
    else behind the last."""
    at = {part.slice.value: part for part in asked if isinstance(part.slice, ast.Constant)}
    number = keys.index(key)
    return next((at[other] for other in (*keys[number:], *reversed(keys[:number])) if other in at), None)


def _returned(save: ast.FunctionDef) -> Iterator[str]:
    """The keys of mappings that are written down where a function returns them, or where what it returns is made."""
    nodes = list(ast.walk(save))
    values = [node.value for node in nodes if isinstance(node, ast.Return)]
    names = {value.id for value in values if isinstance(value, ast.Name)}
    assigned = [node for node in nodes if isinstance(node, ast.Assign | ast.AnnAssign)]
    for node in assigned:
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id in names for target in targets):
            values.append(node.value)
    for value in values:
        if isinstance(value, ast.Dict):
            yield from (str(key.value) for key in value.keys if isinstance(key, ast.Constant))


def _without_optimizer(files: tuple[File, ...], saves: list[tuple[File, ast.Call]]) -> Iterator[Finding]:
    """The first save of a trainer whose optimizers keep a state, where no line writes an optimizer's."""
    lines = [line for file in files for line in file.lines]
    keeps = any(KEEPS_STATE.search(line) for line in lines)
    states = [line.lower() for line in lines if "state_dict" in line or "save_state" in line]
    if any("super()._save_checkpoint(" in line or "super().save" in line for line in lines):
        return  # a library saves the rest
    if keeps and saves and states and not any("opt" in line or "save_state" in line for line in states):
        file, call = saves[0]
        told = "the trainer saves weights and no optimizer's state: a run that is resumed from it is another one"
        yield _finding(file, call, "", told)


def _without_schedule(files: tuple[File, ...], saved: list[Saved]) -> Iterator[Finding]:
    """A checkpoint that holds an optimizer to go on with, and not what its steps go by: a schedule, a scaler."""
    lines = [line.partition("#")[0] for file in files for line in file.lines]
    whole = next((one for one in saved if any("opt" in ast.unparse(value) for value in one.entries.values())), None)
    if whole is None or any("last_epoch" in line or "accelerator.save_state" in line for line in lines):
        return
    for what, stepped in STEPPED.items():
        kept = any(stepped.kept.search(line) for line in lines)
        if any(stepped.used.search(line) for line in lines) and not kept:
            told = f"the checkpoint holds the optimizer and not {what}: a run that is resumed from it is another one"
            yield _finding(whole.file, whole.call, whole.function, told)


def _of_score(lost: Unsaved) -> Finding:
    """The mapping that lacks a score by which checkpoints are kept, or the branch that keeps them."""
    told = ", ".join(f"`{name}`" for name in lost.names)
    where = f"line {lost.branch.lineno} of {lost.function}()"
    file, node = lost.saved or (lost.file, lost.branch)
    if file is not lost.file:
        where += f" in {lost.file.path.name}"
    return _finding(
        file,
        node,
        "" if lost.saved is not None else lost.function,
        f"{told} decides at {where} what is kept or when to stop, and no checkpoint holds it: a run that is resumed "
        "overwrites the best with what is worse",
    )


def _held_by_others(files: tuple[File, ...]) -> Iterator[Held]:
    """Best scores of objects, records and callbacks."""
    for find in (held_scores, lent_scores, lost_scores, local_scores, callback_scores):
        yield from find(files)


def _of_held(held: Held) -> Finding:
    told = f"`{held.name}` ({held.kind}) keeps the best score, and {held.saved.name}() leaves it out"
    more = "a run that is resumed overwrites the best with what is worse"
    return _finding(held.file, held.saved, held.saved.name, f"{told}: {more}")


def _never_saved(file: File, names: set[str]) -> Iterator[Finding]:
    """Keys that a function asks of what it loaded, and that no save writes."""
    for function, _ in file.functions:
        given = assignments_in(ast.walk(function))
        held = {name.id for name, value in given if isinstance(name, ast.Name) and _is_load(value)}
        for node in ast.walk(function):
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                key = node.slice.value
                if dotted(node.value) in held and isinstance(key, str) and not _is_guarded(function, key, names):
                    yield _finding(
                        file, node, function.name, f"`{key}` is read from a checkpoint, and no save writes it"
                    )


def _is_load(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and dotted(value.func) in LOADS


def _is_guarded(function: Function, key: str, names: set[str]) -> bool:
    """Whether a key is saved, or asked for only where it is there."""
    return key in names or any(
        isinstance(node, ast.Compare) and isinstance(node.left, ast.Constant) and node.left.value == key
        for node in ast.walk(function)
    )


def _finding(file: File, node: ast.AST, function: str, told: str) -> Finding:
    return Finding(code=CODE, name=NAME, message=f"{told}; allowed: none", culprit=file.at(node, function), fix=FIX)

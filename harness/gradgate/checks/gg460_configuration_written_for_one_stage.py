"""A stage writes its own settings into the configuration that the next one is given.

## What it detects

`def run_critic(cfg): cfg.optim.lr = cfg.critic.lr; ...`, where the caller goes on with `run_main(cfg, head)`; a loop
over runs in which `if name == "uniform": cfg["loss"]["coef"] = 0.0`, and all runs behind it have the 0.

## Why it matters

The second stage trains with the rate, the epochs or the dropout of the first, the second run of a sweep with what only
the one before it was to have. The recipe says otherwise, and so does the run's log where it was written at the start.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are

* a function that puts a setting of one section of a configuration it is given under the same name of another section,
  or of the whole, where a caller gives the same configuration to another function behind it, or to the same one in a
  loop;
* in a loop, under a condition that reads what the loop goes over, a constant that is put into a configuration that was
  made in front of the loop, where it is given to a call there, and neither an `else` nor another line of the loop puts
  anything under that name.

It is none where the function or the loop makes a copy under that name first. Statistic: such places; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def run_critic(cfg):
    cfg.optim.lr = cfg.critic.lr
    return fit(cfg)
```

Good:

```python
def run_critic(cfg):
    cfg = copy.deepcopy(cfg)
    cfg.optim.lr = cfg.critic.lr
    return fit(cfg)
```

## How to fix

Copy the configuration, deeply, before a stage changes it; or freeze it and make a new one.

## Known limits

Configurations that are kept in an attribute, and what two stages find in one that a third party holds, are not
followed.

## Sources

Python, `copy`: assignment statements do not copy objects.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.setting_sections import called
from gradgate.checks.source.trainer import NONE, File, dotted, files_of, given_by, nodes_in
from gradgate.checks.source.values import assignments_in, last_name, outwards, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG460", "configuration-written-for-one-stage"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
Path = tuple[str, ...]  # a name, and the keys and attributes behind it


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for what stages and runs write into what others are given."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    calls = places_in(files)
    found = tuple(finding for place in calls.functions for finding in (*_of_function(place, calls), *_of_loops(place)))
    return Outcome(found, {"places": len(found)}, {"places": 0})


def _path(node: ast.expr) -> Path:
    """`("cfg", "optim", "lr")` of `cfg.optim.lr` and `cfg["optim"]["lr"]`; empty: something else."""
    keys: list[str] = []
    while isinstance(node, ast.Attribute | ast.Subscript):
        key = node.attr if isinstance(node, ast.Attribute) else last_name(node)
        if not key:
            return ()
        keys.insert(0, key)
        node = node.value
    return (node.id, *keys) if isinstance(node, ast.Name) and keys else ()


def _of_function(place: Place, calls: Places) -> Iterator[Finding]:
    """What a function writes into what it is given, section by section."""
    given = [name for name in place.positional if called(name) is not None]
    nodes = place.nodes if given else []
    pairs = list(assignments_in(nodes))
    copied = {dotted(target) for target, _ in pairs if isinstance(target, ast.Name)}
    for target, value in pairs:
        to, of = _path(target), _path(value)
        if len(to) < 2 or len(of) < 3 or to[0] != of[0] or to == of or to[-1] != of[-1]:
            continue
        if to[0] in given and to[0] not in copied and (where := _goes_on(place, to[0], calls)):
            told = f"puts `{'.'.join(of[1:])}` into `{'.'.join(to)}`, and {where}"
            yield _finding(place.file, place.name, target, told)
            return


def _goes_on(place: Place, parameter: str, calls: Places) -> str:
    """Where a caller gives what it gave a function to another one behind that; empty: nowhere."""
    for caller, call in calls.calls_of(place.name):
        given = place.given(call).get(parameter)
        if calls.called(call, caller) is not place or not isinstance(given, ast.Name | ast.Attribute):
            continue
        name = dotted(given)
        nodes = caller.nodes
        if any(dotted(target) == name and target.lineno > call.lineno for target, _ in assignments_in(nodes)):
            continue
        for other in (node for node in nodes if isinstance(node, ast.Call) and node is not call):
            behind = (other.lineno, other.col_offset) > (call.end_lineno or 0, call.end_col_offset or 0)
            if behind and calls.called(other, caller) not in (None, place) and name in map(dotted, given_by(other)):
                return f"{caller.function.name}() gives the same to {dotted(other.func)}() behind it"
    return ""


def _of_loops(place: Place) -> Iterator[Finding]:
    """What a loop over runs writes for one of them."""
    nodes = place.nodes
    parents: dict[int, ast.AST] = {}
    for loop in (node for node in nodes if isinstance(node, ast.For)):
        inside = list(nodes_in(loop.body, ast.FunctionDef, ast.Lambda))
        over = {part.id for part in ast.walk(loop.target) if isinstance(part, ast.Name)}
        pairs = list(assignments_in(inside))
        made = {dotted(target) for target, _ in pairs if isinstance(target, ast.Name)}
        for target, value in pairs:
            to = _path(target)
            if len(to) < 2 or to[0] in made | over or called(to[0]) is None or not isinstance(value, ast.Constant):
                continue
            if sum(_path(other) == to for other, _ in pairs) > 1 or not _is_run(inside, to[0]):
                continue
            parents = parents or parents_in(place.function)
            tests = [node.test for node in outwards(target, parents) if isinstance(node, ast.If) and node in inside]
            if tests and any(isinstance(part, ast.Name) and part.id in over for part in ast.walk(tests[0])):
                where = ".".join(to)
                told = f"puts {value.value!r} into `{where}` for one of the runs of a loop, and all behind it have it"
                yield _finding(place.file, place.name, target, told)


def _is_run(inside: Sequence[ast.AST], name: str) -> bool:
    """Whether a configuration is given to a call as a whole."""
    return any(name in map(dotted, given_by(node)) for node in inside if isinstance(node, ast.Call))


def _finding(file: File, function: str, node: ast.AST, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() {told}; allowed: a copy of its own",
        culprit=file.at(node, function),
        fix="copy the configuration, deeply, before a stage changes it",
    )

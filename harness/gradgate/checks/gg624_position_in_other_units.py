"""The place in the data at which a run goes on is counted in updates, and the loop counts batches.

## What it detects

A number that grows once an update, and says how many batches of the data a resumed epoch passes over, in a loop that
steps its optimizer once in several batches.

## Why it matters

With four batches an update, a run that stopped behind the third update goes on at the third batch and not at the
twelfth: nine batches are trained a second time, and the epoch is longer by as many. With one batch an update, as in a
small run, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Of each loop that runs a
backward at each turn, and steps an optimizer only where a condition holds once in so many turns (`%`) or names
accumulation, it takes the numbers that are raised by one where the optimizer steps, and nowhere else in the loop. It is
a finding where such a number stands, multiplied by nothing,

* in what the loop is over, or in what a name there holds;
* in what the same function sets a start to in front of the loop: an attribute, or a method, of a sampler or a loader
  that is named after starting, skipping or an offset;
* in a condition `i < number` under which a turn is passed over, or in what a name there holds;
* in how often a loop in front takes the next batch and does nothing else.

Names are followed to what they hold, to what callers give, to attributes that other methods of the class set, to what
functions return, and to the entry of a checkpoint that has the number's name. A rest of it (`%`, or of `divmod`) and a
difference are the number as well; its whole part (`//`) is one of epochs, and not.

The same of a loop over groups of batches (`windows(batches, accumulation)`: a call that names accumulation, or that is
named after groups): a number that is raised by one at each of its turns, there or in a method that it calls, and that
says where the batches that it groups begin: of a slice `batches[number:]`, of an `islice`, in a call named as above, or
of an argument named so (`loader.batches(epoch, skip=number)`), which counts for the batches of other loops as well.

Statistic: such numbers; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for i, batch in enumerate(loader):
    if i < self.step_in_epoch:                               # updates
        continue
    (loss_of(batch) / n).backward()
    if (i + 1) % n == 0:
        optimizer.step()
        self.step_in_epoch += 1
```

Good:

```python
    if i < self.step_in_epoch * n:
        continue
```

## How to fix

Count the batches that were taken, at each turn, and save that number.

## Known limits

Numbers that a function of another object raises, and loops that step in a function of another file, are not seen.
Whether a run that was stopped goes on as if it had not been is GG602's, which runs it.

## Sources

The `steps_trained_in_current_epoch` of transformers' Trainer, which is multiplied by the batches of an update.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping

from gradgate.checks.source.accumulation import Accumulation, accumulations, methods_of
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.skipped_batches import Counted, taken_off
from gradgate.checks.source.trainer import (
    File,
    called_name,
    dotted,
    files_of,
    given_by,
    nodes_in,
    read_file_by_file,
)
from gradgate.checks.source.values import OTHERS, assignments_in, last_name, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG624", "position-in-other-units"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
GROUPS = re.compile(r"window|group|chunk|batched|micro", re.IGNORECASE)
COUNTERS = ("enumerate", "tqdm", "trange", "track", "range", "count")  # whose start is a number to show
STARTS = re.compile(r"(^|_)(start|skip|offset|first|begin|consumed|fast_forward|seek)(_|$)")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop that steps once in several batches."""
    own = places_in(files_of(subject))
    return read_file_by_file(subject, lambda file: _of_file(file, own), "positions")


def _of_file(file: File, own: Places) -> Iterator[Finding]:
    if not file.has("step", "+= 1"):
        return
    methods = methods_of(file, own)
    in_methods = {function.name: {name for _, name in _raised(own_nodes(function))} for function, _ in file.functions}
    counted = Counted(own)
    for place in (place for place in own.functions if place.file is file):
        function, names, nodes = place.function, place.names, place.nodes
        yield from _of_groups(place, own)
        for found in accumulations(nodes, names, methods):
            inside = list(nodes_in(found.loop.body, *OTHERS))
            taken = {id(node) for part in found.stepping for node in ast.walk(part)}
            raised = [*_raised(inside), *_raised_there(inside, in_methods)]
            once = {name for node, name in raised if id(node) in taken}
            once -= {name for node, name in raised if id(node) not in taken}
            before = [node for node in nodes if getattr(node, "lineno", found.loop.lineno) < found.loop.lineno]
            passing = [*_passing_over(found), *_starts(before), *taken_off(before)] if once else []
            passing += [*_over(found.loop, place, own)] if once and isinstance(found.loop, ast.For) else []
            for number, where in passing:
                made_of = counted.of(number, place) or ()
                if same := sorted(name for name in once if name in made_of or f".{name.rpartition('.')[2]}" in made_of):
                    yield _finding(file, where, function.name, same[0], f"where `{found.when}`")
                    break


def _of_groups(place: Place, own: Places) -> Iterator[Finding]:
    """The numbers of groups that say how many batches are passed over."""
    file, function, names = place.file, place.function, place.names
    for loop in (node for node in place.nodes if isinstance(node, ast.For)):
        calls = [node for node in ast.walk(loop.iter) if isinstance(node, ast.Call)]
        grouping = [call for call in calls if _groups(call)]
        inside = list(nodes_in(loop.body, *OTHERS, ast.For, ast.While)) if grouping else []
        raised = {ast.unparse(node.target) for node in _one_more(inside)} | set(_raised_by_calls(inside, place, own))
        for call in grouping if raised else ():
            for number in _beginnings(call, place, own):
                parts = list(names.parts(number))
                told = " ".join(ast.unparse(part) for part in parts if isinstance(part, ast.expr))
                multiplied = any(isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult) for part in parts)
                counted = sorted(raised & {ast.unparse(part) for part in parts if isinstance(part, ast.expr)})
                if counted and not multiplied and not is_of_accumulation(told):
                    over = f"for each of `{ast.unparse(call)}`"
                    yield _finding(file, number, function.name, counted[0], over)


def _raised_by_calls(nodes: Iterable[ast.AST], place: Place, own: Places) -> Iterator[str]:
    """The numbers of an object that methods of it raise by one, as they are called where the methods are."""
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        called = own.called(call, place)
        for node in _one_more(called.nodes) if called is not None and called.owner is not None else ():
            first, _, rest = dotted(node.target).partition(".")
            if first == "self" and rest:
                yield f"{dotted(call.func).rpartition('.')[0]}.{rest}"


def _groups(call: ast.Call) -> bool:
    """Whether a call gives groups of the batches that it is given."""
    sized = len(call.args) + len(call.keywords) > 1
    return sized and (is_of_accumulation(ast.unparse(call)) or bool(GROUPS.search(last_name(call.func))))


def _one_more(nodes: Iterable[ast.AST]) -> Iterator[ast.AugAssign]:
    """The statements that raise by one."""
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add) and ast.unparse(node.value) == "1":
            yield node


def _told_to_begin(call: ast.Call, place: Place, own: Places) -> Iterator[ast.expr]:
    """What a call gives an argument of the trainer's own function, or a keyword, that says where batches begin."""
    if last_name(call.func) in COUNTERS:
        return
    called = own.called(call, place)
    given = called.given(call) if called is not None else {word.arg: word.value for word in call.keywords if word.arg}
    yield from (value for name, value in given.items() if STARTS.search(name))


def _beginnings(call: ast.Call, place: Place, own: Places) -> Iterator[ast.expr]:
    """The numbers by which the batches that a call groups begin later."""
    for part in (part for given in call.args[:1] for part in place.names.parts(given)):
        if isinstance(part, ast.Subscript) and isinstance(part.slice, ast.Slice) and part.slice.lower is not None:
            if part.slice.upper is None:
                yield part.slice.lower
        elif isinstance(part, ast.Call) and last_name(part.func) == "islice" and len(part.args) > 2:
            yield part.args[1]
        elif isinstance(part, ast.Call) and STARTS.search(last_name(part.func)):
            yield from given_by(part)
        elif isinstance(part, ast.Call):
            yield from _told_to_begin(part, place, own)


def _raised(nodes: list[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    """The numbers that are raised by one, each with the node that does."""
    return ((node, dotted(node.target)) for node in _one_more(nodes))


def _raised_there(nodes: list[ast.AST], in_methods: Mapping[str, set[str]]) -> Iterator[tuple[ast.AST, str]]:
    """The numbers that methods of the same object raise, each with the node that calls one."""
    for node in nodes:
        if isinstance(node, ast.Call) and dotted(node.func).startswith("self."):
            yield from ((node, name) for name in in_methods.get(dotted(node.func).removeprefix("self."), ()))


def _over(loop: ast.For, place: Place, own: Places) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What a call that gives the batches of a loop is told to begin at, each with the node to name."""
    for call in (part for part in place.names.parts(loop.iter) if isinstance(part, ast.Call)):
        yield from ((number, call) for number in _told_to_begin(call, place, own))


def _starts(nodes: list[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What a sampler or a loader is told to begin at, each with the node to name."""
    for target, value in assignments_in(nodes):
        if isinstance(target, ast.Attribute) and STARTS.search(target.attr):
            yield value, value
    for node in nodes:
        if isinstance(node, ast.Call) and STARTS.search(called_name(node)):
            yield from ((given, node) for given in node.args)


def _passing_over(found: Accumulation) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What says how many turns are passed over, each with the node to name."""
    if isinstance(found.loop, ast.For):
        starts = [call for call in ast.walk(found.loop.iter) if isinstance(call, ast.Call)]
        for call in starts:
            numbers = (given for given in given_by(call) if isinstance(given, ast.Name | ast.Attribute | ast.BinOp))
            yield from ((given, call) for given in numbers)
            yield from _starts([call])
    for node in found.loop.body:
        if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Continue):
            for test in (part for part in ast.walk(node.test) if isinstance(part, ast.Compare)):
                if len(test.ops) == 1 and isinstance(test.ops[0], ast.Lt | ast.LtE):
                    yield test.comparators[0], test
                if len(test.ops) == 1 and isinstance(test.ops[0], ast.Gt | ast.GtE):
                    yield test.left, test


def _finding(file: File, node: ast.expr, function: str, name: str, when: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() passes over as many batches as `{name}` says, which grows {when}; allowed: a count "
            "of batches"
        ),
        culprit=file.at(node, function),
        fix="count the batches that were taken, at each turn, and save that number",
    )

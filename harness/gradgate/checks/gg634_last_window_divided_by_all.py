"""The last update of an epoch is made of fewer batches, and each of them is divided as if it were full.

## What it detects

`(loss / n).backward()` in a loop that steps once in `n` batches, and at the end of the data as well, with what is left.

## Why it matters

With 9 batches and updates of 8, the last gradient of each epoch is an eighth of what it should be: its batch counts an
eighth of what it would by itself, its gradient's norm in the log jumps once an epoch, and clipping does not act on it.
Where an epoch has fewer batches than an update, all of training has too small a gradient. With one batch an update, as
in a small run, nothing is wrong.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding is a backward

* in a loop that steps an optimizer only where a condition holds once in so many turns (`%`) or names accumulation, or
  in a function that is such a turn;
* where the condition holds at the end of the data, too (`or i + 1 == len(loader)`), or a branch behind the loop that
  asks for the same count or number steps once more;
* whose loss is divided by that number, or by what is named after accumulation: there, by a name that it reads, by a
  factor that is one divided by it, or in a function of the file that the loop calls.

So, too, a loop over the batches of one window, wherever it stands, whose windows a function or a class yields or gives
back as lists, the last one short, or that are cut by `batched`, `islice` or slices: where a loss is divided, in the
loop or in what it calls, by the number or the setting of a whole window.

Where the loop assigns the divisor, the function writes gradients (`.grad`) or calls what is named after scaling them,
or it says that it drops what is left (`drop_last`, `incomplete`), nothing is told. Statistic: such places; allowed: 0;
severity: warning, since each batch of an epoch weighs alike by it, which may be what is meant.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
for i, batch in enumerate(loader):
    (loss_of(batch) / n).backward()
    if (i + 1) % n == 0 or i + 1 == len(loader):
        optimizer.step()
        optimizer.zero_grad()
```

Good:

```python
for i, batch in enumerate(loader):
    size = min(n, len(loader) - i // n * n)                  # of the update that it is part of
    (loss_of(batch) / size).backward()
```

## How to fix

Divide by the number of batches that the update has, or by its tokens.

## Known limits

Of a loop that counts its turns, divisors that another file's function applies are not seen. What the gradient of one
whole update is made of is GG410's, which runs it.

## Sources

The `get_batch_samples` of transformers' Trainer, which counts what an update really has before it divides by it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.source.accumulation import (
    Methods,
    alternatives,
    every,
    goes_back,
    is_backward,
    methods_of,
    steps_in,
)
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import File, called_name, calls_in, dotted, files_of, nodes_in, read_file_by_file
from gradgate.checks.source.update_turns import Own, Turn, read_in, turns_of
from gradgate.checks.source.values import OTHERS, Names, assignments_in, last_name, own_nodes
from gradgate.checks.source.windows import Cut, leaves
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG634", "last-window-divided-by-all"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
DROPS = re.compile(r"drop_?(last|rem|incompl|partial)|incomplete", re.IGNORECASE)
AT_THE_END = re.compile(r"len\(|last|final|(^|[^a-z])ends?([^a-z]|$)|steps_in|per_epoch|num_|n_", re.IGNORECASE)
SCALES = re.compile(r"(re|un)?(scale|weigh|normali[sz]e)\w*_grad|grad\w*_(re)?scale|rescale", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each loop that steps once in several turns, and at its end, and each over a window of batches."""
    places = places_in(files_of(subject))
    return read_file_by_file(subject, lambda file: _of_file(file, places), "divisions")


def _of_file(file: File, places: Places) -> Iterator[Finding]:
    if not file.has("for "):
        return
    own, methods = Own(file), methods_of(file, places)
    ones = _ones(file)
    seen = set[int]()
    for found in _of_windows(file, places, methods, ones):
        seen.add(id(found[0]))
        yield _finding(file, *found)
    if not (file.has("backward") and file.has(" % ", "accum") and file.has("step")):
        return
    for turn in turns_of(file, methods):
        text = "\n".join(file.lines[turn.function.lineno - 1 : turn.function.end_lineno])
        if DROPS.search(text) or not _steps_what_is_left(turn, own, Names(turn.function), methods.step):
            continue
        for node, divisor in _divided(turn, own, ones):
            if id(node) not in seen and not _writes_gradients(turn, own):
                seen.add(id(node))
                yield _finding(file, node, turn.function.name, divisor)


def _of_windows(
    file: File, own: Places, methods: Methods, ones: dict[str, ast.expr]
) -> Iterator[tuple[ast.AST, str, str]]:
    """The loops over a window that may be short, in which a loss is divided by the batches of a whole one: the node to
    name, the function, and the divisor."""
    for place in (place for place in own.functions if place.file is file):
        for loop in (node for node in place.nodes if isinstance(node, ast.For) and id(node) in methods.windows):
            cut = methods.windows[id(loop)]
            text = "\n".join(_text(each) for each in (place, cut.place))
            if not cut.short or DROPS.search(text) or _weighs_anew(place, own):
                continue
            divided = _divided_in(list(nodes_in(loop.body, *OTHERS)), place, own, methods, ones)
            for there, call, divisor in divided:
                if _is_whole(divisor, there, cut, own):
                    name = ast.unparse(divisor)
                    yield (call if there is place else loop.target), place.name, name
                    break


def _text(place: Place) -> str:
    return "\n".join(place.file.lines[place.function.lineno - 1 : place.function.end_lineno])


def _divided_in(
    nodes: list[ast.AST], place: Place, own: Places, methods: Methods, ones: dict[str, ast.expr], hops: int = 3
) -> Iterator[tuple[Place, ast.AST, ast.expr]]:
    """What the losses are divided by with which these nodes go backward, and the functions that they call."""
    for call in filter(is_backward, nodes):
        yield from ((place, call, divisor) for divisor in _divisors(call, nodes, place.names, ones))
        inner = (part for part in place.names.parts(call) if isinstance(part, ast.Call))
        yield from _divided_by(inner, place, own)
    for node in nodes:
        named = is_backward(node) and not dotted(getattr(node, "func", node)).startswith("self.")
        if hops and isinstance(node, ast.Call) and goes_back(node, methods) and not named:
            called = own.called(node, place)
            if called is not None and called is not place:
                yield from _divided_in(called.nodes, called, own, methods, _ones(called.file), hops - 1)


def _divided_by(calls: Iterable[ast.Call], place: Place, own: Places) -> Iterator[tuple[Place, ast.AST, ast.expr]]:
    """What functions of the trainer's divide by that give a loss."""
    for call in calls:
        called = own.called(call, place)
        for node in called.nodes if called is not None and called is not place else ():
            if isinstance(node, ast.Return) and node.value is not None:
                for divisor in _divisors(node.value, called.nodes, called.names, _ones(called.file)):  # type: ignore[union-attr]
                    yield called, call, divisor  # type: ignore[misc]


def _is_whole(divisor: ast.expr, place: Place, cut: Cut, own: Places) -> bool:
    """Whether a divisor is how many batches a whole window has: the same setting, whatever it goes by."""
    found = [each for _, each in leaves(own, divisor, place)]
    if not all(isinstance(each, ast.Name | ast.Attribute | ast.Subscript | ast.Constant) for each in found):
        return False
    if any(is_of_accumulation(ast.unparse(each)) for each in found):
        return True
    sizes = {_told(each) for _, each in leaves(own, cut.size, cut.place)} - {""}
    return bool(sizes & set(map(_told, found)))


def _told(node: ast.expr) -> str:
    """The last name of a setting, or a number that is no 1."""
    return last_name(node) or (ast.unparse(node) if isinstance(node, ast.Constant) and node.value != 1 else "")


def _weighs_anew(place: Place, own: Places) -> bool:
    """Whether a function that runs a window, or one that calls it, weighs gradients or losses by what it has."""
    callers = [caller for caller, call in own.calls_of(place.name) if own.called(call, caller) in (place, None)]
    around = [place, *callers]
    nodes = [node for each in around for node in each.nodes]
    called = [each for here in around for node in here.nodes if isinstance(node, ast.Call)
              and (each := own.called(node, here)) is not None]  # fmt: skip
    return _writes(nodes) or _writes(node for each in called for node in each.nodes)


def _ones(file: File) -> dict[str, ast.expr]:
    """What attributes and names hold that is one divided by something, and that."""
    return {
        ast.unparse(target): value.right
        for target, value in assignments_in(file.nodes)
        if isinstance(value, ast.BinOp)
        and isinstance(value.op, ast.Div)
        and isinstance(value.left, ast.Constant)
        and value.left.value == 1
    }


def _steps_what_is_left(turn: Turn, own: Own, names: Names, step: Iterable[str]) -> bool:
    """Whether the optimizer steps at the end of the data, too, with fewer batches."""
    others = [part for part in alternatives(turn.test) if every(part) is None]
    if any(AT_THE_END.search(ast.unparse(names.held(part))) for part in others) and len(alternatives(turn.test)) > 1:
        return True
    end = turn.body.end_lineno or turn.body.lineno
    asked = read_in(turn.test)
    return any(
        isinstance(node, ast.If)
        and node.lineno > end
        and read_in(node.test) & asked
        and any(_steps(call, own) or dotted(call.func).removeprefix("self.") in step for call in calls_in(node))
        for node in own_nodes(turn.function)
    )


def _steps(call: ast.Call, own: Own) -> bool:
    function = own.called(call)
    return any(steps_in([call])) or (function is not None and any(steps_in(own_nodes(function))))


def _divided(turn: Turn, own: Own, ones: dict[str, ast.expr]) -> Iterator[tuple[ast.AST, str]]:
    """The backwards of a turn whose loss is divided by the batches of a whole update, each with the divisor."""
    sizes = _sizes(turn)
    changed = _changed(turn)
    places = [(turn.others, Names(turn.function))]
    places += [(own_nodes(function), Names(function)) for function in own.all_called(turn.others)]
    for nodes, names in places:
        for call in filter(is_backward, nodes):
            for divisor in _divisors(call, nodes, names, ones):
                held, text = ast.unparse(names.held(divisor)), ast.unparse(divisor)
                plain = isinstance(divisor, ast.Name | ast.Attribute | ast.Subscript | ast.Constant)
                plain = plain or divisor in ones.values()
                if plain and not {text} & changed and ({text, held} & sizes or is_of_accumulation(text)):
                    yield call, text
                    break


def _sizes(turn: Turn) -> set[str]:
    """The number of batches that a whole update has, as the condition has it."""
    found = {ast.unparse(turn.counted[1])} if turn.counted else set()
    for part in alternatives(turn.test):
        if isinstance(part, ast.Compare) and len(part.ops) == 1 and isinstance(part.ops[0], ast.Eq | ast.GtE):
            found.add(ast.unparse(part.comparators[0]))
    return found - {"0"}


def _changed(turn: Turn) -> set[str]:
    """What the loops of a turn's function assign."""
    loops = [node for node in own_nodes(turn.function) if isinstance(node, ast.For | ast.While)]
    inside = [node for loop in loops for node in ast.walk(loop)]
    return {ast.unparse(target) for target, _ in assignments_in(inside)}


def _divisors(call: ast.AST, nodes: Iterable[ast.AST], names: Names, ones: dict[str, ast.expr]) -> Iterator[ast.expr]:
    """What a backward's loss, or what a function gives back, is divided by."""
    parts = list(names.parts(call))
    read = {ast.unparse(part) for part in parts if isinstance(part, ast.Name | ast.Attribute)}
    for part in parts:
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Div):
            yield part.right
        elif isinstance(part, ast.BinOp) and isinstance(part.op, ast.Mult):
            yield from (ones[text] for side in (part.left, part.right) if (text := ast.unparse(side)) in ones)
        elif isinstance(part, ast.Call) and part.args and called_name(part) in ("div", "div_"):
            yield part.args[-1]
    for node in nodes:
        if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Div) and ast.unparse(node.target) in read:
            yield node.value


def _writes_gradients(turn: Turn, own: Own) -> bool:
    """Whether gradients are weighed anew, or what is called may do so."""
    here = own_nodes(turn.function)
    return _writes((*here, *(inner for function in own.all_called(here) for inner in own_nodes(function))))


def _writes(nodes: Iterable[ast.AST]) -> bool:
    """Whether nodes weigh gradients anew."""
    for node in nodes:
        if isinstance(node, ast.Call):
            if SCALES.search(name := dotted(node.func)) or re.search(r"\bgrad\.(mul|div|copy)_$", name):
                return True
        elif (isinstance(node, ast.AugAssign) and dotted(node.target).endswith(".grad")) or (
            isinstance(node, ast.Assign)
            and not isinstance(node.value, ast.Constant)
            and any(dotted(target).endswith(".grad") for target in node.targets)
        ):
            return True
    return False


def _finding(file: File, node: ast.AST, function: str, divisor: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=(
            f"{function}() divides each batch's loss by `{divisor}`, and steps at the end of the data with "
            "fewer batches than that; allowed: the number that the update has"
        ),
        culprit=file.at(node, function),
        fix="divide by the number of batches that the update has, or by its tokens",
    )

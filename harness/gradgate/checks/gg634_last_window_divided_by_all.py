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

Divisors that another file's function applies are not seen. What the gradient of one whole update is made of is GG410's,
which runs it.

## Sources

The `get_batch_samples` of transformers' Trainer, which counts what an update really has before it divides by it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.accumulation import alternatives, every, is_backward, methods_of, steps_in
from gradgate.checks.source_values import Names, assignments_in, own_nodes
from gradgate.checks.trainer_source import File, called_name, calls_in, dotted, read_file_by_file
from gradgate.checks.update_turns import Own, Turn, read_in, turns_of
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
    """Read each loop that steps once in several turns, and at its end."""
    return read_file_by_file(subject, _of_file, "divisions")


def _of_file(file: File) -> Iterator[Finding]:
    if not (file.has("backward") and file.has(" % ", "accum") and file.has("step")):
        return
    own, methods = Own(file), methods_of(file)
    ones = _ones(file)
    seen = set[int]()
    for turn in turns_of(file, methods):
        text = "\n".join(file.lines[turn.function.lineno - 1 : turn.function.end_lineno])
        if DROPS.search(text) or not _steps_what_is_left(turn, own, Names(turn.function), methods.step):
            continue
        for node, divisor in _divided(turn, own, ones):
            if id(node) not in seen and not _writes_gradients(turn, own):
                seen.add(id(node))
                yield _finding(file, node, turn, divisor)


def _ones(file: File) -> dict[str, str]:
    """What attributes and names hold that is one divided by something, and that."""
    return {
        ast.unparse(target): ast.unparse(value.right)
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


def _divided(turn: Turn, own: Own, ones: dict[str, str]) -> Iterator[tuple[ast.AST, str]]:
    """The backwards of a turn whose loss is divided by the batches of a whole update, each with the divisor."""
    sizes = _sizes(turn)
    changed = _changed(turn)
    places = [(turn.others, Names(turn.function))]
    places += [(own_nodes(function), Names(function)) for function in own.all_called(turn.others)]
    for nodes, names in places:
        for call in filter(is_backward, nodes):
            for divisor in _divisors(call, nodes, names, ones):
                held = ast.unparse(names.held(divisor)) if isinstance(divisor, ast.expr) else divisor
                text = ast.unparse(divisor) if isinstance(divisor, ast.expr) else divisor
                plain = not isinstance(divisor, ast.expr) or isinstance(
                    divisor, ast.Name | ast.Attribute | ast.Subscript | ast.Constant
                )
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


def _divisors(call: ast.AST, nodes: Iterable[ast.AST], names: Names, ones: dict[str, str]) -> Iterator[ast.expr | str]:
    """What a backward's loss is divided by."""
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
    for node in (*here, *(inner for function in own.all_called(here) for inner in own_nodes(function))):
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


def _finding(file: File, node: ast.AST, turn: Turn, divisor: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=(
            f"{turn.function.name}() divides each batch's loss by `{divisor}`, and steps at the end of the data with "
            "fewer batches than that; allowed: the number that the update has"
        ),
        culprit=file.at(node, turn.function.name),
        fix="divide by the number of batches that the update has, or by its tokens",
    )

"""A sum that is logged at an interval is divided by the interval, and never put back to 0.

## What it detects

`log(running / config.log_every)` where `step % config.log_every == 0`, of a sum that the loop raises and never sets.

## Why it matters

The first line of the log is a mean, the second twice one, the tenth ten times: a loss that falls is logged as one that
rises, and whoever reads the log stops a run that is sound. Where the sum is put back once an epoch, each epoch repeats
it. Training itself is the same, so no test of it sees anything.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding is a division

* in a branch of a loop that holds once in so many turns (`%`), by that number or a multiple of it;
* of a name, an attribute or an item that the loop raises by `+=`, of the `sum()` of a list that it appends to, or of
  each value of a mapping that it raises;
* which nothing in the loop sets, clears or resets, nor a function of the file that it calls; an attribute, nothing but
  `__init__` and what stands in front of the loop.

An attribute that a method divides by what the file has behind a `%` counts as well, where `__init__` alone sets it.
Sums that are divided by a count that grows with them are clean. Statistic: such divisions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
running = 0.0
for step, batch in enumerate(loader, 1):
    running += train_step(batch)
    if step % config.log_every == 0:
        log(step=step, loss=running / config.log_every)
```

Good:

```python
        log(step=step, loss=running / config.log_every)
        running = 0.0                                        # of the next interval
```

## How to fix

Put the sum back to 0 where it is logged, or divide it by all that it is made of.

## Known limits

Sums that another object keeps are not seen, nor those that are put back in the wrong place. Whether a step returns what
it says is GG416's, which runs it.

## Sources

PyTorch, "Training a classifier": `running_loss = 0.0` behind the line that prints it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.source.accumulation import alternatives, every
from gradgate.checks.source.trainer import File, Function, called_name, dotted, nodes_in, read_file_by_file
from gradgate.checks.source.update_turns import Own, raised_by
from gradgate.checks.source.values import OTHERS, assignments_in, is_empty_list, own_nodes, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG637", "sum-never-put-back"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
PUTS_BACK = re.compile(r"(reset|clear|zero_?|fill_|flush|pop\w*|init\w*)$", re.IGNORECASE)
PASSES = ("float", "item", "cpu", "detach", "round", "tolist")
BEGINS = ("__init__", "__post_init__", "setup")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each division by an interval."""
    return read_file_by_file(subject, _of_file, "sums")


def _of_file(file: File) -> Iterator[Finding]:
    if not (file.has(" % ") and file.has("+=", ".append(", " + ") and file.has(" / ")):
        return
    own, seen = Own(file), set[int]()
    for function, _ in file.functions:
        nodes = own_nodes(function)
        for loop in (node for node in nodes if isinstance(node, ast.For | ast.While)):
            for division, held in _of_loop(loop, function, file, own):
                if id(division) not in seen:
                    seen.add(id(division))
                    yield _finding(file, division, function, held)
    for function, division, held in _of_methods(file):
        if id(division) not in seen:
            yield _finding(file, division, function, held)


def _of_loop(loop: ast.For | ast.While, function: Function, file: File, own: Own) -> Iterator[tuple[ast.BinOp, str]]:
    """The divisions by an interval in a loop, of sums that nothing puts back, each with the sum."""
    branches = [node for node in nodes_in(loop.body, *OTHERS, ast.For, ast.While) if isinstance(node, ast.If)]
    found = [
        (division, held)
        for branch in branches
        for interval in _intervals(branch.test)
        for division in _divisions(branch.body, interval)
        if (held := _sum(division, branch.body))
    ]
    if not found:
        return
    inside = list(nodes_in(loop.body, *OTHERS))
    raised = _raised(inside) | own.raised(inside) | _appended(inside, function)
    for division, held in found:
        if held in raised and not _is_set(held, inside, own) and not _is_set_elsewhere(held, function, file):
            yield division, held


def _intervals(test: ast.expr) -> set[str]:
    """By how many a condition asks for a multiple, as it is written."""
    return {ast.unparse(counted[1]) for part in alternatives(test) if (counted := every(part))}


def _divisions(body: Iterable[ast.AST], interval: str) -> Iterator[ast.BinOp]:
    """The divisions by an interval, or by a multiple of it."""
    for node in nodes_in(body, *OTHERS):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            factors = _factors(node.right)
            if interval in factors:
                yield node


def _factors(node: ast.expr) -> set[str]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _factors(node.left) | _factors(node.right)
    return {ast.unparse(node)}


def _sum(division: ast.BinOp, body: Iterable[ast.AST]) -> str:
    """What is divided, as it is written: of each value of a mapping, the mapping; of a list's sum, the list."""
    node = division.left
    while isinstance(node, ast.Call):
        name = called_name(node)
        if name in (*PASSES, "sum") and node.args:
            node = node.args[0]
        elif name in PASSES and isinstance(node.func, ast.Attribute):
            node = node.func.value
        else:
            return ""
    text = ast.unparse(node)
    for bound in nodes_in(body, *OTHERS):
        if isinstance(bound, ast.comprehension | ast.For) and isinstance(bound.iter, ast.Call):
            holder, _, last = dotted(bound.iter.func).rpartition(".")
            if last in ("items", "values") and text in set(map(ast.unparse, places_of(bound.target))):
                return holder
    return text if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) else ""


def _raised(nodes: Iterable[ast.AST]) -> set[str]:
    """What these nodes raise, and the mappings whose items they raise."""
    found = {text for node in nodes for text in raised_by(node)}
    return found | {text.partition("[")[0] for text in found}


def _appended(nodes: Iterable[ast.AST], function: Function) -> set[str]:
    """The lists that are appended to, and begin empty in the function."""
    empty = {ast.unparse(target) for target, value in assignments_in(own_nodes(function)) if is_empty_list(value)}
    calls = {dotted(node.func) for node in nodes if isinstance(node, ast.Call)}
    return {name for name in empty if f"{name}.append" in calls}


def _is_set(held: str, nodes: Iterable[ast.AST], own: Own, hops: int = 2) -> bool:
    """Whether these nodes set a sum or what holds it, clear it, or call a function of the file that does."""
    root = held.partition("[")[0]
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr | ast.For | ast.Delete):
            targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
            texts = {ast.unparse(place) for target in targets for place in places_of(target)}
            if any(_holds(text, root) for text in texts - raised_by(node)):
                return True
        elif isinstance(node, ast.Call):
            name = dotted(node.func)
            given = {ast.unparse(argument) for argument in node.args}
            if PUTS_BACK.search(name) and (_holds(name.rpartition(".")[0] or root, root) or root in given):
                return True
            called = own.called(node) if hops else None
            if called is not None and _is_set(held, own_nodes(called), own, hops - 1):
                return True
    return False


def _holds(text: str, root: str) -> bool:
    """Whether what is set is a sum, what holds it, or an item of it."""
    return text == root or text.startswith(f"{root}[") or (text != "self" and root.startswith((f"{text}.", f"{text}[")))


def _is_set_elsewhere(held: str, function: Function, file: File) -> bool:
    """Whether another function of the file sets an attribute."""
    if "." not in held:
        return False
    others = [other for other, _ in file.functions if other is not function and other.name not in BEGINS]
    none = Own(File(file.path, ast.Module([], []), file.lines))
    return any(_is_set(held, own_nodes(other), none, 0) for other in others)


def _of_methods(file: File) -> Iterator[tuple[Function, ast.BinOp, str]]:
    """The divisions by an interval in a method, of an attribute that `__init__` alone sets."""
    asked = {text for node in file.nodes if isinstance(node, ast.If) for text in _intervals(node.test)}
    asked = {text for text in asked if "." in text}
    if not asked:
        return
    raised: set[str] | None = None
    for function, owner in file.functions:
        if owner is None:
            continue
        for interval in asked:
            for division in _divisions(function.body, interval):
                held = _sum(division, function.body)
                raised = _raised(file.nodes) if raised is None else raised
                if held.startswith("self.") and held in raised and not _is_set_elsewhere(held, _beginning(owner), file):
                    yield function, division, held


def _beginning(owner: ast.ClassDef) -> Function:
    """The method that begins a class, or its first one."""
    methods = [inner for inner in owner.body if isinstance(inner, Function)]
    return next((inner for inner in methods if inner.name in BEGINS), methods[0])


def _finding(file: File, division: ast.BinOp, function: Function, held: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function.name}() divides `{held}` by the interval, `{ast.unparse(division)}`, and nothing puts it back "
            "to 0: it grows with the run; allowed: the sum of one interval"
        ),
        culprit=file.at(division, function.name),
        fix="put the sum back to 0 where it is logged, or divide it by all that it is made of",
    )

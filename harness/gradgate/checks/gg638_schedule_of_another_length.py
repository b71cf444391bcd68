"""A run ends at a number of steps, and its schedule is laid out for whole epochs.

## What it detects

`epochs * len(loader)`, divided or not, as the length of a schedule that does not ask `max_steps`, beside a loop that
stops there.

## Why it matters

A run with `max_steps: 1000` on data for 10,000 updates ends while it still warms up, or where the cosine has hardly
come down: its weights are those of the highest rate, and two runs with other limits differ in more than their length.
The other way round, where the limit is beyond the epochs, the rate is at its floor long before the end.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A limit is called
`max_steps`, `max_train_steps`, `max_updates`, `max_iters` or the like; it ends the run where a loop's condition
compares with it, a branch that leaves a loop or a function does, or a function gives such a comparison back. A finding
is a product of epochs and of `len(...)` or a number of batches

* which reaches a call that is named after a schedule, a rate or a warm-up, as GG623 has it;
* in a function of the file and, of a method, the class in which a limit ends the run;
* where neither that function, nor one of the file that calls it or makes a schedule, reads the limit for anything but
  to stop, to keep it, or to hand it to what is no schedule.

Statistic: such lengths; allowed: 0; severity: warning, since a limit may be there to try a run out.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
total = config.epochs * math.ceil(len(loader) / n)
scheduler = LambdaLR(optimizer, lambda step: cosine(step, total))
while step < config.max_steps:
    step = update(next(batches), scheduler)
```

Good:

```python
total = config.max_steps or config.epochs * math.ceil(len(loader) / n)
```

## How to fix

Give the schedule the length that the run really has: the limit where there is one, else that of the epochs.

## Known limits

Limits of time or tokens, and lengths that another file makes, are not seen. Which rate each update really has is
GG607's, which runs it.

## Sources

The `set_initial_training_values` of transformers' Trainer: where `max_steps` is given, it is the schedule's length.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.schedule_lengths import counts_batches, paced_in, products_of_epochs, reaches_a_schedule
from gradgate.checks.source.trainer import File, Function, calls_in, dotted, nodes_in, read_file_by_file
from gradgate.checks.source.values import OTHERS, Names, last_name, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG638", "schedule-of-another-length"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
LIMIT = re.compile(
    r"^(max|limit)_?(train(ing)?_?|optim\w*_?|global_?|total_?|num_?)?(steps?|updates?|iters?|iterations)$"
    r"|^(step|update|iteration)s?_limit$",
    re.IGNORECASE,
)
LOOPS = (ast.For, ast.While)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what each schedule's length is made of, beside what ends the run."""
    return read_file_by_file(subject, _of_file, "lengths")


def _of_file(file: File) -> Iterator[Finding]:
    if not (file.has("epoch") and file.has("max_", "limit") and file.has("len(", "batches")):
        return
    stops = [(function, owner, limit) for function, owner in file.functions for limit in _stops(function)]
    if not stops:
        return
    for function, owner in file.functions:
        names = Names(function)
        for product in products_of_epochs(own_nodes(function), names, counts_batches):
            limits = [limit for _, other, limit in stops if other is owner]
            if limits and reaches_a_schedule(product, function, file) and not _is_asked(function, file):
                yield _finding(file, product, function.name, limits[0])


def _stops(function: Function) -> Iterator[str]:
    """The limits that end a run in a function, as they are written."""
    for node in own_nodes(function):
        tests: list[ast.expr] = []
        leaves = isinstance(node, ast.If) and isinstance(node.body[-1], ast.Break | ast.Return)
        if isinstance(node, ast.If | ast.While) and (leaves or isinstance(node, ast.While)):
            tests = [node.test]
        elif isinstance(node, ast.Return) and node.value is not None:
            tests = [node.value]
        for compared in (part for test in tests for part in ast.walk(test) if isinstance(part, ast.Compare)):
            if isinstance(compared.ops[0], ast.Gt | ast.GtE | ast.Lt | ast.LtE | ast.Eq):
                yield from (ast.unparse(side) for side in (compared.left, *compared.comparators) if _is_limit(side))


def _is_limit(node: ast.AST) -> bool:
    return isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and bool(LIMIT.search(last_name(node)))


def _is_asked(function: Function, file: File) -> bool:
    """Whether a limit is read where a length is made, or where a schedule is."""
    for other, _ in file.functions:
        makes = other is function or any(
            dotted(call.func).removeprefix("self.") == function.name for call in calls_in(other)
        )
        if (makes or any(paced_in(other))) and _reads_a_limit(other):
            return True
    return False


def _reads_a_limit(function: Function) -> bool:
    """Whether a function reads a limit for something but to stop, to keep it, or to hand it to what is no schedule."""
    passed = set[int]()
    nodes = list(nodes_in(function.body, *OTHERS, *LOOPS))
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            passed |= _kept(node)
        elif isinstance(node, ast.If) and isinstance(node.body[-1], ast.Return | ast.Raise):
            passed |= set(map(id, ast.walk(node.test)))
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Compare | ast.BoolOp):
            passed |= {
                id(part) for one in ast.walk(node.value) if isinstance(one, ast.Compare) for part in ast.walk(one)
            }
        elif isinstance(node, ast.Call) and not any(node is call for call in paced_in(node)):
            passed |= {id(keyword.value) for keyword in node.keywords if keyword.arg and LIMIT.search(keyword.arg)}
    return any(_is_limit(node) and id(node) not in passed and not _is_stored(node) for node in nodes)


def _is_stored(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)


def _kept(node: ast.Assign | ast.AnnAssign) -> set[int]:
    """The nodes of a limit that is kept under its own name."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    pairs = [(target, node.value) for target in targets]
    for target in targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            pairs += zip(target.elts, node.value.elts, strict=False)
    return {
        id(value)
        for target, value in pairs
        if value is not None and LIMIT.search(last_name(target)) and _is_limit(value)
    }


def _finding(file: File, product: ast.BinOp, function: str, limit: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        severity="warning",
        message=(
            f"{function}() lays a schedule out for `{ast.unparse(product)}`, and the run ends at `{limit}`; allowed: "
            "the length that the run has"
        ),
        culprit=file.at(product, function),
        fix="give the schedule the limit where there is one, else the length of the epochs",
    )

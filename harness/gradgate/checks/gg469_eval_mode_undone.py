"""A part that was frozen and put into eval mode is put back into train mode with the whole.

## What it detects

`model.trunk.eval()` once, in front of the training, and `model.train()` at the head of each epoch or behind each
evaluation: from then on the frozen trunk drops units, and moves its running statistics.

## Why it matters

Stage 1 is to train a value head on the features of a trunk that does not change. They are noise then, the value head
learns on other features than it is asked about later, and batch norm's statistics move although nothing is trained.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, where something drops units
or normalises over a batch, and no class has a `train` of its own. Findings are calls `X.train()`, or with True, in a
loop or in a method, of a class or a file that freezes a part of X, or X itself (`requires_grad_(False)`, a loop over
its parameters), and puts just that into eval mode, where no `eval()` of that part stands behind `X.train()` in the same
function.

Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
model.trunk.requires_grad_(False)
model.trunk.eval()
for epoch in range(epochs):
    model.train()
```

Good:

```python
for epoch in range(epochs):
    model.train()
    model.trunk.eval()
```

## How to fix

Put the part into eval mode behind each `train()` of the whole, or give the model a `train` that does.

## Known limits

A part is known by the name that it is frozen by; what a step itself does is GG606's, which runs it.

## Sources

PyTorch, `nn.Module.train`: it sets the mode of all that a module holds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import chain

from gradgate.checks.source.dropouts import drops
from gradgate.checks.source.trainer import NONE, File, Function, dotted, files_of, given_by
from gradgate.checks.source.values import is_true, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG469", "eval-mode-undone"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
THAWS = re.compile(r"unfreez|thaw|^train$")
MODAL = ("BatchNorm", "dropout", "Dropout", "DropPath")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for a whole that is put into train mode behind a part that was put into eval mode."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    named = {function.name for file in files for function, owner in file.functions if owner is not None}
    random = any(file.has("BatchNorm") or drops(file.tree) for file in files if file.has(*MODAL))
    findings = tuple(chain.from_iterable(map(_of_file, files))) if random and "train" not in named else ()
    return Outcome(findings, {"calls": len(findings)}, {"calls": 0})


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has(".train(") or not file.has(".eval("):
        return
    scopes: dict[int, list[Function]] = {}
    for function, owner in file.functions:
        scopes.setdefault(id(owner) if owner is not None else id(function), []).append(function)
    for functions in scopes.values():
        nodes = {id(function): own_nodes(function) for function in functions}
        everything = list(chain.from_iterable(nodes.values()))
        asleep = _frozen(everything) & {of for _, of in _calls(everything, "eval")}
        for function in functions:
            if THAWS.search(function.name):
                continue
            for call, whole in _calls(nodes[id(function)], "train") if asleep else ():
                part = _undone(call, whole, asleep, nodes[id(function)])
                if part and (len(functions) > 1 or _in_loop(call, nodes[id(function)])):
                    yield _finding(file, call, function.name, part)


def _calls(nodes: Sequence[ast.AST], method: str) -> Iterator[tuple[ast.Call, str]]:
    """The calls of a method without arguments, or with True, each with the chain of names that it is of."""
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
            told = given_by(node)
            of = dotted(node.func.value)
            if of and all(map(is_true, told)):
                yield node, of


def _frozen(nodes: Sequence[ast.AST]) -> set[str]:
    """What of is said that it needs no gradient, all of it."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "requires_grad_":
            told = given_by(node)
            if told and isinstance(told[0], ast.Constant) and told[0].value is False:
                found.add(dotted(node.func.value))
        elif isinstance(node, ast.For) and isinstance(node.iter, ast.Call):
            of = node.iter.func
            freezes = any("requires_grad" in (text := ast.unparse(each)) and "False" in text for each in node.body)
            if freezes and isinstance(of, ast.Attribute) and of.attr in ("parameters", "named_parameters"):
                found.add(dotted(of.value))
    return found - {""}


def _undone(call: ast.Call, whole: str, asleep: set[str], nodes: Sequence[ast.AST]) -> str:
    """The part whose mode a call undoes; empty: none, or it is put back behind."""
    behind = {of for each, of in _calls(nodes, "eval") if each.lineno > call.lineno}
    parts = (part for part in sorted(asleep) if part == whole or part.startswith(f"{whole}."))
    return next((part for part in parts if part not in behind), "")


def _in_loop(call: ast.Call, nodes: Sequence[ast.AST]) -> bool:
    loops = (node for node in nodes if isinstance(node, ast.For | ast.While))
    return any(call is part for loop in loops for part in ast.walk(loop))


def _finding(file: File, call: ast.Call, function: str, part: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{function}() puts `{part}` back into train mode, which was frozen and put into eval mode, "
            f"by `{ast.unparse(call)}`; allowed: none"
        ),
        culprit=file.at(call, function),
        fix="put the part into eval mode behind each `train()` of the whole",
    )

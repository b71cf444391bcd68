"""Dropout that does not ask for the mode: it drops in evaluations, in references and in frozen features too.

## What it detects

`F.dropout(x, p)`, whose `training` is True where nobody says otherwise, `F.dropout(x, p, training=True)`, and attention
by `scaled_dot_product_attention(..., dropout_p=self.p)`, which knows no mode at all.

## Why it matters

`model.eval()` has no hold on it. A held-out loss is another one each time it is asked, the best checkpoint is the one
with the luckiest draw, and what a frozen trunk or a reference gives is noise.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are calls of
`torch.nn.functional`'s `dropout`, `dropout1d`, `dropout2d` and `dropout3d` without `training`, or with True, and of
`scaled_dot_product_attention` with a `dropout_p`, neither of which stands under a condition that reads the mode. A rate
that reads it (`self.p if self.training else 0.0`), by whatever name, a property, an argument of the function, a 0, and
a function that is named after samples of dropout (`mc_dropout`) are none.

Statistic: such calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
h = F.dropout(h, self.p)
```

Good:

```python
h = F.dropout(h, self.p, training=self.training)
```

## How to fix

Give `training=self.training`, or `dropout_p=self.p if self.training else 0.0`.

## Known limits

Masks that are drawn by hand (`torch.bernoulli`) are not looked at.

## Sources

PyTorch, `torch.nn.functional.dropout` (training=True) and `scaled_dot_product_attention`, which says that a dropout_p
above 0 is always applied.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.trainer import File, Function, dotted, given_for, read_file_by_file
from gradgate.checks.source.values import Names, is_true, outwards, own_nodes, parameters_of, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG465", "dropout-always-on"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
DROPS = re.compile(r"^(F|functional|(torch\.)?nn\.functional)\.dropout[123]?d?$")
ATTENTION = "scaled_dot_product_attention"
RATE, MODE = 4, 2  # places of `dropout_p` in attention and of `training` in dropout
OF_MODE = re.compile(r"train|eval|infer|sampling", re.IGNORECASE)
ON_PURPOSE = re.compile(r"(^|_)mc(_|$)|monte|stochastic", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for dropout by functions."""
    return read_file_by_file(subject, _of_file, "calls")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has("dropout(", "dropout1d(", "dropout2d(", "dropout3d(", "dropout_p", ATTENTION):
        return
    parents = parents_in(file.tree)
    for function, owner in file.functions:
        names = Names(function)
        for node in own_nodes(function):
            if not isinstance(node, ast.Call) or ON_PURPOSE.search(function.name):
                continue
            drops = DROPS.search(dotted(node.func)) and _is_on(node)
            attends = dotted(node.func).endswith(ATTENTION) and _always_drops(node, function, owner, names)
            if (drops or attends) and not _asks_around(node, parents):
                yield _finding(file, node, function.name)


def _is_on(call: ast.Call) -> bool:
    """Whether a dropout is told to drop, or nothing."""
    if any(word.arg is None for word in call.keywords):
        return False
    rate = given_for(call, "p", 1)
    if isinstance(rate, ast.Constant) and not rate.value:
        return False
    told = given_for(call, "training", MODE)
    return told is None or is_true(told)


def _always_drops(call: ast.Call, function: Function, owner: ast.ClassDef | None, names: Names) -> bool:
    """Whether the rate of an attention goes by no mode, nor by whoever calls the function."""
    rate = given_for(call, "dropout_p", RATE)
    if rate is None or (isinstance(rate, ast.Constant) and not rate.value):
        return False
    arguments = {each.arg for each in parameters_of(function)}
    properties = {part.name for part in owner.body if isinstance(part, Function)} if owner is not None else set()
    for part in names.parts(rate):
        if isinstance(part, ast.IfExp | ast.Call | ast.BoolOp):
            return False
        name = dotted(part)
        if name in arguments - {"self"} or OF_MODE.search(name) or name.rpartition(".")[2] in properties:
            return False
    return True


def _asks_around(node: ast.AST, parents: dict[int, ast.AST]) -> bool:
    """Whether a condition around a call reads the mode."""
    around = (each.test for each in outwards(node, parents) if isinstance(each, ast.If | ast.IfExp))
    return any(OF_MODE.search(ast.unparse(test)) for test in around)


def _finding(file: File, call: ast.Call, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() drops in every mode, by `{ast.unparse(call.func)}`; allowed: in train mode alone",
        culprit=file.at(call, function),
        fix="give `training=self.training`, or `dropout_p=self.p if self.training else 0.0`",
    )

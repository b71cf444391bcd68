"""An explained variance is measured against the variance of the prediction.

## What it detects

`1 - (returns - values).var() / values.var()`: the divisor is the spread of what was predicted, where that of the
targets is meant.

## Why it matters

A value head that predicts nothing may look good, and one that spreads too far looks better than one that is right.
The number that is to say whether Stage 1 has learnt anything says something else.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are expressions `1
- a / b` in a function, or beside a name, of an explained variance or of R2, where b is the variance of what is called a
value, a prediction, an estimate or an output, and a has something that is called a return, a reward, a target or a
label.

Statistic: such expressions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
explained_variance = 1 - (returns - values).var() / values.var()
```

Good:

```python
explained_variance = 1 - (returns - values).var() / returns.var().clamp_min(1e-8)
```

## How to fix

Divide by the variance of the targets.

## Known limits

Names decide what is predicted. Variances that are taken by hand are not followed.

## Sources

Explained variance as in scikit-learn's `explained_variance_score`: 1 - Var(y - p) / Var(y).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.trainer import File, dotted, read_file_by_file
from gradgate.checks.source.values import Names, assignments_in, last_name, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG468", "variance-of-the-prediction"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
EXPLAINED = re.compile(r"expl\w*_?var|(^|_)(r2|r_?squared|ev|r2_score)(_|$)", re.IGNORECASE)
PREDICTED = re.compile(r"(^|_)(v|values?|vals?|preds?|predictions?|predicted|estimates?|outputs?)(_[A-Z]+)?$")
TARGETS = re.compile(r"(^|_)(rets?|returns?|rewards?|targets?|labels?|truth|y)(_[A-Z]+)?$")
SPREADS = ("var", "std")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what errors are divided by."""
    return read_file_by_file(subject, _of_file, "expressions")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has(".var(", "torch.var", "np.var"):
        return
    for function, _ in file.functions:
        nodes, names = own_nodes(function), Names(function)
        named = {id(value) for target, value in assignments_in(nodes) if EXPLAINED.search(last_name(target))}
        for node in nodes:
            if isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                named |= {
                    id(value)
                    for key, value in pairs
                    if isinstance(key, ast.Constant) and EXPLAINED.search(str(key.value))
                }
        for node in nodes:
            of = _divisor(node, names)
            around = EXPLAINED.search(function.name) or any(
                id(value) in named for value in nodes if node in ast.walk(value)
            )
            if of and around:
                yield _finding(file, node, function.name, of)


def _divisor(node: ast.AST, names: Names) -> str:
    """What a prediction is called by whose variance an error is divided; empty: by none."""
    if (
        not isinstance(node, ast.BinOp)
        or not isinstance(node.op, ast.Sub)
        or ast.unparse(node.left) not in ("1", "1.0")
    ):
        return ""
    share = names.held(node.right)
    if not isinstance(share, ast.BinOp) or not isinstance(share.op, ast.Div):
        return ""
    of = _spread_of(names.held(share.right))
    above = {last_name(part) for part in names.parts(share.left) if isinstance(part, ast.Name | ast.Attribute)}
    is_error = any(map(TARGETS.search, above)) and any(map(PREDICTED.search, above))
    return of if is_error and PREDICTED.search(of) and not TARGETS.search(of) else ""


def _spread_of(node: ast.expr) -> str:
    """What the variance is taken of, by its last name; of a divisor that is kept from 0, too."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr in SPREADS:
            if dotted(part.func.value) in ("torch", "np", "numpy"):
                return last_name(_taken(part.args[0])) if part.args else ""
            return last_name(_taken(part.func.value))
    return ""


def _taken(node: ast.expr) -> ast.expr:
    """Of what a mask takes a part."""
    while isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
        node = node.value
    return node


def _finding(file: File, node: ast.AST, function: str, of: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() divides by the variance of `{of}`, which is what was predicted; allowed: the targets'",
        culprit=file.at(node, function),
        fix="divide by the variance of the targets",
    )

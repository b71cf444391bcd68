"""Something is divided by the spread of values that may be one alone.

## What it detects

`x / (x.std() + eps)` over the rows of a batch, where a batch may have one row: `std()` of one value is NaN, and no
`eps` helps.

## Why it matters

The last batch of an epoch has what is left. One row there, and rewards, loss and gradient are NaN, and with them every
parameter; if a guard leaves the step out, that row is never trained.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are `std()` and
`var()`, `std_mean()` and `var_mean()` of a tensor over everything or along axis 0, corrected for the mean (as PyTorch
does unless it is told `unbiased=False` or `correction=0`), and `statistics.stdev` and `variance`, by which something is
divided (`/`, `/=`, `rsqrt`), in a function that neither asks how many there are, by `numel`, `len`, `size` or `shape`
beside a comparison, or by `sum` or `count` of what is selected, nor replaces what is not finite. NumPy's are not
corrected, and no findings. What selects or reduces parameters is none either.

A warning: whether batches of one occur, the data say.

Statistic: such divisions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
scores = (scores - scores.mean()) / (scores.std() + 1e-8)
```

Good:

```python
scores = (scores - scores.mean()) / (scores.std(correction=0) + 1e-8)   # 0 of one
```

## How to fix

Give `correction=0`, by which one value is moved to 0, or leave scaling out where there are fewer than two.

## Known limits

Loaders that drop what is left are not looked for. What one row makes of the real step is GG404's, which runs it.

## Sources

`torch.std`: with `correction=1`, the divisor of one value is 0, and the result NaN.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source_values import Names, own_nodes
from gradgate.checks.trainer_source import File, Function, called_name, dotted, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG441", "spread-of-one"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
COUNTS = re.compile(r"numel|len\(|\.size\(|\.shape|\.sum\(|count", re.IGNORECASE)
NOT_TENSORS = re.compile(r"(^|\.)(np|numpy|statistics|param\w*|weight\w*|bias|grad\w*)(\.|$)")
REPLACED = ("nan_to_num", "isfinite", "isnan")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each division by a spread."""
    return read_file_by_file(subject, _of_file, "divisions")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has(".std", ".var", "statistics"):
        return
    for function, _ in file.functions:
        nodes = own_nodes(function)
        spreads = {id(call): call for call in nodes if isinstance(call, ast.Call) and _is_spread(call)}
        if not spreads or _asks_how_many(function):
            continue
        names, seen = Names(function), set[int]()
        unpacked = {  # var, mean = torch.var_mean(rows)
            dotted(node.targets[0].elts[0]): spreads[id(node.value)]
            for node in nodes
            if isinstance(node, ast.Assign) and id(node.value) in spreads and isinstance(node.targets[0], ast.Tuple)
        }
        for divisor in filter(None, map(_divisor, nodes)):
            for part in names.parts(divisor, 2):
                spread = spreads.get(id(part)) or (unpacked.get(part.id) if isinstance(part, ast.Name) else None)
                if spread is not None and id(spread) not in seen:
                    seen.add(id(spread))
                    yield _finding(file, spread, function.name)


def _divisor(node: ast.AST) -> ast.expr | None:
    """What a node divides by, itself or by `rsqrt`."""
    if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
        return node.right if isinstance(node, ast.BinOp) else node.value
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "rsqrt":
        return node.args[0] if dotted(node.func.value) == "torch" and node.args else node.func.value
    return None


def _is_spread(node: ast.Call) -> bool:
    """Whether a call is a corrected `std` or `var` over rows or over everything."""
    if dotted(node.func) in ("statistics.stdev", "statistics.variance"):
        return True
    pairs = ("std_mean", "var_mean") if dotted(node.func).startswith("torch.") else ()
    if not (isinstance(node.func, ast.Attribute) and node.func.attr in ("std", "var", *pairs)):
        return False
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if given.get("unbiased") == "False" or given.get("correction") == "0" or "ddof" in given:
        return False
    of_torch = dotted(node.func.value) == "torch"
    arguments = [ast.unparse(argument) for argument in node.args[1 if of_torch else 0 :]]
    if "False" in arguments or NOT_TENSORS.search(dotted(node.func.value)):
        return False
    axis = given.get("dim", given.get("axis", arguments[0] if arguments else ""))
    return axis in ("", "0", "None", "True", "(0,)", "[0]")


def _asks_how_many(function: Function) -> bool:
    """Whether a function compares a number of values, or replaces what is not finite."""
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and COUNTS.search(ast.unparse(node)):
            return True
        if called_name(node) in REPLACED:
            return True
    return False


def _finding(file: File, call: ast.Call, function: str) -> Finding:
    of_one = "an error" if dotted(call.func).startswith("statistics.") else "NaN"
    told = f"{function}() divides by `{ast.unparse(call)}`, which is {of_one} of one value"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{told}; allowed: a finite number",
        culprit=file.at(call, function),
        severity="warning",
        fix="give `correction=0`, or leave the scaling out where there are fewer than two",
    )

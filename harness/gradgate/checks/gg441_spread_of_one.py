"""Something is divided by the spread of values that may be one alone.

## What it detects

`x / (x.std() + eps)` over the rows of a batch, where a batch may have one row: `std()` of one value is NaN, and no
`eps` helps.

## Why it matters

The last batch of an epoch has what is left. One row there, and rewards, loss and gradient are NaN, and with them every
parameter; if a guard leaves the step out, that row is never trained. Running statistics that took it in once are NaN
for the rest of the run.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are `std()` and
`var()`, `std_mean()` and `var_mean()` of a tensor over everything or along axis 0, corrected for the mean (as PyTorch
does unless it is told `unbiased=False` or `correction=0`), and `statistics.stdev` and `variance`, by which something is
divided (`/`, `/=`, `rsqrt`), in a function that neither asks how many there are, by `numel`, `len`, `size` or `shape`
beside a comparison with more than 0, or by `sum` or `count` of what is selected, nor replaces what is not finite; and
such spreads in what a method makes an attribute of, of what it was, where something is divided by it or its root is
taken: a running variance, which stays NaN. NumPy's are not corrected, and no findings. What selects or reduces
parameters is none either.

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
from collections.abc import Iterator, Sequence

from gradgate.checks.source.trainer import File, Function, called_name, dotted, read_file_by_file
from gradgate.checks.source.values import Names, assignments_in, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG441", "spread-of-one"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
COUNTS = re.compile(r"numel|len\(|\.size\(|\.shape|\.sum\(|count", re.IGNORECASE)
NOT_TENSORS = re.compile(r"(^|\.)(np|numpy|statistics|param\w*|weight\w*|bias|grad\w*)(\.|$)")
MOVES = ("add_", "lerp_", "lerp", "copy_", "mul_", "add")
REPLACED = ("nan_to_num", "isfinite", "isnan")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each division by a spread."""
    return read_file_by_file(subject, _of_file, "divisions")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has(".std", ".var", "statistics"):
        return
    for function, owner in file.functions:
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
                    yield _finding(file, spread, f"{function.name}() divides by")
        for kept in _kept(nodes, names, file) if owner is not None else ():
            for part in names.parts(kept):
                spread = spreads.get(id(part)) or (unpacked.get(part.id) if isinstance(part, ast.Name) else None)
                if spread is not None and id(spread) not in seen and not _is_of_arrays(spread, names):
                    seen.add(id(spread))
                    yield _finding(file, spread, f"{function.name}() keeps a running number of")


def _kept(nodes: Sequence[ast.AST], names: Names, file: File) -> Iterator[ast.expr]:
    """What an object's attributes become, of what they were, by which the file scales something: NaN once and for
    all."""
    scales = _scales(file)
    for target, value in assignments_in(nodes):
        if _own_in(target) & scales and any(dotted(part) == dotted(target) for part in names.parts(value)):
            yield value
    for node in nodes:
        if isinstance(node, ast.AugAssign) and _own_in(node.target) & scales:
            yield node.value
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MOVES:
            yield from node.args if _own_in(node.func.value) & scales else ()


def _own_in(node: ast.AST) -> set[str]:
    """The last names of the attributes of itself that an expression reads."""
    parts = (part for part in ast.walk(node) if isinstance(part, ast.Attribute))
    return {part.attr for part in parts if dotted(part.value) == "self"}


def _scales(file: File) -> set[str]:
    """The attributes that something is divided by, or whose root is taken."""
    taken: list[ast.expr] = []
    for node in file.nodes:
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
            taken.append(node.right if isinstance(node, ast.BinOp) else node.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow) and ast.unparse(node.right) == "0.5":
            taken.append(node.left)
        elif isinstance(node, ast.Call) and called_name(node) in ("sqrt", "rsqrt", "pow"):
            taken += [node.func, *node.args]
    return {part.attr for each in taken for part in ast.walk(each) if isinstance(part, ast.Attribute)}


def _is_of_arrays(spread: ast.Call, names: Names) -> bool:
    """Whether a spread is one of NumPy's, of what it makes."""
    held = names.held(spread.func.value) if isinstance(spread.func, ast.Attribute) else spread
    return isinstance(held, ast.Call) and bool(NOT_TENSORS.search(dotted(held.func)))


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
    """Whether a function compares a number of values with more than 0, or replaces what is not finite."""
    names = Names(function)
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and not _tells_none(node):
            sides = (node.left, *node.comparators)
            if any(COUNTS.search(ast.unparse(part)) for side in sides for part in (side, names.held(side))):
                return True
        if called_name(node) in REPLACED:
            return True
    return False


def _tells_none(node: ast.Compare) -> bool:
    """Whether a comparison only tells no values from some: `n == 0`, `n < 1`."""
    bound = node.comparators[0]
    if len(node.ops) != 1 or not isinstance(bound, ast.Constant):
        return False
    of_zero = isinstance(node.ops[0], ast.Eq | ast.NotEq | ast.Gt | ast.LtE) and bound.value == 0
    return of_zero or (isinstance(node.ops[0], ast.Lt | ast.GtE) and bound.value == 1)


def _finding(file: File, call: ast.Call, done: str) -> Finding:
    of_one = "an error" if dotted(call.func).startswith("statistics.") else "NaN"
    told = f"{done} `{ast.unparse(call)}`, which is {of_one} of one value"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{told}; allowed: a finite number",
        culprit=file.at(call, done.partition("(")[0]),
        severity="warning",
        fix="give `correction=0`, or leave the scaling out where there are fewer than two",
    )

"""A setting takes numbers that cannot be meant, beside others that refuse theirs.

## What it detects

A field of a pydantic model without bounds, called after what has them (a temperature, a discount, a rate, a share, a
number of epochs), in a class whose other numbers are bounded.

## Why it matters

`temperature: -1` turns a preference around, `gamma: 1.5` lets returns grow without end, and both train. Whoever sees
that the class refuses a negative rate relies on it to refuse these as well.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. In a class where at least
three fields, and half of those that are `float` or `int`, have a bound (`Field(gt=…)`, `ge`, `lt`, `le`, `PositiveInt`
and its like, or bounds under `Annotated`), findings, as warnings, are numbers without one whose name holds a quantity
that cannot be negative, or is a share; unless a validator of the class mentions them. Statistic: such fields; allowed:
0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
class Critic(BaseModel):
    gamma: float = Field(0.99, ge=0, le=1)
    gae_lambda: float = Field(0.95, ge=0, le=1)
    value_coef: float = Field(0.1, ge=0)
    temperature: float = 0.7
```

Good:

```python
    temperature: float = Field(0.7, gt=0)
```

## How to fix

Give the field the bounds that its neighbours have.

## Known limits

Classes whose numbers have no bounds at all, and validation outside of pydantic, are not looked at.

## Sources

Configuration faults of two trainers that were read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.trainer import File, dotted, read_file_by_file
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG439", "setting-without-bounds"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
BOUNDS = ("gt", "ge", "lt", "le")
BOUNDED = re.compile(
    r"\b(Positive|Negative|NonNegative|NonPositive)(Int|Float)\b|\b(Gt|Ge|Lt|Le|Interval)\(|\b(gt|ge|lt|le)="
)
NUMBER = re.compile(r"\b(float|int)\b")
QUANTITY = re.compile(
    r"(^|_)(temperature|tau|gamma|lambda|lam|lr|learning_rate|dropout|ratio|fraction|share|probability|momentum|beta\d?|"
    r"eps|epsilon|weight_decay|max_norm|grad_norm|coef|coefficient|epochs|batch_size|steps|patience|horizon|layers|width)(_|$)"
)
ENOUGH = 3


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for numbers without bounds beside some that have them."""
    return read_file_by_file(subject, _found, "fields_without_bounds")


def _found(file: File) -> Iterator[Finding]:
    for owner in (node for node in file.nodes if isinstance(node, ast.ClassDef)):
        fields = [part for part in owner.body if isinstance(part, ast.AnnAssign) and _is_number(part)]
        bounded = [field for field in fields if _is_bounded(field)]
        if len(bounded) < max(ENOUGH, len(fields) / 2):
            continue
        methods = [part for part in owner.body if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef)]
        told = "\n".join(ast.unparse(method) for method in methods)
        for field in fields:
            name = dotted(field.target)
            if field not in bounded and QUANTITY.search(name) and not re.search(rf"\b{name}\b", told):
                yield _finding(file, field, owner.name, name, dotted(bounded[0].target))


def _is_number(field: ast.AnnAssign) -> bool:
    text = ast.unparse(field.annotation)
    return bool(NUMBER.search(text) or BOUNDED.search(text)) and not re.search(
        r"list|tuple|dict|set|Sequence", text, re.I
    )


def _is_bounded(field: ast.AnnAssign) -> bool:
    if BOUNDED.search(ast.unparse(field.annotation)):
        return True
    value = field.value
    return isinstance(value, ast.Call) and any(word.arg in BOUNDS for word in value.keywords)


def _finding(file: File, field: ast.AnnAssign, owner: str, name: str, other: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{name}` of {owner} takes any number, `{other}` beside it refuses those that cannot be meant; "
        "allowed: all are bounded",
        severity="warning",
        culprit=file.at(field, owner),
        fix=f"give `{name}` bounds: `Field(..., gt=0)`",
        detail={"setting": name},
    )

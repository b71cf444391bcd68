"""The weights that an optimizer moves are kept in 16 bits.

## What it detects

A precision switch that casts the model that is trained: `model.to(torch.bfloat16)`, `model.half()`.

## Why it matters

bfloat16 has eight significant bits. A weight of 1 moves in steps of 0.0039 downwards and 0.0078 upwards, so updates of
a usual learning rate round to nothing: norms stay as they were initialised, and large weights stop first. AdamW's
moments are kept in 16 bits as well. The loss falls at first, and the run ends worse than the one in float32.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings, as warnings, are
`.to(torch.bfloat16)`, `.to(torch.float16)`, also as `dtype=`, `.bfloat16()` and `.half()` of what is called after a
model, in a trainer that makes an optimizer, unless it is a reference, a teacher or a judge by its name or the
function's, or the source speaks of master weights, stochastic rounding or Kahan summation. Statistic: such casts;
allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones. Who trains in pure bfloat16 on purpose is warned.

## Example

Bad:

```python
if config.precision == "bf16":
    model.to(torch.bfloat16)
```

Good:

```python
with torch.autocast(device, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
    loss = model(batch)
```

## How to fix

Keep parameters in float32 and compute under autocast, or keep a float32 copy of them for the optimizer.

## Known limits

A dtype that is a variable is not followed. What a precision does to a step is GG306's, which runs it.

## Sources

Micikevicius et al. 2018, arXiv:1710.03740, section 3.1; Zamirai et al. 2020, "Revisiting BFloat16 Training",
arXiv:2010.06192.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.trainer_source import NONE, File, calls_in, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG308", "weights-in-16-bits"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
HALF = ("torch.bfloat16", "torch.float16", "torch.half")
MODEL = re.compile(r"(^|[_.])(model|net|network|policy|module|lm|trunk)$", re.IGNORECASE)
RESTS = re.compile(r"ref|teacher|judge|reward|frozen|infer|eval|generat|export|serv", re.IGNORECASE)
KEPT = re.compile(r"master_?(weight|param|cop)|stochastic_?round|kahan|float32 copy|fp32 copy", re.IGNORECASE)
OPTIMIZERS = re.compile(
    r"(Adam\w*|SGD|RMSprop|Adagrad|Lion|Muon|Adafactor)\(|get_optimizer|make_optimizer|build_optimizer"
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for casts of the model that is trained."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    lines = [line for file in files for line in file.lines]
    trains = any(map(OPTIMIZERS.search, lines)) and not any(map(KEPT.search, lines))
    found = [finding for file in files for finding in (_found(file) if trains else ())]
    return Outcome(tuple(found), {"casts": len(found)}, {"casts": 0})


def _found(file: File) -> Iterator[Finding]:
    if not file.has("float16", "half"):
        return
    for function, _ in file.functions:
        for call in calls_in(function) if not RESTS.search(function.name) else ():
            if isinstance(call.func, ast.Attribute) and _is_cast(call):
                name = dotted(call.func.value)
                if MODEL.search(name) and not RESTS.search(name):
                    yield _finding(file, call, function.name)


def _is_cast(call: ast.Call) -> bool:
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if method in ("bfloat16", "half"):
        return not call.args
    given = (*call.args, *(word.value for word in call.keywords if word.arg == "dtype"))
    return method == "to" and any(dotted(value) in HALF for value in given)


def _finding(file: File, call: ast.Call, function: str) -> Finding:
    text = ast.unparse(call)
    lost = "a 512th" if "bfloat16" in text else "a 4096th"  # half a step downwards from a power of 2
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{text}` keeps the weights that are trained in 16 bits: updates below {lost} of a weight are lost; "
        "allowed: none",
        severity="warning",
        culprit=file.at(call, function),
        fix="keep parameters in float32, and compute under torch.autocast",
    )

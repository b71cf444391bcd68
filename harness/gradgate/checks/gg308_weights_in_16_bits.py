"""The weights that an optimizer moves are kept in 16 bits.

## What it detects

A precision switch that casts the model that is trained: `model.to(torch.bfloat16)`, `model.half()`.

## Why it matters

bfloat16 has eight significant bits. A weight of 1 moves in steps of 0.0039 downwards and 0.0078 upwards, so updates of
a usual learning rate round to nothing: norms stay as they were initialised, and large weights stop first. AdamW's
moments are kept in 16 bits as well. The loss falls at first, and the run ends worse than the one in float32.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings, as warnings, are
`.to(torch.bfloat16)`, `.to(torch.float16)`, also as `dtype=`, by a name, a table of types (`DTYPES[precision]`), a
branch or what a function of the trainer gives, `.bfloat16()` and `.half()` of what is called after a model, or of the
`data` of all of its parameters, in a trainer that makes an optimizer, unless it is a reference, a teacher or a judge by
its name, the function's, or by what all calls give it, or the source speaks of master weights, stochastic rounding or
Kahan summation. Statistic: such casts; allowed: 0.

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

A dtype that a function is given, or that an object keeps, is not followed. What a precision does to a
step is GG306's, which runs it.

## Sources

Micikevicius et al. 2018, arXiv:1710.03740, section 3.1; Zamirai et al. 2020, "Revisiting BFloat16 Training",
arXiv:2010.06192.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import NONE, File, dotted, files_of
from gradgate.checks.source.values import assignments_in, last_name
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
    halves = any(file.has("float16", "half") for file in files)
    found = tuple(_found(places_in(files))) if trains and halves else ()
    return Outcome(found, {"casts": len(found)}, {"casts": 0})


def _found(places: Places) -> Iterator[Finding]:
    for place in places.functions:
        if not place.file.has(".to(", ".half(", ".bfloat16(", ".type(") or RESTS.search(place.name):
            continue
        loops = {dotted(node.target): node.iter for node in place.nodes if isinstance(node, ast.For)}
        for call in (node for node in place.nodes if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and _is_cast(call, place, places):
                cast = call.func.value
                cast = cast.value if isinstance(cast, ast.Attribute) and cast.attr == "data" else cast
                of_all = _model_of(loops.get(dotted(cast)))  # for parameter in model.parameters()
                name = of_all if of_all and _is_stored(call, place) else dotted(cast)
                if MODEL.search(name) and not RESTS.search(name) and not _is_given_rests(name, place, places):
                    yield _finding(place.file, call, place.name)


def _model_of(over: ast.expr | None) -> str:
    """What `model.parameters()` are the parameters of."""
    is_all = isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr == "parameters"
    return dotted(over.func.value) if is_all else ""  # type: ignore[union-attr]


def _is_stored(call: ast.Call, place: Place) -> bool:
    return any(value is call and last_name(target) == "data" for target, value in assignments_in(place.nodes))


def _is_given_rests(name: str, place: Place, places: Places) -> bool:
    """Whether all calls of a function give it what is not trained."""
    given = places.given_to(place, name) if name in place.parameters else None
    return bool(given) and all(RESTS.search(f"{dotted(value)} {caller.name}") for caller, value in given or ())


def _is_cast(call: ast.Call, place: Place, places: Places) -> bool:
    method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if method in ("bfloat16", "half"):
        return not call.args
    given = (*call.args, *(word.value for word in call.keywords if word.arg == "dtype"))
    return method in ("to", "type") and any(_is_half(value, place, places) for value in given)


def _is_half(value: ast.expr, place: Place, places: Places, hops: int = 4) -> bool:
    """Whether a type may be one of 16 bits: itself, an item of a table, a branch, or what a function gives."""
    if dotted(value) in HALF:
        return True
    if not hops:
        return False
    also = list[ast.expr]()
    if isinstance(value, ast.IfExp):
        also = [value.body, value.orelse]
    elif isinstance(value, ast.Subscript):
        also = [value.value]
    elif isinstance(value, ast.Dict):
        also = [each for each in value.values if dotted(each)]
    elif isinstance(value, ast.Call):
        called = places.called(value, place)
        if called is not None:
            nodes, place = called.nodes, called
            also = [node.value for node in nodes if isinstance(node, ast.Return) and node.value is not None]
        elif isinstance(value.func, ast.Attribute) and value.func.attr == "get":
            also = [value.func.value]
    elif isinstance(value, ast.Name):
        held = place.names.held(value)
        also = [held] if held is not value else _of_files(value.id, place, places)
    return any(_is_half(each, place, places, hops - 1) for each in also)


def _of_files(name: str, place: Place, places: Places) -> list[ast.expr]:
    """What a name is at the top of its file, or else of another one."""
    if name in place.parameters:
        return []
    tops = [(one, value) for one in places.all if one.is_top
            for target, value in assignments_in(one.function.body) if dotted(target) == name]  # fmt: skip
    return [value for one, value in tops if one.file is place.file] or [value for _, value in tops]


def _finding(file: File, call: ast.Call, function: str) -> Finding:
    text = ast.unparse(call)
    lost = "a 4096th" if re.search(r"\bfloat16|half", text) else "a 512th"  # half a step downwards from a power of 2
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{text}` keeps the weights that are trained in 16 bits: updates below {lost} of a weight are lost; "
        "allowed: none",
        severity="warning",
        culprit=file.at(call, function),
        fix="keep parameters in float32, and compute under torch.autocast",
    )

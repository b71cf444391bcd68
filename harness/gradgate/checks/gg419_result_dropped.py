"""Something is computed in the trainer's source, and nobody reads it.

## What it detects

An expression whose value is thrown away (`kl.sum(1) / mask.sum(1)` on a line of its own, `loss.clamp(max=10)`, which
changes nothing); a loss, an accuracy, a divergence or a sum over an epoch that is kept under a name which no line
reads; an element of a result that is unpacked and left. A call of what gives back something new, on a line of its own:
`with_overrides(config, args.set)`, `dataclasses.replace(config, seed=1)`, `rng.permutation(rows)`.

## Why it matters

A line that was meant to change the loss does not, and nothing tells. A loss that is added up over an epoch and never
shown was meant to be shown, and `.item()` made the device wait for it in every step. Overrides that are merged into a
copy which nobody takes are not in the run.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Findings are:

* an expression statement that is arithmetic, a comparison or a subscript, or a call of a tensor method which returns
  its result and changes nothing (`clamp`, `masked_fill`, `detach`, `mean`, …), or of what makes a new object (`sorted`,
  `dataclasses.replace`, `model_copy`, `rng.sample`);
* a local variable that no line of its function reads, whose numbers come from `.item()` or that is added to (`+=`, its
  elements too), or that is computed or unpacked and called after what is measured (`loss`, `kl`, `entropy`, …).

What belongs to one function is one finding. Names with an underscore in front are meant to be left. Allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
estimated_kl = estimated_kl * mask
estimated_kl.sum(dim=1) / mask.sum(dim=1)            # and on with the plain mean
```

Good:

```python
estimated_kl = (estimated_kl * mask).sum(dim=1) / mask.sum(dim=1)
```

## How to fix

Use the result, report it, or take the line out.

## Known limits

What is returned and left by every caller without a name (`step()[0]`), and attributes that are written and not read,
are not seen; GG416 asks whether what is reported is right.

## Sources

The `pointless-statement` and `unused-variable` rules of pylint, narrowed to what a training step computes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from itertools import chain

from gradgate.checks.source.pure_functions import makes_new, pure_functions
from gradgate.checks.source.trainer import NONE, File, Function, dotted, files_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG419", "result-dropped"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MEASURED = re.compile(r"(^|_)(loss(es|f)?|kl|entropy|acc(uracy)?|reward|return|advantage|value|metric)s?(_|$)")
SUMS = re.compile(r"(^|_)(total|sum|count|steps?|batches|tokens|n)s?(_|$)")
# Methods of tensors that return their result. Left out are those that other things have under the same name: modules
# change in place in `float`, sets in `add`, loggers write in `log`.
PURE = frozenset(
    (
        *("abs", "clamp", "contiguous", "detach", "div", "exp", "log_softmax", "logsumexp", "masked_fill", "mean"),
        *(
            "masked_select",
            "model_copy",
            "mul",
            "neg",
            "permute",
            "pow",
            "reshape",
            "sigmoid",
            "softmax",
            "squeeze",
            "std",
            "tanh",
        ),
        *("transpose", "tril", "triu", "unsqueeze", "var"),
    )
)
PURE_FUNCTIONS = ("sorted", "reversed", "dataclasses.replace", "copy.copy", "copy.deepcopy")
DRAWN = ("sample", "permutation")  # what gives drawn rows, and leaves those that it is given as they are
GENERATOR = re.compile(r"^_?(rng|random|generator|gen)$|_rng$")
FIX = "use the result, report it, or take the line out"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read each function for what it computes and leaves."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    pure = pure_functions(files)
    findings = tuple(chain.from_iterable(_of_file(file, pure) for file in files))
    return Outcome(findings, {"results_dropped": len(findings), "files": len(files)}, {"results_dropped": 0})


def _of_file(file: File, pure: set[str]) -> Iterator[Finding]:
    seen: set[int] = set()
    for function, _ in file.functions:
        yield from (_statement(file, node, function.name) for node in _pointless(function.body, seen, file, pure))
        yield from _left(file, function)
    shown = _is_shown(file)
    yield from (_statement(file, node, "") for node in _pointless(file.tree.body, seen, file, pure) if not shown)


def _is_shown(file: File) -> bool:
    """Whether a file is a notebook's text: the last expression of a cell is shown there."""
    return any(line.startswith(("# %%", "# In[")) for line in file.lines)


def _pointless(body: Iterable[ast.stmt], seen: set[int], file: File, pure: set[str]) -> Iterator[ast.Expr]:
    """Expression statements that compute something and do nothing."""
    for statement in body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Expr) and id(node) not in seen:
                seen.add(id(node))
                if _computes(node.value) or _is_pure(node.value, file, pure):
                    yield node


def _is_pure(value: ast.expr, file: File, pure: set[str]) -> bool:
    """Whether a value is made by a call that changes nothing."""
    return isinstance(value, ast.Call) and (makes_new(value, file) or dotted(value.func) in pure)


def _computes(value: ast.expr) -> bool:
    if isinstance(value, ast.BinOp | ast.UnaryOp):
        return not isinstance(getattr(value, "op", None), ast.RShift | ast.LShift | ast.BitOr)  # operators that act
    if isinstance(value, ast.Call) and dotted(value.func) in PURE_FUNCTIONS:
        return True
    if not (isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute)):
        return False
    if value.func.attr in DRAWN and value.args and GENERATOR.search(dotted(value.func.value).rpartition(".")[2]):
        return True
    return value.func.attr in PURE and not any(keyword.arg == "out" for keyword in value.keywords)


def _left(file: File, function: Function) -> Iterator[Finding]:
    """One finding for the local variables that the function fills and does not read."""
    read = _read(function)
    outer = {name for node in ast.walk(function) if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
    calls_all = any(isinstance(node, ast.Name) and node.id == "locals" for node in ast.walk(function))
    left: dict[str, ast.stmt] = {}
    for node in () if calls_all else ast.walk(function):
        if isinstance(node, ast.stmt):
            for name in _filled(node):
                if name not in read | outer and not name.startswith("_"):
                    left.setdefault(name, node)
    made = {arg.arg for arg in ast.walk(function) if isinstance(arg, ast.arg)}
    names = sorted((name for name in left if name not in made), key=lambda name: left[name].lineno)
    if names:
        told = ", ".join(f"`{name}`" for name in names)
        yield Finding(
            code=CODE,
            name=NAME,
            message=f"{function.name}() computes {told} and reads {'it' if len(names) == 1 else 'them'} nowhere; "
            "allowed: none",
            culprit=file.at(left[names[0]], function.name),
            fix=FIX,
            detail={"names": names},
        )


def _read(function: Function) -> set[str]:
    """The names whose values the function reads; to be added to is not to be read."""
    written = {
        id(node.value)
        for node in ast.walk(function)
        if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    }
    made = {
        target.id
        for node in ast.walk(function)
        if isinstance(node, ast.Assign) and _is_new(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name)
        and isinstance(node.ctx, ast.Load)
        and not (id(node) in written and node.id in made)  # another's elements are read there
    }


def _is_new(value: ast.expr) -> bool:
    """Whether a value is a mapping or a list that nobody else holds."""
    if isinstance(value, ast.Dict | ast.List | ast.DictComp | ast.ListComp):
        return True
    called = ast.unparse(value.func) if isinstance(value, ast.Call) else ""
    return called in ("dict", "list", "dict.fromkeys", "defaultdict", "collections.defaultdict", "Counter")


def _filled(node: ast.stmt) -> Iterator[str]:
    """The variables that a statement puts a number of the step into."""
    if isinstance(node, ast.AugAssign):
        target = node.target.value if isinstance(node.target, ast.Subscript) else node.target
        if isinstance(target, ast.Name) and (_measures(node.value) or MEASURED.search(target.id) or _sums(target.id)):
            yield target.id
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            if isinstance(target, ast.Name) and (_measures(node.value) or _is_metric(target.id, node.value)):
                yield target.id
            elif isinstance(target, ast.Tuple) and isinstance(node.value, ast.Call):
                names = [inner.id for inner in target.elts if isinstance(inner, ast.Name)]
                yield from (name for name in names if MEASURED.search(name))


def _sums(name: str) -> bool:
    return bool(SUMS.search(name))


def _is_metric(name: str, value: ast.expr) -> bool:
    """Whether a call's or a formula's result is called after what is measured; a constructor makes no number."""
    if not MEASURED.search(name) or not isinstance(value, ast.Call | ast.BinOp):
        return False
    return not (isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2][:1].isupper())


def _measures(value: ast.expr) -> bool:
    """Whether a number is read from a tensor there."""
    return any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("item", "tolist")
        for node in ast.walk(value)
    )


def _statement(file: File, node: ast.Expr, function: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message="the result of this line is dropped: it computes a value and changes nothing; allowed: none",
        culprit=file.at(node, function),
        fix=FIX,
    )

"""A mean over labels is multiplied by their number to be summed, and of no labels it is NaN.

## What it detects

`total += loss.item() * n`, where `loss` is a cross entropy that averages over the labels that are not ignored, `n` is
how many there are, and nothing asks whether there is one.

## Why it matters

One batch whose labels are all ignored (a prompt that fills its row, a row of padding) makes the whole evaluation NaN:
NaN times 0 is NaN. No score is better than NaN or worse, so that no checkpoint is the best any more, and an early stop
sees nothing but bad evaluations.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding is a sum that is
raised (`+=`, or `total = total + ...`) by a product of a number and of a cross entropy, by itself, by what a name holds
or by a module of one, without `reduction="sum"` or `"none"`, or of the mean of what a mask picks (`ce[valid].mean()`),
where the number holds a `sum` of a comparison or a mask, and no condition of the function names that number. So too
means of what a mask picks that are put into a list, under no condition that asks for it, where that list is gone
through beside another one and the two of each place are multiplied (`sum(m * n for m, n in zip(means, counts))`).

Statistic: such sums; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
n = (labels != -100).sum()
total += cross_entropy(logits, labels).item() * n
```

Good:

```python
total += cross_entropy(logits, labels, reduction="sum").item()
```

## How to fix

Sum what is summed: `reduction="sum"`; or pass over what has no labels.

## Known limits

Means that another function takes are not followed. What all labels being ignored makes of a step is GG404's, which runs
it.

## Sources

`torch.nn.functional.cross_entropy`: with `reduction="mean"` the divisor is the number of labels that are not ignored.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.masked_thresholds import leaves_out
from gradgate.checks.source.trainer import File, Function, called_name, dotted, read_file_by_file
from gradgate.checks.source.values import Names, assignments_in, last_name, outwards, own_nodes, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG453", "mean-of-none"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
AVERAGES = ("cross_entropy", "nll_loss")
MODULES = ("CrossEntropyLoss", "NLLLoss")
GUARDS = ("nan_to_num", "isfinite", "isnan")


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what sums of a loss are raised by."""
    return read_file_by_file(subject, _of_file, "sums")


def _of_file(file: File) -> Iterator[Finding]:
    if not file.has(*AVERAGES, *MODULES, "].mean()"):
        return
    modules = _modules(file)
    yield from _of_lists(file)
    for function, _ in file.functions:
        names = Names(function)
        for node in own_nodes(function):
            raised = _raised_by(node)
            if not (isinstance(raised, ast.BinOp) and isinstance(raised.op, ast.Mult)):
                continue
            for mean, number in ((raised.left, raised.right), (raised.right, raised.left)):
                if _averages(mean, names, modules) and _counts(number, names) and not _is_asked(number, function):
                    yield _finding(file, node, function.name, ast.unparse(number))


def _of_lists(file: File) -> Iterator[Finding]:
    """Products of means that a list holds, each of what a mask picks, and of what another list holds beside it."""
    kept: dict[str, ast.Call] = {}
    for function, _ in file.functions if file.has(".append(") and file.has("zip(") else ():
        if not any(called_name(node) in GUARDS for node in own_nodes(function)):
            kept |= {dotted(_whole(call.func.value)): call for call in _put_away(function)}  # type: ignore[attr-defined]
    for function, _ in file.functions if kept else ():
        for node in own_nodes(function):
            if not isinstance(node, ast.GeneratorExp | ast.ListComp) or len(node.generators) != 1:
                continue
            (each,) = node.generators
            if each.ifs or not _multiplies(node.elt, each) or not isinstance(each.iter, ast.Call):
                continue
            for listed in each.iter.args:
                if (call := kept.get(dotted(_whole(listed)))) is not None:
                    yield _finding(file, call, function.name, dotted(each.target.elts[1]))  # type: ignore[attr-defined]


def _put_away(function: Function) -> Iterator[ast.Call]:
    """The calls that append a mean of what a mask picks to a list, whether it picks any or not."""
    names, parents = Names(function), parents_in(function)
    for node in own_nodes(function):
        if isinstance(node, ast.Call) and called_name(node) == "append" and len(node.args) == 1:
            asked = any(isinstance(outer, ast.If) for outer in outwards(node, parents))
            given = node.args[0]
            if not asked and not isinstance(given, ast.IfExp) and _averages(given, names, set()):
                yield node


def _whole(node: ast.expr) -> ast.expr:
    """A list of lists, of which one is meant: `losses` of `losses[k]`."""
    return _whole(node.value) if isinstance(node, ast.Subscript) else node


def _multiplies(node: ast.expr, each: ast.comprehension) -> bool:
    """Whether the two that `zip` gives are multiplied."""
    targets = each.target.elts if isinstance(each.target, ast.Tuple) else []
    factors = [node.left, node.right] if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) else []
    of_zip = called_name(each.iter) == "zip" and len(targets) == 2
    return of_zip and sorted(map(dotted, factors)) == sorted(map(dotted, targets))


def _raised_by(node: ast.AST) -> ast.expr | None:
    """What a sum is raised by: `total += part`, or `total = total + part`."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return node.value
    value = node.value if isinstance(node, ast.Assign) else None
    if not (isinstance(node, ast.Assign) and isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add)):
        return None
    name = ast.unparse(node.targets[0])
    return value.right if ast.unparse(value.left) == name else value.left if ast.unparse(value.right) == name else None


def _modules(file: File) -> set[str]:
    """The names of the losses that a file makes to average over the labels that are not ignored."""
    return {
        last_name(target)
        for target, value in (assignments_in(file.nodes) if file.has(*MODULES) else ())
        if isinstance(value, ast.Call) and called_name(value) in MODULES and _is_mean(value)
    }


def _is_mean(call: ast.Call) -> bool:
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return given.get("reduction", "'mean'") == "'mean'"


def _averages(node: ast.expr, names: Names, modules: set[str]) -> bool:
    """Whether a number is a mean over the labels that are not ignored."""
    for part in names.parts(node, 2):
        if isinstance(part, ast.Call) and last_name(part.func) in modules:
            return True
        if isinstance(part, ast.Call) and called_name(part) in AVERAGES:
            return _is_mean(part)
        if isinstance(part, ast.Call) and called_name(part) == "mean" and isinstance(part.func, ast.Attribute):
            of = part.func.value
            return isinstance(of, ast.Subscript) and leaves_out(of.slice, names)
    return False


def _counts(node: ast.expr, names: Names) -> bool:
    """Whether a name holds how many places there are."""
    return isinstance(node, ast.Name) and any(
        isinstance(part, ast.Call)
        and isinstance(part.func, ast.Attribute)
        and part.func.attr in ("sum", "count_nonzero")
        for part in names.parts(node, 2)
    )


def _is_asked(number: ast.expr, function: Function) -> bool:
    """Whether a condition names a number, or it has a least one."""
    name = ast.unparse(number)
    for node in ast.walk(function):
        test = node.test if isinstance(node, ast.If | ast.IfExp | ast.While) else None
        if test is not None and any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(test)):
            return True
        if called_name(node) in GUARDS:
            return True
    return False


def _finding(file: File, node: ast.AST, function: str, number: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() multiplies a mean over labels by `{number}`: of none it is NaN; allowed: a finite sum",
        culprit=file.at(node, function),
        fix='take the sum (`reduction="sum"`), or pass over batches without labels',
    )

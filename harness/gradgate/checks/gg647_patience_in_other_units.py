"""Patience counts evaluations and is held against steps, or the least improvement has the wrong sign.

## What it detects

`step - best_step >= patience`, where an evaluation is made once in several steps; and
`score < best + min_delta` that makes a new best.

## Why it matters

A patience of three evaluations is over three steps behind the best: the run stops at the first evaluation that is no
better. With the wrong sign a score that is worse than the best, by less than `min_delta`, becomes the best: the best
drifts upwards, the best checkpoint is overwritten, and patience never runs out. A short run shows neither.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports.

* A difference of a step and the step of the best, or a name that counts steps since then, is compared by order with a
  name in which "patience" stands and no unit, and the same count is asked for `% n` in that file with an interval of
  evaluations. Not where a default of that patience is above 50: it may be meant in steps.
* A score is below `best + delta`, above `best - delta`, or by less than `delta` away from the best, in a condition in
  whose branch the best is set, in whose opposite one it is not, or whose name says that it is better. A delta that is
  negated somewhere in the file is none.

Statistic: such comparisons; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
if score < self.best + self.min_delta:
    self.best, self.best_step = score, step
elif step - self.best_step >= self.patience:
    break
```

Good:

```python
if score < self.best - self.min_delta:
    self.best, self.bad = score, 0
else:
    self.bad += 1
```

## How to fix

Count evaluations, and take the least improvement off the best where a smaller score is better.

## Known limits

Whether a stop comes one evaluation early or late is GG608's, which runs the loop; a count that is never put back is
GG620's, the direction of the score GG627's.

## Sources

A convergence fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.trainer import NONE, File, Function, dotted, files_of, nodes_in
from gradgate.checks.source.values import ORDERS, assignments_in, last_name, own_nodes
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG647", "patience-in-other-units"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
BEST = re.compile(r"(^|_)(best|lowest|highest)(_|$)", re.IGNORECASE)
BETTER = re.compile(r"improve|better|(^|_)best$|(is|new)_best|progress", re.IGNORECASE)
DELTA = re.compile(r"delta|(^|_)(tol|tolerance|margin|eps|epsilon|min_change|min_gain|min_improvement)$", re.IGNORECASE)
UNIT = re.compile(r"step|iter|update|epoch|batch", re.IGNORECASE)
STEP = re.compile(r"step|iter|update|batch", re.IGNORECASE)
SINCE = re.compile(r"(steps?|iters?|iterations|updates|batches)_(since|without|no_)|since_best_steps", re.IGNORECASE)
EVALUATES = re.compile(r"eval|valid|val_|test_every|check", re.IGNORECASE)
IN_STEPS = 50  # a patience above that may be meant in steps
BELOW = (ast.Lt, ast.LtE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look at what patience and the least improvement are held against."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    findings: list[Finding] = []
    if any(file.has("patience") for file in files):
        most = max((number for file in files for number in _defaults(file)), default=0)
        findings += [each for file in files if most <= IN_STEPS for each in _units(file)]
    findings += [each for file in files for each in _signs(file)]
    return Outcome(tuple(findings), {"comparisons": len(findings)}, {"comparisons": 0})


def _defaults(file: File) -> Iterator[float]:
    """The numbers that a patience has where it is declared."""
    if not file.has("patience"):
        return
    pairs = [(last_name(target), value) for target, value in assignments_in(file.nodes)]
    for node in file.nodes:
        if isinstance(node, ast.arguments):
            last = node.args[len(node.args) - len(node.defaults) :]
            pairs += [(arg.arg, value) for arg, value in zip(last, node.defaults, strict=True)]
        elif isinstance(node, ast.Call) and node.args and dotted(node.func).endswith("add_argument"):
            name = str(getattr(node.args[0], "value", ""))
            pairs += [(name, word.value) for word in node.keywords if word.arg == "default"]
        elif isinstance(node, ast.Dict):
            entries = zip(node.keys, node.values, strict=True)
            pairs += [(str(getattr(key, "value", "")), value) for key, value in entries]
    for name, value in pairs:
        for part in ast.walk(value) if "patience" in name else ():
            number = part.value if isinstance(part, ast.Constant) else None
            if isinstance(number, int | float) and not isinstance(number, bool):
                yield float(number)


def _units(file: File) -> Iterator[Finding]:
    """Steps that are held against a patience in evaluations."""
    if not file.has("patience"):
        return
    every = {
        last_name(node.left)
        for node in file.nodes
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and EVALUATES.search(last_name(node.right))
    }
    for function, _ in file.functions if every else ():
        for node in own_nodes(function):
            if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ORDERS):
                left, right = node.left, node.comparators[0]
                steps, patience = (left, right) if "patience" in last_name(right) else (right, left)
                told = last_name(patience)
                if "patience" in told and not UNIT.search(told) and _counts_steps(steps, every):
                    yield _finding(
                        file, function, node, f"holds steps against `{ast.unparse(patience)}`, which counts evaluations"
                    )


def _counts_steps(node: ast.expr, every: set[str]) -> bool:
    """Whether an expression is the number of steps since the best one."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub):
        best = ast.unparse(node.right)
        since = re.search(r"best|improve", best, re.IGNORECASE) and STEP.search(best)
        return bool(since) and last_name(node.left) in every and bool(STEP.search(last_name(node.left)))
    return bool(SINCE.search(last_name(node)))


def _signs(file: File) -> Iterator[Finding]:
    """Scores that become the best though they are worse."""
    if not file.has("delta", "tol", "margin", "eps", "min_"):
        return
    for function, _ in file.functions:
        nodes = own_nodes(function)
        for node in nodes:
            if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ORDERS):
                delta = _lax(node)
                if delta and _is_better(node, function, nodes) and not _is_turned(file, delta):
                    yield _finding(
                        file, function, node, f"takes `{ast.unparse(node)}` for a new best, also where it is worse"
                    )


def _lax(node: ast.Compare) -> str:
    """The least improvement, where a comparison also holds for a score that is a little worse; else empty."""
    below = isinstance(node.ops[0], BELOW)
    left, right = node.left, node.comparators[0]
    for score, other, is_below in ((left, right, below), (right, left, not below)):
        delta, added = _with_delta(other)
        if delta and added is is_below and not BEST.search(last_name(score)):
            return delta
        parts = [last_name(score.left), last_name(score.right)] if isinstance(score, ast.BinOp) else []
        sub = isinstance(score, ast.BinOp) and isinstance(score.op, ast.Sub)
        if sub and any(map(BEST.search, parts)) and DELTA.search(last_name(other)) and is_below:
            return last_name(other)
    return ""


def _with_delta(node: ast.expr) -> tuple[str, bool]:
    """The least improvement that a best has with it, and whether it is added; empty: none."""
    if not isinstance(node, ast.BinOp):
        return "", False
    if isinstance(node.op, ast.Mult):
        for best, factor in ((node.left, node.right), (node.right, node.left)):
            if not isinstance(factor, ast.BinOp) or getattr(factor.left, "value", None) != 1:
                continue
            if BEST.search(last_name(best)) and DELTA.search(last_name(factor.right)):
                return last_name(factor.right), isinstance(factor.op, ast.Add)
        return "", False
    named = BEST.search(last_name(node.left)) and DELTA.search(last_name(node.right))
    moved = isinstance(node.op, ast.Add | ast.Sub) and named
    return (last_name(node.right), isinstance(node.op, ast.Add)) if moved else ("", False)


def _is_better(compare: ast.Compare, function: Function, nodes: list[ast.AST]) -> bool:
    """Whether a comparison that holds makes a new best."""
    names: set[str] = set()
    for target, value in assignments_in(nodes):
        if value is compare:
            if BETTER.search(last_name(target)):
                return True
            names.add(dotted(target))
    for node in nodes:
        if isinstance(node, ast.Return) and node.value is compare:
            return bool(BETTER.search(function.name))
        if isinstance(node, ast.If | ast.IfExp) and (_has(node.test, compare) or dotted(node.test) in names):
            if isinstance(node, ast.IfExp):
                return isinstance(node.body, ast.Constant) and node.body.value == 0
            return any(map(BEST.search, _set_in(node.body))) and not any(map(BEST.search, _set_in(node.orelse)))
    return False


def _has(test: ast.expr, compare: ast.Compare) -> bool:
    """Whether a condition holds where a comparison does, alone or with others."""
    parts = test.values if isinstance(test, ast.BoolOp) else [test]
    return any(part is compare for part in parts)


def _set_in(block: list[ast.stmt]) -> list[str]:
    return [last_name(target) for target, _ in assignments_in(nodes_in(block))]


def _is_turned(file: File, delta: str) -> bool:
    """Whether a file negates a least improvement."""
    for node in file.nodes:
        if isinstance(node, ast.AugAssign) and last_name(node.target) == delta:
            return True
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inside = node.operand.args[0] if isinstance(node.operand, ast.Call) and node.operand.args else node.operand
            if last_name(inside) == delta:
                return True
    return False


def _finding(file: File, function: Function, node: ast.Compare, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function.name}() {told}; allowed: none",
        culprit=file.at(node, function.name),
        fix="count evaluations, and take the least improvement off the best where a smaller score is better",
    )

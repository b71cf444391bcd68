"""Held-out data are built without a setting that the training data are built with.

## What it detects

A data set, collator or reader of the trainer's own that is made twice in one function, for training with a setting, and
for the evaluation without it: held-out rows are then cut, masked or labelled by the parameter's default.

## Why it matters

The evaluation measures something else than what is trained: its loss counts the tokens of prompts, its rows have
another length, its labels another horizon. The best checkpoint and early stopping go by it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Two calls in one function of
the same class or function of the trainer; one is for training and the other for an evaluation by the name that it is
given, by the key or the method it is passed to, or by a word among its arguments. A finding, as a warning, is an
argument by name that the first has, from a setting or a variable, and the second lacks, unless its name says that it is
about order, size, randomness, packing or augmentation (`shuffle`, `batch_size`, `seed`, `pack`, `drop_last`, …).
Statistic: such arguments; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones; a difference that is meant is a warning.

## Example

Bad:

```python
train_rows = Rows(train_file, horizon=config.horizon, completion_only=config.completion_only)
heldout_rows = Rows(heldout_file, horizon=config.horizon)
```

Good:

```python
heldout_rows = Rows(heldout_file, horizon=config.horizon, completion_only=config.completion_only)
```

## How to fix

Give the evaluation's call the same argument, or build both from one mapping of settings.

## Known limits

Calls in two functions, and arguments by position, are not compared.

## Sources

A configuration fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.source.evaluation_names import EVALUATION, TRAINING, given_names
from gradgate.checks.source.trainer import NONE, File, called_name, dotted, files_of, given_by
from gradgate.checks.source.values import outwards, own_nodes, parents_in
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG435", "evaluation-built-otherwise"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
MEANT = re.compile(
    r"shuffl|drop_last|seed|generator|sampl|batch|worker|pack|augment|drop|nois|epoch|rank|world|shard|repeat|infinite|"
    r"loop|limit|rows|examples|count|split|train|mode|accum|order|path|file|name|weight|desc|pin|prefix|log",
    re.IGNORECASE,
)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Compare what is made for training and for an evaluation."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    own = {node.name for file in files for node in file.nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    found = [finding for file in files for finding in _of_file(file, own)]
    return Outcome(tuple(found), {"arguments_left_out": len(found)}, {"arguments_left_out": 0})


def _of_file(file: File, own: set[str]) -> Iterator[Finding]:
    parents: dict[int, ast.AST] | None = None
    for function, _ in file.functions:
        calls: dict[str, list[ast.Call]] = {}
        for node in own_nodes(function):
            if isinstance(node, ast.Call) and called_name(node) in own:
                calls.setdefault(dotted(node.func), []).append(node)
        for name, same in calls.items():
            if len(same) > 1:
                parents = parents if parents is not None else parents_in(file.tree)
                roles = [_role(call, parents) for call in same]
                training = [call for call, role in zip(same, roles, strict=True) if role == "train"]
                evaluating = [call for call, role in zip(same, roles, strict=True) if role == "evaluate"]
                if len(training) == 1:
                    yield from _compared(file, name, training[0], evaluating)


def _role(call: ast.Call, parents: dict[int, ast.AST]) -> str:
    """What a call's result is for, by the nearest name around it that tells, else by its arguments."""
    for word in (*_around(call, parents), *_words(call)):
        is_training, is_evaluation = TRAINING.search(word), EVALUATION.search(word)
        if bool(is_training) != bool(is_evaluation):
            return "train" if is_training else "evaluate"
    return ""


def _around(call: ast.Call, parents: dict[int, ast.AST]) -> Iterator[str]:
    """The names that a result is given, from the inside out, up to its statement."""
    before: ast.AST = call
    for node in outwards(call, parents):
        yield from given_names(node)
        if isinstance(node, ast.Dict) and before in node.values:
            key = node.keys[node.values.index(before)]
            yield str(key.value) if isinstance(key, ast.Constant) else ""
        if isinstance(node, ast.stmt):
            return
        before = node


def _words(call: ast.Call) -> Iterator[str]:
    """The names and texts among the arguments."""
    for given in given_by(call):
        for node in ast.walk(given):
            if isinstance(node, ast.Name | ast.Attribute):
                yield dotted(node).rpartition(".")[2]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def _compared(file: File, name: str, training: ast.Call, evaluating: Iterable[ast.Call]) -> Iterator[Finding]:
    for call in evaluating:
        given = {word.arg for word in call.keywords}
        if None in given or len(call.args) != len(training.args):
            continue  # it may be among those
        if _texts(call) != _texts(training):
            continue  # `build("trainer", ...)` and `build("evaluator", ...)`
        for word in training.keywords:
            if word.arg and word.arg not in given and not MEANT.search(word.arg) and not _is_fixed(word.value):
                yield _finding(file, name, call, word)


def _texts(call: ast.Call) -> list[str]:
    """The texts among the arguments by position: what a register is asked for."""
    return [given.value for given in call.args if isinstance(given, ast.Constant) and isinstance(given.value, str)]


def _is_fixed(value: ast.expr) -> bool:
    return not any(isinstance(node, ast.Name | ast.Attribute) for node in ast.walk(value))


def _finding(file: File, name: str, call: ast.Call, word: ast.keyword) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{name}` is made for the evaluation without `{word.arg}`, for training with "
        f"`{word.arg}={ast.unparse(word.value)}`; allowed: the same",
        severity="warning",
        culprit=file.at(call),
        fix=f"give the evaluation's call `{word.arg}={ast.unparse(word.value)}`, too",
        detail={"argument": word.arg},
    )

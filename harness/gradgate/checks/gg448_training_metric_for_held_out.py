"""Metrics of training stand over those of an evaluation, and decide which weights are the best.

## What it detects

`record = {**metrics, **train_metrics}` with a `loss` in both, and `tracker.update(record["loss"])` behind it; or
`if train_loss < best` where an evaluation has just given its own.

## Why it matters

The best checkpoint and early stopping follow the training's number: the run keeps the weights that fit the rows that it
was trained on, and stops late or never. The log is in order, as both are written to it.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. Names decide. Of training is
what is named after training, a step, a window or a micro-batch, or what a call named so gives back; of an evaluation
what is named after one, held-out rows, validation or a test. A finding is

* a mapping in which the first come behind the second: by `**`, `update` or `|`, where neither is given keys of its own,
  of which a key is then compared with a best score, or handed to what is named after one, patience, stopping or a
  plateau. A key that is named after an evaluation, or that the training's mapping is known not to have, is none;
* a loss, score or metric of training that is compared with, or handed to, the same in a function in which an evaluation
  has given something.

Statistic: such decisions; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
record = {**metrics, **train_metrics}
if record["loss"] < best:
    best = record["loss"]
```

Good:

```python
record = {**train_metrics, **metrics}                        # or: keys with a prefix each
if metrics["loss"] < best:
    best = metrics["loss"]
```

## How to fix

Let the evaluation's own mapping decide, and give each key of the log a prefix.

## Known limits

Mappings that are put together in one function and decide in another are seen where they are handed over whole to a
function of the trainer's that has its key. Keys that are built at run time are taken for the same in both.

## Sources

The `metric_for_best_model` of transformers' Trainer, whose keys of evaluations begin with `eval_`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.places import places_in
from gradgate.checks.source.trainer import NONE, File, Function, called_name, dotted, files_of, given_by
from gradgate.checks.source.values import ORDERS, Names, assignments_in, own_nodes, parameters_of, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG448", "training-metric-for-held-out"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
TRAIN = re.compile(r"(^|_)(train(ing|ed)?|step|window|micro(_?batch)?|running)(_|$)", re.IGNORECASE)
HELD = re.compile(
    r"(^|_)(eval(s|uate|uation|uated)?|val(id(ation|ate)?)?|held(_?out)?|dev|test(ing)?)(_|$)", re.IGNORECASE
)
SCORE = re.compile(r"loss|metric|score|acc(uracy)?($|_)|perplexity|ppl|reward|error|stats|result", re.IGNORECASE)
BEST = re.compile(r"best|lowest|highest", re.IGNORECASE)
MEANT = re.compile(r"better|improv|early_?stop|stopper|patience|best", re.IGNORECASE)
DECIDES = re.compile(MEANT.pattern + r"|plateau|tracker|sched\w*\.step$", re.IGNORECASE)
PREFIX = re.compile(r"(eval|val|valid|validation|held_?out|dev|test|train|training)[_/.]", re.IGNORECASE)


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Read what decides in each function that evaluates."""
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    keys = _Keys(files)
    findings = tuple(finding for file in files for finding in _of_file(file, keys))
    return Outcome(findings, {"decisions": len(findings)}, {"decisions": 0})


def _of_file(file: File, keys: _Keys) -> Iterator[Finding]:
    if not file.has("best", "better", "improv", "stop", "patience", "plateau", "tracker", "sched"):
        return
    for function, _ in file.functions:
        nodes, names = own_nodes(function), Names(function)
        if not _evaluates(nodes, function):
            continue
        seen = set[int]()
        for mapping, line, train in _merged(nodes, names, keys):
            behind = [node for node in nodes if isinstance(node, ast.expr) and node.lineno > line]
            for node in behind:
                read = next((key for part in _deciding(node) if (key := _key(names.held(part), mapping))), "")
                read = read or keys.read_by(node, mapping)
                if read and id(node) not in seen and not keys.are_not_trainings(read, train, mapping, behind):
                    seen.add(id(node))
                    yield _finding(file, node, function.name, f"`{mapping}[{read}]`, training's since line {line},")
        decisions = [(node, [*_deciding(node, MEANT)]) for node in nodes if isinstance(node, ast.expr)]
        if any(HELD.search(ast.unparse(part)) for _, parts in decisions for part in parts):
            continue
        told = set[str]()
        for node, parts in decisions:
            named = [dotted(part) for part in parts if _is_of_training(name := dotted(part)) and SCORE.search(name)]
            if named and named[0] not in told:
                told.add(named[0])
                yield _finding(file, node, function.name, f"`{named[0]}`")


def _evaluates(nodes: Sequence[ast.AST], function: Function) -> bool:
    """Whether something in a function holds what an evaluation gave."""
    held = {each.arg for each in parameters_of(function)}
    for target, value in assignments_in(nodes):
        held |= {dotted(place).rpartition(".")[2] for place in places_of(target)}
        if isinstance(value, ast.Call) and HELD.search(called_name(value)):
            return True
    return any(HELD.search(name) and SCORE.search(name) for name in held)


def _is_of_training(name: str) -> bool:
    name = name.rpartition(".")[2]
    return bool(TRAIN.search(name)) and not HELD.search(name) and not BEST.search(name)


def _side(node: ast.expr, names: Names, keys: _Keys) -> str:
    """`train` or `held`, of a mapping of metrics without keys of its own; empty: neither."""
    held = names.held(node)
    texts = [dotted(part.func if isinstance(part, ast.Call) else part).rpartition(".")[2] for part in (node, held)]
    if isinstance(held, ast.DictComp | ast.Dict) or any(map(keys.are_prefixed, texts)):
        return ""
    return "held" if any(map(HELD.search, texts)) else "train" if any(map(_is_of_training, texts)) else ""


def _merged(nodes: Sequence[ast.AST], names: Names, keys: _Keys) -> Iterator[tuple[str, int, str]]:
    """The mappings in which training's metrics come behind an evaluation's: name, line, and what gives training's."""
    written = [(target, value, _together(value)) for target, value in assignments_in(nodes)]
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update":
            written.append((node.func.value, node, [node.func.value, *node.args[:1]]))
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitOr):
            written.append((node.target, node.value, [node.target, node.value]))
    for target, value, parts in written:
        sides = [_side(part, names, keys) for part in parts]
        if "held" in sides and "train" in sides[sides.index("held") :]:
            train = parts[len(sides) - 1 - sides[::-1].index("train")]
            yield ast.unparse(target), value.lineno, dotted(train).rpartition(".")[2]


def _together(value: ast.expr) -> list[ast.expr]:
    """The mappings of which one is made."""
    if isinstance(value, ast.Dict):
        return [part for key, part in zip(value.keys, value.values, strict=True) if key is None]
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
        return [*_together(value.left), value.right] if isinstance(value.left, ast.BinOp) else [value.left, value.right]
    if isinstance(value, ast.Call) and dotted(value.func) == "dict":
        return [*value.args, *(word.value for word in value.keywords if word.arg is None)]
    return []


def _deciding(node: ast.expr, calls: re.Pattern[str] = DECIDES) -> Iterator[ast.expr]:
    """What a node holds against a best score, or hands to what is named after one."""
    sides: list[ast.expr] = []
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ORDERS):
        sides = [node.left, node.comparators[0]]
    elif isinstance(node, ast.Call) and dotted(node.func) in ("min", "max"):
        sides = node.args
    elif isinstance(node, ast.Call) and calls.search(dotted(node.func)):
        yield from given_by(node)
    best = [side for side in sides if BEST.search(ast.unparse(side)) and not TRAIN.search(ast.unparse(side))]
    if best:
        for side in (side for side in sides if side not in best):
            yield side.left if isinstance(side, ast.BinOp) else side


def _key(node: ast.expr, mapping: str) -> str:
    """The key by which a mapping is read; empty: something else."""
    if isinstance(node, ast.Subscript) and ast.unparse(node.value) == mapping:
        return ast.unparse(node.slice)
    asked = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
    if asked and ast.unparse(node.func.value) == mapping and node.args:  # type: ignore[attr-defined]
        return ast.unparse(node.args[0])  # type: ignore[attr-defined]
    return ""


class _Keys:
    """The keys of a trainer's mappings, as far as they are written down."""

    def __init__(self, files: Sequence[File]) -> None:
        self._own = places_in(tuple(files))
        self._held: dict[str, list[ast.expr]] = {}
        for file in files:
            for target, value in assignments_in(file.nodes):
                self._held.setdefault(dotted(target).rpartition(".")[2], []).append(value)

    def are_prefixed(self, name: str) -> bool:
        """Whether what a name holds, or a function of that name gives back, has keys named after its side."""
        held = self._held.get(name, [])
        called = [called_name(value) for value in held if isinstance(value, ast.Call)]
        bodies = [*held, *(place.function for each in (name, *called) for place in self._own.named(each))]
        return any(PREFIX.match(key) for body in bodies for key in _written(body))

    def read_by(self, node: ast.expr, mapping: str) -> str:
        """The key by which a function that is handed a mapping decides."""
        if not isinstance(node, ast.Call):
            return ""
        for place, given in enumerate(node.args):
            if ast.unparse(given) != mapping:
                continue
            for called in self._own.named(called_name(node)):
                for inner in called.nodes if place < len(called.positional) else ():
                    for part in _deciding(inner) if isinstance(inner, ast.expr) else ():
                        if key := _key(called.names.held(part), called.positional[place]):
                            return key
        return ""

    def are_not_trainings(self, key: str, train: str, mapping: str, behind: Sequence[ast.expr]) -> bool:
        """Whether a key is an evaluation's by its name, is written again, or is none that training's mapping has."""
        literal = key.strip("'")
        if literal == key:
            return False
        again = any(
            isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store) and _key(node, mapping) == key
            for node in behind
        )
        known = {each for value in self._held.get(train, []) if isinstance(value, ast.Dict) for each in _written(value)}
        for value in self._held.get(train, []):
            if isinstance(value, ast.Call):
                for called in self._own.named(called_name(value)):
                    returned = [node.value for node in called.nodes if isinstance(node, ast.Return)]
                    if all(isinstance(each, ast.Dict) for each in returned):
                        known |= {each for value in returned if value is not None for each in _written(value)}
        return again or bool(HELD.search(literal)) or bool(known and literal not in known)


def _written(body: ast.AST) -> Iterator[str]:
    """The keys that are written down in a part of the source, of texts that are put together their beginnings."""
    for node in ast.walk(body):
        keys: list[ast.expr | None] = []
        if isinstance(node, ast.Dict):
            keys = node.keys
        elif isinstance(node, ast.DictComp):
            keys = [node.key]
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store):
            keys = [node.slice]
        for key in keys:
            first = key.values[0] if isinstance(key, ast.JoinedStr) and key.values else key
            first = first.left if isinstance(first, ast.BinOp) else first
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value


def _finding(file: File, node: ast.expr, function: str, told: str) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{function}() has an evaluation's numbers and lets {told} decide; allowed: a number of the evaluation",
        culprit=file.at(node, function),
        fix="let the evaluation's own mapping decide, and give the keys of the log a prefix",
    )

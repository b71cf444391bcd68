"""A checkpoint is written, or its mapping made, before an evaluation's score has its say about the best.

## What it detects

`save(path, best=self.best)` behind an evaluation and in front of the comparison that sets `self.best`; a mapping with
the best in it that is made first and saved afterwards.

## Why it matters

A resumed run has the best, and the count of evaluations without improvement, of one evaluation earlier. The next worse
score overwrites the best checkpoint, and patience runs longer than it should.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. What decides is an attribute
or a name that is compared by order and assigned where the comparison holds, with what is counted beside it; or an
object whose method does so. In one list of statements it is a finding where

* a score is computed, then a save takes what decides, then the score decides; or
* a mapping is made of what decides, then a score decides, then that mapping is saved;

and no other save stands behind. A save takes what decides by itself, or by a function that it calls or whose result it
is given. Saves in the branch that is taken for the best are none.

Statistic: such saves; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
score = evaluate()
torch.save(self.state(), path)                               # "best": self.best
if score < self.best:
    self.best = score
```

Good:

```python
score = evaluate()
if score < self.best:
    self.best = score
torch.save(self.state(), path)
```

## How to fix

Let the score decide first, and save behind that.

## Known limits

A save that is due at the same step as an evaluation, and stands in front of it, is not looked at. Whether the best is
saved at all is GG613's.

## Sources

A resume fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.references import meant
from gradgate.checks.source.trainer import calls_in, dotted, given_by, nodes_in
from gradgate.checks.source.values import ORDERS, OTHERS, Names, assignments_in, blocks_in, last_name, places_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG643", "saved-before-the-score"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
BEST = re.compile(r"(^|_)(best|lowest|highest)(_|$)", re.IGNORECASE)
OF_BEST = re.compile(r"best", re.IGNORECASE)
SAVES = re.compile(r"save|checkpoint|ckpt|snapshot|dump|store|keep|write", re.IGNORECASE)
SPEAKS = re.compile(r"(^|\.)(print|log\w*|info|debug|warning|logger\.\w+|log\.\w+)$")
DEPTH = 2  # calls that are followed


@dataclass(frozen=True)
class _Decision:
    """A score's say.

    Args:
        at: the place of its statement in the list.
        names: what it sets, or the object that does, as they are written.
        score: the names that it goes by.
    """

    at: int
    names: frozenset[str]
    score: frozenset[str]


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Hold saves against the comparison behind them."""
    return read_as_one(subject, [("best", "lowest", "highest"), ("save",)], _of_all, "saves")


def _of_all(own: Places) -> Iterator[Finding]:
    reader = _Reader(own)
    for place in own.functions:
        if not place.file.has("best", "lowest", "highest", "track", "stop"):
            continue
        names = place.names
        for block in blocks_in((place.function, *place.nodes)):
            statements = [each for each in block if isinstance(each, ast.stmt)]
            for decision in reader.decisions(statements, place, names):
                found = reader.early(statements, decision, place, names)
                if found is not None:
                    yield _finding(place, found, decision, statements[decision.at])
                    break


class _Reader:
    """Decisions and saves of lists of statements.

    Args:
        own: the trainer's functions.
    """

    def __init__(self, own: Places) -> None:
        self.own = own

    def decisions(self, block: list[ast.stmt], place: Place, names: Names) -> Iterator[_Decision]:
        """Where the statements of a list set a best."""
        for at, statement in enumerate(block):
            if isinstance(statement, ast.If) and (found := _decides(statement, names)):
                yield _Decision(at, *found)
            elif isinstance(statement, ast.Assign | ast.Expr | ast.If | ast.AnnAssign):
                asked = statement.test if isinstance(statement, ast.If) else statement.value
                for call in calls_in(asked) if asked is not None else ():
                    if found := self._by_call(call, place):
                        yield _Decision(at, *found)

    def _by_call(self, call: ast.Call, place: Place) -> tuple[frozenset[str], frozenset[str]] | None:
        """What a call of a function that judges a score sets, by the names of where it is called."""
        given = frozenset(dotted(each) for each in given_by(call)) - {""}
        receiver = dotted(call.func).rpartition(".")[0]
        if not given or not receiver:
            return None
        for called in meant(self.own, call, place):
            names = called.names
            for branch in (node for node in called.nodes if isinstance(node, ast.If)):
                found = _decides(branch, names)
                if found and called.owner is not None and any(name.startswith("self.") for name in found[0]):
                    parameters = set(called.positional)
                    if parameters & found[1]:
                        own = {f"{receiver}.{name.removeprefix('self.')}" for name in found[0] if "self." in name}
                        return frozenset(own if receiver == "self" else {receiver, *own}), given
        return None

    def early(self, block: list[ast.stmt], decision: _Decision, place: Place, names: Names) -> ast.Call | None:
        """The save of a list that has what decides as it was before a decision."""
        made = next((at for at in range(decision.at) if decision.score & _set_in(block[at])), None)
        behind = [self._save(each, decision, place, names, DEPTH) for each in block[decision.at + 1 :]]
        if made is not None and not any(behind):
            for statement in block[made + 1 : decision.at]:
                if not isinstance(statement, (*OTHERS, ast.For, ast.While)) and (
                    save := self._save(statement, decision, place, names, DEPTH)
                ):
                    return save
        for at in range(decision.at):
            statement = block[at]
            if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
                name = statement.targets[0].id
                if self._takes(statement.value, decision, place, DEPTH) and not _is_changed(block[at + 1 :], name):
                    for each in block[decision.at + 1 :]:
                        for call in calls_in(each):
                            if SAVES.search(dotted(call.func)) and any(dotted(given) == name for given in call.args):
                                return call
        return None

    def _save(
        self, statement: ast.stmt, decision: _Decision, place: Place, names: Names, depth: int
    ) -> ast.Call | None:
        """The save of a statement that takes what decides."""
        for call in (node for node in nodes_in([statement], *OTHERS) if isinstance(node, ast.Call)):
            name = dotted(call.func)
            if not SAVES.search(name.rpartition(".")[2]) or SPEAKS.search(name) or OF_BEST.search(_told(call)):
                continue
            given = given_by(call)
            given += [names.held(each) for each in call.args if isinstance(each, ast.Name)]
            if any(self._takes(each, decision, place, depth) for each in given):
                return call
            for called in meant(self.own, call, place):
                same = called.owner is not None and called.owner is place.owner
                if same and any(self._takes(each, decision, called, depth) for each in called.function.body):
                    return call
        return None

    def _takes(self, node: ast.AST, decision: _Decision, place: Place, depth: int) -> bool:
        """Whether an expression has what decides, or what it calls does."""
        for part in nodes_in([node], *OTHERS):
            if isinstance(part, ast.Name | ast.Attribute) and isinstance(part.ctx, ast.Load):
                if dotted(part) in decision.names:
                    return True
            elif isinstance(part, ast.Call) and depth and dotted(part.func).startswith("self."):
                for called in meant(self.own, part, place):
                    if (
                        called.owner is place.owner
                        and called != place
                        and any(self._takes(each, decision, called, depth - 1) for each in called.function.body)
                    ):
                        return True
        return False


def _decides(branch: ast.If, names: Names) -> tuple[frozenset[str], frozenset[str]] | None:
    """What a branch sets where a score is the best so far, with what is counted beside it, and what it goes by."""
    test = names.held(branch.test)
    compares = [node for node in ast.walk(test) if isinstance(node, ast.Compare) and isinstance(node.ops[0], ORDERS)]
    sides = {dotted(part) for node in compares for part in ast.walk(node)} - {""}
    given = list(assignments_in(nodes_in(branch.body, *OTHERS)))
    given += list(assignments_in(nodes_in(branch.orelse, *OTHERS)))
    best = {dotted(target) for target, _ in given if BEST.search(last_name(target)) and dotted(target) in sides}
    scores = frozenset(side for side in sides - best if not BEST.search(side.rpartition(".")[2]))
    values = {name for target, value in given if dotted(target) in best for name in _names_of(value)}
    if not best or not scores & values:
        return None
    holders = {name.rpartition(".")[0] for name in best}
    beside = {dotted(target) for target, _ in given if dotted(target).rpartition(".")[0] in holders} - {""}
    return frozenset(best | beside), frozenset(scores & values)


def _names_of(value: ast.expr) -> set[str]:
    return {dotted(part) for part in ast.walk(value)} - {""}


def _set_in(statement: ast.stmt) -> set[str]:
    """The names that a statement assigns a call's result, or a part of one."""
    if not isinstance(statement, ast.Assign | ast.AnnAssign) or not any(True for _ in calls_in(statement)):
        return set()
    return {dotted(place) for target, _ in assignments_in([statement]) for place in places_of(target)} - {""}


def _is_changed(block: list[ast.stmt], name: str) -> bool:
    """Whether a mapping is made anew, or given an entry more."""
    for each in block:
        for target, _ in assignments_in(nodes_in([each], *OTHERS)):
            if dotted(target) == name or (isinstance(target, ast.Subscript) and dotted(target.value) == name):
                return True
        if any(dotted(call.func).startswith(f"{name}.") for call in calls_in(each)):
            return True
    return False


def _told(call: ast.Call) -> str:
    """The texts of a save that name a file, and what it is called."""
    parts = [part for each in call.args for part in ast.walk(each) if isinstance(part, ast.Constant)]
    return " ".join(
        [dotted(call.func), *(str(part.value) for part in parts if part in call.args or "." in str(part.value))]
    )


def _finding(place: Place, save: ast.Call, decision: _Decision, statement: ast.stmt) -> Finding:
    name = min(decision.names)
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{place.name}() saves `{name}` as it was before line {statement.lineno} sets it by this "
        "evaluation's score: a resumed run has the best of one evaluation earlier; allowed: none",
        culprit=place.file.at(save, place.name),
        fix="let the score decide first, and save behind that",
    )

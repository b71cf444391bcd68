"""A resumed run restores its random states, and sets a seed behind that: it draws what it drew at the start.

## What it detects

`torch.set_rng_state` from a checkpoint, and `torch.manual_seed` behind it, before training goes on.

## Why it matters

The states that the checkpoint has are overwritten. The resumed run draws the dropout masks, and the order, of its first
steps once more, and differs from one that was not stopped. The checkpoint itself is right, so that looking into it
shows nothing.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A function restores where it
sets the state of Python's, NumPy's or torch's generator, or calls one that does; not where it has taken that state
itself, as around an evaluation. It is a finding where such a call is followed, in the same list of statements or
further out, by one that seeds the same generator:

* a seed under no condition, or where one asks for the seed alone;
* a seed that each turn of a loop begins with, always the same;
* a function that sets one first thing, in front of its loops, such as `run()` behind `setup()`;
* so the `run()`, `fit()` or `train()` of an object that restores as it is made.

Methods that are called of the same object are those of one class. Not so where another loop stands between, where the
branch that restores leaves the function, where the seed depends on a step or an epoch, and where a state is restored
again behind it. Statistic: such seeds; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
def run(self):
    self.load(path)                                          # torch.set_rng_state(state["rng"])
    torch.manual_seed(self.config.seed)
    for batch in self.loader:
        ...
```

Good:

```python
    torch.manual_seed(self.config.seed)
    self.load(path)
```

## How to fix

Seed where the run is built, in front of what restores.

## Known limits

Functions that are given as an argument, and seeds that a library sets within its own trainer, are not seen. Whether a
run that was stopped goes on as if it had not been is GG602's, which runs it.

## Sources

"Reproducibility", PyTorch's notes: a seed sets the generator back to one and the same place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import TypeGuard

from gradgate.checks.source.conditions import changed_in, is_setting
from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.trainer import calls_in, dotted, given_by, nodes_in
from gradgate.checks.source.values import OTHERS, blocks_in, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG628", "seeded-after-restore"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
ALL = frozenset({"Python's", "NumPy's", "torch's"})
KINDS = (
    ("Python's", re.compile(r"^random\.setstate$"), re.compile(r"^random\.seed$")),
    ("NumPy's", re.compile(r"^(np|numpy)\.random\.set_state$"), re.compile(r"^(np|numpy)\.random\.seed$")),
    (
        "torch's",
        re.compile(r"^torch\.(\w+\.)?set_rng_state(_all)?$"),
        re.compile(r"^torch\.(\w+\.)?manual_seed(_all)?$"),
    ),
)
TAKES = re.compile(r"(^|\.)(get_rng_state(_all)?|getstate|get_state)$")
SEEDS_ALL = re.compile(r"(^|\.)(seed_everything|set_seed|seed_all|manual_seed_all)$")
OF_PLACE = re.compile(r"epoch|step|iter|resum|attempt|\btime", re.IGNORECASE)
GOES_ON = re.compile(r"(^|\.)_?(fit|train|run|main)(_\w+)?$")
DEPTH = 4  # calls that are followed


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for seeds behind what restores a random state."""
    return read_as_one(
        subject, [("set_rng_state", "setstate", "set_state"), ("seed",)], lambda own: _Order(own).all(), "seeds"
    )


class _Order:
    """What is restored and what is seeded, in the order in which it happens.

    Args:
        own: the trainer's functions.
    """

    def __init__(self, own: Places) -> None:
        self.own = own
        self._known: dict[int, frozenset[str]] = {}

    def all(self) -> Iterator[Finding]:
        """The seeds behind what restores."""
        seen: set[int] = set()
        restoring = [place for place in self.own.functions if self._restores(place)]
        names = {place.name for place in restoring}
        names |= {place.owner.name for place in restoring if place.owner and place.name == "__init__"}
        texts = ("set_rng_state", "setstate", "set_state", *(f"{name}(" for name in names))
        files = {id(place.file): place.file for place in self.own.functions}
        asked = {known for known, file in files.items() if file.has(*texts)}
        for place in (place for place in self.own.functions if id(place.file) in asked):
            for block in (place.function.body, *blocks_in(place.nodes)):
                for at, statement in enumerate(block):
                    for call, restored in self._restored_in(statement, place):
                        for seed, where in self._seeded_behind(block[at + 1 :], call, restored, place):
                            if id(seed) not in seen:
                                seen.add(id(seed))
                                yield _finding(seed, where, call, place)
        for made in (place for place in restoring if place.name == "__init__"):
            yield from self._of_object(made, seen)

    def _of_object(self, made: Place, seen: set[int]) -> Iterator[Finding]:
        """The seeds with which an object's run begins, where making it restores: nobody runs what is not made."""
        restored = [each for statement in made.function.body for each in self._restored_in(statement, made)]
        of_class = self.own.methods_of(made.owner) if made.owner is not None else []
        methods = [place for place in of_class if GOES_ON.search(place.name)]
        for call, kinds in restored[-1:]:
            for method in methods:
                for seed, where in self._first_thing(method, kinds, DEPTH):
                    if id(seed) not in seen:
                        seen.add(id(seed))
                        yield _finding(seed, where, call, made)

    @cached_property
    def _taking(self) -> set[int]:
        """The functions that take a random state."""
        return {
            id(place.function)
            for place in self.own.functions
            if place.file.has("get_rng_state", "getstate", "get_state")
            and any(TAKES.search(dotted(call.func)) for call in calls_in(place.function))
        }

    def _restores(self, place: Place) -> frozenset[str]:
        """The generators whose state a function restores, itself or by what it calls."""
        key = id(place.function)
        if key not in self._known:
            found, seen, waiting = set[str](), {key}, [place]
            while waiting:
                here = waiting.pop()
                calls = [node for node in here.nodes if isinstance(node, ast.Call)]
                own = [called for call in calls if (called := self.own.called(call, here)) is not None]
                if {id(here.function), *(id(called.function) for called in own)} & self._taking:
                    continue
                found |= {kind for call in calls for kind, restore, _ in KINDS if restore.search(dotted(call.func))}
                waiting += [called for called in own if id(called.function) not in seen]
                seen |= {id(called.function) for called in own}
            self._known[key] = frozenset(found)
        return self._known[key]

    def _restored_in(self, statement: ast.stmt, place: Place) -> Iterator[tuple[ast.Call, frozenset[str]]]:
        """The calls of a statement that restore, if what is behind it follows."""
        if id(place.function) in self._taking or isinstance(statement, ast.For | ast.While | ast.FunctionDef):
            return
        left = {id(node) for block in _leaving(statement) for part in block for node in ast.walk(part)}
        for call in calls_in(statement):
            direct = {kind for kind, restore, _ in KINDS if restore.search(dotted(call.func))}
            called = frozenset[str]().union(*map(self._restores, self._meant(call, place)))
            if (direct or called) and id(call) not in left:
                yield call, called | direct

    def _meant(self, call: ast.Call, place: Place) -> list[Place]:
        """The functions that a call may go to: of an object that is not known, each method of that name."""
        called = self.own.called(call, place)
        if called is not None or not isinstance(call.func, ast.Attribute) or not isinstance(call.func.value, ast.Name):
            return [] if called is None else [called]
        return self.own.methods(call.func.attr)

    def _seeded_behind(
        self, block: list[ast.stmt], restoring: ast.Call, restored: frozenset[str], place: Place
    ) -> Iterator[tuple[ast.Call, Place]]:
        """The first seed in statements behind what restores, in front of the loop, where no state is restored again."""
        for at, statement in enumerate(block):
            if isinstance(statement, ast.For | ast.While):
                yield from self._at_each_turn(statement, place, restored)
                return
            if any(kinds & restored for _, kinds in self._restored_in(statement, place)):
                return
            if _asks_for_a_seed(statement):
                yield from self._seeded_behind([*statement.body, *block[at + 1 :]], restoring, restored, place)
                return
            if not isinstance(statement, ast.Expr | ast.Assign | ast.AnnAssign | ast.Return):
                continue
            for call in calls_in(statement):
                for seed, where in self._seeding(call, place, restoring, restored):
                    again = (kinds for part in block[at + 1 :] for _, kinds in self._restored_in(part, place))
                    if not any(kinds & restored for kinds in again):
                        yield seed, where
                        return
                if GOES_ON.search(dotted(call.func)):
                    return

    def _at_each_turn(
        self, loop: ast.For | ast.While, place: Place, restored: frozenset[str]
    ) -> Iterator[tuple[ast.Call, Place]]:
        """What the turns of a loop begin with, if it seeds them all alike and restores nothing."""
        changed = changed_in(nodes_in([loop], *OTHERS))
        for statement in loop.body[:3]:
            if not isinstance(statement, ast.Expr) or any(map(self._restores, self._meant_in(statement, place))):
                return
            for call in calls_in(statement):
                given = {last_name(part) for each in (*call.args, *call.keywords) for part in ast.walk(each)}
                if _seeds(call) & restored and self.own.called(call, place) is None and not given & changed:
                    yield call, place
                    return

    def _meant_in(self, statement: ast.stmt, place: Place) -> list[Place]:
        return [each for call in calls_in(statement) for each in self._meant(call, place)]

    def _seeding(
        self, call: ast.Call, place: Place, restoring: ast.Call, restored: frozenset[str]
    ) -> Iterator[tuple[ast.Call, Place]]:
        """The seeds of a call, or of what it calls first thing."""
        if _seeds(call) & restored and self.own.called(call, place) is None:
            yield call, place
            return
        meant = self._meant(call, place)
        if len(meant) > 1:  # of the class that restores
            before = self._meant(restoring, place) if _receiver(call) == _receiver(restoring) else []
            owners = {id(each.owner) for each in before if self._restores(each)}
            meant = [each for each in meant if id(each.owner) in owners]
        for each in meant:
            found = list(self._first_thing(each, restored, DEPTH))
            yield from _named(call, place, each, found)

    def _first_thing(self, place: Place, restored: frozenset[str], depth: int) -> Iterator[tuple[ast.Call, Place]]:
        """What a function seeds in front of its loops, under no condition, and restores nothing behind it."""
        for at, statement in enumerate(place.function.body if depth else ()):
            if isinstance(statement, ast.For | ast.While) or any(map(bool, _leaving(statement))):
                return
            of_seed = _asks_for_a_seed(statement)
            for call in calls_in(statement) if of_seed or isinstance(statement, ast.Expr | ast.Assign) else ():
                called = self.own.called(call, place)
                seeds = [(call, place)] if called is None and _seeds(call) & restored else []
                if called is not None and called != place:
                    inside = list(self._first_thing(called, restored, depth - 1))
                    seeds = list(_named(call, place, called, inside))
                rest = place.function.body[at:]
                again = (kinds for part in rest for _, kinds in self._restored_in(part, place))
                if seeds and not any(kinds & restored for kinds in again):
                    yield seeds[0]
                    return


def _asks_for_a_seed(statement: ast.stmt) -> TypeGuard[ast.If]:
    """Whether a statement is a branch under no condition but that a seed is set."""
    return isinstance(statement, ast.If) and "seed" in ast.unparse(statement.test) and is_setting(statement.test)


def _leaving(statement: ast.stmt) -> Iterable[list[ast.stmt]]:
    """The branches of a statement behind which its function, or the turn of a loop, ends."""
    for node in ast.walk(statement):
        if isinstance(node, ast.If | ast.ExceptHandler):
            for block in (node.body, getattr(node, "orelse", [])):
                if block and isinstance(block[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
                    yield block


def _named(
    call: ast.Call, place: Place, called: Place, found: list[tuple[ast.Call, Place]]
) -> Iterator[tuple[ast.Call, Place]]:
    """The seeds of a function that is called; where it is there for that, the call itself, unless it says when."""
    if "seed" not in called.name:
        yield from found
    elif found and not _says_when(call):
        yield call, place


def _says_when(call: ast.Call) -> bool:
    return any(OF_PLACE.search(ast.unparse(given)) for given in given_by(call))


def _seeds(call: ast.Call) -> frozenset[str]:
    """The generators that a call seeds, always alike."""
    name = dotted(call.func)
    if _says_when(call):
        return frozenset()
    found = frozenset(kind for kind, _, seed in KINDS if seed.search(name))
    return found or (ALL if SEEDS_ALL.search(name) else found)


def _receiver(call: ast.Call) -> str:
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def _finding(seed: ast.Call, where: Place, restoring: ast.Call, place: Place) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{where.name}() seeds by `{ast.unparse(seed)}` what `{ast.unparse(restoring)}` in line "
            f"{restoring.lineno} of {place.file.path.name} restores; allowed: a seed in front of that"
        ),
        culprit=where.file.at(seed, where.name),
        fix="seed where the run is built, in front of what restores",
    )

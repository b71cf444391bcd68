"""Checkpoints are written at multiples of an interval alone: the last updates, or a short run, are in none.

## What it detects

`if step % save_every == 0:` around the save of a training loop, with nothing that saves or exports behind the loop.

## Why it matters

A run of 1050 steps that saves every 100 ends with the weights of step 1000, and one of 80 steps with none; so does a
run that is stopped early. What the schedule annealed last is thrown away, and nobody is told.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding, as a warning, is
a branch that holds once in so many turns (`%`), with no other condition that it may hold by, and that saves: by a call
that is named after saving or a checkpoint, and not after logs, plots, samples or configurations. It stands in a loop
that makes updates, or in a function that one calls; and nothing else saves or exports weights

* in the function of that loop, but for what is saved where a score is the best,
* in what it calls behind the loop, methods that a subclass overrides among them, and
* in those that call it, behind that.

A method that is empty in its own class, and that a class of the trainer's own leaves so, saves nothing. Statistic: such
branches; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones. A run may always end at a multiple.

## Example

Bad:

```python
for step in range(start, steps):
    update()
    if (step + 1) % config.save_every == 0:
        save(step + 1)
```

Good:

```python
    if (step + 1) % config.save_every == 0 or step + 1 == steps:
        save(step + 1)
```

## How to fix

Save once more behind the loop, or at the last step as well.

## Known limits

What a callback saves is not looked at. A run that is stopped and leaves out what stands behind its loop is GG646's; a
best that is not asked for at the end is GG644's.

## Sources

A resume fault of a trainer that was read for the catalogue.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from gradgate.checks.source.accumulation import every, methods_of, steps_in
from gradgate.checks.source.kept_bests import Around, kept_bests, loops_around
from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.references import meant
from gradgate.checks.source.trainer import called_name, dotted, given_by, nodes_in
from gradgate.checks.source.values import OTHERS, last_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.settings import is_of_accumulation

CODE, NAME = "GG649", "end-not-saved"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
SAVES = re.compile(r"(^|_)(save|checkpoint|ckpt|snapshot)(_|$)|save_pretrained|^save")
GIVES = re.compile(
    r"(^|_)(save|export|publish|checkpoint|ckpt|snapshot|dump|upload|push)(_|$)|^save|^push_to|finali[sz]e"
)
NO_FILE = re.compile(r"plot|fig|log|metric|histor|config|json|csv|yaml|curve|summary|args|settings|sample|image|text")
FILES = ("torch.save", "save_file", "safetensors.torch.save_file")
DEPTH = 3  # calls that are followed


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for saves at intervals that nothing follows."""
    return read_as_one(subject, [("%",), ("save",)], lambda own: _Ends(own).all(), "branches")


class _Ends:
    """What is saved behind the loops of a trainer.

    Args:
        own: the trainer's functions.
    """

    def __init__(self, own: Places) -> None:
        self.own = own
        self.parts = {id(node) for kept in kept_bests(own) for part in kept.branch.body for node in ast.walk(part)}

    def all(self) -> Iterator[Finding]:
        """The branches that alone save."""
        for place in self.own.functions:
            if not place.file.has("%"):
                continue
            for branch in (node for node in place.nodes if isinstance(node, ast.If)):
                counted = every(place.names.held(branch.test))
                if counted is None or is_of_accumulation(ast.unparse(counted[1])) or id(branch) in self.parts:
                    continue
                save = next(_saving(nodes_in(branch.body, *OTHERS)), None)
                around = list(loops_around(place, branch, self.own)) if save is not None else []
                if save is not None and around and not any(self._is_saved(each, branch) for each in around):
                    yield _finding(place, branch, save)

    def _is_saved(self, around: Around, branch: ast.If) -> bool:
        """Whether a loop makes no update, or something else saves in its function or behind it."""
        inside = list(nodes_in(around.loop.body, *OTHERS))
        if not any(steps_in(inside, methods_of(around.place.file, self.own))):
            return True
        mine = set(map(id, ast.walk(around.at))) | set(map(id, ast.walk(branch)))
        end = around.loop.end_lineno or 0
        for call in (node for node in around.place.nodes if isinstance(node, ast.Call) and id(node) not in mine):
            within = around.loop.lineno <= call.lineno <= end
            if (call.lineno > end or within) and self._gives(call, around.place, skip=within):
                return True
        return self._is_saved_behind(around.place, DEPTH)

    def _is_saved_behind(self, place: Place, depth: int) -> bool:
        for caller, call in self.own.calls_of(place.name) if depth else ():
            if caller.function is place.function or place not in meant(self.own, call, caller):
                continue
            behind = (node for node in caller.nodes if isinstance(node, ast.Call) and node is not call)
            if any(node.lineno >= call.lineno and self._gives(node, caller, skip=False) for node in behind):
                return True
            if self._is_saved_behind(caller, depth - 1):
                return True
        return False

    def _gives(self, call: ast.Call, place: Place, *, skip: bool, depth: int = DEPTH) -> bool:
        """Whether a call saves or exports, by its name or by what it goes to.

        Args:
            call: the call.
            place: the function that it stands in.
            skip: whether what is kept as the best does not count.
            depth: how many calls are followed.
        """
        if skip and id(call) in self.parts:
            return False
        named = GIVES.search(called_name(call)) and not NO_FILE.search(_told(call))
        if named or dotted(call.func) in FILES:
            return True
        for called in self._meant(call, place) if depth else ():
            inside = [node for node in called.nodes if isinstance(node, ast.Call)]
            if called.function is not place.function and any(
                self._gives(node, called, skip=skip, depth=depth - 1) for node in inside
            ):
                return True
        return False

    def _meant(self, call: ast.Call, place: Place) -> Iterable[Place]:
        """The functions that a call may go to; none where a class of the trainer's own leaves a method empty."""
        methods = self.own.methods(called_name(call)) if dotted(call.func).startswith("self.") else []
        if len(methods) <= 1:
            return [] if last_name(call.func) in dir(dict) else meant(self.own, call, place)
        empty = [each for each in methods if _is_empty(each) and each.owner is not None]
        names = {each.owner.name for each in methods if each.owner is not None}
        left = (each.owner.name for each in empty if each.owner is not None and self._is_left(each.owner.name, names))
        return [] if any(left) else methods

    def _is_left(self, name: str, overriding: set[str], depth: int = DEPTH) -> bool:
        """Whether a class has one made of it that nothing is made of, and none on the way has such a method."""
        made = [one for same in self.own.classes.values() for one in same if name in map(last_name, one.bases)]
        left = [one.name for one in made if one.name not in overriding and depth]
        return any(each not in self.own.bases or self._is_left(each, overriding, depth - 1) for each in left)


def _saving(nodes: Iterable[ast.AST]) -> Iterator[ast.Call]:
    """The calls that save a checkpoint which is no best one."""
    for call in (node for node in nodes if isinstance(node, ast.Call)):
        saves = SAVES.search(called_name(call)) or dotted(call.func) in FILES
        if saves and not NO_FILE.search(told := _told(call)) and "best" not in told:
            yield call


def _told(call: ast.Call) -> str:
    """What a call is named, and what it is given, by the last names and the texts of that."""
    given = given_by(call)
    texts = [part.value for each in given for part in ast.walk(each) if isinstance(part, ast.Constant)]
    return " ".join([called_name(call), *map(last_name, given), *map(str, texts)])


def _is_empty(place: Place) -> bool:
    """Whether a function does nothing."""
    return all(
        isinstance(each, ast.Pass) or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        for each in place.function.body
    )


def _finding(place: Place, branch: ast.If, save: ast.Call) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=(
            f"{place.name}() saves by `{ast.unparse(save)}` where `{ast.unparse(branch.test)}`, and nothing saves what "
            "is trained behind the last of these; allowed: a save at the end"
        ),
        severity="warning",
        culprit=place.file.at(branch, place.name),
        fix="save once more behind the loop, or at the last step as well",
    )

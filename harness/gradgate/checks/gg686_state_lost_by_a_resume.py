"""Behind a stop and a resume the program holds another state than at the same update of a run without the stop.

## What it detects

A best score, a patience, a counter of updates or of epochs, an average of weights, a running statistic, a generator of
one's own, a place in the data, a schedule's count that no checkpoint has, or that nothing puts back; a reference model
that is copied anew from the weights that are resumed. Also where nothing shows it in the few updates of a test.

## Why it matters

Each such value decides something later: what is the best, when the run ends, how far a warm-up is, against what the KL
is measured. A run that is stopped once is another run, and its curves do not say so.

## How it decides

While the program runs, all that the local variables of its functions reach is taken down as each update is begun, at
its first forward with a gradient, or its first backward where it has no module: tensors, numbers, texts and states of
generators, by name. It is stopped and resumed as for GG671. The update that each of its stages then begins with is the
one of the run without a stop that most of its moving tensors equal, and the two moments are compared. Left out is what
two runs without a stop have otherwise (clocks, paths); what optimizers hold (GG671); numbers that have not changed
since the stage began (the step that a run was started at); numbers that change at every update and are not made of
themselves (the last loss, a local variable); lists that have grown since (histories), and long ones; values of objects
that are named after what is shown (meters, logs, timers), and those whose name the trainer's own text does not have (a
library's). Statistic: values that are otherwise; allowed: 0.

False-alarm rate: 0 on the bundled program and the documented ones. What a program starts anew on purpose is one, such
as a sum that only its next line of the log is made of.

## Example

Bad:

```python
save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step})   # and `best`, and the average?
```

Good:

```python
save({**weights, "step": step, "best": best, "bad": bad, "average": average.state_dict()})
```

## How to fix

Save what is named with the checkpoint, and put it back behind all that is built.

## Known limits

What no function's local variables reach (values of modules, of a generator function that waits) is not compared. GG603
asks the same of `Run.save` and `Run.load`.

## Sources

PyTorch, Saving and loading a general checkpoint; faults of trainers of the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from gradgate.checks.held_in_frames import SHOWN, Held
from gradgate.checks.source.carried_names import carried_names, names_in
from gradgate.checks.source.trainer import files_of
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Point, Whole, equal_runs, starts, stops
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG686", "state-lost-by-a-resume"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
MOST = 20  # findings
_CALLS = "['_step_count']"  # of a torch scheduler: how often it was called
_WITHIN = re.compile(r"(\.state_dict\(\).*|\[[^\[\]]*\])$")  # what of a name is behind that of its owner
_OF_A_LIBRARY = ".state_dict()["
_LAST = re.compile(r"(\w+)\W*$")
Moment = Mapping[str, Held]


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Stop and resume at one update after the other, and compare what is held."""
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    first, second = runs
    found: dict[str, Finding] = {}
    moving = _moving(first.launched.held.values())
    files = files_of(subject)
    text = _Text(carried_names(files), names_in(files))
    compared = places = 0
    for point, resumed in stops(subject, context, first):
        for now in resumed.launched.held.values():
            start = _same_update(first.launched.held, now, moving)
            if start is None:
                continue
            places += 1
            compared += len(first.launched.held[start])
            for finding in _lost(point, first, second, start, now, text):
                found.setdefault(finding.detail["owner"], finding)
    if not places:
        return Outcome(inconclusive="no resumed run begins with the weights of an update of the run without a stop")
    return Outcome(tuple(found.values())[:MOST], {"values": compared, "places": places}, {"values_lost": 0})


def _moving(moments: Iterable[Moment]) -> set[str]:
    """The tensors that training moves and that are no rows of a batch: they live on in what their variable is."""
    first: dict[tuple[str, int], str] = {}
    found = set()
    for moment in moments:
        for name, value in moment.items():
            if value.kind == "tensor" and first.setdefault((name, value.root), value.digest) != value.digest:
                found.add(name)
    return found


def _same_update(moments: Mapping[int, Moment], now: Moment, moving: set[str]) -> int | None:
    """The number of the update, from 0, whose tensors most of those behind a resume equal; None: less than half do."""
    names = moving & now.keys()
    equal = {i: sum(_is_alike(now[name], then.get(name)) for name in names) for i, then in moments.items()}
    most = max(equal, key=lambda i: equal[i], default=None)
    return most if most is not None and 2 * equal[most] > len(names) else None


def _own_name(name: str) -> str:
    """The last attribute or entry of a name that a trainer's text may have: not what is in a library's state."""
    words = re.sub(r"\[[^\[\]]*\]", "", name.partition(".state_dict()")[0]).split(".")
    return words[-2] if words[-1] == "state" and len(words) > 1 else words[-1]


def _is_shown(name: str) -> bool:
    return bool(SHOWN.search(name)) or name.endswith(_CALLS)


def _is_alike(one: Held, other: Held | None) -> bool:
    return other is not None and one.digest == other.digest


@dataclass(frozen=True)
class _Text:
    """Names in the trainer's own text.

    Args:
        carried: of what is made of itself.
        own: all of them; none where the text is not known.
    """

    carried: frozenset[str]
    own: frozenset[str]

    def has(self, name: str) -> bool:
        """Whether a value is not of a library that the trainer builds on."""
        return not self.own or _own_name(name) in self.own


@dataclass(frozen=True)
class _Compared:
    """Moments of one update.

    Args:
        own: those of the stage's run without a stop, the last of them the one to compare with.
        again: that of another such run.
        now: that behind the resume.
    """

    own: Sequence[Moment]
    again: Moment
    now: Moment

    def names(self, text: _Text) -> list[str]:
        """Of what is another value behind the resume, and carried on from update to update."""
        then = self.own[-1]
        otherwise = [name for name in then if name in self.now and not _is_alike(self.now[name], then[name])]
        stable = [name for name in otherwise if _is_alike(then[name], self.again.get(name))]
        found = [name for name in stable if self._is_state(name, text.carried)]
        empty = [name for name, value in self.now.items() if value.kind == "none" and name not in then]
        found += [name for name in empty if self._is_filled(name)]
        return [name for name in found if not _is_shown(name) and text.has(name)]

    def _is_state(self, name: str, carried: frozenset[str]) -> bool:
        """Whether a value lives on from one update to the next."""
        before, value = self.own[-2].get(name) if len(self.own) > 1 else None, self.own[-1][name]
        if value.kind in ("tensor", "generator"):
            return before is not None and before.root == value.root and not value.local
        if all(_is_alike(value, moment.get(name, value)) for moment in self.own):
            return False  # it has not changed since the stage began
        if _is_alike(value, before) or _OF_A_LIBRARY in name:
            return True
        last = _LAST.search(name)
        return not value.local and last is not None and last[1] in carried

    def _is_filled(self, name: str) -> bool:
        """Whether what is None behind the resume was so as the stage began, and holds values by then."""
        inside = [key for key in self.own[-1] if key.startswith((f"{name}.", f"{name}["))]
        was = self.own[0].get(name)
        return was is not None and was.kind == "none" and bool(inside) and all(key in self.again for key in inside)


def _lost(point: Point, first: Whole, second: Whole, start: int, now: Moment, text: _Text) -> Iterator[Finding]:
    """What is otherwise as the update `start` is begun behind a resume."""
    held = first.launched.held
    begun = max(each for each in (0, *starts(first.updates)) if each <= start)
    own = [held[i] for i in range(begun, start + 1) if i in held]
    names = _Compared(own, second.launched.held.get(start, {}), now).names(text)
    where = point.stopped(len(first.updates))
    for owner, group in groupby(names, key=lambda name: _WITHIN.sub("", name)):
        inside = list(group)
        yield _finding(where, point, owner, inside, now[inside[0]], own[-1].get(inside[0]))


def _finding(where: str, point: Point, owner: str, names: list[str], now: Held, then: Held | None) -> Finding:
    name = names[0]
    more = f" and {len(names) - 1} more values of `{owner}`" if len(names) > 1 else ""
    if then is None:
        told = f"`{name}` is None, and holds values"
    elif len(names) == 1 and now.text and then.text:
        told = f"`{name}` is {now.text}, and {then.text}"
    else:
        told = f"`{name}`{more} {'are others' if more else 'is another one'} than"
    return Finding(
        CODE,
        NAME,
        f"{where}, {told} without the stop; allowed: the same",
        fix="save it with the checkpoint, and put it back behind all that is built",
        detail={"owner": owner, "values": len(names), "update": point.update},
    )

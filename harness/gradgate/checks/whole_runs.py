"""Whole runs of a trainer's program: two that are to be equal, to which others are compared, and what they left."""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from gradgate.checks.launches import Holds, Launched, Update, distance, first_parting, launch
from gradgate.checks.left_behind import Record, contents_of, is_of_the_clock, records_of
from gradgate.checks.snapshot import compare
from gradgate.checks.switches import is_switch, is_word
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject
from gradgate.subjects.program import Program
from gradgate.subjects.settings import is_of_accumulation

GROUP = "program"
NO_GPU = "launches are forked, and a fork has no GPU: run it with --device cpu"
SECONDS = {"quick": 20.0, "pr": 60.0, "nightly": 600.0}  # of the first launch
LEAST = 10.0  # seconds that any launch has
PLACES = {"quick": 2, "pr": 6, "nightly": 16}  # at which a run is stopped
BUDGET = {"quick": 1.0, "pr": 25.0, "nightly": 600.0}  # of a check, once it has made its first comparison
Entry = TypeVar("Entry")
ROUNDING = 1e-6  # of what is logged: sums that were saved and go on may be rounded otherwise


@dataclass(frozen=True, slots=True)
class Whole:
    """A launch and what it left in its folder.

    Args:
        launched: how it went.
        records: of each log.
        contents: of each file that torch can load, its values by name.
        files: the paths of all files, in the folder.
        left: of one that was stopped and resumed, the records that were there in between.
    """

    launched: Launched
    records: Mapping[str, Sequence[Record]]
    contents: Mapping[str, Mapping[str, Any]]
    files: frozenset[str]
    left: Mapping[str, Sequence[Record]] = field(default_factory=dict)

    @property
    def updates(self) -> Sequence[Update]:
        """Its steps of optimizers."""
        return self.launched.updates


_KEPT: WeakKeyDictionary[Program, dict[str, Whole]] = WeakKeyDictionary()
_RESUMED: WeakKeyDictionary[Program, dict[tuple[str, int, bool], Whole]] = WeakKeyDictionary()


def program_of(subject: Subject) -> Program:
    """The subject's program, where a check needs one."""
    if subject.program is None:
        raise TypeError("the check needs `program`")
    return subject.program


def whole(
    subject: Subject, context: Context, settings: Mapping[str, Any] | None = None, *, turn: int = 0, still: bool = False
) -> Whole:
    """The program from its start to its end in a folder of its own; kept, so that other checks have it, too.

    Args:
        subject: one that has a program.
        context: of the check.
        settings: over its configuration.
        turn: 1: once more.
        still: as in `launch`.
    """
    kept = _KEPT.setdefault(program_of(subject), {})
    name = repr((_told(settings), turn, still))
    if name not in kept:
        folder = context.folder / f"whole{len(kept)}"
        holds: Holds = "nothing" if settings or still else "each"
        found = launch(subject, folder, settings, still=still, holds=holds, seconds=seconds_for(subject, context))
        kept[name] = read(found, folder)
        shutil.rmtree(folder, ignore_errors=True)
    return kept[name]


def stops(
    subject: Subject,
    context: Context,
    first: Whole,
    settings: Mapping[str, Any] | None = None,
    count: int | None = None,
) -> Iterator[tuple[Point, Whole]]:
    """The program, stopped at one update after the other and resumed to its end, with what its folder then has; kept.

    Args:
        subject: one that has a program.
        context: of the check.
        first: a run without a stop.
        settings: over the program's configuration, of `first`, too.
        count: most updates; None: as the profile has it.
    """
    kept = _RESUMED.setdefault(program_of(subject), {})
    fresh = Turns(context)
    for point in points(first.updates, count or PLACES[context.profile]):
        if (_told(settings), point.update, False) not in kept:
            if not fresh.has_time:
                return
            fresh.made += 1
        yield point, resumed_at(subject, context, point.update, settings)


def resumed_at(
    subject: Subject,
    context: Context,
    update: int,
    settings: Mapping[str, Any] | None = None,
    *,
    still: bool = False,
) -> Whole:
    """The program, stopped behind an update and resumed to its end in a folder of its own; kept. One that did not come
    to that update is as it ended.

    Args:
        subject: one that has a program.
        context: of the check.
        update: from 1.
        settings: over its configuration.
        still: as in `launch`.
    """
    kept = _RESUMED.setdefault(program_of(subject), {})
    name = (_told(settings), update, still)
    if name not in kept:
        folder, seconds = context.folder / f"stopped{len(kept)}", seconds_for(subject, context)
        ended = launch(subject, folder, settings, stop=update, still=still, seconds=seconds)
        left = records_of(folder)
        if ended.end == "stopped":
            holds: Holds = "nothing" if settings or still else "begins"
            ended = launch(subject, folder, settings, resume=True, still=still, holds=holds, seconds=seconds)
        kept[name] = replace(read(ended, folder), left=left)
        shutil.rmtree(folder, ignore_errors=True)
    return kept[name]


def moves_of(declared: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Each value but the configured one of each key, one at a time."""
    for key, values in declared.items():
        yield from ({key: value} for value in values[1:])


def switched(program: Program) -> list[dict[str, Any]]:
    """Settings in which what `options` can switch is the other way: all at once, then one by one."""
    options = program.options.items()
    alone = list(moves_of({key: values for key, values in options if _is_switch(key, values)}))
    together = {key: value for one in reversed(alone) for key, value in one.items()}
    return [together, *alone] if len(alone) > 1 else alone


def _is_switch(key: str, values: Sequence[Any]) -> bool:
    """Whether a key's values are those of a switch, or a number and nothing; or it says how an update is divided."""
    return is_switch(values) or any(map(is_word, values)) or is_of_accumulation(key)


def _told(settings: Mapping[str, Any] | None) -> str:
    return repr(sorted((settings or {}).items(), key=str))


def read(found: Launched, folder: Path) -> Whole:
    """A launch with what it left."""
    files = frozenset(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    return Whole(found, records_of(folder), contents_of(folder), files)


def seconds_for(subject: Subject, context: Context) -> float:
    """After how many seconds a launch hangs: by the first one, where there was one."""
    first = _KEPT.get(program_of(subject), {}).get(repr((_told(None), 0, False)))
    return SECONDS[context.profile] if first is None else LEAST + 5.0 * first.launched.seconds


def first_run(subject: Subject, context: Context) -> Whole | Outcome:
    """The program as it is configured, however it ends; an outcome where it cannot be launched, or waited for."""
    if context.device != "cpu":
        return Outcome(not_applicable=NO_GPU)
    first = whole(subject, context)
    if first.launched.end != "slow":
        return first
    return Outcome(inconclusive=f"the program is {first.launched.in_words}: let `arguments` make its stages smaller")


def equal_runs(subject: Subject, context: Context) -> tuple[Whole, Whole] | Outcome:
    """Two runs alike, with which others can be compared; an outcome that says why there are none."""
    first = first_run(subject, context)
    if isinstance(first, Outcome):
        return first
    if first.launched.end != "ended":
        return Outcome(inconclusive=f"the program did not come to its end ({first.launched.in_words}): see GG670")
    if not first.updates:
        return Outcome(inconclusive="no optimizer of torch made a step in the program: see GG670")
    second = whole(subject, context, turn=1)
    if first_parting(first.updates, second.updates) is not None:
        return Outcome(inconclusive="two launches alike train differently: see GG670")
    return first, second


def unstable(first: Whole, second: Whole, program: Program) -> frozenset[str]:
    """Names of what is logged that need not be alike: what two equal runs have otherwise, times, `volatile`."""
    names = set(program.volatile)
    for file, records in first.records.items():
        others = second.records.get(file, ())
        for one, other in zip(records, others, strict=False):
            names |= {key for key in one.keys() | other.keys() if not alike(one.get(key), other.get(key))}
    every = {key for records in first.records.values() for record in records for key in record}
    return frozenset(names | {key for key in every if is_of_the_clock(key)})


def unstable_values(first: Whole, second: Whole) -> frozenset[tuple[str, str]]:
    """Values of files that two equal runs have otherwise, as times: files and names."""
    found = set()
    for file, values in first.contents.items():
        theirs = second.contents.get(file, {})
        differing = (key for key, value in values.items() if compare(key, value, theirs.get(key)) is not None)
        found |= {(file, key) for key in differing}
    return frozenset(found)


def alike(one: Any, other: Any) -> bool:
    """Whether two logged values say the same."""
    if isinstance(one, float | int) and isinstance(other, float | int):
        same_nan = one != one and other != other
        return same_nan or one == other or abs(one - other) <= ROUNDING * max(abs(one), abs(other))
    return bool(one == other)


@dataclass(frozen=True, slots=True)
class Point:
    """Where a run is stopped.

    Args:
        update: behind which, from 1.
        saved: the last update, from 0, before which a checkpoint was written; None: there was none yet.
        words: where that is.
    """

    update: int
    saved: int | None
    words: str

    def stopped(self, updates: int) -> str:
        """What is done there with a run of so many updates, in words."""
        return f"stopped behind update {self.update} of {updates} ({self.words}) and resumed"


def points(updates: Sequence[Update], count: int) -> list[Point]:
    """Where a run is worth stopping, the most telling first: in the middle between two checkpoints of each stage, at
    the first update of a later stage, behind the last checkpoint, and before there is any."""
    saves = [i for i, update in enumerate(updates) if update.saved]  # written behind update i - 1, before update i ends
    begins = starts(updates)
    ends = [*begins[1:], len(updates)]
    found: list[tuple[int, int, str]] = []  # rank, update, words
    for number, (start, end) in enumerate(zip(begins, ends, strict=True), 1):
        own = [i for i in saves if start < i < end]
        gaps = [gap for gap in zip(own, [*own[1:], end], strict=True) if gap[1] - gap[0] > 1]
        for rank, (one, other) in enumerate(gaps[len(gaps) // 2 :] + gaps[: len(gaps) // 2]):
            found.append((rank, one + max(1, (other - one) // 2), f"between two checkpoints of optimizer {number}"))
        if number > 1:
            found.append((0, start + 1, f"at the first update of optimizer {number}"))
        elif own:
            found.append((1, max(1, own[0] // 2), "before the first checkpoint"))
        found.append((1, end - 1, f"before the last update of optimizer {number}"))
    chosen: dict[int, str] = {}
    for _, update, words in sorted(found, key=lambda entry: entry[0]):
        if 0 < update < len(updates):
            chosen.setdefault(update, words)
    return [
        Point(update, max((i for i in saves if i < update), default=None), words)
        for update, words in list(chosen.items())[:count]
    ]


def starts(updates: Sequence[Update]) -> list[int]:
    """Where a stage begins: with an optimizer that is new while none that was there steps again."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for i, update in enumerate(updates):
        first.setdefault(update.optimizer, i)
        last[update.optimizer] = i
    return sorted(i for i in first.values() if all(last[one] < i or first[one] >= i for one in first))


# --- two runs side by side ------------------------------------------------------------------------------------------


def parted(ours: Sequence[Update], others: Sequence[Update], index: int) -> str:
    """How far two runs are apart at an update, in words."""
    if index >= min(len(ours), len(others)):
        return f"{len(ours)} updates and {len(others)}"
    apart = distance(ours[index], others[index])
    return f"a relative difference of {apart:.2g} in a parameter's norm" if apart else "other parameters of equal norms"


@dataclass(frozen=True, slots=True)
class Logged:
    """A record of one run that another lacks.

    Args:
        file: the log.
        record: as the first run wrote it.
        key: the value that the other has otherwise; empty: it has no such record at all.
        other: that value.
    """

    file: str
    record: Record
    key: str = ""
    other: Any = None


def lacking(first: Whole, other: Whole, without: frozenset[str]) -> Iterator[Logged]:
    """The records of a run that another does not have."""
    for file, records in first.records.items():
        theirs = [_stable(record, without) for record in other.records.get(file, ())]
        for record in records:
            ours = _stable(record, without)
            if any(_same(ours, one) for one in theirs):
                continue
            near = [one for one in theirs if _identity(one) == _identity(ours)]
            differing = next(((k, one.get(k)) for one in near for k in ours if not alike(ours[k], one.get(k))), None)
            yield Logged(file, ours, *(differing or ("", None)))


def repeated(first: Whole, other: Whole, without: frozenset[str]) -> Iterator[tuple[str, Record, int]]:
    """The records that another run wrote oftener, by what tells them apart, and how often."""
    for file, records in first.records.items():
        once = Counter(_identity(_stable(record, without)) for record in records)
        now = Counter(_identity(_stable(record, without)) for record in other.records.get(file, ()))
        for record in records:
            identity = _identity(_stable(record, without))
            if identity and now[identity] > once[identity]:
                yield file, record, now[identity]


def _stable(record: Record, without: frozenset[str]) -> Record:
    return {key: value for key, value in record.items() if key not in without}


def _same(one: Record, other: Record) -> bool:
    return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)


def _identity(record: Record) -> tuple[tuple[str, Any], ...]:
    """What tells a record apart: its names, whole numbers and texts."""
    told = [(key, value) for key, value in record.items() if not isinstance(value, float)]
    return tuple(sorted([*told, ("", str(sorted(record)))], key=str))


PATIENCE = re.compile(r"patience|early_?stop|max_bad|tolerat")  # keys that end a run early


class Turns:
    """As many of a check's launches as its time lasts, one at least.

    Args:
        context: of the check.
    """

    def __init__(self, context: Context) -> None:
        self._end, self.made = time.monotonic() + BUDGET[context.profile], 0

    @property
    def has_time(self) -> bool:
        """Whether one more may be made."""
        return not self.made or time.monotonic() < self._end

    def of(self, entries: Iterable[Entry]) -> Iterator[Entry]:
        """The entries, until the time is over."""
        for entry in entries:
            if not self.has_time:
                return
            self.made += 1
            yield entry

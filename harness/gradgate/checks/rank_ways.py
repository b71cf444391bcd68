"""Where the ways of several processes part: the line at which one goes to a collective that another never reaches, and
the one that gives them different state. Looked for once a check has seen that they wait, or that they differ."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from tempfile import mkdtemp
from types import FrameType
from typing import Any

from torch import Tensor

from gradgate.checks.own_lines import Line, OwnLines, is_torch, place, searched
from gradgate.checks.ranks import Rank, together
from gradgate.core.finding import Location
from gradgate.core.origin import line_of_file

SECONDS = 60.0  # for a trace of what ends
_DISTRIBUTED = "distributed_c10d.py"  # of torch
_COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_object", "all_to_all", "barrier", "broadcast", "broadcast_object_list",
    "gather", "gather_object", "reduce", "reduce_scatter", "scatter",
)  # fmt: skip
Step = tuple[str, str, int, int]  # file, function and line, and how deep it is called


class WayLines(OwnLines):
    """Writes each own line to a file as it begins, so that it is there when the process is killed."""

    within = False

    def __init__(self, source: Path | None, file: Path) -> None:
        super().__init__(source)
        self.file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def entering(self, frame: FrameType) -> None:
        """Write down a collective, in the name of the line that calls it."""
        if self.frames and is_torch(frame, *_COLLECTIVES) and Path(frame.f_code.co_filename).name == _DISTRIBUTED:
            os.write(self.file, f"0\t{len(self.frames)}\t{frame.f_code.co_name}\t\n".encode())

    def _trace(self, frame: FrameType, event: str, value: Any) -> Callable[..., Any] | None:
        known = super()._trace(frame, event, value)
        if event == "line" and known is not None:
            code = frame.f_code
            os.write(self.file, f"{frame.f_lineno}\t{len(self.frames)}\t{code.co_name}\t{code.co_filename}\n".encode())
        return known


def line_of_parting(
    source: Path | None, work: Callable[[], Any], ended: Sequence[Rank], seed: int, folder: Path
) -> Location | None:
    """The last line that a process which waits has in common with another before it goes to where it waits; None where
    none is sure.

    Args:
        source: of the subject.
        work: what each process did.
        ended: how they ended.
        seed: of the check.
        folder: of the check's own.
    """
    waiting = next((each.rank for each in ended if each.stack or _is_left(each)), None)
    if waiting is None:
        return None
    ways = Path(mkdtemp(dir=folder))

    def traced(rank: int) -> None:
        with WayLines(source, ways / f"way-{rank}").on():
            work()

    def find() -> Location | None:
        together(traced, ways)
        other = next(each.rank for each in ended if each.rank != waiting)
        return _parting(_read(ways / f"way-{waiting}"), _read(ways / f"way-{other}"))

    return searched(find, seed)


def _is_left(rank: Rank) -> bool:
    """Whether a process failed since another was gone."""
    return "gloo" in rank.error.lower() or "closed by peer" in rank.error


def _read(file: Path) -> list[Step]:
    steps = []
    for line in file.read_text(encoding="utf-8").splitlines():
        number, depth, function, name = line.split("\t")
        steps.append((name, function, int(number), int(depth)))
    return steps


def _parting(way: Sequence[Step], other: Sequence[Step]) -> Location | None:
    """As `parting`; where both stand at one line, before the first collective that only one of them goes to."""
    found = parting(_lines(way), _lines(other))
    if found is not None:
        return found
    ours, theirs = _collectives(way), _collectives(other)
    for number, (one, its) in enumerate(zip_longest(ours, theirs)):
        if one is None or its is None or one[1] != its[1]:
            more = ours[number + 1 :] if its else []
            if its is None or (one is not None and more and more[0][1] == its[1]):
                return parting(_lines(way[: one[0]] if one else way), _lines(other[: its[0]] if its else other))
            return parting(_lines(other[: its[0]]), _lines(way[: one[0]] if one else way))
    return None


def _collectives(way: Sequence[Step]) -> list[tuple[int, Step]]:
    """Where in a way collectives are, and the line that calls each."""
    return [(at, way[at - 1]) for at in range(1, len(way)) if not way[at][2] and way[at - 1][2]]


def _lines(way: Sequence[Step]) -> list[Step]:
    return [step for step in way if step[2]]


def parting(way: Sequence[Step], other: Sequence[Step]) -> Location | None:
    """The line before the outermost one of those that are not over that the other process has not run as often.

    Args:
        way: lines up to where the process waits.
        other: of another process, to its end.
    """
    ours, theirs = (Counter(step[:3] for step in steps) for steps in (way, other))
    for at in _stack(way):
        if ours[way[at][:3]] > theirs[way[at][:3]]:
            inside = [step for step in way[:at] if step[:2] == way[at][:2] and step[3] == way[at][3]]
            if not inside:
                return None
            file, function, line, _ = inside[-1]
            return line_of_file(file, line, function)
    return None


def _stack(way: Sequence[Step]) -> list[int]:
    """The last lines of a way that were not over at its end, outermost first."""
    found: list[int] = []
    for at in range(len(way) - 1, -1, -1):
        if not found or way[at][3] < way[found[0]][3]:
            found.insert(0, at)
    return found


class StateLines(OwnLines):
    """The own lines that change named values.

    Attributes:
        changes: of each value the lines that changed it in order, with what it became and when.
    """

    def __init__(self, source: Path | None, read: Callable[[], Mapping[str, Any]]) -> None:
        super().__init__(source)
        self.read = read
        self.changes: dict[str, list[tuple[int, Location | None, str]]] = {}
        self._known = {name: digest(value) for name, value in read().items()}

    def behind(self, line: Line) -> None:
        """Look at the values."""
        for name, value in self.read().items():
            now = digest(value)
            if now != self._known.get(name):
                self._known[name] = now
                self.changes.setdefault(name, []).append((self.count, place(line), now))


def line_of_state(
    source: Path | None,
    work: Callable[[Callable[[Callable[[], Mapping[str, Any]]], Any]], Any],
    seed: int,
    folder: Path,
) -> Location | None:
    """The line that gives a value of several processes that should be the same another content in one than in another.

    Args:
        source: of the subject.
        work: called with a context that traces what is in it, once given what reads the values.
        seed: of the check.
        folder: of the check's own.
    """

    def traced(_rank: int) -> Any:
        traces: list[StateLines] = []

        def tracing(read: Callable[[], Mapping[str, Any]]) -> Any:
            traces.append(StateLines(source, read))
            return traces[0].on()

        work(tracing)
        return traces[0].changes

    def find() -> Location | None:
        ended = together(traced, Path(mkdtemp(dir=folder)), seconds=SECONDS)
        firsts = list(_first_apart([each.value for each in ended]))
        return min(firsts, key=lambda first: first[0])[1] if firsts else None

    return searched(find, seed)


def _first_apart(ranks: Sequence[Mapping[str, Any]]) -> Iterator[tuple[int, Location | None]]:
    one, other = ranks[0], ranks[1]
    for name in {**one, **other}:
        ours, theirs = one.get(name, []), other.get(name, [])
        for number in range(max(len(ours), len(theirs))):
            mine, its = (changes[number] if number < len(changes) else None for changes in (ours, theirs))
            if mine is None or its is None or mine[2] != its[2]:
                yield next((each[0], each[1]) for each in (mine, its) if each is not None)
                break


def digest(value: object) -> str:
    """A short text for a value, another for another."""
    content = value.detach().contiguous().numpy().tobytes() if isinstance(value, Tensor) else repr(value).encode()
    return sha256(content).hexdigest()[:16]

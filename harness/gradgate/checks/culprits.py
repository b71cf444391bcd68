"""The line at which a computation leaves its reference: where one right number, put in, makes the answer right.

The trainer's function is run again on inputs on which it failed. In the place of what one of its operations gives, or
is given, stands a number of the reference's. Numbers that are right already change nothing, so nothing in front of the
fault repairs the answer; the first operation that does is the fault, or the first that has to live with it. Operations
whose numbers are the reference's own are passed over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from math import inf
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.layouts import Numbers, layouts
from gradgate.checks.oracle_steps import Step
from gradgate.checks.own_lines import arguments_of
from gradgate.checks.traced import Done, Instead, Site, Traced
from gradgate.core.finding import Location
from gradgate.core.origin import at_line

TRIES = 1500  # runs of the function, at most; a run of a formula takes a millisecond or two
_SEVERAL = 8  # times that a helper is called, of which each may be right in its own way
_FEW = 3  # times that a helper is called, of which each may need another number

_Key = tuple[str, ...]


@dataclass(frozen=True)
class Failing:
    """Something that fails, and what it should have computed.

    Args:
        run: computes it anew; raising is a failure too.
        holds: whether an answer is right.
        steps: what the reference has on the way.
        extra: a tensor without which nothing fails, such as the documents of packed rows: a function that is not given
            it, nor anything made of it, is not to blame.
        before: makes what `run` begins with, each time; no operation of it is looked at.
    """

    run: Callable[[], Any]
    holds: Callable[[Any], bool]
    steps: Sequence[Step]
    extra: Tensor | None = None
    before: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class _Place:
    """One operation of the trace, all times that it was done."""

    site: Site
    item: int
    argument: int | str | None
    times: tuple[Done, ...]

    @property
    def tensors(self) -> list[Tensor]:
        """What it gave, or was given, each time."""
        if self.argument is None:
            return [done.outputs[self.item] for done in self.times]
        return [done.given[self.argument] for done in self.times]


@dataclass(frozen=True)
class _Trace:
    """What was done, and which operation gave the answer."""

    done: Sequence[Done]
    last: set[Site]


def culprit(
    failing: Sequence[Failing], source: Path | None, seconds: float = inf, *, handed: bool = False
) -> Location | None:
    """The line at which what fails leaves its reference; None where no one number repairs it.

    Args:
        failing: inputs on which it fails, the one to look at first in front.
        source: the subject's own folder.
        seconds: of processor time, after which no further number is tried.
        handed: whether a wrong mask was handed over, which is right for what it was made for.
    """
    end = time.process_time() + seconds
    failing = [one for one in failing if not _holds(one, _answer(one, nullcontext()))]
    if not failing:
        return None
    traces = [_trace(one, source) for one in failing]
    first, right = traces[0], _right(failing, traces)
    for place, key, instead in islice(_candidates(failing[0], first, set() if handed else right, handed), TRIES):
        if time.process_time() > end:
            return None
        if _repairs(failing[0], instead, source) and _repairs_all(failing, traces, place, key, source):
            place = _last_write(failing[0], place, key, first, source)
            own = place.argument is None or key[-1].startswith("not ")  # the operation is wrong, not what it is given
            own = own or (not handed and _only_masks(place, instead.numbers, failing[0].steps))
            chosen = place if own else _chosen_at(failing[0], place, key, first, right, source)
            return _located(failing, chosen, source, climb=not own)
    return None


def _trace(failing: Failing, source: Path | None) -> _Trace:
    mode = Traced(source)
    answer = _answer(failing, mode)
    return _Trace(mode.done, {done.site for done in mode.done if any(own is answer for own in done.own)})


def _answer(failing: Failing, mode: AbstractContextManager[Any]) -> Any:
    try:
        failing.before()
        with mode:
            return failing.run()
    except Exception:  # whatever the subject raises: it is a failure, which was reported
        return None


def _repairs(failing: Failing, instead: Instead, source: Path | None) -> bool:
    return _holds(failing, _answer(failing, Traced(source, instead)))


def _holds(failing: Failing, answer: Any) -> bool:
    try:
        return answer is not None and failing.holds(answer)
    except RuntimeError:  # a graph that cannot be gone through
        return False


def _repairs_all(
    failing: Sequence[Failing], traces: Sequence[_Trace], place: _Place, key: _Key, source: Path | None
) -> bool:
    """Whether the same number, in the same place, repairs the other inputs too."""
    for one, trace in zip(failing[1:], traces[1:], strict=True):
        same = [p for p in _places(trace) if (p.site, p.item, p.argument) == (place.site, place.item, place.argument)]
        if not same:
            return False
        numbers = dict(_numbers(same[0], one.steps)).get(key)  # none: too small to have such a layout
        if numbers and not _repairs(one, Instead(place.site, place.item, place.argument, numbers), source):
            return False
    return True


def _last_write(failing: Failing, place: _Place, key: _Key, trace: _Trace, source: Path | None) -> _Place:
    """Of a tensor that is made and then written: the last write that the same number repairs."""
    if place.argument is not None:
        return place
    made = [done.own[place.item] for done in place.times]
    for later in reversed(list(_places(trace))):
        written = later.argument is None and later.site != place.site
        if written and any(later.times[-1].own[later.item] is tensor for tensor in made):
            for (name, *_), numbers in _numbers(later, failing.steps):
                instead = Instead(later.site, later.item, None, [*[None] * (len(numbers) - 1), numbers[-1]])
                if name == key[0] and _repairs(failing, instead, source):
                    return later
    return place


def _candidates(
    failing: Failing, trace: _Trace, right: set[Site], handed: bool
) -> Iterator[tuple[_Place, _Key, Instead]]:
    """What to put in where, in the order in which operations are first done."""
    for place in _places(trace):
        if place.site in right or place.times[0].is_from_python:
            continue
        if handed and (place.argument is None or place.tensors[0].dtype != torch.bool):
            continue
        if place.argument is not None:
            if any(_is_narrow(tensor) for tensor in place.tensors):
                continue  # what repairs it is its dtype, which the operation is to change
            makers = {done.made[place.argument] for done in place.times}
            if not handed and any(maker is not None and maker not in right for maker in makers):
                continue  # wrong where it was made already, if it is wrong
        for key, numbers in _numbers(place, failing.steps):
            yield place, key, Instead(place.site, place.item, place.argument, numbers)


def _chosen_at(
    failing: Failing, place: _Place, key: _Key, trace: _Trace, right: set[Site], source: Path | None
) -> _Place:
    """Where a tensor that an operation is given entered: in front of what only pads, views or casts it."""
    while place.argument is not None:
        maker = place.times[0].made[place.argument]
        known = maker is not None and maker in right
        back = [p for p in _places(trace) if p.site == maker and p.argument is not None] if known else []
        for earlier in back:
            ways = {name: numbers for (*step, name), numbers in _numbers(earlier, failing.steps) if step == [key[0]]}
            instead = (Instead(earlier.site, 0, earlier.argument, numbers) for numbers in ways.values())
            if any(_repairs(failing, one, source) for one in instead):
                place = earlier
                break
        else:
            break
    return place


def _only_masks(place: _Place, numbers: Numbers, steps: Sequence[Step]) -> bool:
    """Whether what repairs it is a mask, or what stands there already but for elements that do not count."""
    if place.tensors[0].dtype == torch.bool:
        return True
    for step in steps:
        if step.where is not None and _matches(place.tensors, step):
            for name, where in layouts(step.where, [tensor.bool() for tensor in place.tensors], 0.0):
                if not name.startswith("not ") and all(
                    map(_agrees, place.tensors, numbers, where, [step.shift] * len(where))
                ):
                    return True
    return False


def _places(trace: _Trace) -> Iterator[_Place]:
    """The operations of a trace: first what each is given, then what it gives."""
    times: dict[Site, list[Done]] = {}
    for done in trace.done:
        times.setdefault(done.site, []).append(done)
    for site, several in times.items():
        for key in several[0].given:
            if all(key in done.given for done in several):
                yield _Place(site, 0, key, tuple(several))
        for item in range(min(len(done.outputs) for done in several)):
            yield _Place(site, item, None, tuple(several))


def _numbers(place: _Place, steps: Sequence[Step]) -> Iterator[tuple[_Key, Numbers]]:
    """Every way in which a step of the reference could be what an operation gives, by name."""
    tensors = place.tensors
    for step in steps:
        for name, numbers in layouts(step.value, tensors, step.outside):
            yield (step.name, name), numbers
    if 1 < len(tensors) <= _FEW:
        yield from islice(_mixed(tensors, steps), TRIES // 8)


def _mixed(tensors: Sequence[Tensor], steps: Sequence[Step]) -> Iterator[tuple[_Key, Numbers]]:
    """A helper that is called a few times: another step each time, or none."""
    found: list[tuple[_Key, list[Tensor | None]]] = [((), [])]
    for tensor in tensors:
        ways = [((step.name, name), n[0]) for step in steps for name, n in layouts(step.value, [tensor], step.outside)]
        found = [((*key, *way), [*held, n]) for key, held in found for way, n in (*ways, (("-",), None))]
    yield from ((key, held) for key, held in found if sum(n is not None for n in held) > 1)


def _right(failing: Sequence[Failing], traces: Sequence[_Trace]) -> set[Site]:
    """Operations whose every number is a step of the reference, on all inputs; and what is used by such alone."""
    right: set[Site] = set()
    wrong: set[Site] = set()
    for one, trace in zip(failing, traces, strict=True):
        for place in _places(trace):
            if place.argument is None and place.item == 0:
                found = {_matches(place.tensors, step) for step in one.steps}
                if True not in found and 1 < len(place.times) <= _SEVERAL:  # a helper of many uses
                    each = [{_matches([tensor], step) for step in one.steps} for tensor in place.tensors]
                    found |= {True} if all(ways - {False} for ways in each) else set()
                if True in found:
                    right.add(place.site)
                elif None not in found:
                    wrong.add(place.site)
    right -= wrong.union(*(trace.last for trace in traces))
    uses = _uses(traces)
    for site in reversed(list(uses)):
        if uses[site] and uses[site] <= right:
            right.add(site)
    return right


def _uses(traces: Sequence[_Trace]) -> dict[Site, set[Site]]:
    """The operations in the order in which they are first done, and which others take what each gives."""
    uses: dict[Site, set[Site]] = {}
    for trace in traces:
        for done in trace.done:
            uses.setdefault(done.site, set())
            for maker in done.made.values():
                if maker is not None and maker != done.site:
                    uses[maker].add(done.site)
    return uses


def _matches(tensors: Sequence[Tensor], step: Step) -> bool | None:
    """Whether an operation gave this step, in some layout; None where none of its numbers counts."""
    where = torch.ones(step.value.shape, dtype=torch.bool) if step.where is None else step.where
    if any(map(_is_narrow, tensors)):
        return False
    places = dict(layouts(where.to(torch.bool), [tensor.bool() for tensor in tensors], 0.0))
    vacuous = False
    for name, numbers in layouts(step.value.detach(), tensors, step.outside):
        counts = places.get(name.removeprefix("not ").removeprefix("minus ").removeprefix("added "))
        if counts is None:
            continue
        if not any(counting is not None and bool(counting.any()) for counting in counts):
            vacuous = True
        elif all(map(_agrees, tensors, numbers, counts, [step.shift] * len(tensors))):
            return True
    return None if vacuous else False


def _is_narrow(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype.itemsize < 4


def _agrees(tensor: Tensor, number: Tensor | None, where: Tensor | None, shift: bool) -> bool:
    if number is None or where is None:
        return True
    got, want = tensor.detach().cpu(), number.detach().cpu()
    if not where.any():
        return True
    if not got.is_floating_point():
        return torch.equal(got[where], want[where])
    got, want = got.double(), want.double()
    if shift and got.dim():
        got, want = (x - x.masked_fill(~where, -torch.inf).amax(-1, keepdim=True) for x in (got, want))
    got, want = got[where], want[where]
    finite = want[want.isfinite()].abs()
    largest = float(finite.max()) if finite.numel() else 1.0
    return torch.allclose(got, want, rtol=0.0, atol=64 * torch.finfo(tensor.dtype).eps * max(largest, 1e-30))


def _located(failing: Sequence[Failing], place: _Place, source: Path | None, *, climb: bool) -> Location:
    """The line that chose what is wrong: that of the operation, or of a caller that gave it the wrong tensor."""
    found: list[Location] = []

    def asked(frames: Sequence[FrameType], tensor: Any, made_of_extra: Callable[[Any], bool]) -> None:
        left = list(frames)
        while climb and len(left) > 1 and _is_argument(tensor, left[0]):
            left.pop(0)
        knowing = [frame for frame in left if any(map(made_of_extra, _held(frame)))]
        frame = knowing[0] if knowing else left[0]
        found.append(at_line(frame.f_code, frame.f_lineno))

    extra = [one.extra for one in failing]
    lacking = extra[0] if all(tensor is not None for tensor in extra) else None
    _answer(failing[0], Traced(source, Instead(place.site, 0, place.argument, ()), asked, lacking))
    return found[0] if found else place.times[0].place


def _held(frame: FrameType) -> Iterator[Any]:
    """What a function has in its hands, also by keyword or in a tuple."""
    for value in frame.f_locals.values():
        yield value
        yield from value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()


def _is_argument(tensor: Any, frame: FrameType) -> bool:
    return any(frame.f_locals.get(name) is tensor for name in arguments_of(frame.f_code))

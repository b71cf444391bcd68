"""What a loop that stands still has in its local variables: numbers, ranges that it counts with, objects."""

from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import numpy as np
import torch

from gradgate.core.frames import write_locals
from gradgate.core.origin import is_own_code
from gradgate.subjects.contract import Run
from gradgate.subjects.keeping import FOREIGN, numbers_in

_REPORTS = re.compile(r"log|meter|timer|progress|metric|monitor|writer|profil|bar(?![a-z])|track", re.IGNORECASE)
_GENERATORS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)


class LocalNumbers:
    """Numbers that are local variables of the user's own lines.

    Args:
        frame: where the innermost of these stands still; what called it is looked at, too.
    """

    def __init__(self, frame: FrameType | None) -> None:
        self._before = {each: numbers_in(each.f_locals) for each in own_calls(frame)}

    def put_back(self) -> None:
        """Give each the number that it had, in the calls that have not ended."""
        for frame, before in self._before.items():
            now = frame.f_locals
            write_locals(frame, {name: number for name, number in before.items() if now.get(name) is not number})


def own_calls(frame: FrameType | None) -> Iterator[FrameType]:
    """A call and those that it was called from, which run the user's own lines."""
    while frame is not None:
        if is_own_code(frame.f_code.co_filename):
            yield frame
        frame = frame.f_back


def objects_of(frame: FrameType | None) -> dict[str, Any]:
    """Objects of the user's own classes, and generators of random numbers, that local variables of own lines hold.

    What reports (a logger, a meter, a timer) is left out: a resumed run may begin its window anew.
    """
    found: dict[str, Any] = {}
    for call in own_calls(frame):
        for name, value in call.f_locals.items():
            if _has_state(value) and not (_REPORTS.search(name) or _REPORTS.search(type(value).__name__)):
                found.setdefault(name, value)
    return found


def _has_state(value: Any) -> bool:
    if isinstance(value, _GENERATORS):
        return True
    module = sys.modules.get(type(value).__module__)
    file = getattr(module, "__file__", None)
    is_own = file is not None and is_own_code(file) and not isinstance(value, (Run, *FOREIGN))
    return is_own and isinstance(getattr(value, "__dict__", None), dict)


class CountedRange(Sequence[int]):
    """What `range(...)` gives, iterated over from a place that can be put back.

    Args:
        numbers: the range.
        places: takes each iterator that is made.
    """

    def __init__(self, numbers: range, places: list[_Place]) -> None:
        self._numbers, self._places = numbers, places

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._numbers[index]

    def __iter__(self) -> Iterator[int]:
        self._places.append(_Place(self._numbers))
        return self._places[-1]


class _Place(Iterator[int]):
    def __init__(self, numbers: range) -> None:
        self._numbers, self.index = numbers, 0

    def __next__(self) -> int:
        if self.index >= len(self._numbers):
            raise StopIteration
        self.index += 1
        return self._numbers[self.index - 1]


class Ranges:
    """The ranges that a loop counts with, where it counts with `range`."""

    def __init__(self) -> None:
        self._places: list[_Place] = []

    def make(self, *bounds: int) -> CountedRange:
        """What `range` is to be for the loop."""
        return CountedRange(range(*bounds), self._places)

    def noted(self) -> Callable[[], None]:
        """A function that lets all of them stand where they stand now."""
        indices = [(place, place.index) for place in self._places]

        def put_back() -> None:
            for place, index in indices:
                place.index = index

        return put_back

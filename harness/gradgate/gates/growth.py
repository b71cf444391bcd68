"""Growth: memory of tensors that rises from step to step, by the line that made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from gradgate.gates.counters import Recorder
from gradgate.gates.lines import Line

WARM_UP = 4  # steps before the first look: lazily made state, the first buffers of a fixed number
WINDOW, WINDOWS = 4, 3  # steps between two looks, so that accumulation over 4 steps is one; looks after the first
STEPS = WINDOW * WINDOWS

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Growth:
    """What rose in every window.

    Args:
        by_line: bytes over all `STEPS`, by the line that made them; empty where nothing grows.
        addresses: of the storages alive that those lines made.
        live: (steps done, bytes alive that the step made) at each look.
        course: bytes alive after each allocation and release of the first step behind the warm-up.
        saved: bytes that this step saved for backward, by the line that saved them.
    """

    by_line: Mapping[Line, int]
    addresses: Mapping[Line, Collection[int]]
    live: Sequence[tuple[float, float]] = ()
    course: Sequence[int] = ()
    saved: Mapping[Line, int] = field(default_factory=dict)

    @property
    def bytes_a_step(self) -> float:
        """Mean growth of a step."""
        return sum(self.by_line.values()) / STEPS


def growth(
    step: Callable[[], Any], relative: Callable[[str], str | None], meant: Callable[[], Collection[int]]
) -> Growth:
    """Run a fresh step `WARM_UP + STEPS` times and look at what stays.

    Args:
        step: runs one step.
        relative: a file's name for its line; None for a file that is not the user's.
        meant: addresses of storages that may grow: what the optimizers keep.

    Returns:
        The lines whose bytes rose in each of the `WINDOWS`. What only a cycle keeps is collected first.

    Raises:
        Exception: whatever the step raises.
    """
    recorder = Recorder(relative)
    looks: list[Counter[Line]] = []
    with recorder:
        for number in range(WARM_UP + STEPS + 1):
            if number >= WARM_UP and (number - WARM_UP) % WINDOW == 0:
                looks.append(recorder.live_by_line(meant()))
            if number < WARM_UP + STEPS:
                with recorder.in_full() if number == WARM_UP else nullcontext():
                    step()
        by_line = rising(looks)
        live = [(float(WARM_UP + WINDOW * at), float(sum(look.values()))) for at, look in enumerate(looks)]
        addresses = {line: recorder.live_addresses(line) - set(meant()) for line in by_line}
        return Growth(by_line, addresses, live, recorder.course(), recorder.saved_by_line())


def rising(looks: Sequence[Mapping[Key, int]]) -> dict[Key, int]:
    """What rose between each two looks that follow each other: by how much from the first to the last."""
    first, last = looks[0], looks[-1]
    pairs = list(pairwise(looks))
    return {
        key: last[key] - first.get(key, 0)
        for key in last
        if all(after.get(key, 0) > before.get(key, 0) for before, after in pairs)
    }

"""The line that keeps the newest of several checkpoints from being loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from gradgate.checks.newest_lines import line_of_choice
from gradgate.checks.own_lines import place
from gradgate.subjects.contract import Run

SOURCE = Path(__file__).parent
Name = Callable[[int], str]
Kept = Callable[[list[Path]], list[Path]]


def padded(step: int) -> str:
    return f"step-{step:04d}.txt"


def bare(step: int) -> str:
    return f"step-{step}.txt"


def ordered(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*.txt"), reverse=True)


def without_old(files: list[Path]) -> list[Path]:
    return files[2:]


def without_new(files: list[Path]) -> list[Path]:
    return files[:-2]


def remove(file: Path) -> None:
    file.unlink()


class Saving(Run):
    """Counts its steps, from eight on."""

    def __init__(self, name: Name = padded, old: Kept = without_old) -> None:
        self.name, self.old, self.steps = name, old, 8

    def batches(self) -> Iterator[int]:
        yield from range(100)

    def step(self, batch: int) -> Mapping[str, float]:
        self.steps += 1
        return {}

    def save(self, path: Path) -> None:
        name = self.name(self.steps)
        (path / name).write_text(str(self.steps))
        for old in self.old(ordered(path)):
            remove(old)

    def load(self, path: Path) -> None:
        self.steps = int(ordered(path)[0].read_text())


def line(tmp_path: Path, **pieces: Callable[..., object]) -> str:
    start = partial(Saving, **pieces)  # type: ignore[arg-type]
    found = place(line_of_choice(SOURCE, start, start, tmp_path, 3))
    return "" if found is None else found.source


def test_line_that_removes_the_newest_is_named(tmp_path: Path) -> None:
    """The one that chose it, not the helper that was given it."""
    assert line(tmp_path, old=without_new) == "remove(old)"


def test_line_that_makes_a_name_out_of_order_is_named(tmp_path: Path) -> None:
    """As a word step-9 comes behind step-11."""
    assert line(tmp_path, name=bare) == 'return f"step-{step}.txt"'


@pytest.mark.parametrize("old", [without_old, lambda _files: []])
def test_no_line_is_named_where_the_newest_is_loaded(tmp_path: Path, old: Kept) -> None:
    """The clean twin, with and without a limit."""
    assert line(tmp_path, old=old) == ""

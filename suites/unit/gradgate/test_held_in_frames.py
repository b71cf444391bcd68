"""What a running program holds: the values that its frames' local variables reach, by name."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

from gradgate.checks.held_in_frames import LONGEST, MOST, Held, held_in
from gradgate.checks.source.carried_names import carried_names, names_in
from gradgate.checks.source.trainer import File

HERE = Path(__file__)


class _Trainer:
    def __init__(self) -> None:
        self.step, self.best, self.name, self.none = 3, 2.5, "policy", None
        self.weight_V = torch.zeros(2)
        self.generator = torch.Generator().manual_seed(0)
        self.order = list(range(LONGEST + 1))
        self.counts = [1, 2]

    def holds(self, loss: float) -> dict[str, Held]:
        return _held(sys._getframe())


def _held(frame: FrameType | None, folder: Path | None = HERE) -> dict[str, Held]:
    return held_in(frame, folder, pytest.__file__)[0]


def test_values_have_the_names_of_their_variables_and_attributes() -> None:
    """`self` is named after its class; long lists are data and left out; a local number says that it is one."""
    held = _Trainer().holds(0.5)
    own = {name: (value.kind, value.text) for name, value in held.items() if name.startswith("_Trainer.")}
    assert own == {
        "_Trainer.step": ("whole", "3"),
        "_Trainer.best": ("float", "2.5"),
        "_Trainer.name": ("text", "'policy'"),
        "_Trainer.none": ("none", "None"),
        "_Trainer.weight_V": ("tensor", ""),
        "_Trainer.generator.state": ("tensor", ""),
        "_Trainer.counts[0]": ("whole", "1"),
        "_Trainer.counts[1]": ("whole", "2"),
    }
    assert held["loss"].local and not held["_Trainer.best"].local


def test_value_is_another_one_where_one_of_its_bits_is() -> None:
    """Tensors and states of generators are told apart by digests."""
    trainer = _Trainer()
    before = trainer.holds(0.0)
    trainer.weight_V[1] = 1e-30
    torch.rand(1, generator=trainer.generator)
    after = trainer.holds(0.0)
    otherwise = {name for name in before if name in after and before[name].digest != after[name].digest}
    assert otherwise >= {"trainer.weight_V", "trainer.generator.state"}
    assert not otherwise & {"trainer.step", "trainer.best", "trainer.counts[0]"}


def test_two_objects_of_one_name_are_told_apart_by_their_function() -> None:
    """The outer one keeps the name."""

    def inner() -> dict[str, Held]:
        trainer = _Trainer()
        trainer.step = 4
        return _held(sys._getframe())

    trainer = _Trainer()
    held = inner()
    assert (held["trainer.step"].text, held["inner().trainer.step"].text) == (str(trainer.step), "4")


def test_frames_of_other_files_are_none_of_the_programs() -> None:
    """Of a folder's files alone, or, without a folder, of those that are not installed."""
    value = 7
    assert "value" in _held(sys._getframe()) and "value" in _held(sys._getframe(), None)
    assert "value" not in _held(sys._getframe(), HERE.with_name("other.py"))
    assert value == 7


def test_no_more_than_so_many_values_are_taken_down() -> None:
    """A program with a data set in a dictionary is not slowed down by it."""
    rows: dict[str, Any] = {str(i): i for i in range(2 * MOST)}
    assert len(_held(sys._getframe())) == MOST and rows


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("self.step += 1", "step"),
        ("state['seen'] += rows", "seen"),
        ("self.mean = decay * self.mean + (1 - decay) * batch.mean()", "mean"),
        ("self.low, self.high = min(self.low, x), max(self.high, x)", "high"),
        ("state = replace(state, epoch=state.epoch + 1)", "epoch"),
        ("for self.turn in range(10): pass", "turn"),
    ],
)
def test_name_is_carried_where_it_is_made_of_itself(text: str, name: str) -> None:
    """Raised, moved, set by what it was, or counted by a loop."""
    assert name in carried_names([File(HERE, ast.parse(text), tuple(text.splitlines()))])


@pytest.mark.parametrize("text", ["self.last = loss", "state['last'] = loss", "last += 1", "f(last=other.first)"])
def test_name_is_not_carried_where_it_is_written_anew(text: str) -> None:
    """A last loss, a local variable, an argument of another value."""
    assert carried_names([File(HERE, ast.parse(text), tuple(text.splitlines()))]) == frozenset()


def test_names_of_a_text_are_those_of_attributes_entries_and_arguments() -> None:
    """And texts, by which an entry may be set."""
    text = "def f(rows, *, lr=1):\n    self.best = state['seen']\n    return made(turns=lr), {'key': rows}"
    names = names_in([File(HERE, ast.parse(text), tuple(text.splitlines()))])
    assert names >= {"rows", "lr", "best", "seen", "turns", "key"} and "_tr_loss" not in names

"""What a loop counts is, behind a turn for its losses, what it was in front of it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgate.checks.gg603_state_missing_from_checkpoint import inventory
from gradgate.subjects.keeping import Counts
from gradgate.subjects.loop_state import LocalNumbers, Ranges
from gradgate.subjects.own_loop import OwnLoop

BATCH = torch.ones(2, 3)


class Rows:
    """An iterator that a loop takes something more from in each turn."""

    def __init__(self) -> None:
        self.place, self.left = 0, [1.0, 2.0, 3.0]

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> float:
        self.place += 1
        return self.left.pop()


def train(loader: Any) -> None:
    """Its learning rate follows a count that stands in a dictionary."""
    progress: dict[str, Any] = {"step": 0, "is_first": True, "seen": {"rows": 0}}
    trainer, kinds, further = SimpleNamespace(updates=0, state={"epoch": 0.0}), Counter[str](), Rows()
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in loader:
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + progress["step"])
        loss = model(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        progress["step"] += 1
        progress["is_first"] = False
        progress["seen"]["rows"] += len(batch)
        trainer.updates += 1
        trainer.state["epoch"] += 0.5
        kinds["ones"] += 1
        next(further)


def train_by_a_local(loader: Any) -> None:
    """Its learning rate follows a local variable, of the loop and of a function inside it."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    step, running = 0, 0.0

    def follow() -> None:
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + step)

    for batch in loader:
        follow()
        loss = model(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        running = running + loss


def train_by_a_range(loader: Any) -> None:
    """Its learning rate follows the number that it iterates over."""
    model = nn.Linear(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = iter(loader)
    for update in range(100):
        optimizer.param_groups[0]["lr"] = 0.1 / (1 + update)
        for _ in range(1):
            loss = model(next(batches)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class CountingRun(OwnLoop):
    """A run of such a loop."""

    def __init__(self, loop: Any = train, counts_in: Any = None) -> None:
        torch.manual_seed(0)
        self.begin(loop, counts_in=counts_in)
        self.modules, self.optimizers = {"model": self.local("model")}, [self.local("optimizer")]

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield BATCH


def rate_behind(run: CountingRun, losses: int) -> float:
    """The rate of the first step behind so many readings of the losses."""
    for _ in range(losses):
        run.losses(BATCH)
    run.step(BATCH)
    rate: float = run.optimizers[0].param_groups[0]["lr"]
    return rate


def test_losses_move_no_schedule_that_counts_in_a_dictionary() -> None:
    """The first step has the first step's rate, whatever was asked in front of it."""
    assert rate_behind(CountingRun(), losses=2) == rate_behind(CountingRun(), losses=0) == 0.1


def test_a_schedule_that_counts_in_a_dictionary_moves_where_counts_are_not_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the test above would see."""
    monkeypatch.setattr(Counts, "put_back", lambda _: None)
    assert rate_behind(CountingRun(), losses=2) == pytest.approx(0.1 / 3)


def test_losses_put_back_what_dictionaries_and_objects_count() -> None:
    """In a dictionary inside another, an object's dictionary, an attribute, a key that was not there before."""
    run = CountingRun()
    run.losses(BATCH)
    trainer = run.local("trainer")
    assert run.local("progress") == {"step": 0, "is_first": True, "seen": {"rows": 0}}
    assert (trainer.updates, trainer.state, run.local("kinds")) == (0, {"epoch": 0.0}, {})


def test_losses_move_no_schedule_that_counts_in_a_local_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a function inside the loop reads, too; where it were not put back it would move."""
    run = CountingRun(train_by_a_local)
    run.losses(BATCH)
    assert (run.local("step"), run.local("running")) == (0, 0.0)
    assert rate_behind(run, losses=2) == 0.1
    monkeypatch.setattr(LocalNumbers, "put_back", lambda _: None)
    assert rate_behind(CountingRun(train_by_a_local), losses=2) == pytest.approx(0.1 / 3)


def test_losses_move_no_range_of_the_loop() -> None:
    """Where the adapter says in which module it counts; the module has its own `range` again behind the begin."""
    here = sys.modules[__name__]
    run = CountingRun(train_by_a_range, counts_in=here)
    assert "range" not in vars(here)
    assert rate_behind(run, losses=3) == rate_behind(CountingRun(train_by_a_range), losses=0) == 0.1 / 2
    assert rate_behind(run, losses=1) == 0.1 / 3
    assert rate_behind(CountingRun(train_by_a_range), losses=3) == pytest.approx(0.1 / 5)


def test_ranges_of_the_loop_are_no_state_of_the_run() -> None:
    """They begin anew with the loop, and no checkpoint of the trainer's has them."""
    run = CountingRun(train_by_a_range, counts_in=sys.modules[__name__])
    run.step(BATCH)
    assert not [name for name in inventory(run) if "_ranges" in name]


def test_a_range_that_is_counted_is_a_range_to_those_who_read_it() -> None:
    """Its length, its numbers, slices, membership; each iteration begins anew."""
    numbers = Ranges().make(2, 10, 3)
    assert (len(numbers), list(numbers), list(numbers), numbers[-1], 5 in numbers) == (3, [2, 5, 8], [2, 5, 8], 8, True)
    assert list(reversed(numbers)) == [8, 5, 2] and list(numbers[1:]) == [5, 8]


def test_losses_leave_what_iterates_where_it_is() -> None:
    """Its place is not a number alone: one put back would ask again for what is gone."""
    run = CountingRun()
    run.losses(BATCH)
    assert (run.local("further").place, run.local("further").left) == (1, [1.0, 2.0])


def test_counts_write_to_nothing_that_did_not_change() -> None:
    """A dictionary that refuses to be written to is left alone, and one that is large is not looked at."""

    class Frozen(dict[str, int]):
        def __setitem__(self, *_: Any) -> None:
            raise TypeError("frozen")

    large = dict.fromkeys(range(5000), 1)
    counts = Counts([Frozen(width=3), large])
    large[0] = 2
    counts.put_back()
    assert large[0] == 2

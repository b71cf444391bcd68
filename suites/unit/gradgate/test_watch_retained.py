"""Graphs that outlive their step: the holder is named where they grow, and what is normal stays quiet."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradgate
from fixtures.pytest_fixtures import rest_at_night
from gradgate.core.finding import Finding

pytestmark = pytest.mark.usefixtures("nothing_set_aside")

KEPT: list[Tensor] = []


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    KEPT.clear()


class Loop:
    """A model, an optimizer, and places in which a loss can be left."""

    def __init__(self) -> None:
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.losses: list[Any] = []
        self.pairs: list[Any] = []
        self.history: list[Any] = []
        self.recent: deque[Tensor] = deque(maxlen=8)
        self.by_name: dict[str, Tensor] = {}
        self.by_step: dict[int, Tensor] = {}
        self.total: Any = 0.0
        self.steps = 0

    def step(self) -> Tensor:
        loss = self.model(torch.ones(4, 3)).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.steps += 1
        return loss


def append(loop: Loop, loss: Tensor) -> None:
    loop.losses.append(loss)


def append_in_a_tuple(loop: Loop, loss: Tensor) -> None:
    loop.pairs.append((loop.steps, {"loss": loss}))


def append_to_a_deque(loop: Loop, loss: Tensor) -> None:
    loop.recent.append(loss)


def add_up(loop: Loop, loss: Tensor) -> None:
    loop.total = loop.total + loss


def add_in_place(loop: Loop, loss: Tensor) -> None:
    loop.total += loss


def set_by_step(loop: Loop, loss: Tensor) -> None:
    loop.by_step[loop.steps] = loss


def make_anew(loop: Loop, loss: Tensor) -> None:
    loop.history = [*getattr(loop, "history", []), loss]


def to_a_global(loop: Loop, loss: Tensor) -> None:
    KEPT.append(loss)


def collector() -> Callable[[Loop, Tensor], None]:
    collected: list[Tensor] = []

    def collect(loop: Loop, loss: Tensor) -> None:
        collected.append(loss)

    return collect


def nowhere(loop: Loop, loss: Tensor) -> None: ...


def keep_the_last(loop: Loop, loss: Tensor) -> None:
    loop.by_name["loss"] = loss


def keep_the_first(loop: Loop, loss: Tensor) -> None:
    loop.by_name.setdefault("loss", loss)


def keep_the_last_two(loop: Loop, loss: Tensor) -> None:
    loop.losses = [*loop.losses, loss][-2:]


def keep_numbers(loop: Loop, loss: Tensor) -> None:
    loop.losses.append(loss.detach())
    loop.total += loss.item()


def in_a_cycle(loop: Loop, loss: Tensor) -> None:
    ring: list[Any] = [loss]
    ring.append(ring)


def watched(keep: Callable[[Loop, Tensor], None], steps: int = 5) -> list[Finding]:
    """The findings of a loop that does something with each step's loss."""
    loop = Loop()
    with gradgate.watch(loop.model, loop.optimizer) as watch:
        for _ in range(steps):
            keep(loop, loop.step())
    return watch.findings


@pytest.mark.parametrize(
    ("keep", "holder", "source"),
    rest_at_night(
        [
            (append, "`Loop.losses` (a list, 3 tensor(s)", "loop.losses.append(loss)"),
            (add_up, "`Loop.total` (1 tensor(s)", "loop.total = loop.total + loss"),
            (add_in_place, "`Loop.total` (1 tensor(s)", "loop.total += loss"),
            (set_by_step, "`Loop.by_step` (a dict, 3 tensor(s)", "loop.by_step[loop.steps] = loss"),
            (make_anew, "`Loop.history` (a list", 'loop.history = [*getattr(loop, "history", []), loss]'),
            (to_a_global, "the global `KEPT` (a list, 3 tensor(s)", "KEPT.append(loss)"),
            (collector(), "`collected` in the closure of collect() (a list, 3 tensor(s)", "collected.append(loss)"),
            (append_in_a_tuple, "`Loop.pairs` (a list, 3 tensor(s)", 'loop.pairs.append((loop.steps, {"loss": loss}))'),
            (append_to_a_deque, "`Loop.recent` (a deque, 3 tensor(s)", "loop.recent.append(loss)"),
        ],
        day=7,
    ),
)
def test_watch_names_what_keeps_graphs(keep: Any, holder: str, source: str) -> None:
    """The holder in the message, the line that puts something into it as culprit; a warning."""
    (finding,) = watched(keep)

    assert finding.message.startswith(holder)
    assert (finding.code, finding.kind, finding.severity) == ("GG210", "other", "warning")
    assert finding.culprit is not None and finding.culprit.source == source
    assert finding.detail["steps"] == 3


@pytest.mark.parametrize("keep", [nowhere, keep_the_last, keep_the_first, keep_the_last_two, keep_numbers, in_a_cycle])
def test_watch_is_quiet_where_nothing_grows(keep: Any) -> None:
    """The last losses, a first one, numbers, and garbage that waits for the collector."""
    assert watched(keep) == []


def test_watch_waits_for_growth_over_two_steps() -> None:
    """After three steps one graph has outlived the next step: that is not growth yet."""
    assert watched(append, steps=3) == []
    assert len(watched(append, steps=4)) == 1


def test_watch_names_a_local_variable_and_a_generator() -> None:
    """Variables of functions that run, or wait."""
    loop = Loop()

    def losses() -> Iterator[None]:
        kept = []
        while True:
            kept.append(loop.step())
            yield

    waiting = losses()
    with gradgate.watch(loop.model) as watch:
        outputs = []
        for _ in range(4):
            outputs.append(loop.step())
    assert [finding.message.split(" (")[0] for finding in watch.findings] == [
        "`outputs` in test_watch_names_a_local_variable_and_a_generator()"
    ]
    del outputs
    with gradgate.watch(loop.model) as watch:
        for _ in range(4):
            next(waiting)
    assert [finding.message.split(" (")[0] for finding in watch.findings] == ["`kept` in the generator losses()"]


def test_watch_counts_steps_by_lines_where_no_optimizer_steps() -> None:
    """The line of the backward comes again."""
    model, kept = nn.Linear(3, 1), []
    with gradgate.watch(model) as watch:
        for _ in range(4):
            loss = model(torch.ones(2, 3)).mean()
            loss.backward()
            kept.append(loss)
    assert [finding.code for finding in watch.findings] == ["GG210"]


def test_watch_takes_the_updates_of_several_optimizers_for_one_step() -> None:
    """Metrics of three losses with three optimizers are one step's."""
    models = [nn.Linear(3, 1) for _ in range(3)]
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in models]
    metrics: dict[int, Tensor] = {}
    with gradgate.watch(*models) as watch:
        for _ in range(6):
            for number, (model, optimizer) in enumerate(zip(models, optimizers, strict=True)):
                optimizer.zero_grad()
                metrics[number] = model(torch.ones(2, 3)).square().mean()
                metrics[number].backward()
                optimizer.step()
    assert watch.findings == []


def test_watch_does_not_report_what_was_kept_before_the_block() -> None:
    """Only the block's own graphs count."""
    loop = Loop()
    for _ in range(5):
        append(loop, loop.step())
    with gradgate.watch(loop.model) as watch:
        for _ in range(5):
            loop.step()
    assert watch.findings == []


def test_watch_keeps_nothing_alive_by_looking() -> None:
    """After the block, what the program lets go is gone."""
    loop = Loop()
    with gradgate.watch(loop.model) as watch:
        for _ in range(5):
            append(loop, loop.step())
    alive = [weakref.ref(loss) for loss in loop.losses]
    loop.losses.clear()
    assert [finding.code for finding in watch.findings] == ["GG210"]
    assert [loss() for loss in alive] == [None] * 5

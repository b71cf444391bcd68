"""What the local variables of a loop hold is part of its run's state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fixtures.check_runs import run_check
from gradgate.checks.gg603_state_missing_from_checkpoint import inventory
from gradgate.checks.run_parts import parts_of
from gradgate.subjects.contract import Stage, Subject
from gradgate.subjects.own_loop import OwnLoop

BATCH = torch.ones(2, 3)


class Sampler:
    """Counts what it has given."""

    def __init__(self) -> None:
        self.cursor, self.rng = 0, np.random.default_rng(0)


class LossMeter:
    """What is reported of a window."""

    def __init__(self) -> None:
        self.total = 0.0


def train(loader: Any, sampler: Sampler, noise: np.random.RandomState) -> None:
    """Draws, counts and reports."""
    model, meter, order = nn.Linear(3, 1), LossMeter(), random.Random(0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in loader:
        sampler.cursor += 1
        sampler.rng.random()
        noise.random_sample()
        order.random()
        loss = model(batch).square().mean()
        meter.total += float(loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


class Sampling(OwnLoop):
    """A run of that loop, saved with what it draws from, or without."""

    whole = True

    def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        torch.manual_seed(seed)
        self.begin(lambda loader: train(loader, Sampler(), np.random.RandomState(0)))
        self.modules, self.optimizers = {"model": self.local("model")}, [self.local("optimizer")]

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield BATCH

    def save(self, path: Any) -> None:
        sampler = self.local("sampler")
        state = {"cursor": sampler.cursor, "rng": sampler.rng.bit_generator.state} if self.whole else {}
        drawn = self.local("noise").get_state(legacy=False), self.local("order").getstate()
        torch.save((self.modules["model"].state_dict(), state, drawn), path / "last.pt")

    def load(self, path: Any) -> None:
        weights, state, (noise, order) = torch.load(path / "last.pt", weights_only=False)
        self.modules["model"].load_state_dict(weights)
        self.local("noise").set_state(noise)
        self.local("order").setstate(order)
        if state:
            self.local("sampler").cursor = state["cursor"]
            self.local("sampler").rng.bit_generator.state = state["rng"]


def test_objects_and_generators_of_a_loop_are_in_its_inventory() -> None:
    """By the names of the variables; what reports is none of the state."""
    run = Sampling(0)
    names = set(inventory(run))
    assert {"sampler.cursor", "sampler.rng.state", "noise.state", "order.state"} <= names
    assert not any(name.startswith(("meter", "loss")) for name in names)
    assert "sampler.cursor" in parts_of(run)


def test_a_place_that_a_loop_keeps_to_itself_and_does_not_save_is_named() -> None:
    """GG603, where the run has no attribute that leads there."""
    found = {whole: _owners(whole) for whole in (True, False)}
    assert found == {True: set(), False: {"sampler.cursor", "sampler.rng.state"}}


def _owners(whole: bool) -> set[str]:
    stage = Stage("train", type("Saved", (Sampling,), {"whole": whole}))
    return {str(each.detail["owner"]) for each in run_check("GG603", Subject("sampling", [stage]), stage).findings}

"""OwnLoop.begin: what is set for a loop holds until it first asks for a batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar
from unittest.mock import patch

import torch

from gradgate.subjects.own_loop import OwnLoop


class Scripted(OwnLoop):
    """A `main` that makes two loaders, a layer and an optimizer."""

    def __init__(self, module: ModuleType) -> None:
        self.begin(lambda _: self.main(module), dtype=torch.float64, loader_in=module, argv=["--lr", "1"])
        self.modules, self.optimizers = {"layer": self.local("layer")}, [self.local("optimizer")]

    def main(self, module: Any) -> None:
        layer, command = torch.nn.Linear(1, 1), sys.argv[1:]
        optimizer = torch.optim.SGD(layer.parameters(), lr=float(command[1]))
        train, test = module.DataLoader([1], shuffle=True), module.DataLoader([2])
        for batch in train:
            optimizer.zero_grad()
            (layer(batch).sum() * sum(test)).backward()
            optimizer.step()

    def batches(self) -> Iterator[torch.Tensor]:
        while True:
            yield torch.ones(2, 1, dtype=torch.float64)


def test_begin_lends_the_loop_a_loader_a_dtype_and_a_command_line() -> None:
    """The second DataLoader is the module's own; afterwards everything is as it was."""
    module = ModuleType("script")
    module.DataLoader = lambda rows, **_: rows  # type: ignore[attr-defined]
    made, before = module.DataLoader, (sys.argv, torch.get_default_dtype())  # type: ignore[attr-defined]
    run = Scripted(module)
    assert run.local("command") == ["--lr", "1"] and run.local("test") == [2]
    assert (sys.argv, torch.get_default_dtype(), module.DataLoader) == (*before, made)  # type: ignore[attr-defined]
    weight = run.modules["layer"].weight
    start = weight.detach().clone()  # type: ignore[operator]
    run.step(next(iter(run.batches())))
    assert weight.dtype == torch.float64
    assert torch.equal(weight, start - 4.0)  # type: ignore[arg-type]


class Epochs(OwnLoop):
    """A loop that asks a function of its module for each epoch's batches, and evaluates with the same."""

    def __init__(self, module: Any) -> None:
        def loop() -> None:
            layer = torch.nn.Linear(1, 1)
            for epoch in range(3):
                for batch in module.batches_of(epoch):
                    (layer(batch).sum() * sum(module.batches_of(7))).backward()

        self.begin(lambda _: loop(), loader_in=module, made_by="batches_of")


def test_function_that_is_asked_for_an_epoch_gives_the_lent_loader_once() -> None:
    """The epoch has no end; other calls of the function, also those behind `begin`, are its own."""
    module = ModuleType("script")
    module.batches_of = own = lambda epoch: [epoch]  # type: ignore[attr-defined]
    run = Epochs(module)
    assert module.batches_of is own  # type: ignore[attr-defined]
    run.modules = {"layer": run.local("layer")}
    for _ in range(5):
        run.step(torch.ones(1, 1))
        assert run.local("epoch") == 0
    weight = run.local("layer").weight
    assert weight.grad.item() == 35.0


class Counting(OwnLoop):
    """A loop that asks a function for its batches to count them, for those of its evaluation, and then to train."""

    def __init__(self, module: Any) -> None:
        rows = [1.0]

        def loop() -> None:
            layer = torch.nn.Linear(1, 1)
            many, held = len(module.batches_of(rows, 2)), module.batches_of([1.0], 2)
            for batch in module.batches_of(rows, 2):
                (layer(batch).sum() * len(held) * (many > 1) * len(module.batches_of(rows, 2))).backward()

        self.begin(lambda _: loop(), loader_in=module, made_by="batches_of")


def test_function_that_is_first_asked_for_a_length_lends_the_loop_its_loader() -> None:
    """Calls with the same arguments do while nothing iterates; others, and those behind, are the function's own."""
    module = ModuleType("script")
    module.batches_of = lambda *given: given  # type: ignore[attr-defined]
    run = Counting(module)
    run.modules = {"layer": run.local("layer")}
    for _ in range(2):
        run.step(torch.ones(1, 1))
    assert run.local("many") == run.length and run.local("held") == ([1.0], 2)
    assert run.local("layer").weight.grad.item() == 8.0


class Leaving(OwnLoop):
    """A loop that leaves each epoch behind two batches, lent its loader each turn as docs/adapters.md has it."""

    terms: ClassVar[Mapping[str, str]] = {"value_loss": "loss"}

    def __init__(self, module: Any) -> None:
        self.module = module
        with self.patched():
            self.begin(self.loop)
        self.modules, self.optimizers = {"layer": self.local("layer")}, [self.local("optimizer")]

    def patched(self) -> Any:
        return patch.object(self.module, "batches_of", lambda *_: self.lent)

    def loop(self, loader: Any) -> None:
        self.lent = loader
        layer = torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        for epoch in range(100):
            for number, batch in enumerate(self.module.batches_of(epoch), 1):
                optimizer.zero_grad()
                loss = layer(batch).square().mean()
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
                optimizer.step()
                if number == 2 and norm >= 0:
                    break

    def step(self, batch: Any) -> Mapping[str, float]:
        with self.patched():
            terms = super().step(batch)
        return {**terms, "loss": self.local("loss").item(), "grad_norm": self.local("norm").item()}

    def losses(self, batch: Any) -> Mapping[str, torch.Tensor]:
        with self.patched():
            return super().losses(batch)


def test_loop_that_leaves_its_epochs_is_lent_its_loader_each_turn() -> None:
    """Two runs side by side and the module's own batches are in nobody's way; the step tells what the loop logs."""
    module = ModuleType("script")
    module.batches_of = own = lambda epoch: [torch.full((1, 1), float(epoch))]  # type: ignore[attr-defined]
    runs = Leaving(module), Leaving(module)
    for number in range(5):
        for run in runs:
            batch = torch.ones(1, 1)
            before = run.losses(batch)["total"].item()
            metrics = run.step(batch)
            assert metrics["loss"] == metrics["value_loss"] == before and metrics["grad_norm"] > 0
            assert run.local("epoch") == number + 1, "two turns, of which the first is for its losses, are an epoch"
    assert module.batches_of is own  # type: ignore[attr-defined]


class EarlyHead(OwnLoop):
    """A loop that asks its value head, behind a cast up, before it takes a batch."""

    def __init__(self, dtype: torch.dtype) -> None:
        def loop(loader: Any) -> None:
            head = torch.nn.Linear(3, 1)
            hidden = torch.ones(2, 3, dtype=dtype)
            head(hidden.float()).sum().backward()
            for batch in loader:
                head(batch.float()).sum().backward()

        self.begin(loop, dtype=dtype)


def test_what_a_loop_casts_up_while_it_begins_stays_float64() -> None:
    """The layers are float64 then, and would take nothing else."""
    assert EarlyHead(torch.float64).local("hidden").dtype == torch.float64

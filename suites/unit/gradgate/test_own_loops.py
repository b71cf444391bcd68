"""Trainers that give nothing away: their losses are read off the step, their loop is stopped between batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from gradgate.core.errors import SubjectError
from gradgate.subjects.inside import StepLosses
from gradgate.subjects.outputs import logits_in
from gradgate.subjects.own_loop import OwnLoop
from gradgate.subjects.rows import TokenRows

BATCH = torch.ones(2, 3)


class Hidden:
    """A trainer whose losses are local variables of its step."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def step(self, batch: Tensor) -> None:
        main = self.model(batch).square().mean()
        self._update(main + 1.0)

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def run(self, loader: Any, steps: int = 100) -> None:
        model = nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for number, batch in enumerate(loader, start=1):
            loss = model(batch).square().mean()
            optimizer.zero_grad()
            torch.autograd.backward([loss])
            optimizer.step()
            if number == steps:
                break


class HiddenRun(StepLosses):
    terms: ClassVar[Mapping[str, str]] = {"main": "main"}

    def __init__(self) -> None:
        self.trainer = Hidden()
        self.modules = {"model": self.trainer.model}

    def step(self, batch: Tensor) -> Mapping[str, float]:
        self.trainer.step(batch)
        return {}


class LoopRun(OwnLoop):
    terms: ClassVar[Mapping[str, str]] = {"value_loss": "loss"}

    def __init__(self, **options: int) -> None:
        torch.manual_seed(0)
        self.begin(lambda loader: Hidden().run(loader, **options))
        self.modules = {"model": self.local("model")}
        self.optimizers = [self.local("optimizer")]

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield BATCH


def weights(run: Any) -> Tensor:
    found: Tensor = run.modules["model"].weight.detach().clone()
    return found


def test_step_losses_are_the_local_variables_at_the_backward():
    """A term is found in the frame of the step also where a method below it goes backward; `total` is its tensor."""
    run = HiddenRun()
    terms = run.losses(BATCH)
    assert set(terms) == {"main", "total"}
    assert terms["total"].item() == pytest.approx(terms["main"].item() + 1.0)
    assert terms["total"].requires_grad


def test_step_losses_change_neither_parameters_nor_gradients():
    """The step ends where its backward begins, and gradients that it cleared are back."""
    run = HiddenRun()
    run.step(BATCH)
    before, gradient = weights(run), run.modules["model"].weight.grad
    run.losses(BATCH)
    assert torch.equal(weights(run), before)
    assert run.modules["model"].weight.grad is gradient


def test_step_losses_leave_backward_as_it_was():
    """Behind `losses` a backward is a backward again."""
    run = HiddenRun()
    run.losses(BATCH)["total"].backward()
    gradient = run.modules["model"].weight.grad
    assert gradient is not None and gradient.abs().sum() > 0


def test_step_losses_name_the_nearest_variable():
    """A variable that the step does not have is an error that tells those that there are."""

    class Misspelt(HiddenRun):
        terms: ClassVar[Mapping[str, str]] = {"main": "mian"}

    with pytest.raises(SubjectError, match=r"no tensor 'mian'.*main"):
        Misspelt().losses(BATCH)


def test_step_losses_refuse_a_step_without_a_backward():
    """A step that comes to its end has no losses."""

    class Looking(HiddenRun):
        def step(self, batch: Tensor) -> Mapping[str, float]:
            return {}

    with pytest.raises(SubjectError, match="without a backward"):
        Looking().losses(BATCH)


def test_own_loop_steps_are_those_of_the_loop_left_alone():
    """Driven batch by batch the loop ends at the same parameters, bit for bit, as run to its end."""
    torch.manual_seed(0)
    trainer, kept = Hidden(), []
    original = torch.optim.SGD.__init__

    def keep(self: Any, parameters: Any, **options: Any) -> None:
        kept.append(list(parameters := list(parameters)))
        original(self, parameters, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.SGD, "__init__", keep)
        torch.manual_seed(0)
        trainer.__init__()
        trainer.run([BATCH] * 3, steps=3)
    run = LoopRun()
    metrics = [run.step(BATCH) for _ in range(3)]
    assert torch.equal(weights(run), kept[-1][0].detach())
    assert metrics[0]["value_loss"] > metrics[2]["value_loss"] > 0


def test_own_loop_losses_update_nothing():
    """A turn for its losses leaves parameters and gradients; the next step is as if it had not been."""
    run, other = LoopRun(), LoopRun()
    terms = run.losses(BATCH)
    assert terms["total"] is terms["value_loss"] and terms["total"].requires_grad
    assert torch.equal(weights(run), weights(other))
    run.step(BATCH)
    other.step(BATCH)
    assert torch.equal(weights(run), weights(other))


def test_own_loop_lets_the_trainers_error_through():
    """What the loop raises comes out of the step, and the step after that says that the loop has ended."""
    run = LoopRun()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        run.step(torch.ones(2, 4))
    with pytest.raises(SubjectError, match="has ended"):
        run.step(BATCH)


@pytest.mark.parametrize("depth", range(12))
def test_error_of_torch_ends_no_process_at_whatever_depth_the_loop_began(depth: int):
    """Its callers are read off the stack, and below those of the loop there are others than when it began."""

    def below(count: int) -> LoopRun:
        return LoopRun() if count == 0 else next(map(below, (count - 1,)))

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        below(depth).step(torch.ones(2, 4))


def test_own_loop_says_when_the_loop_ends():
    """A loop with too few steps is an error that says what to give it."""
    run = LoopRun(steps=1)
    with pytest.raises(SubjectError, match="more epochs and steps"):
        run.step(BATCH)


def test_own_loop_names_the_local_variables_that_there_are():
    """A wrong name is an error that lists the right ones."""
    with pytest.raises(SubjectError, match=r"no local variable 'optimiser'.*optimizer"):
        LoopRun().local("optimiser")


def test_own_loop_without_a_backward_has_no_losses():
    """A loop that only looks has no losses to give."""

    class Looking(LoopRun):
        def __init__(self) -> None:
            self.begin(lambda loader: [len(loader) for _ in loader])
            self.modules = {}

    with pytest.raises(SubjectError, match="without a backward"):
        Looking().losses(BATCH)


def test_token_rows_pad_labels_of_several_heads():
    """Positions are the second axis, whatever follows."""
    batch = {"input_ids": torch.ones(2, 3), "labels": torch.ones(2, 3, 4), "reward": torch.ones(2)}
    padded = TokenRows().pad(batch, 2)
    assert {name: list(value.shape) for name, value in padded.items()} == {
        "input_ids": [2, 5], "labels": [2, 5, 4], "reward": [2],
    }  # fmt: skip
    assert padded["labels"][:, 3:].eq(-100).all()


def test_token_rows_crop_takes_labels_of_tokens_that_are_gone() -> None:
    """Head k at position t has lost its token where t + k + 1 is not among the first positions."""
    batch = {"input_ids": torch.ones(1, 4), "labels": torch.ones(1, 4, 2), "reward": torch.ones(1)}
    cropped = TokenRows().crop(batch, 2)
    assert list(cropped["input_ids"].shape) == [1, 2]
    assert cropped["labels"].tolist() == [[[1, -100], [-100, -100]]]
    assert batch["labels"].eq(1).all()


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: (x, None), lambda x: {"logits": x}, lambda x: SimpleNamespace(logits=x)]
)
def test_logits_are_found_in_what_a_module_returns(wrap: Any):
    """As the tensor itself, first in a tuple, in a mapping, on an object."""
    assert logits_in(wrap(BATCH)) is BATCH


def test_logits_are_not_guessed():
    """What is not first in a tuple, and a mapping without them, has none."""
    assert logits_in((None, BATCH)) is None
    assert logits_in({"hidden": BATCH}) is None


class Modes:
    """A trainer with a term that one of its modes alone has."""

    def __init__(self, mode: str) -> None:
        torch.manual_seed(0)
        self.mode, self.model = mode, nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    def step(self, batch: Tensor) -> None:
        extra = None
        main = loss = self.model(batch).square().mean()
        if self.mode == "both":
            extra = aux = self.model(batch).mean()
            loss = main + aux + 0 * extra
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def run(self, loader: Any) -> None:
        model, optimizer = self.model, self.optimizer
        for batch in loader:
            loss = model(batch).square().mean()
            if self.mode == "both":
                aux = extra = model(batch).mean()
                loss = loss + aux + 0 * extra
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def of_mode(kind: str, mode: str, name: str) -> Any:
    """A run of it, with a term of this name."""

    class Looped(OwnLoop):
        terms: ClassVar[Mapping[str, str]] = {"value_loss": name}

        def __init__(self) -> None:
            trainer = Modes(mode)
            self.begin(trainer.run)
            self.modules, self.optimizers = {"model": trainer.model}, [trainer.optimizer]

    class Stepped(StepLosses):
        terms: ClassVar[Mapping[str, str]] = {"value_loss": name}

        def __init__(self) -> None:
            self.trainer = Modes(mode)
            self.modules, self.optimizers = {"model": self.trainer.model}, [self.trainer.optimizer]

        def step(self, batch: Tensor) -> Mapping[str, float]:
            self.trainer.step(batch)
            return {}

    return Looped() if kind == "loop" else Stepped()


@pytest.mark.parametrize("kind", ["loop", "step"])
@pytest.mark.parametrize("name", ["aux", "extra"])
def test_term_is_left_out_where_its_variable_has_no_value(kind: str, name: str):
    """It is there in the mode that has it; in the other nothing, or None, is bound."""
    assert set(of_mode(kind, "both", name).losses(BATCH)) == {"total", "value_loss"}
    assert set(of_mode(kind, "main", name).losses(BATCH)) == {"total"}


@pytest.mark.parametrize("kind", ["loop", "step"])
def test_term_that_no_line_assigns_is_refused_in_every_mode(kind: str):
    """A misspelt variable, or one that holds something else than a tensor."""
    for mode in ("both", "main"):
        for name in ("auks", "batch.nothing"):
            with pytest.raises(SubjectError, match=rf"no tensor '{name}'"):
                of_mode(kind, mode, name).losses(BATCH)

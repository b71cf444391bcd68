"""Losses of a step that splits its batch: read off every backward that comes before the update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from fixtures.check_runs import errors, run_check
from fixtures.split_step import SplitRun, splitting
from gradgate.subjects.contract import Stage

DIVIDES = ("count", "parts")


def numbers(terms: Mapping[str, Tensor]) -> dict[str, float]:
    return {name: term.item() for name, term in terms.items()}


@pytest.mark.parametrize("divides", DIVIDES)
@pytest.mark.parametrize("parts", [2, 4])
def test_terms_of_parts_are_those_of_the_whole(parts: int, divides: str) -> None:
    """Parts of a sum are summed, parts that are means are averaged; either way a term is what one part would give."""
    one, split = (SplitRun(0, dtype=torch.float64, parts=count, divides=divides) for count in (1, parts))
    whole, found = one.losses(one.batch), split.losses(split.batch)
    assert numbers(found) == pytest.approx(numbers(whole))
    gradients = [torch.autograd.grad(each["value_loss"], run.modules["model"].weight)[0] for run, each in
                 ((one, whole), (split, found))]  # fmt: skip
    assert torch.allclose(*gradients)


def test_terms_are_weighted_by_what_the_total_takes_of_them() -> None:
    """Parts of three rows and of one: the longer counts three times."""

    class Uneven(SplitRun):
        terms: ClassVar[dict[str, str]] = {"value_loss": "loss"}

        def step(self, batch: Tensor) -> dict[str, float]:
            for part in batch.split([6, 2]):
                loss = self.trainer.model(part).square().mean()
                (loss * (len(part) / len(batch))).backward()
            self.optimizers[0].step()
            return {}

    run = Uneven(0)
    expected = run.modules["model"](run.batch).square().mean()
    assert run.losses(run.batch)["value_loss"].item() == pytest.approx(expected.item())


def test_a_factor_of_the_total_is_taken_for_a_share_only_where_no_term_is_whole() -> None:
    """Sums with a declared factor stay sums, though half and half would add up to one."""

    class Declared(SplitRun):
        terms: ClassVar[dict[str, str]] = {"value_loss": "value"}
        coefficients: ClassVar[dict[str, float]] = {"value_loss": 0.5}

    run, whole = (Declared(0, parts=parts, divides="count") for parts in (2, 1))
    assert run.losses(run.batch)["value_loss"].item() == pytest.approx(whole.losses(run.batch)["value_loss"].item())


def test_losses_of_parts_change_nothing_though_the_step_looks_at_its_gradients() -> None:
    """Clipping, a loss scaler and a count lie in front of the update; the next step is as if nobody had asked."""
    asked, other = SplitRun(0), SplitRun(0)
    kept = torch.ones_like(asked.modules["model"].weight)
    asked.modules["model"].weight.grad = kept
    asked.losses(asked.batch)
    asked.losses(asked.batch)
    assert asked.modules["model"].weight.grad is kept and bool(kept.eq(1).all())
    assert (asked.trainer.seen, asked.trainer.schedule.last_epoch) == (0, 0)
    for run in (asked, other):
        run.step(run.batch)
    assert all(map(torch.equal, asked.modules["model"].parameters(), other.modules["model"].parameters()))


def test_an_error_in_a_later_part_is_the_steps_own() -> None:
    """What raises in front of the last backward is not taken for its end."""
    run = SplitRun(0)
    handle = run.modules["model"].register_forward_hook(lambda *_: handle.remove() or later())

    def later() -> None:
        def refuse(*_: Any) -> None:
            raise ValueError("the second part")

        run.modules["model"].register_forward_hook(refuse)

    with pytest.raises(ValueError, match="the second part"):
        run.losses(run.batch)


def test_an_optimizer_that_the_run_does_not_name_makes_no_step() -> None:
    """The step is left where one is about to; what it trains stays as it was."""
    run = SplitRun(0)
    run.optimizers = [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)]
    before = run.modules["model"].weight.detach().clone()
    assert len(run.losses(run.batch)) == 3
    assert torch.equal(run.modules["model"].weight, before)


def test_an_optimizer_that_is_named_twice_is_one() -> None:
    """The step is left at its step."""
    run = SplitRun(0)
    run.optimizers = [*run.optimizers, *run.optimizers]
    run.losses(run.batch)
    assert run.trainer.schedule.last_epoch == 0 and run.trainer.seen == 0


def test_a_loss_inside_a_closure_is_read() -> None:
    """`optimizer.step(closure)` goes backward in the closure."""

    class Closed(SplitRun):
        terms: ClassVar[dict[str, str]] = {"value_loss": "loss"}

        def step(self, batch: Tensor) -> dict[str, float]:
            def closure() -> Tensor:
                loss: Tensor = self.trainer.model(batch).square().mean()
                loss.backward()
                return loss

            self.optimizers[0].step(closure)
            return {}

    run = Closed(0)
    terms = run.losses(run.batch)
    assert terms["total"] is terms["value_loss"]


@pytest.mark.parametrize("divides", DIVIDES)
@pytest.mark.parametrize("code", ["GG203", "GG205", "GG208", "GG410", "GG416"])
def test_checks_of_a_split_step_pass(code: str, divides: str) -> None:
    """What the update uses is held against all of its parts."""
    subject = splitting(divides=divides)
    outcome = run_check(code, subject, subject.stages[0])
    assert (errors(outcome), outcome.inconclusive) == ([], "")


@pytest.mark.parametrize("part", [0.0, 1e-6])
def test_gg203_passes_the_roundoff_of_a_term_that_is_a_difference(part: float) -> None:
    """Two losses that agree but for their rounding leave no path; a millionth of one does."""

    class Difference(SplitRun):
        def losses(self, batch: Tensor) -> Mapping[str, Tensor]:
            total = super().losses(batch)["total"]
            other = self.trainer.model(batch).square().mean()
            return {"total": total, "value_loss": (total + other / 3) - total - other * (1 - 2 / 3) + part * other}

    stage = Stage("train", Difference, edges={"value_loss": ()})
    assert bool(errors(run_check("GG203", splitting(), stage))) == bool(part)


def test_gg416_finds_a_metric_that_is_the_last_parts() -> None:
    """Where a term is that of all parts, one part's is another number."""

    class LastPart(SplitRun):
        def step(self, batch: Tensor) -> dict[str, float]:
            (_, value), metrics = self.trainer._losses(batch.chunk(2)[-1], 4), self.trainer.train_step(batch)
            return metrics | {"value_loss": float(value.detach())}

    subject = splitting()
    stage = Stage("train", LastPart)
    assert "`value_loss`" in errors(run_check("GG416", subject, stage))[0]


def test_gg410_finds_parts_that_are_not_divided_by_their_number() -> None:
    """Means that are added up change with what the batch is split into: a window of one part is another gradient."""

    class Windowed(SplitRun):
        def window(self, parts: Any) -> Tensor:
            self.trainer.parts = len(parts)
            return torch.cat(list(parts))

    subject = splitting()
    for sums in (False, True):
        stage = Stage("train", lambda seed, sums=sums, **given: Windowed(seed, **given, sums=sums))
        assert bool(errors(run_check("GG410", subject, stage))) == sums

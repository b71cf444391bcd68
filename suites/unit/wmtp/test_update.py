"""The update: groups, schedule, clipping, and every case in which it must not happen."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from fixtures.small_runs import CPU, bits, token_stage, unequal
from wmtp.errors import NonFiniteError
from wmtp.settings import OptimSection
from wmtp.update import SKIPS_IN_A_ROW, Update, autocast, parameter_groups, schedule

STEPS = 12


def settings(**changes: Any) -> OptimSection:
    return OptimSection(warmup_steps=0, schedule="constant").model_copy(update=changes)


def linear_update(precision: str = "fp32", **changes: Any) -> tuple[nn.Linear, Update]:
    """A linear layer with gradients of 1 and the update over it."""
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    groups = parameter_groups([("linear", module, 0.1)], 0.0)
    update = Update(groups, settings(**changes), total_steps=STEPS, device=CPU, precision=precision)
    set_gradients(module, 1.0)
    return module, update


def set_gradients(module: nn.Module, value: float) -> None:
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, value)


def state_of(module: nn.Module, update: Update) -> Any:
    return bits([module.state_dict(), update.optimizer.state_dict()["state"]])


def overflow(module: nn.Linear, update: Update) -> dict[str, float]:
    """A step whose scaled gradients overflowed."""
    update.zero_grad()
    update.backward((module.weight.sum() + module.bias.sum()) * 1.0)
    module.weight.grad[0, 0] = math.inf
    return update.apply(torch.tensor(1.0), {})


def test_every_parameter_is_in_one_group_when_embeddings_are_tied() -> None:
    """The shared matrix belongs to the trunk, and nothing is left out or stepped twice."""
    stage = token_stage("model.tie_embeddings=true")
    grouped = [id(p) for group in stage.update.optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in stage.model.parameters()}


def test_matrices_decay_and_vectors_do_not() -> None:
    """Weight decay is for what has two axes."""
    groups = token_stage().update.optimizer.param_groups
    axes = {group["name"]: ({p.dim() > 1 for p in group["params"]}, group["weight_decay"]) for group in groups}
    assert axes == {
        "trunk": ({True}, 0.01),
        "trunk (no decay)": ({False}, 0.0),
        "heads": ({True}, 0.01),
        "heads (no decay)": ({False}, 0.0),
        "value_head": ({True}, 0.01),
        "value_head (no decay)": ({False}, 0.0),
    }


def test_value_head_has_its_own_learning_rate() -> None:
    """`critic.value_lr` is the value head's, `optim.lr` everybody else's."""
    groups = token_stage("optim.lr=0.02", "critic.value_lr=0.005").update.optimizer.param_groups
    assert {(g["name"].split(" ")[0], g["initial_lr"]) for g in groups} == {
        ("trunk", 0.02),
        ("heads", 0.02),
        ("value_head", 0.005),
    }


def test_frozen_parameters_are_in_no_group() -> None:
    """What does not ask for a gradient is not stepped; an empty group is left out."""
    module = nn.Linear(3, 2)
    module.weight.requires_grad_(False)
    assert [group["name"] for group in parameter_groups([("linear", module, 0.1)], 0.0)] == ["linear (no decay)"]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.7, 0.4, 0.1, 0.1]),
        ("cosine", [0.5, 1.0, 1.0, 0.775, 0.325, 0.1, 0.1]),
    ],
)
def test_schedule_warms_up_and_falls_to_its_end(kind: str, expected: list[float]) -> None:
    """Warm-up of 2 of 6 steps, the peak behind it, the final ratio at the last step and beyond."""
    optim = settings(schedule=kind, warmup_steps=2, final_ratio=0.1)
    assert [schedule(step, 6, optim) for step in range(7)] == pytest.approx(expected)


def test_schedule_stays_in_the_warm_up_when_it_is_longer_than_the_run() -> None:
    """A warm-up that never ends is no division by zero."""
    optim = settings(schedule="cosine", warmup_steps=10)
    assert [schedule(step, 4, optim) for step in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert schedule(0, 1, settings(schedule="linear")) == 1.0


def test_schedule_moves_all_groups_alike() -> None:
    """Each group's rate is its own peak times the same share, step after step."""
    stage = token_stage("optim.schedule=linear", "optim.warmup_steps=2", "train.max_steps=4")
    update, shares = stage.update, []
    for _ in range(5):
        shares.append({round(group["lr"] / group["initial_lr"], 9) for group in update.optimizer.param_groups})
        update.optimizer.step()
        update.scheduler.step()
    assert shares == [{0.5}, {1.0}, {1.0}, {0.1}, {0.1}]


def test_update_reports_rate_and_norm_of_its_own_step() -> None:
    """The rate is the one that was used, the norm that before clipping."""
    _, update = linear_update(schedule="linear", warmup_steps=2, grad_clip=0.5)
    read = update.apply(torch.tensor(2.0), {"wmtp_loss": torch.tensor(1.5)})
    expected = {"loss": 2.0, "wmtp_loss": 1.5, "grad_norm": math.sqrt(8), "lr": 0.05, "skipped": 0.0}
    assert read == pytest.approx(expected)


def test_clipping_keeps_the_direction() -> None:
    """The gradients that are stepped have the norm that was asked for."""
    module, update = linear_update(grad_clip=0.5)
    update.apply(torch.tensor(0.0), {})
    expected = torch.full((2, 3), 0.5 / math.sqrt(8))
    torch.testing.assert_close(module.weight.grad, expected, rtol=1e-5, atol=0)


def test_gradients_stay_when_clipping_is_off() -> None:
    """`grad_clip: null` leaves them alone."""
    module, update = linear_update(grad_clip=None)
    update.apply(torch.tensor(0.0), {})
    assert module.weight.grad.unique().tolist() == [1.0]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_loss_that_is_not_finite_stops_before_the_update(loss: float, precision: str) -> None:
    """With a scaler too: parameters and optimizer state are bit-equal, the schedule stands."""
    module, update = linear_update(precision)
    update.zero_grad()
    update.backward(module.weight.sum() + module.bias.sum())
    update.apply(torch.tensor(1.0), {})
    before, at = state_of(module, update), update.scheduler.last_epoch
    update.zero_grad()
    update.backward(module.weight.sum() + module.bias.sum())
    with pytest.raises(NonFiniteError, match=r"^the loss is (nan|-?inf)$"):
        update.apply(torch.tensor(loss), {})
    assert state_of(module, update) == before
    assert update.scheduler.last_epoch == at


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_gradient_that_is_not_finite_stops_before_the_update(value: float) -> None:
    """Without a scaler there is no excuse for it."""
    module, update = linear_update()
    update.apply(torch.tensor(1.0), {})
    before = state_of(module, update)
    module.weight.grad[1, 1] = value
    with pytest.raises(NonFiniteError, match=r"^the gradient norm is (nan|inf)$"):
        update.apply(torch.tensor(1.0), {})
    assert state_of(module, update) == before


def test_overflow_under_the_scaler_skips_the_update() -> None:
    """Parameters, optimizer state and schedule stand, the scale falls, and the metrics count it."""
    module, update = linear_update("fp16")
    before, scale = state_of(module, update), update.scaler.get_scale()
    read = overflow(module, update)
    assert (read["skipped"], update.skipped, update.skipped_in_a_row) == (1.0, 1, 1)
    assert state_of(module, update) == before
    assert (update.scheduler.last_epoch, update.scaler.get_scale()) == (0, scale / 2)


def test_overflow_counts_anew_behind_a_good_step() -> None:
    """Only skips in a row stop the run."""
    module, update = linear_update("fp16")
    overflow(module, update)
    update.zero_grad()
    update.backward(module.weight.sum() + module.bias.sum())
    read = update.apply(torch.tensor(1.0), {})
    assert (read["skipped"], update.skipped, update.skipped_in_a_row, update.scheduler.last_epoch) == (0.0, 1, 0, 1)


def test_overflow_stops_the_run_when_it_comes_20_times_in_a_row() -> None:
    """19 are skipped, the 20th is an error, and nothing has been updated."""
    module, update = linear_update("fp16")
    before = state_of(module, update)
    for _ in range(SKIPS_IN_A_ROW - 1):
        overflow(module, update)
    with pytest.raises(NonFiniteError, match=r"^the gradient norm is inf, and 20 updates in a row were skipped$"):
        overflow(module, update)
    assert state_of(module, update) == before


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_update_goes_on_as_if_it_had_not_been_saved(precision: str) -> None:
    """State out, state in: the next steps are bit-equal, rates and scale included."""
    module, update = linear_update(precision, schedule="cosine", warmup_steps=3)
    steps(module, update, 4)
    saved, weights = copy.deepcopy(update.state_dict()), copy.deepcopy(module.state_dict())
    steps(module, update, 4)
    other, resumed = linear_update(precision, schedule="cosine", warmup_steps=3)
    other.load_state_dict(weights)
    resumed.load_state_dict(saved)
    assert resumed.scheduler.get_last_lr() == [group["lr"] for group in resumed.optimizer.param_groups]
    steps(other, resumed, 4)
    assert unequal([other.state_dict(), resumed.state_dict()], [module.state_dict(), update.state_dict()]) == []


def steps(module: nn.Linear, update: Update, count: int) -> None:
    for _ in range(count):
        update.zero_grad()
        loss = (module.weight.square().sum() + module.bias.sum()).square()
        update.backward(loss)
        update.apply(loss.detach(), {})


def test_update_follows_the_new_schedule_when_its_length_has_changed() -> None:
    """A run that is made longer goes on with the rate of the longer schedule."""
    module, update = linear_update(schedule="linear", final_ratio=0.0)
    steps(module, update, STEPS)
    groups = parameter_groups([("linear", module, 0.1)], 0.0)
    longer = Update(groups, settings(schedule="linear", final_ratio=0.0), total_steps=2 * STEPS + 1, device=CPU)
    longer.load_state_dict(update.state_dict())
    assert update.optimizer.param_groups[0]["lr"] == 0.0
    assert longer.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_is_off_for_fp32_only(precision: str, dtype: torch.dtype) -> None:
    """The forward's matrix products are in the precision that the config names."""
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype

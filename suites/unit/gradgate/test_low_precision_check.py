"""GG305: a reduction kept in 16 bits turns it red, and right formulas pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fixtures import broken_functions
from fixtures.check_runs import errors, run_check
from fixtures.formula_subjects import subject_with
from fixtures.mini_trainer import MiniBatch, MiniRun, Parts
from fixtures.pytest_fixtures import rest_at_night
from gradgate.subjects.contract import Functions, Run, Stage, Subject

GOOD = broken_functions.good_functions()


def loss_in_the_logits_dtype(logits_BSHV: Tensor, label_BSH: Tensor, weight_BSH: Tensor) -> Tensor:
    return broken_functions.loss(logits_BSHV, label_BSH, weight_BSH.to(logits_BSHV.dtype))


def loss_widened(logits_BSHV: Tensor, label_BSH: Tensor, weight_BSH: Tensor) -> Tensor:
    wide = logits_BSHV if logits_BSHV.itemsize > 2 else logits_BSHV.float()
    return broken_functions.loss(wide, label_BSH, weight_BSH)


def returns_in_the_values_dtype(reward_BS: Tensor, value_BS: Tensor, valid_BS: Tensor, **options: object) -> Tensor:
    return broken_functions.returns(reward_BS, value_BS, valid_BS, **options).to(value_BS.dtype)  # type: ignore[arg-type]


def value_loss_in_the_values_dtype(value_BS: Tensor, return_BS: Tensor, valid_BS: Tensor) -> Tensor:
    """Returns are rounded to the values' dtype before the error is taken."""
    return value_loss_widened(value_BS, return_BS.to(value_BS.dtype), valid_BS)


def value_loss_widened(value_BS: Tensor, return_BS: Tensor, valid_BS: Tensor) -> Tensor:
    error_BS = (value_BS.to(return_BS.dtype) - return_BS).float().masked_fill(~valid_BS, 0.0)
    return error_BS.square().sum() / valid_BS.sum().clamp(min=1)


CLEAN = replace(GOOD, loss=loss_widened, value_loss=value_loss_widened)


@pytest.mark.parametrize(
    ("functions", "told"),
    [
        (replace(CLEAN, loss=loss_in_the_logits_dtype), "loss of 16-bit logits is "),
        (replace(CLEAN, returns=returns_in_the_values_dtype), "return of 16-bit values at [b, t] = "),
        (replace(CLEAN, value_loss=value_loss_in_the_values_dtype), "value loss of 16-bit values is "),
        (replace(CLEAN, weights=partial(broken_functions.weights, widen=False)), "head weight of 16-bit values at "),
    ],
)
def test_gg305_finds_a_reduction_in_16_bits(functions: Functions, told: str) -> None:
    """With the number, the reference's, and how far float32 may be off."""
    outcome = run_check("GG305", subject_with(functions), None)

    assert errors(outcome) != []
    assert all(message.startswith(told) and "allowed " in message for message in errors(outcome))
    assert outcome.measured["error_to_bound_ratio"] > 1


def test_gg305_alone_sees_a_loss_in_16_bits() -> None:
    """The boundary grid allows a loss its logits' dtype."""
    subject = subject_with(replace(CLEAN, loss=loss_in_the_logits_dtype))

    assert [code for code in ("GG401", "GG402", "GG404", "GG501") if errors(run_check(code, subject, None))] == []


@pytest.mark.parametrize("seed", rest_at_night(range(3), day=1))
def test_gg305_passes_formulas_that_widen(seed: int) -> None:
    """All three, in both dtypes."""
    outcome = run_check("GG305", subject_with(CLEAN), None, seed)

    assert (outcome.findings, outcome.measured["functions_tried"]) == ((), 4)
    assert outcome.measured["error_to_bound_ratio"] < 1


class Narrow(MiniRun):
    """Values in bfloat16; its loss as a fault may have it."""

    judge: ClassVar[Callable[[Tensor, Tensor], Tensor]]

    def losses(self, batch: MiniBatch) -> Mapping[str, Tensor]:
        value_BS = self.modules["value_head"](self.features(batch))[..., 0].bfloat16()
        error_BS = type(self).judge(value_BS, self.parts.targets(value_BS, batch.reward_B, batch.valid_BS).bfloat16())
        total = error_BS.float().masked_fill(~batch.valid_BS, 0.0).sum() / batch.valid_BS.sum()
        return {"total": total, "value_loss": total}


def widened(value_BS: Tensor, target_BS: Tensor) -> Tensor:
    return (value_BS.float() - target_BS.float()).square()


def subtracted(value_BS: Tensor, target_BS: Tensor) -> Tensor:
    return (value_BS - target_BS).square()


def with_the_one_before(value_BS: Tensor, target_BS: Tensor) -> Tensor:
    """As a delta that is not padded: one column fewer than there are positions."""
    delta_BS = value_BS[:, 1:] - value_BS[:, :-1]
    return F.pad(delta_BS.float(), (0, 1)).square() + widened(value_BS, target_BS)


def squared_error(value_BS: Tensor, target_BS: Tensor) -> Tensor:
    return F.mse_loss(value_BS, target_BS, reduction="none")


@pytest.mark.parametrize(
    ("judge", "precision", "found"),
    [
        (widened, "bf16", []),
        (subtracted, "bf16", [("error", "takes a difference of values in bfloat16; allowed: float32")]),
        (subtracted, "fp32+bf16", [("error", "takes a difference of values in bfloat16; allowed: float32")]),
        (with_the_one_before, "bf16", [("error", "takes a difference of values in bfloat16; allowed: float32")]),
        (squared_error, "bf16", [("error", "takes `mse_loss` in bfloat16; allowed: float32")]),
        (squared_error, "fp32+bf16", [("warning", "which CUDA's autocast widens and the CPU's does not")]),
    ],
)
def test_gg305_watches_a_stage_in_16_bits(judge: Any, precision: str, found: list[tuple[str, str]]) -> None:
    """By the line, without a formula; under the CPU's autocast a loss of torch's is a warning."""
    run = type("Own", (Narrow,), {"judge": staticmethod(judge)})

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Run:
        return run("value", Parts(), seed, dtype, device)

    subject = Subject("narrow", [Stage("value", start, precisions={precision: start})], source=Path(__file__))
    findings = run_check("GG305", subject, None).findings

    assert [
        (each.severity, told) for each, (_, told) in zip(findings, found, strict=True) if told in each.message
    ] == found
    assert all(each.culprit is not None and each.culprit.function == judge.__name__ for each in findings)


def test_gg305_does_not_apply_without_a_formula() -> None:
    """Any one would do, and each is named."""
    reason = run_check("GG305", subject_with(Functions()), None).not_applicable

    assert all(f"functions=gradgate.Functions({name}=...)" in reason for name in ("loss", "weights", "returns"))

"""GG216: a factor on a gradient scales it in proportion."""

from __future__ import annotations

import pytest

from fixtures.check_runs import run_check
from fixtures.gradient_factors import scaled


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("the wrong way round", "with critic.trunk_grad = 0, and 0 with 1"),
        ("the wrong way round, but for one", "with critic.trunk_grad = 0, and"),
        ("squared", "with critic.trunk_grad = 0.1, and"),
        ("on and off", "with critic.trunk_grad = 0.1, and"),
    ],
)
def test_factor_that_does_not_scale_is_told_with_its_term_and_module(way: str, said: str) -> None:
    """The reader of the trunk that no factor is for is left alone."""
    subject = scaled(way)
    (finding,) = run_check("GG216", subject, subject.stages[0]).findings
    assert finding.message.startswith("the gradient of `value_loss` on `trunk` has norm ") and said in finding.message


def test_factor_that_scales_passes() -> None:
    """One pair is compared."""
    subject = scaled("right")
    outcome = run_check("GG216", subject, subject.stages[0])
    assert outcome.findings == () and outcome.measured["compared"] == 1


def test_term_that_reaches_the_module_by_another_way_too_says_nothing() -> None:
    """What it has there without the factor is none of its business."""
    subject = scaled("beside another way")
    assert "at 0 and 1" in run_check("GG216", subject, subject.stages[0]).inconclusive


@pytest.mark.parametrize("key", ["grad_clip", "loss.grad_scale_init", "max_grad_norm", "accum_grad", "weight"])
def test_keys_that_are_no_factors_are_left_alone(key: str) -> None:
    """The reason shows one that is."""
    subject = scaled("right", key)
    assert "'trunk_grad'" in run_check("GG216", subject, subject.stages[0]).not_applicable

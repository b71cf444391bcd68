"""What the bundled adapter reads off a whole run: the fits of both stages."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from gradgate_wmtp import fits
from gradgate_wmtp.small import SMALL

SHORT = (*SMALL, "pretrain.num_epochs=1", "train.max_steps=4", "train.eval_every=2")


@pytest.fixture
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of a few steps; whole ones are the suites' matter."""
    settings = fits.settings
    monkeypatch.setattr(fits, "settings", lambda seed, device, *overrides: settings(seed, device, *overrides, *SHORT))
    fits.whole_run.cache_clear()


@pytest.mark.usefixtures("short_runs")
def test_fit_of_each_stage_has_what_its_checks_read() -> None:
    """Predictions with their targets, held-out losses one an evaluation, head weights that sum to 1."""
    first, second = fits.fit_stage1(0), fits.fit_stage2(0)
    fits.whole_run.cache_clear()

    assert (len(first.curve), first.epochs) == (2, 1)
    sizes: set[Any] = {len(one) for one in (first.prediction_N, first.target_N, first.position_N)}
    assert len(sizes) == 1
    assert len(first.score_R) == len(first.right_R)
    assert len(second.curve) == 3
    assert torch.allclose(second.weight_NH.sum(-1), torch.ones(len(second.weight_NH)))
    assert 0 < second.constant_loss < 10

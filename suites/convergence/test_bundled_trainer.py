"""Both stages of the real trainer learn, on the corpus that ships with it; nightly over five seeds."""

from __future__ import annotations

import pytest

import gradgate
from gradgate.checks.prediction import quality
from gradgate_wmtp.fits import fit_stage1, fit_stage2

# One worker does all of these: a whole run takes seconds, and the checks share those of the same seed.
pytestmark = pytest.mark.xdist_group("whole runs")

SEEDS = range(5)
VALUE_BAR = 0.9  # of the best constant's squared error; measured 0.66 ± 0.08
AUC_BAR = 0.9  # measured 0.9998 ± 0.0005


@pytest.mark.nightly
@gradgate.parametrize("gradgate_wmtp:subject", select=("GG504", "GG505", "GG506", "GG902"))
def test_bundled_trainer_holds(check):
    """The convergence checks of the catalogue pass on it; a pull request has them in `gradgate verify`."""
    check()


@pytest.mark.nightly
@pytest.mark.parametrize("seed", SEEDS)
def test_stage1_beats_the_constant_and_separates_right_from_wrong(seed):
    """Within 3 epochs the value head beats the best constant by a tenth, and scores right rows above wrong ones."""
    fit = fit_stage1(seed)
    found = quality(fit)
    assert fit.epochs == 3
    assert found is not None
    assert found.ratio < VALUE_BAR
    assert found.auc > AUC_BAR


@pytest.mark.nightly
@pytest.mark.parametrize("seed", SEEDS)
def test_stage2_lowers_the_unweighted_heldout_cross_entropy(seed):
    """Stage 2 ends below where it began, judged without its own weights."""
    curve = fit_stage2(seed).curve
    assert curve[-1] < curve[0]

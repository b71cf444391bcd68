"""Speed of the bundled trainer: plots from pytest-benchmark, verdicts from the paired gate. Nightly: `make speed`."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from suites.speed import steps

pytestmark = pytest.mark.nightly
BASE = os.environ.get("GRADGATE_BASE_REF", "HEAD~1")
HERE = Path(__file__).parent
STEPS = (steps.labels, steps.weights, steps.loss, steps.returns, steps.stage2)


def names(step: Any) -> str:
    return str(step.__name__)


@pytest.mark.parametrize("make", STEPS, ids=names)
def test_time_of_a_step(make: Any, request: pytest.FixtureRequest):
    """Rounds for the plots (`--benchmark-json`); stored times decide nothing, so nothing is asserted of them."""
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
    request.getfixturevalue("benchmark")(make())


def in_base(file: str) -> bool:
    """Whether the base has a file: a shallow clone has no base, a new benchmark is not in it."""
    if shutil.which("git") is None:
        return False
    known = subprocess.run(["git", "cat-file", "-e", f"{BASE}:./{file}"], cwd=HERE, capture_output=True, check=False)
    return known.returncode == 0


@pytest.mark.skipif(not in_base("steps.py"), reason=f"there is no suites/speed/steps.py in {BASE} (GRADGATE_BASE_REF)")
class TestAgainstBase:
    """No step costs more than that of the base revision."""

    @pytest.mark.gradgate_budget(steps.weights, base_ref=BASE)
    def test_head_weights(self):
        """By time and by counters."""

    @pytest.mark.gradgate_budget(steps.loss, base_ref=BASE)
    def test_loss(self):
        """By time and by counters."""

    @pytest.mark.gradgate_budget(steps.returns, base_ref=BASE)
    def test_returns(self):
        """By time and by counters."""

    @pytest.mark.gradgate_budget(steps.stage2, base_ref=BASE)
    def test_main_training(self):
        """By time and by counters."""

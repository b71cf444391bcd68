"""Trainers that look as if they learn: the convergence checks refuse every one, and pass the clean twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from fixtures import mini_trainer
from fixtures.broken_learners import BROKEN
from fixtures.stored_trajectories import store
from gradgate.checks import catalogue
from gradgate.checks.isolation import isolated
from gradgate.subjects.contract import Context, Subject

# By bar, by trend, spike and rate, by null model, by entropy, and against a critic trained alone.
CODES = ("GG901", "GG902", "GG904", "GG905", "GG505")
QUICK = ("value: uphill", "value: loss shrinks by itself")
FRESH = 1000  # beyond the seeds that are stored


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clean twin's trajectories."""
    folder = tmp_path_factory.mktemp("stored")
    store(folder, mini_trainer.subject())
    return folder


def verdicts(
    subject: Subject, number: int, seed: int = 0, codes: Sequence[str] = CODES, baselines: Path | None = None
) -> dict[str, str]:
    """What each check that is for a stage says of it: "fault", "open" or nothing."""
    stage, found = subject.stages[number], {}
    for check in (catalogue.load_check(catalogue.rule(code)) for code in codes):
        if check.objective in (None, stage.objective):
            with isolated(seed) as folder:
                outcome = check.function(subject, stage, Context(seed=seed, folder=folder, baselines=baselines))
            if outcome.findings or outcome.inconclusive:
                found[check.rule.code] = "fault" if outcome.findings else "open"
    return found


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else [pytest.mark.nightly]) for name in BROKEN],
)
def test_broken_learner_is_refused(name: str) -> None:
    """A finding, not merely an open case."""
    number, parts = BROKEN[name]

    assert "fault" in verdicts(mini_trainer.subject(**parts), number).values()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["tokens: rate x 10", "tokens: rate grows", "value: shuffled rewards"])
def test_broken_learner_leaves_the_stored_trajectory(name: str, stored: Path) -> None:
    """What clears the wide bars does not clear those that the stored seeds' spread sets."""
    number, parts = BROKEN[name]

    assert verdicts(mini_trainer.subject(**parts), number, FRESH, ("GG903",), stored) == {"GG903": "fault"}


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(0, 250, 5))
@pytest.mark.parametrize("number", [0, 1])
def test_clean_twin_keeps_to_the_stored_trajectory(number: int, seed: int, stored: Path) -> None:
    """Fifty runs with seeds that are not stored."""
    assert verdicts(mini_trainer.subject(), number, FRESH + seed, ("GG903",), stored) == {}


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(0, 250, 5))
@pytest.mark.parametrize("number", [0, 1])
def test_clean_twin_passes_with_fresh_seeds(number: int, seed: int) -> None:
    """Fifty runs, each with seeds of its own, and no false alarm."""
    assert verdicts(mini_trainer.subject(), number, seed) == {}

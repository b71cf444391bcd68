"""GG420 and GG421: a first ratio that is not 1, and dropout where no gradient is taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fixtures.check_runs import errors, run_check
from fixtures.policy_faults import CLEAN, NOISY, RATIOS, Parts, subject
from gradgate.subjects.contract import Stage, Subject


def outcomes(parts: Parts) -> dict[str, list[str]]:
    """What both checks say of a policy."""
    made = subject(parts)
    return {code: errors(run_check(code, made, made.stages[0])) for code in ("GG420", "GG421")}


@pytest.mark.parametrize("name", CLEAN)
def test_clean_policy_passes(name: str) -> None:
    """Two updates of one rollout, a reference and a checkpointed forward are no faults."""
    assert outcomes(CLEAN[name]) == {"GG420": [], "GG421": []}


@pytest.mark.parametrize("name", RATIOS)
def test_a_first_ratio_that_is_not_one_is_found(name: str) -> None:
    """And the line of the exponential is named; the other check is silent."""
    parts, told = RATIOS[name]
    made = subject(parts)
    (finding,) = run_check("GG420", made, made.stages[0]).findings
    assert told in finding.message and finding.culprit is not None
    assert finding.culprit.source == "ratio_BS = torch.exp(new_BS - old_BS)"
    assert outcomes(parts)["GG421"] == []


@pytest.mark.parametrize("name", NOISY)
def test_dropout_without_a_gradient_is_found(name: str) -> None:
    """The module is named as the run names it, or by its class; once, however often it runs."""
    parts, told = NOISY[name]
    (message,) = outcomes(parts)["GG421"]
    assert told in message


def test_options_of_dropout_are_moved() -> None:
    """A small run without dropout shows what one with it does; so does a temperature."""
    parts = replace(Parts(rollout=True, update=True), rate=0.0)
    made = subject(parts)
    stage = replace(made.stages[0], options={"rate_of_dropout": (0.0, 0.3), "temperature": (1.0, 0.5), "clip": (1,)})

    def start(seed: int, *, options: dict[str, float] | None = None, **given: torch.dtype) -> object:
        names = {"rate_of_dropout": "rate", "temperature": "temperature"}
        return made.stages[0].start(
            seed, options={names[key]: value for key, value in (options or {}).items()}, **given
        )

    moved = Stage("moved", start, options=stage.options)
    assert "both, and dropped other" in run_check("GG420", Subject("moved", [moved]), moved).findings[0].message
    assert "rate_of_dropout = 0.3" in errors(run_check("GG421", Subject("moved", [moved]), moved))[0]


@pytest.mark.parametrize(("text", "red"), [("class Config:\n    dropout: float = 0.0\n", True), ("X = 1\n", False)])
def test_modes_that_differ_at_a_rate_of_0_are_found_where_it_can_be_set(text: str, red: bool, tmp_path: Path) -> None:
    """A trainer that has no dropout at all may leave the mode as it is."""
    (tmp_path / "trainer.py").write_text(text, encoding="utf-8")
    made = replace(subject(Parts(update=True, rate=0.0)), source=tmp_path)
    found = errors(run_check("GG420", made, made.stages[0]))
    assert bool(found) is red and all("new log-probabilities of a ratio are taken in train mode" in f for f in found)


def test_a_step_without_a_ratio_is_not_looked_at() -> None:
    """What is missing is said."""
    made = subject(replace(Parts(), updates=0))
    assert "log-probabilities" in run_check("GG420", made, made.stages[0]).not_applicable

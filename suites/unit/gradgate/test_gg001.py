"""GG001 turns red for each clause of the contract that a subject breaks, and stays green for its clean twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fixtures import broken_contract as broken
from fixtures.plain_loop import CapableRun, PlainRun, capable, subject
from gradgate.checks import gg001_subject_contract as gg001
from gradgate.checks.isolation import isolated
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject


def check(made: Subject, folder: Path) -> Outcome:
    with isolated(0):
        return gg001.check(made, None, Context(folder=folder))


def messages(made: Subject, folder: Path) -> list[str]:
    return [finding.message for finding in check(made, folder).findings]


@pytest.mark.parametrize("make", [subject, capable, broken.full], ids=["bare", "capable", "full"])
def test_gg001_passes_a_clean_subject(make: Callable[[], Subject], tmp_path: Path):
    """Neither few nor many capabilities are a fault."""
    outcome = check(make(), tmp_path)
    assert outcome.findings == ()
    assert outcome.measured["broken_clauses"] == 0
    assert set(outcome.measured["step_s"]) == {stage.name for stage in make().stages}


@pytest.mark.parametrize(("run", "message"), broken.RUNS, ids=[run.__name__ for run, _ in broken.RUNS])
def test_gg001_fails_a_run_that_breaks_a_clause(run: type, message: str, tmp_path: Path):
    """One broken clause, one finding that names it; the rest of the contract is still looked at."""
    made = Subject("broken", [Stage("train", run)])
    found = messages(made, tmp_path)
    assert any(text.startswith(f"stage 'train': {message}") for text in found), found
    assert len(found) <= 2


@pytest.mark.parametrize(("change", "message"), broken.SUBJECTS, ids=[message[:30] for _, message in broken.SUBJECTS])
def test_gg001_fails_a_subject_that_breaks_a_clause(change: dict, message: str, tmp_path: Path):
    """What the subject declares as a whole is looked at too."""
    found = messages(replace(subject(), **change), tmp_path)
    assert any(text.startswith(message) for text in found), found


def test_gg001_puts_back_what_a_run_changed(tmp_path: Path):
    """The check tells of a changed default, and does not pass it on."""
    messages(Subject("broken", [Stage("train", broken.LeaksDtype)]), tmp_path)
    assert torch.get_default_dtype() == torch.float32


def test_gg001_names_the_line_that_raised(tmp_path: Path):
    """What the subject raises comes with the place in its own code."""
    (found,) = messages(Subject("broken", [Stage("train", broken.LosesNothing)]), tmp_path)
    assert "broken_contract.py:" in found
    assert found.endswith("in losses())")


def test_gg001_warns_of_a_slow_step_and_passes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Slowness makes the catalogue long, not the trainer wrong."""
    ticks = iter(range(0, 1000, 2))
    monkeypatch.setattr(gg001.time, "perf_counter", lambda: next(ticks))
    (finding,) = check(subject(), tmp_path).findings
    assert (finding.severity, finding.message) == (
        "warning",
        "stage 'train': a step takes 2.0 s (up to 1 s keeps the catalogue quick)",
    )


def test_gg001_says_the_same_fault_once(tmp_path: Path):
    """A stage that does not start is one finding, however many clauses would start it."""

    def start(seed, **options):
        raise OSError("no data")

    (found,) = messages(Subject("s", [Stage("train", start)]), tmp_path)
    assert found.startswith("stage 'train': start() raised OSError: no data (")


def test_gg001_looks_at_every_stage(tmp_path: Path):
    """A clean first stage does not hide a broken second one."""
    stages = [Stage("clean", CapableRun), Stage("bare", PlainRun), Stage("broken", broken.Unseeded)]
    assert [text.split(":")[0] for text in messages(Subject("s", stages), tmp_path)] == ["stage 'broken'"] * 2


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ({"total": ("model",)}, ""),
        ({"totl": ("model",)}, "edges: losses() has no term 'totl', only total"),
        ({"total": ("modle",)}, "edges['total']: no module 'modle', only model"),
    ],
)
def test_gg001_looks_at_what_edges_name(edges: dict, message: str, tmp_path: Path):
    """Terms and modules are there, or the declaration says nothing."""
    found = messages(Subject("edged", [Stage("train", CapableRun, edges=edges)]), tmp_path)
    assert found == ([f"stage 'train': {message}"] if message else [])

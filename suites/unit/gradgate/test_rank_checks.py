"""The checks on several processes: each fault is found, the clean twin passes, and a hang is told with every stack."""

from __future__ import annotations

import math
import os
import signal
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from fixtures import rank_faults
from gradgate.checks import catalogue, rank_rounding, ranks
from gradgate.checks.gg610_one_process_differs_from_n import gradients_of
from gradgate.checks.isolation import isolated
from gradgate.checks.naming import unnamed
from gradgate.checks.ranks import Rank, together, told
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject

pytestmark = pytest.mark.usefixtures("nothing_set_aside")

CODES = ("GG602", "GG609", "GG610", "GG611")
HANG = 3.0  # instead of a minute: a healthy twin needs none of it, since a process that has ended is not waited for


def run_check(code: str, subject: Subject, device: str = "cpu", *, lines: bool = False) -> Outcome:
    """The outcome of one check, isolated as the runner does it; without a look for lines, which has its own tests."""
    with isolated(0) as folder, nullcontext() if lines else unnamed():
        context = Context(folder=folder, device=device)
        return catalogue.load_check(catalogue.rule(code)).function(subject, subject.stages[0], context)


@pytest.mark.parametrize("fault", rank_faults.FAULTS)
def test_rank_fault_turns_its_check_red(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that a fault is meant for finds it, and says which way of training it was."""
    code = rank_faults.FAULTS[fault]
    monkeypatch.setattr(ranks, "SECONDS", HANG)

    outcome = run_check(code, rank_faults.subject(fault))

    assert {(finding.code, finding.severity) for finding in outcome.findings} == {(code, "error")}
    assert all(finding.message.startswith("ddp: ") for finding in outcome.findings)


@pytest.mark.parametrize("code", CODES)
def test_rank_check_passes_on_the_clean_twin(code: str) -> None:
    """No finding, and a decision."""
    outcome = run_check(code, rank_faults.subject())

    assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")
    assert set(outcome.measured) & set(outcome.allowed)


def test_rows_that_two_processes_share_evenly_are_shared_by_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done with a rest shows in any batch size; the clean twin shares it out."""
    monkeypatch.setattr(rank_faults, "BATCH", rank_faults.ROWS)

    messages = [finding.message for finding in run_check("GG610", rank_faults.subject("rest-dropped")).findings]

    assert "ddp: 1 rows of an epoch are in no process or in several" in messages
    assert any("between 1 and 3 processes" in message for message in messages)
    assert run_check("GG610", rank_faults.subject()).findings == ()


@pytest.mark.parametrize(("apart", "found"), [(True, 0), (False, 1)])
def test_ranks_that_draw_the_same_dropout_are_found(apart: bool, found: int) -> None:
    """Where a key of the configuration gives dropout; a stream of its own for each rank is right."""

    class Drawing(rank_faults.RankRun):
        def __init__(self, seed: int, rank: int | None, dropout: float) -> None:
            super().__init__(seed, None, rank, torch.float32)
            self.dropout = dropout
            torch.manual_seed(seed + (rank or 0) * apart)

        def step(self, batch: Any) -> Any:
            torch.rand(1 if self.dropout else 0)
            return super().step(batch)

    def start(seed: int, *, options: Any = None, ranked: bool = False, **_: Any) -> Run:
        return Drawing(seed, dist.get_rank() if ranked else None, (options or {}).get("dropout", 0.0))

    ways = {"ddp": partial(start, ranked=True)}
    stage = Stage("only", start, distributed=ways, options={"dropout": (0.0, 0.1)})

    messages = [finding.message for finding in run_check("GG609", Subject("drawing", [stage])).findings]

    assert len(messages) == found
    assert all("ranks draw the same random numbers" in message for message in messages)


@pytest.mark.parametrize("code", ["GG609", "GG610", "GG611"])
def test_rank_check_is_not_applicable_on_a_gpu(code: str) -> None:
    """A forked process has no GPU, and that is told."""
    assert "--device cpu" in run_check(code, rank_faults.subject(), device="cuda").not_applicable


def test_hang_is_told_with_the_stack_of_every_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that waits and the line that went on are both in the finding."""
    monkeypatch.setattr(ranks, "SECONDS", HANG)

    (finding,) = run_check("GG611", rank_faults.subject("barrier-behind-guard"), lines=True).findings

    assert "rank 0 waits at" in finding.message
    assert "rank 1 waits at" in finding.message
    assert "rank_faults.py" in finding.message
    assert "in misbehave" in finding.message
    assert finding.culprit is not None
    assert finding.culprit.function == "misbehave"
    assert finding.culprit.source.startswith("if ")


def test_metric_that_is_summed_twice_is_named_where_it_is_returned() -> None:
    """The same in all processes, not that of one; with that of one all is right."""
    findings = run_check("GG610", rank_faults.subject("metric-summed"), lines=True).findings

    (source,) = {finding.culprit.source for finding in findings if finding.culprit}
    assert source.startswith('return {"loss": self.summed(loss)')


def test_buffer_of_its_own_is_named_where_it_is_written() -> None:
    """The first write that differs between the processes."""
    (finding,) = run_check("GG609", rank_faults.subject("buffer-of-its-own"), lines=True).findings

    assert finding.culprit is not None
    assert finding.culprit.source.startswith('self.modules["trunk"].seen.fill_')


def test_hang_is_told_early_when_every_rank_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that all wait are not waited for until the limit; one that computes is."""
    monkeypatch.setattr(ranks, "STILL", 1.0)
    monkeypatch.setattr(ranks, "SECONDS", 30.0)
    (finding,) = run_check("GG611", rank_faults.subject("barrier-behind-guard")).findings
    assert "rank 1 waits at" in finding.message
    assert ranks._activity([os.getpid()]) is None  # this one computes
    assert ranks._activity([0]) is None


def test_error_on_a_rank_names_its_line() -> None:
    """The user's own line, not that of the check which drove it."""
    (finding,) = run_check("GG609", rank_faults.subject("raises-on-one-rank")).findings
    assert finding.culprit is not None
    assert (finding.culprit.function, finding.culprit.source) == ("misbehave", 'raise ArithmeticError("only here")')
    assert "(rank_faults.py:" in finding.message


def test_inconclusive_when_one_process_disagrees_with_itself() -> None:
    """Where two runs of one process differ, nothing can be said of two processes."""
    seeds = iter((0, 1))
    clean = rank_faults.subject()
    start = clean.stages[0].start
    object.__setattr__(clean.stages[0], "start", lambda _seed, **named: start(next(seeds), **named))

    assert "GG601" in run_check("GG610", clean).inconclusive


@pytest.mark.parametrize("stacks", [("", ""), ("nothing", "else")])
def test_no_line_is_blamed_without_a_stack_of_own_code(stacks: tuple[str, str]) -> None:
    """Where no frame is the user's, none is named."""
    assert ranks.blamed([Rank(i, stack=text) for i, text in enumerate(stacks)]) is None


def test_float32_bound_is_the_literal_sum() -> None:
    """Four times the norm of what summing and each row's own rounding cost, element by element; nothing is clipped."""
    start = rank_faults.subject().stages[0].start
    stepped = gradients_of(start, 0, torch.float64)
    exact, rounded = (rank_rounding._of_rows(start, 0, dtype)[1] for dtype in (torch.float64, torch.float32))
    off = []
    for name in stepped:
        for element in np.ndindex(stepped[name].shape):
            size = sum(abs(row[name][element]) for row in exact)
            own = sum(abs(row[name][element] - same[name][element]) for row, same in zip(exact, rounded, strict=True))
            gamma = 5 * 2.0**-24 / (1 - 5 * 2.0**-24)
            off.append(gamma * size + (1 + gamma) * own)

    assert rank_rounding.allowed(start, 0, stepped) == pytest.approx(4 * math.sqrt(sum(each**2 for each in off)))


def test_float32_bound_wants_losses_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without them nothing is allowed, and nothing is judged; a parameter that is missing is infinitely far."""
    monkeypatch.setattr(rank_faults.RankRun, "losses", Run.losses)

    assert rank_rounding.allowed(rank_faults.subject().stages[0].start, 0, {}) is None
    assert rank_rounding.norm_apart({"a": np.ones(1)}, {}) == math.inf


def test_ranks_return_values_errors_and_deaths_in_order(tmp_path) -> None:
    """Each rank's end is its own entry."""

    def work(rank: int) -> int:
        word = torch.zeros(())
        if rank:
            dist.recv(word, 0)
        else:
            for other in (1, 2):
                dist.send(word, other)
        if rank == 1:
            raise ValueError("one")
        if rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return 10 * rank + dist.get_world_size()

    ended = together(work, tmp_path / "group", world=3)

    assert ended[0].value == 3
    assert ended[1].error.startswith("ValueError: one (test_rank_checks.py:")
    assert ended[2].error == "died without a word"
    assert told(ended).splitlines() == [f"rank {i} raised {ended[i].error}" for i in (1, 2)]

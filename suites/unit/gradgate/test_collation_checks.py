"""GG501 and GG413 on what a collator makes of its rows: rewards on the right tokens, an end token behind each row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import mini_trainer
from fixtures.check_runs import errors, run_check
from fixtures.collation_faults import END, PLACE_FAULTS, collated, packed
from gradgate.checks import oracles
from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Stage, Subject
from gradgate_wmtp.adapter import build_subject


@pytest.mark.parametrize("name", PLACE_FAULTS)
def test_misplaced_reward_is_found(name: str) -> None:
    """With its place, what it is, what it should be and what is allowed."""
    (message,) = errors(run_check("GG501", collated(PLACE_FAULTS[name]), None))

    assert "reward at [b, t] = [" in message and "expected " in message and "allowed: " in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_placed_rewards_pass_in_every_dtype(dtype: torch.dtype) -> None:
    """The clean twin, rounded to what the batch keeps its rewards in."""
    outcome = run_check("GG501", collated(dtype_of_rewards=dtype), None)

    assert (outcome.findings, outcome.measured["batches_with_rewards"]) == ((), 8)


def test_rewards_of_packed_documents_are_held_against_their_own() -> None:
    """Each document has a reward; those of another one are found."""

    def swapped(reward_BD: Tensor, *given: Tensor) -> Tensor:
        return oracles.place_rewards(reward_BD.flip(1), *given)

    assert run_check("GG501", packed(), None).findings == ()
    assert len(errors(run_check("GG501", packed(swapped), None))) == 1


def test_rewards_of_another_shape_are_refused() -> None:
    """The adapter is wrong, and is told the shapes."""
    with pytest.raises(SubjectError, match=r"placed\(\): reward_BS has the shape \[8, 7\], expected \[8, 8\]"):
        run_check("GG501", collated(lambda reward_B, valid_BS: valid_BS[:, :-1].float()), None)


def test_subject_without_returns_or_rewards_is_told_both() -> None:
    """GG501 says which lines of adapter would enable it."""
    reason = run_check("GG501", mini_trainer.subject(), None).not_applicable

    assert "Functions(returns=...)" in reason and "Run.placed(batch)" in reason


def test_missing_end_token_is_found() -> None:
    """Rows that are not cut end with another token; the first is named."""
    subject = collated(ends=False)
    (message,) = errors(run_check("GG413", subject, subject.stages[0]))

    assert f"do not end with the end token {END}: the first ends with 0 at [b, t] = [" in message
    assert message.endswith("; allowed: 0")


@pytest.mark.parametrize("objective", [None, "value"])
def test_an_end_token_is_asked_for_without_logits(objective: Any) -> None:
    """Rows are enough for it; a stage of values has no use for one."""
    (stage,) = collated(ends=False).stages

    def without_logits(seed: int, **given: Any) -> Any:
        run = stage.start(seed, **given)
        run.logits_from = None
        return run

    bare = Stage("bare", without_logits, objective=objective)
    outcome = run_check("GG413", Subject("bare", [bare]), bare)
    assert len(errors(outcome)) == (objective is None) and bool(outcome.not_applicable) is (objective is not None)


def test_rows_that_end_or_are_cut_pass() -> None:
    """The clean twin has both kinds."""
    subject = collated()
    outcome = run_check("GG413", subject, subject.stages[0])

    assert outcome.findings == ()
    assert outcome.measured["documents_without_end"] == 0


def test_bundled_trainer_collates_as_its_rows_say() -> None:
    """Rewards as they were computed, and an end token behind each row."""
    subject = build_subject()

    assert run_check("GG501", subject, None).measured["batches_with_rewards"] == 8
    assert run_check("GG413", subject, subject.stages[1]).measured["documents_without_end"] == 0

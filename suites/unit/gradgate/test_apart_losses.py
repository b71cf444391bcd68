"""Steps that go backward more than once, plain steps that raise, and scores that are compared in pairs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fixtures.actor_critic import BATCH, LoopRun, PairRun, StepRun, UnreducedRun, pairs, saving, single, unreduced
from fixtures.check_runs import errors, run_check
from gradgate.checks.runner import check_trainer
from gradgate.core.errors import SubjectError


@pytest.mark.parametrize("kind", [StepRun, LoopRun])
def test_losses_of_several_backwards_are_summed(kind: Any) -> None:
    """Each term is found at its own backward; `total` is what all of them start from."""
    terms = kind(0).losses(BATCH)
    assert set(terms) == {"policy_loss", "value_loss", "total"}
    assert terms["total"].item() == pytest.approx((terms["policy_loss"] + terms["value_loss"]).item())


@pytest.mark.parametrize("kind", [StepRun, LoopRun])
def test_losses_of_several_backwards_update_nothing(kind: Any) -> None:
    """Neither optimizer steps and neither schedule moves; the next step is as if nobody had asked."""
    asked, other = kind(0), kind(0)
    asked.losses(BATCH)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in asked.optimizers]
    assert rates == [0.1, 0.1] and asked.trainer.schedules[0].last_epoch == 0
    for run in (asked, other):
        run.step(BATCH)
    ours, theirs = ([p.detach() for m in run.modules.values() for p in m.parameters()] for run in (asked, other))
    assert all(map(torch.equal, ours, theirs))


def test_step_losses_say_how_many_backwards_there_were() -> None:
    """A step with fewer backwards than declared is an error that counts them."""
    run = StepRun(0)
    run.backwards = 3  # type: ignore[misc]
    with pytest.raises(SubjectError, match="with 2 of 3 backward"):
        run.losses(BATCH)


def test_losses_refuse_what_backward_refuses() -> None:
    """A loss of several numbers raises as it does without being watched."""
    with pytest.raises(RuntimeError, match="only for scalar outputs"):
        UnreducedRun(0).losses(BATCH)


@pytest.mark.parametrize("code", ["GG203", "GG204", "GG205"])
def test_checks_of_actor_and_critic_apart_pass(code: str) -> None:
    """What an optimizer steps with is held against the sum of both losses."""
    edges = {"policy_loss": ("actor",), "value_loss": ("critic",)}
    subject = unreduced()
    stage = type(subject.stages[0])("both", StepRun, edges=edges)
    outcome = run_check(code, subject, stage)
    assert (errors(outcome), outcome.inconclusive) == ([], "")


def test_a_plain_step_that_raises_is_one_fault() -> None:
    """GG100 tells it; checks that got no further are inconclusive and say where to look."""
    verdict = check_trainer(unreduced(), select=["GG100", "GG201", "GG203", "GG205"])
    assert [(result.code, result.status) for result in verdict.results] == [
        ("GG100", "failed"), ("GG201", "inconclusive"), ("GG203", "inconclusive"), ("GG205", "inconclusive"),
    ]  # fmt: skip
    assert all("(see GG100)" in result.reason for result in verdict.results[1:])
    assert "only for scalar outputs" in verdict.results[0].findings[0].message


def test_a_check_that_is_asked_alone_still_fails_where_the_step_raises() -> None:
    """Without GG100 in the run nobody else would tell it."""
    (result,) = check_trainer(unreduced(), select=["GG201"]).results
    assert result.status == "failed"


def test_gg201_passes_a_bias_whose_gradients_add_up_to_zero() -> None:
    """Both scores of a pair move by the same amount: the loss does not depend on it, and nothing is cut."""
    subject = pairs(cut=False)
    run = PairRun(0, cut=False)
    run.step(run.batch)
    assert not run.modules["features"].bias.grad.any()  # type: ignore[union-attr]
    assert errors(run_check("GG201", subject, subject.stages[0])) == []


def test_gg201_names_a_bias_that_is_cut_off() -> None:
    """The same bias without any gradient is dead."""
    subject = pairs(cut=True)
    (message,) = errors(run_check("GG201", subject, subject.stages[0]))
    assert message.startswith("`features.bias` got no gradient")


@pytest.mark.parametrize("half", [False, True])
def test_gg603_passes_a_save_that_holds_everything_though_nothing_loads(half: bool) -> None:
    """Weights in 16 bits are those weights; files that torch cannot read are left."""
    subject = saving({"actor.pt": ("actor", "optimizers"), "critic.pt": ("critic",)}, half)
    outcome = run_check("GG603", subject, subject.stages[0])
    assert (outcome.findings, outcome.inconclusive) == ((), "")
    assert outcome.measured["values_that_change"] == 8


@pytest.mark.parametrize(
    ("files", "owners"),
    [
        ({"a.pt": ("actor", "optimizers")}, ["critic"]),
        ({"a.pt": ("critic",)}, ["actor", "optimizers[0]", "optimizers[1]"]),
    ],
)
def test_gg603_names_what_a_save_leaves_out_though_nothing_loads(files: Any, owners: list[str]) -> None:
    """A module, and the moments of an optimizer, one finding each."""
    subject = saving(files)
    outcome = run_check("GG603", subject, subject.stages[0])
    assert [finding.detail["owner"] for finding in outcome.findings] == owners
    assert all("in none of the files that save() wrote" in message for message in errors(outcome))


def test_gg603_is_inconclusive_where_no_file_is_understood() -> None:
    """A format of its own holds nothing that torch can read."""
    subject = saving({})
    assert "in a file that torch can read" in run_check("GG603", subject, subject.stages[0]).inconclusive


def test_gg410_allows_the_roundoff_of_a_loss_that_is_float32() -> None:
    """Though everything before it is float64."""
    subject = single()
    outcome = run_check("GG410", subject, subject.stages[0])
    assert (errors(outcome), outcome.inconclusive) == ([], "")
    assert outcome.allowed["distance"] > 1e-9


@pytest.mark.parametrize(("side", "lies"), [("left", False), ("right", False), ("nowhere", True)])
def test_gg001_takes_padding_on_either_side(side: str, lies: bool) -> None:
    """What adds none is told."""
    messages = errors(run_check("GG001", single(side), None))
    assert any("did not add two positions of padding" in message for message in messages) == lies

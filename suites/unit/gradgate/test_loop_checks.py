"""GG607, GG608 and GG612: each planted fault turns its own check red and no other, the clean twin stays green."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import gradgate
from fixtures import loop_faults
from fixtures.loop_faults import LOOP_FAULTS, ROWS, LoopRun, order
from gradgate.checks import catalogue
from gradgate.checks.gg607_schedule_oracle import behind_warm_up
from gradgate.checks.isolation import isolated
from gradgate.core.errors import SubjectError
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Looped, Run, Stage, Subject

CODES = ("GG607", "GG608", "GG612")


def run_check(code: str, subject: Subject, seed: int = 0) -> Outcome:
    """The outcome of one check on the only stage, isolated as the runner does it."""
    with isolated(seed) as folder:
        context = Context(seed=seed, folder=folder)
        return catalogue.load_check(catalogue.rule(code)).function(subject, subject.stages[0], context)


def messages(outcome: Outcome) -> list[str]:
    return [finding.message for finding in outcome.findings if finding.severity == "error"]


@pytest.mark.parametrize("name", LOOP_FAULTS)
def test_loop_fault_turns_its_check_red_and_no_other(name: str) -> None:
    """The check that a fault is meant for says where and by how much."""
    own, pieces, told = LOOP_FAULTS[name]
    subject = loop_faults.subject(pieces)

    assert any(told in message for message in messages(run_check(own, subject)))
    assert [code for code in CODES if code != own and messages(run_check(code, subject))] == []


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("seed", range(5))
def test_clean_twin_passes(code: str, seed: int) -> None:
    """Every part of it in order."""
    outcome = run_check(code, loop_faults.subject({}), seed)

    assert (outcome.findings, outcome.not_applicable) == ((), "")


def test_gg607_goes_beyond_the_end_of_the_schedule() -> None:
    """Twelve updates and three more."""
    assert run_check("GG607", loop_faults.subject({})).measured["updates"] == loop_faults.UPDATES + 3


def test_gg607_refuses_a_declaration_of_a_parameter_that_there_is_not() -> None:
    """A misspelt name must not be a group that is left out."""

    class Misspelt(LoopRun):
        def hyperparameters(self, update: int) -> Any:
            return {"trunk.wieght": {"lr": 0.1}}

    with pytest.raises(SubjectError, match=r"no parameter 'trunk.wieght'; did you mean 'trunk.weight'"):
        run_check("GG607", Subject("misspelt", [Stage("train", partial(Misspelt, pieces={}))]))


def test_gg607_says_what_a_group_lacks() -> None:
    """A declared key that the optimizer does not have."""

    class Declaring(LoopRun):
        def hyperparameters(self, update: int) -> Any:
            return {"trunk.weight": {"momentum": 0.9}}

    (message,) = messages(run_check("GG607", Subject("declaring", [Stage("train", partial(Declaring, pieces={}))])))

    assert "`trunk.weight` has no momentum in its group, declared 0.9" in message


def test_gg607_does_not_apply_where_no_optimizer_steps() -> None:
    """There is no rate to read."""

    class Resting(LoopRun):
        def step(self, batch: Any) -> Any:
            return {}

    outcome = run_check("GG607", Subject("resting", [Stage("train", partial(Resting, pieces={}))]))

    assert "no torch optimizer stepped" in outcome.not_applicable


def test_gg608_counts_steps_behind_the_last_evaluation() -> None:
    """A run that asks no more and goes on all the same has not stopped."""

    def outrunning(scores: Any, **options: Any) -> Looped:
        looped = loop_faults.loop(scores, **options)
        return looped if looped.steps == options["max_steps"] else Looped(12, looped.evaluations, looped.last_evaluated)

    found = messages(run_check("GG608", loop_faults.subject({"loop": outrunning})))

    assert "behind the evaluation that ends the run, expected 0" in found[0]


def test_gg612_warns_of_samples_that_each_epoch_draws_more_often() -> None:
    """It may be meant; what each epoch draws anew is not, nor is every sample twice."""

    def oversampled(epoch: int, seed: int) -> list[int]:
        return [row if row < ROWS - 2 else 0 for row in order(epoch, seed)]

    outcome = run_check("GG612", loop_faults.subject({"order": oversampled}))
    (finding,) = outcome.findings
    assert finding.severity == "warning"
    assert "each epoch of 10 samples repeats the same 2" in finding.message
    twice = loop_faults.subject({"order": lambda epoch, seed: [row // 2 for row in order(epoch, seed)]})
    assert {finding.severity for finding in run_check("GG612", twice).findings} == {"error"}


@pytest.mark.parametrize("is_same", [True, False])
def test_gg612_sees_one_order_in_epochs_that_are_shorter_than_declared(is_same: bool) -> None:
    """A row is never drawn; whether the others come in an order of their own each time is another question."""

    def shorter(epoch: int, seed: int) -> list[int]:
        return order(0 if is_same else epoch, seed)[: ROWS - 1]

    found = messages(run_check("GG612", loop_faults.subject({"order": shorter})))

    assert found[0].startswith("epoch 1 of 10 samples repeats 1 ")
    assert any("the same order comes again after 9 samples" in message for message in found) is is_same


def test_gg612_allows_one_order_where_nothing_is_to_be_shuffled() -> None:
    """Some trainers walk their rows in order on purpose."""

    class InOrder(LoopRun):
        shuffles = False

    pieces = LOOP_FAULTS["same-order"][1]

    assert messages(run_check("GG612", Subject("in order", [Stage("train", partial(InOrder, pieces=pieces))]))) == []


def test_gg607_looks_behind_the_warm_up_of_a_run_that_does_not_say_how_long_it_is() -> None:
    """Where the form of a schedule begins."""
    rates = {"trunk": {"lr": gradgate.Schedule(1.0, 1000, 30, "cosine"), "weight_decay": 0.0}, "head": 1e-3}

    assert behind_warm_up(SimpleNamespace(rates=rates)) == 50
    assert behind_warm_up(SimpleNamespace(rates=None)) == 20


class Windows(Run):
    """40 micro-batches, as many of them an update as a key says; its schedule goes by `length` of both."""

    def __init__(self, seed: int, *, length: Any, options: Any = None, dtype: Any = torch.float32, **_: Any) -> None:
        torch.manual_seed(seed)
        self.every, self.turns = (options or {}).get("train.accum", 1), 0
        self.modules = {"net": nn.Linear(2, 1).to(dtype)}
        self.optimizers = [torch.optim.SGD(self.modules["net"].parameters(), lr=0.1)]
        real, wanted = (
            gradgate.Schedule(0.1, total, 4, "linear") for total in (length(40, self.every), 40 // self.every)
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizers[0], lambda step: real(step) / 0.1)
        self.rates = {"net": {"lr": wanted}}

    def batches(self) -> Any:
        return iter(torch.ones(200, 3, 2, dtype=self.modules["net"].weight.dtype))

    def step(self, batch: Any) -> dict[str, float]:
        loss = self.modules["net"](batch).square().mean()
        (loss / self.every).backward()
        self.turns += 1
        if self.turns % self.every == 0:
            self.optimizers[0].step()
            self.optimizers[0].zero_grad()
            self.scheduler.step()
        return {"loss": loss.item()}


@pytest.mark.parametrize(
    ("length", "told"),
    [
        (lambda turns, every: turns // every, []),
        (
            lambda turns, _: turns,
            ["at update 6 `net.weight` has lr 0.0971429, declared 0.0933333"],
        ),  # 1 - 1 / 35, 1 - 1 / 15
    ],
)
def test_gg607_holds_a_schedule_against_one_of_updates_of_several_parts(length: Any, told: list[str]) -> None:
    """One that goes by the number of micro-batches ends half-way; with one an update it is right."""
    stage = Stage("own", partial(Windows, length=length), options={"train.accum": (1, 2)})
    found = messages(run_check("GG607", Subject("own", [stage])))

    assert [message.partition(", with train.accum = 2;")[0] for message in found] == told


class Moving(Windows):
    """A schedule of so many updates, moved once an update, or once a micro-batch in front of the step or behind it."""

    def __init__(self, seed: int, *, moves: str, **given: Any) -> None:
        super().__init__(seed, length=lambda turns, _: turns, **given)
        self.moves, self.at = moves, 0
        self.rates = {"net": {"lr": gradgate.Schedule(0.1, 40, 4, "linear")}}

    def step(self, batch: Any) -> dict[str, float]:
        (self.modules["net"](batch).square().mean() / self.every).backward()
        self.turns += 1
        is_due = self.turns % self.every == 0
        self.at += self.moves == "in front" and self.turns > 1
        if is_due:
            self.optimizers[0].param_groups[0]["lr"] = self.rates["net"]["lr"](self.at)
            self.optimizers[0].step()
            self.optimizers[0].zero_grad()
        self.at += self.moves == "behind" or (self.moves == "updates" and is_due)
        return {}


@pytest.mark.parametrize(("moves", "found"), [("updates", 0), ("behind", 1), ("in front", 1)])
def test_gg607_sees_a_schedule_that_moves_once_a_micro_batch(moves: str, found: int) -> None:
    """Though nothing that is declared goes by their number."""
    stage = Stage("own", partial(Moving, moves=moves), options={"train.accum": (1, 2)})
    told = messages(run_check("GG607", Subject("own", [stage])))
    assert len(told) == found and all("the schedule moves once a micro-batch" in message for message in told)

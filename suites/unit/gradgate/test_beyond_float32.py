"""Checks that also look at declared precisions, metrics and packed documents: bad subjects and their clean twins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import wmtp.model
from fixtures import mechanisms
from fixtures.mechanisms import PolicyRun, Rows
from gradgate.checks import catalogue
from gradgate.checks.batches import leaves
from gradgate.checks.isolation import isolated
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject
from gradgate_wmtp import subject as bundled


def outcome_of(code: str, stage: Stage) -> Outcome:
    with isolated(0) as folder:
        subject = Subject("one", [stage])
        return catalogue.load_check(catalogue.rule(code)).function(subject, stage, Context(folder=folder))


def half(run: Any) -> Stage:
    return Stage("policy", PolicyRun, precisions={"fp32+fp16": partial(run, scaled=True)})


class ClipsScaled(PolicyRun):
    """Gradients are not unscaled before they are clipped."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        unscale, calls = self.scaler.unscale_, count()
        # The step's own call does nothing; the scaler's, in its step, is what it was.
        self.scaler.unscale_ = lambda optimizer: unscale(optimizer) if next(calls) % 2 else None  # type: ignore[method-assign]


class SchedulesSkips(PolicyRun):
    """The rate falls in every step, also where the scaler skips it."""

    always = True

    def step(self, batch: Rows) -> Mapping[str, float]:
        scale = self.scaler.get_scale()
        metrics = super().step(batch)
        if self.scaler.get_scale() < scale and self.always:
            self.optimizers[0].param_groups[0]["lr"] *= 0.5
        return metrics


class Falls(PolicyRun):
    """The rate falls from update to update, or from step to step."""

    counts = "updates"
    rates: ClassVar[Mapping[str, Any]] = {"policy": lambda update: 1e-2 / (1 + update)}  # type: ignore[misc]
    hyperparameters = Run.hyperparameters
    number = 0

    def step(self, batch: Rows) -> Mapping[str, float]:
        self.optimizers[0].param_groups[0]["lr"] = self.rates["policy"](self.number)
        scale = self.scaler.get_scale()
        metrics = super().step(batch)
        self.number += self.counts == "steps" or self.scaler.get_scale() == scale
        return metrics


class FallsByStep(Falls):
    """Steps that skip their update count."""

    counts = "steps"


class FallsTwiceBehindASkip(Falls):
    """A skipped step counts for two."""

    def step(self, batch: Rows) -> Mapping[str, float]:
        scale = self.scaler.get_scale()
        metrics = super().step(batch)
        self.number += 2 * (self.scaler.get_scale() < scale)
        return metrics


@pytest.mark.parametrize(
    ("run", "declared", "severities"),
    [
        (Falls, None, []),
        (Falls, "updates", []),
        (Falls, "steps", ["error"]),
        (FallsByStep, None, ["warning"]),
        (FallsByStep, "updates", ["error"]),
        (FallsByStep, "steps", []),
        (FallsTwiceBehindASkip, None, ["error"]),
        (FallsTwiceBehindASkip, "steps", ["error"]),
    ],
)
def test_schedule_counts_what_it_is_declared_to_count(run: Any, declared: str | None, severities: list[str]):
    """Not declared, one that counts skipped steps from first to last is a warning, which says what it follows."""

    class Declared(run):  # type: ignore[misc]
        schedule_counts = declared

    findings = outcome_of("GG607", half(Declared)).findings
    assert [finding.severity for finding in findings] == severities
    assert ["follow the steps" in finding.message for finding in findings] == [each == "warning" for each in severities]


class SkipsPlainly(FallsByStep):
    """In float32 its third step skips its update; the adapter's own run shows it."""

    made = 0

    def step(self, batch: Rows) -> Mapping[str, float]:
        self.made += 1
        if self.made != 3:
            return super().step(batch)
        self.number += 1
        return {}


@pytest.mark.parametrize(("declared", "severities"), [(None, ["error"]), ("updates", ["error"]), ("steps", [])])
def test_schedule_counts_a_step_without_an_update_where_it_is_declared_to(declared: str | None, severities: list[str]):
    """Not declared, such a step may be one of several micro-batches, which no schedule counts."""

    class Declared(SkipsPlainly):
        schedule_counts = declared

    findings = outcome_of("GG607", Stage("policy", Declared)).findings
    assert [finding.severity for finding in findings] == severities


class NoUnscaling(PolicyRun):
    """It refuses what is infinite, and scales nothing."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options | {"scaled": False})


@pytest.mark.parametrize(("code", "run"), [("GG207", ClipsScaled), ("GG607", SchedulesSkips)])
def test_precision_that_the_plain_run_hides_turns_its_check_red(code: str, run: Any):
    """The finding names the way in which it was seen."""
    (finding,) = outcome_of(code, half(run)).findings
    assert "fp32+fp16" in finding.message
    assert finding.severity == "error"


@pytest.mark.parametrize("code", ["GG207", "GG607"])
@pytest.mark.parametrize("run", [PolicyRun, NoUnscaling])
def test_precision_of_the_clean_twin_passes(code: str, run: Any):
    """With a scaler that skips, and without one."""
    outcome = outcome_of(code, half(run))
    assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")


class Entropy(PolicyRun):
    """A metric of a distribution with zeros in it."""

    def step(self, batch: Rows) -> Mapping[str, float]:
        share = torch.tensor([1.0, 0.0])
        return {**super().step(batch), "entropy": float(-(share * share.log()).sum())}


class Missing(PolicyRun):
    """A metric that is not there in a step."""

    def step(self, batch: Rows) -> Mapping[str, float]:
        return {**super().step(batch), "heldout": float("nan")}


def test_metric_that_an_operation_made_nan_is_found_with_its_line():
    """Metrics are off the graph, so no recording of the loss sees them."""
    (finding,) = outcome_of("GG301", Stage("policy", Entropy)).findings
    assert "the metric entropy is NaN in every step: mul" in finding.message
    assert finding.culprit is not None
    assert "share.log()" in finding.culprit.source


class Awake(PolicyRun):
    """It evaluates in train mode, and says nothing of it afterwards."""

    def evaluate(self) -> Mapping[str, Any]:
        self.average.eval = lambda: self.average  # type: ignore[method-assign]
        return super().evaluate()


def test_evaluation_in_train_mode_is_found_though_it_leaves_nothing_behind():
    """Dropout and batch norm count, also where their probability is 0 in the small run."""
    (finding,) = outcome_of("GG606", Stage("policy", Awake)).findings
    assert "`average.dropout` in train mode while it runs" in finding.message
    assert outcome_of("GG606", Stage("policy", PolicyRun)).findings == ()


class Noisy(PolicyRun):
    """Its frozen scorer is in train mode from the start."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.scorer.train()


class Unfrozen(Noisy):
    """The scorer's parameters require grad, and no optimizer holds them."""

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.scorer.requires_grad_(True)


@pytest.mark.parametrize(
    ("run", "edges", "warned"),
    [(Noisy, None, True), (Unfrozen, {"policy_loss": ("policy",)}, True), (Unfrozen, None, False)],
)
def test_module_that_rests_in_train_mode_is_a_warning_with_the_line_that_calls_it(
    run: type, edges: Mapping[str, Sequence[str]] | None, warned: bool
):
    """It rests where no parameter requires grad, or no edge trains it and no optimizer holds it."""
    findings = outcome_of("GG606", Stage("policy", run, edges=edges)).findings
    found = [each for each in findings if each.severity == "warning"]
    assert ["scorer" in each.message and "in a module that rests" in each.message for each in found] == [True] * warned
    assert all(each.culprit is not None and "self.scorer(" in each.culprit.source for each in found)


class Referring(PolicyRun):
    """A reference that no optimizer holds reads each batch; its weights require grad as those of any copy."""

    begun: ClassVar[Callable[[], AbstractContextManager[Any]]]
    share = 0.0

    def __init__(self, seed: int, **options: Any) -> None:
        super().__init__(seed, **options)
        self.reference = deepcopy(self.policy).eval()

    def losses(self, batch: Rows) -> Mapping[str, torch.Tensor]:
        with type(self).begun():
            read = self.reference(batch.token_BS)
        losses = super().losses(batch)
        pull = self.share * sum(leaf.float().sum() for _, leaf in leaves(read))
        return {**losses, "total": losses["total"] + pull} if self.share else losses


@pytest.mark.parametrize(
    ("begun", "share", "warned"),
    [(nullcontext, 0.0, True), (torch.no_grad, 0.0, False), (nullcontext, 1e-6, False)],
)
def test_reference_that_makes_a_graph_for_nothing_is_a_warning_with_the_line_that_calls_it(
    begun: Any, share: float, warned: bool
):
    """Where a backward comes to it, the graph is for something."""
    run = type("Own", (Referring,), {"begun": staticmethod(begun), "share": share})
    found = [each for each in outcome_of("GG606", Stage("policy", run)).findings if "makes a graph" in each.message]

    assert [(each.severity, each.message.partition(" ")[0]) for each in found] == [("warning", "`Policy`")] * warned
    assert all(each.culprit is not None and "self.reference(" in each.culprit.source for each in found)


@pytest.mark.parametrize(("training", "warned"), [(True, True), (False, False)])
def test_reference_that_draws_is_a_warning_with_the_line_that_calls_it(training: bool, warned: bool):
    """The run does not name it, and no optimizer holds it."""

    class Drawing(Referring):
        begun = staticmethod(torch.no_grad)

        def __init__(self, seed: int, **options: Any) -> None:
            super().__init__(seed, **options)
            self.reference.train(training)

    found = [each for each in outcome_of("GG606", Stage("policy", Drawing)).findings if "dropout" in each.message]
    assert [each.message.partition(" in train mode")[0] for each in found] == [
        "`Policy` runs dropout or batch norm"
    ] * warned
    assert all(each.culprit is not None and "self.reference(" in each.culprit.source for each in found)


class Nested(PolicyRun):
    """Its evaluation calls a function that calls the model, in train mode."""

    def evaluate(self) -> Mapping[str, Any]:
        rows = self.data.at(range(2))
        with torch.no_grad():
            return {"value": float(self.read(rows))}

    def read(self, rows: Rows) -> torch.Tensor:
        _, value_BS = self.average(rows.token_BS)
        return value_BS.mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("source", "line"), [(None, "_, value_BS = self.average("), (Path(__file__).parent, "rows = self.data.at")]
)
def test_evaluation_in_train_mode_is_named_where_it_begins(source: Path | None, line: str):
    """What is missing is missing for all that it calls; without the trainer's folder an adapter may be what begins."""
    stage = Stage("policy", Nested)
    with isolated(0) as folder:
        check = catalogue.load_check(catalogue.rule("GG606")).function
        findings = check(Subject("one", [stage], source=source), stage, Context(folder=folder)).findings
    (finding,) = [each for each in findings if "while it runs" in each.message]
    assert finding.culprit is not None and finding.culprit.source.startswith(line)


class Graphing(PolicyRun):
    """It evaluates with gradients on."""

    def evaluate(self) -> Mapping[str, Any]:
        rows = self.data.at(range(4))
        training = self.policy.training
        self.policy.eval()
        self.policy(rows.token_BS)
        self.policy.train(training)
        return super().evaluate()


def test_evaluation_that_makes_a_graph_is_found():
    """The activations of each batch are kept for a backward that never comes."""
    (finding,) = outcome_of("GG606", Stage("policy", Graphing)).findings
    assert "makes a graph while it runs" in finding.message


def test_metric_that_is_not_there_is_no_fault():
    """A NaN that stands for nothing was made by no operation."""
    assert outcome_of("GG301", Stage("policy", Missing)).findings == ()


@pytest.mark.parametrize("sees", [False, pytest.param(True, marks=pytest.mark.nightly)])
def test_attention_across_packed_documents_is_found_where_batches_can_be_drawn(
    monkeypatch: pytest.MonkeyPatch, sees: bool
):
    """The run's own batches are not packed; the strategy's are."""
    mask = wmtp.model.attention_mask
    if sees:
        monkeypatch.setattr(wmtp.model, "attention_mask", lambda valid_BS, _: mask(valid_BS, None))
    stage = replace(bundled().stages[1], name="tokens")
    outcome = outcome_of("GG409", stage)
    assert "change_by_another_document" in outcome.measured
    assert [("reads another document" in finding.message) for finding in outcome.findings] == [True] * sees


def test_mechanisms_have_no_fault_that_a_planted_one_could_hide_behind():
    """Steps are finite and repeat: what the faults of the catalogue are planted into is sound."""
    stage = mechanisms.subject().stages[1]
    for code in ("GG100", "GG205", "GG601"):
        outcome = outcome_of(code, stage)
        assert (outcome.findings, outcome.inconclusive) == ((), ""), code


class Summed(PolicyRun):
    """The value loss is a sum."""

    def losses(self, batch: Rows) -> Mapping[str, torch.Tensor]:
        terms = dict(super().losses(batch))
        terms["value_loss"] = terms["value_loss"] * self.total(batch.valid_BS)
        return terms | {"total": terms["policy_loss"] + terms["value_loss"]}


@pytest.mark.parametrize("code", ["GG410"])
def test_term_that_is_no_mean_is_found_with_the_line_that_made_it(code: str):
    """The last operation of a loss term is where its divisor stands, or does not."""
    findings = outcome_of(code, Stage("policy", Summed)).findings
    assert findings
    assert findings[0].culprit is not None
    assert "value_loss" in findings[0].culprit.source

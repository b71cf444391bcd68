"""GG203, GG204 and GG207: each planted fault turns its check red, the clean twin stays green."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from fixtures import mini_trainer
from fixtures.edge_faults import EDGE_FAULTS
from fixtures.plain_loop import PlainRun
from gradgate.checks import catalogue
from gradgate.checks.isolation import isolated
from gradgate.checks.runner import check_trainer
from gradgate.core.errors import SubjectError
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODES = ("GG203", "GG204", "GG207")
# Faults that no check but their own may see.
ALONE = ("weights-leak-to-the-value-head", "value-loss-cut-from-the-trunk", "never-clipped", "clipped-too-low")
NEIGHBOURS = (*CODES, "GG100", "GG201", "GG202", "GG205", "GG206", "GG208", "GG505")
CLEAN = mini_trainer.subject()


def run_check(code: str, subject: Subject, stage: Stage, seed: int = 0) -> Outcome:
    """The outcome of one check on one stage, isolated as the runner does it."""
    with isolated(seed) as folder:
        context = Context(seed=seed, folder=folder)
        return catalogue.load_check(catalogue.rule(code)).function(subject, stage, context)


def errors(outcome: Outcome) -> list[str]:
    """Messages of the findings that fail a check."""
    return [finding.message for finding in outcome.findings if finding.severity == "error"]


def stage_of(subject: Subject, name: str) -> Stage:
    """A stage by its name."""
    return next(stage for stage in subject.stages if stage.name == name)


def with_edges(edges: Mapping[str, Sequence[str]]) -> Outcome:
    """GG203 on the token stage with a declaration of one's own."""
    return run_check("GG203", CLEAN, replace(stage_of(CLEAN, "tokens"), edges=edges))


@pytest.mark.parametrize("name", EDGE_FAULTS)
def test_edge_fault_turns_its_check_red(name: str) -> None:
    """The check that a fault is meant for finds it, with numbers."""
    fault = EDGE_FAULTS[name]
    subject = fault.subject()

    outcome = run_check(fault.code, subject, stage_of(subject, fault.stage))

    assert errors(outcome) != []
    assert {finding.code for finding in outcome.findings} == {fault.code}
    assert all("allowed: " in message for message in errors(outcome))
    assert outcome.measured.keys() >= outcome.allowed.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ALONE)
def test_edge_fault_turns_no_other_check_red(name: str) -> None:
    """A fault is named by the check that it is meant for, and by none besides."""
    fault = EDGE_FAULTS[name]
    subject = fault.subject()
    stage = stage_of(subject, fault.stage)
    others = [catalogue.load_check(catalogue.rule(code)) for code in NEIGHBOURS if code != fault.code]
    fitting = [check.rule.code for check in others if check.objective in (None, stage.objective)]

    assert [code for code in fitting if errors(run_check(code, subject, stage))] == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("code", CODES)
def test_clean_twin_passes(code: str, seed: int) -> None:
    """No finding, decided, on both stages."""
    for stage in CLEAN.stages:
        outcome = run_check(code, CLEAN, stage, seed)
        assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")


def test_gg203_names_the_term_the_module_and_the_parameter() -> None:
    """And the largest gradient that went there."""
    subject = EDGE_FAULTS["weights-not-cut"].subject()
    (message,) = errors(run_check("GG203", subject, stage_of(subject, "tokens")))

    assert message.startswith("`wmtp_loss` reaches `value_head`, which it does not declare: a gradient of ")
    assert "at `value_head." in message


def test_gg203_looks_at_declared_terms_alone() -> None:
    """What the stage leaves out may reach what it wants."""
    assert with_edges({"value_loss": ("value_head",)}).findings == ()


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ({"value_los": ("value_head",)}, "losses() has no term 'value_los'"),
        ({"value_loss": ("value_haed",)}, "no module 'value_haed'"),
    ],
)
def test_gg203_refuses_a_declaration_of_what_is_not_there(edges: Any, message: str) -> None:
    """With the nearest name that is."""
    with pytest.raises(SubjectError) as caught:
        with_edges(edges)

    assert message in str(caught.value)
    assert "did you mean 'value_" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "function", "source"),
    [
        ("weights-leak-to-the-value-head", "losses", "head_scores(value_BS, batch.valid_BS)"),
        ("weights-not-cut", "losses", "head_scores(value_BS, batch.valid_BS)"),
        ("logits-cut-from-the-trunk", "logits_detached", "return heads(feature_BSD.detach())"),
        (
            "value-loss-cut-from-the-trunk",
            "losses",
            'self.parts.predict(self.modules["value_head"], feature_BSD.detach())',
        ),
    ],
)
def test_edge_fault_names_its_line(name: str, function: str, source: str) -> None:
    """Where a forbidden term's function is given the module's value; where a declared one is cut off."""
    fault = EDGE_FAULTS[name]
    subject = fault.subject()
    (finding,) = run_check(fault.code, subject, stage_of(subject, fault.stage)).findings

    assert finding.culprit is not None
    assert finding.culprit.function == function
    assert source in finding.culprit.source
    assert finding.detail["lines"][0] == str(finding.culprit)


def test_gg203_names_the_line_that_calls_the_module_which_reads() -> None:
    """A value head that trains the trunk: the line that hands it the features, not one inside of it."""

    class Attached(mini_trainer.MiniRun):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
            super().__init__("tokens", mini_trainer.Parts(), seed, dtype, device)

        def losses(self, batch: Any) -> Mapping[str, torch.Tensor]:
            feature_BSD = self.features(batch)
            value_BS = self.modules["value_head"](feature_BSD)[..., 0]
            loss = mini_trainer.value_loss(value_BS, torch.zeros_like(value_BS), batch.valid_BS)
            return {"total": loss, "value_loss": loss}

    stage = Stage("own", Attached, edges={"value_loss": ("value_head",)})
    (finding,) = run_check("GG203", Subject("own", [stage]), stage).findings

    assert finding.culprit is not None
    assert finding.culprit.source == 'value_BS = self.modules["value_head"](feature_BSD)[..., 0]'


def test_gg203_names_no_line_where_all_terms_reach_what_none_trains() -> None:
    """It had to be frozen, which is where it is made."""
    subject = EDGE_FAULTS["weights-not-cut"].subject()
    edges = {"total": ("heads", "value_head"), "wmtp_loss": ("heads",)}
    findings = run_check("GG203", subject, replace(stage_of(subject, "tokens"), edges=edges)).findings
    culprits = {(finding.detail["term"], finding.detail["module"]): finding.culprit for finding in findings}

    assert culprits["wmtp_loss", "value_head"] is not None
    assert (culprits["total", "trunk"], culprits["wmtp_loss", "trunk"]) == (None, None)


def test_gg203_names_the_line_that_uses_a_parameter_without_its_module() -> None:
    """Tied weights, read past the module that has them."""

    class Tied(mini_trainer.MiniRun):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
            super().__init__("tokens", mini_trainer.Parts(), seed, dtype, device)

        def losses(self, batch: Any) -> Mapping[str, torch.Tensor]:
            table_VD = self.modules["trunk"].embedding.weight
            loss = (self.modules["value_head"](table_VD.detach()).mean() - table_VD.mean()).square()
            return {"total": loss, "value_loss": loss}

    stage = Stage("own", Tied, edges={"value_loss": ("value_head",)})
    (finding,) = run_check("GG203", Subject("own", [stage]), stage).findings

    assert finding.culprit is not None
    assert "table_VD.mean()" in finding.culprit.source


def by_attribute(module: nn.Module) -> None:
    for parameter in module.parameters():
        parameter.requires_grad = False


def by_module(module: nn.Module) -> None:
    module.requires_grad_(False)


def by_name(module: nn.Module) -> None:
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith("head"))


class Frozen(mini_trainer.MiniRun):
    """The token stage with its trunk frozen in one of these ways."""

    def __init__(self, seed: int, *, freeze: Callable[[nn.Module], None], dtype: Any = torch.float32, **_: Any) -> None:
        super().__init__("tokens", mini_trainer.Parts(), seed, dtype, "cpu")
        freeze(self.modules["trunk"])


@pytest.mark.parametrize(
    ("freeze", "source"),
    [
        (by_attribute, "parameter.requires_grad = False"),
        (by_module, "module.requires_grad_(False)"),
        (by_name, 'parameter.requires_grad_(name.startswith("head"))'),
    ],
)
def test_gg204_finds_a_declared_module_that_is_frozen(freeze: Callable[[nn.Module], None], source: str) -> None:
    """Once for all terms that are to train it, with the line; one that no term is to train may rest."""
    start, terms = partial(Frozen, freeze=freeze), {"wmtp_loss": ("heads",), "value_loss": ("value_head",)}
    stage = Stage("own", start, edges={term: (*modules, "trunk") for term, modules in terms.items()})
    resting = Stage("own", start, edges=terms)
    (finding,) = run_check("GG204", Subject("own", [stage]), stage).findings

    assert "`trunk` is frozen" in finding.message
    assert "to be trained by `wmtp_loss` and `value_loss`; allowed: " in finding.message
    assert finding.culprit is not None
    assert finding.culprit.source == source
    assert not run_check("GG204", Subject("own", [resting]), resting).findings


def test_gg204_takes_a_term_off_the_graph_for_one_that_trains_nothing() -> None:
    """A number has no gradient."""
    subject = mini_trainer.subject(value_loss=lambda *_: torch.zeros(()))

    assert len(errors(run_check("GG204", subject, stage_of(subject, "tokens")))) == 1


@pytest.mark.parametrize(
    ("name", "told"), [("never-clipped", "is not bounded"), ("clipped-too-low", "is smaller than")]
)
def test_gg207_says_to_which_side_the_norm_is_off(name: str, told: str) -> None:
    """Too large: no clipping; too small: clipped before unscaling, or twice."""
    subject = EDGE_FAULTS[name].subject()

    assert told in errors(run_check("GG207", subject, stage_of(subject, "value")))[0]


def test_gg207_allows_optimizers_that_clip_apart() -> None:
    """Each one's own norm is at the bound, though that of all together is not."""

    class Apart(mini_trainer.MiniRun):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
            super().__init__("tokens", mini_trainer.Parts(update=self.apart), seed, dtype, device)
            parts = [list(module.parameters()) for module in self.modules.values()]
            self.optimizers = [torch.optim.SGD(part, lr=0.1) for part in parts]

        @staticmethod
        def apart(run: Any, terms: Any) -> Mapping[str, float]:
            for optimizer in run.optimizers:
                torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
            for optimizer in run.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            return {}

    stage = Stage("own", Apart)

    assert run_check("GG207", Subject("own", [stage]), stage).findings == ()


@pytest.mark.parametrize(("bound", "red"), [(1.0, False), (1.25, True)])
def test_gg207_allows_a_precision_its_own_rounding(bound: float, red: bool) -> None:
    """Parameters in bfloat16 have norms that are a 256th off; a bound that is not the declared one is further."""

    class Clipping(PlainRun):
        max_norm = 1.0

        def __init__(self, seed: int, *, bound: float = 1.0, **options: Any) -> None:
            super().__init__(seed, **options)
            self.bound, self.optimizers = bound, [self._optimizer]

        def step(self, batch: Any) -> dict[str, float]:
            self._optimizer.zero_grad()
            self._loss(batch).backward()
            torch.nn.utils.clip_grad_norm_(self.modules["model"].parameters(), self.bound)
            self._optimizer.step()
            return {}

    low = partial(Clipping, dtype=torch.bfloat16, bound=bound)
    stage = Stage("own", Clipping, precisions={"bf16": lambda seed, device: low(seed, device=device)})
    found = errors(run_check("GG207", Subject("own", [stage]), stage))
    assert [message.startswith("bf16: ") for message in found] == [True] * red


def test_gg207_is_inconclusive_where_no_optimizer_steps() -> None:
    """Nothing is updated, so nothing is clipped."""

    class Idle(PlainRun):
        max_norm = 1.0

        def step(self, batch: Any) -> dict[str, float]:
            return {}

    stage = Stage("own", Idle)

    assert "no optimizer stepped" in run_check("GG207", Subject("own", [stage]), stage).inconclusive


def test_edge_checks_say_which_line_of_adapter_enables_them() -> None:
    """A plain loop declares neither edges nor a norm."""
    verdict = check_trainer(Subject("plain", [Stage("train", PlainRun)]), select=CODES)

    assert {result.status for result in verdict.results} == {"not_applicable"}
    assert all("edges=" in result.reason or "max_norm" in result.reason for result in verdict.results)

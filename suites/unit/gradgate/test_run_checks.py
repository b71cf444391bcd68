"""The run-driven checks on a small trainer: each planted fault turns its check red, the clean twin is green."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from fixtures import mini_faults, mini_trainer
from fixtures.mini_faults import FAULTS
from fixtures.mini_trainer import MiniRun, Parts
from fixtures.pytest_fixtures import rest_at_night
from gradgate.checks import catalogue, fits
from gradgate.checks.isolation import isolated
from gradgate.core.errors import SubjectError
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Fit, Run, Stage, Subject

CODES = (
    "GG100", "GG201", "GG205", "GG206", "GG208", "GG303", "GG505", "GG506", "GG601", "GG602", "GG606", "GG901", "GG902",
)  # fmt: skip
# Faults that no other run-driven check may see.
ALONE = (
    "zeroed-every-second-step", "value-head-zeroed-every-second-step", "bias-at-rate-zero", "bias-uphill",
    "bias-put-back", "frozen-trunk-decays", "dropout-from-numpy", "metric-from-python", "noise-of-its-own",
    "value-head-left-in-eval-mode", "frozen-trunk-in-train-mode", "seeded-in-every-step", "eval-mode-where-it-raises",
    "deterministic-where-it-raises", "saved-in-eval-mode",
)  # fmt: skip
WHOLE = {"GG505", "GG506", "GG901", "GG902"}  # these train a stage whole: more than half of the time
SEEDS = rest_at_night(range(5), day=1)
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


def with_run(run: Callable[..., Run], name: str = "value") -> tuple[Subject, Stage]:
    """A subject of one stage that starts a run of one's own."""
    stage = Stage(name, run, objective=name)  # type: ignore[arg-type]
    return Subject("own", [stage]), stage


def with_fit(fit: Callable[[int], Fit], name: str) -> tuple[Subject, Stage]:
    """A subject of one stage whose fit is made up."""
    stage = Stage(name, stage_of(CLEAN, name).start, lambda seed, *, device: fit(seed), name)  # type: ignore[arg-type]
    return Subject("own", [stage]), stage


# --- each fault, and the clean twin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", rest_at_night(FAULTS, day=1, of_each=lambda name: FAULTS[name].code))
def test_planted_fault_turns_its_check_red(name: str) -> None:
    """The check that a fault is meant for finds it."""
    fault = FAULTS[name]
    subject = fault.subject()

    outcome = run_check(fault.code, subject, stage_of(subject, fault.stage))

    assert errors(outcome) != []
    assert {finding.code for finding in outcome.findings} == {fault.code}
    assert {finding.name for finding in outcome.findings} == {catalogue.rule(fault.code).name}


@pytest.mark.parametrize("codes", [set(CODES) - WHOLE, WHOLE], ids=["", "whole"])
@pytest.mark.nightly
@pytest.mark.parametrize("name", ALONE)
def test_planted_fault_turns_no_other_check_red(name: str, codes: set[str]) -> None:
    """A fault is named by the check that it is meant for, and by none besides."""
    fault = FAULTS[name]
    subject = fault.subject()
    others = [catalogue.load_check(catalogue.rule(code)) for code in sorted(codes - {fault.code})]

    red = [
        (check.rule.code, stage.name)
        for check in others
        for stage in subject.stages
        if check.objective in (None, stage.objective) and errors(run_check(check.rule.code, subject, stage))
    ]

    assert red == []


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("code", CODES)
def test_clean_twin_passes(code: str, seed: int) -> None:
    """No finding, decided, on every stage that the check is for."""
    objective = catalogue.load_check(catalogue.rule(code)).objective
    for stage in CLEAN.stages:
        if objective in (None, stage.objective):
            outcome = run_check(code, CLEAN, stage, seed)

            assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")
            assert outcome.measured.keys() >= outcome.allowed.keys()


def test_every_check_has_two_faults_or_more() -> None:
    """One fault would show one way of failing."""
    codes = [fault.code for fault in FAULTS.values()]

    assert [code for code in CODES if codes.count(code) < 2] == []


# --- GG100 -----------------------------------------------------------------------------------------------------------


def test_gg100_names_the_step_the_error_and_the_innermost_own_line() -> None:
    """The first line says what raised; the culprit is the line that the recorder names."""
    subject = FAULTS["backward-twice"].subject()

    (finding,) = run_check("GG100", subject, subject.stages[0]).findings

    assert finding.message.startswith("step 1 of 3 raised RuntimeError: Trying to backward through the graph a second")
    assert finding.kind == "freed_graph"
    assert finding.culprit is not None
    assert (Path(finding.culprit.file).name, finding.culprit.function) == ("mini_faults.py", "backward_twice")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("start", "start() raised RuntimeError: no"),
        ("batches", "drawing batch 1 of 3 raised RuntimeError: no"),
        ("step", "step 1 of 3 raised RuntimeError: no"),
    ],
)
def test_gg100_reports_whatever_the_subject_raises(method: str, message: str) -> None:
    """Starting and drawing belong to the plain step."""

    def refuse(*_: Any) -> Iterator[Any]:
        raise RuntimeError("no\nmore")
        yield

    def start(seed: int, **options: Any) -> Run:
        run = stage_of(CLEAN, "value").start(seed, **options)
        if method == "start":
            next(refuse())
        setattr(run, method, refuse if method == "batches" else lambda batch: next(refuse()))
        return run

    subject, stage = with_run(start)

    assert errors(run_check("GG100", subject, stage)) == [message]


def test_gg100_takes_a_step_that_exits_for_a_finding() -> None:
    """sys.exit() in a step does not end the harness."""

    def quits(run: MiniRun, terms: Mapping[str, Tensor]) -> None:
        raise SystemExit(3)

    subject = mini_trainer.subject(backward=quits)

    assert errors(run_check("GG100", subject, subject.stages[0])) == ["step 1 of 3 raised SystemExit: 3"]


def test_long_error_is_cut_in_the_message_and_whole_in_the_detail() -> None:
    """The first line stays readable."""

    def shouts(run: MiniRun, terms: Mapping[str, Tensor]) -> None:
        raise ValueError("x" * 1000)

    subject = mini_trainer.subject(backward=shouts)
    (finding,) = run_check("GG100", subject, subject.stages[0]).findings

    assert len(finding.message) < 400
    assert finding.detail["text"] == "x" * 1000


def test_gg100_says_that_a_group_was_added_behind_the_schedule() -> None:
    """PyTorch's error speaks of the lengths of two lists."""

    class Late(Run):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
            self.modules = {"model": nn.Linear(2, 1, dtype=dtype), "head": nn.Linear(2, 1, dtype=dtype)}
            self.optimizers = [torch.optim.SGD(self.modules["model"].parameters(), lr=0.1)]
            self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizers[0], lambda _: 0.5)
            self.optimizers[0].add_param_group({"params": self.modules["head"].parameters()})

        def batches(self) -> Any:
            return iter([torch.ones(3, 2)] * 9)

        def step(self, batch: Any) -> dict[str, float]:
            sum(module(batch).sum() for module in self.modules.values()).backward()
            self.optimizers[0].step()
            self.schedule.step()
            return {"loss": 0.0}

    (finding,) = run_check("GG100", *with_run(Late)).findings
    assert "had 1 group(s), and now it has 2" in finding.message and finding.culprit is not None
    assert finding.culprit.source == "self.schedule.step()"


# --- GG201 -----------------------------------------------------------------------------------------------------------


class ManualRun(MiniRun):
    """Steps by hand, with no torch optimizer; has no `losses` unless asked."""

    def __init__(self, seed: int, *, dead: bool = False, **options: Any) -> None:
        parts = Parts(predict=mini_faults.dead_prediction) if dead else Parts()
        super().__init__("value", parts, seed, torch.float32, "cpu")
        self.optimizers = []

    def step(self, batch: Any) -> Mapping[str, float]:
        total = self.losses(batch)["total"]
        head = list(self.modules["value_head"].parameters())
        for parameter, grad in zip(head, torch.autograd.grad(total, head), strict=True):
            parameter.data.sub_(grad, alpha=0.1)
        return {"loss": float(total.detach())}


def test_gg201_names_the_dead_parameters() -> None:
    """By module and name, one finding each."""
    subject = FAULTS["head-in-no-loss"].subject()
    outcome = run_check("GG201", subject, stage_of(subject, "tokens"))

    assert [finding.detail["parameter"] for finding in outcome.findings] == ["heads.unused.weight", "heads.unused.bias"]
    assert outcome.measured["dead_parameters"] == 2


@pytest.mark.parametrize(("dead", "found"), [(False, 0), (True, 4)])
def test_gg201_looks_at_losses_where_no_torch_optimizer_steps(dead: bool, found: int) -> None:
    """The gradient of the total stands for the one at the update."""
    subject, stage = with_run(lambda seed, **options: ManualRun(seed, dead=dead, **options))

    assert len(errors(run_check("GG201", subject, stage))) == found


def test_gg201_is_inconclusive_without_optimizer_and_losses() -> None:
    """Nothing to look at is no pass."""

    class Blind(ManualRun):
        losses = Run.losses

        def step(self, batch: Any) -> Mapping[str, float]:
            return {}

    subject, stage = with_run(lambda seed, **options: Blind(seed))

    assert run_check("GG201", subject, stage).inconclusive.startswith("no optimizer stepped in 6 steps")


@pytest.mark.parametrize(("training", "severity"), [(False, "note"), (True, "error")])
def test_gg201_takes_an_unheld_module_in_eval_mode_for_frozen(training: bool, severity: str) -> None:
    """A reference model that forgot requires_grad_(False) is a note; in train mode it was meant to learn."""

    def start(seed: int, **options: Any) -> Run:
        run = stage_of(CLEAN, "value").start(seed, **options)
        run.modules = {**run.modules, "reference": nn.Linear(2, 2).train(training)}
        return run

    subject, stage = with_run(start)
    outcome = run_check("GG201", subject, stage)

    assert [finding.severity for finding in outcome.findings] == [severity] * 2
    assert outcome.measured["parameters_no_optimizer_holds"] == (2 if training else 0)
    for edges, found in (({"value_loss": ("value_head",)}, "note"), ({"value_loss": ("reference",)}, severity)):
        declared = replace(stage, edges=edges)  # what no declared edge trains is not meant to learn
        seen = run_check("GG201", Subject("edges", [declared]), declared)
        assert [finding.severity for finding in seen.findings] == [found] * 2


def with_spare(*, named: bool = True, zero: bool = False, edges: Mapping[str, Any] | None = None) -> Outcome:
    """GG201 of a value stage whose optimizer also holds a module that no loss reaches.

    Args:
        named: whether `modules` names it.
        zero: whether its gradient is zero, not None.
        edges: as the stage declares them.
    """

    def start(seed: int, **options: Any) -> Run:
        run = stage_of(CLEAN, "value").start(seed, **options)
        spare = nn.Linear(2, 2)
        whole = nn.ModuleList([run.modules["value_head"], spare])
        run.modules = {**run.modules, "spare": spare, "whole": whole} if named else run.modules
        run.optimizers[0].param_groups[0]["params"] += list(spare.parameters())
        if zero:
            losses = run.losses
            run.losses = lambda batch: {  # type: ignore[method-assign]
                name: term + 0 * (spare.weight.sum() + spare.bias.sum()) for name, term in losses(batch).items()
            }
        return run

    subject, stage = with_run(start)
    declared = replace(stage, edges=edges)
    return run_check("GG201", replace(subject, stages=[declared]), declared)


VALUE_EDGES = {"value_loss": ("value_head",)}


def test_gg201_takes_a_held_module_that_no_edge_trains_for_frozen_while_it_has_no_gradient() -> None:
    """The optimizer does nothing to it."""
    outcome = with_spare(edges=VALUE_EDGES)

    assert [(finding.severity, finding.detail["parameter"]) for finding in outcome.findings] == [
        ("note", "spare.weight"), ("note", "spare.bias"),
    ]  # fmt: skip
    assert outcome.measured["dead_parameters"] == 0


@pytest.mark.parametrize(
    "options",
    [
        {"edges": None},
        {"edges": {"value_loss": ("value_head", "spare")}},
        {"edges": {"value_loss": ("value_head", "whole")}},
        {"edges": VALUE_EDGES, "zero": True},
        {"edges": VALUE_EDGES, "named": False},
    ],
    ids=["no edges", "trained", "in what is trained", "zero", "in no module"],
)
def test_gg201_finds_a_held_module_that_rests_undeclared_or_with_a_gradient_of_zeros(options: dict[str, Any]) -> None:
    """Momentum and weight decay move what has a gradient of zeros."""
    outcome = with_spare(**options)

    assert [finding.severity for finding in outcome.findings] == ["error"] * 2
    assert outcome.measured["dead_parameters"] == 2
    fixes = [finding.fix.rpartition("; ")[2] for finding in outcome.findings]
    rest = "a module that is meant to rest is named in `modules` and left out of `edges`"
    assert [fix == rest for fix in fixes] == [not options.get("named", True)] * 2


@pytest.mark.parametrize(("moves", "red"), [(True, True), (False, False)])
def test_gg606_finds_statistics_that_an_evaluation_moves(moves: bool, red: bool) -> None:
    """A running number beside modules and optimizers shows in the steps behind the evaluation."""

    class Scaled(Run):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
            torch.manual_seed(seed)
            self.model, self.scale = nn.Linear(2, 1, dtype=dtype), 1.0
            self.modules = {"model": self.model}
            self.optimizers = [torch.optim.SGD(self.model.parameters(), lr=0.1)]

        def batches(self) -> Any:
            return iter([torch.ones(3, 2)] * 9)

        def step(self, batch: Any) -> dict[str, float]:
            self.optimizers[0].zero_grad()
            (self.scale * self.model(batch)).square().mean().backward()
            self.optimizers[0].step()
            return {"loss": 0.0}

        def evaluate(self) -> dict[str, float]:
            self.scale += float(moves)
            return {"loss": 0.0}

    found = errors(run_check("GG606", *with_run(Scaled)))
    assert [message for message in found if "what the next steps read: `model." in message] == found
    assert bool(found) is red


# --- GG205 -----------------------------------------------------------------------------------------------------------


def test_gg205_names_module_and_parameter() -> None:
    """The message says where to look, with both slopes."""
    subject = FAULTS["wrong-backward"].subject()
    (finding,) = run_check("GG205", subject, subject.stages[0]).findings

    assert finding.detail["module"] == "value_head"
    assert finding.detail["parameter"].startswith("value_head.")
    assert finding.detail["slope_by_backward"] == pytest.approx(finding.detail["slope_by_differences"] / 2)


def test_gg205_allows_clipping_by_value() -> None:
    """The loss's gradient cut off at one number is still the loss's gradient."""

    def clipped(run: MiniRun, terms: Mapping[str, Tensor]) -> Mapping[str, float]:
        nn.utils.clip_grad_value_(run.trained(), 1e-2)
        run.advance()
        return {}

    subject = mini_trainer.subject(update=clipped)

    for stage in subject.stages:
        assert errors(run_check("GG205", subject, stage)) == []


def test_gg205_is_inconclusive_where_step_and_loss_draw_other_random_numbers() -> None:
    """With dropout their gradients differ then, and that says nothing."""

    def draws_first(self: MiniRun, batch: Any) -> Mapping[str, float]:
        torch.rand(())
        return MiniRun.step(self, batch)

    start = type("Drawing", (MiniRun,), {"step": draws_first})
    subject, stage = with_run(lambda seed, *, dtype, device: start("tokens", Parts(), seed, dtype, device), "tokens")

    assert "draw different random numbers" in run_check("GG205", subject, stage).inconclusive


def reseeding(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor) -> Tensor:
    torch.manual_seed(int(torch.randint(0, 1000, (), generator=OWN)))
    return mini_trainer.value_loss(nn.functional.dropout(value_BS), target_BS, valid_BS)


def noisy(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor) -> Tensor:
    noise = torch.rand((), generator=OWN, dtype=value_BS.dtype)
    return mini_trainer.value_loss(value_BS, target_BS, valid_BS) * (1 + noise)


def branching(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor) -> Tensor:
    loss = mini_trainer.value_loss(value_BS, target_BS, valid_BS)
    return loss * 2 if int(float(loss.detach()) * 1e9) % 2 else loss + loss


def rounded_to(dtype: torch.dtype) -> Callable[..., Tensor]:
    """A value loss that is computed in a lower precision, as a table of that dtype has it."""
    table = torch.zeros((), dtype=dtype)
    return lambda value_BS, *rest: mini_trainer.value_loss(value_BS.type_as(table), *rest).double()


OWN = torch.Generator()


@pytest.mark.parametrize(
    ("value_loss", "reason"),
    [
        (reseeding, "the same random state give different losses"),
        (branching, "the loss takes another way at other parameters"),
        (rounded_to(torch.bfloat16), "a machine epsilon of 8e-03"),
        (lambda *parts: mini_trainer.value_loss(*parts) * nan, "the loss is nan"),
    ],
)
def test_gg205_is_inconclusive_where_differences_mean_nothing(value_loss: Any, reason: str) -> None:
    """Random numbers out of reach, control flow, low precision, NaN."""
    subject = mini_trainer.subject(value_loss=value_loss)
    outcome = run_check("GG205", replace(subject, stages=subject.stages[:1]), subject.stages[0])

    assert reason in outcome.inconclusive


def test_gg205_holds_random_numbers_from_a_generator_of_ones_own_constant() -> None:
    """They are off the graph: the differences are those of one loss, the step's gradient that of another."""
    subject = mini_trainer.subject(value_loss=noisy)
    outcome = run_check("GG205", subject, subject.stages[0])

    assert outcome.findings == ()
    assert outcome.measured["slope_disagreement"] < 1e-8
    assert outcome.inconclusive.startswith("the loss draws random numbers of its own")


@pytest.mark.parametrize(("doubles", "red"), [(False, False), (True, True)])
def test_gg205_is_coarser_where_the_loss_computes_in_float32(doubles: bool, red: bool) -> None:
    """Two percent instead of 1e-5: still enough for a gradient that is off by a factor."""
    predict = mini_faults.predict_with_doubling_hook if doubles else Parts.predict
    subject = mini_trainer.subject(value_loss=rounded_to(torch.float32), predict=predict)
    outcome = run_check("GG205", subject, subject.stages[0])

    assert (bool(errors(outcome)), outcome.inconclusive, outcome.allowed["slope_disagreement"]) == (red, "", 0.02)


def test_gg205_wants_the_dtype_that_it_asked_for() -> None:
    """float32 parameters are too coarse."""
    subject, stage = with_run(lambda seed, **_: stage_of(CLEAN, "value").start(seed))

    assert "is torch.float32, though the run was started in float64" in run_check("GG205", subject, stage).inconclusive


def test_gg205_does_not_apply_where_nothing_trains() -> None:
    """There is no gradient to be wrong."""

    def start(seed: int, **options: Any) -> Run:
        run = stage_of(CLEAN, "value").start(seed, **options)
        run.modules["value_head"].requires_grad_(False)
        return run

    subject, stage = with_run(start)

    assert run_check("GG205", subject, stage).not_applicable == "no parameter requires grad"


def test_gg205_refuses_losses_without_a_total() -> None:
    """That breaks the contract, and says how."""

    class Without(MiniRun):
        def losses(self, batch: Any) -> Mapping[str, Tensor]:
            return {}

    subject, stage = with_run(lambda seed, *, dtype, device: Without("value", Parts(), seed, dtype, device))

    with pytest.raises(SubjectError, match="scalar tensor `total`, not NoneType"):
        run_check("GG205", subject, stage)


def test_gg205_passes_a_run_without_torch_optimizer() -> None:
    """Then there is no update to compare, and the differences decide."""

    class Manual64(ManualRun):
        def __init__(self, seed: int, *, dtype: torch.dtype, device: str) -> None:
            MiniRun.__init__(self, "value", Parts(), seed, dtype, device)
            self.optimizers = []

    subject, stage = with_run(Manual64)
    outcome = run_check("GG205", subject, stage)

    assert (outcome.findings, outcome.inconclusive) == ((), "")
    assert "step_gradient_error" not in outcome.measured


# --- GG206 -----------------------------------------------------------------------------------------------------------


def test_gg206_names_the_step_and_only_the_parameters_that_leak() -> None:
    """Clipping scales all gradients; those that point elsewhere are the stale ones."""
    subject = FAULTS["value-head-zeroed-every-second-step"].subject()
    (finding,) = run_check("GG206", subject, stage_of(subject, "tokens")).findings

    assert finding.detail["step"] == 3
    assert finding.detail["parameters"] != []
    assert {name.partition(".")[0] for name in finding.detail["parameters"]} == {"value_head"}


def test_gg206_allows_gradients_to_be_cleared_behind_the_update() -> None:
    """Where a step clears them is its own affair."""
    subject = mini_trainer.subject(update=mini_faults.zeroed_behind_the_update, zero_grad=mini_faults.never_zeroed)

    for stage in subject.stages:
        assert run_check("GG206", subject, stage).findings == ()


def test_gg206_is_inconclusive_where_one_seed_gives_two_runs() -> None:
    """That is no fault of zero_grad."""
    subject = FAULTS["noise-of-its-own"].subject()

    assert "(GG601)" in run_check("GG206", subject, subject.stages[0]).inconclusive


@pytest.mark.parametrize("code", ["GG206", "GG208"])
def test_update_checks_do_not_apply_without_a_torch_optimizer(code: str) -> None:
    """There is no update to look at."""

    class Manual64(ManualRun):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str) -> None:
            MiniRun.__init__(self, "value", Parts(), seed, dtype, device)
            self.optimizers = []

    subject, stage = with_run(Manual64)

    assert "no torch optimizer stepped" in run_check(code, subject, stage).not_applicable


# --- GG208 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "told"),
    [
        ("bias-at-rate-zero", "parameters_that_stand_still", "never moved: the learning rate is 0 at each"),
        ("bias-put-back", "parameters_that_stand_still", "never moved: the learning rate is up to 0.01"),
        ("bias-uphill", "parameters_that_move_uphill", "its cosine with the gradient is 1, allowed: at most 1e-06"),
    ],
)
def test_gg208_names_the_one_parameter_that_is_wrong(name: str, count: str, told: str) -> None:
    """All others do what they should."""
    subject = FAULTS[name].subject()
    outcome = run_check("GG208", subject, stage_of(subject, "tokens"))

    (message,) = errors(outcome)
    assert message.count("`value_head.2.bias`") == 1
    assert told in message
    assert outcome.measured[count] == 1


def optimizers_of(lr: float) -> list[Any]:
    """Optimizers that multiply the gradient by something positive, by their makers."""
    makers: list[Any] = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad]
    return [lambda p, make=make: make(p, lr=lr, weight_decay=0.5) for make in makers] + [
        lambda p: torch.optim.SGD(p, lr=lr, momentum=0.9, nesterov=True),
        lambda p: torch.optim.NAdam(p, lr=lr, weight_decay=0.5, decoupled_weight_decay=True),
    ]


@pytest.mark.parametrize("make", optimizers_of(1e-2))
@pytest.mark.parametrize("warm_up", [False, True])
def test_gg208_passes_every_optimizer_that_descends(make: Any, warm_up: bool) -> None:
    """Whatever its weight decay, momentum and preconditioner, and where the first learning rates are 0."""

    def start(seed: int, *, dtype: torch.dtype, device: str) -> Run:
        run = MiniRun("tokens", Parts(), seed, dtype, device)
        run.optimizers = [make(run.trained())]
        rate = lambda step: min(step, 3) / 3 if warm_up else 1.0  # noqa: E731
        run.scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizers[0], rate)
        return run

    subject, stage = with_run(start, "tokens")

    assert run_check("GG208", subject, stage).findings == ()


def with_copy(share: float, noise: float = 0.0) -> tuple[Subject, Stage]:
    """A value stage with a frozen copy of the value head that moves toward it, and off the line by some noise."""

    class Averaging(MiniRun):
        def __init__(self, seed: int, *, dtype: torch.dtype, device: str) -> None:
            super().__init__("value", Parts(), seed, dtype, device)
            self.modules["copy"] = copy.deepcopy(self.modules["value_head"]).requires_grad_(False)

        def step(self, batch: Any) -> Mapping[str, float]:
            metrics = super().step(batch)
            pairs = zip(self.modules["copy"].parameters(), self.modules["value_head"].parameters(), strict=True)
            for ours, theirs in pairs:
                ours.lerp_(theirs.detach(), share).add_(noise * torch.arange(ours.numel()).view_as(ours))
            return metrics

    return with_run(Averaging)


@pytest.mark.parametrize(("share", "noise", "red"), [(0.1, 0.0, False), (1.0, 0.0, False), (0.1, 1e-6, True)])
def test_gg208_lets_an_average_of_a_trained_part_follow_it(share: float, noise: float, red: bool) -> None:
    """A target network requires no grad, and is meant to move: along the line to what it averages."""
    subject, stage = with_copy(share, noise)

    assert bool(errors(run_check("GG208", subject, stage))) == red


@pytest.mark.parametrize(("part", "severities"), [("trunk", ["error"]), ("value_head", ["warning"])])
def test_gg208_takes_a_buffer_that_moves_for_a_fault_where_its_module_is_frozen(part: str, severities: Any) -> None:
    """In a module that is trained it may be a running statistic: a warning, which fails nothing."""

    class Buffered(MiniRun):
        def __init__(self, seed: int, *, dtype: torch.dtype, device: str) -> None:
            super().__init__("value", Parts(), seed, dtype, device)
            self.modules[part].register_buffer("scale", torch.ones((), dtype=dtype))

        def step(self, batch: Any) -> Mapping[str, float]:
            self.modules[part].scale.mul_(0.5)
            return super().step(batch)

    subject, stage = with_run(Buffered)
    outcome = run_check("GG208", subject, stage)

    assert [finding.severity for finding in outcome.findings] == severities
    assert outcome.findings[0].detail["parameters"] == [f"{part}.scale"]


def test_gg208_says_so_where_a_declared_optimizer_never_steps() -> None:
    """Then nothing moves, whatever the gradients are."""
    subject = mini_trainer.subject(update=lambda run, terms: {})

    assert errors(run_check("GG208", subject, subject.stages[0])) == ["no optimizer stepped in 6 steps"]


# --- GG303 -----------------------------------------------------------------------------------------------------------


def test_gg303_passes_a_step_that_skips_and_counts_it() -> None:
    """Skipping is a guard too, where a metric says so."""
    subject = mini_trainer.subject(update=mini_faults.skipped_and_counted)

    for stage in subject.stages:
        assert errors(run_check("GG303", subject, stage)) == []


def of_own(kind: type[MiniRun]) -> Stage:
    """A value stage of runs of one's own class."""

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Run:
        return kind("value", Parts(), seed, dtype, device)

    return Stage("value", start)


def test_gg303_leaves_a_rate_that_counts_skipped_steps() -> None:
    """It is no update of the model; whether the schedule is to go on is GG607's."""

    class Counting(MiniRun):
        made = 0

        def step(self, batch: Any) -> Mapping[str, float]:
            self.made += 1
            for group in self.optimizers[0].param_groups:
                group["lr"] = 0.01 / self.made
            return mini_faults.skipped_and_counted(self, self.went_backward(batch))

        def went_backward(self, batch: Any) -> Mapping[str, Any]:
            self.optimizers[0].zero_grad()
            terms = self.losses(batch)
            terms["total"].backward()
            return terms

    stage = Stage(
        "value", lambda seed, dtype=torch.float32, device="cpu": Counting("value", Parts(), seed, dtype, device)
    )

    assert errors(run_check("GG303", Subject("own", [stage]), stage)) == []


@pytest.mark.parametrize("count", [True, False])
def test_gg303_passes_over_metrics_that_are_no_numbers(count: bool) -> None:
    """A list of each head's loss says nothing of a step that was skipped; a count beside it does."""

    class Listing(MiniRun):
        def step(self, batch: Any) -> Mapping[str, Any]:
            self.optimizers[0].zero_grad()
            self.losses(batch)["total"].backward()
            skips = not all(p.grad.isfinite().all() for p in self.trained() if p.grad is not None)
            if not skips:
                self.advance()
            return {"heads": [float(skips), 1.0], "of_value": torch.tensor(1.0), "skipped": float(skips and count)}

    stage = Stage(
        "value", lambda seed, dtype=torch.float32, device="cpu": Listing("value", Parts(), seed, dtype, device)
    )

    assert bool(errors(run_check("GG303", Subject("own", [stage]), stage))) is not count


@pytest.mark.parametrize("told", [{"value_loss"}, {"value_loss", "made"}])
def test_gg303_asks_no_loop_that_keeps_its_metrics_to_say_that_it_skipped(told: set[str]) -> None:
    """What an adapter reads off a loop are its loss terms; whether its log tells more is not to be seen."""

    class Silent(MiniRun):
        terms: ClassVar[Mapping[str, str]] = {"value_loss": "loss"}

        def step(self, batch: Any) -> Mapping[str, float]:
            self.optimizers[0].zero_grad()
            total = self.losses(batch)["total"]
            total.backward()
            if all(p.grad.isfinite().all() for p in self.trained() if p.grad is not None):
                self.advance()
            return dict.fromkeys(told, 0.5)

    stage = Stage(
        "value", lambda seed, dtype=torch.float32, device="cpu": Silent("value", Parts(), seed, dtype, device)
    )

    assert bool(errors(run_check("GG303", Subject("own", [stage]), stage))) is (told != {"value_loss"})


def test_gg303_says_where_the_nan_was_and_what_it_reached() -> None:
    """One finding a place, with the first value that changed."""
    subject = FAULTS["guard-on-the-loss-alone"].subject()
    outcome = run_check("GG303", subject, stage_of(subject, "tokens"))

    assert [(f.detail["injected"], f.detail["value"]) for f in outcome.findings] == [
        ("the gradient of `trunk.embedding.weight`", "nan"),
        ("the gradient of `heads.0.bias`", "nan"),
        ("the gradient of `trunk.embedding.weight`", "inf"),
        ("the gradient of `heads.0.bias`", "inf"),
    ]
    assert {finding.detail["changed"] for finding in outcome.findings} == {"trunk.embedding.weight"}


def test_gg303_ignores_a_field_that_plays_no_part() -> None:
    """The poisoned step then leaves what a clean one leaves."""

    class Extra(MiniRun):
        def batches(self) -> Iterator[Any]:
            return ({"rows": batch, "unused": torch.ones(2)} for batch in super().batches())

        def step(self, batch: Any) -> Mapping[str, float]:
            return super().step(batch["rows"])

    subject, stage = with_run(lambda seed, *, dtype=torch.float32, device: Extra("value", Parts(), seed, dtype, device))
    outcome = run_check("GG303", subject, stage)

    assert (errors(outcome), outcome.measured["injections"]) == ([], 10)


@pytest.mark.parametrize(("always", "found"), [(True, False), (False, True)])
def test_gg303_takes_the_next_clean_step_behind_a_skipped_one(always: bool, found: bool) -> None:
    """Gradients that are cleared behind a step that was taken alone keep what is not finite for ever.

    That a rate moves all the same is no step.
    """

    class Skipping(MiniRun):
        def step(self, batch: Any) -> Mapping[str, float]:
            total = self.losses(batch)["total"]
            for group in self.optimizers[0].param_groups:
                group["lr"] *= 0.9
            if always:
                self.optimizers[0].zero_grad()
            total.backward()
            norm = nn.utils.clip_grad_norm_(self.trained(), 1.0)
            if norm.isfinite():
                self.advance()
                self.optimizers[0].zero_grad()
            return {"total": float(total.detach()), "grad_norm": float(norm)}

    subject, stage = with_run(
        lambda seed, *, dtype=torch.float32, device="cpu": Skipping("value", Parts(), seed, dtype, device)
    )

    messages = errors(run_check("GG303", subject, stage))
    assert bool(messages) is found
    assert all("was skipped, and so is the next, clean step" in told for told in messages)


# --- GG505 -----------------------------------------------------------------------------------------------------------


class Renamed(MiniRun):
    """The token stage with its modules, or its terms, under other names."""

    def __init__(self, seed: int, parts: Parts, modules: Mapping[str, str], terms: tuple[str, ...]) -> None:
        super().__init__("tokens", parts, seed, torch.float32, "cpu")
        self.names, self.terms = modules, terms

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        return {name: term for name, term in super().losses(batch).items() if name in self.terms}

    def step(self, batch: Any) -> Mapping[str, float]:
        total = MiniRun.losses(self, batch)["total"]
        self.optimizers[0].zero_grad()
        total.backward()
        self.optimizers[0].step()
        return {}


TERMS = ("total", "wmtp_loss", "value_loss")


def test_gg505_does_not_apply_without_a_value_loss() -> None:
    """Uniform weighting has no value head to be gamed with."""
    subject, stage = with_run(lambda seed, **_: Renamed(seed, Parts(), {}, TERMS[:2]), "tokens")

    assert "losses() has no value_loss" in run_check("GG505", subject, stage).not_applicable


class Under(dict[str, nn.Module]):
    """Modules that may be asked for by a name that is not shown."""

    def __init__(self, modules: Mapping[str, nn.Module], **names: str) -> None:
        super().__init__(modules)
        self._names = names

    def __missing__(self, name: str) -> nn.Module:
        return self[self._names[name]]


def hidden_value_head(seed: int, parts: Parts) -> Run:
    """The same run with all modules under one name, so that the value head must be found by its gradient."""
    run = Renamed(seed, parts, {}, TERMS)
    modules = dict(run.modules)

    class Hidden(dict[str, nn.Module]):
        def __missing__(self, name: str) -> nn.Module:
            return modules[name]

    run.modules = Hidden(everything=nn.ModuleDict(modules))
    return run


@pytest.mark.parametrize(("cut", "red"), [(mini_faults.kept, True), (Tensor.detach, False)])
def test_gg505_finds_a_value_head_without_a_name_by_its_gradient(cut: Any, red: bool) -> None:
    """It is what value_loss reaches."""
    subject, stage = with_run(lambda seed, **_: hidden_value_head(seed, Parts(cut_weights=cut)), "tokens")
    outcome = run_check("GG505", subject, stage)

    assert (bool(errors(outcome)), outcome.not_applicable) == (red, "")


@pytest.mark.parametrize(("cut", "red"), [(mini_faults.kept, True), (Tensor.detach, False)])
def test_gg505_finds_a_value_head_whose_loss_trains_the_trunk_too(cut: Any, red: bool) -> None:
    """It is what returns one number a position; the trunk stays frozen, as its gain is no game."""

    class Attached(MiniRun):
        def losses(self, batch: Any) -> Mapping[str, Tensor]:
            terms = dict(super().losses(batch))
            value_BS = self.modules["value_head"](self.features(batch))[..., 0]
            target_BS = self.parts.targets(value_BS, batch.reward_B, batch.valid_BS)
            terms["value_loss"] = mini_trainer.value_loss(value_BS, target_BS, batch.valid_BS)
            terms["total"] = terms["wmtp_loss"] + mini_trainer.AUXILIARY * terms["value_loss"]
            return terms

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Run:
        run = Attached("tokens", Parts(cut_weights=cut), seed, dtype, device)
        run.modules = {"critic" if name == "value_head" else name: module for name, module in run.modules.items()}
        run.modules = Under(run.modules, value_head="critic")
        return run

    outcome = run_check("GG505", *with_run(start, "tokens"))

    assert (bool(errors(outcome)), outcome.not_applicable) == (red, "")


EVERYTHING: list[nn.Parameter] = []


@pytest.mark.parametrize(
    "value_loss",
    [lambda *_: torch.zeros(()), lambda *_: sum(p.sum() for p in EVERYTHING)],
)
def test_gg505_does_not_apply_where_the_value_head_is_not_known(value_loss: Any) -> None:
    """value_loss reaches nothing, or everything."""

    def start(seed: int, **_: Any) -> Run:
        run = hidden_value_head(seed, Parts(value_loss=value_loss))
        EVERYTHING[:] = run.optimizers[0].param_groups[0]["params"]
        return run

    subject, stage = with_run(start, "tokens")

    assert "name it" in run_check("GG505", subject, stage).not_applicable


def test_gg505_is_inconclusive_where_the_main_loss_is_not_finite() -> None:
    """NaN compares with nothing."""

    class Broken(Renamed):
        def losses(self, batch: Any) -> Mapping[str, Tensor]:
            terms = super().losses(batch)
            return {**terms, "wmtp_loss": terms["wmtp_loss"] * nan}

    subject, stage = with_run(lambda seed, **_: Broken(seed, Parts(), {}, TERMS), "tokens")

    assert "not finite" in run_check("GG505", subject, stage).inconclusive


# --- GG506 and GG901 -------------------------------------------------------------------------------------------------


def value_fit(ratio: float, count: int = 100, epochs: int | None = 3) -> Fit:
    """A fit whose squared error is `ratio` of the best constant's."""
    target_N = torch.arange(count).remainder(2).double()
    return Fit((1.0, 0.5), epochs, target_N + 0.5 * ratio**0.5, target_N)


@pytest.mark.parametrize(("ratio", "red"), [(0.97, False), (0.981, True), (nan, True)])
def test_gg506_wants_two_percent_below_the_constant(ratio: float, red: bool) -> None:
    """0.98 is the bar; NaN misses it."""
    subject, stage = with_fit(lambda seed: value_fit(ratio), "value")

    assert bool(errors(run_check("GG506", subject, stage))) == red


@pytest.mark.parametrize(
    ("ratios", "red"),
    [((1.1, 0.5, 0.5), False), ((1.1, 1.1, 0.5), True), ((1.1, 0.5, 1.1), True), ((0.5, 1.1, 1.1), False)],
)
def test_gg506_asks_two_more_seeds_where_one_fails(ratios: tuple[float, ...], red: bool) -> None:
    """Most of three must fail; the finding's number is the first seed's."""
    subject, stage = with_fit(lambda seed: value_fit(ratios[seed]), "value")
    outcome = run_check("GG506", subject, stage)

    assert bool(errors(outcome)) == red
    assert outcome.measured.get("seeds_that_fail") == (None if ratios[0] < 1 else sum(ratio > 1 for ratio in ratios))


def test_gg506_reports_position_and_ranking_beside_the_constant() -> None:
    """Numbers without a bound, for the reader."""
    outcome = run_check("GG506", CLEAN, stage_of(CLEAN, "value"))

    assert 0.6 < outcome.measured["auc"] < 1.0
    assert 0 < outcome.measured["auc_standard_error"] < 0.1
    assert outcome.measured["position_mse"] > outcome.measured["mse"]


def with_a_trend(*, knows_rows: bool) -> Fit:
    """The clean fit with targets that grow along the row, and a head that knows the trend, alone or with its rows."""
    fit = stage_of(CLEAN, "value").fit(0)  # type: ignore[misc]
    trend_N = 0.3 * fit.position_N
    known_N = fit.prediction_N if knows_rows else fit.target_N.mean()
    return replace(fit, target_N=fit.target_N + trend_N, prediction_N=known_N + trend_N)


@pytest.mark.parametrize("knows_rows", [True, False])
def test_gg506_holds_a_head_against_shuffled_labels(knows_rows: bool) -> None:
    """One that knows positions alone beats the constant by far, and as well where its labels are other rows'."""
    subject, stage = with_fit(lambda seed: with_a_trend(knows_rows=knows_rows), "value")
    outcome = run_check("GG506", subject, stage)

    assert outcome.measured["mse_to_constant_ratio"] < 0.7
    assert [("against labels shuffled among the rows" in message) for message in errors(outcome)] == [True] * (
        not knows_rows
    )


@pytest.mark.parametrize(("right", "red"), [([True] * 6, True), ([False] * 6, True), ([True, False] * 3, False)])
def test_gg506_wants_rows_of_both_kinds(right: list[bool], red: bool) -> None:
    """Where every row is right, or every row is wrong, there was nothing to learn."""
    given = replace(value_fit(0.5), right_R=torch.tensor(right), score_R=torch.arange(6.0))
    subject, stage = with_fit(lambda seed: given, "value")

    found = errors(run_check("GG506", subject, stage))

    assert bool(found) == red
    assert all("all 6 held-out rows are of one kind" in message for message in found)


def test_gg506_is_inconclusive_on_few_predictions() -> None:
    """Forty-nine decide nothing."""
    subject, stage = with_fit(lambda seed: value_fit(0.5, count=48), "value")

    assert run_check("GG506", subject, stage).inconclusive.startswith("48 held-out predictions (needed: 50)")


@pytest.mark.parametrize("code", ["GG506", "GG901"])
def test_value_checks_do_not_apply_without_predictions(code: str) -> None:
    """A fit may give its curve alone."""
    subject, stage = with_fit(lambda seed: Fit((1.0,)), "value")

    assert "gives no `prediction_N`" in run_check(code, subject, stage).not_applicable


def test_gg901_is_undecided_after_two_failures_among_five() -> None:
    """Neither good nor bad with the stated certainty."""
    subject, stage = with_fit(lambda seed: value_fit(1.0 if seed in (0, 3) else 0.5), "value")

    assert run_check("GG901", subject, stage).inconclusive.startswith(
        "undecided after 5 seeds: 2 of 5 seeds miss the bar"
    )


def test_gg901_counts_no_epochs_where_the_fit_does_not() -> None:
    """None is not more than 3."""
    subject, stage = with_fit(lambda seed: value_fit(0.5, epochs=None), "value")

    assert run_check("GG901", subject, stage).findings == ()


def test_gg901_hands_over_the_curve_of_every_seed() -> None:
    """What the report draws, also where a seed failed."""
    subject, stage = with_fit(lambda seed: value_fit(1.0 if seed == 0 else 0.5), "value")

    series = run_check("GG901", subject, stage).series

    assert series == {"heldout_squared_error": {f"seed {seed}": [(1.0, 1.0), (2.0, 0.5)] for seed in range(5)}}


# --- GG601 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("noise-of-its-own", "two runs from seed 0 differ: first in step 1, `gradient of value_head.0.weight"),
        ("dropout-from-numpy", "depends on what numpy's global generator held before it: first in step 1, `output of"),
        ("metric-from-python", "depends on what Python's global generator held before it: first in step 1, `metric"),
    ],
)
def test_gg601_names_the_first_value_that_differs_and_the_generator(name: str, told: str) -> None:
    """Where in the step, and on what it depends."""
    subject = FAULTS[name].subject()
    (message,) = errors(run_check("GG601", subject, stage_of(subject, FAULTS[name].stage)))

    assert told in message


@pytest.mark.parametrize(("metric", "red"), [("step_s", False), ("tokens_per_second", False), ("score", True)])
def test_gg601_leaves_metrics_of_time_out(metric: str, red: bool) -> None:
    """Two steps never take the same time."""
    counter = iter(range(1000))
    subject = mini_trainer.subject(update=lambda run, terms: {**mini_trainer.update(run, terms), metric: next(counter)})

    assert bool(errors(run_check("GG601", subject, subject.stages[0]))) == red


def test_gg601_takes_one_nan_for_another() -> None:
    """A metric that is NaN in both runs does not differ."""
    subject = mini_trainer.subject(update=lambda run, terms: {**mini_trainer.update(run, terms), "score": nan})

    assert run_check("GG601", subject, subject.stages[0]).findings == ()


# --- GG602 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("value-head-not-saved", "after 1 steps `value_head.0.weight`"),
        ("position-not-saved", "batch 1 `batch.token_BS`"),
        ("save-draws-a-random-number", "save() after 1 steps changed the run: `random state`"),
        ("load-raises", "load() after 1 steps raised KeyError"),
    ],
)
def test_gg602_names_the_first_value_that_differs(name: str, told: str) -> None:
    """When, what, and by how much."""
    subject = FAULTS[name].subject()
    outcome = run_check("GG602", subject, stage_of(subject, FAULTS[name].stage))

    assert told in errors(outcome)[0]


def counting(restores: bool) -> type[MiniRun]:
    """A value stage that reports how many steps it took, and may forget that on resume."""

    class Counting(MiniRun):
        taken = 0

        def step(self, batch: Any) -> Mapping[str, float]:
            self.taken += 1
            return {**super().step(batch), "step": self.taken}

        def save(self, path: Path) -> None:
            super().save(path)
            (path / "taken").write_text(str(self.taken))

        def load(self, path: Path) -> None:
            super().load(path)
            self.taken = int((path / "taken").read_text()) if restores else 0

    return Counting


@pytest.mark.parametrize(("restores", "found"), [(True, 0), (False, 2)])
def test_gg602_compares_the_metrics_of_the_last_step(restores: bool, found: int) -> None:
    """A step counter that starts again is a difference."""
    run = counting(restores)
    subject, stage = with_run(lambda seed, *, dtype=torch.float32, device: run("value", Parts(), seed, dtype, device))
    messages = errors(run_check("GG602", subject, stage))

    assert len(messages) == found
    assert all("metrics of step 6: step 6 became" in message for message in messages)


def test_gg602_is_inconclusive_where_one_seed_gives_two_runs() -> None:
    """That is no fault of the checkpoint."""
    seeds = iter(range(100))

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str) -> Run:
        return MiniRun("value", Parts(), next(seeds), dtype, device)

    subject, stage = with_run(start)

    assert "two runs from one seed differ before any save" in run_check("GG602", subject, stage).inconclusive


def loading(choose: Callable[[Iterable[Path]], Path]) -> tuple[Subject, Stage]:
    """A run that keeps a file for each save, and loads the one that is chosen."""

    class Hoarding(MiniRun):
        def save(self, path: Path) -> None:
            super().save(path)
            (path / "state.pt").rename(path / f"{self.drawn}.pt")

        def load(self, path: Path) -> None:
            choose(path.glob("*.pt")).rename(path / "state.pt")
            super().load(path)

    return with_run(lambda seed, *, dtype=torch.float32, device: Hoarding("value", Parts(), seed, dtype, device))


def test_gg602_loads_the_newest_of_several_saves_in_one_folder() -> None:
    """A run saves again and again; what is kept and found again must be the last."""
    (message,) = errors(run_check("GG602", *loading(partial(min, key=lambda file: int(file.stem)))))

    assert message.startswith("3 steps + save + load + 3 steps is not 6 steps: after 3 steps")


@pytest.mark.parametrize(("number", "found"), [(int, 0), (str, 1)])
def test_gg602_loads_the_newest_across_the_first_number_with_a_digit_more(number: Any, found: int) -> None:
    """As text, 9 is behind 10."""
    messages = errors(run_check("GG602", *loading(partial(max, key=lambda file: number(file.stem)))))

    assert len(messages) == found
    assert all("behind saves after 8 to 11 steps into one folder, load() brings back" in told for told in messages)


def test_gg602_finds_a_save_whose_effect_shows_only_later() -> None:
    """State that no snapshot shows: the saving run goes on otherwise."""

    class Advancing(MiniRun):
        def save(self, path: Path) -> None:
            super().save(path)
            self.order.manual_seed(99)
            self.left = self.left[:5]

    subject, stage = with_run(
        lambda seed, *, dtype=torch.float32, device: Advancing("value", Parts(), seed, dtype, device)
    )

    assert errors(run_check("GG602", subject, stage))[0].startswith("a run that only saves, and does not load")


# --- GG606 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("value-head-left-in-eval-mode", "step 1 left behind `value_head`: train mode -> eval mode"),
        ("frozen-trunk-in-train-mode", "step 1 left behind `trunk`: eval mode -> train mode"),
        ("seeded-in-every-step", "step() left behind torch's global generator in the same state each time"),
        ("eval-mode-where-it-raises", "step() with a NaN in the output of module `trunk` left behind `value_head`"),
        ("deterministic-where-it-raises", "deterministic algorithms: (False, False) -> (True, False)"),
        ("saved-in-eval-mode", "save() left behind `trunk`: train mode -> eval mode, `value_head`"),
        pytest.param(
            "save-draws-a-random-number",
            "save() left behind torch's global generator in another state",
            marks=pytest.mark.nightly,
        ),
        ("save-rounds", "save() left behind `value_head.0.weight`: "),
    ],
)
def test_gg606_names_the_call_and_what_it_left(name: str, told: str) -> None:
    """One finding for each set of changes, children of a changed module left out."""
    subject = FAULTS[name].subject()
    (message,) = errors(run_check("GG606", subject, stage_of(subject, FAULTS[name].stage)))

    assert told in message


def test_gg606_allows_a_step_that_sets_its_own_modes() -> None:
    """What a step leaves behind does no harm where the next one begins with train()."""

    class Evaluating(MiniRun):
        def step(self, batch: Any) -> Mapping[str, float]:
            self.modules["value_head"].train()
            metrics = super().step(batch)
            self.modules["value_head"].eval()
            return metrics

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str) -> Run:
        run = Evaluating("value", Parts(), seed, dtype, device)
        run.modules["value_head"].eval()
        return run

    subject, stage = with_run(start)

    assert run_check("GG606", subject, stage).findings == ()


@pytest.mark.parametrize("sets", [True, False])
def test_gg606_asks_what_the_mode_that_an_evaluation_leaves_leads_to(sets: bool) -> None:
    """Nothing, where each step begins with train(); else the steps behind it are without dropout."""

    class Evaluating(MiniRun):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str) -> None:
            super().__init__("value", Parts(), seed, dtype, device)

        def step(self, batch: Any) -> Mapping[str, float]:
            if sets:
                self.modules["value_head"].train()
            return super().step(batch)

        def evaluate(self) -> Mapping[str, float]:
            self.modules["value_head"].eval()
            return {"loss": 1.0}

    found = errors(run_check("GG606", *with_run(Evaluating)))

    assert ["evaluate() left behind `value_head`: train mode -> eval mode" in message for message in found] == (
        [] if sets else [True]
    )


def test_gg606_finds_dropout_that_is_switched_off_for_good() -> None:
    """The mode is as before, the probability is not."""

    class Dropping(MiniRun):
        def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str) -> None:
            super().__init__("value", Parts(), seed, dtype, device)
            self.modules["value_head"].append(nn.Dropout(0.1))

        def losses(self, batch: Any) -> Mapping[str, Tensor]:
            self.modules["value_head"][-1].p = 0.0
            return super().losses(batch)

    subject, stage = with_run(Dropping)

    assert (
        "step 1 left behind `value_head.3`: dropout 0.1 -> dropout 0" in errors(run_check("GG606", subject, stage))[0]
    )


@pytest.mark.parametrize(
    ("leak", "told"),
    [
        (lambda run: run.modules["value_head"].eval(), "`value_head`: train mode -> eval mode"),
        (lambda run: torch.rand(1), "torch's global generator in another state"),
        (lambda run: run.trained()[0].data.add_(1.0), ".weight`: "),
        (lambda run: None, ""),
    ],
)
def test_gg606_holds_evaluation_to_leave_the_run_as_it_was(leak: Callable[[MiniRun], Any], told: str) -> None:
    """Modes, state and generators; a right evaluation leaves none changed."""

    class Evaluating(MiniRun):
        def evaluate(self) -> Mapping[str, Any]:
            leak(self)
            return {}

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str) -> Run:
        return Evaluating("value", Parts(), seed, dtype, device)

    found = errors(run_check("GG606", *with_run(start)))

    assert len(found) == bool(told)
    assert all(message.startswith("evaluate() left behind") and told in message for message in found)


# --- GG902 and fits --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("curve", "told"),
    [
        ((3.0, 2.9, 3.1, 3.0, 2.95), "no downward trend"),
        ((3.0, 2.999, 2.998, 2.997, 2.996), "net fall 0.13%"),
        ((3.0, 2.8, 2.6, 2.4, 2.2), "50% of the fall in the second half"),
        ((3.0, 2.0, 1.9, 1.8, 2.9, 1.7, 1.6), "spike of 79% of the total fall"),
        ((3.0, 2.0, nan, 1.0), "not finite at evaluation 2"),
    ],
)
def test_gg902_says_what_is_wrong_with_a_curve(curve: tuple[float, ...], told: str) -> None:
    """Trend, net fall, plateau, spike, NaN."""
    subject, stage = with_fit(lambda seed: Fit(curve), "tokens")
    (message,) = errors(run_check("GG902", subject, stage))

    assert told in message
    assert "2 of 2 seeds" in message


def test_gg902_wants_more_than_the_frequencies_of_the_labels() -> None:
    """Biases alone learn these."""
    subject, stage = with_fit(lambda seed: Fit((3.0, 2.0, 1.8, 1.7, 1.65), constant_loss=1.66), "tokens")
    (message,) = errors(run_check("GG902", subject, stage))

    assert "no better than the labels' frequencies, 1.660 nats" in message


@pytest.mark.parametrize("curve", [(), (3.0, 2.0, 1.0)])
def test_gg902_is_inconclusive_on_a_short_curve(curve: tuple[float, ...]) -> None:
    """Three values cannot show a trend at 0.05."""
    subject, stage = with_fit(lambda seed: Fit(curve), "tokens")

    assert "needs 4" in run_check("GG902", subject, stage).inconclusive


def test_gg902_is_undecided_after_two_failures_among_five() -> None:
    """The reason names the seed."""
    subject, stage = with_fit(
        lambda seed: Fit((1.0, 1.0, 1.0, 1.0) if seed in (0, 3) else (4.0, 2.0, 1.5, 1.0)), "tokens"
    )

    assert run_check("GG902", subject, stage).inconclusive.startswith(
        "undecided after 2 of 5 seeds: seed 0: no downward"
    )


def test_fit_is_made_once_for_a_stage_and_seed() -> None:
    """GG506 and GG901 share it."""
    seeds: list[int] = []

    def fit(seed: int) -> Fit:
        seeds.append(seed)
        return value_fit(0.5)

    subject, stage = with_fit(fit, "value")
    run_check("GG506", subject, stage)
    run_check("GG901", subject, stage)

    assert seeds == [0, 1]


def test_fit_of_another_type_is_refused() -> None:
    """The contract says Fit."""
    subject, stage = with_fit(lambda seed: {"curve": ()}, "value")  # type: ignore[arg-type,return-value]

    with pytest.raises(SubjectError, match=r"returned dict, expected gradgate\.Fit"):
        fits.fit(subject, stage, 0, Context())


def test_stage_without_fit_is_refused() -> None:
    """The runner asks first; a caller who does not is told."""
    with pytest.raises(SubjectError, match="has no `fit`"):
        fits.fit(CLEAN, replace(CLEAN.stages[0], fit=None), 0, Context())


def test_fit_that_raises_is_a_finding() -> None:
    """The subject's exception is not the harness's."""

    def fails(seed: int) -> Fit:
        raise ValueError("no data")

    subject, stage = with_fit(fails, "value")

    assert errors(run_check("GG506", subject, stage)) == ["fit(seed=0) raised ValueError: no data"]

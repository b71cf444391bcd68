"""GG405 to GG408: each planted fault breaks one invariance and turns its check red alone; the clean twin is green."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fixtures import mini_trainer
from fixtures.invariance_faults import INVARIANCE_FAULTS
from fixtures.mini_trainer import MiniBatch, MiniRun, Parts
from fixtures.plain_loop import CapableRun
from gradgate.checks import catalogue, leaks
from gradgate.checks.invariance import Probe, elements, rows_of
from gradgate.checks.isolation import isolated
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.errors import SubjectError
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODES = ("GG405", "GG406", "GG407", "GG408")
# Faults that break one invariance alone; the others break a second by their nature.
ALONE = (
    "column-read-through-the-mask", "mean-over-columns", "mean-over-columns-in-training",
    "rewards-centred-over-the-batch", "rows-weighted-by-place", "rows-weighted-by-place-in-training",
)  # fmt: skip
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


def with_run(run: type[MiniRun]) -> tuple[Subject, Stage]:
    """A subject of one stage that starts a run of one's own class."""

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Run:
        return run("value", Parts(), seed, dtype, device)

    stage = Stage("own", start)
    return Subject("own", [stage]), stage


@pytest.mark.parametrize("name", INVARIANCE_FAULTS)
def test_invariance_fault_turns_its_check_red(name: str) -> None:
    """The message has what changed, by how much, and what is allowed."""
    fault = INVARIANCE_FAULTS[name]
    subject = fault.subject()

    outcome = run_check(fault.code, subject, stage_of(subject, fault.stage))

    assert errors(outcome) != []
    assert all("allowed: " in message and "`" in message for message in errors(outcome))
    assert outcome.measured.keys() >= outcome.allowed.keys()


@pytest.mark.nightly
@pytest.mark.parametrize("name", ALONE)
def test_invariance_fault_turns_no_other_check_red(name: str) -> None:
    """One invariance is broken, the others hold, and the gradient is that of the loss."""
    fault = INVARIANCE_FAULTS[name]
    subject = fault.subject()
    others = [code for code in (*CODES, "GG100", "GG201", "GG205", "GG415") if code != fault.code]

    assert [code for code in others if errors(run_check(code, subject, stage_of(subject, fault.stage)))] == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("code", CODES)
def test_clean_twin_passes(code: str, seed: int) -> None:
    """No finding, decided, on both stages; dropout in the token stage notwithstanding."""
    for stage in CLEAN.stages:
        outcome = run_check(code, CLEAN, stage, seed)
        assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")


def test_gg405_names_the_tensor_that_was_changed() -> None:
    """The path into the batch."""
    subject = INVARIANCE_FAULTS["column-read-through-the-mask"].subject()

    assert (
        "`batch.token_BS` holds other numbers at padding" in errors(run_check("GG405", subject, subject.stages[0]))[0]
    )


def test_leak_is_named_without_time_to_try_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations that differ name it; what was found is not lost for want of a line."""
    tried: list[float] = []
    monkeypatch.setattr(leaks, "culprit", lambda *given: tried.append(given[2]))
    fault = INVARIANCE_FAULTS["column-read-through-the-mask"]
    subject = fault.subject()
    (finding,) = run_check("GG405", subject, stage_of(subject, fault.stage)).findings
    assert tried == [leaks.SECONDS]
    assert finding.culprit is not None


def test_gg405_pads_a_batch_that_has_no_padding() -> None:
    """Where the run can."""

    class Short(MiniRun):
        def batches(self) -> Any:
            for batch in super().batches():
                yield MiniBatch(batch.token_BS[:, :5], batch.valid_BS[:, :5], batch.reward_B)

    outcome = run_check("GG405", *with_run(Short))

    assert (outcome.findings, outcome.inconclusive) == ((), "")
    assert outcome.measured["tensors_changed"] == 1


@pytest.mark.parametrize("masked", [True, False])
def test_gg405_holds_value_targets_with_keys_moved(masked: bool) -> None:
    """One way of making targets may read behind the last token where the default does not."""

    class Bootstrapping(MiniRun):
        def __init__(self, seed: int, *, options: Any = None, dtype: torch.dtype = torch.float32, **_: Any) -> None:
            super().__init__("value", Parts(), seed, dtype, "cpu")
            self.one_step = bool(options)

        def value_targets(self, reward_B: Tensor, value_BS: Tensor, valid_BS: Tensor) -> Tensor:
            next_BS = F.pad(value_BS * (valid_BS if masked or not self.one_step else 1), (0, 1))[:, 1:]
            return reward_B[:, None] + next_BS

    stage = Stage("own", Bootstrapping, options={"target": ("td_lambda", "td0")})
    messages = errors(run_check("GG405", Subject("own", [stage]), stage))

    assert len(messages) == (not masked)
    assert all("value targets" in message and "with target = 'td" in message for message in messages)


def test_gg405_is_inconclusive_without_padding() -> None:
    """Nothing is masked."""

    class Full(MiniRun):
        pad = Run.pad

        def valid(self, batch: MiniBatch) -> torch.Tensor:
            return torch.ones_like(batch.valid_BS)

    assert "no padding" in run_check("GG405", *with_run(Full)).inconclusive


def test_gg405_is_inconclusive_where_no_tensor_has_the_masks_shape() -> None:
    """There is nothing that it could change."""

    class Longer(MiniRun):
        def valid(self, batch: MiniBatch) -> torch.Tensor:
            return F.pad(batch.valid_BS, (0, 1))

    assert "shape [B, S, ...]" in run_check("GG405", *with_run(Longer)).inconclusive


@pytest.mark.parametrize("code", CODES)
def test_invariance_is_inconclusive_where_the_loss_draws_by_shape(code: str) -> None:
    """Noise of the batch's shape differs with the shape: no fault of the batch."""

    class Noisy(MiniRun):
        def losses(self, batch: MiniBatch) -> Any:
            terms = super().losses(batch)
            noise = (batch.token_BS * torch.randn(batch.token_BS.shape)).mean()
            return {name: term * (1 + noise) for name, term in terms.items()}

    outcome = run_check(code, *with_run(Noisy))

    assert outcome.findings == ()
    assert "random numbers other than dropout" in outcome.inconclusive or code == "GG407"


@pytest.mark.parametrize("code", ["GG407", "GG408"])
def test_invariance_is_inconclusive_on_a_single_row(code: str) -> None:
    """One row has no other."""

    class Single(MiniRun):
        def batches(self) -> Any:
            for batch in super().batches():
                yield self.select_rows(batch, [0])

    assert run_check(code, *with_run(Single)).inconclusive != ""


def test_probe_leaves_the_parameters_as_they_were() -> None:
    """Measuring the noise moves them and puts them back, bit for bit; of a single number it may round to 0."""
    probe = Probe(CLEAN.stages[0], Context())
    (batch,) = probe.batches(1)
    before = [parameter.detach().clone() for parameter in probe.run.modules["value_head"].parameters()]
    noise = probe.noise(batch, probe(batch))

    assert all(map(torch.equal, before, probe.run.modules["value_head"].parameters()))
    assert all(value < 1e-12 for value in noise.values()) and noise["the gradient of `value_loss`"] > 0


class Freezing(MiniRun):
    """Its first steps leave the trunk alone, and say so when they begin."""

    def losses(self, batch: MiniBatch) -> Mapping[str, torch.Tensor]:
        self.modules["trunk"].requires_grad_(False)
        return super().losses(batch)


@pytest.mark.parametrize("code", ["GG405", "GG406", "GG407", "GG408", "GG410"])
def test_module_that_a_step_freezes_has_a_gradient_of_zero(code: str) -> None:
    """It required grad when the run was started."""

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Run:
        return Freezing("tokens", Parts(), seed, dtype, device)

    stage = Stage("tokens", start, objective="tokens", edges=mini_trainer.EDGES["tokens"])
    outcome = run_check(code, Subject("freezing", [stage]), stage)
    assert (outcome.findings, outcome.inconclusive) == ((), "")


class Lone(MiniRun):
    """A row alone has no spread to be divided by."""

    def losses(self, batch: MiniBatch) -> Mapping[str, torch.Tensor]:
        rows = len(batch.token_BS)
        return {name: term * (torch.nan if rows == 1 else 1.0) for name, term in super().losses(batch).items()}


def test_row_whose_loss_is_nan_alone_is_combined_with_none() -> None:
    """GG404 finds the NaN; least squares of NaN are no answer."""
    outcome = run_check("GG407", *with_run(Lone))

    assert outcome.findings == ()
    assert "no two rows" in outcome.inconclusive


class Paired(MiniRun):
    """It compares rows two by two: one alone gives a number without a graph."""

    def losses(self, batch: MiniBatch) -> Mapping[str, torch.Tensor]:
        terms = dict(super().losses(batch))
        return {**terms, "ranking": terms["total"].square() if len(batch.token_BS) > 1 else torch.zeros(())}


def test_row_that_has_no_part_in_a_term_has_a_gradient_of_zero() -> None:
    """What two rows give together is no combination of that."""
    (message,) = errors(run_check("GG407", *with_run(Paired)))

    assert message.startswith("the gradient of `ranking` on rows 0 and ")
    assert "is no combination of those on each row alone" in message


class Rounding(MiniRun):
    """Its features pass through float32, whatever the run's dtype, as norms of many models do."""

    def features(self, batch: MiniBatch) -> torch.Tensor:
        return (
            super()
            .features(batch)
            .type_as(torch.zeros((), dtype=torch.float32))
            .to(self.modules["value_head"][0].weight.dtype)
        )


def test_probe_knows_the_coarsest_dtype_that_anything_is_cast_to() -> None:
    """A part in float32, here without a graph, makes the whole as exact as float32."""
    stage = with_run(Rounding)[1]
    probes = [Probe(stage, Context()), Probe(CLEAN.stages[0], Context())]
    for probe in probes:
        probe(probe.batches(1)[0])

    assert [probe.unit for probe in probes] == [2.0**-24, 2.0**-53]


@pytest.mark.parametrize("code", CODES)
def test_part_in_float32_is_no_dependence(code: str) -> None:
    """What float32 rounds away differs by float32's roundoff, and that is allowed."""
    subject, stage = with_run(Rounding)

    assert run_check(code, subject, stage).findings == ()


def test_probe_wants_a_total() -> None:
    """GG001 says so at length."""

    class NoTotal(CapableRun):
        def losses(self, batch: Any) -> Any:
            return {"loss": self._loss(batch)}

    with pytest.raises(SubjectError, match="no term 'total'"):
        probe = Probe(Stage("own", NoTotal), Context())
        probe(probe.batches(1)[0])


def test_without_dropout_keeps_every_element_and_its_scale() -> None:
    """The same factor everywhere, in functions and modules, in training mode."""
    ones = torch.ones(50, requires_grad=True)
    with without_dropout():
        kept = [F.dropout(ones, 0.5), nn.Dropout(0.5)(ones), torch.native_dropout(ones, 0.5, True)[0]]
        eval_mode = nn.Dropout(0.5).eval()(ones)

    assert all(torch.equal(each, 2 * torch.ones(50)) for each in kept)
    assert torch.equal(eval_mode, ones)


def test_rows_and_elements_are_read_from_the_batch() -> None:
    """The size that most tensors begin with; the largest tensor."""
    batch = MiniBatch(torch.zeros(3, 5), torch.zeros(3, 5), torch.zeros(3))

    assert (rows_of(batch), elements(batch), rows_of(1.0), elements(1.0)) == (3, 15, 0, 1)


@pytest.mark.parametrize(("padded", "found"), [(True, 1), (False, 0)])
def test_gg406_finds_a_metric_that_counts_padding(padded: bool, found: int) -> None:
    """What a step reports is of real tokens, too; whole numbers and what is drawn are left out."""

    class Reporting(MiniRun):
        def step(self, batch: Any) -> Any:
            told = super().step(batch)
            share = batch.valid_BS.float().mean() if padded else batch.valid_BS.float().sum() / 7
            return {**told, "filled": float(share), "columns": batch.valid_BS.shape[1]}

    messages = errors(run_check("GG406", *with_run(Reporting)))

    assert len(messages) == found
    assert all(message.startswith("the metric filled is 0.") for message in messages)


def test_gg406_compares_steps_with_dropout() -> None:
    """Dropout keeps everything while it looks, so that masks of another shape do not hide a metric of padding."""

    class Dropping(MiniRun):
        def step(self, batch: MiniBatch) -> Any:
            dropped_BS = F.dropout(torch.ones(batch.valid_BS.shape))
            return {**super().step(batch), "filled": float((dropped_BS * batch.valid_BS).mean())}

    assert ["the metric filled" in message for message in errors(run_check("GG406", *with_run(Dropping)))] == [True]


@pytest.mark.parametrize(
    ("name", "padded", "found"),
    [("tokens", True, 1), ("num_tokens", True, 1), ("tokens", False, 0), ("padded_tokens", True, 0), ("rows", True, 0)],
)
def test_gg406_holds_counts_of_tokens_among_the_metrics(name: str, padded: bool, found: int) -> None:
    """A whole number under a name of tokens; what says that it counts padding may."""

    class Counting(MiniRun):
        def step(self, batch: MiniBatch) -> Any:
            return {**super().step(batch), name: batch.valid_BS.numel() if padded else int(batch.valid_BS.sum())}

    outcome = run_check("GG406", *with_run(Counting))

    assert len(outcome.findings) == found
    assert all(f"the metric {name} is 64, and 104" in message for message in errors(outcome))


@pytest.mark.parametrize(("padded", "found"), [(True, 1), (False, 0)])
def test_gg406_finds_a_kept_statistic_of_padding(padded: bool, found: int) -> None:
    """A running mean that no loss reads yet, and no metric tells, is a number that the run keeps; dropout or none."""

    class Averaging(MiniRun):
        mean = 0.0

        def step(self, batch: MiniBatch) -> Any:
            size_BS = F.dropout(torch.ones(batch.valid_BS.shape)) * batch.token_BS
            self.mean = float(size_BS.mean() if padded else size_BS.sum() / batch.valid_BS.sum())
            return super().step(batch)

    outcome = run_check("GG406", *with_run(Averaging))

    assert [message.partition(" is ")[0] for message in errors(outcome)] == ["`mean`, behind one step,"] * found

"""GG410: a loss that is no mean turns it red and no neighbour; the clean twin is green."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fixtures import mini_trainer
from fixtures.check_runs import errors, red, run_check, stage_of
from fixtures.mini_trainer import MiniBatch, MiniRun, Parts
from fixtures.prediction_faults import COUNT_FAULTS, SCALE_FAULTS, over_the_weights_sum, renormalised
from fixtures.pytest_fixtures import rest_at_night
from fixtures.switch_faults import Accumulating, Cutting, Running, accumulating
from gradgate.subjects.contract import Functions, Run, Stage, Subject


def thirds(terms: Mapping[str, Tensor], *_: Any) -> Mapping[str, Tensor]:
    """A third of each term, however many rows a part has."""
    return {name: term / 3 for name, term in terms.items()}


COUNTED = "counts one of them as in a mean over "
NEIGHBOURS = ("GG100", "GG405", "GG407", "GG408")
CLEAN = replace(mini_trainer.subject(), functions=Functions(loss=mini_trainer.token_loss))
TOKENS = stage_of(CLEAN, "tokens")
MEANS = Functions(loss=mini_trainer.token_loss, value_loss=mini_trainer.value_loss, weights=mini_trainer.head_weights)


def with_run(run: type[MiniRun]) -> tuple[Subject, Stage]:
    """A subject of one stage that starts a run of one's own class."""

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Run:
        return run("value", Parts(), seed, dtype, device)

    stage = Stage("own", start)
    return Subject("own", [stage]), stage


@pytest.mark.parametrize("name", SCALE_FAULTS)
def test_scale_fault_turns_gg410_red_and_no_neighbour(name: str) -> None:
    """With what is measured and what is allowed."""
    fault = SCALE_FAULTS[name]
    subject = fault.subject()
    stage = stage_of(subject, fault.stage)

    outcome = run_check("GG410", subject, stage)

    assert errors(outcome) != []
    assert all("allowed: " in message for message in errors(outcome))
    assert outcome.measured.keys() >= outcome.allowed.keys()
    assert red(subject, stage, NEIGHBOURS) == []


@pytest.mark.parametrize("seed", rest_at_night(range(2), day=1))
def test_gg410_passes_the_clean_twin(seed: int) -> None:
    """No finding at all: doubled, cut and weighted."""
    for stage in CLEAN.stages:
        outcome = run_check("GG410", CLEAN, stage, seed)
        assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")


@pytest.mark.parametrize("name", COUNT_FAULTS)
def test_gg410_finds_a_term_that_is_divided_by_another_count(name: str) -> None:
    """Where the subject says that its terms are means; a constant factor shows, too."""
    fault, term = COUNT_FAULTS[name]
    subject = replace(fault.subject(), functions=MEANS)

    messages = errors(run_check("GG410", subject, stage_of(subject, fault.stage)))

    (message,) = (message for message in messages if COUNTED in message)
    assert message.startswith(f"`{term}` has ")


@pytest.mark.parametrize(("declared", "found"), [(mini_trainer.AUXILIARY, 0), (0.5, 1)])
def test_gg410_holds_the_total_against_the_declared_coefficients(declared: float, found: int) -> None:
    """Each term enters once, times what the configuration says."""

    class Declaring(MiniRun):
        coefficients: ClassVar[Mapping[str, float]] = {"wmtp_loss": 1.0, "value_loss": declared}

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Run:
        return Declaring("tokens", Parts(), seed, dtype, device)

    stage = Stage("tokens", start)
    messages = errors(run_check("GG410", Subject("declaring", [stage]), stage))

    assert len(messages) == found
    assert all("1 * `wmtp_loss` + 0.5 * `value_loss` is " in message for message in messages)


def test_gg410_counts_with_a_key_of_the_configuration_moved() -> None:
    """A term may be a mean by default alone; a key that does not start, or whose loss raises, is GG414's."""

    def refused(*_: Any) -> Tensor:
        raise RuntimeError("expected scalar type Double but found Float")

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu", options: Any = None) -> Run:
        if (options or {}).get("weighting") == "broken":
            raise ValueError("no such weighting")
        moved = {
            "uniform": Parts(head_weights=lambda _, label_BSH: (label_BSH != -100) / label_BSH.shape[2]),
            "raising": Parts(token_loss=refused),
        }
        return MiniRun("tokens", moved.get((options or {}).get("weighting"), Parts()), seed, dtype, device)

    stage = Stage(
        "tokens", start, objective="tokens", edges=mini_trainer.EDGES["tokens"],
        options={"weighting": ("critic", "broken", "raising", "uniform")},
    )  # fmt: skip
    subject = Subject("moved", [stage], functions=MEANS)

    (message,) = errors(run_check("GG410", subject, stage))

    assert "counts one of them as in a mean over " in message and "with weighting = 'uniform'" in message


def summed_squares(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor) -> Tensor:
    return ((value_BS - target_BS).square() * valid_BS).sum()


def forgotten(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor) -> Tensor:
    tokens = int(valid_BS.sum())
    return summed_squares(value_BS, target_BS, valid_BS) if tokens else value_BS.sum() * 0.0


def over_all_heads(_: Tensor, label_BSH: Tensor) -> Tensor:
    valid_BSH = label_BSH != -100
    return valid_BSH / label_BSH.shape[2]


@pytest.mark.parametrize(
    ("stage", "parts", "line"),
    [
        ("value", {"value_loss": forgotten}, "return summed_squares(value_BS, target_BS, valid_BS) if tokens"),
        ("value", {"value_loss": summed_squares}, "return ((value_BS - target_BS).square() * valid_BS).sum()"),
        ("tokens", {"head_weights": over_all_heads}, "return valid_BSH / label_BSH.shape[2]"),
    ],
)
def test_gg410_names_who_had_the_count_or_the_weights(stage: str, parts: dict[str, Any], line: str) -> None:
    """The caller that knows the count and does not divide by it; without one the sum; weights that do not share out."""
    subject = replace(mini_trainer.subject(**parts), functions=MEANS, source=None)
    found = run_check("GG410", subject, stage_of(subject, stage)).findings
    assert any(finding.culprit and finding.culprit.source.startswith(line) for finding in found)


def over_two_more(logits_BSHV: Tensor, label_BSH: Tensor, weight_BSH: Tensor) -> Tensor:
    """A mean over two positions more than there are."""
    positions = (label_BSH != -100).any(-1).sum()
    return mini_trainer.token_loss(logits_BSHV, label_BSH, weight_BSH) * positions / (positions + 2)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"head_weights": over_all_heads}, "so it is the weights that do not sum to 1"),
        ({"head_weights": over_all_heads, "token_loss": over_two_more}, "which is the divisor, and wrong as well"),
        ({"token_loss": over_two_more}, ""),
    ],
)
def test_gg410_tells_a_divisor_from_weights_that_do_not_sum_to_one(parts: dict[str, Any], told: str) -> None:
    """Where all heads have a share, weights that fall short elsewhere sum to 1, and the divisor shows alone."""
    subject = replace(mini_trainer.subject(**parts), functions=MEANS)

    (message,) = (each for each in errors(run_check("GG410", subject, stage_of(subject, "tokens"))) if COUNTED in each)

    assert message.endswith(f"allowed: {int(message.split()[2])}, to a quarter") is not bool(told)
    assert told in message


class Counting(MiniRun):
    """Its update divides the squares of a window by a count."""

    def step(self, batch: Any) -> Mapping[str, float]:
        window = batch if isinstance(batch, tuple) else (batch,)
        tokens = sum(int(micro.valid_BS.sum()) for micro in window)
        self.optimizers[0].zero_grad()
        for micro in window:
            self.shared(micro, tokens).backward()
        self.optimizers[0].step()
        return {}

    def shared(self, micro: MiniBatch, tokens: int) -> Tensor:
        return self.of_window(micro, tokens)

    def of_window(self, micro: MiniBatch, tokens: int | None = None) -> Tensor:
        own = int(micro.valid_BS.sum())
        return self.losses(micro)["value_loss"] * own / (own if tokens is None else tokens)


class NotHandedOn(Counting):
    """A micro-batch's own count stands for the window's."""

    def shared(self, micro: MiniBatch, tokens: int) -> Tensor:
        assert tokens
        return self.of_window(micro)


@pytest.mark.parametrize(("run", "lines"), [(Counting, []), (NotHandedOn, ["return self.of_window(micro)"] * 2)])
def test_gg410_names_who_does_not_hand_the_count_of_the_window_on(run: type[MiniRun], lines: list[str]) -> None:
    """Its number, put in, makes the update of micro-batches that of the whole."""
    found = run_check("GG410", *with_run(run)).findings
    assert [finding.culprit.source if finding.culprit else "" for finding in found] == lines


class Whitening(Counting):
    """What a value counts depends on the others of its micro-batch."""

    def losses(self, batch: MiniBatch) -> Mapping[str, Tensor]:
        value_N = self.modules["value_head"](self.features(batch))[..., 0][batch.valid_BS]
        loss = (value_N - value_N.mean()).square().mean()
        return {"total": loss, "value_loss": loss}


class WhiteningApart(Whitening, NotHandedOn):
    """And is divided by its own count."""


@pytest.mark.parametrize(
    ("run", "told"),
    [(Whitening, ["warning", "warning"]), (WhiteningApart, ["error", "warning", "warning"])],
)
def test_gg410_warns_of_parts_whose_rows_are_not_independent_and_holds_whole_ones(
    run: type[MiniRun], told: list[str]
) -> None:
    """A micro-batch that comes twice weighs its rows against each other as it does alone: the counts are left."""
    found = [each for each in run_check("GG410", *with_run(run)).findings if "one update" in each.message]

    assert [each.severity for each in found] == told
    assert all("not independent (GG407)" in each.message for each in found)
    assert ("come 2 times" in found[0].message) is (told[0] == "error")


def test_gg410_counts_the_clean_twins_terms_as_means() -> None:
    """To rounding."""
    means = replace(CLEAN, functions=MEANS)

    outcomes = [run_check("GG410", means, stage) for stage in means.stages]

    assert [outcome.findings for outcome in outcomes] == [(), ()]
    assert max(outcome.measured["value_loss"] for outcome in outcomes) < 1e-12
    assert outcomes[1].measured["wmtp_loss"] < 1e-12


def test_gg410_counts_values_without_an_error() -> None:
    """They have a share in the mean and no gradient."""

    def half_right(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor) -> Tensor:
        right_S = torch.arange(value_BS.shape[1]) % 2 == 0
        return mini_trainer.value_loss(value_BS, torch.where(right_S, value_BS.detach(), target_BS), valid_BS)

    subject = replace(mini_trainer.subject(value_loss=half_right), functions=MEANS)
    outcome = run_check("GG410", subject, stage_of(subject, "value"))

    assert errors(outcome) == [] and outcome.measured["value_loss"] < 1e-9


@pytest.mark.parametrize(
    ("count", "found"),
    [
        (lambda valid_BS: valid_BS.sum(), []),
        (lambda valid_BS: 2 * valid_BS.sum(), []),
        (lambda valid_BS: 1.5 * len(valid_BS) + 0.1, []),
        (lambda valid_BS: torch.tensor(len(valid_BS)), []),
        (lambda valid_BS: valid_BS.sum() - 1, ["warning"]),
        (lambda valid_BS: torch.tensor(valid_BS.numel()), ["warning"]),
    ],
)
def test_gg410_warns_of_a_mean_over_another_count_where_no_mean_is_declared(count: Any, found: list[str]) -> None:
    """Of a whole number that is no factor's, and not the rows'."""

    def over(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor) -> Tensor:
        return ((value_BS - target_BS).square() * valid_BS).sum() / count(valid_BS)

    subject = replace(mini_trainer.subject(value_loss=over), functions=Functions())
    findings = run_check("GG410", subject, stage_of(subject, "value")).findings

    assert [each.severity for each in findings if COUNTED in each.message] == found


def huber(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor, count: int = 0) -> Tensor:
    error_BS = F.huber_loss(value_BS, target_BS, reduction="none", delta=100.0)
    return (error_BS * valid_BS).sum() / (valid_BS.sum() + count)


def smooth_l1(value_BS: Tensor, target_BS: Tensor, valid_BS: Tensor, count: int = 0) -> Tensor:
    error_BS = F.smooth_l1_loss(value_BS, target_BS, reduction="none", beta=100.0)
    return (error_BS * valid_BS).sum() / (valid_BS.sum() + count)


@pytest.mark.parametrize("loss", [huber, smooth_l1])
@pytest.mark.parametrize("count", [0, 1])
def test_gg410_counts_values_whose_loss_is_straight_far_away(loss: Any, count: int) -> None:
    """Huber's halves the square and the smooth L1 has the slope 1; a count that is one off is found all the same."""
    subject = replace(mini_trainer.subject(value_loss=partial(loss, count=count)), functions=MEANS)

    told = [
        message for message in errors(run_check("GG410", subject, stage_of(subject, "value"))) if COUNTED in message
    ]

    assert len(told) == count


@pytest.mark.parametrize("loss", [renormalised, over_the_weights_sum])
def test_gg410_finds_a_loss_that_cancels_the_weights_scale(loss: Any) -> None:
    """Twice the weights is twice the loss."""
    subject = replace(CLEAN, functions=Functions(loss=loss))

    messages = errors(run_check("GG410", subject, TOKENS))

    assert [message for message in messages if message.startswith("the loss with all weights doubled is ")] != []


def test_gg410_reports_a_loss_function_that_raises() -> None:
    """As the function's fault, not as the harness's."""

    def broken(*_: Any) -> torch.Tensor:
        raise ValueError("no such thing")

    subject = replace(CLEAN, functions=Functions(loss=broken))

    assert "no such thing" in errors(run_check("GG410", subject, TOKENS))[0]


def test_gg410_says_what_it_did_not_look_at() -> None:
    """Without `window` the measured numbers name the line of adapter."""

    class Plain(MiniRun):
        window = Run.window

    outcome = run_check("GG410", *with_run(Plain))

    assert outcome.findings == ()
    assert "not looked at: write `Run.window(parts)`" in outcome.measured["accumulation"]


def test_gg410_does_not_mistake_clipping_for_a_mean() -> None:
    """Micro-batches that are never divided show though every gradient is clipped to one norm."""
    subject = SCALE_FAULTS["never-divided"].subject()
    tight = replace(subject.stages[0], start=lambda seed, **options: clipped(subject.stages[0].start(seed, **options)))

    assert "in micro-batches of" in errors(run_check("GG410", subject, tight))[0]


def clipped(run: Any) -> Any:
    """The same run, its gradients clipped to a norm that all of them exceed."""
    update = run.parts.update

    def tight(run: Any, terms: Any) -> Any:
        torch.nn.utils.clip_grad_norm_(run.trained(), 1e-3)
        return update(run, terms)

    run.parts = replace(run.parts, update=tight)
    return run


def test_gg410_is_inconclusive_where_the_loss_draws_by_shape() -> None:
    """Noise of the batch's shape differs with the shape."""

    class Noisy(MiniRun):
        def losses(self, batch: MiniBatch) -> Any:
            terms = super().losses(batch)
            noise = (batch.token_BS * torch.randn(batch.token_BS.shape)).mean()
            return {name: term * (1 + noise) for name, term in terms.items()}

    assert "random numbers other than dropout" in run_check("GG410", *with_run(Noisy)).inconclusive


@pytest.mark.parametrize(("rows", "reason"), [(0, "no rows"), (1, "")])
def test_gg410_takes_batches_without_rows_and_with_one(rows: int, reason: str) -> None:
    """One row can be doubled and not be cut; none can be neither."""

    class Few(MiniRun):
        def batches(self) -> Any:
            for batch in super().batches():
                yield self.select_rows(batch, list(range(rows)))

    outcome = run_check("GG410", *with_run(Few))

    assert (errors(outcome), reason in outcome.inconclusive) == ([], True)


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        (accumulating(Accumulating, share=lambda _: 1.0), "come 3 times with train.accum_steps = 3; allowed: "),
        (accumulating(Accumulating, due=lambda run: run.every == 1), "no update in 3 micro-batches with train.accum"),
        (accumulating(Cutting, own_share=staticmethod(lambda terms, *_: terms)), "come with train.accum_steps = 3;"),
        (accumulating(Cutting, own_share=staticmethod(thirds)), "come with train.accum_steps = 3; allowed: "),
    ],
)
def test_gg410_asks_a_key_that_says_of_how_many_parts_an_update_is(subject: Subject, told: str) -> None:
    """Whole batches again and again, or one that the trainer cuts, give the gradient of the batch."""
    (message,) = errors(run_check("GG410", subject, subject.stages[0]))

    assert told in message


@pytest.mark.parametrize("kind", [Cutting, Running])
def test_gg410_passes_keys_of_accumulation_that_share_by_counts(kind: type[MiniRun]) -> None:
    """No finding; statistics that run along from step to step are none of accumulation's."""
    subject = accumulating(kind)
    outcome = run_check("GG410", subject, subject.stages[0])

    assert outcome.findings == ()
    assert isinstance(outcome.measured["accumulation"], float)


def test_gg410_warns_of_a_mean_of_means_where_the_trainer_cannot_know_the_rest() -> None:
    """Parts that come one by one weigh alike, long or short: shown, and not judged."""
    subject = accumulating(Accumulating)
    (finding,) = run_check("GG410", subject, subject.stages[0]).findings

    assert finding.severity == "warning"
    assert "come in micro-batches of [1, 1, 6] rows with train.accum_steps = 3" in finding.message


class Wide(Accumulating):
    """A row alone has no dimension of its own."""

    def losses(self, batch: MiniBatch) -> Mapping[str, Tensor]:
        if len(batch.token_BS) == 1:
            raise IndexError("too many indices")
        return super().losses(batch)


class Spread(Accumulating):
    """A row alone has no standard deviation."""

    def losses(self, batch: MiniBatch) -> Mapping[str, Tensor]:
        terms = super().losses(batch)
        return {name: term * float("nan") if len(batch.token_BS) == 1 else term for name, term in terms.items()}


@pytest.mark.parametrize("kind", [Wide, Spread])
def test_gg410_cuts_parts_of_two_rows_where_a_row_alone_breaks_the_step(kind: type[Accumulating]) -> None:
    """That is GG404's, and hides no count of micro-batches."""
    subject = accumulating(kind)
    (finding,) = run_check("GG410", subject, subject.stages[0]).findings

    assert "come in micro-batches of [2, 2, 4] rows with train.accum_steps = 3" in finding.message

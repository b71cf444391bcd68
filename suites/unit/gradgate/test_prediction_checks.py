"""GG409 and GG413: a leak and a token left out turn their check red and no neighbour; the clean twin is green."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis.strategies import SearchStrategy, just
from torch import Tensor

from fixtures import mini_trainer
from fixtures.check_runs import errors, red, run_check, stage_of
from fixtures.formula_subjects import subject_with
from fixtures.mini_trainer import MiniBatch, MiniRun, Parts, Trunk
from fixtures.prediction_faults import (
    CAUSALITY_FAULTS,
    DROPPED_FAULTS,
    FutureHeads,
    next_position,
    squares_behind_a_prompt,
    squares_under_the_labels_mask,
    without_a_prompt,
    without_the_last_token,
)
from fixtures.pytest_fixtures import rest_at_night
from gradgate.checks.gg412_label_shift import Targets, _distance
from gradgate.checks.oracles import labels
from gradgate.checks.value_shares import ValueShares
from gradgate.subjects.contract import Functions, Run, Stage, Subject, Tokens

FAULTS = {**CAUSALITY_FAULTS, **DROPPED_FAULTS}
NEIGHBOURS = ("GG100", "GG201", "GG405", "GG407", "GG409", "GG412", "GG413")
CLEAN = mini_trainer.subject()


def with_run(run: type[MiniRun], **parts: Any) -> tuple[Subject, Stage]:
    """A subject of one token stage that starts a run of one's own class."""

    def start(seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Run:
        return run("tokens", Parts(**parts), seed, dtype, device)

    stage = Stage("own", start, objective="tokens")
    return Subject("own", [stage]), stage


def tokens_of(subject: Subject) -> Stage:
    """The stage that learns tokens."""
    return stage_of(subject, "tokens")


@pytest.mark.parametrize("name", FAULTS)
def test_prediction_fault_turns_its_check_red_and_no_neighbour(name: str) -> None:
    """With what is measured and what is allowed."""
    fault = FAULTS[name]
    subject = fault.subject()

    outcome = run_check(fault.code, subject, tokens_of(subject))

    assert errors(outcome) != []
    assert all("allowed: " in message for message in errors(outcome))
    assert outcome.measured.keys() >= outcome.allowed.keys()
    assert red(subject, tokens_of(subject), tuple(code for code in NEIGHBOURS if code != fault.code)) == []


@pytest.mark.parametrize("seed", rest_at_night(range(3), day=1))
@pytest.mark.parametrize("code", ["GG409", "GG413"])
def test_clean_twin_passes(code: str, seed: int) -> None:
    """No finding, decided."""
    outcome = run_check(code, CLEAN, tokens_of(CLEAN), seed)

    assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")


@pytest.mark.parametrize("stage", ["value", "tokens"])
def test_gg413_names_real_tokens_that_the_value_loss_leaves_out(stage: str) -> None:
    """In the stage that learns values as in the one that learns tokens, and no neighbour sees it."""
    subject = mini_trainer.subject(value_loss=squares_under_the_labels_mask)

    (message,) = errors(run_check("GG413", subject, stage_of(subject, stage)))
    assert "real tokens have no share in the value loss, the last of a row each" in message
    assert red(subject, stage_of(subject, stage), tuple(code for code in NEIGHBOURS if code != "GG413")) == []


@pytest.mark.parametrize("value_loss", [mini_trainer.value_loss, squares_behind_a_prompt])
def test_gg413_passes_a_value_loss_over_real_tokens(value_loss: Any) -> None:
    """All of them, or those behind a prompt."""
    subject = mini_trainer.subject(value_loss=value_loss)
    outcome = run_check("GG413", subject, stage_of(subject, "value"))

    assert (outcome.findings, outcome.inconclusive) == ((), "")
    assert outcome.measured["values"] > 0


def test_gg413_takes_what_is_in_front_of_a_documents_first_value_for_its_prompt() -> None:
    """Of every document of a packed row; behind it a token without a share is one that was dropped."""
    valid_BS, shared_BS = torch.ones(1, 6, dtype=torch.bool), torch.tensor([[0, 1, 1, 0, 1, 0]]).bool()
    begins_BS = torch.tensor([[0, 0, 0, 1, 0, 0]]).bool()

    assert ValueShares(valid_BS, shared_BS, begins_BS).dropped.nonzero()[:, 1].tolist() == [5]
    assert ValueShares(valid_BS, shared_BS, ~valid_BS).dropped.nonzero()[:, 1].tolist() == [3, 5]


@pytest.mark.parametrize(
    ("supervised", "dropped"),
    [(None, [5]), ([0, 0, 0, 1, 1, 1], []), ([0, 0, 1, 1, 1, 1], [5]), ([0, 0, 0, 0, 0, 0], [5])],
)
def test_gg413_passes_the_values_of_states_in_which_tokens_are_chosen(
    supervised: list[int] | None, dropped: list[int]
) -> None:
    """One position in front of the supervised tokens, all of them: the last real token has none to choose then."""
    valid_BS, shared_BS = torch.ones(1, 6, dtype=torch.bool), torch.tensor([[0, 0, 1, 1, 1, 0]]).bool()
    supervised_BS = None if supervised is None else torch.tensor([supervised]).bool()
    shares = ValueShares(valid_BS, shared_BS, ~valid_BS, supervised_BS)

    assert shares.dropped.nonzero()[:, 1].tolist() == dropped


def test_gg413_is_inconclusive_where_no_value_is_seen() -> None:
    """The edge names a module that returns something else."""
    edges = {**mini_trainer.EDGES, "value": {"value_loss": ("trunk",)}}
    subject = mini_trainer.subject(edges=edges)

    assert "one value a position" in run_check("GG413", subject, stage_of(subject, "value")).inconclusive


def test_gg413_says_what_a_stage_lacks() -> None:
    """A stage that learns no tokens and declares no value loss."""
    subject = mini_trainer.subject(edges={"value": {}, "tokens": {}})

    assert "no edge 'value_loss'" in run_check("GG413", subject, stage_of(subject, "value")).not_applicable


@pytest.mark.parametrize("leaks", [False, True])
def test_gg409_draws_rows_with_padding_in_front(leaks: bool) -> None:
    """What is computed of them alone may look ahead, and the run's own rows never show it."""

    class Masked(MiniRun):
        def features(self, batch: MiniBatch) -> Tensor:
            feature_BSD = super().features(batch)
            front = bool((batch.valid_BS[:, 1:] & ~batch.valid_BS[:, :-1]).any())
            return feature_BSD + next_position(feature_BSD) if leaks and front else feature_BSD

        def strategy(self) -> SearchStrategy[MiniBatch]:
            front_BS = torch.arange(mini_trainer.S) >= torch.arange(4)[:, None]
            return just(MiniBatch(torch.arange(32).view(4, 8) % mini_trainer.V, front_BS, torch.ones(4).double()))

    assert bool(errors(run_check("GG409", *with_run(Masked)))) is leaks


@pytest.mark.nightly
def test_gg409_names_the_module_that_looks_ahead() -> None:
    """The first in the forward pass whose earlier outputs change."""

    class BothWays(MiniRun):
        def features(self, batch: MiniBatch) -> Tensor:
            feature_BSD = super().features(batch)
            return self.modules["mixer"](feature_BSD)  # type: ignore[no-any-return]

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            mixer = torch.nn.TransformerEncoderLayer(mini_trainer.D, 2, 16, batch_first=True)
            self.modules = {**self.modules, "mixer": mixer.to(torch.float64)}

    (finding,) = run_check("GG409", *with_run(BothWays)).findings[:1]

    assert "it shows first in the output of `mixer.self_attn`" in finding.message
    assert finding.detail["index"][1] < finding.detail["cut"]


def test_gg409_warns_of_heads_that_are_fed_with_what_lies_before_their_target() -> None:
    """Right for sequential modules, a leak for parallel ones: head 0 does not look ahead."""
    subject = mini_trainer.subject(heads=lambda: FutureHeads(sequential=True))
    outcome = run_check("GG409", subject, tokens_of(subject))

    assert errors(outcome) == []
    assert [finding.severity for finding in outcome.findings] == ["warning"]
    assert "head 1" in outcome.findings[0].message


def test_gg409_is_inconclusive_where_other_tokens_change_nothing() -> None:
    """Features that were computed beforehand do not follow the tokens."""

    class Fixed(MiniRun):
        def features(self, batch: MiniBatch) -> Tensor:
            return super().features(replace(batch, token_BS=torch.zeros_like(batch.token_BS)))

    assert "change no logit" in run_check("GG409", *with_run(Fixed)).inconclusive


def test_gg409_is_inconclusive_where_the_batch_holds_no_tokens() -> None:
    """There is nothing to replace."""

    class Elsewhere(MiniRun):
        def tokens(self, batch: MiniBatch) -> Tokens:
            return Tokens(batch.token_BS + 1, batch.valid_BS)

    assert "no tensor of the batch" in run_check("GG409", *with_run(Elsewhere)).inconclusive


def test_gg409_takes_logits_without_an_axis_of_heads() -> None:
    """A plain language model's [B, S, V]; a trunk that reads every position is found all the same."""

    class Plain(MiniRun):
        logits_from = "head"

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.logits_from = "head"
            self.modules = {"trunk": Trunk().double(), "head": torch.nn.Linear(mini_trainer.D, mini_trainer.V).double()}

        def losses(self, batch: MiniBatch) -> Any:
            feature_BSD = self.modules["trunk"](batch.token_BS)
            return {"total": self.modules["head"](feature_BSD + feature_BSD.mean(1, keepdim=True)).square().mean()}

    assert errors(run_check("GG409", *with_run(Plain))) != []


def test_gg413_says_what_the_dropped_tokens_have_in_common() -> None:
    """A shift, or a mask by value."""
    told = {"without-the-last-token": "the last of a row each", "token-0-taken-for-padding": "the same token each"}
    for name, text in told.items():
        subject = DROPPED_FAULTS[name].subject()
        assert text in errors(run_check("GG413", subject, tokens_of(subject)))[0]


def test_gg413_takes_what_comes_before_the_first_share_for_a_prompt() -> None:
    """Unless the run says that it is supervised."""

    class Declared(MiniRun):
        def supervised(self, batch: MiniBatch) -> Tensor:
            return batch.valid_BS

    parts = {"token_loss": without_a_prompt}

    assert run_check("GG413", *with_run(MiniRun, **parts)).findings == ()
    assert len(errors(run_check("GG413", *with_run(Declared, **parts)))) == 1


def test_gg413_follows_the_runs_own_word() -> None:
    """What it leaves out is not supervised."""

    class Declared(MiniRun):
        def supervised(self, batch: MiniBatch) -> Tensor:
            return batch.valid_BS.flip(1).cumsum(1).flip(1) > 1

    assert errors(run_check("GG413", *with_run(Declared, token_loss=without_the_last_token))) == []


def test_gg413_finds_tokens_that_are_not_to_be_trained_on() -> None:
    """A prompt that has a share, where the run says which tokens are supervised."""

    class Declared(MiniRun):
        def supervised(self, batch: MiniBatch) -> Tensor:
            return batch.valid_BS & (torch.arange(batch.valid_BS.shape[1]) > 2)

    (message,) = errors(run_check("GG413", *with_run(Declared)))

    assert "tokens have a share in the loss that are not to be trained on, the first at [b, t] = [0, 1]" in message
    assert errors(run_check("GG413", *with_run(Declared, token_loss=without_a_prompt))) == []


def test_gg413_warns_of_a_row_that_supervises_nothing() -> None:
    """It may be meant."""

    def first_row_left_out(logits_BSHV: Tensor, label_BSH: Tensor, weight_BSH: Tensor) -> Tensor:
        keep_B = torch.arange(len(label_BSH)) > 0
        return mini_trainer.token_loss(logits_BSHV, label_BSH, weight_BSH * keep_B[:, None, None])

    outcome = run_check("GG413", *with_run(MiniRun, token_loss=first_row_left_out))

    assert [finding.severity for finding in outcome.findings] == ["warning"]
    assert outcome.measured["silent_rows"] == 3


def test_gg413_looks_at_each_document_of_a_packed_row() -> None:
    """Their first tokens are nobody's target."""
    subject = subject_with(Functions(), packed=True)
    outcome = run_check("GG413", subject, subject.stages[0])

    assert (errors(outcome), outcome.inconclusive) == ([], "")


def test_gg413_is_inconclusive_where_nothing_is_supervised() -> None:
    """No share can be missing."""

    class Nothing(MiniRun):
        def supervised(self, batch: MiniBatch) -> Tensor:
            return torch.zeros_like(batch.valid_BS)

    assert "nothing is supervised" in run_check("GG413", *with_run(Nothing)).inconclusive


@pytest.mark.parametrize("in_step", [True, False])
def test_gg208_asks_another_run_for_the_gradients_of_terms(in_step: bool) -> None:
    """A loss that is another one when it is asked again, as by a running scale, is no reversed step; one in it is."""

    class Turning(MiniRun):
        asked, steps = 0, 0

        def losses(self, batch: MiniBatch) -> Mapping[str, Tensor]:
            self.asked += 1
            sign = -1 if (self.steps if in_step else self.asked == 2) else 1
            return {name: sign * term for name, term in super().losses(batch).items()}

        def step(self, batch: MiniBatch | tuple[MiniBatch, ...]) -> Mapping[str, float]:
            self.steps += 1
            return super().step(batch)

    subject, stage = with_run(Turning)
    stage = replace(stage, edges={"wmtp_loss": ("heads",)})
    found = run_check("GG208", replace(subject, stages=[stage]), stage)
    assert any("the reverse of the gradient" in message for message in errors(found)) is in_step


@pytest.mark.parametrize("clean", [True, False])
def test_gg412_holds_targets_against_the_tokens_of_the_data(clean: bool) -> None:
    """Where the ids that the model reads are corrupted, they are not what it is to predict."""

    class Corrupted(MiniRun):
        def tokens(self, batch: MiniBatch) -> Tokens:
            other_BS = torch.where(batch.token_BS > 1, batch.token_BS - 1, batch.token_BS + 1)
            return Tokens(other_BS, batch.valid_BS, clean_BS=batch.token_BS if clean else None)

    assert bool(errors(run_check("GG412", *with_run(Corrupted)))) is not clean


@pytest.mark.parametrize("shift", [0, 2])
def test_gg412_names_the_distance_over_batches_of_different_lengths(shift: int) -> None:
    """Each batch is looked at along its own length."""
    seen = []
    for length in (3, 7, 5):
        token_BS = torch.arange(length)[None] + length
        valid_BS = torch.ones_like(token_BS, dtype=torch.bool)
        label_BSH = labels(token_BS, valid_BS, 1)
        target_BSH = torch.roll(token_BS, -shift, 1)[..., None]
        trained_BSH = torch.arange(length)[None, :, None] < length - shift
        seen.append(Targets(Tokens(token_BS, valid_BS), label_BSH, target_BSH, trained_BSH))

    assert _distance(seen, 0) == (shift, 3 + 7 + 5 - 3 * shift)

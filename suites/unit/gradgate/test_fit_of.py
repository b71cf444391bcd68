"""Rows that can be learnt, a whole fit out of a stage's run, rates by module, and logits inside other outputs."""

from __future__ import annotations

import copy
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from fixtures.actor_critic import BATCH, StepRun
from fixtures.check_runs import errors, run_check
from fixtures.documented import own_loop, two_stage
from fixtures.step_weights import masked, undetached, uniform, weighing
from gradgate.checks.fit_of import OTHER_SEED, fit_of
from gradgate.checks.gg902_stage2_decreases import judge
from gradgate.checks.prediction import quality
from gradgate.core.errors import SubjectError
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Functions, Run, Stage, Subject
from gradgate.subjects.inside import StepLosses
from gradgate.subjects.outputs import by_head, logits_in, with_logits
from gradgate.subjects.rows import TokenRows
from gradgate.subjects.schedule import Schedule, by_parameter, on_matrices
from gradgate.subjects.toy_rows import toy_rows


def far_apart(score_BSH: Tensor, valid_BSH: Tensor, floor: float) -> Tensor:
    """One head has it all."""
    return masked(1e4 * score_BSH, valid_BSH, floor).clamp(min=1e-30) * valid_BSH


def summed(score_BSH: Tensor, valid_BSH: Tensor, floor: float) -> Tensor:
    """Weights that sum to the number of valid heads."""
    return masked(score_BSH, valid_BSH, floor) * valid_BSH.sum(-1, keepdim=True)


def alike(score_BSH: Tensor, valid_BSH: Tensor, _: float) -> Tensor:
    """No head has more than another."""
    return uniform(valid_BSH)


@pytest.mark.parametrize(
    ("weigh", "found"), [(masked, []), (far_apart, ["collapsed"]), (summed, []), (alike, None), (undetached, [])]
)
def test_a_fit_has_the_weights_of_the_step(weigh: Any, found: list[str] | None) -> None:
    """GG905 judges them; uniform ones are of a critic that may have learnt nothing yet."""
    start = weighing(weigh).stages[0].start
    stage = Stage("tokens", start, fit=fit_of(start, steps=16, batches=2), objective="tokens")
    outcome = run_check("GG905", Subject("weighing", [stage]), stage)
    if found is None:
        assert "`weight_NH`" in outcome.not_applicable
    else:
        messages = errors(outcome)
        assert len(messages) == len(found) and all(text in told for text, told in zip(found, messages, strict=True))


class TokenRun(StepLosses, TokenRows):
    """Stage 2 of the documented trainer, whose model returns logits inside a mapping.

    Args:
        dead: the step updates nothing.
    """

    terms = {"wmtp_loss": "main", "value_loss": "extra"}  # noqa: RUF012
    logits_from = "model"

    def __init__(self, seed: int, *, dead: bool = False, dtype: Any = torch.float32, device: str = "cpu") -> None:
        torch.manual_seed(seed)
        self.seed, self.dead = seed, dead
        self.trainer = own_loop.Trainer(own_loop.Config())
        self.modules = {"model": own_loop.Model().to(dtype), "critic": torch.nn.Linear(own_loop.WIDTH, 1, dtype=dtype)}
        self.trainer.setup(self.modules)
        self.optimizers = [self.trainer.optimizer]

    def batches(self) -> Any:
        return map(own_loop.collate, toy_rows(self.seed, vocabulary=two_stage.VOCABULARY))

    def rewards(self, batch: Any) -> dict[str, Tensor]:
        return {"reward": batch["reward"]}

    def step(self, batch: Any) -> Any:
        before = {name: copy.deepcopy(module.state_dict()) for name, module in self.modules.items()}
        metrics = self.trainer.train_step(batch)
        for name, module in self.modules.items() if self.dead else ():
            module.load_state_dict(before[name])
        return {**metrics, "grad_norm": 1.0}


def test_toy_rows_repeat_from_their_seed_and_differ_from_another() -> None:
    """An adapter's runs must be deterministic in their seed."""
    one, same, other = (list(islice(toy_rows(seed), 5)) for seed in (0, 0, 1))
    assert one == same != other


def test_toy_rows_are_right_in_the_lower_half_and_wrong_behind_their_parting() -> None:
    """Lengths, ids and rewards are what the page says; no id is that of padding."""
    rows = [row for batch in islice(toy_rows(3, vocabulary=9, rows=5, shortest=2, longest=6), 40) for row in batch]
    assert {len(row.tokens) for row in rows} == {2, 3, 4, 5, 6}
    assert {row.reward for row in rows} == {0.0, 1.0}
    assert all(1 <= token <= 8 for row in rows for token in row.tokens)
    assert all((max(row.tokens) > 4) == (row.reward == 0.0) for row in rows)
    assert all(row.tokens[0] <= 4 for row in rows)


@pytest.mark.parametrize("given", [{"vocabulary": 5}, {"shortest": 1}, {"shortest": 5, "longest": 4}])
def test_toy_rows_refuse_what_leaves_no_rows(given: Any) -> None:
    """With what was given."""
    with pytest.raises(SubjectError, match="toy_rows"):
        next(toy_rows(0, **given))


def test_fit_of_gives_a_falling_unweighted_loss_and_values_that_tell_rows_apart() -> None:
    """Cross-entropy of the first head, and the critic's numbers against the rewards."""
    run = fit_of(TokenRun, steps=96, batches=4)(0)
    found = quality(run)
    assert judge(run.curve)[1] == ""
    assert found is not None and found.ratio < 0.98
    assert run.steps is not None and len(run.steps["grad_norm"]) == 96


@pytest.mark.parametrize("kept", [None, (0, 1), (2, 8)])
def test_fit_of_judges_supervised_tokens_alone(kept: tuple[int, int] | None) -> None:
    """Where a prompt is left out of the loss it is left out of the held-out loss; all real tokens change nothing."""

    class Supervised(TokenRun):
        def supervised(self, batch: Any) -> Tensor:
            valid_BS = self.valid(batch)
            position_S = torch.arange(valid_BS.shape[1])
            return valid_BS if kept is None else valid_BS & (position_S >= kept[0]) & (position_S < kept[1])

    if kept == (0, 1):  # nothing predicts a row's first token
        with pytest.raises(SubjectError, match="no held-out batch has a label"):
            fit_of(Supervised, steps=8, batches=2)(0)
        return
    plain, found = (fit_of(run, steps=8, batches=1)(0).curve[0] for run in (TokenRun, Supervised))
    run, batch = Supervised(0), next(Supervised(OTHER_SEED).batches())
    logits_BSV = by_head(logits_in(run.modules["model"](batch["input_ids"])))[:, :-1, 0]  # type: ignore[arg-type]
    trained_BS = run.supervised(batch)[:, 1:]
    loss = torch.nn.functional.cross_entropy(logits_BSV[trained_BS].double(), batch["input_ids"][:, 1:][trained_BS])
    assert found == pytest.approx(loss.item())
    assert (found == plain) == (kept is None)


def test_fit_of_joins_the_logits_of_a_batch_that_comes_in_parts() -> None:
    """A step that calls its model once a micro-batch is judged on all of them."""

    class Halved(TokenRun):
        def losses(self, batch: Any) -> Any:
            first, second = (self.select_rows(batch, rows) for rows in ([0, 1], range(2, len(batch["input_ids"]))))
            super().losses(first)
            return super().losses(second)

    plain, halved = (fit_of(run, steps=8, batches=2)(0).curve[0] for run in (TokenRun, Halved))
    assert halved == pytest.approx(plain)


@pytest.mark.parametrize(("first", "judged"), [(0, 0), (2, 2), (99, 0)])
def test_fit_of_judges_the_values_that_the_loss_trains(first: int, judged: int) -> None:
    """A prompt says nothing of its row's reward; where no value is trained all are judged."""

    class Behind(TokenRun):
        logits_from = None

        def losses(self, batch: Any) -> dict[str, Tensor]:
            valid_BS = self.valid(batch)
            value_BS = self.modules["critic"](torch.ones(*valid_BS.shape, own_loop.WIDTH))[..., 0]
            kept_BS = valid_BS & (torch.arange(valid_BS.shape[1]) >= first)
            return {"total": (value_BS - batch["reward"][:, None])[kept_BS].square().sum()}

    fit = fit_of(Behind, steps=8, batches=2)(0)
    assert fit.position_N is not None and fit.prediction_N is not None
    assert int(fit.position_N.min()) == judged
    assert len(fit.position_N) == len(fit.prediction_N)


def test_fit_of_shows_a_step_that_learns_nothing() -> None:
    """The curve stays where it was."""
    run = fit_of(lambda seed, **given: TokenRun(seed, dead=True, **given), steps=8, batches=2)(0)
    assert len(set(run.curve)) == 1


def test_fit_of_takes_the_loss_of_a_run_without_tokens() -> None:
    """And has no predictions, nor series, where the run does not give them."""
    run = fit_of(StepRun, steps=8, batches=2)(0)
    assert run.curve[-1] < run.curve[0]
    assert (run.prediction_N, run.steps) == (None, None)
    with pytest.raises(SubjectError, match="expected at least 8"):
        fit_of(StepRun, steps=4)


@pytest.mark.parametrize(("rate", "red"), [(0.1, False), (0.2, True), (Schedule(0.1), False)])
def test_rates_are_the_hyperparameters_of_each_module(rate: Any, red: bool) -> None:
    """GG607 holds the groups against them."""

    class RatedRun(StepRun):
        updates = 1
        rates = {"actor": {"lr": 0.1, "momentum": 0.0}, "critic": rate}  # noqa: RUF012

        def __init__(self, seed: int, **given: Any) -> None:
            super().__init__(seed, **given)
            self.trainer.schedules = [SimpleNamespace(step=lambda: None)] * 2

    assert "hyperparameters" in declared(RatedRun(0)) and "hyperparameters" not in declared(StepRun(0))
    subject = Subject("rated", [Stage("both", RatedRun)])
    found = errors(run_check("GG607", subject, subject.stages[0]))
    assert bool(found) == red
    assert all("`critic." in message and "declared 0.2" in message for message in found)


@pytest.mark.parametrize("order", [("whole", "part"), ("part", "whole")])
def test_rates_of_a_part_hold_whichever_module_is_named_first(order: tuple[str, str]) -> None:
    """A parameter goes by its first name, and has the rate that is declared last."""

    class Nested(Run):
        rates = {"whole": 0.1, "part": 0.2}  # noqa: RUF012

        def __init__(self) -> None:
            layer, other = torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False)
            both = {"whole": torch.nn.Sequential(layer, other), "part": other}
            self.modules = {name: both[name] for name in order}

    other = "whole.1.weight" if order[0] == "whole" else "part.weight"
    assert Nested().hyperparameters(0) == {"whole.0.weight": {"lr": 0.1}, other: {"lr": 0.2}}


def test_a_source_given_as_a_text_is_a_path() -> None:
    assert Subject("own", [], source=".").source == Path()  # type: ignore[arg-type]


NOT_THE_BIAS = by_parameter(lambda name, _: 0.0 if name == "bias" else 0.1)
TOGETHER = by_parameter(lambda _, parameter: {"lr": 0.1, "weight_decay": 0.1 if parameter.ndim > 1 else 0.0})


@pytest.mark.parametrize(
    "declared_of_actor",
    [{"lr": 0.1, "weight_decay": on_matrices(0.1)}, {"lr": Schedule(0.1), "weight_decay": NOT_THE_BIAS}, TOGETHER],
)
@pytest.mark.parametrize("decays_all", [False, True])
def test_rates_of_parameters_that_groups_split(declared_of_actor: Any, decays_all: bool) -> None:
    """Decay on matrices alone passes; on the bias, too, it is told of the bias."""

    class SplitRun(StepRun):
        updates = 1
        rates = {"actor": declared_of_actor, "critic": 0.1}  # noqa: RUF012

        def __init__(self, seed: int, **given: Any) -> None:
            super().__init__(seed, **given)
            actor = self.trainer.actor
            groups = [{"params": [actor.weight]}, {"params": [actor.bias], "weight_decay": 0.1 * decays_all}]
            self.trainer.optimizers[0] = torch.optim.SGD(groups, lr=0.1, weight_decay=0.1)
            self.trainer.schedules = [SimpleNamespace(step=lambda: None)] * 2

    subject = Subject("split", [Stage("both", SplitRun)])
    found = errors(run_check("GG607", subject, subject.stages[0]))
    assert bool(found) == decays_all
    assert all("`actor.bias`" in message and "weight_decay" in message for message in found)


class Named(NamedTuple):
    """What a module may return: nothing can be assigned to it."""

    hidden: Tensor
    logits: Tensor


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: x,
        lambda x: (x, 1),
        lambda x: {"logits": x, "h": 1},
        lambda x: SimpleNamespace(logits=x),
        lambda x: Named(x, x),
    ],
)
def test_with_logits_changes_a_copy(wrap: Any) -> None:
    """What the module returned stays as it is."""
    output = wrap(BATCH)
    changed = with_logits(output, BATCH + 1)
    assert torch.equal(logits_in(changed), BATCH + 1)  # type: ignore[arg-type]
    assert logits_in(output) is BATCH


def test_gg904_finds_the_logits_inside_a_mapping() -> None:
    """A model that returns them with its hidden states is no fault."""
    stage = Stage("tokens", TokenRun, objective="tokens")
    subject = Subject("mapping", [stage], functions=Functions(loss=two_stage.token_loss))
    outcome = run_check("GG904", subject, stage)
    assert errors(outcome) == []
    assert "below_no_information_ratio" in outcome.measured

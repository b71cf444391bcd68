"""Stage 1: only the value head learns, from features that are computed once, until it has learned enough."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fixtures.small_runs import CPU, bits, metrics_of, small_trainer, train_small
from wmtp import checkpoint, gae_returns
from wmtp.errors import NonFiniteError
from wmtp.stage1 import ValueStage, join_rows, split_rows, to_device
from wmtp.stages import Stage1
from wmtp.trainer import Trainer


def first_stage(*overrides: str) -> tuple[Trainer, Stage1]:
    trainer = small_trainer(*overrides)
    return trainer, Stage1(trainer)


def test_step_trains_the_value_head_alone() -> None:
    """Trunk and heads are bit-equal behind a step, have no gradient, and are not in the optimizer."""
    trainer, work = first_stage()
    before = copy.deepcopy(trainer.model.state_dict())
    work.advance(0)
    changed = {name.split(".")[0] for name, t in trainer.model.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"value_head"}
    assert {n.split(".")[0] for n, p in trainer.model.named_parameters() if p.grad is not None} == {"value_head"}


def test_loss_is_the_mean_squared_error_over_real_tokens() -> None:
    """No factor of ½, nothing from padding, targets computed from the values of this very step."""
    trainer, work = first_stage()
    batch, _ = work.batch_at(0)
    value_BS = trainer.model.value_head(batch.hidden_BSD)
    target_BS = gae_returns(batch.reward_BS, value_BS, batch.valid_BS)
    expected = (value_BS - target_BS)[batch.valid_BS].square().mean()
    torch.testing.assert_close(work.stage.loss(batch), expected)


def test_step_measures_what_a_line_of_metrics_needs() -> None:
    """The token loss is null here, and the learning rate is `pretrain.lr` throughout."""
    _, work = first_stage("pretrain.lr=0.002", "optim.warmup_steps=5")
    measured, behind = work.advance(0)
    again, _ = work.advance(behind)
    assert set(measured) >= {
        "loss",
        "wmtp_loss",
        "value_loss",
        "cross_entropy",
        "weight_entropy",
        "grad_norm",
        "lr",
        "tokens",
    }
    assert (measured["wmtp_loss"], measured["loss"], measured["lr"]) == (None, measured["value_loss"], 0.002)
    assert again["lr"] == 0.002


def test_features_are_the_trunk_in_eval_mode() -> None:
    """They are what the trunk gives without dropout, computed once for all epochs."""
    calls = []
    trainer = small_trainer("model.dropout=0.4")
    trainer.model.train()
    trainer.model.trunk.register_forward_hook(lambda *_: calls.append(trainer.model.trunk.training))
    work = Stage1(trainer)
    asked = len(calls)
    for position in (0, 4, 8, 12):
        work.advance(position)
    assert (set(calls), len(calls), trainer.model.trunk.training) == ({False}, asked, True)


def test_features_belong_to_the_rows_of_their_batch() -> None:
    """Batch by batch from the features or from the rows: tokens, rewards and hidden states agree."""
    trainer, work = first_stage("data.packing=true", "data.max_length=130")
    trainer.model.eval()
    for position in (0, 1, 2):
        batch, _ = work.batch_at(position)
        rows = trainer.collator.batch([trainer.data.train[i] for i in trainer.collator.order.batch(position)])
        hidden_BSD = trainer.model.trunk(rows.token_BS, rows.valid_BS, rows.document_BS, rows.plain)
        assert torch.equal(batch.reward_BS, rows.reward_BS)
        torch.testing.assert_close(batch.hidden_BSD[batch.valid_BS], hidden_BSD[rows.valid_BS], rtol=1e-5, atol=1e-6)


def test_rows_survive_splitting_and_joining() -> None:
    """Features row by row and back again are the batch they came from."""
    trainer, _ = first_stage()
    batch = next(trainer.collator.train_batches(0))[0]
    hidden_BSD = torch.randn(*batch.token_BS.shape, 4)
    joined = join_rows(split_rows(hidden_BSD, batch))
    assert torch.equal(joined.hidden_BSD[joined.valid_BS], hidden_BSD[batch.valid_BS])
    assert (torch.equal(joined.reward_BS, batch.reward_BS), joined.tokens) == (True, batch.tokens)


def test_features_move_to_their_device_together() -> None:
    """All four tensors, and nothing is copied where they are already."""
    _, work = first_stage()
    batch, _ = work.batch_at(0)
    moved = to_device(batch, torch.device("meta"))
    assert {t.device.type for t in (moved.hidden_BSD, moved.reward_BS, moved.valid_BS, moved.document_BS)} == {"meta"}
    assert (moved.tokens, to_device(batch, CPU) is batch) == (batch.tokens, True)


def test_stage_ends_at_its_total_of_steps() -> None:
    """`max_steps` is a total over epochs, and epochs are a bound of their own."""
    bounds = [("pretrain.max_steps=3",), ("pretrain.max_steps=100",), ()]
    assert [first_stage(*overrides)[1].total_steps for overrides in bounds] == [3, 6, 6]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_step_runs_in_half_precision(precision: str) -> None:
    """The loss is finite and float32, and parameters stay float32."""
    trainer, work = first_stage(f"precision={precision}")
    measured, _ = work.advance(0)
    batch, _ = work.batch_at(0)
    assert measured["loss"] < 10
    assert work.stage.loss(batch).dtype == torch.float32
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("place", "expected"),
    [("reward", "reward_BS"), ("hidden", "hidden_BSD"), ("parameter", "parameter inner.weight")],
)
def test_step_names_what_is_not_finite_and_changes_nothing(place: str, expected: str) -> None:
    """Reward, features or a parameter: the first one is named, and value head and optimizer are as before."""
    trainer, work = first_stage()
    work.advance(0)
    batch, _ = work.batch_at(0)
    spoilt: dict[str, Tensor] = {
        "reward": batch.reward_BS,
        "hidden": batch.hidden_BSD,
        "parameter": trainer.model.value_head.inner.weight.data,
    }
    spoilt[place].view(-1)[0] = float("nan")
    before = bits([trainer.model.state_dict(), work.update.state_dict()])
    with pytest.raises(NonFiniteError, match=f"first non-finite: {expected}$"):
        work.stage.step(batch)
    assert bits([trainer.model.state_dict(), work.update.state_dict()]) == before


def test_quality_does_not_depend_on_the_value_heads_own_targets() -> None:
    """Held-out targets are Monte-Carlo returns: moving all values moves the loss, not the constant's."""
    trainer, work = first_stage()
    before, score = work.evaluate()
    trainer.model.value_head.outer.bias.data += 10.0
    after, _ = work.evaluate()
    assert after["heldout_constant_loss"] == before["heldout_constant_loss"]
    assert after["heldout_value_loss"] > before["heldout_value_loss"] + 50
    assert score == before["heldout_value_loss"]


def test_predictions_follow_the_value_heads_dtype() -> None:
    """A model in double precision is evaluated in double precision."""
    trainer = small_trainer()
    trainer.model.double()
    work = Stage1(trainer)
    assert work.stage.predictions(work.heldout, work.score_from).value_N.dtype == torch.float64


def test_value_head_is_saved_and_stage_2_starts_from_it(tmp_path: Path) -> None:
    """The file holds the value head behind the last step of Stage 1."""
    train_small(tmp_path / "run", "train.max_steps=1", "checkpoint.keep=100")
    saved = checkpoint.load(tmp_path / "run" / "value_head.ckpt")["value_head"]
    last = checkpoint.load(sorted((tmp_path / "run" / "checkpoints").glob("stage1-*"))[-1])["model"]
    assert all(torch.equal(saved[name], last[f"value_head.{name}"]) for name in saved)


def test_stage_stops_early_and_keeps_the_best_value_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two evaluations without a better one end it; Stage 2 gets the head that was best, not the last."""
    scores = iter([5.0, 3.0, 4.0, 3.0, 1.0, 1.0])
    monkeypatch.setattr(Stage1, "evaluate", lambda self: ({"heldout_value_loss": 0.0}, next(scores)))
    overrides = ("pretrain.patience=2", "pretrain.num_epochs=5", "checkpoint.keep=100", "train.max_steps=1")
    train_small(tmp_path / "run", *overrides)
    steps = [line["step"] for line in metrics_of(tmp_path / "run") if line["stage"] == "stage1" and "loss" in line]
    states = [checkpoint.load(p) for p in sorted((tmp_path / "run" / "checkpoints").glob("stage1-*"))]
    per_epoch = steps[-1] // 3
    kept = checkpoint.load(tmp_path / "run" / "value_head.ckpt")["value_head"]
    best = next(s["model"] for s in states if s["loop"]["step"] == per_epoch)
    assert (steps[-1], states[-1]["loop"]["done"], states[-1]["loop"]["best"]) == (3 * per_epoch, True, 3.0)
    assert all(torch.equal(kept[name], best[f"value_head.{name}"]) for name in kept)


def test_stage_needs_no_loop(tmp_path: Path) -> None:
    """A step takes a batch of features and nothing else of the run."""
    trainer, work = first_stage()
    stage = ValueStage(trainer.model, trainer.recipe, device=CPU, total_steps=1)
    assert stage.step(work.batch_at(0)[0])["tokens"] > 0

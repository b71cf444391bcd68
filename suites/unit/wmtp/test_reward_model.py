"""The reward model: one number a row, read at its last real token, from a file that is checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fixtures.small_runs import CPU, batch_of, row, settings, small_trainer, train_small
from wmtp import checkpoint
from wmtp.errors import CheckpointError, ConfigError
from wmtp.progress import quiet
from wmtp.rewards.known import known_rewards
from wmtp.rewards.reward_model import RewardModel, load_reward_model, model_rewards, save_reward_model

VOCAB = 259
SHAPE = {"width": 16, "layers": 1, "attention_heads": 2, "dropout": 0.3}


@pytest.fixture
def model() -> RewardModel:
    torch.manual_seed(0)
    return RewardModel(VOCAB, **SHAPE)


def test_reward_does_not_depend_on_padding(model: RewardModel) -> None:
    """On either side, with any token there: the last real token is what the mask says."""
    model.eval()
    token_BS = torch.tensor([row(5, 1).token])
    padded_BS = torch.cat((token_BS[:, :2] * 0, token_BS, token_BS[:, :3]), dim=1)
    valid_BS = (torch.arange(10)[None] >= 2) & (torch.arange(10)[None] < 7)
    with torch.no_grad():
        torch.testing.assert_close(model(padded_BS, valid_BS), model(token_BS, torch.ones_like(token_BS).bool()))


def test_reward_is_read_at_the_last_real_token(model: RewardModel) -> None:
    """From the trunk's hidden state there."""
    model.eval()
    batch = batch_of([(row(5, 1),), (row(3, 2),)])
    with torch.no_grad():
        hidden_BSD = model.trunk(batch.token_BS, batch.valid_BS, None, False)
        expected = torch.stack([model.score(hidden_BSD[0, 4]), model.score(hidden_BSD[1, 2])])[:, 0]
        torch.testing.assert_close(model(batch.token_BS, batch.valid_BS), expected)


def test_rewards_are_computed_in_eval_mode(model: RewardModel) -> None:
    """Dropout is off while they are, and on again afterwards; they are on the host, without a graph."""
    batches = [batch_of([(row(5, 1),), (row(3, 2),)]), batch_of([(row(4, 3),)])]
    model.train()
    first, second = (model_rewards(model, batches, CPU) for _ in range(2))
    assert torch.equal(first, second)
    assert (first.shape, first.dtype, first.requires_grad, model.training) == ((3,), torch.float32, False, True)


def test_model_comes_back_as_it_was_saved(model: RewardModel, tmp_path: Path) -> None:
    """Shape and weights are in one file."""
    save_reward_model(tmp_path / "r.ckpt", model)
    loaded = load_reward_model(tmp_path / "r.ckpt", VOCAB)
    batches = [batch_of([(row(5, 1),)])]
    assert torch.equal(model_rewards(loaded, batches, CPU), model_rewards(model, batches, CPU))


def test_model_is_refused_when_it_knows_another_vocabulary(model: RewardModel, tmp_path: Path) -> None:
    """The message names both sizes."""
    save_reward_model(tmp_path / "r.ckpt", model)
    with pytest.raises(ConfigError, match=r"^paths.reward_model: .* knows 259 tokens, data.tokenizer has 300$"):
        load_reward_model(tmp_path / "r.ckpt", 300)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "run"}, "holds a 'run', expected a 'reward model'"),
        ({"shape": {"vocab_size": VOCAB}}, "its shape builds no reward model: "),
        ({"shape": {"vocab_size": VOCAB, **SHAPE, "attention_heads": 0}}, "its shape builds no reward model: "),
        ({"shape": 3}, "its shape builds no reward model: "),
        ({"shape": {"vocab_size": VOCAB, **SHAPE, "width": 32}}, "reward model: .* has shape "),
    ],
)
def test_model_is_refused_when_its_file_is_odd(
    change: dict[str, object], message: str, model: RewardModel, tmp_path: Path
) -> None:
    """Another kind, a shape that builds nothing, or weights of another."""
    path = tmp_path / "r.ckpt"
    save_reward_model(path, model)
    checkpoint.save(path, checkpoint.load(path) | change)
    with pytest.raises(CheckpointError, match=f"r.ckpt: {message}"):
        load_reward_model(path, VOCAB)


def test_run_is_rewarded_by_the_model(model: RewardModel, tmp_path: Path) -> None:
    """`critic.reward: model` with its file: each row's reward is what the model says of it."""
    save_reward_model(tmp_path / "r.ckpt", model)
    overrides = ("critic.reward=model", f"paths.reward_model={tmp_path}/r.ckpt")
    trainer = small_trainer(*overrides)
    config, recipe = settings("nowhere", *overrides)
    reward_N = known_rewards(recipe, config, trainer.data, CPU, quiet())
    one = trainer.data.heldout[0]
    alone = model_rewards(model, [trainer.collator.batch([(one,)])], CPU)
    torch.testing.assert_close(reward_N[one.index], alone[0])
    assert train_small(tmp_path / "run", *overrides)[-1]["step"] == 4

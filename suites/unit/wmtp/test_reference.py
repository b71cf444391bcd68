"""The reference reward and where rewards come from: how well a frozen model predicts each row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from fixtures.small_runs import CPU, batch_of, row, settings, small_trainer, train_small
from wmtp.errors import CheckpointError
from wmtp.progress import quiet
from wmtp.rewards import known
from wmtp.rewards.known import known_rewards, rewards_by_warm_trunk
from wmtp.rewards.reference import reference_rewards
from wmtp.rewards.sandbox import Limits


def test_reward_is_the_negative_mean_cross_entropy_of_head_0() -> None:
    """Over the row's labels only; 0 for a row without any."""
    model = small_trainer("model.dropout=0.3").model
    rows = [row(6, 1, prompt=2), row(4, 2, prompt=4), row(3, 3)]
    batch = batch_of([(one,) for one in rows], train_on="completion")
    reward_N = reference_rewards(model, [batch], CPU)
    model.eval()
    with torch.no_grad():
        logits_BSV = model(batch.token_BS, batch.valid_BS).logits_BSHV[:, :, 0]
    expected = [
        -cross_entropy(logits_BSV[b, s:e], batch.token_BS[b, s + 1 : e + 1]) for b, s, e in ((0, 1, 5), (2, 0, 2))
    ]
    torch.testing.assert_close(reward_N[[0, 2]], torch.stack(expected))
    assert reward_N[1].item() == 0.0


def test_reference_is_left_as_it_was() -> None:
    """In its mode, without gradients, and no value is asked for."""
    model = small_trainer().model.train()
    calls: list[int] = []
    model.value_head.register_forward_hook(lambda *_: calls.append(1))
    reference_rewards(model, [batch_of([(row(5),)])], CPU)
    assert (model.training, calls, {p.grad for p in model.parameters()}) == (True, [], {None})


def test_reference_is_the_model_of_an_earlier_run(tmp_path: Path) -> None:
    """`paths.reference` names it: its rewards are known before training, and drawing its weights disturbs nothing."""
    train_small(tmp_path / "earlier")
    overrides = (f"paths.reference={tmp_path}/earlier/final.ckpt", "pretrain.trunk_steps=0")
    trainer, (config, recipe) = small_trainer(*overrides), settings("nowhere", *overrides)
    before = torch.get_rng_state()
    reward_N = known_rewards(recipe, config, trainer.data, CPU, quiet())
    assert torch.equal(torch.get_rng_state(), before)
    assert bool((reward_N < 0).all())
    assert train_small(tmp_path / "run", *overrides)[-1]["step"] == 4


def test_reference_is_refused_when_it_has_another_shape(tmp_path: Path) -> None:
    """A model of another width is no reference for this one."""
    train_small(tmp_path / "earlier", "model.width=32")
    overrides = (f"paths.reference={tmp_path}/earlier/final.ckpt",)
    trainer, (config, recipe) = small_trainer(*overrides), settings("nowhere", *overrides)
    with pytest.raises(CheckpointError, match=r"final.ckpt: model: .* has shape "):
        known_rewards(recipe, config, trainer.data, CPU, quiet())


def test_warm_trunk_rewards_each_row_by_its_index() -> None:
    """Packed or not: a row is rewarded alone."""
    rewards = []
    for overrides in ((), ("data.packing=true", "data.max_length=130")):
        trainer = small_trainer(*overrides)
        rewards.append(rewards_by_warm_trunk(trainer.model, trainer.recipe, trainer.data, CPU))
    torch.testing.assert_close(rewards[1], rewards[0])
    assert rewards[0].shape == (12,)


def test_verifiable_reward_runs_the_tests_of_each_row() -> None:
    """One right and one wrong solution a task, under the limits of the config."""
    overrides = ("critic.reward=verifiable", "data.tasks=2", "pretrain.trunk_steps=0")
    trainer, (config, recipe) = small_trainer(*overrides), settings("nowhere", *overrides)
    reward_N = known_rewards(recipe, config, trainer.data, CPU, quiet())
    assert sorted(reward_N.tolist()) == [0.0, 0.0, 1.0, 1.0]


def test_limits_of_the_config_are_those_of_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor time as set, five times as much on the clock, memory and workers."""
    given: dict[str, object] = {}

    def fake(examples: list[object], **arguments: object) -> list[float]:
        given.update(arguments)
        return [0.0] * len(examples)

    monkeypatch.setattr(known, "verifiable_rewards", fake)
    overrides = ("critic.reward=verifiable", "sandbox.seconds=2", "sandbox.memory_mib=100", "sandbox.workers=3")
    trainer, (config, recipe) = small_trainer(*overrides), settings("nowhere", *overrides)
    known_rewards(recipe, config, trainer.data, CPU, quiet())
    assert (given["limits"], given["workers"]) == (Limits(cpu_s=2.0, wall_s=10.0, memory_mib=100), 3)


@pytest.mark.parametrize("override", ["loss.weighting=uniform", "critic.reward=reference"])
def test_rewards_are_zero_where_nobody_asks_or_the_trunk_is_cold(override: str) -> None:
    """The control group needs none, and the warm trunk's come later."""
    trainer, (config, recipe) = small_trainer(override), settings("nowhere", override)
    assert not known_rewards(recipe, config, trainer.data, CPU, quiet()).any()

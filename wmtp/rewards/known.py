"""The rewards of a run's rows: from running their tests, from a reward model, or from a frozen reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wmtp.data.batches import Batch, Row
from wmtp.errors import ConfigError
from wmtp.experiment import Collator, Data, build_model, load_model
from wmtp.model import CriticWmtp
from wmtp.progress import Report
from wmtp.rewards.reference import reference_rewards
from wmtp.rewards.reward_model import load_reward_model, model_rewards
from wmtp.rewards.sandbox import Limits
from wmtp.rewards.verifiable import program_of, verifiable_rewards
from wmtp.settings import Config, Recipe

CLOCK = 5.0  # seconds on the clock for each of processor time: programs that sleep, machines under load


def known_rewards(
    recipe: Recipe, config: Config, data: Data, device: torch.device, report: Report, only: Sequence[Row] | None = None
) -> Tensor:
    """Rewards that are known before training. Zeros where they wait for the warm trunk, or where nobody asks for them.

    Args:
        recipe: the critic section says which.
        config: the sandbox's limits, the reward model's or the reference's path.
        data: all rows.
        device: where models run.
        report: shows the progress.
        only: rows that matter; None: all.

    Returns:
        Float32[N] in reward units.

    Raises:
        ConfigError: a path that the recipe's reward needs is missing, or leads to another kind of model.
        CheckpointError: a model's file is damaged, or of another shape.
        RewardError: a row has no tests.
    """
    reward_N = torch.zeros(len(data.examples))
    if recipe.loss.weighting == "uniform" or waits_for_warm_trunk(recipe, config):
        return reward_N
    rows = all_rows(data) if only is None else list(only)
    with torch.random.fork_rng(devices=[]):  # building a model draws weights; training is to draw the same without it
        if recipe.critic.reward == "verifiable":
            reward = _by_tests(rows, config, data, report)
        elif recipe.critic.reward == "model":
            reward = _by_reward_model(rows, recipe, config, data, device, report)
        else:
            reward = _by_reference(rows, recipe, config, data, device, report)
    return reward_N.index_put((torch.tensor([row.index for row in rows]),), reward)


def waits_for_warm_trunk(recipe: Recipe, config: Config) -> bool:
    """Whether the reference is the trunk as it is after its warm-up.

    Raises:
        ConfigError: there is neither a warm-up nor another reference.
    """
    if recipe.critic.reward != "reference" or config.paths.reference is not None:
        return False
    if recipe.pretrain.trunk_steps == 0:
        raise ConfigError("critic.reward is 'reference': needs paths.reference, or pretrain.trunk_steps above 0")
    return True


def rewards_by_warm_trunk(model: CriticWmtp, recipe: Recipe, data: Data, device: torch.device) -> Tensor:
    """Float32[N] in reward units: what the model, as it is now, thinks of each row."""
    return reference_rewards(model, one_by_one(all_rows(data), data, recipe), device)


def all_rows(data: Data) -> list[Row]:
    """The rows of both sides of the split, by their index."""
    return sorted([*(row for pack in data.train for row in pack), *data.heldout], key=lambda row: row.index)


def _by_tests(rows: Sequence[Row], config: Config, data: Data, report: Report) -> Tensor:
    examples = [data.examples[row.index] for row in rows]
    limits = Limits(
        cpu_s=config.sandbox.seconds,
        wall_s=CLOCK * config.sandbox.seconds,
        memory_mib=config.sandbox.memory_mib,
    )
    with report.bar("running the programs' tests", len({program_of(example) for example in examples})) as bar:
        rewards = verifiable_rewards(
            examples, workers=config.sandbox.workers, limits=limits, progress=lambda _done: bar.advance()
        )
    return torch.tensor(rewards, dtype=torch.float32)


def _by_reward_model(
    rows: Sequence[Row], recipe: Recipe, config: Config, data: Data, device: torch.device, report: Report
) -> Tensor:
    if config.paths.reward_model is None:
        raise ConfigError("critic.reward is 'model': needs paths.reward_model, a reward model's file or folder")
    model = load_reward_model(Path(config.paths.reward_model), data.tokenizer.vocab_size)
    return model_rewards(model, report.track("asking the reward model", one_by_one(rows, data, recipe)), device)


def _by_reference(
    rows: Sequence[Row], recipe: Recipe, config: Config, data: Data, device: torch.device, report: Report
) -> Tensor:
    reference = build_model(recipe, data.tokenizer).to(device)
    load_model(reference, Path(str(config.paths.reference)))
    return reference_rewards(reference, report.track("asking the reference", one_by_one(rows, data, recipe)), device)


def one_by_one(rows: Sequence[Row], data: Data, recipe: Recipe) -> list[Batch]:
    """Rows one document each, in order, with labels and without rewards."""
    collator = Collator(replace(data, train=((rows[0],),)), recipe, torch.zeros(len(data.examples)), 0)
    return collator.in_turn([(row,) for row in rows])

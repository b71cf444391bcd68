"""The trainer small: a step of milliseconds on a few short rows of the embedded corpus."""

from __future__ import annotations

from functools import lru_cache

from torch import Tensor

from wmtp.loading import load_settings
from wmtp.processes import ALONE, Processes
from wmtp.progress import quiet
from wmtp.rewards.known import known_rewards
from wmtp.settings import Config, Recipe
from wmtp.trainer import Trainer, build

# Two of the ten training rows are longer than max_length, so that some row is cut.
SMALL = (
    "data.tasks=6", "data.max_length=52", "data.batch_size=4", "model.width=16", "model.attention_heads=2",
    "train.horizon=3", "optim.warmup_steps=2", "pretrain.trunk_steps=0",
)  # fmt: skip


def small_trainer(config: Config, recipe: Recipe, processes: Processes = ALONE) -> Trainer:
    """A trainer whose step takes milliseconds, with real rewards."""
    trainer = build(config, recipe, quiet(), processes)
    trainer.collator.reward_N = small_rewards(config.seed).clone()
    return trainer


@lru_cache
def small_rewards(seed: int) -> Tensor:
    """Rewards of the small corpus, from running its tests; once a seed."""
    config, recipe = settings(seed, "cpu", *SMALL)
    trainer = build(config, recipe, quiet())
    return known_rewards(recipe, config, trainer.data, trainer.device, quiet())


def settings(seed: int, device: str, *overrides: str) -> tuple[Config, Recipe]:
    """The embedded recipe with overrides."""
    return load_settings(None, "embedded", (f"seed={seed}", f"device={device}", *overrides))

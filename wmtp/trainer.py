"""Trainer: a run in memory, built from its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from wmtp.experiment import Collator, Data, build_model, choose_device, load_value_head, prepare_data
from wmtp.model import CriticWmtp
from wmtp.parallel import shard
from wmtp.processes import ALONE, Processes
from wmtp.progress import Report
from wmtp.settings import Config, Recipe

STAGES = ("warmup", "stage1", "stage2")


@dataclass
class Trainer:
    """A run in memory.

    Attributes:
        config: where it happens.
        recipe: what is run.
        device: where the model is.
        data: its rows.
        model: its model.
        collator: makes its batches; holds the rewards.
        report: what a person sees.
        processes: those that train together.
    """

    config: Config
    recipe: Recipe
    device: torch.device
    data: Data
    model: CriticWmtp
    collator: Collator
    report: Report
    processes: Processes = ALONE

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.recipe.output_folder(self.config)

    @property
    def uniform(self) -> bool:
        """Whether this is the control group, which has no critic."""
        return self.recipe.loss.weighting == "uniform"

    def stage_names(self) -> list[str]:
        """The stages that this recipe has."""
        stage1 = self.recipe.pretrain.num_epochs > 0 and not self.uniform and self.config.paths.value_head is None
        wanted = {"warmup": self.recipe.pretrain.trunk_steps > 0, "stage1": stage1, "stage2": True}
        return [name for name in STAGES if wanted[name]]


def build(config: Config, recipe: Recipe, report: Report, processes: Processes = ALONE) -> Trainer:
    """A run at its start: everything from the seed but a value head that is given, nothing written, rewards still 0.

    Raises:
        WmtpError: names what cannot be built, and why.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    data = prepare_data(recipe, config.seed)
    if data.cut:
        report.say(
            f"{data.cut} of {len(data.examples)} rows are longer than data.max_length {recipe.data.max_length}: cut"
        )
    torch.manual_seed(config.seed)
    model = build_model(recipe, data.tokenizer, recompute=config.recompute).to(device)
    collator = Collator(data, recipe, torch.zeros(len(data.examples)), config.seed, processes)
    trainer = Trainer(config, recipe, device, data, model, collator, report, processes)
    if config.paths.value_head is not None and not trainer.uniform:
        load_value_head(model, Path(config.paths.value_head))
    if processes.sharded:
        shard(model)
    processes.own_stream(config.seed)
    return trainer

"""Whole runs of the embedded recipe: what each stage led to."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.subjects.contract import Fit
from gradgate_wmtp.small import settings
from wmtp import checkpoint
from wmtp.evaluation import evaluating
from wmtp.labels import IGNORE
from wmtp.progress import quiet
from wmtp.settings import Config, Recipe
from wmtp.stages import Stage1, Stage2, build_stage
from wmtp.train import train
from wmtp.trainer import Trainer, build


def fit_stage1(seed: int, *, device: str = "cpu") -> Fit:
    """The embedded recipe, its first stage: held-out value loss by epoch, and the value head's predictions."""
    lines, config, recipe, value_head, _ = whole_run(seed, device)
    trainer = build(config, recipe, quiet())
    return value_fit(lines, trainer, value_head)


def value_fit(lines: list[dict[str, Any]], trainer: Trainer, state: Mapping[str, Any]) -> Fit:
    """Predictions of a value head on the held-out rows."""
    trainer.model.load_state_dict(state["model"])
    trainer.collator.reward_N = state["reward_N"]
    stage = build_stage("stage1", trainer)
    assert isinstance(stage, Stage1)  # noqa: S101 - by its name
    found = stage.stage.predictions(stage.heldout, stage.score_from)
    curve = [line["heldout_value_loss"] for line in lines if "heldout_value_loss" in line]
    return Fit(
        curve=tuple(curve),
        epochs=trainer.recipe.pretrain.num_epochs,
        prediction_N=found.value_N,
        target_N=found.target_N,
        position_N=found.position_N,
        score_R=found.score_R,
        right_R=stage.right_R,
        steps=steps_of(lines, "stage1"),
    )


def fit_stage2(seed: int, *, device: str = "cpu") -> Fit:
    """The embedded recipe, its second stage: unweighted held-out cross-entropy by evaluation."""
    lines, config, recipe, value_head, final = whole_run(seed, device)
    trainer = build(config, recipe, quiet())
    trainer.model.load_state_dict(final["model"])
    trainer.collator.reward_N = value_head["reward_N"]
    stage2 = [line for line in lines if line["stage"] == "stage2"]
    return Fit(
        curve=tuple(line["heldout_cross_entropy"] for line in stage2 if "heldout_cross_entropy" in line),
        constant_loss=frequencies(trainer),
        weight_NH=heldout_weights(trainer),
        steps=steps_of(lines, "stage2"),
    )


def steps_of(lines: list[dict[str, Any]], stage: str) -> dict[str, tuple[float, ...]]:
    """Loss and gradient norm of every step of a stage."""
    steps = [line for line in lines if line["stage"] == stage and "grad_norm" in line]
    return {name: tuple(line[name] for line in steps) for name in ("loss", "grad_norm")}


def frequencies(trainer: Trainer) -> float:
    """Cross-entropy of the held-out labels under their own frequencies, in nats."""
    labels = torch.cat([batch.label_BSH[batch.label_BSH != IGNORE] for batch in trainer.collator.heldout()])
    share_V = torch.bincount(labels).double() / len(labels)
    return float(-torch.xlogy(share_V, share_V).sum())


def heldout_weights(trainer: Trainer) -> Tensor:
    """Float[N, H], the stage's own head weights at held-out positions at which all heads have a label."""
    work = Stage2(trainer)
    found = []
    with evaluating(trainer.model):
        for batch in work.heldout:
            record: dict[str, Tensor] = {}
            work.stage.losses(batch.to(trainer.device), record=record)
            full_BS = (batch.label_BSH != IGNORE).all(-1)
            found.append(record["weight_BSH"].cpu()[full_BS])
    return torch.cat(found)


@lru_cache(maxsize=16)
def whole_run(seed: int, device: str) -> tuple[list[dict[str, Any]], Config, Recipe, dict[str, Any], dict[str, Any]]:
    """Train the embedded recipe to its end: its metrics, settings, its state behind Stage 1, and the final model."""
    with tempfile.TemporaryDirectory() as folder:
        config, recipe = settings(seed, device, f"paths.output={folder}/run", "checkpoint.keep=100")
        train(config, recipe, quiet())
        lines = [json.loads(line) for line in (Path(folder) / "run" / "metrics.jsonl").read_text().splitlines()]
        stage1 = sorted((Path(folder) / "run" / "checkpoints").glob("stage1-*.ckpt"))[-1]
        final = checkpoint.load(Path(folder) / "run" / "final.ckpt")
        return lines, config, recipe, checkpoint.load(stage1), final

"""Critic-WMTP as a subject: the trainer's own stages, functions, checkpoints and corpus, small where it matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

import wmtp
from gradgate.subjects.contract import After, Corpus, Functions, Run, Stage, Subject
from gradgate_wmtp.fits import fit_stage1, fit_stage2
from gradgate_wmtp.loops import loop
from gradgate_wmtp.program import PROGRAM
from gradgate_wmtp.runs import Stage1Run, Stage2Run, WmtpRun
from gradgate_wmtp.sized import STAGE1_EXPONENTS, STAGE2_EXPONENTS, scaling_of
from gradgate_wmtp.small import SMALL, settings
from wmtp.loss import squared_error_sum
from wmtp.progress import quiet
from wmtp.rewards.known import known_rewards
from wmtp.train import prepare_stage
from wmtp.trainer import build

# Not here: a grad_clip that no gradient of these rows reaches.
SHARED_OPTIONS: Mapping[str, Sequence[Any]] = {
    "data.batch_size": (4, 2),
    "data.max_length": (52, 32),
    "critic.gamma": (0.99, 0.5),
    "critic.gae_lambda": (0.95, 0.1),
    "critic.reward_placement": ("terminal", "uniform"),
    "optim.betas": ("[0.9, 0.95]", "[0.5, 0.95]", "[0.9, 0.5]"),
    "optim.weight_decay": (0.01, 0.2),
    "optim.grad_clip": (1e-2, 1e-3, "null"),
    "model.width": (16, 32),
    "model.layers": (2, 1),
}
STAGE1_OPTIONS = {**SHARED_OPTIONS, "pretrain.lr": (1e-3, 1e-2)}
STAGE2_OPTIONS = {
    **SHARED_OPTIONS,
    "data.train_on": ("all", "completion"),
    "data.packing": ("false", "true"),
    "model.dropout": (0.0, 0.1),
    "model.tie_embeddings": ("false", "true"),
    "train.horizon": (3, 2),
    "train.accumulation_steps": (1, 2),
    "optim.lr": (3e-3, 1e-3),
    "optim.schedule": ("cosine", "linear", "constant"),
    "optim.warmup_steps": (2, 4),
    "optim.final_ratio": (0.1, 0.5),
    "loss.weighting": ("critic", "uniform"),
    "loss.weight_temperature": (0.7, 0.1),
    "loss.weight_gradient": ("detach", "through"),
    "critic.discount_lambda": (0.95, 0.1),
    "critic.auxiliary_loss_coef": (0.1, 0.5),
    "critic.value_lr": (1e-3, 1e-2),
    "critic.value_gradient_to_trunk": ("false", "true"),
}
STAGE1_EDGES = {"value_loss": ("value_head",)}
# With weight_gradient detach and the value head's input detached, the defaults.
STAGE2_EDGES = {"wmtp_loss": ("trunk", "heads"), "value_loss": ("value_head",)}


def behind_stage1(before: Run, folder: Path) -> Stage2Run:
    """Stage 2 behind Stage 1, whose value head goes through a file of the run's folder."""
    assert isinstance(before, Stage1Run)  # noqa: S101 - the stages' order
    run = Stage2Run(before.trainer.config.seed, device=before.trainer.config.device, options={"paths.output": folder})
    before.work.trainer = dataclasses.replace(before.trainer, config=run.trainer.config)
    before.work.improved(0.0)
    before.work.finish(0.0)
    prepare_stage(run.trainer, "stage2")
    return run


def corpus(seed: int) -> Corpus:
    """The training rows of the small corpus, padded to one length."""
    config, recipe = settings(seed, "cpu", *SMALL, "data.tasks=24", "data.max_length=128")
    trainer = build(config, recipe, quiet())
    reward_N = known_rewards(recipe, config, trainer.data, trainer.device, quiet())
    batch = trainer.collator.batch(trainer.data.train)
    return Corpus(
        token_NS=batch.token_BS,
        valid_NS=batch.valid_BS,
        reward_N=reward_N[[pack[0].index for pack in trainer.data.train]],
        horizon=recipe.train.horizon,
        reward_placement=recipe.critic.reward_placement,
        gamma=recipe.critic.gamma,
        gae_lambda=recipe.critic.gae_lambda,
        discount_lambda=recipe.critic.discount_lambda,
        temperature=recipe.loss.weight_temperature,
    )


def value_loss(value_BS: Tensor, return_BS: Tensor, valid_BS: Tensor) -> Tensor:
    """The trainer's sum, divided as its stages divide it."""
    return squared_error_sum(value_BS, return_BS, valid_BS) / max(1, int(valid_BS.sum()))


def precisions(run: type[WmtpRun]) -> Mapping[str, Any]:
    """The config's precisions: parameters stay float32, the forward pass is under autocast."""
    return {f"fp32+{name}": partial(run, precision=name) for name in ("bf16", "fp16")}


def distributed(run: type[WmtpRun]) -> Mapping[str, Any]:
    """The trainer's ways to train in several processes."""
    return {parallel: partial(run, parallel=parallel) for parallel in ("ddp", "fsdp2")}


def build_subject() -> Subject:
    """The bundled trainer."""
    return Subject(
        name="wmtp",
        stages=(
            Stage(
                "stage1",
                start=Stage1Run,
                fit=fit_stage1,
                objective="value",
                edges=STAGE1_EDGES,
                loop=loop,
                precisions=precisions(Stage1Run),
                options=STAGE1_OPTIONS,
                scaling=scaling_of(Stage1Run, STAGE1_EXPONENTS),
                distributed=distributed(Stage1Run),
            ),
            Stage(
                "stage2",
                start=Stage2Run,
                fit=fit_stage2,
                objective="tokens",
                edges=STAGE2_EDGES,
                loop=loop,
                precisions=precisions(Stage2Run),
                options=STAGE2_OPTIONS,
                neutral={"recompute": ("false", "true")},
                scaling=scaling_of(Stage2Run, STAGE2_EXPONENTS),
                distributed=distributed(Stage2Run),
                after=After(Stage1Run, behind_stage1),
            ),
        ),
        functions=Functions(
            labels=wmtp.make_labels,
            weights=wmtp.head_weights,
            loss=wmtp.wmtp_loss,
            value_loss=value_loss,
            returns=wmtp.gae_returns,
            place_rewards=wmtp.place_rewards,
            gaps=True,
        ),
        corpus=corpus,
        program=PROGRAM,
        source=Path(wmtp.__file__).parent,
        hermetic=True,
    )

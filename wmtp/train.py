"""Trains: warms the trunk up, pretrains the value head, trains the whole. From a clean start, or from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wmtp.checkpoint import remove_temporary
from wmtp.experiment import load_value_head
from wmtp.loop import LoopState, run
from wmtp.metrics import MetricsFile, trackers
from wmtp.profiling import profiler
from wmtp.progress import Report
from wmtp.resume import Start, at_home, discard_later, discard_old, load_run, require_fresh, require_writable, save_run
from wmtp.rewards.known import known_rewards, rewards_by_warm_trunk, waits_for_warm_trunk
from wmtp.settings import Config, Recipe
from wmtp.stages import Stage2, build_stage
from wmtp.trainer import Trainer, build


def train(
    config: Config, recipe: Recipe, report: Report, *, resume: Path | None = None, profile_to: Path | None = None
) -> Path:
    """Run all stages to the end.

    Args:
        config: where.
        recipe: what.
        report: what a person sees.
        resume: a checkpoint of this run to go on from, in the folder where it lies; None: a fresh start.
        profile_to: folder for a profile of the first steps.

    Returns:
        The run's folder: metrics.jsonl, value_head.ckpt, best.ckpt, final.ckpt and checkpoints.

    Raises:
        WmtpError: names what is wrong; what was saved before still is.
        StoppedError: Ctrl-C or SIGTERM; the run was saved.
    """
    config = config if resume is None else at_home(config, resume)
    folder = recipe.output_folder(config)
    require_writable("paths.output", folder)
    if profile_to is not None:
        require_writable("--profile", profile_to)
    if resume is None:
        require_fresh(folder)
    trainer = build(config, recipe, report)
    start = Start(LoopState(trainer.stage_names()[0]))
    if resume is not None:
        start = load_run(resume, trainer)
        discard_later(resume)
        discard_old(resume.parent, config.checkpoint.keep)
    else:
        trainer.collator.reward_N = known_rewards(recipe, config, trainer.data, trainer.device, report)
    remove_temporary(folder)
    remove_temporary(folder / "checkpoints")
    metrics = MetricsFile(
        folder / "metrics.jsonl", size=start.metrics_bytes, trackers=trackers(config, folder, recipe.run.name)
    )
    try:
        run_stages(trainer, start, metrics, profile_to)
    finally:
        metrics.close()
    return folder


def run_stages(trainer: Trainer, start: Start, metrics: MetricsFile, profile_to: Path | None) -> None:
    """Run the stages that are left, each from a fresh optimizer on the model that the one before it left."""
    names = trainer.stage_names()
    at, work = start.at, start.work
    for name in names[names.index(at.stage) :]:
        if name != at.stage:
            at, work = LoopState(name), None
        if at.done:
            continue
        if work is None:
            prepare_stage(trainer, name)
            work = build_stage(name, trainer)
        with profiler(profile_to, trainer.device, name, work.total_steps - at.step) as on_step:
            run(
                work,
                at,
                metrics=metrics,
                report=trainer.report,
                save=lambda work=work, at=at: save_run(trainer, work, at, metrics),  # type: ignore[misc]
                save_every=trainer.config.checkpoint.every,
                on_step=on_step,
            )


def prepare_stage(trainer: Trainer, name: str) -> None:
    """What has to happen between two stages: rewards by the warm trunk, Stage 1's value head into Stage 2."""
    if name == "warmup" or trainer.uniform:
        return
    names = trainer.stage_names()
    if names.index(name) == 1 and names[0] == "warmup" and waits_for_warm_trunk(trainer.recipe, trainer.config):
        trainer.collator.reward_N = rewards_by_warm_trunk(trainer.model, trainer.recipe, trainer.data, trainer.device)
    if name == "stage2" and "stage1" in names:
        load_value_head(trainer.model, trainer.folder / "value_head.ckpt")


def dry_run(config: Config, recipe: Recipe, report: Report) -> dict[str, Any]:
    """Build everything, run one forward and backward on at most two rows, write nothing.

    Returns:
        Numbers of the step and sizes of model and data.
    """
    trainer = build(config, recipe, report)
    packs = trainer.data.train[: min(2, recipe.data.batch_size)]
    rows = [row for pack in packs for row in pack]
    trainer.collator.reward_N = known_rewards(recipe, config, trainer.data, trainer.device, report, only=rows)
    work = Stage2(trainer)
    terms = work.stage.losses(trainer.collator.batch(packs).to(trainer.device))
    work.update.backward(terms.total)
    return {
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "training_rows": sum(len(pack) for pack in trainer.data.train),
        "heldout_rows": len(trainer.data.heldout),
        "stages": trainer.stage_names(),
        "loss": float(terms.total.detach()),
        "device": str(trainer.device),
    }

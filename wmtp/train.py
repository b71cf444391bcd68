"""Trains: warms the trunk up, pretrains the value head, trains the whole. From a clean start, or from a checkpoint."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wmtp.checkpoint import remove_temporary
from wmtp.errors import ConfigError
from wmtp.experiment import load_value_head
from wmtp.loop import LoopState, run
from wmtp.metrics import MetricsFile, NoMetrics, trackers
from wmtp.processes import Processes, joined, require_same
from wmtp.profiling import profiler
from wmtp.progress import Report, quiet
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
    with joined(config) as processes:
        processes.led(lambda: require_room(folder, profile_to, fresh=resume is None))
        trainer = build(config, recipe, report if processes.leader else quiet(), processes)
        require_same(processes, config, recipe, trainer.data.fingerprint)
        start = Start(LoopState(trainer.stage_names()[0]))
        if resume is not None:
            start = load_run(resume, trainer)
        else:
            trainer.collator.reward_N = processes.led(
                lambda: known_rewards(recipe, config, trainer.data, trainer.device, report)
            )
        with alone_in(folder, processes, resume, config.checkpoint.keep), metrics_of(trainer, start) as metrics:
            run_stages(trainer, start, metrics, profile_to if processes.leader else None)
    return folder


def require_room(folder: Path, profile_to: Path | None, *, fresh: bool) -> None:
    """Refuse folders that cannot be written, that another job holds, or that hold a run where a fresh one starts."""
    require_writable("paths.output", folder)
    if profile_to is not None:
        require_writable("--profile", profile_to)
    if folder.is_dir():
        os.close(hold(folder))  # another job is told of now, not after the programs' tests
    if fresh:
        require_fresh(folder)


def tidy(resumed: Path, keep: int) -> None:
    """Remove the checkpoints behind the one that is resumed, and the oldest beyond so many."""
    discard_later(resumed)
    discard_old(resumed.parent, keep)


@contextmanager
def alone_in(folder: Path, processes: Processes, resumed: Path | None, keep: int) -> Iterator[None]:
    """Hold the run's folder, so that no second job writes there; the kernel lets go of it when this one ends, however.

    Once it is held, the checkpoints behind a resumed one go, and the oldest beyond `keep`.

    Raises:
        ConfigError: another job holds it, on the leader.
        FollowerError: the same, on the others.
    """
    held = processes.led(lambda: hold(folder))
    try:
        if resumed is not None:
            processes.led(lambda: tidy(resumed, keep))
        yield
    finally:
        if processes.leader:
            os.close(held)


def hold(folder: Path) -> int:
    """Lock a folder, made where it is not there, and clear away what a killed save has left; the open folder."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        raise ConfigError(f"paths.output: another job is writing to {folder}; choose another run.name") from None
    remove_temporary(folder)
    remove_temporary(folder / "checkpoints")
    return held


@contextmanager
def metrics_of(trainer: Trainer, start: Start) -> Iterator[MetricsFile | NoMetrics]:
    """The run's metrics from where it goes on, closed at the end; the leader's alone."""
    config, folder = trainer.config, trainer.folder
    metrics: MetricsFile | NoMetrics = NoMetrics()
    if trainer.processes.leader:
        metrics = MetricsFile(
            folder / "metrics.jsonl",
            size=start.metrics_bytes,
            trackers=trackers(config, folder, trainer.recipe.run.name),
        )
    try:
        yield metrics
    finally:
        metrics.close()


def run_stages(trainer: Trainer, start: Start, metrics: MetricsFile | NoMetrics, profile_to: Path | None) -> None:
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
                processes=trainer.processes,
            )


def prepare_stage(trainer: Trainer, name: str) -> None:
    """What has to happen between two stages: rewards by the warm trunk, Stage 1's value head into Stage 2."""
    if name == "warmup" or trainer.uniform:
        return
    names = trainer.stage_names()
    if names.index(name) == 1 and names[0] == "warmup" and waits_for_warm_trunk(trainer.recipe, trainer.config):
        reward_N = rewards_by_warm_trunk(trainer.model, trainer.recipe, trainer.data, trainer.device)
        trainer.collator.reward_N = trainer.processes.from_leader(reward_N)
    if name == "stage2" and "stage1" in names:
        load_value_head(trainer.model, trainer.folder / "value_head.ckpt")


def dry_run(config: Config, recipe: Recipe, report: Report) -> dict[str, Any]:
    """Build everything, run one forward and backward on at most two rows, write nothing.

    Returns:
        Numbers of the step and sizes of model and data.
    """
    with joined(config) as processes:
        return numbers_of_a_step(build(config, recipe, report if processes.leader else quiet(), processes))


def numbers_of_a_step(trainer: Trainer) -> dict[str, Any]:
    """One forward and backward of a trainer at its start."""
    config, recipe, processes = trainer.config, trainer.recipe, trainer.processes
    require_same(processes, config, recipe, trainer.data.fingerprint)
    packs = trainer.data.train[: min(2, recipe.data.batch_size)]
    rows = [row for pack in packs for row in pack]
    trainer.collator.reward_N = processes.led(
        lambda: known_rewards(recipe, config, trainer.data, trainer.device, trainer.report, only=rows)
    )
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

"""Checkpoints on disk: what a load of them makes of a fresh run, and which of their files a load reads."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from gradgate.checks.raised import calling
from gradgate.checks.snapshot import Difference, Snapshot, first_difference, take
from gradgate.subjects.contract import Context, Run, Stage

STEPS = 2
OTHER_SEED = 1_000_003  # added to the seed of a run that is about to load


@dataclass(frozen=True)
class Loaded:
    """What a load did.

    Args:
        state: of the run afterwards.
        error: what it raised; None where it did not.
        changed: what a load that raised had changed already.
    """

    state: Snapshot
    error: BaseException | None = None
    changed: Difference | None = None


def fresh(stage: Stage, context: Context, seed: int) -> Run:
    """A run at its start."""
    with calling("start()"):
        return stage.start(seed, device=context.device)


def stepped(run: Run, steps: int = STEPS) -> Run:
    """The run some steps on."""
    for number, batch in enumerate(islice(run.batches(), steps), 1):
        with calling(f"step {number}"):
            run.step(batch)
    return run


def load(stage: Stage, context: Context, path: Path) -> Loaded:
    """Load into a fresh run of another seed."""
    run = fresh(stage, context, context.seed + OTHER_SEED)
    before = take(run)
    try:
        run.load(path)
    except (Exception, SystemExit) as error:
        return Loaded(take(run), error, first_difference(before, take(run)))
    return Loaded(take(run))


def files_of(folder: Path) -> list[Path]:
    """The regular files below a folder, relative to it, in order."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def files_read(stage: Stage, context: Context, saved: Path, scratch: Path, whole: Snapshot) -> Iterator[Path]:
    """The files of a checkpoint without which a load fails or brings back something else, relative to it."""
    for file in files_of(saved):
        copy = copied(saved, scratch / "without")
        (copy / file).unlink()
        outcome = load(stage, context, copy)
        if outcome.error is not None or first_difference(whole, outcome.state) is not None:
            yield file


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder in the place of what is there."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to

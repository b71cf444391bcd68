"""Checkpoints of a whole run: what is in them, which one to go on from, and what must not have changed since."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wmtp import checkpoint
from wmtp.errors import CheckpointError, ConfigError
from wmtp.loop import LoopState, checkpoint_name, newest
from wmtp.metrics import MetricsFile, NoMetrics
from wmtp.processes import Processes
from wmtp.settings import Config, Recipe
from wmtp.stages import Stage, build_stage
from wmtp.trainer import STAGES, Trainer
from wmtp.update import Update

RUN_KIND = "run"
FOLDER = "checkpoints"
EXTENDABLE = ("train.max_steps", "train.eval_every", "train.patience")
OF_CONFIG = ("seed", "precision", "paths.value_head")
KEYS = ("loop", "model", "update", "random", "reward_N", "metrics_bytes", "data", "config", "recipe")


def save_run(trainer: Trainer, work: Stage, at: LoopState, metrics: MetricsFile | NoMetrics) -> None:
    """Write a checkpoint of everything, then remove the oldest beyond `checkpoint.keep`. Collective: the leader writes,
    or, where the model is sharded, everybody its part."""
    if at.done:
        work.finish(float("nan") if at.last is None else at.last)
    processes, folder = trainer.processes, trainer.folder / FOLDER
    path = folder / checkpoint_name(at.stage, at.step)
    random, *others = processes.gather(random_state())
    state = {
        "kind": RUN_KIND,
        "loop": at.state_dict(),
        "model": trainer.model.state_dict(),
        "update": work.update.state_dict(),
        "random": random,
        "reward_N": trainer.collator.reward_N,
        "metrics_bytes": metrics.sync(),
        "data": trainer.data.fingerprint,
        "config": trainer.config.model_dump_json(),
        "recipe": trainer.recipe.model_dump_json(),
    }
    if others:
        state["random_of_others"] = others
    if processes.sharded:
        save_parts(path, state, processes)
    else:
        processes.led(lambda: checkpoint.save(path, state))
    processes.led(lambda: discard_old(folder, trainer.config.checkpoint.keep))


def save_parts(path: Path, state: dict[str, Any], processes: Processes) -> None:
    """Write a checkpoint whose model and moments are spread over the processes."""
    from wmtp import sharded

    optimizer = state["update"]["optimizer"]
    moments = {str(index): dict(of_one) for index, of_one in optimizer["state"].items()}
    update = state["update"] | {"optimizer": optimizer | {"state": {}}, "moments": [int(index) for index in moments]}
    tensors = {"model": state["model"], "moments": moments}
    sharded.save(path, state | {"model": {}, "update": update}, tensors, processes)


def moments_of(path: Path, indices: list[int], update: Update, processes: Processes) -> dict[int, dict[str, Tensor]]:
    """The optimizer's moments in a checkpoint that is a folder, spread as its parameters are."""
    from wmtp import sharded

    parameters = {index: update.parameters[index].detach() for index in indices}
    empty = {
        str(index): {"step": torch.zeros(()), "exp_avg": torch.empty_like(p), "exp_avg_sq": torch.empty_like(p)}
        for index, p in parameters.items()
    }
    sharded.fill(path, {"moments": empty}, processes)
    return {int(index): of_one for index, of_one in empty.items()}


@dataclass(frozen=True)
class Start:
    """Where a run begins, or goes on.

    Attributes:
        at: the stage and how far it is.
        work: that stage with its optimizer, schedule and scaler as they were; None: it begins, or has ended.
        metrics_bytes: how much of metrics.jsonl belongs to the run so far.
    """

    at: LoopState
    work: Stage | None = None
    metrics_bytes: int = 0


def load_run(path: Path, trainer: Trainer) -> Start:
    """Load a checkpoint into a run that was just built. All of it is checked; nothing on disk is changed.

    Raises:
        CheckpointError: the file is no checkpoint of a run, is damaged, or belongs to other settings or other data.
    """
    state = checkpoint.load(path)
    checkpoint.require_kind(path, state, RUN_KIND, KEYS)
    with _told_in_one_line(path):
        require_same_settings(path, state, trainer.config, trainer.recipe)
        at, metrics_bytes = loop_state(state, trainer), _count("metrics_bytes", state["metrics_bytes"])
        reward_N = _rewards(state["reward_N"], len(trainer.data.examples))
    if state["data"] != trainer.data.fingerprint:
        raise CheckpointError(f"{path}: was written for other data: the rows of data.path have changed since")
    if path.is_dir():
        from wmtp import sharded

        sharded.require_whole(path, state.get("files", {}), trainer.processes)
        state["model"] = sharded.empty_like(trainer.model)
        sharded.fill(path, {"model": state["model"]}, trainer.processes)
    checkpoint.load_module(trainer.model, state["model"], path, "model")
    trainer.collator.reward_N = reward_N
    work = None if at.done else build_stage(at.stage, trainer)
    with _told_in_one_line(path):
        if work is not None:
            if path.is_dir():
                indices, optimizer = state["update"]["moments"], state["update"]["optimizer"]
                optimizer["state"] = moments_of(path, indices, work.update, trainer.processes)
            work.update.load_state_dict(state["update"])
        set_random_state(own_random(state, trainer.processes, trainer.config.seed + at.step))
    return Start(at, work, metrics_bytes)


def loop_state(state: dict[str, Any], trainer: Trainer) -> LoopState:
    """Where the run was. A run that had ended by its steps goes on where `train.max_steps` is larger now."""
    at = LoopState(**state["loop"])
    if at.stage not in trainer.stage_names():
        raise ValueError(f"stage is {at.stage!r}, expected one of {', '.join(trainer.stage_names())}")
    for name in ("step", "position", "worse"):
        _count(name, getattr(at, name))
    for name in ("best", "last"):
        if not isinstance(getattr(at, name), float | None):
            raise TypeError(f"{name} is {getattr(at, name)!r}, expected a number")
    section = trainer.recipe.train
    if (
        at.stage == "stage2"
        and at.step < section.max_steps
        and (section.patience is None or at.worse < section.patience)
    ):
        at.done = False
    return at


def _count(name: str, value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} is {value!r}, expected a whole number >= 0")
    return value


def _rewards(reward_N: Any, rows: int) -> Tensor:
    if not isinstance(reward_N, Tensor) or reward_N.shape != (rows,) or reward_N.dtype != torch.float32:
        raise ValueError(f"reward_N is no float32 tensor of {rows} rows")
    return reward_N


@contextmanager
def _told_in_one_line(path: Path) -> Iterator[None]:
    """A file can be whole and hold oddities all the same."""
    try:
        yield
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise CheckpointError(f"{path}: holds what no run has saved ({reason})") from None


def at_home(config: Config, path: Path) -> Config:
    """The config with its output in the folder of the run whose checkpoint this is, wherever that has moved.

    Raises:
        CheckpointError: the file lies in no run's folder.
    """
    path = path.absolute()
    if path.parent.name != FOLDER:
        raise CheckpointError(f"--resume {path}: expected a file in the folder {FOLDER}/ of a run, where it goes on")
    paths = config.paths.model_copy(update={"output": str(path.parent.parent)})
    return config.model_copy(update={"paths": paths})


def discard_later(path: Path) -> None:
    """Remove the checkpoints behind the one that is resumed: of a future that will be another."""
    files = newest(path.parent, STAGES)
    for later in files[: files.index(path)] if path in files else ():
        checkpoint.remove(later)


def discard_old(folder: Path, keep: int) -> None:
    """Remove the oldest checkpoints beyond so many."""
    for old in newest(folder, STAGES)[keep:]:
        checkpoint.remove(old)


def require_same_settings(path: Path, state: dict[str, Any], config: Config, recipe: Recipe) -> None:
    """Refuse to go on with settings under which the run would become another one."""
    ours, theirs = flat(recipe.model_dump(mode="json")), flat(json.loads(state["recipe"]))
    ours |= {key: flat(config.model_dump(mode="json"))[key] for key in OF_CONFIG}
    theirs |= {key: flat(json.loads(state["config"]))[key] for key in OF_CONFIG}
    for key in sorted(set(ours) | set(theirs)):
        if key not in EXTENDABLE and ours.get(key) != theirs.get(key):
            raise CheckpointError(
                f"{path}: was written with {key} = {theirs.get(key)!r}, now it is {ours.get(key)!r}; "
                f"a resumed run may change only {', '.join(EXTENDABLE)} of its recipe"
            )


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested dictionary with dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return leaves


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that `--resume` means: the file itself, or the newest of a run's folder.

    Raises:
        CheckpointError: there is none.
    """
    if path.is_file() or (path / checkpoint.PLAIN).is_file():
        return path
    found = newest(path / FOLDER, STAGES)
    if not found:
        raise CheckpointError(f"--resume {path}: no checkpoint there; expected a run's folder, with {FOLDER}/ in it")
    return found[0]


def require_fresh(folder: Path) -> None:
    """Refuse to start a run where one is already."""
    if newest(folder / FOLDER, STAGES) or (folder / "final.ckpt").exists():
        raise ConfigError(
            f"paths.output: {folder} already holds a run; go on with --resume {folder}, or choose another run.name"
        )


def require_writable(key: str, folder: Path) -> None:
    """Refuse a folder that cannot be made or written in, before any work is done for it. Creates nothing.

    Raises:
        ConfigError: names the key and the place.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{key}: {folder}: {there} is a file, expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{key}: {folder}: no permission to write in {there}")


def random_state() -> dict[str, Any]:
    """Torch's random states."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def own_random(state: dict[str, Any], processes: Processes, seed: int) -> dict[str, Any]:
    """This process's random states; where a checkpoint has none for its rank, those of a fresh stream."""
    states = [state["random"], *state.get("random_of_others", ())]
    if processes.rank < len(states):
        found: dict[str, Any] = states[processes.rank]
        return found
    processes.own_stream(seed)
    return random_state()


def set_random_state(state: dict[str, Any]) -> None:
    """Bring back what `random_state` gave; a machine with other GPUs keeps its own state for these."""
    torch.set_rng_state(state["cpu"])
    if state["cuda"] and torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])

"""Resume: whatever ended a run, going on gives what the uninterrupted run gives, bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.small_runs import (
    RESUMABLE,
    contents_of,
    files_of,
    resume_small,
    settings,
    small_trainer,
    train_small,
    unequal,
)
from wmtp import checkpoint
from wmtp.errors import CheckpointError, ConfigError
from wmtp.loop import StoppedError
from wmtp.metrics import MetricsFile
from wmtp.progress import quiet
from wmtp.resume import find_checkpoint, require_writable
from wmtp.stages import WarmUp
from wmtp.train import train

KILLS = 10


class KilledError(BaseException):
    """Stands for SIGKILL: nothing may clean up behind it."""


def assert_same(folder: Path, reference: Path) -> None:
    """The two runs' folders hold the same, bit for bit."""
    (files, states), (expected_files, expected_states) = contents_of(folder), contents_of(reference)
    assert (files.keys(), states.keys()) == (expected_files.keys(), expected_states.keys())
    assert [name for name in files if files[name] != expected_files[name]] == []
    assert unequal(states, expected_states) == []


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nobody interrupts."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    train_small(folder, *RESUMABLE)
    return folder


def kill_at(event: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Raise KilledError before the given write, line of metrics, fsync or rename; returns a counter of events."""
    seen = [0]

    def killing(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            seen[0] += 1
            if seen[0] == event:
                raise KilledError
            return function(*arguments, **named)

        return wrapper

    monkeypatch.setattr(MetricsFile, "log", killing(MetricsFile.log))
    monkeypatch.setattr(os, "fsync", killing(os.fsync))
    monkeypatch.setattr(Path, "replace", killing(Path.replace))
    monkeypatch.setattr(Path, "unlink", killing(Path.unlink))
    monkeypatch.setattr(checkpoint, "_remove", lambda _: None)
    return seen


def survive(event: int, folder: Path, reference: Path) -> int:
    """Kill a run at an event, start it again as a user would, and compare; returns how many events there were."""
    with pytest.MonkeyPatch.context() as patch:
        seen = kill_at(event, patch)
        with suppress(KilledError):
            train_small(folder, *RESUMABLE)
    try:
        resume_small(folder, *RESUMABLE)
    except CheckpointError as error:
        assert "no checkpoint there" in str(error)
        train_small(folder, *RESUMABLE)
    assert_same(folder, reference)
    return seen[0]


def events_of(tmp_path: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        seen = kill_at(-1, patch)
        train_small(tmp_path / "counted", *RESUMABLE)
    return seen[0]


def test_run_that_was_killed_goes_on_bit_for_bit(tmp_path: Path, reference: Path) -> None:
    """Killed before a line of metrics, an fsync, a rename or a removal: all files are equal in the end."""
    events = events_of(tmp_path)
    chosen = [1, events, *random.Random(0).sample(range(2, events), KILLS - 2)]
    for event in chosen:
        survive(event, tmp_path / f"run{event}", reference)


def test_run_does_not_depend_on_a_clock_that_jumps(
    tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The date goes back a day, a year ahead, and stands still: the files are the same, bit for bit."""
    jumps = random.Random(3)
    monkeypatch.setattr("time.time", lambda: jumps.choice([0.0, 1.5e9, 1.6e9, 1.6e9 - 86400.0, 4e9]))

    train_small(tmp_path / "run", *RESUMABLE)

    assert_same(tmp_path / "run", reference)


@pytest.mark.nightly
def test_run_that_was_killed_anywhere_goes_on_bit_for_bit(tmp_path: Path, reference: Path) -> None:
    """The same at every such instant."""
    for event in range(1, events_of(tmp_path) + 1):
        survive(event, tmp_path / f"run{event}", reference)


def test_run_that_was_killed_twice_goes_on_bit_for_bit(tmp_path: Path, reference: Path) -> None:
    """The second kill hits the resumed run."""
    folder = tmp_path / "run"
    for event, start in ((60, train_small), (9, resume_small)):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KilledError):
            kill_at(event, patch)
            start(folder, *RESUMABLE)
    resume_small(folder, *RESUMABLE)
    assert_same(folder, reference)


KILLED = """
import os, signal, sys
from pathlib import Path
import fixtures.small_runs as small
count = int(sys.argv[2])
replace = Path.replace
def killing(temporary, path):
    global count
    count -= 1
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(temporary, path)
Path.replace = killing
small.train_small(Path(sys.argv[1]), *sys.argv[3:])
"""


def kill_in_save(count: int, folder: Path) -> tuple[int, list[str]]:
    """A run in its own process that is gone before the n-th file has its name: exit status, what it left behind."""
    command = [sys.executable, "-c", KILLED, str(folder), str(count), *RESUMABLE]
    ended = subprocess.run(command, capture_output=True, cwd=Path(__file__).parents[3])
    return ended.returncode, [path.name for path in folder.rglob("*.tmp")]


@pytest.mark.nightly
def test_run_goes_on_after_a_real_sigkill_in_the_middle_of_a_save(tmp_path: Path, reference: Path) -> None:
    """The process is gone between writing a checkpoint and naming it; what it left behind is cleaned up."""
    folder = tmp_path / "run"
    assert kill_in_save(10, folder) == (-9, [".stage2-00000002.ckpt.tmp"])
    resume_small(folder, *RESUMABLE)
    assert_same(folder, reference)


@pytest.mark.nightly
@pytest.mark.parametrize("count", range(1, 12))
def test_run_goes_on_after_a_real_sigkill_in_any_save(count: int, tmp_path: Path, reference: Path) -> None:
    """The same in every save of the run, the first included, which leaves nothing to go on from."""
    folder = tmp_path / "run"
    kill_in_save(count, folder)
    (resume_small if list((folder / "checkpoints").glob("*.ckpt")) else train_small)(folder, *RESUMABLE)
    assert_same(folder, reference)


@pytest.mark.parametrize(
    "overrides", [("precision=bf16",), ("precision=fp16",), ("data.packing=true", "data.max_length=130")]
)
def test_run_that_stopped_in_stage_2_goes_on_bit_for_bit(
    overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half precision with its scaler, and packed rows."""
    train_small(tmp_path / "whole", *overrides)
    stop_at(7, monkeypatch)
    with pytest.raises(StoppedError):
        train_small(tmp_path / "run", *overrides)
    monkeypatch.undo()
    resume_small(tmp_path / "run", *overrides)
    assert_same(tmp_path / "run", tmp_path / "whole")


def stop_at(call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask a run to stop at its n-th step with a batch of tokens, as Ctrl-C would."""
    advance, calls = WarmUp.advance, [0]

    def asking(self: WarmUp, position: int) -> Any:
        calls[0] += 1
        if calls[0] == call - 2:
            signal.raise_signal(signal.SIGINT)
        return advance(self, position)

    monkeypatch.setattr(WarmUp, "advance", asking)


@pytest.mark.parametrize(
    "override",
    ["train.horizon=2", "optim.lr=0.1", "seed=4", "precision=bf16", "data.batch_size=3", "critic.gamma=0.5"],
)
def test_resume_is_refused_when_the_run_would_become_another(override: str, reference: Path) -> None:
    """The key is named with both values, and nothing in the folder has changed."""
    before, key = files_of(reference), override.split("=")[0]
    with pytest.raises(CheckpointError, match=rf"was written with {key} = .*, now it is .*; a resumed run may change"):
        resume_small(reference, *RESUMABLE, override)
    assert files_of(reference) == before


def test_resume_is_refused_when_the_data_has_changed(tmp_path: Path) -> None:
    """As many rows as before, but another text."""
    data = tmp_path / "rows.txt"
    data.write_text("a first row\na second one\n")
    overrides = (f"data.path={data}",)
    train_small(tmp_path / "run", *overrides)
    data.write_text("a first row\nanother one\n")
    with pytest.raises(CheckpointError, match=r"was written for other data: the rows of data.path have changed since$"):
        resume_small(tmp_path / "run", *overrides)


def test_resume_makes_a_finished_run_longer(tmp_path: Path) -> None:
    """`train.max_steps` may grow: the steps behind the old end are made, with the rates of the longer schedule."""
    train_small(tmp_path / "run", *RESUMABLE)
    lines = resume_small(tmp_path / "run", *RESUMABLE, "train.max_steps=7")
    steps = [line["step"] for line in lines if line["stage"] == "stage2" and "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert lines[-1]["step"] == 7


def test_resume_of_a_finished_run_changes_nothing(tmp_path: Path, reference: Path) -> None:
    """There is nothing to do, early stopping included."""
    shutil.copytree(reference, tmp_path / "run")
    resume_small(tmp_path / "run", *RESUMABLE)
    assert_same(tmp_path / "run", reference)


def test_resume_goes_on_in_the_folder_where_the_run_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was moved, or is resumed from another place, is still one run."""
    monkeypatch.chdir(tmp_path)
    train_small(Path("old"), *RESUMABLE)
    shutil.move("old", "new")
    config, recipe = settings("old", *RESUMABLE, "train.max_steps=5")
    train(config, recipe, quiet(), resume=find_checkpoint(Path("new")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new"]
    assert '"step": 5' in (tmp_path / "new" / "metrics.jsonl").read_text()


def test_resume_from_an_older_checkpoint_drops_the_later_ones(tmp_path: Path) -> None:
    """Its future is another: later checkpoints and lines of metrics are gone, and the end is the same."""
    folder, whole = tmp_path / "run", tmp_path / "whole"
    for name in (folder, whole):
        train_small(name, *RESUMABLE, "checkpoint.keep=100")
    older = sorted((folder / "checkpoints").glob("stage1-*"))[0]
    train(*settings(folder, *RESUMABLE, "checkpoint.keep=100"), quiet(), resume=older)
    assert_same(folder, whole)


def test_resume_from_an_older_checkpoint_is_the_newest_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed again at once, the run goes on from there and not from the future that it left."""
    folder, overrides = tmp_path / "run", (*RESUMABLE, "checkpoint.keep=100")
    train_small(folder, *overrides)
    older = sorted((folder / "checkpoints").glob("stage1-*"))[0]
    monkeypatch.setattr(MetricsFile, "log", lambda *_: (_ for _ in ()).throw(KilledError))
    with pytest.raises(KilledError):
        train(*settings(folder, *overrides), quiet(), resume=older)
    assert find_checkpoint(folder) == older


def test_leftovers_of_a_killed_save_are_removed_on_resume(tmp_path: Path, reference: Path) -> None:
    """Also those that no later save writes over."""
    shutil.copytree(reference, tmp_path / "run")
    for name in (".older.ckpt.tmp", "checkpoints/.stage1-00000099.ckpt.tmp"):
        (tmp_path / "run" / name).write_text("half")
    resume_small(tmp_path / "run", *RESUMABLE)
    assert_same(tmp_path / "run", reference)


def test_resume_is_refused_outside_a_runs_folder(tmp_path: Path, reference: Path) -> None:
    """A lone checkpoint file has no metrics beside it to go on with."""
    file = shutil.copy(find_checkpoint(reference), tmp_path / "lone.ckpt")
    with pytest.raises(CheckpointError, match=r"lone.ckpt: expected a file in the folder checkpoints/ of a run"):
        train(*settings(tmp_path, *RESUMABLE), quiet(), resume=Path(file))


def test_resume_is_refused_when_the_metrics_are_missing(tmp_path: Path, reference: Path) -> None:
    """They are not filled up with anything."""
    shutil.copytree(reference, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: holds 0 bytes, the checkpoint goes on after \d+$"):
        resume_small(tmp_path / "run", *RESUMABLE)


def test_resume_is_refused_when_there_is_no_checkpoint(tmp_path: Path) -> None:
    """A folder without any, or none at all."""
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(CheckpointError, match=r"^--resume .*: no checkpoint there; expected a run's folder"):
            find_checkpoint(folder)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("loop", {"stage": "stage2", "speed": 3}), ("loop", {"stage": "stage9"}), ("loop", 5),
        ("loop", {"stage": "stage2", "position": -5}), ("loop", {"stage": "stage2", "step": "2"}),
        ("loop", {"stage": "stage2", "worse": None}), ("loop", {"stage": "stage2", "best": "x"}),
        ("update", {}), ("random", {"cpu": 3}), ("random", {"cpu": torch.zeros(3, dtype=torch.uint8)}),
        ("metrics_bytes", "x"), ("metrics_bytes", -1), ("config", "no json"), ("recipe", 3),
        ("reward_N", "x"), ("reward_N", torch.zeros(2)), ("reward_N", torch.zeros(12, dtype=torch.long)),
    ],
)  # fmt: skip
def test_resume_is_refused_when_a_part_of_the_checkpoint_is_odd(
    part: str, value: Any, tmp_path: Path, reference: Path
) -> None:
    """A file with a right checksum and a wrong content is no traceback either, and nothing in the folder changes."""
    refuse_with(tmp_path / "run", reference, lambda state: state | {part: value})


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq"])
def test_resume_is_refused_when_the_optimizer_has_another_shape(moment: str, tmp_path: Path, reference: Path) -> None:
    """The fused kernel would read beyond the tensor's end."""

    def shrunk(state: dict[str, Any]) -> dict[str, Any]:
        first = next(iter(state["update"]["optimizer"]["state"].values()))
        first[moment] = torch.zeros(2)
        return state

    refuse_with(tmp_path / "run", reference, shrunk)


def refuse_with(folder: Path, reference: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Resume a copy of a run whose newest checkpoint was changed and signed again."""
    shutil.copytree(reference, folder)
    path = find_checkpoint(folder)
    state = checkpoint.load(path)
    state["loop"]["done"] = False
    checkpoint.save(path, change(state))
    (folder / "metrics.jsonl").write_bytes((folder / "metrics.jsonl").read_bytes() + b"one line more\n")
    before = files_of(folder)
    with pytest.raises(CheckpointError, match=rf"{path.name}: "):
        resume_small(folder, *RESUMABLE)
    assert files_of(folder) == before


def test_fresh_start_is_refused_where_a_run_is(tmp_path: Path, reference: Path) -> None:
    """Neither into a run's checkpoints nor over its final model; the message says how to go on."""
    shutil.copytree(reference, tmp_path / "run")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"already holds a run; go on with --resume .*, or choose"):
            train_small(tmp_path / "run", *RESUMABLE)
        shutil.rmtree(tmp_path / "run" / "checkpoints", ignore_errors=True)


def test_fresh_start_cleans_up_behind_a_run_that_left_no_checkpoint(tmp_path: Path, reference: Path) -> None:
    """Temporary files and half a file of metrics of a run that was killed at once."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in (".best.ckpt.tmp", ".older.ckpt.tmp", "checkpoints/.warmup-00000099.ckpt.tmp"):
        (folder / name).write_text("half")
    (folder / "metrics.jsonl").write_text('{"stage": "warmup", "st')
    train_small(folder, *RESUMABLE)
    assert_same(folder, reference)


def test_folder_is_refused_when_it_cannot_be_written_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in its place, or no permission; nothing is made to find out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"^paths.output: .*/file/run: .*/file is a file, expected a folder$"):
        require_writable("paths.output", tmp_path / "file" / "run")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=r"^paths.output: .*/a/b: no permission to write in "):
        require_writable("paths.output", tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_random_state_of_other_devices_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint from a machine with GPUs loads on one without."""
    from wmtp.resume import random_state, set_random_state

    state = random_state() | {"cuda": [torch.zeros(3)]}
    drawn = torch.rand(3)
    set_random_state(state)
    assert torch.equal(torch.rand(3), drawn)


def test_checkpoints_hold_the_rows_of_their_run() -> None:
    """The fingerprint is of texts and tasks, not of settings."""
    one, same, other = (small_trainer(*o).data.fingerprint for o in ((), ("train.horizon=2",), ("data.tasks=7",)))
    assert (one == same, one == other) == (True, False)

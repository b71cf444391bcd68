"""Checkpoint files: whole or not at all, believed only after a check, never executed."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fixtures.damaged_files import Bomb, pickled, signed
from fixtures.small_runs import unequal
from wmtp import checkpoint
from wmtp.errors import CheckpointError

STATE = {"kind": "test", "tensor": torch.arange(4.0), "nested": {"list": [1, 2.5, "x", None, True]}}


def test_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Tensors, numbers, strings, None, lists and dictionaries; its folder is made."""
    path = tmp_path / "new" / "a.ckpt"
    checkpoint.save(path, STATE)
    assert unequal(checkpoint.load(path), STATE) == []


def test_checkpoint_is_the_same_file_for_the_same_state(tmp_path: Path) -> None:
    """Nothing of clock, path or process is in it."""
    for name in ("a.ckpt", "b.ckpt"):
        checkpoint.save(tmp_path / name, STATE)
    assert (tmp_path / "a.ckpt").read_bytes() == (tmp_path / "b.ckpt").read_bytes()


def trickled(path: Path, content: bytes) -> threading.Thread:
    """A pipe in the file's place that gives its content a few bytes at a time, and then ends."""
    os.mkfifo(path)

    def give() -> None:
        with path.open("wb", buffering=0) as pipe:
            for begin in range(0, len(content), 97):
                pipe.write(content[begin : begin + 97])

    thread = threading.Thread(target=give)
    thread.start()
    return thread


def test_checkpoint_that_is_read_slowly_is_whole(tmp_path: Path) -> None:
    """A read may return less than was asked for: it goes on to the end."""
    checkpoint.save(tmp_path / "a.ckpt", STATE)
    thread = trickled(tmp_path / "slow.ckpt", (tmp_path / "a.ckpt").read_bytes())

    assert unequal(checkpoint.load(tmp_path / "slow.ckpt"), STATE) == []
    thread.join()


def test_checkpoint_whose_reading_ends_early_is_refused(tmp_path: Path) -> None:
    """A file system that gives up in the middle does not give half a state."""
    checkpoint.save(tmp_path / "a.ckpt", STATE)
    content = (tmp_path / "a.ckpt").read_bytes()
    thread = trickled(tmp_path / "short.ckpt", content[: len(content) // 2])

    with pytest.raises(CheckpointError, match="truncated or overlong"):
        checkpoint.load(tmp_path / "short.ckpt")
    thread.join()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda whole: b"", "not a checkpoint of wmtp"),
        (lambda whole: b"hello\n", "not a checkpoint of wmtp"),
        (lambda whole: whole[:60], "not a checkpoint of wmtp"),
        (lambda whole: whole[:-1], "truncated or overlong: holds"),
        (lambda whole: whole + b"x", "truncated or overlong: holds"),
        (lambda whole: whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:], "damaged: its content does not match"),
        (lambda whole: whole.replace(b"wmtp-checkpoint-1", b"wmtp-checkpoint-9"), "not a checkpoint of wmtp"),
        (lambda whole: whole.replace(b" ", b" 9" * 3000, 1), "not a checkpoint of wmtp"),
        (lambda whole: signed(b"no pickle at all"), "refused: holds more than tensors and plain values"),
        (lambda whole: signed(b""), "refused: holds more than tensors and plain values"),
        (lambda whole: signed(pickle.dumps(print)), "refused: holds more than tensors and plain values"),
        (lambda whole: signed(pickled([1, 2])), "holds a list, expected a dictionary"),
        (lambda whole: b"wmtp-checkpoint-1 x " + b"9" * 5000 + b"\n", "truncated or overlong: holds 0 bytes of 999"),
    ],
)
def test_checkpoint_is_refused_when_it_is_not_what_was_saved(
    damage: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    """Empty, foreign, truncated, altered, or no dictionary: one line that names the file."""
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, STATE)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path)
    assert str(caught.value).startswith(f"{path}: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wrap", [lambda bomb: bomb, lambda bomb: {"kind": "run", "model": bomb}])
def test_checkpoint_is_never_executed(wrap: Callable[[Any], Any], tmp_path: Path) -> None:
    """A pickle bomb behind a valid header and checksum is refused before anything of it runs."""
    path, made = tmp_path / "bomb.ckpt", tmp_path / "made"
    path.write_bytes(signed(pickled(wrap(Bomb(str(made))))))
    with pytest.raises(CheckpointError, match=r"refused: holds more than tensors and plain values"):
        checkpoint.load(path)
    assert not made.exists()


def test_checkpoint_is_refused_when_it_is_missing(tmp_path: Path) -> None:
    """The message is the system's reason."""
    with pytest.raises(CheckpointError, match=r"no.ckpt: could not be read: No such file or directory$"):
        checkpoint.load(tmp_path / "no.ckpt")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_save_leaves_the_old_file_when_the_disk_is_full(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error, the old file as it was, and nothing beside it."""
    path = tmp_path / "a.ckpt"
    checkpoint.save(path, STATE)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), full)
    with pytest.raises(CheckpointError, match=r"a.ckpt: could not be written: No space left on device$"):
        checkpoint.save(path, {"kind": "other"})
    assert (path.read_bytes(), [p.name for p in tmp_path.iterdir()]) == (before, ["a.ckpt"])


def test_save_leaves_nothing_when_it_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a save is passed on, without the temporary file."""

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path / "a.ckpt", STATE)
    assert list(tmp_path.iterdir()) == []


def test_save_is_refused_where_no_folder_can_be(tmp_path: Path) -> None:
    """A file in the place of the folder is named."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match=r"file/a.ckpt: could not be written: (File exists|Not a directory)$"):
        checkpoint.save(tmp_path / "file" / "a.ckpt", STATE)


def test_save_syncs_file_and_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is durable before the name is, and the name before the call returns."""
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(Path, "replace", lambda a, b: (events.append("rename"), replace(a, b))[1])
    checkpoint.save(tmp_path / "a.ckpt", STATE)
    assert events == ["fsync", "rename", "fsync"]


def test_kind_is_refused_when_it_is_another_or_lacks_a_part() -> None:
    """A value head is no run, and half a run neither."""
    path = Path("a.ckpt")
    with pytest.raises(CheckpointError, match=r"^a.ckpt: holds a 'value head', expected a 'run'$"):
        checkpoint.require_kind(path, {"kind": "value head"}, "run")
    with pytest.raises(CheckpointError, match=r"^a.ckpt: holds a 'nameless thing', expected a 'run'$"):
        checkpoint.require_kind(path, {}, "run")
    with pytest.raises(CheckpointError, match=r"^a.ckpt: lacks 'loop', 'model'$"):
        checkpoint.require_kind(path, {"kind": "run"}, "run", ("kind", "loop", "model"))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(2, 3)}, "part lacks 'bias'"),
        (
            {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)},
            r"'weight' has shape \[3, 2\], this model's has \[2, 3\]",
        ),
        (
            {"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "more": torch.zeros(1)},
            "'more', which this model lacks",
        ),
        ({"weight": 3, "bias": torch.zeros(2)}, "'weight' is a int, expected a tensor"),
        (None, "part is a NoneType, expected tensors by name"),
    ],
)
def test_module_is_untouched_when_its_state_does_not_fit(state: Any, message: str) -> None:
    """All parameters are checked before the first is written."""
    module = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_module(module, state, Path("a.ckpt"), "part")
    assert unequal(module.state_dict(), before) == []


def test_leftovers_of_killed_saves_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """Only what is named as our temporary files are."""
    for name in (".a.ckpt.tmp", ".notes.tmp", "b.tmp", "a.ckpt"):
        (tmp_path / name).touch()
    checkpoint.remove_temporary(tmp_path)
    checkpoint.remove_temporary(tmp_path / "missing")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".notes.tmp", "a.ckpt", "b.tmp"]


def test_leftover_that_cannot_be_removed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder may have become read-only; then there is nothing to be done."""
    (tmp_path / ".a.ckpt.tmp").touch()

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refuse)
    checkpoint.remove_temporary(tmp_path)

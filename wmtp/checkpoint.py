"""Checkpoint files: written whole or not at all, checked before they are believed, and never executed.

A file is a line that names the format, the SHA-256 and the length of what follows, then what `torch.save` wrote. Saving
goes through a temporary file in the same folder, fsync and rename, so that a kill at any instant leaves the old file or
the new one. Loading checks length and checksum and unpickles tensors and plain values only.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wmtp.errors import CheckpointError
from wmtp.parallel import laid_out

FORMAT = b"wmtp-checkpoint-1"
TEMPORARY = ".tmp"
SUFFIX = ".ckpt"
PLAIN = "plain.ckpt"  # in a checkpoint that is a folder: everything but the large tensors


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint, atomically.

    Args:
        path: the file; its folder is created.
        state: tensors, numbers, strings, and lists and dictionaries of them.

    Raises:
        CheckpointError: it could not be written (disk full, no permission); what was there before still is.
    """
    buffer = BytesIO()
    torch.save(dict(state), buffer)
    payload = buffer.getbuffer()
    header = b"%s %s %d\n" % (FORMAT, hashlib.sha256(payload).hexdigest().encode(), len(payload))
    write_atomically(path, header, payload)


def write_atomically(path: Path, *parts: bytes | memoryview) -> None:
    """Write a file through a temporary one in the same folder, fsync and rename.

    Raises:
        CheckpointError: names the path and the reason; the temporary file is gone and the old one untouched.
    """
    temporary = path.with_name(f".{path.name}{TEMPORARY}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _remove(temporary)
        raise CheckpointError(f"{path}: could not be written: {error.strerror or error}") from None
    except BaseException:
        _remove(temporary)
        raise


def load(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; of one that is a folder, everything but its large tensors.

    Raises:
        CheckpointError: there is no such file, it is not one of ours, is truncated or altered, or holds anything but
            tensors and plain values. Nothing of it has been executed.
    """
    try:
        content = (path / PLAIN if path.is_dir() else path).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: could not be read: {error.strerror or error}") from None
    header, _, payload = content.partition(b"\n")
    words = header.split(b" ")
    if len(words) != 3 or words[0] != FORMAT or not words[2].isdigit():
        raise CheckpointError(f"{path}: not a checkpoint of wmtp (expected a file that starts with {FORMAT.decode()})")
    if words[2] != b"%d" % len(payload):
        raise CheckpointError(f"{path}: truncated or overlong: holds {len(payload)} bytes of {words[2][:20].decode()}")
    if hashlib.sha256(payload).hexdigest().encode() != words[1]:
        raise CheckpointError(f"{path}: damaged: its content does not match its checksum")
    try:
        with warnings.catch_warnings():  # what it warns of, it refuses
            warnings.simplefilter("ignore")
            state = torch.load(BytesIO(payload), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler refuses with UnpicklingError, and trips over odd bytes with anything
        raise CheckpointError(f"{path}: refused: holds more than tensors and plain values ({_reason(error)})") from None
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, expected a dictionary")
    return state


def require_kind(path: Path, state: Mapping[str, Any], kind: str, keys: tuple[str, ...] = ()) -> None:
    """Refuse a checkpoint that was written for something else, or that lacks a part."""
    if state.get("kind") != kind:
        raise CheckpointError(f"{path}: holds a {state.get('kind', 'nameless thing')!r}, expected a {kind!r}")
    missing = [key for key in keys if key not in state]
    if missing:
        raise CheckpointError(f"{path}: lacks {', '.join(map(repr, missing))}")


def load_module(module: nn.Module, state: Any, path: Path, part: str) -> None:
    """Load parameters and buffers, all or none.

    Raises:
        CheckpointError: names the first key that is missing, unknown, or of another shape, before anything is changed.
    """
    if not isinstance(state, Mapping):
        raise CheckpointError(f"{path}: {part} is a {type(state).__name__}, expected tensors by name")
    own = module.state_dict()
    for key, tensor in own.items():
        if key not in state:
            raise CheckpointError(f"{path}: {part} lacks {key!r}")
        if not isinstance(state[key], Tensor):
            raise CheckpointError(f"{path}: {part}: {key!r} is a {type(state[key]).__name__}, expected a tensor")
        if state[key].shape != tensor.shape:
            found, expected = list(state[key].shape), list(tensor.shape)
            raise CheckpointError(f"{path}: {part}: {key!r} has shape {found}, this model's has {expected}")
    unknown = [key for key in state if key not in own]
    if unknown:
        raise CheckpointError(f"{path}: {part} has {unknown[0]!r}, which this model lacks")
    module.load_state_dict({key: laid_out(state[key], tensor) for key, tensor in own.items()})


def remove_temporary(folder: Path) -> None:
    """Remove what a killed save left behind."""
    for path in folder.glob(f".*{SUFFIX}{TEMPORARY}"):
        _remove(path)


def remove(path: Path) -> None:
    """Remove a checkpoint, if it is there; one that is a folder under another name first, so that none is ever half."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    going = path.with_name(f".gone-{path.name.lstrip('.')}{TEMPORARY}")
    shutil.rmtree(going, ignore_errors=True)
    path.rename(going)
    shutil.rmtree(going)


def sync_folder(folder: Path) -> None:
    """Make a rename in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """What the unpickler did not like, without torch's advice to let it through."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "WeightsUnpickler error" in line), (lines or [type(error).__name__])[0])
    return told.rpartition("WeightsUnpickler error: ")[2][:120]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the folder itself is gone or read-only: then there is nothing of ours in it

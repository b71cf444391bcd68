"""Checkpoints of a model that is spread over processes: a folder, written whole or not at all, for any number of them.

In it `plain.ckpt`, a checkpoint file with everything but the large tensors and with the SHA-256 of every other file,
and what torch.distributed.checkpoint writes: the parts that each process holds. It is written under a temporary name
and renamed once all is on disk. PyTorch's own reader unpickles its index freely; ours lets through what an index of
tensors is made of, and nothing that could run.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.state_dict_loader import load as load_parts
from torch.distributed.checkpoint.state_dict_saver import save as write_parts

from wmtp import checkpoint
from wmtp.errors import CheckpointError
from wmtp.processes import Processes

INDEX = ".metadata"
ALLOWED = {
    "torch": {"Size", "device", "dtype", "strided"},
    "torch.serialization": {"_get_layout"},
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath"},
}  # fmt: skip
MOVED = {"pathlib._local": "pathlib"}  # where Python 3.13 says that its paths live, and no other version does


def save(path: Path, plain: Mapping[str, Any], tensors: dict[str, Any], processes: Processes) -> None:
    """Write a folder of parts, atomically. Collective.

    Args:
        path: the folder; on a file system that all processes share.
        plain: small values, the leader's.
        tensors: nested dictionaries of tensors, spread or whole.
        processes: those that hold the parts.

    Raises:
        CheckpointError: it could not be written; what was there before still is.
    """
    temporary = path.with_name(f".{path.name}{checkpoint.TEMPORARY}")
    processes.led(lambda: _empty(temporary))
    try:
        write_parts(tensors, storage_writer=FileSystemWriter(temporary))
    except (CheckpointException, OSError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: could not be written: {reason}") from None
    own = sorted(temporary.glob(f"__{processes.rank}_*")) + ([temporary / INDEX] if processes.leader else [])
    sums = {name: value for theirs in processes.gather(_sums(own)) for name, value in theirs.items()}
    processes.led(lambda: _finish(temporary, path, dict(plain) | {"files": sums}))


def _empty(folder: Path) -> None:
    try:
        checkpoint.remove(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: could not be written: {error.strerror or error}") from None


def _finish(temporary: Path, path: Path, plain: Mapping[str, Any]) -> None:
    try:
        checkpoint.save(temporary / checkpoint.PLAIN, plain)
        checkpoint.remove(path)  # the same step once more: what is removed is what is written
        temporary.rename(path)
        checkpoint.sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"{path}: could not be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_whole(path: Path, files: Mapping[str, str], processes: Processes) -> None:
    """Refuse a folder whose files are not those that were written. Collective: each process reads its share.

    Raises:
        CheckpointError: names the first file that is missing or altered, everywhere.
    """
    names = sorted(files)
    bad = [name for name in processes.share(names) if _sum(path / name) != files[name]]
    everybody = sorted(name for theirs in processes.gather(bad) for name in theirs)
    if INDEX not in files or everybody:
        raise CheckpointError(f"{path}: damaged: {(everybody or [INDEX])[0]} is missing or does not match its checksum")


def fill(path: Path, tensors: dict[str, Any], processes: Processes) -> None:
    """Read tensors of a folder into these, however they are spread. Collective.

    Raises:
        CheckpointError: one is missing or has another shape; nothing of the folder has been executed.
    """
    try:
        with warnings.catch_warnings():  # that nothing is distributed, where nothing is
            warnings.simplefilter("ignore")
            load_parts(tensors, storage_reader=_Reader(path), no_dist=processes.world == 1)
    except (CheckpointException, pickle.UnpicklingError, RuntimeError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: refused: {reason[:200]}") from None


def empty_like(module: nn.Module) -> dict[str, Tensor]:
    """A module's state without its values, spread as the module is."""
    return {name: torch.empty_like(tensor) for name, tensor in module.state_dict().items()}


def _sums(files: list[Path]) -> dict[str, str]:
    return {file.name: _sum(file) for file in files}


def _sum(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


class _Index(pickle.Unpickler):
    """Unpickles an index of tensors and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        module = MOVED.get(module, module)
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and name not in ALLOWED.get(module, ()):
            raise pickle.UnpicklingError(f"the index names {module}.{name}, which no index of tensors holds")
        return super().find_class(module, name)


class _Reader(FileSystemReader):
    """PyTorch's reader with an index that cannot execute anything."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:  # noqa: ARG002
        with (Path(os.fspath(self.path)) / INDEX).open("rb") as file:
            metadata = cast("Metadata", _Index(file).load())
        if getattr(metadata, "storage_meta", None) is None:
            metadata.storage_meta = StorageMeta()
        assert metadata.storage_meta is not None  # noqa: S101 - just set
        metadata.storage_meta.load_id = self.load_id
        return metadata

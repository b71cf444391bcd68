"""Metrics: one JSON object a line and step, on disk before the checkpoint that belongs to it; trackers beside it."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from wmtp.errors import CheckpointError, ConfigError
from wmtp.settings import Config


class Tracker(Protocol):
    """Something else that wants to see the metrics."""

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Take the numbers of one step."""

    def close(self) -> None:
        """Write out what is left."""


class MetricsFile:
    """A JSONL file that can be cut back to the instant of a checkpoint. Whole lines only: each is written at once.

    Args:
        path: the file.
        size: bytes to keep of what is there; the rest was written after the checkpoint that is resumed.
        trackers: told of every line.

    Raises:
        CheckpointError: the file cannot be written, or holds less than `size`.
    """

    def __init__(self, path: Path, *, size: int = 0, trackers: Sequence[Tracker] = ()) -> None:
        self.path, self.trackers = path, trackers
        with self._errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            held = path.stat().st_size if path.exists() else 0
            if held < size:
                raise CheckpointError(f"{path}: holds {held} bytes, the checkpoint goes on after {size}")
            self.file = path.open("r+b" if path.exists() else "w+b", buffering=0)
            self.file.truncate(size)
            self.file.seek(size)

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Write one line; a number that is not finite becomes null, since JSON has none."""
        record = {"stage": stage, "step": step} | {name: _json_number(value) for name, value in metrics.items()}
        self._write((json.dumps(record, allow_nan=False) + "\n").encode())
        for tracker in self.trackers:
            tracker.log(stage, step, metrics)

    def sync(self) -> int:
        """Make everything durable.

        Returns:
            The file's size in bytes, for the checkpoint.
        """
        with self._errors():
            os.fsync(self.file.fileno())
        return self.file.tell()

    def close(self) -> None:
        """Close the trackers and the file."""
        with ExitStack() as stack, self._errors():
            stack.callback(self.file.close)
            for tracker in self.trackers:
                stack.callback(tracker.close)

    def _write(self, line: bytes) -> None:
        """Write a line whole, or take back what of it was written."""
        start = self.file.tell()
        with self._errors():
            try:
                if self.file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                self.file.truncate(start)
                self.file.seek(start)
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CheckpointError(f"{self.path}: could not be written: {error.strerror or error}") from None


class NoMetrics:
    """Stands in on a process that leaves the metrics to the leading one."""

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Nothing."""

    def sync(self) -> int:
        """Nothing was written."""
        return 0

    def close(self) -> None:
        """Nothing."""


class TensorBoardTracker:
    """Scalars as TensorBoard event files in the run's folder."""

    def __init__(self, folder: Path) -> None:
        try:
            self.writer = summary_writer()(str(folder))
        except OSError as error:
            raise CheckpointError(f"{folder}: could not be written: {error.strerror or error}") from None

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """One scalar a number, named `stage/metric`."""
        for name, value in _numbers(metrics).items():
            self.writer.add_scalar(f"{stage}/{name}", value, step)

    def close(self) -> None:
        """Flush and close the event file."""
        self.writer.close()


class MlflowTracker:
    """Metrics of one MLflow run."""

    def __init__(self, uri: str, run_name: str) -> None:
        try:
            import mlflow
        except ImportError as error:
            raise ConfigError(f"tracking.mlflow: needs pip install 'gradgate[tracking]' ({error})") from None
        self.mlflow, self.uri = mlflow, uri
        with self._errors():
            mlflow.set_tracking_uri(uri)
            self.run = mlflow.start_run(run_name=run_name)

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """One metric a number, named `stage.metric`."""
        numbers = {f"{stage}.{name}": value for name, value in _numbers(metrics).items()}
        with self._errors():
            self.mlflow.log_metrics(numbers, step=step)

    def close(self) -> None:
        """End the run."""
        with self._errors():
            self.mlflow.end_run()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # mlflow raises its own, its stores' and its HTTP client's errors
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ConfigError(f"tracking.mlflow: {self.uri!r} takes no metrics: {reason}") from None


def trackers(config: Config, folder: Path, run_name: str) -> list[Tracker]:
    """The trackers that the config asks for.

    Raises:
        ConfigError: names the key; the extra is missing, or the server takes no run.
    """
    wanted: list[Tracker] = []
    if config.tracking.tensorboard:
        summary_writer()  # where it is missing, say so before a run is opened elsewhere
    if config.tracking.mlflow is not None:
        wanted.append(MlflowTracker(config.tracking.mlflow, run_name))
    if config.tracking.tensorboard:
        wanted.append(TensorBoardTracker(folder / "tensorboard"))
    return wanted


def summary_writer() -> Any:
    """TensorBoard's writer class."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError(f"tracking.tensorboard: needs pip install 'gradgate[tracking]' ({error})") from None
    return SummaryWriter


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if value is not None}


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value

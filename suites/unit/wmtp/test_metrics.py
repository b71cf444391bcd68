"""Metrics: whole lines of strict JSON, cut back to a checkpoint, and trackers that see the same numbers."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fixtures.damaged_files import file_limit
from fixtures.small_runs import settings
from wmtp.errors import CheckpointError, ConfigError
from wmtp.metrics import MetricsFile, MlflowTracker, TensorBoardTracker, Tracker, trackers


class Seen(Tracker):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def log(self, stage: str, step: int, metrics: Any) -> None:
        self.events.append((stage, step, dict(metrics)))

    def close(self) -> None:
        self.events.append("closed")


class FakeMlflow(ModuleType):
    """Just enough of mlflow."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__("mlflow")
        self.broken, self.events = broken, []

    def set_tracking_uri(self, uri: str) -> None:
        self.events.append(uri)

    def start_run(self, *, run_name: str) -> None:
        self.events.append(run_name)

    def log_metrics(self, numbers: dict[str, float], step: int) -> None:
        if self.broken:
            raise RuntimeError("no server\nat all")
        self.events.append((step, numbers))

    def end_run(self) -> None:
        self.events.append("end")


def test_line_is_strict_json_and_on_disk_at_once(tmp_path: Path) -> None:
    """One object a step; what is not finite is null; readers see a line as soon as it is written."""
    file = MetricsFile(tmp_path / "new" / "metrics.jsonl")
    file.log("stage2", 3, {"loss": 1.5, "grad_norm": math.inf, "value_loss": None, "tokens": 7})
    line = (tmp_path / "new" / "metrics.jsonl").read_text()
    assert line == '{"stage": "stage2", "step": 3, "loss": 1.5, "grad_norm": null, "value_loss": null, "tokens": 7}\n'
    assert file.sync() == len(line)
    file.close()


def test_file_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    """What came after it is written again, not twice."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("first\nsecond\n")
    file = MetricsFile(path, size=6)
    file.log("s", 1, {})
    file.close()
    assert path.read_text() == 'first\n{"stage": "s", "step": 1}\n'


@pytest.mark.parametrize("held", [None, "short"])
def test_file_is_refused_when_it_holds_less_than_the_checkpoint_says(held: str | None, tmp_path: Path) -> None:
    """It is never filled up with zeros."""
    path = tmp_path / "metrics.jsonl"
    if held is not None:
        path.write_text(held)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: holds \d bytes, the checkpoint goes on after 100$"):
        MetricsFile(path, size=100)
    assert (path.read_text() if path.exists() else None) == held


def test_file_is_refused_when_its_folder_cannot_be(tmp_path: Path) -> None:
    """The message names the file."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: could not be written: "):
        MetricsFile(tmp_path / "file" / "metrics.jsonl")


def test_line_is_taken_back_when_the_disk_is_full(tmp_path: Path) -> None:
    """An error, and only whole lines in the file."""
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.log("s", 1, {})
    whole = file.path.read_bytes()
    with file_limit(len(whole) + 5), pytest.raises(CheckpointError, match=r"metrics.jsonl: could not be written: "):
        file.log("s", 2, {"loss": 1.0})
    assert file.path.read_bytes() == whole
    file.close()


def test_sync_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint is not written behind metrics that may be lost."""
    file = MetricsFile(tmp_path / "metrics.jsonl")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"metrics.jsonl: could not be written: No space left on device$"):
        file.sync()
    file.close()


def test_trackers_see_every_line_and_are_closed(tmp_path: Path) -> None:
    """The numbers as they are, NaN included."""
    seen = Seen()
    file = MetricsFile(tmp_path / "metrics.jsonl", trackers=[seen])
    file.log("s", 1, {"loss": 2.0})
    file.close()
    assert seen.events == [("s", 1, {"loss": 2.0}), "closed"]


def test_tensorboard_gets_one_scalar_a_number(tmp_path: Path) -> None:
    """Named stage/metric, at its step; null is left out."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = TensorBoardTracker(tmp_path)
    tracker.log("stage2", 3, {"loss": 1.5, "value_loss": None, "tokens": 7})
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in events.Tags()["scalars"]}
    assert found == {"stage2/loss": [(3, 1.5)], "stage2/tokens": [(3, 7.0)]}


def test_tensorboard_is_refused_when_its_folder_cannot_be(tmp_path: Path) -> None:
    """The message names the folder."""
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file/tensorboard: could not be written: "):
        TensorBoardTracker(tmp_path / "file" / "tensorboard")


def test_mlflow_gets_one_metric_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """One run with the recipe's name, ended at the end."""
    fake = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    tracker = MlflowTracker("sqlite:///x.db", "mine")
    tracker.log("stage2", 3, {"loss": 1.5, "value_loss": None})
    tracker.close()
    assert fake.events == ["sqlite:///x.db", "mine", (3, {"stage2.loss": 1.5}), "end"]


def test_mlflow_says_why_when_its_server_takes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with the first of its own."""
    monkeypatch.setitem(sys.modules, "mlflow", FakeMlflow(broken=True))
    tracker = MlflowTracker("sqlite:///x.db", "mine")
    with pytest.raises(ConfigError, match=r"^tracking.mlflow: 'sqlite:///x.db' takes no metrics: no server$"):
        tracker.log("stage2", 3, {"loss": 1.5})


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_runs_in_a_local_database(tmp_path: Path) -> None:
    """The real one, with sqlite as `tracking.mlflow` names it."""
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("alembic")
    tracker = MlflowTracker(f"sqlite:///{tmp_path}/mlflow.db", "mine")
    tracker.log("stage2", 3, {"loss": 1.5, "value_loss": None})
    run_id = tracker.run.info.run_id
    tracker.close()
    assert mlflow.get_run(run_id).data.metrics == {"stage2.loss": 1.5}


@pytest.mark.parametrize(
    ("override", "module", "key"),
    [
        ("tracking.tensorboard=true", "torch.utils.tensorboard", "tracking.tensorboard"),
        ("tracking.mlflow=http://x", "mlflow", "tracking.mlflow"),
    ],
)
def test_tracker_is_refused_when_its_extra_is_missing(
    override: str, module: str, key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The message names the key and what to install, and nothing has been made."""
    monkeypatch.setitem(sys.modules, module, None)
    config, _ = settings(tmp_path / "run", override)
    with pytest.raises(ConfigError, match=rf"^{key}: needs pip install 'gradgate\[tracking\]' \("):
        trackers(config, tmp_path / "run", "x")
    assert list(tmp_path.iterdir()) == []


def test_trackers_are_those_that_the_config_asks_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None by default, both where both are wanted."""
    pytest.importorskip("tensorboard")
    monkeypatch.setitem(sys.modules, "mlflow", FakeMlflow())
    none, both = (
        trackers(settings(tmp_path, *o)[0], tmp_path, "x")
        for o in ((), ("tracking.tensorboard=true", "tracking.mlflow=a"))
    )
    assert (none, [type(tracker) for tracker in both]) == ([], [MlflowTracker, TensorBoardTracker])
    for tracker in both:
        tracker.close()


def test_line_survives_json(tmp_path: Path) -> None:
    """Every digit of a number comes back."""
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.log("s", 1, {"loss": 0.1 + 0.2})
    file.close()
    assert json.loads(file.path.read_text())["loss"] == 0.1 + 0.2

"""The JSON form is strict, complete and written whole or not at all."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Result, Verdict
from gradgate.report.json import dumps, require_writable, to_json, write_whole
from gradgate.report.model import plain

FINDING = Finding("GG401", "weight-sum", "off by 0.1", culprit=Location("a.py", 3, "f", "x"), detail={"at": (1, 2)})
RESULT = Result("GG401", "weight-sum", "failed", "main", 0.5, (FINDING,), {"e": float("nan")}, {"e": 1e-6}, "", "again")
VERDICT = Verdict("mine", {"python": "3"}, (RESULT, Result("GG402", "weight-outside", "not_built")), not_run=("GG403",))


def test_json_has_the_documented_keys():
    """Outside tools rely on these names."""
    tree = to_json(VERDICT)
    head = ["schema_version", "verdict", "subject", "environment", "interrupted", "not_run", "results", "source"]
    record = ["code", "name", "status", "stage", "seconds", "findings", "measured", "allowed", "reason", "reproduce"]
    record.append("series")
    assert list(tree) == head
    assert [list(each) for each in tree["results"]] == [record, record]
    assert (tree["schema_version"], tree["verdict"], tree["not_run"]) == (1, "failed", ["GG403"])


def test_json_keeps_the_whole_finding():
    """Places become objects, absent ones null."""
    finding = to_json(VERDICT)["results"][0]["findings"][0]
    assert finding["culprit"] == {"file": "a.py", "line": 3, "function": "f", "source": "x"}
    assert (finding["victim"], finding["detail"]) == (None, {"at": [1, 2]})


def test_json_is_strict_and_stable():
    """No NaN token, and the same verdict gives the same bytes."""

    def refuse(token: str) -> None:
        pytest.fail(f"{token} is not JSON")

    text = dumps(VERDICT)
    assert json.loads(text, parse_constant=refuse)["results"][0]["measured"] == {"e": "nan"}
    assert text == dumps(VERDICT)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("inf"), "inf"),
        (-float("inf"), "-inf"),
        (torch.tensor([1.0, float("nan")]), [1.0, "nan"]),
        (np.float32(0.5), 0.5),
        ({1: {3, 2}}, {"1": [2, 3]}),
        (Path("a"), "a"),
        (True, True),
        (Location("a", 1), {"file": "a", "line": 1, "function": "", "source": ""}),
        (torch.float32, "torch.float32"),
    ],
)
def test_plain_turns_what_checks_measure_into_json(value, expected):
    """Tensors, arrays, sets, paths and records all have a form."""
    assert plain(value) == expected


def test_write_makes_the_folder_and_replaces_what_was_there(tmp_path: Path):
    """A second run overwrites the first; nothing else is left in the folder."""
    file = tmp_path / "a" / "b.json"
    write_whole(file, "first")
    write_whole(file, "second")
    assert file.read_text() == "second"
    assert list(file.parent.iterdir()) == [file]


def test_write_gives_the_permissions_of_any_other_file(tmp_path: Path):
    """A report is not the owner's secret."""
    (tmp_path / "plain").write_text("")
    write_whole(tmp_path / "report", "")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "report")}
    assert len(modes) == 1


def test_write_leaves_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A full disk costs the new report, not the old one, and leaves no half file."""

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "b.json"
    write_whole(file, "first")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GradgateError, match=r"cannot write .*b\.json: No space left on device"):
        write_whole(file, "second")
    assert file.read_text() == "first"
    assert list(tmp_path.iterdir()) == [file]


def test_write_goes_straight_into_a_device():
    """A device is written to, never replaced."""
    write_whole(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_require_writable_finds_out_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder, a file in the way and a missing permission are known before the checks run."""
    (tmp_path / "file").write_text("")
    with pytest.raises(GradgateError, match="it is a folder"):
        require_writable(tmp_path)
    with pytest.raises(GradgateError, match=r"cannot write .*file/x"):
        require_writable(tmp_path / "file" / "x")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(GradgateError, match="no permission"):
        require_writable(tmp_path / "new")

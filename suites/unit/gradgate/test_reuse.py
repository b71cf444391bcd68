"""Results that stand in for checks: only while nothing that a check read has changed, and only where that is known."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import gradgate
from gradgate import cli
from gradgate.checks import catalogue, reuse
from gradgate.checks.reuse import Reuse
from gradgate.core import verdict
from gradgate.core.finding import Finding
from gradgate.core.reads import Reads
from gradgate.subjects.contract import Context

PASSED = verdict.Result(
    "GG401", "weight-sum", "passed", None, 2.0, measured={"error": 1e-7}, series={"a": {"b": [(1.0, 2.0)]}}
)
Kept = Callable[..., bool]


@pytest.fixture
def reads(tmp_path: Path) -> Reads:
    """A run that read one file and listed one folder, both older than it is."""
    (tmp_path / "rows").mkdir()
    (tmp_path / "rows" / "a.txt").write_text("1")
    (tmp_path / "rows.json").write_text("[]")
    for path in tmp_path.rglob("*"):
        os.utime(path, (1.0, 1.0))
    return Reads({str(tmp_path / "rows.json")}, {str(tmp_path / "rows")})


@pytest.fixture
def kept(tmp_path: Path, reads: Reads) -> Kept:
    """Keep a result, change something, and say whether it is still known."""

    def run(
        change: Callable[[], object] = lambda: None,
        *,
        code: str = "GG401",
        subject: gradgate.Subject | None = None,
        result: verdict.Result = PASSED,
        context: Context | None = None,
    ) -> bool:
        subject = subject or gradgate.Subject("s", stages=[])
        context = context or Context()
        check = catalogue.load_check(catalogue.rule(code))
        shutil.rmtree(tmp_path / "kept", ignore_errors=True)
        store = Reuse(tmp_path / "kept", reads, "a:b")
        store.keep(subject, check, context, result)
        reuse._digest.cache_clear()
        reuse.environment.cache_clear()
        change()
        return Reuse(tmp_path / "kept", reads, "a:b").known(subject, check, result.stage, context) is not None

    return run


def test_result_stands_while_nothing_has_changed(kept: Kept, tmp_path: Path, reads: Reads) -> None:
    """It is what the check gave, says so, and costs nothing."""
    assert kept()

    check = catalogue.load_check(catalogue.rule("GG401"))
    known = Reuse(tmp_path / "kept", reads, "a:b").known(gradgate.Subject("s", stages=[]), check, None, Context())
    assert known == replace(PASSED, seconds=0.0, reason="as before: nothing that it read has changed")
    assert (
        Reuse(tmp_path / "kept", reads, "c:d").known(gradgate.Subject("s", stages=[]), check, None, Context()) is None
    )


def test_check_runs_again_when_something_that_it_read_has_changed(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file's content, a folder's names, a setting, a package, a damaged or missing entry."""
    entry = tmp_path / "kept"

    assert kept(lambda: os.utime(tmp_path / "rows.json"))  # the same content
    assert not kept(lambda: (tmp_path / "rows.json").write_text("[1]"))
    os.utime(tmp_path / "rows.json", (1.0, 1.0))
    assert not kept(lambda: (tmp_path / "rows.json").unlink())
    assert not kept(lambda: (tmp_path / "rows" / "b.txt").write_text(""))
    assert not kept(lambda: monkeypatch.setenv("OMP_DYNAMIC", "TRUE"))
    assert not kept(lambda: monkeypatch.setattr(reuse, "distributions", list))
    assert not kept(lambda: [file.write_text("{") for file in entry.iterdir()])
    assert not kept(lambda: [file.unlink() for file in entry.iterdir()])


@pytest.mark.parametrize(
    "what",
    [
        {"result": replace(PASSED, status="failed")},
        {"result": replace(PASSED, status="inconclusive")},
        {"result": replace(PASSED, findings=(Finding("GG401", "weight-sum", "m", severity="note"),))},
        {"code": "GG703"},
        {"code": "GG802"},
        {"context": Context(device="cuda")},
    ],
)
def test_result_is_not_kept_where_it_may_differ_the_next_time(kept: Kept, what: dict[str, object]) -> None:
    """What failed, is undecided, has something to say, or measures time and memory."""
    assert not kept(**what)


def test_result_is_not_kept_when_other_processes_or_the_network_had_a_part(kept: Kept, reads: Reads) -> None:
    """Unless the adapter declares that its processes read nothing but its source."""
    hermetic = gradgate.Subject("s", stages=[], hermetic=True)

    reads.hear("subprocess.Popen", ("python", [], None, None))
    assert not kept()
    assert kept(subject=hermetic)
    reads.hear("socket.connect", (None, ("127.0.0.1", 80)))
    assert not kept(subject=hermetic)


def test_result_is_not_kept_when_a_file_changed_during_the_run(kept: Kept, tmp_path: Path) -> None:
    """Nobody knows which of its contents was read."""
    os.utime(tmp_path / "rows.json", (time.time() + 10, time.time() + 10))
    assert not kept()


def test_forking_a_check_is_not_held_against_it(reads: Reads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the process that runs it, what counts begins anew, once."""
    store = Reuse(tmp_path, reads, "a:b")
    reads.hear("os.fork", ())
    monkeypatch.setattr(os, "getpid", lambda: 7)
    store.begin()
    assert reads.outside == set()
    reads.hear("os.fork", ())
    store.begin()
    assert reads.outside == {"os.fork"}


def test_reads_are_files_opened_to_be_read_and_folders_listed() -> None:
    """Not what is written, not numbers of open files, not what an import looks through."""
    reads = Reads()
    reads.hear("open", ("/a/read", "r", os.O_RDONLY))
    reads.hear("open", ("/a/written", "w", os.O_WRONLY))
    reads.hear("open", (7, "r", 0))
    reads.hear("os.listdir", ("/a",))
    reads.hear("os.scandir", (None,))
    reads.hear("import", ("os", None, None, None, None))
    assert (reads.files, reads.folders, reads.outside) == ({"/a/read"}, {"/a", str(Path.cwd())}, set())


TRAINER = """\
import pathlib

import gradgate

SCALE = pathlib.Path(__file__).with_name("scale.txt").read_text()


def value_loss(value_BS, return_BS, valid_BS):
    error_BS = (value_BS - return_BS).masked_fill(~valid_BS, 0.0)
    return float(SCALE) * error_BS.square().sum() / valid_BS.sum().clamp(min=1)


def subject():
    return gradgate.Subject("own", stages=[], functions=gradgate.Functions(value_loss=value_loss))
"""


def test_verify_runs_again_only_what_would_read_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the same: nothing runs; with another number in a file that the trainer reads the fault is found."""
    monkeypatch.setenv("GRADGATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    scale = tmp_path / "scale.txt"
    (tmp_path / "reused_adapter.py").write_text(TRAINER)
    monkeypatch.setattr("gradgate.commands.verify.listen", lambda: Reads({str(scale)}))

    def verify(number: str, *words: str) -> Result:
        scale.write_text(number)
        for path in tmp_path.iterdir():
            os.utime(path, (1.0, 1.0))
        reuse._digest.cache_clear()
        sys.modules.pop("reused_adapter", None)
        target = ("reused_adapter:subject", "--path", str(tmp_path), "--select", "GG404,GG415", "--jobs", "0")
        return CliRunner().invoke(cli.cli, ["verify", *target, *words], prog_name="gradgate")

    assert "GG404" in verify("1", "--reuse").stderr
    second = verify("1", "--reuse", "--json", "out.json")
    assert "[1/" not in second.stderr
    (result,) = [one for one in json.loads(Path("out.json").read_text())["results"] if one["code"] == "GG404"]
    assert (result["status"], result["reason"]) == ("passed", reuse.REASON)
    assert result["reproduce"].startswith("gradgate verify reused_adapter:subject")
    assert "[1/" in verify("1").stderr
    assert verify("2", "--reuse").exit_code == 1
    sys.modules.pop("reused_adapter", None)

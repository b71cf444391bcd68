"""`gradgate compare` at the command line: misuse, revisions, exit codes, and one whole run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fixtures.two_checkouts import checkout, repository
from gradgate.cli import cli
from gradgate.commands import compare as command
from gradgate.compare import session
from gradgate.compare.checkout import PREFIX, checked_out, import_roots
from gradgate.core.comparison import GATE_VERDICTS, Comparison, Metric
from gradgate.core.errors import GradgateError


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["compare", *words], prog_name="gradgate")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In the project's folder of a repository."""
    monkeypatch.setenv("GRADGATE_CACHE", str(tmp_path / "cache"))
    folder = repository(tmp_path / "repository") / "project"
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plain.make", "--base-ref", "v1"], "Error: 'plain.make' is not of the form module:factory"),
        (["plain:make"], "Error: give one of --base DIR and --base-ref REF"),
        (["plain:make", "--base", ".", "--base-ref", "v1"], "Error: give one of --base DIR and --base-ref REF"),
        (["plain:make", "--base", "nowhere"], "Error: Invalid value for '--base': Directory 'nowhere' does not exist."),
        (
            ["plain:make", "--base-ref", "v1", "--tolerance", "3"],
            "Error: Invalid value for '--tolerance': '3' is no share between 0 and 1; write 3% or 0.03",
        ),
        (["plain:make", "--base-ref", "v1", "--budget", "nan"], "Error: --budget nan: expected a number of seconds"),
        (
            ["plain:make", "--base-ref", "v1", "--accept", "leak"],
            "Error: --accept leak: expected METRIC=REASON, the reason not empty",
        ),
    ],
)
def test_compare_exits_with_2_and_one_line_when_misused(here: Path, words: list[str], message: str):
    """Each mistake of use names what was given and what is valid."""
    done = run(*words)
    assert (done.exit_code, done.stderr.splitlines()[-1]) == (2, message)


def test_compare_names_the_nearest_revision_and_metric(here: Path):
    """A typing mistake is met with what was meant."""
    assert "no such revision" in run("plain:make", "--base-ref", "main1").stderr
    assert run("plain:make", "--base-ref", "main1").stderr.endswith("; did you mean 'main'?\n")
    assert "did you mean 'saved_bytes'?" in run("plain:make", "--base-ref", "v1", "--accept", "saved_byte=x").stderr


def test_compare_refuses_a_json_file_that_it_cannot_write(here: Path):
    """Found out before anything runs."""
    done = run("plain:make", "--base-ref", "v1", "--json", "/proc/no/file")
    assert (done.exit_code, done.stderr) == (2, "Error: cannot write /proc/no/file: No such file or directory\n")


@pytest.mark.parametrize(("text", "share"), [("3%", 0.03), ("0.05", 0.05)])
def test_a_tolerance_is_a_share_or_percent(text: str, share: float):
    """Both spellings."""
    assert command.Share().convert(text, None, None) == pytest.approx(share)


@pytest.mark.parametrize("verdict", GATE_VERDICTS)
def test_compare_exits_with_the_code_of_its_verdict(here: Path, monkeypatch: pytest.MonkeyPatch, verdict: str):
    """0 pass, changed, improved; 1 fail; 3 noisy, incomparable; and the JSON says the same."""
    asked = []

    def compared(question, on_progress):
        asked.append(question)
        return Comparison("plain:make", "b", "h", (Metric("leak", verdict),))

    monkeypatch.setattr(session, "compare", compared)
    (here / "pyproject.toml").write_text('[tool.gradgate.accept]\nleak = "on purpose"\n')
    done = run("plain:make", "--base-ref", "v1", "--json", "out.json")
    codes = {"fail": 1, "incomparable": 3, "noisy": 3, "improved": 0, "changed": 0, "pass": 0}
    assert done.exit_code == codes[verdict]
    assert json.loads(Path("out.json").read_text())["verdict"] == verdict
    assert asked[0].accept == {"leak": "on purpose"}
    assert asked[0].base_text.startswith("v1 (")


def test_a_dirty_head_is_said(here: Path, monkeypatch: pytest.MonkeyPatch):
    """The working tree is what is judged; which files are not committed stands in the notes."""
    monkeypatch.setattr(session, "compare", lambda question, _: Comparison("t", "b", "h", notes=question.notes))
    checkout(here, ops=1)
    assert "uncommitted changes: project/plain.py" in run("plain:make", "--base-ref", "v1").stdout


def test_a_revision_is_checked_out_without_a_trace_in_the_repository(here: Path):
    """The same folder of that revision; no worktree, no changed index, no folder afterwards."""
    checkout(here, ops=1)
    before = subprocess.check_output(["git", "status", "--porcelain"], text=True)
    with checked_out("v1", here) as revision:
        assert "OPS, LEAK, SLEEP = 0" in (revision.folder / "plain.py").read_text()
        assert revision.folder.name == "project"
        assert len(subprocess.check_output(["git", "worktree", "list"], text=True).splitlines()) == 1
    assert not revision.folder.exists()
    assert subprocess.check_output(["git", "status", "--porcelain"], text=True) == before


def test_a_checkout_is_removed_when_the_block_raises(here: Path):
    """Ctrl-C in the middle."""
    with pytest.raises(KeyboardInterrupt), checked_out("v1", here) as revision:
        raise KeyboardInterrupt
    assert not revision.folder.parent.exists()


def test_a_checkout_whose_process_was_killed_is_removed_by_the_next(here: Path):
    """Nobody can catch a kill; the folder of a living process stays."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    orphan, alive, other = (
        Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-")) for name in (dead.pid, os.getpid(), "notapid")
    )
    with checked_out("v1", here):
        found = [folder.exists() for folder in (orphan, alive, other)]
    alive.rmdir()
    other.rmdir()
    assert found == [False, True, True]


def test_a_folder_outside_any_repository_has_no_revisions(tmp_path: Path):
    """--base DIR is what is left."""
    with pytest.raises(GradgateError, match="is in no git repository"), checked_out("v1", tmp_path):
        pass


def test_a_repository_that_git_refuses_is_not_called_missing(here: Path, monkeypatch: pytest.MonkeyPatch):
    """Somebody else's, in a container for one: git says why, and so do we."""
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(GradgateError, match="detected dubious ownership in repository"), checked_out("v1", here):
        pass


def test_a_folder_that_the_revision_lacks_is_named(here: Path):
    """The project may be younger than the revision."""
    (here.parent / "young").mkdir()
    with pytest.raises(GradgateError, match="there is no folder young"), checked_out("v1", here.parent / "young"):
        pass


def test_missing_git_is_said(here: Path, monkeypatch: pytest.MonkeyPatch):
    """Only revisions need it."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(GradgateError, match="needs git, which is not installed"), checked_out("v1", here):
        pass


def test_import_roots_mirror_what_the_path_names_inside_either_checkout(tmp_path: Path, monkeypatch):
    """`harness/` on the path of head counts on base too, and `src` and named folders where they are."""
    for name in ("base/harness", "base/src", "base/lib", "head/harness"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "head" / "harness"))
    base, head = tmp_path / "base", tmp_path / "head"
    assert import_roots(base, head, ["lib"]) == [base, base / "lib", base / "src", base / "harness"]
    assert import_roots(head, base) == [head, head / "harness"]


@pytest.mark.nightly
def test_a_whole_run_against_a_revision(here: Path, monkeypatch: pytest.MonkeyPatch):
    """One operation and a leak of 64 bytes more, found by a real worker, with the line, exit code 1."""
    checkout(here, ops=1, leak=64)
    done = run("plain:make", "--base-ref", "v1", "--json", "out.json", "--budget", "1")
    tree = json.loads(Path("out.json").read_text())
    verdicts = {metric["metric"]: metric["verdict"] for metric in tree["metrics"]}
    assert (done.exit_code, verdicts["op_count"], verdicts["leak"]) == (1, "fail", "fail")
    assert "where: plain.py:19 in step()      leaked.append(" in done.stdout
    assert "loading base" in done.stderr
    assert not list(Path(tempfile.gettempdir()).glob(f"{PREFIX}{os.getpid()}-*"))

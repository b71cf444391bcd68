"""`gradgate baseline` at the command line: recording, checking, showing, and every mistake of use."""

from __future__ import annotations

import json
import re
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fixtures import memory_faults
from fixtures.two_checkouts import commit
from gradgate.cli import cli
from gradgate.commands import baseline as command
from gradgate.gates import history
from gradgate.gates.baselines import SCHEMA_VERSION
from gradgate.gates.machine import this_machine
from gradgate.subjects.contract import Fit, Subject

TARGET = "fixtures.memory_faults:lean"


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["baseline", *words], prog_name="gradgate")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a clean checkout of a project, its cache beside it."""
    monkeypatch.setenv("GRADGATE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text("[tool.gradgate]\nbaselines = 'stored'\n")
    (folder / "a file.py").write_text("")
    commit(folder)
    monkeypatch.chdir(folder)
    return folder


def stored(folder: Path) -> list[Path]:
    return sorted((folder / "stored").glob("*.json"))


@pytest.mark.nightly
def test_baseline_update_then_check_passes(here: Path):
    """What was recorded is what is counted, and a second record is no dirty tree."""
    made = run("update", TARGET, "--reason", "first record")
    assert (made.exit_code, made.stdout.splitlines()[-1]) == (0, f"written: {stored(here)[0]}")
    assert "  new" in made.stdout

    checked = run("check", TARGET)
    assert checked.exit_code == 0
    assert re.search(r"GG702  counters-grew +train  passed", checked.stdout)

    (entry,) = json.loads(stored(here)[0].read_text())["entries"].values()
    assert (entry["reason"], len(entry["commit"]), len(entry["rounds"]) >= 20) == ("first record", 40, True)
    assert run("update", TARGET, "--reason", "again").exit_code == 0


def test_baseline_check_fails_and_update_shows_the_difference(here: Path, monkeypatch: pytest.MonkeyPatch):
    """A growth is exit code 1 until it is recorded, and recording says what changed."""
    run("update", TARGET, "--reason", "first")
    before = stored(here)[0].read_text()
    monkeypatch.setattr(memory_faults, "keeps_nothing", memory_faults.works_more)

    failed = run("check", TARGET)
    assert failed.exit_code == 1
    assert "GG702 counters-grew: `op_count` grew from" in failed.stdout

    tried = run("update", TARGET, "--reason", "more work", "--dry-run")
    assert "  op_count: " in tried.stdout
    assert tried.stdout.splitlines()[-1] == f"would be written: {stored(here)[0]}"
    assert stored(here)[0].read_text() == before


def test_baseline_show_lists_entries_and_history(here: Path):
    """Commit, reason and numbers of each entry, and the last checks of this machine."""
    assert "no stored baselines in" in run("show").stdout
    run("update", TARGET, "--reason", "first")
    run("check", TARGET)

    shown = run("show", "--history")

    assert shown.exit_code == 0
    assert ": this class\nlean/train  " in shown.stdout
    assert ": first\n  op_signature " in shown.stdout
    last, changes = shown.stdout.splitlines()[-2:]
    assert re.fullmatch(r"  20\d\d-\S+Z  lean  train [\d.]+ ms", last)
    assert changes == "0 changes in 1 entries"


def test_baseline_check_remembers_where_nothing_is_stored(here: Path):
    """The history grows by what was measured and its commit, and a change is told; nothing is there to be held to."""
    with command._one_thread():
        machine = this_machine().name
    history.remember(machine, "lean", {"train/op_count": 1}, "0" * 40)

    checked = run("check", TARGET)

    assert checked.exit_code == 2
    assert re.search(r"change: lean train/op_count: 1 -> \d+ \(\+", checked.stdout)
    entry = history.recall(machine)[-1]
    assert (entry["subject"], len(entry["commit"])) == ("lean", 40)
    assert entry["numbers"]["train/op_count"] > 1 and entry["numbers"]["train/step_ms"] > 0


def test_baseline_show_writes_history_and_changes(here: Path):
    """As text, and as JSON for the report."""
    with command._one_thread():
        machine = this_machine().name
    for count in (7, 7, 8):
        history.remember(machine, "lean", {"train/op_count": count})

    shown = run("show", "--history", "--json", str(here / "history.json"))

    assert (shown.exit_code, "change: lean train/op_count: 7 -> 8 (+14.3%)" in shown.stdout) == (0, True)
    tree = json.loads((here / "history.json").read_text())
    assert (tree["machine"], len(tree["history"]), tree["not_looked_for"]) == (machine, 3, "")
    assert [(one["number"], one["before"], one["after"]) for one in tree["changes"]] == [("train/op_count", 7, 8)]


def test_baseline_show_says_why_changes_were_not_looked_for(here: Path, monkeypatch: pytest.MonkeyPatch):
    """Without ruptures, the history is still shown."""
    with command._one_thread():
        machine = this_machine().name
    for at in range(20):
        history.remember(machine, "lean", {"train/step_ms": 1.0 + at % 3})
    monkeypatch.setitem(sys.modules, "ruptures", None)

    shown = run("show", "--history")

    assert (shown.exit_code, "pip install 'gradgate[trend]'" in shown.stdout.splitlines()[-1]) == (0, True)


@pytest.mark.nightly
def test_baseline_stores_trajectories_of_whole_fits(here: Path, monkeypatch: pytest.MonkeyPatch):
    """They are recorded, shown and checked in the room of the counters, and what moves is told."""
    rate = [0.5]
    lean = memory_faults.lean

    def fits(seed: int, *, device: str) -> Fit:
        return Fit((1.0 + 0.01 * seed, rate[0] + 0.01 * seed))

    def fitting() -> Subject:
        subject = lean()
        return replace(subject, stages=[replace(stage, fit=fits) for stage in subject.stages])

    monkeypatch.setattr(memory_faults, "lean", fitting)
    assert "measuring train: 8 whole fits" in run("update", TARGET, "--reason", "first").stderr
    assert "  heldout_loss 1.035 to 0.535, 8 seeds" in run("show").stdout
    assert re.search(r"GG903  trajectory +train  passed", run("check", TARGET).stdout)

    rate[0] = 0.9
    failed = run("check", TARGET)

    assert failed.exit_code == 1
    assert "GG903 trajectory: `heldout_loss` leaves the stored trajectory: " in failed.stdout
    assert "  heldout_loss: 1.035 to 0.535 -> 1.035 to 0.935" in run("update", TARGET, "--reason", "x").stdout


def test_baseline_show_names_what_is_unusable(here: Path):
    """One line a file, exit code 1."""
    run("update", TARGET, "--reason", "first")
    stored(here)[0].write_text("{")

    shown = run("show")

    assert (shown.exit_code, "truncated, or no JSON" in shown.stdout) == (1, True)


@pytest.mark.nightly
def test_baseline_update_replaces_a_damaged_file_aloud(here: Path):
    """It is the cure that the error names."""
    run("update", TARGET, "--reason", "first")
    stored(here)[0].write_text("{")

    made = run("update", TARGET, "--reason", "was cut off")

    assert made.exit_code == 0
    assert "replaced whole, other entries too: " in made.stderr
    assert run("check", TARGET).exit_code == 0


@pytest.mark.nightly
def test_baseline_update_leaves_a_newer_file_alone(here: Path):
    """What a newer gradgate wrote is not for an older one to replace."""
    run("update", TARGET, "--reason", "first")
    newer = json.dumps({"schema_version": SCHEMA_VERSION + 1})
    stored(here)[0].write_text(newer)

    made = run("update", TARGET, "--reason", "second")

    assert (made.exit_code, f"of schema {SCHEMA_VERSION + 1}, this gradgate knows {SCHEMA_VERSION}" in made.stderr) == (
        2,
        True,
    )
    assert stored(here)[0].read_text() == newer


@pytest.mark.parametrize("name", ["a file.py", "new.py"])
def test_baseline_update_wants_a_clean_tree(here: Path, name: str):
    """Changed or new: numbers without a commit are not recorded."""
    (here / name).write_text("x = 1\n")

    made = run("update", TARGET, "--reason", "first")

    assert made.exit_code == 2
    assert made.stderr.splitlines() == [
        f"Error: the working tree is not clean: {name}; commit or stash it, so that numbers have a commit"
    ]
    assert not (here / "stored").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["update", TARGET], "Error: Missing option '--reason'."),
        (["update", TARGET, "--reason", " "], "Error: --reason: expected why the numbers change, got an empty text"),
        (
            ["check", TARGET],
            "Error: no baseline of lean/train in {stored}; record one: gradgate baseline update --reason TEXT",
        ),
        (["update", "fixtures.memory_faults:laen", "--reason", "x"], "did you mean 'lean'?"),
        (
            ["check", TARGET, "--device", "abacus"],
            "Error: --device 'abacus' is no device; expected cpu, cuda or cuda:N",
        ),
        (["updat"], "Error: No such command 'updat'"),
    ],
)
def test_baseline_names_a_mistake_of_use(here: Path, words: list[str], message: str):
    """One clear line and exit code 2."""
    done = run(*words)

    assert done.exit_code == 2
    assert message.format(stored=here / "stored") in done.stderr.splitlines()[-1]


def test_baseline_update_names_a_stage_that_raises(here: Path, monkeypatch: pytest.MonkeyPatch):
    """A step that raises cannot be measured."""

    def breaks(run: object, hidden: object) -> None:
        raise ValueError("no more")

    monkeypatch.setattr(memory_faults, "keeps_nothing", breaks)

    made = run("update", TARGET, "--reason", "first")

    assert (made.exit_code, made.stderr.splitlines()[-1]) == (
        2,
        "Error: stage train of lean cannot be measured: a step raised ValueError: no more",
    )


def test_baseline_update_names_a_folder_without_permission(here: Path, monkeypatch: pytest.MonkeyPatch):
    """Found out before anything is measured."""
    monkeypatch.setattr("os.access", lambda *_: False)

    made = run("update", TARGET, "--reason", "first")

    assert (made.exit_code, "no permission" in made.stderr, "measuring" in made.stderr) == (2, True, False)


def test_baseline_update_wants_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Numbers belong to a commit; a file belongs beside a pyproject.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "no pyproject.toml here or above" in run("update", TARGET, "--reason", "x").stderr
    (tmp_path / "pyproject.toml").write_text("")
    assert "is in no git repository" in run("update", TARGET, "--reason", "x").stderr


def test_two_updates_at_once_keep_both_entries(here: Path):
    """The second merges into what the first has written."""
    run("update", TARGET, "--reason", "first")
    (file,) = stored(here)
    baseline = command._stored(file)
    assert baseline is not None
    (entry,) = baseline.entries.values()
    at_once = partial(command._store, file, baseline.machine, dry_run=False)
    threads = [threading.Thread(target=at_once, args=({f"lean/{n}": entry},)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    merged = command._stored(file)
    assert merged is not None
    assert sorted(merged.entries) == [*(f"lean/{n}" for n in range(8)), "lean/train"]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_history_passes_over_what_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A killed run costs its own line alone; a folder that cannot be written is said."""
    monkeypatch.setenv("GRADGATE_CACHE", str(tmp_path))
    assert history.recall("box") == []
    assert history.remember("box", "lean", {"train/op_count": 3}) == ""
    with (tmp_path / "history" / "box.jsonl").open("a") as log:
        log.write('{"time": "2026\n[]\n')
    history.remember("box", "lean", {"train/op_count": 4})

    assert [entry["numbers"]["train/op_count"] for entry in history.recall("box")] == [3, 4]
    monkeypatch.setenv("GRADGATE_CACHE", str(tmp_path / "history" / "box.jsonl"))
    assert "cannot be written" in history.remember("box", "lean", {})

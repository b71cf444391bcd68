"""Stored baselines: the file, what makes it unusable, and the checks that stand on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import memory_faults
from fixtures.memory_faults import HEAVIER, LeanRun, keeps_nothing, works_more
from gradgate.checks import catalogue, stored
from gradgate.checks import gg704_slower_than_baseline as gg704
from gradgate.checks.isolation import isolated
from gradgate.core.verdict import Outcome
from gradgate.gates.baselines import (
    SCHEMA_VERSION,
    Baseline,
    BaselineError,
    Entry,
    NewerError,
    file_of,
    find,
    key_of,
    read,
    read_all,
)
from gradgate.gates.machine import Machine, _processor, this_machine
from gradgate.subjects.contract import Context, Subject

CODES = ("GG702", "GG801", "GG803")


def machine() -> Machine:
    with isolated(0):
        return this_machine()


def entry_of(subject: Subject, seconds: float = 1.0) -> Entry:
    counts = stored.counted(subject, subject.stages[0], "cpu")
    return Entry(counts, (seconds,), "0" * 40, "2026-01-01T00:00:00Z", "first")


def record(folder: Path, subject: Subject, where: Machine | None = None, seconds: float = 1.0) -> Path:
    """A baseline of a subject, as `gradgate baseline update` leaves it."""
    where = where or machine()
    folder.mkdir(exist_ok=True)
    file = file_of(folder, where)
    file.write_text(Baseline(where, {key_of("lean", "train"): entry_of(subject, seconds)}).dumps())
    return file


def run_check(code: str, subject: Subject, folder: Path | None) -> Outcome:
    check = catalogue.load_check(catalogue.rule(code))
    stage = subject.stages[0] if check.per_stage else None
    return check.function(subject, stage, Context(baselines=folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the baseline of the clean subject."""
    made = tmp_path_factory.mktemp("baselines")
    record(made, memory_faults.subject(keeps_nothing))
    return made


@pytest.mark.parametrize("after", HEAVIER)
def test_counter_check_names_what_grew_and_the_line(folder: Path, after: Callable[..., Any]) -> None:
    """One operation, 64 saved bytes or 64 allocated bytes more are an error at their line."""
    code, told, source = HEAVIER[after]

    findings = [one for one in run_check(code, memory_faults.subject(after), folder).findings if told in one.message]

    assert [(one.severity, one.culprit.source if one.culprit else "") for one in findings] == [("error", source)]
    assert Path(findings[0].culprit.file).name == "memory_faults.py"  # type: ignore[union-attr]


@pytest.mark.parametrize("code", [*CODES, "GG002"])
def test_stored_check_passes_on_the_twin(folder: Path, code: str) -> None:
    """The same step counts the same, bit for bit."""
    outcome = run_check(code, memory_faults.subject(keeps_nothing), folder)

    assert (outcome.findings, outcome.inconclusive, outcome.not_applicable) == ((), "", "")
    assert outcome.measured


@pytest.mark.parametrize("code", CODES)
def test_counter_check_calls_less_improved(tmp_path: Path, code: str) -> None:
    """Fewer is worth a note that says how to record it, and never fails."""
    record(tmp_path, memory_faults.subject(next(after for after, row in HEAVIER.items() if row[0] == code)))

    findings = run_check(code, memory_faults.subject(keeps_nothing), tmp_path).findings

    assert {one.severity for one in findings} == {"note"}
    assert any("fell from" in one.message and "improved, re-record it" in one.message for one in findings)


def test_counters_notes_other_operations_of_the_same_number(tmp_path: Path) -> None:
    """Another sequence is a note: the single operations are not stored."""

    def other(run: LeanRun, hidden: Tensor) -> None:
        hidden.amax()

    record(tmp_path, memory_faults.subject(keeps_nothing))
    (note,) = run_check("GG702", memory_faults.subject(other), tmp_path).findings

    assert (note.severity, note.culprit) == ("note", None)
    assert "gradgate compare names the first that differs" in note.message


def test_counter_check_is_inconclusive_when_batches_differ(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More rows cost more bytes, which says nothing of the code."""
    monkeypatch.setattr(LeanRun, "rows", 5)

    outcome = run_check("GG803", memory_faults.subject(keeps_nothing), folder)

    assert (outcome.findings, "the batches differ" in outcome.inconclusive) == ((), True)


@pytest.mark.parametrize(("stored_s", "severity"), [(1e-9, "warning"), (10.0, None)])
def test_slower_than_baseline_warns(tmp_path: Path, stored_s: float, severity: str | None) -> None:
    """A step that takes more than 1.25 times the stored minimum, as one nanosecond lets it, is a warning."""
    subject = memory_faults.subject(keeps_nothing)
    record(tmp_path, subject, seconds=stored_s)

    outcome = run_check("GG704", subject, tmp_path)

    assert [one.severity for one in outcome.findings] == ([severity] if severity else [])
    assert outcome.allowed == {"cpu_time_ratio": gg704.MOST}


def test_other_class_of_machine_is_refused_aloud_but_counts(tmp_path: Path) -> None:
    """Times depend on the kernel, counters do not."""
    here = machine()
    record(tmp_path, memory_faults.subject(keeps_nothing), Machine({**here.facts, "kernel": "Linux 1.0"}))

    assert run_check("GG702", memory_faults.subject(works_more), tmp_path).findings
    refused = run_check("GG704", memory_faults.subject(keeps_nothing), tmp_path).not_applicable
    assert f"is of another class of machine (kernel: Linux 1.0 there, {here.facts['kernel']} here)" in refused
    assert "times are refused, counters taken from" in refused


def test_other_torch_is_refused_whole(tmp_path: Path) -> None:
    """Another build may run other operations."""
    record(tmp_path, memory_faults.subject(keeps_nothing), Machine({**machine().facts, "torch": "1.0"}))

    outcome = run_check("GG702", memory_faults.subject(works_more), tmp_path)

    assert f"torch: 1.0 there, {torch.__version__} here): refused; record one here" in outcome.not_applicable


def test_classes_lie_side_by_side(tmp_path: Path) -> None:
    """The file of this class is taken, whatever others say."""
    here = machine()
    record(tmp_path, memory_faults.subject(works_more), Machine({**here.facts, "cpu": "another"}))
    record(tmp_path, memory_faults.subject(keeps_nothing), here)

    assert len(read_all(tmp_path)) == 2
    assert run_check("GG702", memory_faults.subject(keeps_nothing), tmp_path).findings == ()


@pytest.mark.parametrize(
    ("baselines", "told"),
    [(None, "there is no pyproject.toml"), (Path("nowhere"), "no baseline of lean/train in nowhere; record one:")],
)
def test_counter_check_does_not_apply_without_a_baseline(baselines: Path | None, told: str) -> None:
    """It says what is missing."""
    assert told in run_check("GG801", memory_faults.subject(keeps_nothing), baselines).not_applicable


def test_counter_check_does_not_apply_to_a_stage_that_was_not_recorded(folder: Path) -> None:
    """A new stage is no stage that passed."""
    found = find(folder, machine(), "lean/second")

    assert (found.entry, found.timed) == (None, False)
    assert "has no entry lean/second" in found.refused


def damaged(text: str, how: str) -> str:
    tree = json.loads(text)
    del tree["digest"]
    if how == "newer":
        return json.dumps({**tree, "schema_version": SCHEMA_VERSION + 1})
    if how == "edited":
        return text.replace('"op_count": ', '"op_count": 1', 1)
    if how == "truncated":
        return text[: len(text) // 2]
    if how == "conflict":
        return text.replace(' "entries"', '<<<<<<< HEAD\n=======\n>>>>>>> topic\n "entries"', 1)
    return "[]"


WRONG = {
    "newer": f"of schema {SCHEMA_VERSION + 1}, this gradgate knows {SCHEMA_VERSION}: upgrade gradgate",
    "edited": "was changed after it was recorded (its digest differs)",
    "truncated": "truncated, or no JSON",
    "conflict": "holds merge conflict markers; take one side whole",
    "foreign": "no baseline of gradgate: it has no `schema_version`",
}


@pytest.mark.parametrize("how", WRONG)
def test_unusable_baseline_is_one_clear_error(tmp_path: Path, how: str) -> None:
    """GG002 fails with the file and what is wrong with it; the checks on it are inconclusive."""
    subject = memory_faults.subject(keeps_nothing)
    file = record(tmp_path, subject)
    file.write_text(damaged(file.read_text(), how))

    (finding,) = run_check("GG002", subject, tmp_path).findings

    assert finding.message.startswith(f"{file}: ")
    assert WRONG[how] in finding.message
    assert run_check("GG702", subject, tmp_path).inconclusive == f"{finding.message}; see GG002"


def test_incomplete_baseline_is_named(tmp_path: Path) -> None:
    """A digest that fits does not make an entry whole."""
    file = file_of(tmp_path, machine())
    text = Baseline(machine(), {"a/b": replace(entry_of(memory_faults.subject(keeps_nothing)), reason="x")}).dumps()
    tree = json.loads(text)
    del tree["digest"], tree["entries"]["a/b"]["rounds"]
    from gradgate.gates import baselines

    file.write_text(json.dumps({**tree, "digest": baselines._digest(tree)}))

    with pytest.raises(BaselineError, match="incomplete"):
        read(file)


def test_baseline_of_the_first_schema_is_read(tmp_path: Path) -> None:
    """It has no trajectories yet, and everything else."""
    from gradgate.gates import baselines

    file = record(tmp_path, memory_faults.subject(keeps_nothing))
    tree = {**json.loads(file.read_text()), "schema_version": 1}
    del tree["digest"], tree["entries"]["lean/train"]["trajectories"]
    file.write_text(json.dumps({**tree, "digest": baselines._digest(tree)}))

    assert read(file).entries["lean/train"].trajectories == {}


def test_baseline_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A folder in its place, or no text."""
    (tmp_path / "a.json").mkdir()
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")

    assert all("the baseline cannot be read" in str(error) for error in read_all(tmp_path).values())
    assert issubclass(NewerError, BaselineError)


def test_gg002_does_not_apply_without_files(tmp_path: Path) -> None:
    """An empty folder holds nothing to read."""
    subject = memory_faults.subject(keeps_nothing)

    assert str(tmp_path) in run_check("GG002", subject, tmp_path).not_applicable


def test_baseline_survives_its_file(folder: Path) -> None:
    """The same bytes after reading, one row a line of code."""
    (file,) = folder.glob("*.json")

    assert read(file).dumps() == file.read_text()
    assert max(len(line) for line in file.read_text().splitlines()) < 400


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor: 0\nmodel name\t: A [1]\nflags: x y\n\nprocessor: 1\nmodel name: B", ("A [1]", "x y")),
        ("Features\t: fp asimd", ("", "fp asimd")),
        ("", ("", "")),
    ],
)
def test_processor_is_read_from_cpuinfo(text: str, expected: tuple[str, str]) -> None:
    """The first processor speaks for all; ARM calls its flags features and has no model name."""
    assert _processor(text) == expected


def test_machine_is_named_for_readers_and_unlike_any_other() -> None:
    """Equal facts give one name, any other fact another."""
    one, same, other = (Machine({"cpu": "A (R) 9", "cores": "2", "quota": quota}) for quota in ("max", "max", "1"))

    assert one.name == same.name != other.name
    assert one.name.startswith("a-r-9-2c-")
    assert Machine({}).name.startswith("unknown-0c-")

"""`gradgate verify --base-ref` and the checks on a comparison: GG701 on time, GG702, GG801 and GG803 on counters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fixtures import memory_faults
from fixtures.memory_faults import keeps_nothing
from fixtures.two_checkouts import commit, git
from gradgate.checks import catalogue
from gradgate.cli import cli
from gradgate.compare import session
from gradgate.core.comparison import Comparison, Metric
from gradgate.core.errors import GradgateError
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context

TARGET = "fixtures.memory_faults:lean"
SLOW = Metric("cpu_time", "fail", ratio=1.031, interval=(1.021, 1.042), tolerance=0.03, blocks=9, mode="one-process")
SAVED = Metric("saved_bytes", "fail", base=1000, head=1064, where="a/step.py:41 in forward()", source="y = x.exp()")


def outcome(code: str, *metrics: Metric, **options: Any) -> Outcome:
    """What a check says of a comparison with these metrics."""
    found = Comparison(TARGET, "main (0123)", ".", metrics, **options)
    subject = memory_faults.subject(keeps_nothing)
    return catalogue.load_check(catalogue.rule(code)).function(
        subject, subject.stages[0], Context(compare=lambda _: found)
    )


def test_slower_than_base_gives_estimate_interval_and_threshold() -> None:
    """A failed time is an error with its numbers and what accepts it."""
    found = outcome("GG701", SLOW, SAVED)

    (finding,) = found.findings
    assert (finding.severity, finding.message) == (
        "error",
        "`cpu_time` +3.1% [+2.1%, +4.2%] (allowed: +3%, 9 blocks, one-process) against main (0123)",
    )
    assert finding.fix == 'meant? say so in pyproject.toml: [tool.gradgate.accept] cpu_time = "reason"'
    assert (found.measured, found.allowed) == ({"cpu_time": 1.031}, {"cpu_time": 1.03})


def test_counters_are_held_against_base_where_there_is_one() -> None:
    """The line of the growth is the culprit."""
    (finding,) = outcome("GG803", SLOW, SAVED).findings

    assert finding.message == "`saved_bytes` 1,000 -> 1,064 a step against main (0123)"
    assert str(finding.culprit) == "a/step.py:41 in forward()"
    assert outcome("GG702", SLOW, SAVED).findings == ()


@pytest.mark.parametrize(
    ("metric", "told"),
    [
        (Metric("op_count", "improved", base=5, head=4), "`op_count` 5 -> 4 a step against main (0123)"),
        (
            Metric("op_signature", "changed", base="a", head="b", reason="operation 3"),
            "`op_signature` is another against main (0123), operation 3",
        ),
        (
            Metric("flops", "changed", base=1, head=2, accepted="meant"),
            "`flops` 1 -> 2 a step (accepted: meant) against main (0123)",
        ),
    ],
)
def test_less_other_or_accepted_work_is_a_note(metric: Metric, told: str) -> None:
    """It is told and fails nothing."""
    assert [(one.severity, one.message, one.culprit) for one in outcome("GG702", metric).findings] == [
        ("note", told, None)
    ]


@pytest.mark.parametrize(
    ("metrics", "options", "reason"),
    [
        ([Metric("cpu_time", "noisy", reason="too wide")], {}, "cpu_time is noisy: too wide"),
        ([Metric("wall_time", "noisy", reason="too wide")], {}, ""),
        ([], {"notes": ("nothing was timed",)}, "nothing was timed"),
        ([], {}, "the comparison has none of these metrics"),
        (
            [SLOW],
            {"broken": {"side": "base", "doing": "building", "error": "ValueError: no"}},
            "base broke, while building: ValueError: no",
        ),
    ],
)
def test_what_is_not_decided_is_inconclusive(metrics: list[Metric], options: dict[str, Any], reason: str) -> None:
    """Noise and a broken base are never blamed on the code; a noisy wall clock alone is no reason."""
    found = outcome("GG701", *metrics, **options)

    assert (found.findings, found.inconclusive) == ((), reason)


def test_slower_than_base_does_not_apply_without_a_base() -> None:
    """It says how to give one."""
    subject = memory_faults.subject(keeps_nothing)
    check = catalogue.load_check(catalogue.rule("GG701"))

    assert "gradgate verify --base-ref REF" in check.function(subject, subject.stages[0], Context()).not_applicable


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a repository of one commit."""
    monkeypatch.setenv("GRADGATE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "pyproject.toml").write_text('[tool.gradgate.accept]\nflops = "meant"\n')
    commit(folder)
    monkeypatch.chdir(folder)
    return folder


def verify(*words: str) -> Result:
    return CliRunner().invoke(cli, ["verify", TARGET, *words], prog_name="gradgate")


def comparing(
    monkeypatch: pytest.MonkeyPatch, answer: Callable[[session.Question], Comparison]
) -> list[session.Question]:
    asked: list[session.Question] = []

    def compare(question: session.Question, _: Callable[[str], None]) -> Comparison:
        asked.append(question)
        return answer(question)

    monkeypatch.setattr(session, "compare", compare)
    return asked


def test_verify_compares_each_stage_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four checks read one comparison with the revision's own files, which are gone afterwards."""
    folders: list[bool] = []

    def answer(question: session.Question) -> Comparison:
        folders.append((question.base / "pyproject.toml").is_file())
        return Comparison(question.target, question.base_text, question.head_text, (SLOW, SAVED))

    asked = comparing(monkeypatch, answer)

    done = verify("--base-ref", "main", "--select", "GG701,GG702,GG801,GG803", "--json", "out.json")

    (question,) = asked
    assert (question.target, question.stage, question.accept, folders) == (TARGET, "train", {"flops": "meant"}, [True])
    assert not question.base.exists()
    results = {result["code"]: result for result in json.loads(Path("out.json").read_text())["results"]}
    statuses = {code: result["status"] for code, result in results.items()}
    assert statuses == {"GG701": "failed", "GG702": "inconclusive", "GG801": "inconclusive", "GG803": "failed"}
    assert done.exit_code == 1
    assert "--base-ref main --select GG701" in results["GG701"]["reproduce"]


def test_verify_says_what_base_lacks(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that base does not have is inconclusive, with the reason."""

    def answer(question: session.Question) -> Comparison:
        raise GradgateError("base has no module 'lean'")

    comparing(monkeypatch, answer)

    done = verify("--base-ref", "main", "--select", "GG701")

    assert done.exit_code == 3
    assert "the comparison broke, while loading: base has no module 'lean'" in " ".join(done.stdout.split())


def test_verify_names_a_revision_that_does_not_exist(here: Path) -> None:
    """Before any check runs, with the nearest that does."""
    git(here, "tag", "v1.0")

    done = verify("--base-ref", "v1.1", "--select", "GG701")

    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == f"Error: --base-ref v1.1: no such revision in {here}; did you mean 'v1.0'?"

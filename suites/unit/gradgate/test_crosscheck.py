"""The cross-check: what the scanner finds in a subject's source, held against a recorded run of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from gradgate.checks.crosscheck import _place, _unconfirmed, cross_check
from gradgate.checks.recording import Recording
from gradgate.cli import cli
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Marked
from gradgate.subjects.contract import Context, Subject

TRAINER = """
from pathlib import Path

import torch
from torch import nn

from gradgate.subjects.contract import Run, Stage, Subject

LEGACY = False


def scaled(x):
    y = torch.exp(x)
    y.data.mul_(0.5)            # confirmed: x carries gradient
    return y


def legacy(x):
    y = torch.exp(x)
    y.mul_(0.5)            # not reached
    return y


def picture(x):
    y = torch.exp(x)
    y.mul_(0.5)            # refuted: only ever called with data
    return y


def masked(x):
    scores = x.masked_fill(x > 9, -1e9)            # undecided: float32 holds the number
    return scores.softmax(-1)


class Own(Run):
    def __init__(self, seed, device="cpu"):
        torch.manual_seed(seed)
        self.modules = {"model": nn.Linear(3, 1)}
        self.optimizers = [torch.optim.SGD(self.modules["model"].parameters(), lr=0.1)]

    def batches(self):
        while True:
            yield torch.ones(4, 3)

    def step(self, batch):
        self.optimizers[0].zero_grad()
        out = self.modules["model"](picture(batch) + masked(batch))
        loss = (scaled(out) if STEP == "in place" else out).sum()
        if LEGACY:
            loss = legacy(loss)
        loss.backward()
        self.optimizers[0].step()
        return {"loss": float(loss.detach())}


def subject():
    return Subject("own", [Stage("main", Own)], source=Path(__file__).parent)
"""


def trainer(folder: Path, name: str, step: str = "in place", **replaced: str) -> ModuleType:
    """A trainer of its own file and folder, imported."""
    text = TRAINER.replace("LEGACY = False", f"LEGACY = False\nSTEP = {step!r}")
    for old, new in replaced.items():
        text = text.replace(old, new)
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def marks(found: tuple[Marked, ...], folder: Path) -> dict[str, str]:
    """The comment on each finding's line -> its mark."""
    lines = {entry.finding.culprit.line: entry for entry in found if entry.finding.culprit is not None}
    (file,) = folder.glob("*.py")
    texts = file.read_text(encoding="utf-8").split("\n")
    return {texts[line - 1].rpartition("# ")[2].partition(":")[0]: entry.mark for line, entry in lines.items()}


def checked(subject: Subject, *codes: str) -> tuple[Marked, ...]:
    return cross_check(subject, Context(seed=0), codes or ("GG101", "GG103", "GG304"))


def test_findings_are_marked_by_what_the_recorder_saw(tmp_path: Path):
    """A fault that happens is confirmed, a line that does not run is not reached, one that runs in vain is refuted."""
    found = checked(trainer(tmp_path / "own", "own_trainer").subject())

    expected = {"confirmed": "confirmed", "not reached": "not_reached", "refuted": "refuted", "undecided": "undecided"}
    assert marks(found, tmp_path / "own") == expected
    assert "recorded in stage main: GG103" in next(entry.reason for entry in found if entry.mark == "confirmed")


def test_clean_step_confirms_nothing(tmp_path: Path):
    """The twin whose step leaves the faulty helper alone has it as not reached."""
    found = checked(trainer(tmp_path / "own", "own_clean", step="plain").subject())

    assert marks(found, tmp_path / "own") == {
        "confirmed": "not_reached",
        "not reached": "not_reached",
        "refuted": "refuted",
        "undecided": "undecided",
    }


def test_other_rules_and_subjects_without_source_have_nothing(tmp_path: Path):
    """Only the chosen rules count, and without a source there is nothing to scan."""
    subject = trainer(tmp_path / "own", "own_other").subject()

    assert checked(subject, "GG202") == ()
    assert checked(Subject("bare", subject.stages)) == ()


def test_run_that_raises_refutes_nothing(tmp_path: Path):
    """What comes behind the error was not recorded."""
    module = trainer(tmp_path / "own", "own_raises", **{"loss.backward()": "raise ValueError('no')"})

    found = checked(module.subject())

    assert {entry.mark for entry in found} == {"not_reached", "undecided"}
    assert any("the recorded run did not end" in entry.reason for entry in found)


def test_cross_check_puts_the_trace_back(tmp_path: Path):
    """A debugger, or a coverage tool, goes on as before."""
    module = trainer(tmp_path / "own", "own_traced")
    before = sys.gettrace()

    checked(module.subject())

    assert sys.gettrace() is before


def test_verify_shows_the_marks_in_text_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The confirmed one comes first, each with its line and reason; marks never change the verdict."""
    trainer(tmp_path / "own", "own_shown")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    done = CliRunner().invoke(
        cli, ["verify", "own_shown:subject", "--path", "own", "--select", "GG101,GG103,GG304", "--json", "v.json"]
    )

    assert "in the source: 1 confirmed, 1 refuted, 1 not reached, 1 undecided" in done.output
    assert done.output.index("confirmed: GG103") < done.output.index("refuted: GG101")
    source = json.loads(Path("v.json").read_text(encoding="utf-8"))["source"]
    assert sorted(entry["mark"] for entry in source) == ["confirmed", "not_reached", "refuted", "undecided"]


FOUND = Finding("GG101", "inplace-on-saved-tensor", "m", "inplace_saved", victim=Location("a.py", 3))


@pytest.mark.parametrize(
    ("code", "seen", "mark"),
    [
        ("GG101", [], "refuted"),
        ("GG201", [], "undecided"),
        ("GG304", [], "undecided"),
        ("GG101", [replace(FOUND, culprit=None)], "undecided"),
        ("GG101", [replace(FOUND, culprit=Location("a.py", 9))], "undecided"),
        ("GG101", [replace(FOUND, culprit=Location("a.py", 9), victim=Location("a.py", 7))], "refuted"),
        ("GG101", [replace(FOUND, culprit=Location("a.py", 9), victim=None)], "refuted"),
    ],
)
def test_silence_refutes_only_where_the_recorder_would_have_spoken(code: str, seen: list[Finding], mark: str):
    """Not by numbers, not for rules that it cannot rule out, not where it blames another write of the same tensor."""
    recordings = {"main": Recording(tuple(seen), steps=5, backwards=5)}

    assert _unconfirmed(replace(FOUND, code=code), True, recordings, seen)[0] == mark


def test_finding_outside_of_readable_python_is_not_cross_checked(tmp_path: Path):
    """A notebook's line, a file that is gone, one that does not parse: no statement to hold a run against."""
    (tmp_path / "b.py").write_text("def f(:\n", encoding="utf-8")

    for file in ("n.ipynb", "gone.py", "b.py"):
        assert _place(replace(FOUND, culprit=Location(str(tmp_path / file), 1))) is None

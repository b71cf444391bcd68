"""Planted faults: what is noticed, what survives, and that nothing which an edited trainer does gets out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from gradgate import cli
from gradgate.core.workers import Lost
from gradgate.faults import planting, witness, worker
from gradgate.faults.catalogue import Fault, Planted
from gradgate.faults.changed import affected
from gradgate.faults.edit import Edit
from gradgate.faults.planting import Campaign, Outcome
from gradgate.faults.worker import Notice, Report, Task
from gradgate.subjects.contract import Subject

TRAINER = """\
import torch
from torch import nn

import gradgate


class Loop(gradgate.Run):
    def __init__(self, seed, *, dtype=torch.float32, device="cpu", options=None):
        torch.manual_seed(seed)
        self.cautious = bool((options or {}).get("cautious"))
        self.modules = {"model": nn.Linear(4, 1).to(device, dtype)}
        self.optimizers = [torch.optim.SGD(self.modules["model"].parameters(), lr=0.1)]
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.note = "kept"

    def batches(self):
        while True:
            x = torch.randn(8, 4, generator=self.generator, dtype=self.dtype)
            yield x, x.sum(1, keepdim=True)

    def losses(self, batch):
        x, y = batch
        return {"total": (self.modules["model"](x) - y).square().mean()}

    def step(self, batch):
        loss = self.losses(batch)["total"]
        self.optimizers[0].zero_grad()
        loss.backward()
        self.optimizers[0].step()
        return {"loss": loss.item()}


def subject():
    stage = gradgate.Stage("train", start=Loop, options={"cautious": (False, True)})
    return gradgate.Subject(name="loop", stages=[stage])
"""
TWO_CHECKS = """\
from gradgate.cli import main
from gradgate.faults import planting
planting._everything = lambda: ("GG206", "GG303")
main()
"""
FAULTS = {
    "OS-01": ("GG206", "self.optimizers[0].zero_grad()", ""),
    "OS-02": ("GG206", "self.dtype = dtype", "self.dtype, self.optimizers[0].zero_grad = dtype, lambda: None"),
    "OS-03": (
        "GG206",
        "self.optimizers[0].zero_grad()",
        "self.optimizers[0].param_groups[0]['lr'] = 0.05; self.cautious or self.optimizers[0].zero_grad()",
    ),
    "GF-01": ("GG206", '"kept"', '"lost"'),
    "GF-02": ("GG206", "torch.Generator().manual_seed(seed)", "torch.Generator().manual_seed(seed + 1)"),
    "PF-01": ("GG206", "self.optimizers[0].zero_grad()", "import os; os._exit(7)"),
    "DC-01": ("GG206", "self.dtype = dtype", "self.dtype = dtype.nothing"),
    "DC-02": ("GG206", "import gradgate", "import gradgate, nowhere"),
    "OK-01": ("", "(self.modules['model'](x) - y).square().mean()", "((self.modules['model'](x) - y) ** 2).mean()"),
    "OK-02": ("", "self.optimizers[0].zero_grad()", "self.note = 1"),
}


def entry(name: str) -> str:
    code, find, replace = FAULTS[name]
    lines = [f"id: {name}", f"what: {name}", "source: here", "file: tiny_trainer.py"]
    lines += [f"codes: [{code}]"] if code else []
    lines += [f"find: {json.dumps(find)}", f"replace: {json.dumps(replace)}"]
    return "- " + "\n  ".join(lines) + "\n"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two checks, one of them red from the start; a trainer, its faults, and the pyproject.toml that names both."""
    monkeypatch.setattr(planting, "_everything", lambda: ("GG206", "GG303"))
    (tmp_path / "tiny_trainer.py").write_text(TRAINER, encoding="utf-8")
    (tmp_path / "faults").mkdir()
    (tmp_path / "faults" / "all.yaml").write_text("".join(map(entry, FAULTS)), encoding="utf-8")
    settings = '[tool.gradgate]\ntarget = "tiny_trainer:subject"\nfaults = "faults"\n'
    (tmp_path / "pyproject.toml").write_text(settings, encoding="utf-8")
    return tmp_path


def gradgate(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.cli, list(map(str, words)), prog_name="gradgate")


def test_run_tells_killed_from_survived_equivalent_crashed_and_broken(project: Path):
    """Each ending is a result of its own, the score counts them, and the exit code is 1."""
    file = project / "out.json"
    done = gradgate("faults", "run", "--path", project, "-j", 2, "--among", 3, "--json", file)
    assert done.exit_code == 1, done.output
    tree = json.loads(file.read_text(encoding="utf-8"))
    statuses = {outcome["id"]: outcome["status"] for outcome in tree["outcomes"]}
    assert statuses == {
        "DC-01": "killed",
        "DC-02": "broken",
        "GF-01": "equivalent",
        "GF-02": "survived",
        "OK-01": "quiet",
        "OK-02": "alarm",
        "OS-01": "killed",
        "OS-02": "killed",
        "OS-03": "killed",
        "PF-01": "crashed",
    }
    killed = next(outcome for outcome in tree["outcomes"] if outcome["id"] == "OS-01")
    assert killed["by"][0]["code"] == "GG206"
    assert killed["right_family"] is True
    assert (killed["line"], killed["change"], killed["by"][0]["change"]) == ("near", "near", "")  # and no search
    far = next(outcome for outcome in tree["outcomes"] if outcome["id"] == "OS-02")
    assert (far["line"], far["change"]) == ("elsewhere", "exact")  # among three innocent edits
    behind = next(outcome for outcome in tree["outcomes"] if outcome["id"] == "OS-03")
    assert behind["by"][0]["message"].endswith("with cautious = True")
    assert "clean edits: 2, with an alarm: 1 OK-02" in done.output
    assert (project / "tiny_trainer.py").read_text(encoding="utf-8") == TRAINER
    assert "tiny_trainer" not in sys.modules


@pytest.mark.nightly
def test_run_exits_with_0_when_every_fault_is_noticed(project: Path):
    """All killed or equivalent, no alarm."""
    done = gradgate("faults", "run", "--path", project, "--select", "OS-01,GF-01,OK-01")
    assert done.exit_code == 0, done.output
    assert "OS-01   killed" in done.output


def test_run_refuses_when_the_unedited_source_fails(project: Path):
    """A check that is red before anything was planted proves nothing."""
    broken = TRAINER.replace("        self.optimizers[0].zero_grad()\n", "")
    (project / "tiny_trainer.py").write_text(broken, encoding="utf-8")
    done = gradgate("faults", "run", "--path", project, "--select", "GF-01")
    assert done.exit_code == 2
    assert "the unedited source fails GG206, before any fault" in done.output


def test_run_and_list_name_stale_entries_and_exit_with_2(project: Path):
    """An edit that fits no longer stops everything before a process is started."""
    (project / "tiny_trainer.py").write_text(TRAINER.replace('"kept"', "None"), encoding="utf-8")
    for command in ("run", "list"):
        done = gradgate("faults", command, "--path", project)
        assert done.exit_code == 2
        assert "all.yaml GF-01: tiny_trainer.py: '\"kept\"' matches nothing" in done.output


def test_list_shows_codes_and_places(project: Path):
    """One line an entry, with the line that it changes."""
    done = gradgate("faults", "list", "--path", project, "--select", "OS")
    assert done.exit_code == 0
    assert done.output.splitlines()[0].split()[:3] == ["OS-01", "GG206", "tiny_trainer.py:28"]


def test_run_says_where_a_catalogue_could_come_from(tmp_path: Path):
    """Without a catalogue there is one clear error."""
    done = gradgate("faults", "list", "--path", tmp_path)
    assert done.exit_code == 2
    assert "give --faults DIR, or set `faults` under [tool.gradgate]" in done.output


def test_changed_takes_faults_of_changed_files_and_checks(project: Path):
    """A diff bears on the faults of its files and on those that a changed check is to notice."""
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "all")
    done = gradgate("faults", "run", "--path", project, "--changed", "HEAD")
    assert done.exit_code == 0
    assert "nothing that differs from HEAD bears on a fault" in done.output
    fault = Fault("GF-01", "w", "s", ("GG206",), (Edit("tiny_trainer.py", "a", "b"),))
    assert affected([fault], project, "HEAD") == []
    (project / "tiny_trainer.py").write_text(TRAINER + "import math\n", encoding="utf-8")
    assert affected([fault], project, "HEAD") == [fault]
    git(project, "checkout", "-q", ".")
    (project / "gg206_stale_gradient.py").write_text("", encoding="utf-8")
    git(project, "add", ".")
    assert affected([fault], project, "HEAD") == [fault]
    done = gradgate("faults", "run", "--path", project, "--changed", "nowhere")
    assert done.exit_code == 2
    assert "--changed: git says:" in done.output


@pytest.mark.parametrize(
    ("find", "replace", "ids"),
    [
        ("lr=0.1", "lr=0.2", ["GF-01", "GF-03"]),
        ("loss.backward()", "loss.backward(); self.note = 1", ["GF-02", "GF-03"]),
        ("import gradgate\n", "import gradgate, math\n", ["GF-01", "GF-02", "GF-03", "GF-04", "GF-05"]),
        ("def subject():", "def other():\n    pass\n\n\ndef subject():", ["GF-03"]),
        ("    def step(", "    # a note\n    def step(", []),
        ("import gradgate\n", "import gradgate, (\n", ["GF-01", "GF-02", "GF-03", "GF-04", "GF-05"]),
        ("def losses(", "def lost(", ["GF-03", "GF-05"]),
    ],
)
def test_changed_takes_faults_of_functions_that_differ(project: Path, find: str, replace: str, ids: list[str]):
    """The whole file where it differs outside its functions; nothing for a comment; what does not fit is told later."""
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "all")
    scopes = ["Loop.__init__", "Loop.step", "", "subject", "Loop.losses"]
    edits = [Edit("tiny_trainer.py", "a", "b", within) for within in scopes]
    faults = [Fault(f"GF-0{i}", "w", "s", ("GG206",), (edit,)) for i, edit in enumerate(edits, start=1)]
    (project / "tiny_trainer.py").write_text(TRAINER.replace(find, replace), encoding="utf-8")
    assert [fault.id for fault in affected(faults, project, "HEAD")] == ids


@pytest.mark.parametrize(
    ("changed", "codes"),
    [
        ("tiny_trainer.py", {"OK-01": ("GG206",)}),
        ("gg303_learning_rate.py", {"OK-01": ("GG303",), "OK-02": ("GG303",)}),
        ("faults/ok.yaml", {"OK-01": (), "OK-02": ()}),
    ],
)
def test_clean_edits_are_held_against_what_a_change_bears_on(
    project: Path, changed: str, codes: dict[str, tuple[str, ...]]
):
    """In a file that differs, what notices the faults there; elsewhere a check that differs; a new entry, all."""
    git(project, "init", "-q")
    git(project, "add", ".")
    git(project, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "all")
    with (project / changed).open("a", encoding="utf-8") as file:
        file.write("\nseed = 1\n")
    git(project, "add", ".")
    here, there = Edit("tiny_trainer.py", "a", "b"), Edit("other.py", "a", "b")
    faults = [
        Fault("GF-01", "w", "s", ("GG206", "GG208"), (here,)),
        Fault("GF-02", "w", "s", ("GG101",), (there,)),
        Fault("OK-01", "w", "s", (), (here,), entry="ok.yaml"),
        Fault("OK-02", "w", "s", (), (there,), entry="ok.yaml"),
    ]
    chosen = affected(faults, project, "HEAD")
    assert {fault.id: fault.codes for fault in chosen if fault.clean} == codes


def test_clean_edit_that_names_checks_is_shown_to_those_alone(project: Path):
    """Without switches, and none that trains whole runs; one that names none is shown to all of them."""
    campaign = Campaign("tiny_trainer:subject", project)
    campaign._folder = project / "copies"
    edit = Edit("tiny_trainer.py", "a", "b")
    one, every = Fault("OK-01", "w", "s", ("GG303", "GG901"), (edit,)), Fault("OK-02", "w", "s", (), (edit,))
    tasks = [campaign._task(i, fault, Planted({}, ()), {}, ()) for i, fault in enumerate((one, every))]
    assert [(task.codes, task.others, task.switched) for task in tasks] == [
        (("GG303",), (), ()),
        (("GG206", "GG303"), (), ("GG206",)),
    ]


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.nightly
def test_campaign_gives_outcomes_in_the_order_of_faults(project: Path):
    """Whichever process ends first."""
    edit = Edit("tiny_trainer.py", "self.optimizers[0].zero_grad()", "")
    faults = [Fault(f"OS-0{i}", "w", "s", ("GG206",), (edit,)) for i in (2, 1)]
    told: list[Outcome] = []
    outcomes = Campaign("tiny_trainer:subject", project, jobs=2).run(faults, told.append)
    assert [outcome.fault.id for outcome in outcomes] == ["OS-02", "OS-01"]
    assert sorted(outcome.fault.id for outcome in told) == ["OS-01", "OS-02"]


def test_witness_tells_equal_from_different_bit_for_bit():
    """NaN equals NaN; dtype, shape, keys and numbers count."""
    one = {"a": [torch.tensor([1.0, float("nan")]), 2.0], "b": float("nan")}
    assert witness.differ(one, {"a": [torch.tensor([1.0, float("nan")]), 2.0], "b": float("nan")}) == ""
    assert witness.differ(one, {"a": [torch.tensor([1.5, float("nan")]), 2.0], "b": float("nan")}) == "a[0]"
    assert witness.differ(one, {"a": [torch.tensor([1.0]), 2.0], "b": float("nan")}) == "a[0]"
    assert witness.differ(one, {"a": [1.0]}) == "what is there to see"
    assert witness.differ("x", "y") == "what it computes"


@pytest.mark.nightly
def test_clean_edit_may_raise_nothing_of_what_was_green(project: Path):
    """A check that is red on the unedited source is no alarm; OK-02 removes a needed call and is one."""
    done = gradgate("faults", "run", "--path", project, "--select", "OK")
    assert done.exit_code == 1
    assert "OK-01   quiet" in done.output
    assert "OK-02   alarm" in done.output
    assert "GG206" in done.output


@pytest.mark.parametrize(
    ("report", "status"),
    [
        (Report(built=True, broken="GG403: crash", notices=[Notice("GG401", None, "off", "none")]), "killed"),
        (Report(built=True, broken="GG403: crash", effect="a weight"), "broken"),
        (Lost("hung"), "hung"),
    ],
)
def test_check_that_breaks_hides_no_other(report: Report | Lost, status: str):
    """A fault that breaks a check is killed by another one, and `broken` where none notices it."""
    fault = Fault("LW-01", "is wrong", "a team", ("GG403",), ())
    assert planting._outcome(fault, report).status == status


@pytest.mark.parametrize(
    ("codes", "effect", "shown"),
    [
        (("GG403",), "", ["GG403"]),
        (("GG403",), "a weight", ["GG403", "GG401", "GG101"]),
        (("GG403",), None, ["GG403", "GG401", "GG101"]),
        ((), "", ["GG401", "GG101"]),
    ],
)
def test_fault_without_an_effect_is_shown_to_no_further_check(
    monkeypatch: pytest.MonkeyPatch, codes: tuple[str, ...], effect: str | None, shown: list[str]
):
    """It is equivalent; a generated one goes on, since its witness was not written for it."""
    asked: list[str] = []

    def check(_task: Task, _subject: Subject, codes: Sequence[str], *_: object, switches: bool) -> None:
        assert switches is (codes == ("GG101",))
        asked.extend(codes)

    monkeypatch.setattr(worker, "_check", check)
    task = Task("a:b", Path(), Path(), Path(), codes=codes, others=("GG401",), switched=("GG101",))
    assert worker._failed(task, Subject("any", ()), Report(built=True, effect=effect), 0.0) is None
    assert asked == shown


@pytest.mark.nightly
def test_check_that_was_red_before_notices_nothing(project: Path):
    """GG206 fails on this source itself: it is left out, and the fault is shown to the others once more."""
    broken = TRAINER.replace("        self.optimizers[0].zero_grad()\n", "")
    (project / "tiny_trainer.py").write_text(broken, encoding="utf-8")
    edit = Edit("tiny_trainer.py", "x.sum(1, keepdim=True)", "2 * x.sum(1, keepdim=True)")
    [outcome] = Campaign("tiny_trainer:subject", project).run([Fault("DC-09", "w", "s", ("GG101",), (edit,))])
    assert "GG206" not in [notice.code for notice in outcome.by]


def test_interrupted_run_tells_what_is_known_and_leaves_nothing_behind(project: Path):
    """Ctrl-C at the first outcome: exit code 130, the JSON holds it, and no process or folder is left."""
    file, temporary = project / "out.json", project / "temporary"
    temporary.mkdir()
    words = [
        sys.executable,
        "-c",
        TWO_CHECKS,
        "faults",
        "run",
        "--path",
        project,
        "-j",
        1,
        "--locate",
        0,
        "--json",
        file,
    ]
    run = subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=project,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONFAULTHANDLER": "1"},
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert run.stdout is not None
    assert run.stdout.readline().startswith("[1/")
    run.send_signal(signal.SIGINT)
    try:
        _, told = run.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        run.send_signal(signal.SIGABRT)  # it writes where it stands
        pytest.fail(f"it goes on: {run.communicate()}")
    assert (run.returncode, "interrupted: " in told) == (130, True)
    assert json.loads(file.read_text(encoding="utf-8"))["outcomes"]
    assert list(temporary.glob("gradgate-*")) == []

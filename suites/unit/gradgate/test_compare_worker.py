"""The worker, in this process: what it answers for two real checkouts."""

from __future__ import annotations

import gc
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.two_checkouts import checkout
from gradgate.compare import steps, worker
from gradgate.compare.job import Checkout, Job
from gradgate.compare.priority import undisturbed
from gradgate.gates.counts import Counts


@pytest.fixture(autouse=True)
def _small_and_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("gradgate.gates.timing.STEPPING_S", 0.1)
    monkeypatch.setattr("gradgate.compare.turns.TURN_S", 0.002)
    threads = torch.get_num_threads()
    yield
    gc.unfreeze()
    torch.set_num_threads(threads)


def job(folder: Path, target: str, *, head: dict[str, Any] | None = None, **options: Any) -> Job:
    roots = [str(checkout(folder / "base")), str(checkout(folder / "head", **(head or {})))]
    base, other = (Checkout(root, (root,)) for root in roots)
    return Job(target, base, other, **options)


def answers(task: Job, lines: str = "") -> list[dict[str, Any]]:
    """Every message of a worker, progress left out."""
    reading, writing = os.pipe()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.StringIO(task.dumps() + "\n" + lines))
        patch.setattr(worker, "undisturbed", nullcontext)
        worker.main(writing)
    with os.fdopen(reading) as channel:
        messages = [json.loads(line) for line in channel]
        return [message for message in messages if not {"progress", "loaded"} & set(message)]


def test_job_survives_json(tmp_path: Path):
    """What is sent is what arrives."""
    task = job(tmp_path, "plain:make", stage="one", tolerance=0.05, attempt=2)
    assert Job.loads(task.dumps()) == task


def test_worker_counts_and_times_both_sides(tmp_path: Path):
    """All metrics in one answer, and the samples of every turn."""
    (answer,) = answers(job(tmp_path, "plain:make", head={"ops": 1, "leak": 64}))
    verdicts = {metric["metric"]: metric["verdict"] for metric in answer["metrics"]}
    assert (verdicts["op_count"], verdicts["leak"], verdicts["forwards"]) == ("fail", "fail", "pass")
    assert next(m for m in answer["metrics"] if m["metric"] == "leak")["where"] == "plain.py:19 in step()"
    assert list(answer["timing"]["decisions"]) == ["cpu_time", "wall_time"]
    assert {len(turns) for turns in answer["timing"]["samples"]} == {5}
    assert answer["environment"]["torch"] == torch.__version__


@pytest.mark.nightly
def test_worker_says_that_compiled_code_was_counted_eagerly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Operations of a compiled step are those of its eager program, and the reader is told."""
    monkeypatch.setattr(worker, "is_compiled", lambda: True)
    (answer,) = answers(job(tmp_path, "plain:make", head={"rows": 5}))
    assert answer["notes"] == ["torch.compile is in use: operations and memory were counted on the eager program"]


def test_worker_catches_sleep_by_the_wall_clock(tmp_path: Path):
    """CPU time is blind to a data loader that sleeps."""
    (answer,) = answers(job(tmp_path, "plain:make", head={"sleep": 0.001}, count=False))
    assert answer["timing"]["decisions"]["wall_time"]["verdict"] == "fail"
    assert "metrics" not in answer


def test_worker_does_not_time_batches_that_differ(tmp_path: Path):
    """Nothing can be said of the time of another amount of work."""
    (answer,) = answers(job(tmp_path, "plain:make", head={"rows": 5}))
    assert "the batches differ" in answer["mismatch"]
    assert "timing" not in answer


def test_worker_says_what_a_step_needs_that_does_not_fit_the_budget(tmp_path: Path):
    """Too slow a step is not judged on fewer blocks than the first look needs."""
    (answer,) = answers(job(tmp_path, "plain:make", budget_s=0.001, count=False))
    assert answer["untimed"].endswith("the budget is 0.001 s: raise --budget")


@pytest.mark.parametrize(
    ("target", "stage", "message"),
    [
        ("plain:make", "one", {"usage": "--stage one: plain:make returns a step, not a Subject with stages"}),
        ("adapter:make", None, {"usage": "adapter:make has several stages, name one with --stage: one, other"}),
        (
            "adapter:make",
            "ohter",
            {"usage": "adapter:make has no stage 'ohter': one, other; did you mean 'other'?"},
        ),
        (
            "adapter:number",
            None,
            {"usage": "adapter:number returned a int, expected a step without arguments or a Subject"},
        ),
        ("adapter:NOTHING", None, {"usage": "adapter:NOTHING on base: expected a factory, got a NoneType"}),
    ],
)
def test_worker_names_a_mistake_of_use(tmp_path: Path, target: str, stage: str | None, message: dict[str, str]):
    """One clear sentence each."""
    assert answers(job(tmp_path, target, stage=stage)) == [message]


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("plane:make", "no module 'plane' under HEAD; did you mean 'plain'?"),
        ("plain:mkae", "no 'mkae' in HEAD/plain.py; did you mean 'make'?"),
        ("json:loads", f"no module 'json' under HEAD, only {json.__file__}, outside it"),
    ],
)
def test_worker_names_head_where_neither_side_has_the_factory(tmp_path: Path, target: str, what: str):
    """A mistake of spelling; an installed module of that name is not the checkout's."""
    (answer,) = answers(job(tmp_path, target))
    assert answer["missing"] == ["head", what.replace("HEAD", str(tmp_path / "head"))]


@pytest.mark.parametrize("side", ["base", "head"])
def test_worker_names_the_side_that_lacks_the_factory(tmp_path: Path, side: str):
    """A benchmark may be younger than base."""
    task = job(tmp_path, "young:make")
    other = tmp_path / ("head" if side == "base" else "base")
    (other / "young.py").write_text("from plain import make")
    (answer,) = answers(task)
    assert answer["missing"] == [side, f"no module 'young' under {tmp_path / side}"]


def test_worker_names_the_side_that_does_not_build_or_step(tmp_path: Path):
    """A broken run is its own thing, with the line."""
    (built,) = answers(job(tmp_path, "adapter:broken"))
    (stepped,) = answers(job(tmp_path, "adapter:raises"))
    assert (built["broken"]["side"], built["broken"]["doing"]) == ("base", "building")
    assert "ValueError: does not build" in built["broken"]["error"]
    assert "adapter.py" in stepped["broken"]["error"]
    assert stepped["broken"]["doing"] == "stepping"


@pytest.mark.nightly
def test_worker_takes_the_stage_of_a_subject(tmp_path: Path):
    """A gradgate.Subject is stepped through its own batches."""
    (answer,) = answers(job(tmp_path, "adapter:make", stage="other"))
    assert "timing" in answer
    (answer,) = answers(job(tmp_path, "adapter:lone", count=False))
    assert "timing" in answer


@pytest.mark.filterwarnings("ignore")
def test_worker_reports_a_clash_before_it_counts(tmp_path: Path):
    """Base would run head's kernel: nothing that was counted could be believed."""
    (answer,) = answers(job(tmp_path, "clash:make"))
    assert answer["clash"] == ["twocheckouts::twice"]


def test_worker_serves_one_side_in_turns(tmp_path: Path):
    """Its counts, then readiness, then a sample for each line."""
    counts, ready, one, other = answers(job(tmp_path, "plain:make", lone="head"), "2\n3\n")
    assert Counts.from_tree(counts["counts"]).values["op_count"] > 0
    assert ready["ready"]["quantities"] == ["cpu_time", "wall_time"]
    assert one["sample"][0]["cpu_time"] > 0
    assert len(other["sample"]) == 3


def test_worker_serves_without_counting_when_it_is_a_repeat(tmp_path: Path):
    """Counters need no second process."""
    first, *_ = answers(job(tmp_path, "plain:make", lone="base", count=False))
    assert list(first) == ["ready"]


def test_priority_is_asked_for_and_given_back(monkeypatch: pytest.MonkeyPatch):
    """Where the kernel refuses, the block runs all the same."""
    before = os.sched_getscheduler(0)
    with undisturbed():
        pass
    assert os.sched_getscheduler(0) == before

    def refused(*_: Any) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setscheduler", refused)
    with undisturbed():
        assert os.sched_getscheduler(0) == before


def test_waiting_counts_as_none_where_the_kernel_does_not_say(monkeypatch: pytest.MonkeyPatch):
    """Another system has no schedstat: nothing is taken off."""
    assert steps.disturbances()[0] >= 0

    def missing(*_: Any) -> int:
        raise FileNotFoundError

    monkeypatch.setattr(steps, "_schedstat", None)
    monkeypatch.setattr(os, "open", missing)
    assert steps.disturbances() == (0.0, 0)


@pytest.mark.nightly
def test_global_state_belongs_to_a_side(tmp_path: Path):
    """A default dtype that one side sets is not the other's, and not ours."""
    task = job(tmp_path, "plain:make")
    for name, dtype in (("base", "float32"), ("head", "float64")):
        source = (tmp_path / name / "plain.py").read_text()
        (tmp_path / name / "plain.py").write_text(f"{source}\ntorch.set_default_dtype(torch.{dtype})\n")
    (answer,) = answers(task)
    signature = next(metric for metric in answer["metrics"] if metric["metric"] == "op_signature")
    assert signature["reason"].count("float32") == 2 or "float64" in signature["reason"]
    assert torch.get_default_dtype() == torch.float32

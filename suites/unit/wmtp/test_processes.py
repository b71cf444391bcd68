"""The trainer in several processes: the same gradients, the same run, and checkpoints for any number of them."""

from __future__ import annotations

import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from fixtures.small_runs import SMALL, metrics_of, resume_small, settings, small_trainer, train_small
from gradgate.checks.gg610_one_process_differs_from_n import course_of, furthest
from gradgate.checks.ranks import Rank, together
from gradgate_wmtp.runs import Stage1Run, Stage2Run
from gradgate_wmtp.small import small_rewards
from wmtp import checkpoint, sharded
from wmtp.errors import CheckpointError, ConfigError, FollowerError, ProcessError
from wmtp.processes import ALONE, Processes, joined, require_same
from wmtp.resume import find_checkpoint

WAYS = ("ddp", "fsdp2")
ROUNDING = 1e-6  # relative, in float64: another order of sums costs 1e-13
UNEVEN = {"data.batch_size": 3, "train.accumulation_steps": 2, "loss.weight_gradient": "through"}


def values(ranks: list[Rank]) -> list[Any]:
    """What each rank returned; none raised or hung."""
    assert [each.error or each.stack for each in ranks] == [""] * len(ranks)
    return [each.value for each in ranks]


def run_of(folder: Path, *overrides: str, resume: bool = False) -> Callable[[int], None]:
    """A whole small run, for every rank."""

    def work(_: int) -> None:
        (resume_small if resume else train_small)(folder, *overrides)

    return work


def largest_difference(one: Path, other: Path) -> float:
    """Over all metrics of two runs, relative; they have the same lines."""
    pairs = list(zip(metrics_of(one), metrics_of(other), strict=True))
    assert [(a["stage"], a["step"], a.keys()) for a, _ in pairs] == [
        (b["stage"], b["step"], b.keys()) for _, b in pairs
    ]
    numbers = [(a[key], b[key]) for a, b in pairs for key in a if isinstance(a[key], float) and a[key]]
    return max(abs(a - b) / abs(a) for a, b in numbers)


@pytest.mark.parametrize("run", [Stage1Run, Stage2Run], ids=["stage1", "stage2"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.nightly)])
def test_gradients_of_one_global_batch_are_those_of_one_process(run: Any, way: str, world: int, tmp_path: Path) -> None:
    """Uneven rows, ranks without any, accumulation, clipping, weights on the graph: the same, value head included."""
    options = UNEVEN if run is Stage2Run else {"data.batch_size": 3}
    small_rewards(0)  # the forks have them too
    alone = course_of(partial(run, options=options), 0)
    start = partial(run, options=options, parallel=way)

    ranks = values(together(lambda _: course_of(start, 0, alone), tmp_path / "group", world=world))

    for each in ranks:
        assert furthest(alone, each)[0] < ROUNDING
        assert each.scores == pytest.approx(alone.scores, rel=ROUNDING)
    assert sorted(sample for each in ranks for sample in each.samples) == sorted(alone.samples)


@pytest.mark.parametrize("way", ["ddp", pytest.param("fsdp2", marks=pytest.mark.nightly)])
def test_run_of_two_processes_is_that_of_one_and_goes_on_in_another_number(way: str, tmp_path: Path) -> None:
    """Both stages; what two processes have saved one goes on with, and the other way round."""
    ours = (f"distributed.parallel={way}",)
    train_small(tmp_path / "one", *ours)
    values(together(run_of(tmp_path / "two", *ours), tmp_path / "group"))
    assert (
        largest_difference(tmp_path / "one", tmp_path / "two") < 1e-2
    )  # AdamW's sign-like first steps enlarge roundings

    longer = (*ours, "train.max_steps=6", "optim.schedule=constant")
    values(together(run_of(tmp_path / "three", *ours, "optim.schedule=constant"), tmp_path / "group3"))
    resume_small(tmp_path / "three", *longer)
    assert metrics_of(tmp_path / "three")[-1]["step"] == 6
    values(
        together(
            run_of(tmp_path / "one", "distributed.parallel=" + way, "train.max_steps=6", resume=True), tmp_path / "g4"
        )
    )
    assert metrics_of(tmp_path / "one")[-1]["step"] == 6


@pytest.mark.nightly
def test_sharded_checkpoint_holds_what_one_process_would_have_saved(tmp_path: Path) -> None:
    """The parts together are the whole: model and moments, read back by one process."""
    values(together(run_of(tmp_path / "run", "distributed.parallel=fsdp2"), tmp_path / "group"))
    folder = find_checkpoint(tmp_path / "run")

    assert folder.is_dir()
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    trainer = small_trainer(folder=tmp_path / "run")
    model = sharded.empty_like(trainer.model)
    sharded.fill(folder, {"model": model}, ALONE)
    final = checkpoint.load(tmp_path / "run" / "final.ckpt")["model"]
    assert [name for name in final if not torch.equal(final[name], model[name])] == []


@pytest.mark.nightly
def test_damaged_part_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    """One byte of one part, or a missing part, and the error names the file."""
    values(together(run_of(tmp_path / "run", "distributed.parallel=fsdp2"), tmp_path / "group"))
    folder = find_checkpoint(tmp_path / "run")
    part = next(folder.glob("__1_*"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)
    with pytest.raises(CheckpointError, match=part.name):
        resume_small(tmp_path / "run", "train.max_steps=6")
    part.unlink()
    with pytest.raises(CheckpointError, match=part.name):
        resume_small(tmp_path / "run", "train.max_steps=6")


class Evil:
    """Pickles as a call."""

    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize("content", [Evil(), {"a": torch.nn.Linear}])
def test_index_that_could_run_is_refused(content: Any, tmp_path: Path) -> None:
    """Only what an index of tensors is made of is unpickled."""
    (tmp_path / ".metadata").write_bytes(pickle.dumps(content))
    with pytest.raises(CheckpointError, match="the index names"):
        sharded.fill(tmp_path, {"x": torch.zeros(1)}, ALONE)


def test_index_is_read_by_any_version_of_python(tmp_path: Path) -> None:
    """Python 3.13 pickles a path by another name than the versions before and behind it."""
    with warnings.catch_warnings():  # that nothing is distributed
        warnings.simplefilter("ignore")
        sharded.save(tmp_path / "run", {}, {"x": torch.arange(3.0)}, ALONE)
    index = tmp_path / "run" / sharded.INDEX
    text = pickle.dumps(pickle.loads(index.read_bytes()), protocol=2)  # noqa: S301 - just written
    assert re.search(rb"cpathlib(\._local)?\nPosixPath", text)
    for home in (b"cpathlib\nPosixPath", b"cpathlib._local\nPosixPath"):
        index.write_bytes(re.sub(rb"cpathlib(\._local)?\nPosixPath", home, text))
        read = {"x": torch.zeros(3)}
        sharded.fill(tmp_path / "run", read, ALONE)
        assert read["x"].tolist() == [0.0, 1.0, 2.0]


def test_processes_with_other_settings_or_rows_are_one_clear_error(tmp_path: Path) -> None:
    """The leader names the key and both values; the others say nothing."""

    def work(rank: int) -> str:
        steps, rows = (f"train.max_steps={4 + rank}", "a") if dist.get_rank() < 2 else ("train.max_steps=4", "a")
        config, recipe = settings("nowhere", steps)
        with joined(config) as processes:
            try:
                require_same(processes, config, recipe, rows)
            except (ProcessError, FollowerError) as error:
                return f"{type(error).__name__}: {error}"
        return ""

    assert values(together(work, tmp_path / "group")) == [
        "ProcessError: the processes disagree on train.max_steps: rank 0 has 4, rank 1 5", "FollowerError: ",
    ]  # fmt: skip


def test_data_that_differs_is_one_clear_error(tmp_path: Path) -> None:
    """Settings may agree where a file on one machine is another."""

    def work(rank: int) -> str:
        config, recipe = settings("nowhere")
        with joined(config) as processes:
            try:
                require_same(processes, config, recipe, "ab"[rank])
            except (ProcessError, FollowerError) as error:
                return str(error)
        return "agreed"

    assert values(together(work, tmp_path / "group")) == [
        "the processes disagree on the rows of data.path (their checksum): rank 0 has a, rank 1 b", "",
    ]  # fmt: skip


def test_leaders_mistake_ends_all_and_is_told_once(tmp_path: Path) -> None:
    """A folder that holds a run already."""
    train_small(tmp_path / "run")

    def work(_: int) -> str:
        with pytest.raises((ConfigError, FollowerError)) as caught:
            train_small(tmp_path / "run")
        return str(caught.value)

    first, second = values(together(work, tmp_path / "group"))
    assert "already holds a run" in first
    assert second == ""


def test_second_job_in_the_same_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel holds the folder's lock as long as the first one lives; it is told before anything is built."""
    import fcntl

    import wmtp.train

    monkeypatch.setattr(wmtp.train, "build", None)
    (tmp_path / "run").mkdir()
    held = os.open(tmp_path / "run", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        with pytest.raises(ConfigError, match="another job is writing"):
            train_small(tmp_path / "run")
    finally:
        os.close(held)


def test_share_gives_every_item_to_exactly_one_process() -> None:
    """Also where there are fewer items than processes."""
    for count in range(6):
        shares = [list(Processes(rank, 4).share(range(count))) for rank in range(4)]
        assert sorted(item for share in shares for item in share) == list(range(count))


def test_missing_variables_of_a_launcher_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """WORLD_SIZE alone is no job."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match="MASTER_ADDR"), joined(settings()[0]):
        pass


def environment(port: int, rank: int = 0) -> dict[str, str]:
    """What torchrun would set."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def test_port_in_use_is_told_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader cannot listen where somebody else does."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        with pytest.raises(ProcessError, match=f"127.0.0.1:{port}"), joined(settings()[0]):
            pass


def test_unreachable_rendezvous_ends_with_the_address_it_tried(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Within the configured time, and without C++'s frames before it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in environment(port, rank=1).items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(ProcessError, match=f"127.0.0.1:{port} within 1 s"),
        joined(settings("nowhere", "distributed.timeout=1.0")[0]),
    ):
        pass
    assert capfd.readouterr().err == ""


def test_own_streams_differ_but_for_the_leader() -> None:
    """Dropout on two processes is not the same dropout; the leader's is that of one process."""
    torch.manual_seed(5)
    before = torch.get_rng_state()
    ALONE.own_stream(5)
    assert torch.equal(torch.get_rng_state(), before)
    seen = []
    for rank in (1, 2):
        Processes(rank, 3).own_stream(5)
        seen.append(float(torch.rand(())))
    torch.set_rng_state(before)
    assert len({*seen, float(torch.rand(()))}) == 3


# --- torchrun itself: nightly ----------------------------------------------------------------------------------------


def torchrun(folder: Path, *overrides: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Two processes of the real command line."""
    small = [part for override in (f"paths.output={folder}", *SMALL, *overrides) for part in ("--set", override)]
    command = [
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        *options,
        "-m",
        "wmtp",
        "train",
        *small,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", *command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def wait_for_steps(folder: Path, count: int, job: subprocess.Popen[str]) -> None:
    """Until the run has logged so many lines."""
    end = time.monotonic() + 120
    while time.monotonic() < end and job.poll() is None:
        path = folder / "metrics.jsonl"
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        time.sleep(0.02)
    pytest.fail(f"the job made no {count} lines: {job.stdout.read() if job.poll() is not None and job.stdout else ''}")


@pytest.mark.nightly
@pytest.mark.parametrize("way", WAYS)
def test_sigterm_saves_then_ends_and_the_run_goes_on(way: str, tmp_path: Path) -> None:
    """torchrun hands the signal on; all ranks stop behind the same step."""
    long = ("train.max_steps=100000", f"distributed.parallel={way}", "checkpoint.every=100000")
    job = torchrun(tmp_path / "run", *long)
    wait_for_steps(tmp_path / "run", 20, job)
    job.send_signal(signal.SIGTERM)
    output, _ = job.communicate(timeout=90)
    assert job.returncode != 0
    assert output.count("the run is saved") == 1
    last = find_checkpoint(tmp_path / "run")
    assert json.loads(json.dumps(checkpoint.load(last)["loop"]))["step"] == metrics_of(tmp_path / "run")[-1]["step"]


@pytest.mark.nightly
def test_rank_that_dies_ends_the_job_within_a_limit(tmp_path: Path) -> None:
    """SIGKILL on one of two: the other says whom it lost, and nothing half is left."""
    job = torchrun(tmp_path / "run", "train.max_steps=100000")
    wait_for_steps(tmp_path / "run", 20, job)
    children = subprocess.run(["pgrep", "-P", str(job.pid)], text=True, capture_output=True, check=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, _ = job.communicate(timeout=60)
    assert job.returncode != 0
    assert "were lost" in output or "Signal 9" in output
    assert checkpoint.load(find_checkpoint(tmp_path / "run"))["kind"] == "run"


@pytest.mark.nightly
def test_elastic_restart_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    """A rank dies once; torchrun starts all again, and the run ends."""
    job = torchrun(tmp_path / "run", "train.max_steps=300", "train.eval_every=100", options=("--max-restarts", "1"))
    wait_for_steps(tmp_path / "run", 30, job)
    children = subprocess.run(["pgrep", "-P", str(job.pid)], text=True, capture_output=True, check=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    output, _ = job.communicate(timeout=180)
    assert job.returncode == 0, output
    steps = [line["step"] for line in metrics_of(tmp_path / "run") if line["stage"] == "stage2" and "loss" in line]
    assert steps == list(range(1, 301))

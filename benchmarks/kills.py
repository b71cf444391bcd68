"""Kill -9 at random instants: `python -m benchmarks.kills --kills 200`.

A small run of both stages, with dropout, accumulation and early stopping, is trained once without a break. Then the
same run is started again and again, killed at an instant drawn uniformly over its length, looked at, and resumed, at
most three times, before it may end. Behind every kill each checkpoint in the folder must load; at each end the folder
must hold what the uninterrupted one holds, bit for bit, and no temporary file. Runs are forked from a process that has
torch imported: the kill is a real one, and twenty times as many fit into a minute.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from fixtures.small_runs import RESUMABLE, contents_of, resume_small, train_small, unequal
from wmtp import checkpoint
from wmtp.errors import WmtpError

KILLS_A_RUN = 3


def started(work: Callable[[], object]) -> int:
    """A forked process that does something and ends."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def killed(process: int, after: float) -> bool:
    """Let it run for so many seconds, then kill it; whether it was still there."""
    end = time.monotonic() + after
    while (left := end - time.monotonic()) > 0:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            assert status == 0, f"the run itself failed: {status}"
            return False
        time.sleep(min(left, 0.001))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def run(folder: Path) -> None:
    """Start, or go on where there is a checkpoint."""
    if any((folder / "checkpoints").glob("*-*.ckpt")):
        resume_small(folder, *RESUMABLE)
    else:
        train_small(folder, *RESUMABLE)


def to_the_end(folder: Path) -> None:
    """Go on without a kill; a run that has ended only says so."""
    _, status = os.waitpid(started(lambda: run(folder)), 0)
    assert status == 0, f"the run could not go on: {status}"


def unloadable(folder: Path) -> list[str]:
    """Checkpoints that do not load."""
    bad = []
    for path in folder.rglob("*.ckpt"):
        try:
            checkpoint.load(path)
        except WmtpError as error:
            bad.append(str(error))
    return bad


def main() -> None:
    """Kill, look, resume, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after so long")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    generator = random.Random(given.seed)  # noqa: S311 - instants of kills
    base = Path(tempfile.mkdtemp(prefix="kills-"))
    os.waitpid(started(lambda: train_small(base / "reference", *RESUMABLE)), 0)
    begin = time.monotonic()
    os.waitpid(started(lambda: train_small(base / "timed", *RESUMABLE)), 0)
    length = time.monotonic() - begin
    expected = contents_of(base / "reference")
    kills = runs = bad = differ = leftover = 0
    end = time.monotonic() + given.seconds
    while kills < given.kills and time.monotonic() < end:
        folder = base / f"run-{runs}"
        for _ in range(KILLS_A_RUN):
            if not killed(started(lambda folder=folder: run(folder)), generator.uniform(0, length)):  # type: ignore[misc]
                break
            kills += 1
            bad += len(unloadable(folder))
        to_the_end(folder)
        runs += 1
        found = contents_of(folder)
        temporary = [name for name in found[0] if checkpoint.TEMPORARY in name]
        leftover += len(temporary)
        same = found[0] == expected[0] and not unequal(found[1], expected[1])
        differ += not same
        shutil.rmtree(folder)
        print(f"run {runs}: {kills} kills, {differ} differ, {bad} do not load, {leftover} temporary files", flush=True)
    shutil.rmtree(base)
    print(f"{kills} kills in {runs} runs of {length:.2f} s: {differ} runs ended otherwise than the uninterrupted one, ")
    print(f"{bad} checkpoints did not load, {leftover} temporary files were left")
    raise SystemExit(bool(bad or differ or leftover))


if __name__ == "__main__":
    main()

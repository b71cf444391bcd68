"""False alarms, power and time to a decision of `gradgate compare`, on fresh pairs of checkouts.

Run with `python -m benchmarks.gate [ROUNDS] [--log FILE]`: in each round every step of `gate_steps`, identical, 5 % and
3 % slower, and sleeping. The log has a line of JSON a trial; with 0 rounds it is only read.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import gate_steps
from gradgate.gates.stats import wilson

CASES = {"identical": {}, "+5 %": {"slower": 5.0}, "+3 %": {"slower": 3.0}, "sleeping": {"sleep_s": 0.004}}
TIMED = ("cpu_time", "wall_time")


def checkout(folder: Path, kind: str, options: dict[str, float]) -> None:
    folder.mkdir()
    shutil.copy(gate_steps.__file__, folder / "gate_steps.py")
    call = f"gate_steps.make({kind!r}, **{options})"
    (folder / "bench.py").write_text(f"import gate_steps\n\n\ndef make():\n    return {call}\n")


def trial(kind: str, case: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkout(folder / "base", kind, {})
        checkout(folder / "head", kind, CASES[case])
        command = [sys.executable, "-m", "gradgate.cli", "compare", "bench:make", "--base", "base", "--head", "head"]
        load, began = os.getloadavg()[0], time.perf_counter()
        done = subprocess.run(  # noqa: S603
            [*command, "--json", "out.json"], cwd=folder, capture_output=True, check=False
        )
        seconds = time.perf_counter() - began
        found = json.loads((folder / "out.json").read_text())
        verdicts = {metric["metric"]: metric["verdict"] for metric in found["metrics"]}
        return {
            "kind": kind,
            "case": case,
            "load": round(load, 1),
            "seconds": round(seconds, 1),
            "exit": done.returncode,
            **{name: verdicts.get(name, found["verdict"]) for name in TIMED},
        }


def show(trials: list[dict[str, Any]]) -> None:
    for case in CASES:
        rows = [row for row in trials if row["case"] == case]
        if not rows:
            continue
        failed = sum("fail" in [row[name] for name in TIMED] for row in rows)
        noisy = sum(row["cpu_time"] == "noisy" and row["wall_time"] != "fail" for row in rows)
        share, seconds = wilson(failed, len(rows)), sorted(row["seconds"] for row in rows)
        loads = sorted(row["load"] for row in rows)
        print(f"{case}: {failed} of {len(rows)} failed ({share.low:.1%} to {share.high:.1%}), {noisy} noisy;", end=" ")
        print(f"median {seconds[len(rows) // 2]} s, 90 % {seconds[int(0.9 * len(rows))]}, most {seconds[-1]},", end=" ")
        print(f"at most 10 in {sum(s <= 10 for s in seconds)}; load {loads[0]} to {loads[-1]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rounds", type=int, nargs="?", default=1)
    parser.add_argument("--log", type=Path, default=Path("gate.jsonl"))
    options = parser.parse_args()
    for _ in range(options.rounds):
        for case in CASES:
            for kind in gate_steps.UNITS:
                with options.log.open("a") as log:
                    log.write(json.dumps(trial(kind, case)) + "\n")
    show([json.loads(line) for line in options.log.read_text().splitlines()])


if __name__ == "__main__":
    main()

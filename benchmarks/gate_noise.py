"""The noise of identical code, recorded once, and the gate's rule replayed on it as often as one likes.

`python -m benchmarks.gate_noise record FOLDER [ROUNDS]`: in each round a fresh process for each step of `gate_steps`,
300 turns of four copies. `python -m benchmarks.gate_noise replay FOLDER [DECISIONS]`: pieces of the recordings, to and
fro, cut into blocks; a slowdown and the process's own layout are added.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import random
import sys
import time
from collections.abc import Iterator
from math import exp, log
from pathlib import Path

from benchmarks import gate_steps
from gradgate.compare.priority import undisturbed
from gradgate.gates.decision import LOOKS, Said, at_rest, look, together

TOLERANCE, LAYOUT, TURNS = 0.03, 0.004, 300
Recordings = dict[str, list[list[float]]]


def record(folder: Path, rounds: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(rounds):
        for kind in gate_steps.UNITS:
            process = multiprocessing.get_context("spawn").Process(target=_record, args=(folder, kind, number))
            process.start()
            process.join()


def _record(folder: Path, kind: str, number: int) -> None:
    copies = [gate_steps.make(kind) for _ in range(4)]
    seconds = []
    with undisturbed():
        for copy in copies * 5:
            copy()
        gc.collect()
        gc.freeze()
        while len(seconds) < TURNS:
            for copy in random.sample(copies, 4):
                began = time.thread_time()
                copy()
                seconds.append(time.thread_time() - began)
    (folder / f"{kind}-{number}-{int(time.time())}.json").write_text(json.dumps(seconds))


def replay(folder: Path, decisions: int) -> None:
    recordings: Recordings = {}
    for file in sorted(folder.glob("*.json")):
        recordings.setdefault(file.name.split("-")[0], []).append(json.loads(file.read_text()))
    rng = random.Random(0)  # noqa: S311
    for kind, all_seconds in recordings.items():
        for effect in (0.0, 0.03, 0.05):
            made = [_decision(all_seconds, effect, rng) for _ in range(decisions)]
            verdicts, spent = [verdict for verdict, _ in made], sorted(seconds for _, seconds in made)
            shares = ", ".join(f"{name} {verdicts.count(name) / decisions:.1%}" for name in ("fail", "noisy"))
            print(f"{kind} +{effect:.0%}: {shares};", end=" ")
            print(f"stepping {spent[decisions // 2]:.1f} s, 90 % {spent[-decisions // 10]:.1f}", flush=True)


def _decision(all_seconds: list[list[float]], effect: float, rng: random.Random) -> tuple[str, float]:
    processes: list[Said] = []
    spent = 0.0
    while True:
        said, seconds = _process(rng.choice(all_seconds), effect, rng)
        processes.append(said)
        spent += seconds
        found = together(processes, TOLERANCE)
        if found.verdict:
            return found.verdict, spent


def _process(seconds: list[float], effect: float, rng: random.Random) -> tuple[Said, float]:
    luck = log(1 + effect) + rng.gauss(0, LAYOUT)
    blocks = list(_blocks(seconds, rng))
    ratios, same = [exp(ratio + luck) for ratio, _ in blocks], [exp(pair) for _, pair in blocks]
    decided = None
    for number in LOOKS:
        if not decided:
            made = look(ratios[:number], TOLERANCE)
            decided = made if made.verdict else None
        if decided and at_rest(same[:number], TOLERANCE):
            break
    assert decided
    mean_s = sum(seconds) / len(seconds)
    return Said(decided, tuple(ratios[: decided.blocks]), tuple(same[:number])), 4.5 * number * mean_s


def _blocks(seconds: list[float], rng: random.Random) -> Iterator[tuple[float, float]]:
    """Logarithms of both ratios, as of as many blocks as the last look wants; the recording goes round, to and fro."""
    there = [log(one) for one in seconds]
    start, sign = rng.randrange(len(there)), rng.choice((-1, 1))
    turns = (there[start:] + there[:start]) if rng.random() < 1 / 2 else (there[start::-1] + there[:start:-1])
    turns += turns[::-1][
        rng.randrange(2) :
    ]  # else the way back would always undo, or double, the noise of the way there
    for at in range(0, 4 * LOOKS[-1], 4):
        a, b, c, d, e = turns[at : at + 5]
        yield sign * ((b + d) / 2 - (a / 2 + c + e / 2) / 2), (b - c - d + e) / 2


if __name__ == "__main__":
    doing, where, *count = sys.argv[1:]
    {"record": record, "replay": replay}[doing](Path(where), int(count[0]) if count else 10)

"""How often change points are seen in noise alone, and how often a step of +5 % is: synthetic histories.

Run with `python -m benchmarks.changes [HISTORIES]`. Noise: normal; Student's t with 3 degrees of freedom; normal with a
tenth of spikes; autoregressive with the coefficient named.
"""

from __future__ import annotations

import sys

from fixtures.histories import LENGTHS, NOISE, STEPS, false_alarms, found


def main(histories: int) -> None:
    for kind in NOISE:
        alarms = [false_alarms(kind, length, histories) for length in LENGTHS]
        print(f"noise alone, {kind}: {alarms} of {histories} each, at {LENGTHS} checks", flush=True)
    for kind in ("normal", "heavy-tailed", "spikes"):
        for deviation in (0.01, 0.02, 0.03):
            hits = [found(kind, length, since, deviation, histories // 4) for length, since in STEPS]
            print(f"+5 %, {kind}, deviation {deviation:.0%}: {hits} of {histories // 4} each, at {STEPS}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)

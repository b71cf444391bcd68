"""What the tests cover, together and for each package alone: a well-covered package must not hide another.

coverage json -q -o - | python -m benchmarks.coverage_totals
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import Any

PARTS = ("", "harness/gradgate/", "harness/gradgate_wmtp/", "wmtp/")
LEAST = 90  # percent, with branches
SHOWN = 15  # files of a part that has less


def percent(summaries: Iterable[Mapping[str, int]]) -> float:
    """Covered lines and branches of all lines and branches, as coverage.py counts them."""
    held = list(summaries)
    covered = sum(one["covered_lines"] + one["covered_branches"] for one in held)
    return 100.0 * covered / max(sum(one["num_statements"] + one["num_branches"] for one in held), 1)


def main(report: str) -> int:
    """Print the percentages of a report; 1 where one is too low, with the files that lack most."""
    files: Mapping[str, Any] = json.loads(report)["files"]
    summaries = {name.replace("\\", "/"): file["summary"] for name, file in files.items()}
    low = False
    for part in PARTS:
        own = {name: summary for name, summary in summaries.items() if name.startswith(part)}
        total = percent(own.values())
        print(f"coverage with branches, percent: {part.rstrip('/') or 'all'} {total:.1f}")
        if total < LEAST:
            low = True
            lacking = sorted(own, key=lambda name: -own[name]["missing_lines"])
            print(f"  allowed: {LEAST}; lines that no test reaches: ", end="")
            print(", ".join(f"{name} {own[name]['missing_lines']}" for name in lacking[:SHOWN]))
    return int(low)


if __name__ == "__main__":
    sys.exit(main(sys.stdin.read()))

"""Turns: how long they are, what they may cost, and a timing as JSON; for one process as for two workers. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from gradgate.gates.decision import LOOKS
from gradgate.gates.timing import COPIES, Timing

TURN_S = 0.025  # a turn is at least so long: shorter ones are mostly cold caches and the clock's own cost
WALL_TOLERANCE = 0.10  # the wall clock is a second, coarse rule: CPU time is blind to sleeping, locks and data loading


def steps_a_turn(step_s: float) -> int:
    """As many steps as make a turn."""
    return max(1, round(TURN_S / step_s))


def beyond_budget(turn_s: float, budget_s: float) -> str:
    """Why not even the first look fits the budget; empty where it does."""
    needed_s = turn_s * len(COPIES) * LOOKS[0]
    if needed_s <= budget_s:
        return ""
    return f"{LOOKS[0]} blocks of this step take about {needed_s:.0f} s, the budget is {budget_s:g} s: raise --budget"


def tolerances_of(quantities: Iterable[str], tolerance: float) -> dict[str, float]:
    """T by quantity."""
    return {name: max(WALL_TOLERANCE, tolerance) if name == "wall_time" else tolerance for name in quantities}


def timing_tree(timing: Timing, tolerances: Mapping[str, float], mode: str) -> dict[str, Any]:
    """A timing as JSON."""
    check = timing.self_check
    return {
        "mode": mode,
        "seconds": round(timing.seconds, 3),
        "same": timing.same,
        "ratios": dict(timing.ratios),
        "self_check": {**asdict(check.ratio), "verdict": check.verdict, "blocks": check.blocks},
        "decisions": {
            name: {**asdict(made.ratio), "verdict": made.verdict, "blocks": made.blocks, "tolerance": tolerances[name]}
            for name, made in timing.decisions.items()
        },
        "samples": [
            [[*copy, dict(sample.seconds), sample.waited_s, sample.preempted] for copy, sample in block]
            for block in timing.blocks
        ],
    }

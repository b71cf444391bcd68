"""Comparison: what a gate says of base and head, as JSON and reports show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

GateVerdict = Literal["fail", "incomparable", "noisy", "improved", "changed", "pass"]
GATE_VERDICTS: tuple[GateVerdict, ...] = get_args(GateVerdict)  # worst first: the first that occurs is the overall one
SCHEMA_VERSION = 1

TIMED = ("cpu_time", "wall_time", "device_time")
COUNTED = (
    "op_signature", "op_count", "flops", "saved_bytes", "saved_calls", "autograd_nodes", "live_peak_bytes",
    "total_bytes", "host_syncs", "forwards", "recompiles", "leak", "device_peak_bytes",
)  # fmt: skip
METRICS = (*TIMED, *COUNTED)


@dataclass(frozen=True, slots=True)
class Metric:
    """One quantity, judged. What does not apply is None or empty, and left out of the JSON.

    Args:
        metric: its name, from `METRICS`.
        verdict: fail, incomparable, noisy, improved, changed or pass.
        ratio: head over base, of a timed quantity.
        interval: its bounds.
        tolerance: by how much it may grow, as a share.
        blocks: how many mirrored blocks the ratio rests on.
        seconds: how long both sides were stepped for it.
        mode: one-process, or two-workers, which is weaker.
        processes: what each fresh process estimated, in order.
        base: a counter's value on the base side.
        head: its value on the head side.
        where: the line that grew most, or the first operation that differs: `step.py:41 in forward()`.
        source: that line's text.
        reason: what the number alone does not say.
        accepted: the reason given for a growth that is meant.
    """

    metric: str
    verdict: GateVerdict
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    tolerance: float | None = None
    blocks: int | None = None
    seconds: float | None = None
    mode: str = ""
    processes: tuple[str, ...] = ()
    base: int | str | None = None
    head: int | str | None = None
    where: str = ""
    source: str = ""
    reason: str = ""
    accepted: str = ""

    def tree(self) -> dict[str, Any]:
        """As JSON, without what does not apply."""
        return {key: value for key, value in asdict(self).items() if value is not None and value not in ("", ())}


@dataclass(frozen=True, slots=True)
class Comparison:
    """Base against head.

    Args:
        target: `module:factory`.
        base: what base is: folder, and commit where it was a ref.
        head: what head is.
        metrics: every quantity that applies, also after one has failed.
        self_check: the A/A pair: its ratio, its verdict, and the false alarms observed so far.
        broken: side and error of a side that does not run; empty where both do.
        notes: what a reader should know beside the numbers.
        environment: torch, threads, machine.
        seconds: from start to decision.
    """

    target: str
    base: str
    head: str
    metrics: tuple[Metric, ...] = ()
    self_check: Mapping[str, Any] = field(default_factory=dict)
    broken: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        """The worst of the metrics; `broken` where a side does not run. A noisy wall clock alone is a note."""
        if self.broken:
            return "broken"
        found = {metric.verdict for metric in self.metrics if (metric.metric, metric.verdict) != ("wall_time", "noisy")}
        return next((verdict for verdict in GATE_VERDICTS if verdict in found), "noisy")

    def tree(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "target": self.target,
            "base": self.base,
            "head": self.head,
            "metrics": [metric.tree() for metric in self.metrics],
            "self_check": dict(self.self_check),
            "broken": dict(self.broken),
            "notes": list(self.notes),
            "environment": dict(self.environment),
            "seconds": round(self.seconds, 2),
        }

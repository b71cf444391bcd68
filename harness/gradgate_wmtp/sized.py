"""Runs of one size: batches of any length, number of rows and horizon, and what each may cost by its size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import repeat
from typing import Any, Protocol

from gradgate.subjects.contract import Batch, Run, Scaling

SIZES = {"B": 4, "S": 32, "H": 2}  # the smallest looked at, and what an axis has while another is looked at
# Operations and reads of the device depend on no size; the returns' reverse scan doubles its reach, so that it adds as
# many at each doubling. Attention is quadratic in S. A step of the value head alone is too short to be timed.
STAGE1_EXPONENTS: Mapping[str, Mapping[str, float]] = {
    axis: {"op_count": 0, "host_syncs": 0, "autograd_nodes": 0, "flops": 1, "saved_bytes": 1} for axis in ("S", "B")
}
STAGE2_EXPONENTS: Mapping[str, Mapping[str, float]] = {
    "S": {"op_count": 0, "host_syncs": 0, "autograd_nodes": 0, "flops": 2, "saved_bytes": 1, "cpu_time": 2},
    "B": {"op_count": 0, "host_syncs": 0, "autograd_nodes": 0, "flops": 1, "saved_bytes": 1, "cpu_time": 1},
    "H": {"op_count": 0, "host_syncs": 0, "autograd_nodes": 0, "flops": 1, "saved_bytes": 1, "cpu_time": 1},
}


class Sizable(Protocol):
    """A run that can make a batch of any size."""

    def of_size(self, rows: int, length: int) -> Batch:
        """Rows of random tokens, all real."""


class SizedRun(Run):
    """A run whose batches are all the same one."""

    def __init__(self, inner: Any, batch: Batch) -> None:
        self.inner, self.batch = inner, batch
        self.modules, self.optimizers = inner.modules, inner.optimizers

    def batches(self) -> Iterator[Batch]:
        """The one batch."""
        return repeat(self.batch)

    def step(self, batch: Batch) -> Mapping[str, float]:
        """The stage's own step."""
        metrics: Mapping[str, float] = self.inner.step(batch)
        return metrics


def scaling_of(kind: Any, exponents: Mapping[str, Mapping[str, float]]) -> Mapping[str, Scaling]:
    """How the cost of a stage's runs may grow.

    Args:
        kind: the class of its runs, `Sizable`.
        exponents: by axis and cost.
    """
    return {axis: Scaling(partial(_start, kind, axis), SIZES[axis], allowed) for axis, allowed in exponents.items()}


def _start(kind: Any, axis: str, size: int, seed: int, *, device: str = "cpu") -> Run:
    sizes = {**SIZES, axis: size}
    options = {"data.max_length": sizes["S"], "train.horizon": sizes["H"]}
    inner = kind(seed, device=device, options=options)
    return SizedRun(inner, inner.of_size(sizes["B"], sizes["S"]))

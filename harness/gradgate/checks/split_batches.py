"""One update on a batch as a whole and in micro-batches: the gradients with which the optimizers step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.count_lines import line_of_parts
from gradgate.checks.invariance import Distance, Probe, elements
from gradgate.checks.own_lines import Line
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.updates import gradients_at_updates
from gradgate.checks.without_dropout import without_dropout
from gradgate.subjects.contract import Batch, Context, Run, Stage

SMALL = 2.0**-30


@dataclass(frozen=True)
class Split:
    """A batch that is cut into micro-batches.

    Args:
        stage: of the runs that step on them.
        context: seed and device.
        whole: the batch.
        parts: the micro-batches.
        cut: the rows of each.
        distance: of the gradient from that of the whole.
    """

    stage: Stage
    context: Context
    whole: Batch
    parts: Sequence[Batch]
    cut: Sequence[Sequence[int]]
    distance: Distance

    def line(self, source: Path | None) -> Line | None:
        """The line that does not hand the count of the whole on."""
        gradient = partial(_gradient, self.stage, self.context)
        return line_of_parts(partial(gradient, [self.whole]), partial(gradient, self.parts), self._is_near, source)

    def _is_near(self, one: Tensor, other: Tensor) -> bool:
        return float((one - other).norm()) / SMALL <= self.distance.allowed


def splits_of(probe: Probe, stage: Stage, context: Context, batch: Batch, rows: Sequence[int]) -> list[Split]:
    """How far the gradient of one step on parts of the batch is from that on the whole, for each way to cut it."""
    cuts = [[[row] for row in rows], [[rows[0]], list(rows[1:])]] if len(rows) > 1 else []
    whole = _gradient(stage, context, [batch])
    size = float(whole.norm())
    noise = probe.noise(batch, probe(batch))["the gradient of `total`"] * SMALL
    allowed = 2 * elements(batch) * (noise + probe.unit * size)
    found = []
    for cut in cuts:
        with calling("select_rows()"):
            parts = [probe.run.select_rows(batch, part) for part in cut]
        moved = float((_gradient(stage, context, parts) - whole).norm())
        distance = Distance("the gradient", moved / SMALL, allowed / SMALL, size / SMALL)
        found.append(Split(stage, context, batch, parts, cut, distance))
    return found


def _gradient(stage: Stage, context: Context, parts: Sequence[Batch]) -> Tensor:
    """Double[P]: what the optimizers step with in a fresh run's first step on these micro-batches."""
    with calling("start()"):
        run: Run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    trained = [parameter for parameter in named_parameters(run) if parameter.requires_grad]
    with calling("window()"):
        batch = run.window(parts)
    with (
        seeded(context.seed),
        without_dropout(),
        _small_backwards(),
        gradients_at_updates(trained) as updates,
        calling(f"step() on {len(parts)} micro-batches"),
    ):
        run.step(batch)
    gradients = [gradient for update in updates[:1] for gradient in update.gradients.values()]
    flat = [g.double().flatten().cpu() if g is not None else p.new_zeros(p.numel(), dtype=torch.float64).cpu()
            for g, p in zip(gradients, trained, strict=False)]  # fmt: skip
    return torch.cat(flat) if flat else torch.zeros(1, dtype=torch.float64)


@contextmanager
def _small_backwards() -> Iterator[None]:
    """Scale what every backward starts from, where that is the loss itself, so that no gradient is clipped."""
    original = torch.autograd.backward

    def small(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
        if grad_tensors is None:
            tensors = tensors * SMALL if isinstance(tensors, Tensor) else [tensor * SMALL for tensor in tensors]
        return original(tensors, grad_tensors, *args, **kwargs)

    torch.autograd.backward = small
    try:
        yield
    finally:
        torch.autograd.backward = original

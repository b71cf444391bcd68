"""Where a stage that runs in 16 bits takes its losses of 16-bit numbers, and differences of its values."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradgate.checks.modes import running_modules
from gradgate.checks.own_lines import own_frames
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.tolerances import HALF
from gradgate.core.finding import Location
from gradgate.core.origin import at_line
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Stage

LOSSES = (
    "_log_softmax", "nll_loss_forward", "nll_loss2d_forward", "mse_loss", "huber_loss", "smooth_l1_loss", "l1_loss",
    "binary_cross_entropy", "binary_cross_entropy_with_logits",
)  # fmt: skip


@dataclass(frozen=True)
class Narrow:
    """An operation on 16-bit numbers.

    Args:
        stage: the stage's name.
        precision: as `Stage.precisions` names it.
        operation: `log_softmax`, or `sub` of values.
        dtype: what it takes.
        place: the line that does it.
    """

    stage: str
    precision: str
    operation: str
    dtype: torch.dtype
    place: Location | None

    @property
    def is_of_the_cpu(self) -> bool:
        """Whether it may be so on the CPU alone: CUDA's autocast widens these, that of the CPU does not."""
        return "+" in self.precision and self.operation != "sub"


def narrow_losses(stage: Stage, context: Context, source: Path | None) -> Iterator[Narrow]:
    """The operations of each of a stage's precisions, each line once."""
    for precision, start in (stage.precisions or {}).items():
        with calling(f"start() in {precision}"):
            run = start(context.seed, device=context.device)
        if "losses" not in declared(run):
            continue
        batch = next(iter(run.batches()))
        positions = tuple(run.valid(batch).shape) if "valid" in declared(run) else ()
        counted, told = running_modules(), calling("losses()")
        with seeded(context.seed), told, counted as running, _Watch(source, positions, running) as watch:
            run.losses(batch)
        for (operation, place), dtype in watch.seen.items():
            yield Narrow(stage.name, precision, operation, dtype, place)


class _Watch(TorchDispatchMode):
    """Notes losses of 16-bit numbers, and, outside of modules, differences of one 16-bit number a position."""

    def __init__(self, source: Path | None, positions: tuple[int, ...], running: list[nn.Module]) -> None:
        super().__init__()
        self.source, self.running = source, running
        self.counts = {prod(positions), prod((*positions[:-1], positions[-1] - 1))} if positions else set()
        self.seen: dict[tuple[str, Location | None], torch.dtype] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in LOSSES or (name == "sub" and not self.running):
            given = [each for each in args if isinstance(each, Tensor)]
            narrow = given[0].dtype in HALF if name in LOSSES else self._are_values(given)
            if narrow:
                self.seen.setdefault((name.removeprefix("_").removesuffix("_forward"), self._line()), given[0].dtype)
        return func(*args, **(kwargs or {}))

    def _are_values(self, given: list[Tensor]) -> bool:
        return bool(given) and all(each.dtype in HALF for each in given) and given[0].numel() in self.counts

    def _line(self) -> Location | None:
        own = own_frames(sys._getframe(2), self.source)
        return at_line(own[0].f_code, own[0].f_lineno) if own else None

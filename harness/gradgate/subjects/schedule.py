"""What a configuration declares of rates: by step, as a literal formula kept apart from any trainer; by parameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from gradgate.core.errors import SubjectError, nearest

if TYPE_CHECKING:
    from torch import nn

Shape = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up to a peak, then constant, in a line or along half a cosine down to a share of it.

    Args:
        peak: learning rate behind the warm-up.
        total_steps: optimizer steps of the whole run; without meaning where the shape is constant.
        warmup_steps: optimizer steps of warm-up.
        shape: behind the warm-up.
        final_ratio: share of the peak at the end.
        from_zero: whether the first step's rate is 0 (Hugging Face) or the first of equal steps up.
        ends_at_last: whether the last step has the final rate, or the one that would come behind it (Hugging Face).
        peaks_once: whether the last step of the warm-up alone has the peak, or the first one behind it, too.

    Raises:
        SubjectError: an unknown shape, or no total where one is needed.
    """

    peak: float
    total_steps: int = 0
    warmup_steps: int = 0
    shape: Shape = "constant"
    final_ratio: float = 0.0
    from_zero: bool = False
    ends_at_last: bool = True
    peaks_once: bool = False

    def __post_init__(self) -> None:
        shapes = get_args(Shape)
        if self.shape not in shapes:
            known = ", ".join(shapes)
            raise SubjectError(f"Schedule: no shape {self.shape!r}, only {known}{nearest(str(self.shape), shapes)}")
        if self.shape != "constant" and self.total_steps <= 0:
            raise SubjectError(f"Schedule: shape {self.shape!r} needs `total_steps`, got {self.total_steps}")

    def __call__(self, step: int) -> float:
        """The learning rate of an optimizer step.

        Args:
            step: from 0.
        """
        if step < self.warmup_steps:
            return self.peak * (step if self.from_zero else step + 1) / self.warmup_steps
        if self.shape == "constant":
            return self.peak
        last = self.total_steps - 1 if self.ends_at_last else self.total_steps
        top = max(0, self.warmup_steps - 1) if self.peaks_once else self.warmup_steps
        progress = min(1.0, (step - top) / max(1, last - top))
        left = (1 + math.cos(math.pi * progress)) / 2 if self.shape == "cosine" else 1 - progress
        return self.peak * (self.final_ratio + (1 - self.final_ratio) * left)


@dataclass(frozen=True, slots=True)
class ByParameter:
    """A number of a module's groups that its parameters do not share: see `by_parameter`.

    Args:
        choose: `choose(name, parameter)`, the parameter's own; `name` as the module has it.
    """

    choose: Callable[[str, nn.Parameter], Any]


def by_parameter(choose: Callable[[str, nn.Parameter], Any]) -> ByParameter:
    """What a module's parameters are declared to have, one by one, for `Run.rates`.

    Args:
        choose: `choose(name, parameter)` gives a number, a `Schedule` or, in a module's place, all that its group has.
    """
    return ByParameter(choose)


def on_matrices(number: float, otherwise: float = 0.0) -> ByParameter:
    """A number for matrices alone, for `Run.rates`: `{"weight_decay": gradgate.on_matrices(0.1)}`.

    Args:
        number: of parameters with two dimensions or more.
        otherwise: of norms and biases.
    """
    return ByParameter(lambda _, parameter: number if parameter.ndim > 1 else otherwise)

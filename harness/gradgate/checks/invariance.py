"""Losses and gradients of one batch and of another that should have the same: how far apart, and how far allowed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradgate.checks import batches
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.errors import SubjectError
from gradgate.generators import are_same, states
from gradgate.subjects.contract import Batch, Context, Run, Stage

UNIT = 2.0**-53
_CASTS = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
DRAWS = 3  # changes of all parameters by one roundoff, whose largest effect is the noise


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one batch gives.

    Args:
        terms: loss terms by name.
        gradients: of each term with respect to all trainable parameters in a row, Double[P].
    """

    terms: Mapping[str, float]
    gradients: Mapping[str, Tensor]

    def quantities(self) -> dict[str, Tensor]:
        """Each term and its gradient, under the names that messages show."""
        found = {f"`{name}`": torch.tensor([value], dtype=torch.float64) for name, value in self.terms.items()}
        return found | {f"the gradient of `{name}`": gradient for name, gradient in self.gradients.items()}


@dataclass(frozen=True, slots=True)
class Distance:
    """The quantity that is furthest beyond what it may be.

    Args:
        quantity: its name.
        measured: Euclidean distance between its two values.
        allowed: what roundoff may do.
        size: norm of the first value.
    """

    quantity: str
    measured: float
    allowed: float
    size: float

    @property
    def is_beyond(self) -> bool:
        """Whether it is further off than roundoff may be; NaN is."""
        return not self.measured <= self.allowed

    @property
    def term(self) -> str:
        """The loss term that the quantity is, or is the gradient of."""
        return self.quantity.split("`")[1]


class Probe:
    """A run in float64 whose losses are asked for again and again, at one point and without dropout.

    Roundoff: to reorder a sum of n terms, or to compute it in other blocks, changes each term by at most n u of itself
    to first order. What a change of every parameter by u does to a quantity is measured (the noise, the largest of 3
    random sign patterns): that is its condition. u is that of the coarsest dtype that anything is cast to: a norm that
    computes in float32 whatever it is given makes the whole as exact as float32. A quantity may differ by n times
    (noise + u times its size), with n the number of elements of the batch's largest tensor; twice, since both values
    are rounded.

    Args:
        stage: it is started.
        context: seed and device.
        with_total: whether the gradient of `total` is a quantity too, where there are other terms.
    """

    def __init__(self, stage: Stage, context: Context, *, with_total: bool = False) -> None:
        with calling("start()"):
            self.run: Run = stage.start(context.seed, dtype=torch.float64, device=context.device)
        self.seed, self._with_total = context.seed, with_total
        self._parameters: list[nn.Parameter] = [p for p in named_parameters(self.run) if p.requires_grad]
        self.draws_beyond_dropout = False
        self._first, self.unit = True, UNIT

    def batches(self, count: int) -> list[Batch]:
        """The run's first batches."""
        return list(islice(self.run.batches(), count))

    def __call__(self, batch: Batch) -> Evaluation:
        """Losses and gradients of a batch; the run is not changed."""
        with seeded(self.seed), without_dropout():
            before = states()
            with calling("losses()"), Casts() if self._first else nullcontext() as casts:
                terms = self.run.losses(batch)
            if casts is not None:
                self._first, self.unit = False, max(casts.unit, *map(_unit, terms.values()))
            if not are_same(before, states()):
                self.draws_beyond_dropout = True
            if "total" not in terms:
                raise SubjectError("losses() has no term 'total'; see GG001")
            kept = {name: term for name, term in terms.items() if name != "total" or self._with_total} or dict(terms)
            gradients = {name: self._gradient(term) for name, term in kept.items()}
        return Evaluation({name: float(term.detach()) for name, term in terms.items()}, gradients)

    def noise(self, batch: Batch, at: Evaluation) -> dict[str, float]:
        """How far each quantity moves where every parameter changes by one roundoff."""
        moved = dict.fromkeys(at.quantities(), 0.0)
        for _ in perturbed(self._parameters, self.seed, 2 * self.unit):
            for name, value in self(batch).quantities().items():
                moved[name] = max(moved[name], float((value - at.quantities()[name]).norm()))
        return moved

    def furthest(self, batch: Batch, others: Sequence[Batch]) -> Distance:
        """The quantity of any of the others that is furthest from the batch's own, by what it may be."""
        ours = self(batch)
        noise, count = self.noise(batch, ours), elements(batch, *others)
        found = []
        for other in others:
            theirs = self(other).quantities()
            for name, value in ours.quantities().items():
                size = float(value.norm())
                allowed = 2 * count * (noise[name] + self.unit * size)
                found.append(Distance(name, float((theirs[name] - value).norm()), allowed, size))
        return max(found, key=lambda distance: (distance.is_beyond, distance.measured / (distance.allowed or 1.0)))

    def _gradient(self, term: Tensor) -> Tensor:
        open_ = [parameter for parameter in self._parameters if parameter.requires_grad]  # a step may freeze some
        if not term.requires_grad or not open_:
            return torch.zeros(max(1, sum(map(Tensor.numel, self._parameters))), dtype=torch.float64)
        found = dict(zip(open_, torch.autograd.grad(term, open_, retain_graph=True, allow_unused=True), strict=True))
        parts = [
            (torch.zeros_like(parameter) if (gradient := found.get(parameter)) is None else gradient).detach()
            for parameter in self._parameters
        ]
        return torch.cat([part.double().flatten().cpu() for part in parts])


class Casts(TorchDispatchMode):
    """Sees where numbers are cast to a coarser floating dtype, with a graph or without.

    Attributes:
        unit: unit roundoff of the coarsest dtype that anything was cast to, at least float64's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.unit = UNIT

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at it if it is a cast."""
        out = func(*args, **(kwargs or {}))
        if func in _CASTS:
            source, target = (args[1], args[0]) if func is torch.ops.aten.copy_.default else (args[0], out)
            if source.is_floating_point() and target.is_floating_point():
                self.unit = max(self.unit, float(torch.finfo(target.dtype).eps) / 2)
        return out


def _unit(term: Tensor) -> float:
    """Unit roundoff of a term's own dtype: an operation on mixed dtypes may round to the coarser without a cast."""
    return float(torch.finfo(term.dtype).eps) / 2 if term.is_floating_point() else UNIT


def perturbed(parameters: Sequence[Tensor], seed: int, relative: float = 0.0) -> Iterator[None]:
    """Change every parameter, up or down at random, in each of 3 turns; then put it back.

    Args:
        parameters: what to change.
        seed: of the signs.
        relative: by what share of itself; at least the dtype's epsilon.
    """
    generator = torch.Generator().manual_seed(seed)
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        for _ in range(DRAWS):
            with torch.no_grad():
                for parameter, value in zip(parameters, before, strict=True):
                    sign = torch.randint(0, 2, value.shape, generator=generator).to(value) * 2 - 1
                    parameter.copy_(value * (1 + max(relative, torch.finfo(value.dtype).eps) * sign))
            yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)


def elements(*several: Batch) -> int:
    """Number of elements of the largest tensor in any of these batches."""
    sizes = [leaf.numel() for batch in several for _, leaf in batches.leaves(batch) if isinstance(leaf, Tensor)]
    return max(sizes, default=1)


def rows_of(batch: Batch) -> int:
    """B: the leading size that most tensors of a batch share; 0 where it has none."""
    sizes = [leaf.shape[0] for _, leaf in batches.leaves(batch) if isinstance(leaf, Tensor) and leaf.dim()]
    return max(set(sizes), key=sizes.count, default=0)

"""Where the effect of a key ends that changes what operations compute, and nothing that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.leaks import are_apart
from gradgate.checks.traced import Done, Site, Traced
from gradgate.core.finding import Location

Ask = Callable[[], Any]
_Key = tuple[Site, int]
_SELECTS = frozenset(
    {"where", "masked_fill", "masked_fill_", "masked_select", "gather", "index_select", "__getitem__", "__setitem__"}
)


def line_of_end(one: Ask, other: Ask, source: Path | None) -> Location | None:
    """The last operation that is given, or gives, other numbers in one of two runs that come to the same.

    None where it only selects: what a mask leaves out may count on other data.

    Args:
        one: a step of a run.
        other: the same of a run that differs from it by a key.
        source: the subject's own folder.
    """
    before = {_key(done): done for done in _traced(one, source)}
    ends = [done for done in _traced(other, source) if _differs(before.get(_key(done)), done)]
    return ends[-1].place if ends and ends[-1].site.name not in _SELECTS else None


def line_of_lost_gradient(one: Ask, other: Ask, source: Path | None) -> Location | None:
    """The last operation behind which there is a gradient and in front of which there is none, among those that are on
    the graph in one of the two runs alone.

    Args:
        one: gives the loss of a run.
        other: the same of a run that differs from it by a key.
        source: the subject's own folder.
    """
    sides = [Traced(source) for _ in range(2)]
    losses = []
    for side, ask in zip(sides, (one, other), strict=True):
        with side:
            losses.append(ask())
    graphs = [{_key(done): _is_on_graph(done) for done in side.done} for side in sides]
    for number, side in enumerate(sides):
        alone = [
            done for done in side.done if graphs[number][_key(done)] and graphs[1 - number].get(_key(done)) is False
        ]
        for done in reversed(alone):
            if _loses(done, losses[number]):
                return done.place
    return None


def _traced(ask: Ask, source: Path | None) -> Sequence[Done]:
    mode = Traced(source)
    with mode:
        ask()
    return mode.done


def _key(done: Done) -> _Key:
    return done.site, done.number


def _differs(before: Done | None, after: Done) -> bool:
    """Whether what an operation is given, or gives, has changed; of one that was not done before nothing is known."""
    if before is None:
        return False
    pairs = [(before.given[key], given) for key, given in after.given.items() if key in before.given]
    pairs += zip(before.outputs, after.outputs, strict=False)
    return any(are_apart(one, other) for one, other in pairs)


def _is_on_graph(done: Done) -> bool:
    return any(made.requires_grad for made in done.own)


def _loses(done: Done, loss: Tensor) -> bool:
    """Whether a gradient reaches what an operation gives, and nothing of it what it is given."""
    made = [each for each in done.own if each.requires_grad]
    taken = [each for each in done.taken.values() if each.requires_grad and each.grad_fn is not None]
    reached = _gradients(loss, made)
    if not taken or not any(bool(gradient.any()) for gradient in reached):
        return False
    return not any(bool(gradient.any()) for gradient in _gradients(made, taken, reached))


def _gradients(outputs: Any, inputs: Sequence[Tensor], given: Sequence[Tensor] | None = None) -> Sequence[Tensor]:
    return torch.autograd.grad(outputs, inputs, given, retain_graph=True, materialize_grads=True)

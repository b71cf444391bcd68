"""Which own line gives a loss term another divisor than its count, or weights that do not share out a position.

A term that nothing divides, or that another number does, is wrong where somebody has the right one in hands: in the
innermost function that holds it. Numbers of micro-batches that add up to those of the whole batch are put in for them;
where that makes the update right, the caller that holds the whole's is named, which did not hand it on. Weights are
put in one operation after the other so that each position's sum to 1.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isclose
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradgate.checks.culprits import Failing, culprit
from gradgate.checks.mean_shares import Shares
from gradgate.checks.oracle_steps import Step
from gradgate.checks.own_lines import Line, own_frames, searched
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.traced import Instead, Site, Traced
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.finding import Location
from gradgate.core.origin import at_line
from gradgate.subjects.contract import Batch, Run

SECONDS = 4.0  # of processor time for the weights
DEEP = 2  # objects and containers around a count that a function holds
MOST = 64  # items of a container that are looked at
_DIVIDES = frozenset(
    {
        "div",
        "div_",
        "__truediv__",
        "__itruediv__",
        "true_divide",
        "divide",
        "mul",
        "mul_",
        "__mul__",
        "__rmul__",
        "__imul__",
    }
)
_SUMS = ("sum", "nansum", "dot", "vdot", "inner", "einsum")

_Key = tuple[Site, int]
Shared = Callable[[Run, Batch], Shares | None]


@dataclass(frozen=True, slots=True)
class Asked:
    """A run, a batch of it, and what its tokens are asked for.

    Args:
        run: live, in float64.
        batch: of its.
        seed: of the random state.
        shares: from a run and a batch, what each token counts.
    """

    run: Run
    batch: Batch
    seed: int
    shares: Shared = lambda *_: None

    def term(self, name: str) -> Tensor:
        """A loss term of the batch."""
        with seeded(self.seed), without_dropout(), calling("losses()"):
            return self.run.losses(self.batch)[name]

    def asked(self) -> Shares | None:
        """What each token counts."""
        return self.shares(self.run, self.batch)


class Counts(TorchFunctionMode):
    """The Python numbers that operations of own code divide by, or multiply by; or others in the place of some.

    Args:
        source: as for `Traced`.
        instead: for some of them what they are to be, each time.

    Attributes:
        given: every number, in order.
        frames: for each what its own functions hold, innermost first.
    """

    def __init__(self, source: Path | None, instead: Mapping[_Key, Sequence[float]] | None = None) -> None:
        super().__init__()
        self.given: dict[_Key, list[float]] = {}
        self.frames: dict[_Key, list[_Frame]] = {}
        self._source, self._instead = source, instead or {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation with what it is to be given."""
        name = getattr(func, "__name__", "")
        frames = own_frames(sys._getframe(1), self._source) if len(args) > 1 and name in _DIVIDES else []
        if frames:
            site, new = Site(frames[0].f_code, frames[0].f_lasti, name), list(args)
            for place, number in enumerate(args):
                if not isinstance(number, int | float) or isinstance(number, bool):
                    continue
                key, seen = (site, place), self.given.setdefault((site, place), [])
                self.frames.setdefault(key, [_Frame(frame) for frame in frames])
                numbers = self._instead.get(key, ())
                new[place] = numbers[len(seen)] if len(seen) < len(numbers) else number
                seen.append(float(number))
            args = tuple(new)
        return func(*args, **(kwargs or {}))


class _Frame:
    """A function as it was when an operation ran: its line, and the numbers in its hands."""

    def __init__(self, frame: FrameType) -> None:
        self.line: Line = (frame.f_code, frame.f_lineno)
        self.numbers = set(_numbers(list(frame.f_locals.values())))


def line_of_divisor(ask: Callable[[], Tensor], count: int | None, source: Path | None) -> Location | None:
    """Where a loss term is made: of a sum, in the innermost function that has the count in hands; else its operation.

    Args:
        ask: computes the term.
        count: of what it should be a mean; None: not known.
        source: the subject's own folder.
    """
    trace = Traced(source)
    with trace:
        term = ask()
    made = [done for done in trace.done if any(own is term for own in done.own)]
    found: list[Location] = []

    def asked(frames: Sequence[FrameType], *_: Any) -> None:
        able = frames if made[-1].site.name in _SUMS else ()
        frame = next((frame for frame in able if count in _numbers(list(frame.f_locals.values()))), frames[0])
        found.append(at_line(frame.f_code, frame.f_lineno))

    if made:
        with Traced(source, Instead(made[-1].site, 0, None, ()), asked):
            ask()
    return found[-1] if found else None


def line_of_term(
    run: Run, batch: Batch, seed: int, term: str, source: Path | None, count: int | None = None
) -> Location | None:
    """Where a loss term of a run in float64 is made, as `line_of_divisor` finds it."""
    return searched(partial(line_of_divisor, partial(Asked(run, batch, seed).term, term), count, source), seed)


def line_of_parts(
    whole: Callable[[], Tensor],
    parts: Callable[[], Tensor],
    is_near: Callable[[Tensor, Tensor], bool],
    source: Path | None,
) -> Line | None:
    """Where an update takes a micro-batch's own count for the whole's: the innermost line that had the whole's.

    Args:
        whole: makes a fresh update on the whole batch, and gives its gradient.
        parts: the same in micro-batches.
        is_near: whether two gradients are the same.
        source: the subject's own folder.
    """
    once, several = Counts(source), Counts(source)
    with once:
        right = whole()
    with several:
        parts()
    apart = {
        key: numbers[0]
        for key, numbers in once.given.items()
        if len(numbers) == 1
        and len(several.given.get(key, ())) > 1
        and isclose(sum(several.given[key]), numbers[0], rel_tol=1e-9)
    }
    for keys in ([*apart], *([key] for key in apart)):
        with Counts(source, {key: [apart[key]] * len(several.given[key]) for key in keys}):
            if not keys or not is_near(parts(), right):
                continue
        lines = {_held_at(several.frames[key], apart[key]) for key in keys}
        return lines.pop() if len(lines) == 1 else None
    return None


def _held_at(frames: Sequence[_Frame], number: float) -> Line | None:
    """The innermost line of a function that has a number in its hands."""
    return next((frame.line for frame in frames if number in frame.numbers), None)


def line_of_shares(
    ask: Callable[[], Shares | None], holds: Callable[[Shares | None], bool], shape: Sequence[int], source: Path | None
) -> Location | None:
    """The operation whose numbers need only add up to 1 at each position for all of them to count alike.

    Args:
        ask: computes what each position counts.
        holds: whether they count alike.
        shape: of the weights, [B, S, H].
        source: the subject's own folder.
    """
    trace = Traced(source)
    with trace:
        ask()
    steps: list[Step] = []
    for done in trace.done:
        for made in done.outputs:
            total = made.sum(-1, keepdim=True) if made.dim() else made
            if list(made.shape) == list(shape) and made.is_floating_point() and bool((made >= 0).all()):
                steps.append(Step(f"shares of {len(steps)}", torch.where(total > 0, made / total, made).double()))
    return culprit([Failing(ask, holds, steps)], source, SECONDS)


def _numbers(values: Sequence[Any], depth: int = 0) -> set[float]:
    """The numbers among values, and in what they hold."""
    found: set[float] = set()
    for value in values[:MOST]:
        if isinstance(value, int | float):
            found |= set() if isinstance(value, bool) else {float(value)}
        elif isinstance(value, Mapping | list | tuple):
            inside = list(value.values()) if isinstance(value, Mapping) else list(value)
            found |= _numbers(inside, depth + 1) if depth < DEEP else set()
    return found

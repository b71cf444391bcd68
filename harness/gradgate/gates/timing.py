"""Paired time: all copies in mirrored passes, judged after each look, until every quantity is decided.

Source: mirrored order cancels a linear drift within the pass (Box, Hunter and Hunter 2005, chapter 4); the numbers that
chose the design stand in docs/decisions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, exp, log
from statistics import median
from typing import Protocol

from gradgate.gates.decision import LOOKS, Decision, at_rest, look
from gradgate.gates.stats import centre, nonnegative_slopes

BASE, HEAD = "base", "head"
Copy = tuple[str, int]
COPIES: tuple[Copy, ...] = (
    (BASE, 1),
    (HEAD, 1),
    (HEAD, 2),
    (BASE, 2),
)  # in the order in which they are built: mirrored
# Which copies stand above the line of a ratio; the others stand below. The A/A pair has one copy of each side on
# either, so that it is 1 whatever head costs, with the same noise; `_CROSSED` is another such pair.
HEAD_OVER_BASE: tuple[Copy, ...] = ((HEAD, 1), (HEAD, 2))
SAME_OVER_SAME: tuple[Copy, ...] = ((BASE, 1), (HEAD, 2))
_CROSSED: tuple[Copy, ...] = ((BASE, 1), (HEAD, 1))
PILOT = 3  # passes after which the size of a block is chosen
BLOCK_NOISE = (
    0.025  # scatter of a block's ratio at which 16 blocks tell 0 from T = 3 % (their centre scatters by 0.65 %)
)
STEPPING_S = 14.0  # aim: all blocks together take no longer
NORMAL = 0.6745  # median of |x| of the standard normal distribution

Quantity = str


@dataclass(frozen=True, slots=True)
class Sample:
    """One turn of one copy.

    Args:
        seconds: by quantity, > 0.
        waited_s: seconds in which it could have run but had no processor.
        preempted: how often a processor was taken from it.
    """

    seconds: Mapping[Quantity, float]
    waited_s: float = 0.0
    preempted: int = 0


class Turn(Protocol):
    """One copy of one side, ready to be stepped."""

    def __call__(self, steps: int) -> Sample:
        """Run so many steps."""


Pass = tuple[tuple[Copy, Sample], ...]


@dataclass(frozen=True, slots=True)
class Timing:
    """What the blocks of one process say.

    Args:
        decisions: one a quantity.
        self_check: the A/A pair's decision, by the same rule on the same blocks.
        ratios: head over base, one a block, by quantity; as many as the decision rests on.
        same: the A/A pair's ratios.
        seconds: how long the passes took.
        passes: the samples themselves.
        per_block: passes a block.
    """

    decisions: Mapping[Quantity, Decision]
    self_check: Decision
    ratios: Mapping[Quantity, tuple[float, ...]]
    same: tuple[float, ...]
    seconds: float
    passes: tuple[Pass, ...]
    per_block: int


def run_pass(turns: Mapping[Copy, Turn], steps: int, rng: random.Random) -> Pass:
    """Step every copy twice, in a shuffled order and back.

    Args:
        turns: the copies.
        steps: how many steps a turn.
        rng: shuffles.

    Returns:
        The turns in their order.
    """
    order = list(turns)
    rng.shuffle(order)
    return tuple((copy, turns[copy](steps)) for copy in (*order, *reversed(order)))


def block_ratios(passes: Sequence[Pass], quantity: Quantity, above: Sequence[Copy], per_block: int) -> list[float]:
    """Ratios of some copies over the others, one a block.

    Args:
        passes: whole blocks of them.
        quantity: which.
        above: the copies above the line.
        per_block: passes a block.

    Returns:
        The all-pairs median of a block's passes: a burst of foreign work costs a pass, not the block.
    """
    logs = pass_logs(passes, quantity, above)
    return [exp(centre(logs[i : i + per_block])) for i in range(0, len(logs), per_block)]


def pass_logs(passes: Sequence[Pass], quantity: Quantity, above: Sequence[Copy]) -> list[float]:
    """The logarithm of the ratio, one a pass, without what waiting and preemption have cost the turns.

    A turn whose processor was taken away finds its caches emptied. What that costs is estimated from turns of the same
    side within the same pass, so that a difference between the sides never passes for it, and taken off every turn.
    """
    waiting, switching = _costs(passes, quantity)
    found = []
    for turns in passes:
        over: list[float] = []
        under: list[float] = []
        for copy, sample in turns:
            cost = waiting * sample.waited_s + switching * sample.preempted
            (over if copy in above else under).append(log(sample.seconds[quantity]) - cost)
        found.append(sum(over) / len(over) - sum(under) / len(under))
    return found


def _costs(passes: Sequence[Pass], quantity: Quantity) -> tuple[float, float]:
    """What a second of waiting and a preemption add to the logarithm of a turn's time."""
    rows = []
    for turns in passes:
        for side in (BASE, HEAD):
            samples = [sample for copy, sample in turns if copy[0] == side]
            values = [(log(one.seconds[quantity]), one.waited_s, float(one.preempted)) for one in samples]
            means = [sum(column) / len(values) for column in zip(*values, strict=True)]
            rows += [tuple(x - mean for x, mean in zip(value, means, strict=True)) for value in values]
    return nonnegative_slopes([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def passes_a_block(passes: Sequence[Pass], quantity: Quantity, most: int) -> int:
    """How many passes make a block whose ratio scatters by `BLOCK_NOISE` only.

    Args:
        passes: the first ones.
        quantity: the decisive one.
        most: what the time allows.

    Returns:
        At least 1. Three contrasts of the four copies bear the noise; two of them are 0 on the logarithm whatever head
        costs, the third is taken about its centre.
    """
    effect = pass_logs(passes, quantity, HEAD_OVER_BASE)
    middle = median(effect)
    free = [*pass_logs(passes, quantity, SAME_OVER_SAME), *pass_logs(passes, quantity, _CROSSED)]
    scatter = median([abs(x) for x in (*free, *(x - middle for x in effect))]) / NORMAL
    return max(1, min(most, ceil((scatter / BLOCK_NOISE) ** 2)))


def measure(
    turns: Mapping[Copy, Turn],
    tolerances: Mapping[Quantity, float],
    *,
    steps: int,
    budget_s: float,
    clock: Callable[[], float],
    on_block: Callable[[int], None],
    seed: int = 0,
) -> Timing:
    """Run blocks until every quantity is decided and the A/A pair is at rest, or the cap or the budget is reached.

    Args:
        turns: the copies, as in `COPIES`.
        tolerances: T by quantity; the first quantity is the one that the A/A pair is judged by.
        steps: steps a turn.
        budget_s: after so many seconds no further look is begun.
        clock: wall seconds.
        on_block: told the number of blocks done.
        seed: of the order within the passes.

    Returns:
        The decisions.
    """
    rng, began = random.Random(seed), clock()  # noqa: S311 - an order, no secret
    first, per_block = next(iter(tolerances)), 1
    passes: list[Pass] = []
    decisions: dict[Quantity, Decision] = {}
    ratios: dict[Quantity, tuple[float, ...]] = {}
    for number in count(1):
        passes.append(run_pass(turns, steps, rng))
        spent = clock() - began
        if number == PILOT:
            affordable = min(budget_s, STEPPING_S) * PILOT / max(spent, 1e-9) / LOOKS[-1]
            per_block = passes_a_block(passes, first, max(1, int(affordable)))
        blocks, rest = divmod(number, per_block)
        on_block(blocks)
        if number < PILOT or rest or blocks not in LOOKS:
            continue
        later = [further for further in LOOKS if further > blocks]
        last = not later or spent * later[0] / blocks > budget_s
        for name, tolerance in tolerances.items():
            if name not in decisions or decisions[name].verdict is None:
                ratios[name] = tuple(block_ratios(passes, name, HEAD_OVER_BASE, per_block))
                decisions[name] = look(ratios[name], tolerance, last=last)
        same = block_ratios(passes, first, SAME_OVER_SAME, per_block)
        check = look(same, tolerances[first], last=last)
        settled = at_rest(same, tolerances[first])
        if last or (settled and all(decision.verdict for decision in decisions.values())):
            return Timing(decisions, check, ratios, tuple(same), spent, tuple(passes), per_block)
    raise AssertionError("the last look always decides")

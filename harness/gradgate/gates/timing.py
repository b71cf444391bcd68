"""Paired time: the sides in turns, judged after each look, until every quantity is decided.

Noise of a shared machine grows with the time between two steps: so each turn is held against its two neighbours, which
are of the other side. Weights 1/2, 1, 1, 1, 1/2 of alternating sign cancel a linear drift (Box, Hunter and Hunter 2005,
chapter 4); docs/decisions/0010 has the numbers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import exp, log
from typing import Protocol

from gradgate.gates.decision import LOOKS, Decision, at_rest, look
from gradgate.gates.stats import nonnegative_slopes

BASE, HEAD = "base", "head"
Copy = tuple[str, int]
COPIES: tuple[Copy, ...] = (
    (BASE, 1),
    (HEAD, 1),
    (HEAD, 2),
    (BASE, 2),
)  # in the order in which they are built: mirrored
_SAME: tuple[Copy, ...] = ((BASE, 1), (HEAD, 2))  # above the line of the A/A pair; the other two stand below
STEPPING_S = 14.0  # aim: all blocks together take no longer
LEAST = 18  # blocks that a slow step may take beyond that

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


Turned = tuple[Copy, Sample]
Block = tuple[Turned, ...]  # five turns, the sides in turns; the first may be the last of the block before


@dataclass(frozen=True, slots=True)
class Timing:
    """What the blocks of one process say.

    Args:
        decisions: one a quantity.
        self_check: the A/A pair's decision, by the same rule on the same blocks.
        ratios: head over base, one a block, by quantity; as many as the decision rests on.
        same: the A/A pair's ratios.
        seconds: how long the blocks took.
        blocks: the samples themselves.
    """

    decisions: Mapping[Quantity, Decision]
    self_check: Decision
    ratios: Mapping[Quantity, tuple[float, ...]]
    same: tuple[float, ...]
    seconds: float
    blocks: tuple[Block, ...]


def run_block(turns: Mapping[Copy, Turn], steps: int, rng: random.Random, before: Turned | None = None) -> Block:
    """Step every copy once, so that each turn has one of the other side right before and right after it.

    Args:
        turns: the copies.
        steps: how many steps a turn.
        rng: draws which copy of a side comes first, and now and then a turn more, of either side: what disturbs at
            regular intervals would otherwise always fall on the same side.
        before: the last turn of the block before, which this one goes on from; None: there is none.

    Returns:
        The turns in their order: the one before, and four.
    """
    if before is None or rng.random() < 1 / 2:
        copy = rng.choice(COPIES)
        before = copy, turns[copy](steps)
    side, other = (HEAD, BASE) if before[0][0] == BASE else (BASE, HEAD)
    first = rng.choice((1, 2))
    order = ((side, first), (other, first), (side, 3 - first), (other, 3 - first))
    return before, *((copy, turns[copy](steps)) for copy in order)


def block_ratios(blocks: Sequence[Block], quantity: Quantity) -> list[float]:
    """Head over base, one a block: two turns of one side and three of the other, the outer ones at half weight."""
    return [exp(effect) for effect, _ in _logs(blocks, quantity)]


def same_ratios(blocks: Sequence[Block], quantity: Quantity) -> list[float]:
    """The A/A pair, one a block: a copy of each side over the other two, so that it is 1 whatever head costs."""
    return [exp(same) for _, same in _logs(blocks, quantity)]


def _logs(blocks: Sequence[Block], quantity: Quantity) -> list[tuple[float, float]]:
    """The logarithms of both ratios, without what waiting and preemption have cost the turns.

    A turn whose processor was taken away finds its caches emptied. What that costs is estimated from turns of the same
    side within the same block, so that a difference between the sides never passes for it, and taken off every turn.
    """
    waiting, switching = _costs(blocks, quantity)
    found = []
    for block in blocks:
        a, b, c, d, e = (
            log(sample.seconds[quantity]) - waiting * sample.waited_s - switching * sample.preempted
            for _, sample in block
        )
        effect, same = (b + d) / 2 - (a / 2 + c + e / 2) / 2, (b - c - d + e) / 2
        copy = block[1][0]
        found.append((effect if copy[0] == HEAD else -effect, same if copy in _SAME else -same))
    return found


def _costs(blocks: Sequence[Block], quantity: Quantity) -> tuple[float, float]:
    """What a second of waiting and a preemption add to the logarithm of a turn's time."""
    rows = []
    for block in blocks:
        for side in (BASE, HEAD):
            samples = [sample for copy, sample in block[1:] if copy[0] == side]
            values = [(log(one.seconds[quantity]), one.waited_s, float(one.preempted)) for one in samples]
            means = [sum(column) / len(values) for column in zip(*values, strict=True)]
            rows += [tuple(x - mean for x, mean in zip(value, means, strict=True)) for value in values]
    return nonnegative_slopes([row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows])


def measure(
    turns: Mapping[Copy, Turn],
    tolerances: Mapping[Quantity, float],
    *,
    steps: int,
    budget_s: float,
    clock: Callable[[], float],
    on_look: Callable[[int], None],
    seed: int = 0,
) -> Timing:
    """Run blocks until every quantity is decided and the A/A pair is at rest, or the cap or the budget is reached.

    A slowdown of one quantity ends the others, too: they have their verdict from the blocks so far.

    Args:
        turns: the copies, as in `COPIES`.
        tolerances: T by quantity; the first quantity is the one that the A/A pair is judged by.
        steps: steps a turn.
        budget_s: after so many seconds no further look is begun.
        clock: wall seconds.
        on_look: told the number of blocks done, at each look.
        seed: of the order within the blocks.

    Returns:
        The decisions.
    """
    rng, began = random.Random(seed), clock()  # noqa: S311 - an order, no secret
    first = next(iter(tolerances))
    blocks: list[Block] = []
    decisions: dict[Quantity, Decision] = {}
    ratios: dict[Quantity, tuple[float, ...]] = {}
    for number in count(1):
        blocks.append(run_block(turns, steps, rng, blocks[-1][-1] if blocks else None))
        if number not in LOOKS:
            continue
        on_look(number)
        spent = clock() - began
        last = _is_last(number, spent, budget_s)
        for name, tolerance in tolerances.items():
            if name not in decisions or decisions[name].verdict is None:
                ratios[name] = tuple(block_ratios(blocks, name))
                slower = any(decision.verdict == "fail" for decision in decisions.values())
                decisions[name] = look(ratios[name], tolerance, last=last or slower)
        same = same_ratios(blocks, first)
        if last or (at_rest(same, tolerances[first]) and all(decision.verdict for decision in decisions.values())):
            check = look(same, tolerances[first], last=last)
            return Timing(decisions, check, ratios, tuple(same), spent, tuple(blocks))
    raise AssertionError("the last look always decides")


def _is_last(number: int, spent_s: float, budget_s: float) -> bool:
    """Whether there is no further look, or no time for it."""
    further = next((look for look in LOOKS if look > number), None)
    if further is None:
        return True
    then_s = spent_s * further / number
    return then_s > budget_s or (then_s > STEPPING_S and further > LEAST)

"""Paired time: all versions in mirrored blocks, judged after each look, until every quantity is decided.

Source: mirrored order cancels a linear drift within the block (Box, Hunter and Hunter 2005, chapter 4); the numbers
that chose the design stand in docs/decisions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import ceil, log
from typing import Protocol

from gradgate.gates.decision import LOOKS, Decision, look

BASE, HEAD = "base", "head"
Copy = tuple[str, int]
COPIES: tuple[Copy, ...] = (
    (BASE, 1),
    (HEAD, 1),
    (HEAD, 2),
    (BASE, 2),
)  # in the order in which they are built: mirrored too
PILOT = 3  # passes after which the size of a block is chosen
BLOCK_NOISE = (
    0.025  # scatter of a block's ratio at which 16 blocks tell 0 from T = 3 % (their centre scatters by 0.65 %)
)
STEPPING_S = 10.0  # aim: all blocks together take no longer

Quantity = str
Sample = Mapping[Quantity, float]  # seconds by quantity
Block = Mapping[Copy, Sample]


class Turn(Protocol):
    """One copy of one side, ready to be stepped."""

    def __call__(self, steps: int) -> Sample:
        """Run so many steps; the seconds that they took, by quantity."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What the blocks of one process say.

    Args:
        decisions: one a quantity.
        self_check: the A/A pair's decision, by the same rule on the same blocks.
        settled: whether the A/A pair stayed within half the tolerance.
        seconds: how long the blocks took.
        blocks: the samples themselves.
    """

    decisions: Mapping[Quantity, Decision]
    self_check: Decision
    settled: bool
    seconds: float
    blocks: tuple[Block, ...]


def run_pass(turns: Mapping[Copy, Turn], steps: int, rng: random.Random) -> Block:
    """Step every copy twice, in a shuffled order and back.

    Args:
        turns: the copies.
        steps: how many steps a turn.
        rng: shuffles.

    Returns:
        Seconds of both turns together, by copy and quantity.
    """
    order = list(turns)
    rng.shuffle(order)
    there = {copy: turns[copy](steps) for copy in order}
    back = {copy: turns[copy](steps) for copy in reversed(order)}
    return _added([there, back])


def _added(parts: Sequence[Block]) -> Block:
    return {copy: {name: sum(part[copy][name] for part in parts) for name in parts[0][copy]} for copy in parts[0]}


def head_over_base(blocks: Sequence[Block], quantity: Quantity) -> list[float]:
    """Head over base, one ratio a block."""
    return [_ratio(block, quantity, ((HEAD, 1), (HEAD, 2))) for block in blocks]


def same_over_same(blocks: Sequence[Block], quantity: Quantity) -> list[float]:
    """The A/A pair: a copy of each side over the other two. Whatever head costs, this is 1, with the same noise."""
    return [_ratio(block, quantity, ((BASE, 1), (HEAD, 2))) for block in blocks]


def _ratio(block: Block, quantity: Quantity, above: Sequence[Copy]) -> float:
    over, under = (
        sum(sample[quantity] for copy, sample in block.items() if (copy in above) == wanted) for wanted in (True, False)
    )
    return max(over, 1e-9) / max(under, 1e-9)


def passes_a_block(passes: Sequence[Block], quantity: Quantity, most: int) -> int:
    """How many passes make a block whose ratio scatters by `BLOCK_NOISE` only.

    Args:
        passes: the first ones.
        quantity: the decisive one.
        most: what the time allows.

    Returns:
        At least 1. Three contrasts of the four copies bear the noise; two of them are 0 on the logarithm whatever head
        costs, the third is taken about its mean.
    """
    logs = [
        [log(_ratio(one, quantity, above)) for one in passes]
        for above in (((BASE, 1), (HEAD, 2)), ((BASE, 1), (HEAD, 1)), ((HEAD, 1), (HEAD, 2)))
    ]
    effect = sum(logs[2]) / len(passes)
    squares = sum(x * x for contrast in logs[:2] for x in contrast) + sum((x - effect) ** 2 for x in logs[2])
    variance = squares / (3 * len(passes) - 1)
    return max(1, min(most, ceil(variance / BLOCK_NOISE**2)))


def measure(
    turns: Mapping[Copy, Turn],
    tolerances: Mapping[Quantity, float],
    *,
    steps: int,
    budget_s: float,
    clock: Callable[[], float],
    seed: int = 0,
    on_block: Callable[[int], None],
) -> Timing:
    """Run blocks until every quantity is decided and the A/A pair is at rest, or the cap or the budget is reached.

    Args:
        turns: the copies, as in `COPIES`.
        tolerances: T by quantity; the first quantity is the one that the A/A pair is judged by.
        steps: steps a turn.
        budget_s: after so many seconds no further look is begun.
        clock: wall seconds.
        seed: of the order within the blocks.
        on_block: told the number of blocks done.

    Returns:
        The decisions.
    """
    decisions: dict[Quantity, Decision] = {}
    rng, began = random.Random(seed), clock()  # noqa: S311 - an order, no secret
    first, cap = next(iter(tolerances)), LOOKS[-1]
    passes: list[Block] = []
    per_block = 1
    for number in count(1):
        passes.append(run_pass(turns, steps, rng))
        spent = clock() - began
        if number == PILOT:
            per_block = passes_a_block(passes, first, max(1, int(min(budget_s, STEPPING_S) * number / spent / cap)))
        on_block(number // per_block)
        if number < PILOT or number % per_block or number // per_block not in LOOKS:
            continue
        blocks = [_added(passes[i : i + per_block]) for i in range(0, number, per_block)]
        later = [look for look in LOOKS if look > len(blocks)]
        last = not later or spent * later[0] / len(blocks) > budget_s
        for name, tolerance in tolerances.items():
            if name not in decisions or decisions[name].verdict is None:
                decisions[name] = look(head_over_base(blocks, name), tolerance, last=last)
        check = look(same_over_same(blocks, first), tolerances[first], last=last)
        settled = abs(check.ratio.estimate - 1) <= tolerances[first] / 2
        if last or (settled and all(decision.verdict for decision in decisions.values())):
            return Timing(decisions, check, settled, clock() - began, tuple(blocks))
    raise AssertionError("the last look always decides")

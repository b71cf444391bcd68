"""Paired timing on a clock of its own: the order of turns, what the ratios mean, when it stops."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest

from gradgate.gates.decision import LOOKS, at_rest
from gradgate.gates.timing import (
    BASE,
    COPIES,
    HEAD,
    LEAST,
    Sample,
    Timing,
    block_ratios,
    measure,
    run_block,
    same_ratios,
)


class Machine:
    """A clock, and copies whose steps take a known time under noise of a known size."""

    def __init__(self, base_s: float, head_s: float, noise: float = 0.0, seed: int = 0) -> None:
        self.now, self.order = 0.0, []
        self._rng, self._noise = random.Random(seed), noise
        self._cost = {BASE: base_s, HEAD: head_s}

    def clock(self) -> float:
        return self.now

    def turn(self, copy: tuple[str, int]):
        def run(steps: int) -> Sample:
            self.order.append(copy)
            seconds = steps * self._cost[copy[0]] * math.exp(self._rng.gauss(0, self._noise))
            self.now += seconds
            return Sample({"cpu_time": seconds, "wall_time": seconds})

        return run

    def turns(self):
        return {copy: self.turn(copy) for copy in COPIES}

    def measure(self, budget_s: float = 1e9) -> Timing:
        tolerances = {"cpu_time": 0.03, "wall_time": 0.10}
        return measure(
            self.turns(), tolerances, steps=1, budget_s=budget_s, clock=self.clock, on_look=lambda done: None
        )


def chain(machine: Machine, count: int, seed: int = 0) -> list:
    """Blocks that go on from one another."""
    rng, blocks = random.Random(seed), []
    for _ in range(count):
        blocks.append(run_block(machine.turns(), 1, rng, blocks[-1][-1] if blocks else None))
    return blocks


def test_a_block_holds_every_turn_against_neighbours_of_the_other_side():
    """Five turns in alternation, all four copies in the last four, one copy of each side in each half."""
    for block in chain(Machine(1, 1), 50):
        copies = [copy for copy, _ in block]
        assert [side for side, _ in copies] in ([BASE, HEAD] * 2 + [BASE], [HEAD, BASE] * 2 + [HEAD])
        assert set(copies[1:]) == set(COPIES)
        assert copies[1][1] == copies[2][1]


def test_the_order_of_turns_is_drawn_so_that_no_rhythm_meets_one_side():
    """What costs something at every second turn falls on both sides alike, and on the first copies as on the second."""
    machine = Machine(1, 1)
    chain(machine, 400)
    every_second = machine.order[::2]
    shares = [every_second.count(copy) / len(every_second) for copy in COPIES]
    assert min(shares) > 0.15


def test_a_block_goes_on_from_the_last_turn_of_the_one_before():
    """At most one turn more than four a block, now and then."""
    machine = Machine(1, 1)
    blocks = chain(machine, 200)
    shared = sum(one[-1] is other[0] for one, other in pairwise(blocks))
    assert 0.3 < shared / len(blocks) < 0.7
    assert len(machine.order) == 5 * 200 - shared


def test_a_linear_drift_cancels_within_a_block():
    """A machine that slows down steadily says nothing about the code."""
    ticks = iter(range(100, 10_000))
    turns = {copy: lambda steps: Sample({"t": 1.001 ** next(ticks)}) for copy in COPIES}
    blocks = [run_block(turns, 1, random.Random(seed)) for seed in range(5)]
    assert block_ratios(blocks, "t") == pytest.approx([1.0] * 5, abs=1e-12)
    assert same_ratios(blocks, "t") == pytest.approx([1.0] * 5, abs=1e-12)


def test_ratios_are_head_over_base_and_same_over_same():
    """The second is 1 whatever head costs; a slower copy shows in it."""
    blocks = chain(Machine(2.0, 3.0), 20)
    assert block_ratios(blocks, "cpu_time") == pytest.approx([1.5] * 20)
    assert same_ratios(blocks, "cpu_time") == pytest.approx([1.0] * 20)
    slow = [tuple((copy, Sample({"t": 1.21 if copy == (HEAD, 2) else 1.0})) for copy, _ in block) for block in blocks]
    assert same_ratios(slow, "t") == pytest.approx([1.1] * 20)


def disturbed_blocks(effect: float, *, waits: float, switches: float, count: int = 20) -> list:
    """Blocks in which waiting and preemption, drawn at random, add to a turn's time, beside what head costs."""
    rng = random.Random(5)

    def turn(copy: tuple[str, int]):
        def run(steps: int) -> Sample:
            waited_s, preempted = rng.expovariate(50), rng.randrange(6)
            own = effect if copy[0] == HEAD else 0.0
            return Sample({"t": math.exp(own + waits * waited_s + switches * preempted)}, waited_s, preempted)

        return run

    return [run_block({copy: turn(copy) for copy in COPIES}, 1, rng) for _ in range(count)]


@pytest.mark.parametrize("effect", [0.0, 0.03])
def test_what_waiting_and_preemption_cost_is_taken_off(effect: float):
    """An exact cost is found exactly, and head's own slowdown stays."""
    blocks = disturbed_blocks(effect, waits=4.0, switches=0.02)
    assert block_ratios(blocks, "t") == pytest.approx([math.exp(effect)] * len(blocks), abs=1e-9)


def test_a_slowdown_is_not_taken_for_a_disturbance():
    """Head is slower and, by chance or for its own reasons, preempted more often: its slowdown is still its own."""
    blocks = []
    for block in disturbed_blocks(0.05, waits=0.0, switches=0.0):
        more = [
            (copy, Sample(one.seconds, one.waited_s, one.preempted + 10 * (copy[0] == HEAD))) for copy, one in block
        ]
        blocks.append(tuple(more))
    assert block_ratios(blocks, "t") == pytest.approx([math.exp(0.05)] * len(blocks), abs=1e-9)


@pytest.mark.parametrize(("head_s", "verdict"), [(1.0, "pass"), (1.05, "fail"), (0.95, "improved")])
def test_measure_decides_at_the_first_look_on_a_quiet_machine(head_s: float, verdict: str):
    """Eight blocks are enough where nothing disturbs."""
    found = Machine(1.0, head_s, noise=0.001).measure()
    assert (found.decisions["cpu_time"].verdict, found.decisions["cpu_time"].blocks) == (verdict, LOOKS[0])
    assert at_rest(found.same, 0.03)


def test_measure_judges_every_quantity_by_its_own_tolerance():
    """5 % fails the CPU time and passes the wall clock's coarse rule."""
    found = Machine(1.0, 1.045, noise=0.001).measure()
    assert {name: made.verdict for name, made in found.decisions.items()} == {"cpu_time": "fail", "wall_time": "pass"}


def test_measure_says_noisy_when_even_the_cap_leaves_it_open():
    """Turns that scatter by half decide nothing; that is never green."""
    found = Machine(0.01, 0.01, noise=0.9).measure()
    assert found.decisions["cpu_time"].verdict == "noisy"
    assert found.decisions["cpu_time"].blocks == LOOKS[-1]


def test_measure_stops_when_the_next_look_would_exceed_the_budget():
    """A look is not begun that cannot be finished in time."""
    found = Machine(1.0, 1.0, noise=0.1).measure(budget_s=42.0)
    assert found.decisions["cpu_time"].blocks == LOOKS[0]
    assert found.decisions["cpu_time"].verdict is not None


def test_measure_takes_a_slow_step_no_further_than_it_must():
    """Steps of a second get a few blocks beyond the aim in seconds, quick ones as many as fit it."""
    slow, quick = (Machine(step_s, step_s, noise=0.9).measure() for step_s in (1.0, 0.04))
    assert slow.decisions["cpu_time"].blocks == LEAST
    assert LEAST < quick.decisions["cpu_time"].blocks < LOOKS[-1]


def test_a_slowdown_of_one_quantity_ends_the_others():
    """At 5 % more CPU time the wall clock stands at its own limit, and no number of blocks would decide it."""
    found = Machine(0.01, 0.0105, noise=0.03).measure()
    assert found.decisions["cpu_time"].verdict == "fail"
    assert found.decisions["wall_time"].verdict in ("pass", "fail")
    assert found.decisions["wall_time"].blocks <= 40


def test_measure_gives_the_same_answer_twice():
    """No draw outside the seeded order."""
    one, other = (Machine(0.05, 0.05, noise=0.05, seed=3).measure() for _ in range(2))
    assert one == other

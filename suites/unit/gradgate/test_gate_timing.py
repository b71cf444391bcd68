"""Paired timing on a clock of its own: the order of turns, what the ratios mean, when it stops."""

from __future__ import annotations

import math
import random

import pytest

from gradgate.gates.decision import LOOKS, at_rest
from gradgate.gates.timing import (
    BASE,
    COPIES,
    HEAD,
    HEAD_OVER_BASE,
    PILOT,
    SAME_OVER_SAME,
    Sample,
    Timing,
    block_ratios,
    measure,
    pass_logs,
    passes_a_block,
    run_pass,
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
            self.turns(), tolerances, steps=1, budget_s=budget_s, clock=self.clock, on_block=lambda done: None
        )


def test_a_pass_is_mirrored_and_its_order_is_shuffled():
    """v1 ... vk vk ... v1, in another order each time."""
    machine, rng = Machine(1, 1), random.Random(0)
    orders = set()
    for _ in range(20):
        machine.order.clear()
        run_pass(machine.turns(), 1, rng)
        there, back = machine.order[: len(COPIES)], machine.order[len(COPIES) :]
        assert back == there[::-1]
        orders.add(tuple(there))
    assert len(orders) > 5


def test_a_linear_drift_cancels_within_a_pass():
    """A machine that slows down steadily says nothing about the code."""
    ticks = iter(range(100, 10_000))
    turns = {copy: lambda steps: Sample({"t": 1.001 ** next(ticks)}) for copy in COPIES}
    passes = [run_pass(turns, 1, random.Random(3))]
    assert pass_logs(passes, "t", HEAD_OVER_BASE) == pytest.approx([0.0], abs=1e-12)


def one_pass(base_s: float, head_s: float) -> tuple:
    """A pass whose turns take what is said."""
    cost = {BASE: base_s, HEAD: head_s}
    return tuple((copy, Sample({"t": cost[copy[0]]})) for copy in (*COPIES, *COPIES[::-1]))


def test_ratios_are_head_over_base_and_same_over_same():
    """The second is 1 whatever head costs."""
    passes = [one_pass(2.0, 3.0)] * 4
    assert block_ratios(passes, "t", HEAD_OVER_BASE, 2) == pytest.approx([1.5, 1.5])
    assert block_ratios(passes, "t", SAME_OVER_SAME, 2) == pytest.approx([1.0, 1.0])


def test_a_burst_of_foreign_work_costs_a_pass_and_not_the_block():
    """The block's centre leaves one wild pass out of five."""
    passes = [one_pass(1.0, 1.0)] * 4 + [one_pass(1.0, 9.0)]
    assert block_ratios(passes, "t", HEAD_OVER_BASE, 5) == pytest.approx([1.0])


def disturbed_passes(effect: float, *, waits: float, switches: float, count: int = 20) -> list:
    """Passes in which waiting and preemption, drawn at random, add to a turn's time, beside what head costs."""
    rng, passes = random.Random(5), []
    for _ in range(count):
        turns = []
        for copy in (*COPIES, *COPIES[::-1]):
            waited_s, preempted = rng.expovariate(50), rng.randrange(6)
            own = effect if copy[0] == HEAD else 0.0
            turns.append(
                (copy, Sample({"t": math.exp(own + waits * waited_s + switches * preempted)}, waited_s, preempted))
            )
        passes.append(tuple(turns))
    return passes


@pytest.mark.parametrize("effect", [0.0, 0.03])
def test_what_waiting_and_preemption_cost_is_taken_off(effect: float):
    """An exact cost is found exactly, and head's own slowdown stays."""
    passes = disturbed_passes(effect, waits=4.0, switches=0.02)
    assert pass_logs(passes, "t", HEAD_OVER_BASE) == pytest.approx([effect] * len(passes), abs=1e-9)


def test_a_slowdown_is_not_taken_for_a_disturbance():
    """Head is slower and, by chance or for its own reasons, preempted more often: its slowdown is still its own."""
    passes = []
    for turns in disturbed_passes(0.05, waits=0.0, switches=0.0):
        more = [
            (copy, Sample(one.seconds, one.waited_s, one.preempted + 10 * (copy[0] == HEAD))) for copy, one in turns
        ]
        passes.append(tuple(more))
    assert pass_logs(passes, "t", HEAD_OVER_BASE) == pytest.approx([0.05] * len(passes), abs=1e-9)


@pytest.mark.parametrize(("head_s", "verdict"), [(1.0, "pass"), (1.05, "fail"), (0.95, "improved")])
def test_measure_decides_at_the_first_look_on_a_quiet_machine(head_s: float, verdict: str):
    """Six blocks are enough where nothing disturbs."""
    found = Machine(1.0, head_s, noise=0.001).measure()
    assert (found.decisions["cpu_time"].verdict, found.decisions["cpu_time"].blocks) == (verdict, LOOKS[0])
    assert at_rest(found.same, 0.03)


def test_measure_judges_every_quantity_by_its_own_tolerance():
    """5 % fails the CPU time and passes the wall clock's coarse rule."""
    found = Machine(1.0, 1.045, noise=0.001).measure()
    assert {name: made.verdict for name, made in found.decisions.items()} == {"cpu_time": "fail", "wall_time": "pass"}


def test_measure_says_noisy_when_even_the_cap_leaves_it_open():
    """Turns that scatter by half decide nothing; that is never green."""
    found = Machine(0.1, 0.1, noise=0.5).measure()
    assert found.decisions["cpu_time"].verdict == "noisy"
    assert found.decisions["cpu_time"].blocks == LOOKS[-1]


def test_measure_stops_when_the_next_look_would_exceed_the_budget():
    """A look is not begun that cannot be finished in time."""
    found = Machine(1.0, 1.0, noise=0.02).measure(budget_s=60.0)
    assert found.decisions["cpu_time"].blocks == LOOKS[0]
    assert found.decisions["cpu_time"].verdict is not None


def test_measure_gives_the_same_answer_twice():
    """No draw outside the seeded order."""
    one, other = (Machine(0.05, 0.05, noise=0.05, seed=3).measure() for _ in range(2))
    assert one == other


def test_a_block_grows_with_the_noise():
    """As many passes as bring a block's scatter down to what 16 blocks can bear, at most what the time allows."""

    def passes(noise: float) -> list:
        machine = Machine(1, 1.1, noise)
        return [run_pass(machine.turns(), 1, random.Random(0)) for _ in range(PILOT)]

    sizes = [passes_a_block(passes(noise), "cpu_time", 50) for noise in (0.001, 0.06, 0.12)]
    assert sizes[0] == 1
    assert sizes[0] < sizes[1] < sizes[2]
    assert passes_a_block(passes(0.12), "cpu_time", 2) == 2


def test_the_size_of_a_block_does_not_see_what_head_costs():
    """A slowdown is no noise."""
    assert passes_a_block([one_pass(1.0, 2.0)] * PILOT, "t", 50) == 1

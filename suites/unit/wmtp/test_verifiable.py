"""Verifiable reward: 1 where the program passes its tests, else 0."""

from __future__ import annotations

from pathlib import Path

import pytest

from wmtp.data.damage import damaged_copies
from wmtp.data.examples import Example
from wmtp.data.readers import read_examples
from wmtp.errors import RewardError
from wmtp.rewards.verifiable import program_of, verifiable_rewards

MBPP = Path(__file__).parents[3].parent / "shared" / "data" / "mbpp.jsonl"
RIGHT = Example("t", "def f(a):\n", "    return a + k", "k = 1", ("assert f(1) == 2", "assert f(2) == 3"), "f")


def test_program_is_setup_text_and_tests_in_order() -> None:
    """The program is the set-up, the training text and the tests, each on lines of its own."""
    expected = "k = 1\ndef f(a):\n    return a + k\nassert f(1) == 2\nassert f(2) == 3\n"
    assert program_of(RIGHT) == expected


def test_reward_is_1_for_right_and_0_for_wrong() -> None:
    """Rewards come in the order of the examples; equal programs run once."""
    wrong = Example("t", RIGHT.prompt, "    return a - k", RIGHT.setup, RIGHT.tests)
    done: list[int] = []
    rewards = verifiable_rewards([wrong, RIGHT, wrong, RIGHT], workers=1, progress=done.append)
    assert (rewards, done) == ([0.0, 1.0, 0.0, 1.0], [1, 2])


def test_example_without_tests_is_refused() -> None:
    """Nothing to verify is an error that names the task, before anything runs."""
    with pytest.raises(RewardError, match="task 'lonely' has no tests"):
        verifiable_rewards([RIGHT, Example("lonely", "", "x = 1")])


@pytest.mark.skipif(not MBPP.is_file(), reason="the real MBPP file is not beside the repository")
def test_real_solutions_pass_and_some_damaged_copies_fail() -> None:
    """MBPP's own solutions pass MBPP's own tests; of their damaged copies most fail."""
    solutions = read_examples(MBPP)[:30]
    damaged = [copy for example in solutions for copy in damaged_copies(example, seed=0)]
    assert verifiable_rewards(solutions) == [1.0] * 30
    rewards = verifiable_rewards(damaged)
    assert len(damaged) == 30
    assert 0.5 < rewards.count(0.0) / len(rewards) <= 1.0

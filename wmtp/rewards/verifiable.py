"""Verifiable reward: 1 where the program passes its tests, 0 where it does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wmtp.data.examples import Example
from wmtp.errors import RewardError
from wmtp.rewards.sandbox import DEFAULT_LIMITS, Limits, run_programs


def program_of(example: Example) -> str:
    """The program that decides: set-up, the training text, then the tests."""
    parts = [example.setup, example.text, *example.tests]
    return "\n".join(part for part in parts if part) + "\n"


def verifiable_rewards(
    examples: Sequence[Example],
    *,
    workers: int = 2,
    limits: Limits = DEFAULT_LIMITS,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Run the tests of each example in the sandbox; equal programs run once.

    Args:
        examples: rows with tests.
        workers: how many programs run at a time.
        limits: what each program may use.
        progress: called after each program with the number of different programs that are done.

    Returns:
        A reward each, in order: 1.0 where all tests pass, else 0.0.

    Raises:
        RewardError: an example has no tests, or the platform cannot limit a process.
    """
    for example in examples:
        if not example.tests:
            raise RewardError(
                f"task {example.task_id!r} has no tests, so no verifiable reward; give it 'test_list', "
                f"or choose critic.reward: model or reference"
            )
    programs = list(dict.fromkeys(map(program_of, examples)))
    outcomes = run_programs(programs, limits=limits, workers=workers, progress=progress)
    reward_of = {
        program: float(outcome.status == "passed") for program, outcome in zip(programs, outcomes, strict=True)
    }
    return [reward_of[program_of(example)] for example in examples]

"""Example: one row of training text, and what its solution is tested with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """One row. `prompt + completion` is the training text.

    Where `tests` are given, `prompt + completion` is a Python program too; the verifiable reward runs it.

    Args:
        task_id: the task; rows of one task share it and never end up on both sides of a split.
        prompt: what is given.
        completion: what is to be produced, right or wrong.
        setup: code to run before the prompt.
        tests: statements to run after the completion; all must pass.
        entry_point: name of the function under test, where the data names it.
    """

    task_id: str
    prompt: str
    completion: str
    setup: str = ""
    tests: tuple[str, ...] = ()
    entry_point: str | None = None

    @property
    def text(self) -> str:
        """The training text."""
        return self.prompt + self.completion

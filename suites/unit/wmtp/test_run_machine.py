"""A run in any order of steps, evaluations, saves, loads, failures and changed settings is the run of its steps alone.

The model is a table: what a run's state was after k steps, the first time. Whatever happened on the way, after k steps
it must be that, bit for bit.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from fixtures.small_runs import bits
from gradgate.checks.snapshot import take
from gradgate_wmtp.runs import Stage1Run, Stage2Run
from wmtp.errors import CheckpointError, NonFiniteError, WmtpError
from wmtp.loading import load_settings
from wmtp.progress import quiet
from wmtp.resume import find_checkpoint, load_run
from wmtp.trainer import build

SEED = 3
DROPOUT = {"model.dropout": 0.2}  # so that random numbers are part of the state
SLOTS = 3


class RunMachine(RuleBasedStateMachine):
    """One run, three places to save to, and what its state was after each number of steps."""

    kind: type[Any] = Stage2Run
    options: dict[str, Any] = DROPOUT
    others: tuple[str, ...] = ("precision=bf16", "optim.lr=0.5", "seed=9")
    known: dict[tuple[type, int], Any] = {}  # noqa: RUF012 - shared by all examples: determinism is part of the claim

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.run = self.kind(SEED, options=self.options)
        self.batches = self.run.batches()
        self.steps = 0
        self.saved: dict[int, int] = {}

    def teardown(self) -> None:
        self.folder.cleanup()

    def slot(self, number: int) -> Path:
        """Where a save of this number lies."""
        return Path(self.folder.name) / f"slot-{number}-{self.saved.get(number, self.steps)}"

    @rule()
    def step(self) -> None:
        self.run.step(next(self.batches))
        self.steps += 1

    @rule()
    def evaluate(self) -> None:
        assert self.run.evaluate() == self.run.evaluate()

    @rule(number=st.integers(0, SLOTS - 1))
    def save(self, number: int) -> None:
        self.saved[number] = self.steps
        self.slot(number).mkdir(exist_ok=True)
        self.run.save(self.slot(number))

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def load(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.saved)))
        self.run = self.kind(SEED + 1, options=self.options)
        self.run.load(self.slot(number))
        self.batches = self.run.batches()
        self.steps = self.saved[number]

    @precondition(lambda self: self.saved)
    @rule(data=st.data())
    def load_under_other_settings(self, data: st.DataObject) -> None:
        """Refused, and the run is as it was: the invariant looks."""
        file = find_checkpoint(self.slot(data.draw(st.sampled_from(sorted(self.saved)))))
        from wmtp import checkpoint

        key, state = data.draw(st.sampled_from(self.others)), checkpoint.load(file)
        changed = build(*load_settings(None, None, (key,), saved=(state["config"], state["recipe"])), quiet())
        with pytest.raises(CheckpointError, match=key.partition("=")[0]):
            load_run(file, changed)
        self.restore_random_numbers()

    @rule(message=st.sampled_from(["loss", "interrupt"]))
    def fail_in_the_middle(self, message: str) -> None:
        """A step that is refused, or interrupted in backward, has not happened."""
        update = self.run.work.update
        position, random = self.run.trainer.collator, self.random_numbers()
        batch = next(self.batches)

        def broken(loss: Any) -> None:
            if message == "interrupt":
                raise KeyboardInterrupt
            type(update).backward(update, loss * float("nan"))

        update.backward = broken
        try:
            with pytest.raises(KeyboardInterrupt if message == "interrupt" else NonFiniteError):
                self.run.step(batch)
        finally:
            del update.backward
        assert position is self.run.trainer.collator
        self.set_random_numbers(random)
        self.run.at.step -= 1
        self.run.at.position -= len(self.run.samples(batch))
        self.batches = self.run.batches()

    @rule(rate=st.sampled_from([0.25, 4.0]))
    def damaged_file_is_refused(self, rate: float) -> None:
        """A truncated or overlong copy loads nothing."""
        if not self.saved:
            return
        file = find_checkpoint(self.slot(sorted(self.saved)[0]))
        content = file.read_bytes()
        bad = file.with_name("stage2-99999999.ckpt")
        bad.write_bytes((content * 4)[: int(len(content) * rate)])
        try:
            with pytest.raises(WmtpError):
                from wmtp import checkpoint

                checkpoint.load(bad)
        finally:
            bad.unlink()

    def random_numbers(self) -> Any:
        from wmtp.resume import random_state

        return random_state()

    def set_random_numbers(self, state: Any) -> None:
        from wmtp.resume import set_random_state

        set_random_state(state)

    def restore_random_numbers(self) -> None:
        """Building another trainer has drawn from the process's generator; put back what belongs to this run."""
        if (self.kind, self.steps) in self.known:
            self.set_random_numbers(self.known[self.kind, self.steps][1])

    @invariant()
    def is_the_run_of_its_steps(self) -> None:
        state = bits(dict(take(self.run)))
        random = self.random_numbers()
        known_state, known_random = self.known.setdefault((self.kind, self.steps), (state, random))
        assert state == known_state
        assert bits(random) == bits(known_random)


class Stage1Machine(RunMachine):
    """The same for value-head pretraining."""

    kind = Stage1Run
    options: dict[str, Any] = {}  # noqa: RUF012 - never written


class LowPrecisionRun(Stage2Run):
    """Stage 2 with its forward pass in bfloat16."""

    def __init__(self, seed: int, **named: Any) -> None:
        super().__init__(seed, precision="bf16", **named)


class LowPrecisionMachine(RunMachine):
    """The same in another precision; a checkpoint of it is refused under the first one, and the other way round."""

    kind = LowPrecisionRun
    others = ("precision=fp32", "optim.lr=0.5", "seed=9")


LOAD = [HealthCheck.too_slow, HealthCheck.filter_too_much]


@pytest.mark.parametrize("machine", [RunMachine, Stage1Machine])
def test_run_in_any_order_is_the_run_of_its_steps(machine: type[RunMachine]) -> None:
    """A few short courses on every change."""
    few = settings(max_examples=3, stateful_step_count=8, deadline=None, suppress_health_check=LOAD, derandomize=True)
    run_state_machine_as_test(machine, settings=few)


@pytest.mark.nightly
@pytest.mark.parametrize("machine", [RunMachine, Stage1Machine, LowPrecisionMachine])
def test_run_in_any_order_is_the_run_of_its_steps_over_long_courses(machine: type[RunMachine]) -> None:
    """Long ones at night."""
    many = settings(max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=LOAD)
    run_state_machine_as_test(machine, settings=many)

"""The guarded step: every kind of damage is named by a replay, its right twin is silent, and bad input is refused."""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import gradgate
from fixtures.guard_programs import (
    CASES,
    Case,
    bad_data_write,
    bad_inplace,
    bad_numpy,
    batches,
    culprits,
    training,
    unsafe_data_write,
)
from gradgate.watch.sentinel import EVERY

DOCUMENT = Path(__file__).parents[3] / "docs" / "watch.md"
FIXTURE_FOLDER = Path(__file__).parents[3] / "fixtures"
CASE = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def findings_of(step, steps=1, **options):
    """Run a guarded step on a fresh training; its findings, and what it raised."""
    run = training()
    guarded = gradgate.guard(functools.partial(step, run), state=run.state, **options)
    raised = None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            for x in batches(steps):
                guarded(x)
        except RuntimeError as error:
            raised = error
    return guarded.findings, raised, [str(one.message) for one in said]


@CASE
def test_guard_names_kind_code_and_culprit(case: Case):
    """The first finding is the fault, and its culprit is the very line."""
    findings, _, _ = findings_of(case.bad)
    first = findings[0]
    assert (first.kind, first.code, first.severity) == (case.kind, case.code, "error")
    assert first.culprit is not None and [first.culprit.line] == culprits(case.bad)


@CASE
def test_guard_is_silent_on_the_right_twin(case: Case):
    """Over more steps than one round of fingerprints: no finding, no warning, no error."""
    assert findings_of(case.good, steps=EVERY + 2) == ([], None, [])


@CASE
def test_guard_measures_the_wrong_gradient(case: Case):
    """A silent fault is confirmed, with the first number that it changed."""
    findings, _, _ = findings_of(case.bad)
    assert findings[0].confirmed is True
    if not case.raises:
        assert "measured: state[0]" in findings[0].message


@CASE
def test_guard_keeps_a_loud_fault_loud(case: Case):
    """PyTorch's own error, word for word, the finding its note; a silent fault raises nothing and warns."""
    plain = None
    try:
        case.bad(training(), batches(1)[0])
    except RuntimeError as error:
        plain = str(error)
    findings, raised, said = findings_of(case.bad)
    assert (plain is not None, None if raised is None else str(raised)) == (case.raises, plain)
    text = ["\n".join(finding.lines()) for finding in findings]
    assert said == ([] if case.raises else text)
    if raised is not None:
        assert raised.__notes__ == text[:1]


def test_guard_tells_an_unsafe_write():
    """A write that changes no number of the step is a warning, and not confirmed."""
    findings, _, _ = findings_of(unsafe_data_write)
    assert [(one.kind, one.severity, one.confirmed) for one in findings] == [("silent_data_write", "warning", False)]
    assert findings[0].message.endswith("measured: no gradient changed")
    assert findings[0].culprit is not None and [findings[0].culprit.line] == culprits(unsafe_data_write)


def test_guard_warns_once_and_counts():
    """Repeats of one finding are counted, not said again."""
    findings, _, said = findings_of(bad_data_write, steps=2 * EVERY + 1)
    assert ([one.count for one in findings], len(said)) == ([3], 1)


def test_guard_checks_shared_memory_at_every_step():
    """Once memory was found to be numpy's, every step is checked."""
    findings, _, _ = findings_of(bad_numpy, steps=4)
    assert [one.count for one in findings] == [4]


def test_guard_sees_a_later_fault_within_a_round():
    """A fault that begins later is found within so many steps."""
    run = training()
    bad = []

    def step(x):
        return (bad_data_write if bad else CASES[2].good)(run, x)

    guarded = gradgate.guard(step, state=run.state)
    steps = batches(EVERY + 2)
    guarded(steps[0])
    bad.append(True)
    with pytest.warns(gradgate.GradientFaultWarning, match="GG103 data-write"):
        for x in steps[1 : EVERY + 1]:
            guarded(x)


def test_guard_raises_where_asked():
    """`on_finding="raise"` stops after the silent fault, with the findings."""
    run = training()
    guarded = gradgate.guard(functools.partial(bad_data_write, run), state=run.state, on_finding="raise")
    with pytest.raises(gradgate.GradientFaultError, match="GG103 data-write") as caught:
        guarded(batches(1)[0])
    assert caught.value.findings == guarded.findings


def test_guard_returns_what_the_step_returned_and_looks_like_it():
    """Value, name, signature and documentation are the step's."""

    def step(a: int, *, b: int = 2) -> list[int]:
        """Mine."""
        return [a, b]

    guarded = gradgate.guard(step)
    assert guarded(1, b=3) == [1, 3]
    assert (guarded.__name__, guarded.__doc__) == ("step", "Mine.")
    assert inspect.signature(guarded) == inspect.signature(step)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"on_finding": "wran"}, r"on_finding is 'wran'; expected 'warn' or 'raise'; did you mean 'warn'\?"),
        ({"state": ["model"]}, r"state\[0\] is of type str; expected modules, optimizers, tensors"),
        ({"state": [torch.optim.SGD]}, r"state\[0\] is of type type; expected modules"),
        ({"state": nn.Linear(1, 1)}, r"state is of type Linear; expected a list: state=\[model, optimizer\]"),
        ({"state": 3}, r"state is of type int; expected a list"),
        ({"step": 3}, r"step is of type int; expected a function"),
        ({"step": (lambda: (yield))}, r"step is a generator or coroutine"),
    ],
)
def test_guard_refuses_bad_input_with_one_clear_error(given, message):
    """What was given, what was expected, the nearest choice."""
    with pytest.raises(gradgate.core.errors.GradgateError, match=message):
        gradgate.guard(given.pop("step", print), **given)


def test_guard_finds_a_loss_that_turned_nan():
    """The first step that returns NaN is replayed; the line where it was born is named."""
    run = training()

    def step(x):
        hidden = run.model(x)
        ratio = hidden / hidden.detach().mul(0)
        loss = (ratio - ratio).sum()
        run.optimizer.zero_grad()
        loss.backward()
        return {"loss": loss}

    guarded = gradgate.guard(step, state=run.state)
    with pytest.warns(gradgate.GradientFaultWarning, match="GG301 nonfinite-forward"):
        guarded(batches(1)[0])
    guarded(batches(1)[0])  # still NaN: nothing new to say
    first = guarded.findings[0]
    assert first.culprit is not None and first.culprit.source == "loss = (ratio - ratio).sum()"


def test_guard_says_what_it_cannot_name():
    """A number that is not finite, and that no graph holds, is a finding without a line."""
    with pytest.warns(gradgate.GradientFaultWarning, match=r"not finite \(returned\[0\]\).*did not see"):
        gradgate.guard(lambda: (float("inf"), 1))()


@pytest.mark.parametrize("step", [bad_inplace, bad_data_write], ids=["loud", "silent"])
def test_guard_without_replay_says_that_something_is_wrong(step):
    """`replay=False`: no snapshot, no line, but the fault does not hide."""
    findings, raised, _ = findings_of(step, replay=False)
    assert [(one.culprit, one.detail) for one in findings] == [(None, {"not replayed": "replay=False"})]
    assert (raised is not None) == (step is bad_inplace)


def test_guard_example_of_the_documentation_names_its_line(capsys):
    """The how-to's program does what the how-to says."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    program = compile(block, str(FIXTURE_FOLDER / "example.py"), "exec")
    with pytest.warns(gradgate.GradientFaultWarning, match="GG103 data-write"):
        exec(program, {})  # noqa: S102 - our own text
    line = 1 + next(number for number, text in enumerate(block.splitlines()) if "clamp_" in text)
    assert capsys.readouterr().out.strip().endswith(f"example.py:{line} in step()")

"""GG414: a key that does nothing turns it red, keys that act pass."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress
from dataclasses import replace
from typing import Any

import pytest
import torch

from fixtures.check_runs import errors, red, run_check
from fixtures.mini_trainer import MiniRun, Parts
from fixtures.option_faults import OPTIONS, optioned
from fixtures.pytest_fixtures import rest_at_night
from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run, Stage, Subject
from gradgate.subjects.settings import Guessed

NEIGHBOURS = ("GG100", "GG208", "GG405")


@pytest.mark.parametrize("key", ["lr", "weight_decay"])
def test_gg414_names_the_key_that_does_nothing(key: str) -> None:
    """And the values that nothing tells apart; no neighbour sees it."""
    subject = optioned(dead=key)
    outcome = run_check("GG414", subject, subject.stages[0])
    one, other = OPTIONS[key]

    assert errors(outcome) == [f"option `{key}`: {one!r} and {other!r} give the same 20 steps, bit for bit"]
    assert outcome.measured["pairs_alike"] == 1
    assert red(subject, subject.stages[0], NEIGHBOURS) == []


def test_gg414_names_a_value_that_falls_back_to_another() -> None:
    """An unknown name is taken for the default; the third value is another code."""
    subject = optioned(options={"optimizer": ("adamw", "adamW", "sgd")}, lenient=True)

    message, replaced = errors(run_check("GG414", subject, subject.stages[0]))
    assert message.startswith("option `optimizer`: 'adamw' and 'adamW' give the same")
    assert replaced.startswith("option `optimizer`: 'adamw_x' gives the same 20 steps as 'adamw', bit for bit: it is")


@pytest.mark.parametrize("seed", rest_at_night(range(3), day=1))
def test_gg414_passes_keys_that_act(seed: int) -> None:
    """Every pair of values differs."""
    subject = optioned()
    outcome = run_check("GG414", subject, subject.stages[0], seed)

    assert (outcome.findings, outcome.measured["pairs"], outcome.measured["keys"]) == ((), 12, 3)


@pytest.mark.parametrize(
    ("key", "told"),
    [("lr", "0.0 gives the same 20 steps as 0.01"), ("optimizer", "'adamw_x' gives the same 20 steps as 'adamw'")],
)
def test_gg414_names_a_value_that_is_replaced_without_a_word(key: str, told: str) -> None:
    """A 0 that is taken for nothing given, and a name that does not exist."""
    subject = optioned(options={key: OPTIONS[key]}, lenient=True)

    (message,) = errors(run_check("GG414", subject, subject.stages[0]))
    assert message.startswith(f"option `{key}`: {told}, bit for bit: it is replaced without a word")


def test_gg414_tries_no_misspelt_name_of_a_key_that_does_nothing() -> None:
    """That it does nothing is told."""
    subject = optioned(options={"optimizer": ("adamw", "unknown", "sgd")}, dead="optimizer")
    messages = errors(run_check("GG414", subject, subject.stages[0]))
    assert len(messages) == 3 and not any("_x" in message for message in messages)


def test_gg414_names_a_misspelt_name_that_is_accepted() -> None:
    """It does what none of the listed ones does, and nobody asked for that."""
    subject = optioned(options={"optimizer": ("sgd", "adam")}, lenient=True)

    (message,) = errors(run_check("GG414", subject, subject.stages[0]))
    assert message.startswith("option `optimizer`: 'sgd_x' is accepted, which is none of its values")


def test_gg414_gives_a_key_that_acts_late_a_second_chance() -> None:
    """A key that changes only the tenth step is told apart in the longer run."""

    def start(seed: int, *, options: Any = None, **given: Any) -> Any:
        run: Any = optioned().stages[0].start(seed, **given)
        step, made = run.step, []

        def late(batch: Any) -> Any:
            made.append(batch)
            run.optimizers[0].param_groups[0]["weight_decay"] = (options or {}).get("late", 0.0) * (len(made) == 10)
            return step(batch)

        run.step = late
        return run

    stage = Stage("late", start, options={"late": (0.1, 0.2)})

    assert run_check("GG414", Subject("late", [stage]), stage).findings == ()


def test_gg414_passes_a_limit_that_nothing_reaches_near_zero() -> None:
    """0 does what the smallest listed value does, and so does everything in between."""

    def start(seed: int, *, options: Any = None, **given: Any) -> Any:
        floor = (options or {}).get("floor", 0.0)
        return optioned().stages[0].start(seed, options={"lr": max(0.01, floor)}, **given)

    stage = Stage("limited", start, options={"floor": (0.001, 0.1)})

    assert run_check("GG414", Subject("limited", [stage]), stage).findings == ()


@pytest.mark.parametrize("used", [True, False])
def test_gg414_asks_a_limit_that_nothing_reaches_for_a_smaller_one(used: bool) -> None:
    """A limit and none are alike where nothing comes near it; where a thousandth of it is alike, too, none is used."""

    def start(seed: int, *, options: Mapping[str, Any] | None = None, **given: Any) -> Any:
        limit = (options or {}).get("limit", 1.0) if used else 1.0
        return optioned().stages[0].start(seed, options={"lr": min(0.01, limit or 1.0)}, **given)

    stage = Stage("limited", start, options={"limit": (1.0, 0.0)})

    assert bool(run_check("GG414", Subject("limited", [stage]), stage).findings) == (not used)


def test_gg414_passes_a_zero_that_switches_a_limit_off() -> None:
    """It does what the listed limit does that nothing reaches, and so does one that is far above."""

    def start(seed: int, *, options: Any = None, **given: Any) -> Any:
        limit = (options or {}).get("limit", 1.0)
        return optioned().stages[0].start(seed, options={"lr": min(0.01, limit or 1.0)}, **given)

    stage = Stage("limited", start, options={"limit": (1.0, 0.001)})

    assert run_check("GG414", Subject("limited", [stage]), stage).findings == ()


def test_gg414_reports_a_value_that_raises() -> None:
    """With the key and the value."""
    subject = optioned(options={"lr": (0.01, -1.0)})

    (message,) = errors(run_check("GG414", subject, subject.stages[0]))
    assert message.startswith("option `lr`: start(options={'lr': -1.0}) raised ValueError")


@pytest.mark.parametrize("values", [(), (0.1,)])
def test_gg414_wants_two_values_of_a_key(values: Any) -> None:
    """One cannot differ."""
    subject = optioned(options={"lr": values})

    with pytest.raises(SubjectError, match="give two or more"):
        run_check("GG414", subject, subject.stages[0])


@pytest.mark.parametrize(("bounds", "found"), [(False, 1), (True, 0)])
def test_gg414_warns_of_a_key_that_only_moves_what_is_reported(bounds: bool, found: int) -> None:
    """A bound whose share is reported and that no formula knows."""

    def start(seed: int, *, options: Any = None, dtype: Any = torch.float32, device: str = "cpu") -> MiniRun:
        bound = (options or {}).get("w_max", 5.0)
        run = MiniRun("value", Parts(lr=0.01 / bound if bounds else 0.01), seed, dtype, device)
        plain = run.step
        run.step = lambda batch: {**plain(batch), "clamped": 1 / bound}  # type: ignore[method-assign]
        return run

    stage = Stage("value", start, options={"w_max": (5.0, 1.2)})
    outcome = run_check("GG414", Subject("bounded", [stage]), stage)

    assert [finding.severity for finding in outcome.findings] == ["warning"] * found
    assert all("but for what is reported: clamped" in finding.message for finding in outcome.findings)


def guessed_in(own: dict[str, Any], other: dict[str, Any], **declared: Any) -> Subject:
    """Two stages with keys that nobody listed; those of `own` do nothing in the first."""
    options = {key: Guessed(OPTIONS[key]) for key in own}
    first, second = (optioned(dead=dead, options=options).stages[0] for dead in (*own, *other))
    return Subject("two", [replace(first, **declared), replace(second, name="second")])


@pytest.mark.parametrize(
    ("other", "declared", "found"),
    [({"nothing": ()}, {}, 0), ({"lr": ()}, {}, 1), ({"lr": ()}, {"neutral": {"lr": (0.01, 0.001)}}, 0)],
)
def test_gg414_takes_a_key_that_nobody_listed_for_dead_where_it_acts_nowhere(
    other: dict[str, Any], declared: dict[str, Any], found: int
) -> None:
    """In no other stage either, and where it is not declared to change nothing."""
    subject = guessed_in({"lr": ()}, other, **declared)

    assert len(errors(run_check("GG414", subject, subject.stages[0]))) == found


def test_gg414_leaves_a_key_that_acts_with_another_choice() -> None:
    """Nobody listed the decay, which one of the optimizers has."""

    def start(seed: int, *, options: Mapping[str, Any] | None = None, **given: Any) -> Run:
        kept = {key: value for key, value in (options or {}).items() if key == "optimizer" or "optimizer" in options}
        return stage.start(seed, options=kept, **given)

    stage = optioned(options={}).stages[0]
    options = {"weight_decay": Guessed((0.01, 0.1)), "optimizer": ("adamw", "sgd")}
    behind = replace(stage, start=start, options=options)

    assert errors(run_check("GG414", Subject("s", [behind]), behind)) == []


@pytest.mark.parametrize(("section", "found"), [("rank", 0), ("other", 1)])
def test_gg414_leaves_a_key_of_a_term_whose_coefficient_is_zero(section: str, found: int) -> None:
    """Where it acts with the zeros of its own section on; those of another say nothing of it."""
    plain = optioned(options={}).stages[0].start

    def start(seed: int, *, options: Mapping[str, Any] | None = None, **given: Any) -> Run:
        held = {"rank.scale": 1.0, f"{section}.coef": 0.0, **(options or {})}
        lr = 0.01 + held["rank.scale"] * held[f"{section}.coef"] / 100
        return plain(seed, options={"lr": lr}, **given)

    options = {"rank.scale": Guessed((1.0, 0.5)), f"{section}.coef": Guessed((0.0, 0.1))}
    stage = replace(optioned(options={}).stages[0], start=start, options=options)

    assert len(errors(run_check("GG414", Subject("s", [stage]), stage))) == found


@pytest.mark.parametrize(("acts", "found"), [("update", 0), ("loss", 0), ("nowhere", 1)])
def test_gg414_leaves_a_key_that_says_what_becomes_of_a_step_with_nan(acts: str, found: int) -> None:
    """Where the update is asked, or the loss alone; one that is asked nowhere is dead."""

    class Guarded(MiniRun):
        skips = False

        def step(self, batch: Any) -> Mapping[str, float]:
            if self.skips and acts == "loss" and not self.losses(batch)["total"].isfinite():
                return {}
            with suppress(FloatingPointError) if self.skips and acts == "update" else nullcontext():
                return super().step(batch)
            return {}

    def start(seed: int, *, dtype: Any = torch.float32, device: str = "cpu", options: Any = None) -> Run:
        run = Guarded("value", Parts(), seed, dtype, device)
        run.skips = (options or {}).get("skip_nonfinite", False)
        return run

    stage = Stage("value", start, options={"skip_nonfinite": (False, True)})

    assert len(errors(run_check("GG414", Subject("s", [stage]), stage))) == found


def test_gg414_leaves_a_key_that_only_an_evaluation_shows() -> None:
    """Such as an average of the weights that nothing else reads."""

    class Averaging(MiniRun):
        decay = 0.0

        def evaluate(self) -> Mapping[str, Any]:
            return {"loss": self.decay}

    def start(seed: int, *, dtype: Any = torch.float32, device: str = "cpu", options: Any = None) -> Run:
        run = Averaging("value", Parts(), seed, dtype, device)
        run.decay = (options or {}).get("decay", 0.0)
        return run

    stage = Stage("value", start, options={"decay": Guessed((0.0, 0.1))})

    assert errors(run_check("GG414", Subject("s", [stage]), stage)) == []


@pytest.mark.parametrize(
    ("key", "values", "frozen", "told"),
    [
        ("model.freeze_heads", (False, True), ("weight",), "True leaves `heads.0.bias` of `heads` in training, and"),
        ("heads_frozen", (False, True), ("weight",), "True leaves `heads.0.bias` of `heads` in training"),
        ("train_heads", (True, False), ("bias",), "False leaves `heads.0.weight` of `heads` in training"),
        ("train_heads", (True, False), ("weight", "bias"), ""),
        ("train_heads", (True, False), ("nothing",), ""),
        ("train_something", (True, False), ("weight",), ""),
    ],
)
def test_gg414_names_what_a_key_leaves_in_training(
    key: str, values: tuple[bool, bool], frozen: tuple[str, ...], told: str
) -> None:
    """Of the module that it is called after; all or nothing is right, and what it is called after nothing may do."""

    def start(seed: int, *, dtype: Any = torch.float32, device: str = "cpu", options: Any = None) -> Run:
        run = MiniRun("tokens", Parts(), seed, dtype, device)
        if (options or {}).get(key, values[0]) != values[0]:
            for name, parameter in run.modules["heads"].named_parameters():
                parameter.requires_grad_(not name.endswith(frozen))
        return run

    stage = Stage("tokens", start, options={key: values})
    found = [each for each in errors(run_check("GG414", Subject("s", [stage]), stage)) if "in training" in each]

    assert len(found) == bool(told)
    assert all(told in message for message in found)

"""What a replay must not change, and what it says when it is not the step again."""

from __future__ import annotations

import functools
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import dropout

import gradgate
from fixtures.guard_programs import (
    Training,
    bad_data_write,
    bad_inplace,
    bad_numpy,
    batches,
    finish,
    good_inplace,
    training,
)


@pytest.fixture(autouse=True)
def guard_may_warn():
    """What is said is tested in `test_guard.py`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradgate.GradientFaultWarning)
        yield


def seed() -> None:
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)


def end_of(run: Training, *more: object) -> list[object]:
    """Everything that a run of training leaves, generators included."""
    tensors = [*run.model.parameters(), *run.model.buffers()]
    kept = [value for held in run.optimizer.state.values() for value in held.values()]
    gradients = [parameter.grad for parameter in run.model.parameters()]
    drawn = [torch.rand(1).item(), random.random(), np.random.rand()]
    return [[tensor.tolist() for tensor in tensors if tensor is not None] for tensors in (tensors, kept, gradients)] + [
        drawn, *more,
    ]  # fmt: skip


def noisy(step, run, x):
    """A step under dropout, and draws from all three generators."""
    return step(run, dropout(x + random.random() + np.random.rand(), 0.2))


@pytest.mark.parametrize("step", [bad_data_write, bad_numpy, bad_inplace], ids=["data", "numpy", "loud"])
def test_guard_leaves_the_run_bit_equal(step):
    """Dropout, momentum, batch statistics and generators: as without a guard, also after an error that is caught."""

    def trained(guarded: bool) -> list[object]:
        seed()
        run = training()
        one = functools.partial(noisy, step, run)
        one = gradgate.guard(one, state=run.state) if guarded else one
        losses = []
        for x in batches(9):
            try:
                losses.append(one(x))
            except RuntimeError as error:
                losses.append(str(error))
        assert not guarded or one.findings
        return end_of(run, losses)

    assert trained(True) == trained(False)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_guard_leaves_mixed_precision_bit_equal(dtype: torch.dtype):
    """Autocast, a GradScaler that grows and backs off, a scheduler, accumulation over two batches."""

    def trained(guarded: bool) -> list[object]:
        seed()
        run = training()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, growth_interval=2, enabled=dtype is torch.float16)
        scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 2)

        def step(first, second):
            run.optimizer.zero_grad()
            for x in (first, second):
                with torch.autocast("cpu", dtype):
                    gate = run.model(x).sigmoid()
                    loss = gate.float().sum()
                gate.data.mul_(0.5)
                scaler.scale(loss).backward()
            scaler.step(run.optimizer)
            scaler.update()
            scheduler.step()
            return loss.detach()

        one = gradgate.guard(step, state=[*run.state, scaler, scheduler]) if guarded else step
        losses = [one(x, 2 * x).item() for x in batches(9)]
        assert not guarded or [(found.kind, found.confirmed) for found in one.findings] == [("silent_data_write", True)]
        return end_of(run, losses, scaler.state_dict(), scheduler.state_dict())

    assert trained(True) == trained(False)


def test_guard_puts_back_what_is_not_listed():
    """Model, optimizer and an average of the weights that nobody listed are what the step left, too."""

    def trained(guarded: bool) -> list[object]:
        seed()
        run = training()
        average = [parameter.detach().clone() for parameter in run.model.parameters()]

        def step(x):
            loss = bad_data_write(run, x)
            for mean, parameter in zip(average, run.model.parameters(), strict=True):
                mean.lerp_(parameter.detach(), 0.5)
            return loss

        one = gradgate.guard(step) if guarded else step
        losses = [one(x) for x in batches(9)]
        if guarded:
            assert one.findings[0].kind == "silent_data_write"
            assert one.findings[-1].message.endswith("not in `state`: SGD")
        return end_of(run, losses, [mean.tolist() for mean in average])

    assert trained(True) == trained(False)


def test_guard_keeps_graphs_alive_that_cross_a_replay():
    """Versions are put back with the numbers: a graph that reads the parameters later still can."""
    run = training()
    guarded = gradgate.guard(lambda x: bad_numpy_without_update(run, x), state=run.state)
    loss = run.model(batches(1)[0]).square().sum()
    guarded(batches(1)[0])
    loss.backward()
    assert guarded.findings[0].confirmed


def bad_numpy_without_update(run: Training, x: torch.Tensor) -> torch.Tensor:
    gate = run.model(x).sigmoid()
    picture = gate.detach().numpy()
    picture *= 2
    gate.square().sum().backward()
    return gate


def test_guard_restores_arguments():
    """A step that writes its own arguments is replayed from what it was given, and they end as it left them."""
    run = training()
    array = np.ones(3, dtype=np.float32)

    def step(given, *, noise):
        given["x"].add_(1)
        noise += 1
        return bad_data_write(run, given["x"] * torch.as_tensor(noise.copy()))

    guarded = gradgate.guard(step, state=run.state)
    x = batches(1)[0]
    expected = x + 1
    guarded({"x": x}, noise=array)
    assert [found.confirmed for found in guarded.findings] == [True]
    assert (torch.equal(x, expected), array.tolist()) == (True, [2, 2, 2])


def test_guard_says_how_a_step_that_does_not_repeat_differs():
    """The first number that differs and by how much; the line is named, nothing is called measured."""
    run = training()
    calls = []

    def step(x):
        calls.append(1)
        return bad_data_write(run, x * len(calls))

    guarded = gradgate.guard(step, state=run.state)
    guarded(batches(1)[0])
    damage, other = guarded.findings
    assert (damage.kind, damage.confirmed, damage.culprit is not None) == ("silent_data_write", None, True)
    assert (other.kind, other.code, other.severity) == ("nondeterminism", "GG601", "warning")
    assert other.message.startswith("the step does not repeat when it is replayed: state[0].0.weight.grad: 9 of 9 elem")


@pytest.mark.parametrize("place", ["argument", "closure", "self"])
def test_guard_does_not_replay_a_step_that_draws_from_an_iterator(place: str):
    """It says so, and the iterator has lost nothing."""
    run = training()
    source = iter(batches(4))

    class Trainer:
        def __init__(self):
            self.source = source

        def step(self):
            return bad_data_write(run, next(self.source))

    steps = {
        "argument": functools.partial(lambda given: bad_data_write(run, next(given))),
        "closure": lambda: bad_data_write(run, next(source)),
        "self": Trainer().step,
    }
    guarded = gradgate.guard(steps[place], state=run.state)
    guarded(*([source] if place == "argument" else []))
    assert [found.culprit for found in guarded.findings] == [None]
    assert "the step draws from an iterator, " in guarded.findings[0].detail["not replayed"]
    assert len(list(source)) == 3


class Unreadable:
    """Its state cannot be copied."""

    def state_dict(self):
        return {"lock": (number for number in ())}

    def load_state_dict(self, state):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (Unreadable(), r"state_dict\(\) of Unreadable cannot be copied"),
        (nn.LazyLinear(2), r"UninitializedParameter .* has no shape yet"),
        (torch.zeros(2, device="meta"), r"is on meta"),
        (torch.zeros(1).expand(3), r"is expanded"),
    ],
)
def test_guard_goes_on_without_a_replay_where_the_state_cannot_be_copied(entry, reason):
    """It says what, once, and still finds the fault."""
    run = training()
    guarded = gradgate.guard(functools.partial(bad_data_write, run), state=[*run.state, entry])
    with pytest.warns(gradgate.GradientFaultWarning, match=reason):
        guarded(batches(1)[0])
    assert [found.kind for found in guarded.findings] == ["silent_alias_write"]


def test_guard_restores_any_kind_of_state():
    """Generators, schedulers, tensors, and whatever has a state_dict, are rewound for the replay: it repeats."""
    run = training()
    own, numbers, plain = torch.Generator().manual_seed(1), np.random.default_rng(1), random.Random(1)
    weight = torch.ones(3, requires_grad=True)
    meter = Meter()

    def step(x):
        shift = torch.rand(3, generator=own) + numbers.random() + plain.random() + meter.draw()
        loss = bad_data_write(run, x * weight + shift)
        with torch.no_grad():
            weight.sub_(weight.grad)
        return loss

    guarded = gradgate.guard(step, state=[*run.state, own, numbers, plain, weight, meter])
    guarded(batches(1)[0])
    assert [found.confirmed for found in guarded.findings] == [True]


class Meter:
    """Something of the user's own."""

    def __init__(self) -> None:
        self.count = 0

    def draw(self) -> float:
        self.count += 1
        return self.count / 7

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_guard_survives_a_replay_that_fails():
    """Another error in the replay is said, and the run goes on from what the step left."""
    run = training()
    calls = []

    def step(x):
        calls.append(1)
        if len(calls) > 1:
            raise ValueError("once only")
        return bad_data_write(run, x)

    guarded = gradgate.guard(step, state=run.state)
    guarded(batches(1)[0])
    assert "its end: a return became ValueError: once only" in guarded.findings[-1].message


def test_guard_replays_no_step_of_several_processes(monkeypatch):
    """The others would wait for ever."""
    monkeypatch.setattr("gradgate.watch.guard._has_company", lambda: True)
    run = training()
    guarded = gradgate.guard(functools.partial(bad_data_write, run), state=run.state)
    guarded(batches(1)[0])
    assert guarded.findings[0].detail == {"not replayed": "other processes would have to take part"}


def test_guard_stops_replaying_what_it_knows():
    """The same trouble is replayed three times, later it is counted."""
    run, calls = training(), []

    def step(x):
        calls.append(1)
        return bad_numpy(run, x)

    guarded = gradgate.guard(step, state=run.state)
    for x in batches(8):
        guarded(x)
    assert ([found.count for found in guarded.findings], len(calls)) == ([8], 8 + 3 * 2)


def test_guard_says_so_when_gradients_of_the_start_are_gone():
    """Kept by reference after some steps that cleared them, they are lost once when a step adds to them."""
    run = training()

    def step(x, clear):
        if clear:
            run.optimizer.zero_grad()
        gate = run.model(x).sigmoid()
        picture = gate.detach().numpy()
        if not clear:
            picture *= 2
        gate.square().sum().backward()
        run.optimizer.step()

    guarded = gradgate.guard(step, state=run.state)
    for x in batches(4):
        guarded(x, True)
    for x in batches(2):
        guarded(x, False)
    assert [found.detail.get("not replayed") for found in guarded.findings if found.culprit is None] == [
        "the step wrote to gradients that it found"
    ]
    assert [found.confirmed for found in guarded.findings if found.culprit is not None] == [True]


def test_guard_overlaps_the_copy_of_large_states(monkeypatch):
    """Copied beside the forward, the snapshot is the same; a parameter written meanwhile spoils it, once."""
    monkeypatch.setattr("gradgate.watch.snapshot._OVERLAPPED_BYTES", 1)
    run = training()

    def step(x, bad, early):
        if early:
            with torch.no_grad():
                run.model[0].weight.mul_(0.5)
        gate = run.model(x).sigmoid()
        picture = gate.detach().numpy()
        if bad:
            picture *= 2
        return finish(run, gate.square().sum())

    guarded = gradgate.guard(step, state=run.state)
    for x in batches(4):
        guarded(x, False, False)
    guarded(batches(1)[0], True, False)
    assert [found.confirmed for found in guarded.findings] == [True]
    for x in batches(2):
        guarded(x, False, True)
    guarded(batches(1)[0], True, True)
    assert [found.confirmed for found in guarded.findings] == [True]


def test_guard_keeps_neither_arguments_nor_gradients_between_steps():
    """What the step lets go is gone when it returns."""
    import weakref

    run = training()
    guarded = gradgate.guard(functools.partial(good_inplace, run), state=run.state)
    x = batches(1)[0]
    seen = weakref.ref(x)
    guarded(x)
    del x
    assert seen() is None

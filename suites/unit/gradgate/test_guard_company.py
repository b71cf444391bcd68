"""The guard among what else uses hooks, threads and exceptions: it disturbs nothing and leaves nothing behind."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus
from torch.optim.optimizer import _global_optimizer_pre_hooks
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint

import gradgate
from fixtures.guard_programs import bad_data_write, bad_inplace, bad_numpy, batches, culprits, finish, training
from gradgate.watch import patches, replay, undo
from gradgate.watch.sentinel import EVERY


@pytest.fixture(autouse=True)
def guard_may_warn():
    """What is said is tested in `test_guard.py`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradgate.GradientFaultWarning)
        yield


def left() -> list[object]:
    """Everything global that a guard touches."""
    top = torch._C._autograd._top_saved_tensors_default_hooks(False)
    aside = torch.autograd.graph.disable_saved_tensors_hooks
    hooks = (len(_global_optimizer_pre_hooks), len(nn.modules.module._global_forward_pre_hooks))
    return [top, aside, hooks, _get_current_dispatch_mode(), patches.active(), sys.gettrace(), replay.is_running()]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, RuntimeError])
def test_guard_leaves_nothing_behind_when_the_step_raises(error: type[BaseException]):
    """Whatever the error, it comes through as it is, and without a note."""
    before, run = left(), training()

    def step(x):
        run.model(x).sum().backward()
        raise error("mine")

    guarded = gradgate.guard(step, state=run.state)
    with pytest.raises(error, match="mine") as caught:
        guarded(batches(1)[0])
    assert (left(), getattr(caught.value, "__notes__", []), guarded.findings) == (before, [], [])


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("call", [2, 3], ids=["recorded", "protected"])
def test_guard_leaves_nothing_behind_when_a_replay_raises(error: type[BaseException], call: int):
    """An error of the replay alone is no error of the step; Ctrl-C is, after the state was put back."""
    before, run, calls = left(), training(), []

    def step(x):
        calls.append(1)
        loss = bad_data_write(run, x)
        if len(calls) == call:
            raise error
        weights.append(run.model[0].weight.detach().clone())
        return loss

    weights: list[torch.Tensor] = []
    guarded = gradgate.guard(step, state=run.state)
    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            guarded(batches(1)[0])
    else:
        guarded(batches(1)[0])
    assert (left(), torch.equal(run.model[0].weight, weights[0])) == (before, True)


@pytest.mark.parametrize("step", [bad_inplace, bad_numpy, bad_data_write])
def test_guard_leaves_nothing_behind_after_a_replay(step):
    """Hooks, patches, modes and line tracing are as they were."""
    before, run = left(), training()
    guarded = gradgate.guard(functools.partial(step, run), state=run.state)
    with contextlib.suppress(RuntimeError):
        guarded(batches(1)[0])
    assert left() == before
    assert guarded.findings


@pytest.mark.parametrize("reentrant", [True, False])
def test_guard_is_silent_under_checkpointing(reentrant: bool):
    """Hooks inside are the innermost ones; gradients are bit-equal to unguarded ones."""

    def trained(guarded: bool) -> list[float]:
        run = training()
        torch.manual_seed(2)

        def step(x):
            hidden = checkpoint(run.model, x.requires_grad_(), use_reentrant=reentrant)
            return finish(run, hidden.square().sum())

        one = gradgate.guard(step, state=run.state) if guarded else step
        losses = [one(x) for x in batches(EVERY + 2)]
        assert not guarded or one.findings == []
        return losses

    assert trained(True) == trained(False)


def test_guard_names_the_fault_beside_a_checkpoint():
    """What a checkpoint saves is its own; what is saved outside is still watched."""
    run = training()

    def step(x):
        gate = checkpoint(run.model, x.requires_grad_(), use_reentrant=False).sigmoid()
        gate.data.mul_(0.5)
        return finish(run, gate.sum())

    guarded = gradgate.guard(step, state=run.state)
    guarded(batches(1)[0])
    first = guarded.findings[0]
    assert (first.kind, first.confirmed, first.op) == ("silent_data_write", True, "mul_")


def test_guard_is_silent_in_company():
    """Two optimizers, gradient penalty, torch.func, vmap, save_on_cpu, double backward, accumulation, an LSTM."""
    torch.manual_seed(0)
    generator, critic, memory = nn.Linear(3, 3), nn.Linear(3, 3), nn.LSTM(3, 3, 2, batch_first=True)
    nets = (generator, critic, memory)
    optimizers = [torch.optim.Adam(net.parameters()) for net in nets]
    target = torch.tensor([0, 1, 2, 0])

    def step(real):
        fake = generator(real)
        optimizers[1].zero_grad()
        (softplus(critic(fake.detach())) + softplus(-critic(real))).mean().backward()
        mixed = real.clone().requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).tanh().sum(), mixed, create_graph=True)
        slope.square().mean().backward()
        optimizers[1].step()
        optimizers[0].zero_grad()
        softplus(-critic(fake)).mean().backward()
        optimizers[0].step()
        with torch.autograd.graph.save_on_cpu():
            cross_entropy(critic(real), target).backward()
        torch.func.grad(lambda value: critic(value).square().sum())(real)
        torch.func.vmap(torch.func.grad(lambda row: generator(row).sum()))(real)
        optimizers[2].zero_grad()
        memory(real.view(2, 2, 3))[0].square().sum().backward()
        optimizers[2].step()
        return slope.sum()

    guarded = gradgate.guard(step, state=[*nets, *optimizers], on_finding="raise")
    for x in batches(EVERY + 2):
        guarded(x)
    assert guarded.findings == []


def test_guard_is_silent_over_accumulating_steps():
    """Each call one micro-batch; the optimizer steps in every fourth."""
    run = training()
    count = []

    def step(x):
        count.append(1)
        run.model(x).square().sum().backward()
        if len(count) % 4 == 0:
            run.optimizer.step()
            run.optimizer.zero_grad()

    guarded = gradgate.guard(step, state=run.state, on_finding="raise")
    for x in batches(2 * EVERY):
        guarded(x)
    assert guarded.findings == []


def test_guard_inside_another_stands_aside_in_the_replay():
    """The inner finds its fault itself; replays of the outer run the plain inner step."""
    run = training()
    inner = gradgate.guard(functools.partial(bad_data_write, run), state=run.state)

    def step(x):
        gate = run.model(x).sigmoid()
        picture = gate.detach().numpy()
        picture *= 2
        gate.sum().backward()
        return inner(x)

    outer = gradgate.guard(step, state=run.state)
    outer(batches(1)[0])
    assert [found.culprit.line for found in inner.findings] == culprits(bad_data_write)
    assert "silent_alias_write" in [found.kind for found in outer.findings]


def test_guard_inside_a_watch_leaves_the_finding_to_it():
    """One recorder is enough."""
    run = training()
    guarded = gradgate.guard(functools.partial(bad_data_write, run), state=run.state)
    with gradgate.watch(*run.state) as watch:
        guarded(batches(1)[0])
    assert ([found.kind for found in watch.findings], guarded.findings) == (["silent_data_write"], [])


def test_guard_that_calls_itself_guards_the_outer_call():
    """A recursion is one step."""
    run = training()

    def step(x, depth):
        if depth:
            guarded(x, depth - 1)
        return bad_data_write(run, x)

    guarded = gradgate.guard(step, state=run.state)
    guarded(batches(1)[0], 1)
    assert {found.kind for found in guarded.findings} == {"silent_data_write"}


def test_guard_does_not_disturb_another_thread():
    """A thread trains unguarded while a step here is replayed; its run is what it is alone."""

    def train(own, losses):
        own.model.eval()  # no dropout: the generators are the process's, not the thread's
        losses.extend(finish(own, own.model(x).sigmoid().sum()) for x in batches(200))

    alone: list[float] = []
    train(training(), alone)
    beside: list[float] = []
    other = threading.Thread(target=train, args=(training(), beside))
    run = training()
    guarded = gradgate.guard(functools.partial(bad_numpy, run), state=run.state)
    other.start()
    for x in batches(6):
        guarded(x)
    other.join()
    assert (beside, guarded.findings[0].kind) == (alone, "silent_alias_write")


def test_guard_reads_no_gradient_that_the_step_does_not_use(monkeypatch):
    """It may be another thread's, whose backward takes no lock: to read it meanwhile can end the process."""
    run, stranger = training(), training()
    finish(stranger, stranger.model(batches(1)[0]).sum())
    read: list[Tensor] = []
    of = undo._gradient
    monkeypatch.setattr(undo, "_gradient", lambda leaf: (read.append(leaf), of(leaf))[1])
    gradgate.guard(functools.partial(bad_numpy, run))(batches(1)[0])
    assert {id(leaf) for leaf in read} == {id(leaf) for leaf in run.model.parameters()}


def test_guard_sees_a_backward_that_runs_outside_the_step():
    """A loss handed out is not watched any more, and a loud fault stays loud."""
    run = training()

    def step(x):
        gate = run.model(x).sigmoid()
        gate.mul_(2)
        return gate.sum()

    guarded = gradgate.guard(step, state=run.state)
    loss = guarded(batches(1)[0])
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_guard_lets_line_tracing_be():
    """Whoever traces lines already gets his tracer back."""
    run = training()
    guarded = gradgate.guard(functools.partial(bad_numpy, run), state=run.state)

    def tracer(frame, event, argument):
        return None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        guarded(batches(1)[0])
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is tracer


def test_guard_survives_its_own_mistakes(monkeypatch):
    """A fault of the guard's own is a warning, never the step's error."""
    monkeypatch.setattr("gradgate.watch.replay.Replay.explain", lambda *_: 1 / 0)
    run = training()
    guarded = gradgate.guard(functools.partial(bad_data_write, run), state=run.state)
    with pytest.warns(gradgate.GradientFaultWarning, match="could not finish a replay: ZeroDivisionError"):
        guarded(batches(1)[0])
    assert guarded.findings[0].detail == {"not replayed": "ZeroDivisionError('division by zero')"}

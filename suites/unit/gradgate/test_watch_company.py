"""The recorder in company: hooks of others, compiled code, generators, threads; clean stays clean, a fault is named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode_stack
from torch.utils.checkpoint import checkpoint

import gradgate
from fixtures.watch_programs import bad_data_write, batch, layer
from gradgate.watch import patches
from gradgate.watch.block import Watch
from gradgate.watch.catalogue import Stopped

WRITE = "weight.detach()[:, 0] = 0.0"


def block(model: nn.Module, x: Tensor, faulty: bool) -> Tensor:
    weight = model(x).softmax(-1)
    squared = weight.square()
    if faulty:
        weight.detach()[:, 0] = 0.0
    return squared.exp()  # saves once more: a recomputation stops at the last tensor saved, and must reach the write


def recomputed(model: nn.Module, x: Tensor, faulty: bool) -> Tensor:
    return checkpoint(block, model, x, faulty, use_reentrant=False)


def rerun(model: nn.Module, x: Tensor, faulty: bool) -> Tensor:
    return checkpoint(block, model, x, faulty, use_reentrant=True)


def on_the_cpu(model: nn.Module, x: Tensor, faulty: bool) -> Tensor:
    with save_on_cpu():
        return block(model, x, faulty)


def under_own_hooks(model: nn.Module, x: Tensor, faulty: bool) -> Tensor:
    with saved_tensors_hooks(lambda tensor: tensor.detach(), lambda tensor: tensor):
        return block(model, x, faulty)


def autocast(model: nn.Module, x: Tensor, faulty: bool) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        return block(model, x, faulty)


COMPANY = (recomputed, rerun, on_the_cpu, under_own_hooks, autocast)


@pytest.mark.parametrize("company", COMPANY)
def test_watch_in_company_is_quiet_on_a_clean_program(company: Callable[..., Tensor]):
    """No finding, and the gradient of the unwatched run to the bit."""
    gradients = []
    for watched in (False, True):
        model, x = layer(), batch().requires_grad_()
        with gradgate.watch(model) if watched else torch.enable_grad() as watch:
            company(model, x, False).sum().backward()
        gradients.append(model.weight.grad)
    assert watch.findings == []
    assert torch.equal(*gradients)


@pytest.mark.parametrize("company", COMPANY)
def test_watch_in_company_names_the_write(company: Callable[..., Tensor]):
    """Where plain PyTorch checks nothing, a finding and no error; else its error and the finding."""
    model, x = layer(), batch().requires_grad_()
    watch = gradgate.watch(model)
    try:
        with watch:
            company(model, x, True).sum().backward()
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error)
    assert {(found.kind, found.culprit and found.culprit.source) for found in watch.findings} == {
        ("inplace_saved", WRITE)
    }


def test_watch_sees_a_step_between_a_checkpoint_and_its_recomputation():
    """The recomputation mixes new parameters with old activations; PyTorch says nothing."""
    model, x = layer(), batch().requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradgate.watch(model, optimizer) as watch:
        pending = recomputed(model, x, False).sum()
        model(x).sum().backward()
        optimizer.step()
        pending.backward()
    assert [found.kind for found in watch.findings] == ["optimizer_step_between"]


def test_watch_lets_hooks_that_copy_be():
    """A pack hook that clones is not touched by a later write."""
    model = layer()
    with gradgate.watch(model) as watch, saved_tensors_hooks(Tensor.clone, lambda tensor: tensor):
        block(model, batch(), True).sum().backward()
    assert watch.findings == []


@pytest.mark.filterwarnings("ignore")  # dynamo's own
@pytest.mark.parametrize("full", [False, True])
def test_watch_leaves_compiled_code_compiled_and_says_so(full: bool):
    """As many graphs as without a watch, the same gradient, and one note at the call."""
    graphs: list[int] = []
    gradients = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        graphs[-1] += 1
        return module.forward

    for watched in (False, True):
        torch._dynamo.reset()
        model = layer()
        graphs.append(0)
        compiled = torch.compile(lambda x, model=model: model(x) * torch.tensor(2.0), backend=backend, fullgraph=full)
        with gradgate.watch(model) if watched else torch.enable_grad() as watch:
            compiled(batch()).square().sum().backward()
        gradients.append(model.weight.grad)
    assert graphs == [1, 1]
    assert torch.equal(*gradients)
    assert [(found.code, found.severity) for found in watch.findings] == [("GG003", "note")]


def test_watch_in_a_generator_outlives_no_other():
    """The generator that opened the recorder is closed first: the inner block goes on, and nothing is left."""

    def generator() -> Iterator[int]:
        with gradgate.watch():
            yield 1

    before = _get_current_dispatch_mode_stack()
    opened = generator()
    next(opened)
    with gradgate.watch() as watch:
        opened.close()
        bad_data_write()
    assert [found.kind for found in watch.findings] == ["silent_data_write"]
    assert _get_current_dispatch_mode_stack() == before
    assert patches.active() is None


def test_watch_leaves_a_mode_and_hooks_that_came_after_it():
    """Taken off from below: what was put on top stays, in order."""

    class Other(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    mode, hooks = Other(), saved_tensors_hooks(lambda tensor: tensor.detach(), lambda tensor: tensor)
    watch = gradgate.watch()
    watch.__enter__()
    mode.__enter__()
    hooks.__enter__()
    watch.__exit__(None, None, None)
    try:
        assert _get_current_dispatch_mode_stack() == [mode]
        assert torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
    finally:
        hooks.__exit__(None, None, None)
        mode.__exit__(None, None, None)
    assert torch._C._autograd._top_saved_tensors_default_hooks(True) is None


def test_watch_closed_by_another_thread_is_deaf_and_gone_at_the_next():
    """A generator may be finalized anywhere; the thread that opened it trains on."""
    watch = gradgate.watch()
    watch.__enter__()
    closing = threading.Thread(target=watch.__exit__, args=(None, None, None))
    closing.start()
    closing.join()
    layer()(batch()).sum().backward()
    with gradgate.watch() as after:
        bad_data_write()
    assert [found.kind for found in after.findings] == ["silent_data_write"]
    assert _get_current_dispatch_mode_stack() == []


def test_watched_program_goes_on_when_the_recorder_breaks(monkeypatch: pytest.MonkeyPatch):
    """A fault of the watcher's own inside an operation is a warning at the end."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("gradgate.watch.numerics.Numerics.wants", broken)
    with pytest.warns(RuntimeWarning, match="could not finish"), gradgate.watch():
        model = layer()
        model(batch()).sum().backward()
    assert model.weight.grad is not None


def test_watch_keeps_whole_stacks_on_request():
    """Outermost first, the culprit's own line last; nothing of the kind without the request."""
    for stacks in (False, True):
        with gradgate.watch(stacks=stacks) as watch:
            bad_data_write()
        way = watch.findings[0].detail.get("stack", [])
        assert bool(way) == stacks
    assert way[-1] == str(watch.findings[0].culprit)
    assert any("in test_watch_keeps_whole_stacks_on_request()" in step for step in way)


def test_watch_stops_at_the_first_finding_on_request():
    """No `except Exception` of the program's own can hold it."""
    watch = Watch(first=True)
    with pytest.raises(Stopped, match="data-write"), watch:
        bad_data_write()
    assert [found.kind for found in watch.findings] == ["silent_data_write"]

"""The watched block itself: it changes nothing, holds nothing, and leaves nothing behind."""

from __future__ import annotations

import gc
import sys
import threading
import warnings
import weakref

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy, softplus
from torch.utils._python_dispatch import _get_current_dispatch_mode
from torch.utils.checkpoint import checkpoint

import gradgate
from fixtures.watch_programs import bad_alias_write, bad_data_write, bad_freed_graph, bad_inplace_saved, batch, layer
from gradgate.core.errors import GradgateError
from gradgate.watch import patches

WRAPPED = (
    (torch.autograd, "_engine_run_backward"),
    (torch.autograd.Function, "apply"),
    (torch.Tensor, "numpy"),
    (torch.Tensor, "grad"),
    (torch.Tensor, "register_hook"),
    (torch, "tensor"),
    (torch._C, "_set_grad_enabled"),
)


def state() -> list[object]:
    """Everything global that a watch touches."""
    top = torch._C._autograd._top_saved_tensors_default_hooks(False)
    wrapped = [vars(owner).get(name) for owner, name in WRAPPED]
    return [_get_current_dispatch_mode(), patches.active(), sys.gettrace(), top, *wrapped]


@pytest.mark.parametrize("program", [bad_inplace_saved, bad_freed_graph, bad_alias_write, KeyboardInterrupt])
def test_watch_leaves_nothing_behind_when_the_block_raises(program):
    """Dispatch mode, hooks, wrapped entrances and line tracing are as they were."""
    before = state()

    def run() -> None:
        if program is KeyboardInterrupt:
            layer()(batch())
            raise KeyboardInterrupt
        program()

    try:
        with gradgate.watch():
            run()
    except (RuntimeError, KeyboardInterrupt):
        pass
    assert state() == before


def test_watch_comes_back_when_an_optimizer_step_raises():
    """The mode stands aside during a step; an error in it must not leave the stack unbalanced."""
    before = state()
    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradgate.watch():
        model(batch()).sum().backward()
        optimizer.param_groups[0]["lr"] = "nonsense"
        with pytest.raises(Exception, match=r"nonsense|must be|unsupported|str"):
            optimizer.step()
    assert state() == before


def test_watch_finds_the_same_inside_another():
    """The inner block shares the outer recorder: both know what happened inside."""
    with gradgate.watch() as outer:
        with gradgate.watch() as inner:
            bad_data_write()
        layer()(batch()).sum().backward()
    assert [finding.kind for finding in inner.findings] == ["silent_data_write"]
    assert [finding.kind for finding in outer.findings] == ["silent_data_write"]


def test_watch_findings_are_live():
    """They can be read while the block runs."""
    with gradgate.watch() as watch:
        bad_data_write()
        assert [finding.kind for finding in watch.findings] == ["silent_data_write"]


def test_watch_counts_repeats_as_one_finding():
    """The same code, culprit and victim are one finding with a count."""
    with gradgate.watch() as watch:
        for _ in range(3):
            bad_data_write()
    assert [finding.count for finding in watch.findings] == [3]


def test_watch_refuses_what_cannot_train():
    """A user's slip is named, before anything runs."""
    with pytest.raises(GradgateError, match=r"takes modules, optimizers and tensors, got str"):
        gradgate.watch("model")


@pytest.mark.parametrize("reentrant", [True, False])
def test_watch_gradients_under_checkpointing_are_bit_equal(reentrant: bool):
    """Recomputation inside backward gives the same gradients, and no finding."""

    def gradient(watched: bool) -> torch.Tensor:
        model = layer()
        with gradgate.watch(model) if watched else torch.enable_grad() as watch:
            hidden = checkpoint(model, batch().requires_grad_(), use_reentrant=reentrant)
            hidden.square().sum().backward()
        assert not watched or watch.findings == []
        return model.weight.grad

    assert torch.equal(gradient(True), gradient(False))


@pytest.mark.parametrize("rounds", [3])
def test_watch_training_is_bit_equal(rounds: int):
    """Parameters after watched steps are those of unwatched ones."""

    def trained(watched: bool) -> torch.Tensor:
        model = nn.Sequential(layer(), nn.ReLU(inplace=True), nn.Dropout(0.5), layer())
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=True)
        torch.manual_seed(1)
        with gradgate.watch(model, optimizer) if watched else torch.enable_grad():
            for _ in range(rounds):
                optimizer.zero_grad()
                cross_entropy(model(batch()), torch.tensor([0, 1])).backward()
                optimizer.step()
        return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    assert torch.equal(trained(True), trained(False))


def test_watch_keeps_no_saved_tensor_alive():
    """What backward has used, or what nobody holds, is gone although the block goes on."""
    with gradgate.watch():
        hidden = layer()(batch()).exp()
        alive = weakref.ref(hidden.untyped_storage()), weakref.ref(hidden)
        hidden.square().sum().backward()
        del hidden
        gc.collect()
        assert [reference() for reference in alive] == [None, None]
        dropped = layer()(batch()).exp().square()
        recorder = patches.active()
        assert len(recorder.shelf.everything()) > 0
        del dropped
        assert recorder.shelf.everything() == []


def test_watch_is_quiet_in_company():
    """Two optimizers, gradient penalty, torch.func, save_on_cpu, an optimizer inside backward, accumulation."""
    real, target = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    generator, critic = layer(), layer()
    steps = [torch.optim.Adam(model.parameters()) for model in (generator, critic)]
    with gradgate.watch(generator, critic, *steps) as watch:
        for _ in range(2):
            fake = generator(real)
            steps[1].zero_grad()
            (softplus(critic(fake.detach())) + softplus(-critic(real))).mean().backward()
            steps[1].step()
            steps[0].zero_grad()
            softplus(-critic(fake)).mean().backward()
            steps[0].step()
        mixed = real.clone().requires_grad_()
        steps[1].zero_grad()
        (slope,) = torch.autograd.grad(critic(mixed).tanh().sum(), mixed, create_graph=True)
        slope.square().mean().backward()
        with torch.autograd.graph.save_on_cpu():
            cross_entropy(critic(real), target).backward()
        torch.func.grad(lambda value: critic(value).square().sum())(real)
    assert watch.findings == []


def test_watch_takes_an_update_inside_backward_for_a_gradient():
    """A hook that steps and clears leaves no `.grad`; the parameter is not dead."""
    model = layer()
    each = {parameter: torch.optim.SGD([parameter], lr=0.1) for parameter in model.parameters()}

    def update(parameter: torch.Tensor) -> None:
        each[parameter].step()
        each[parameter].zero_grad()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(update)
    with gradgate.watch(model, *each.values()) as watch:
        for _ in range(2):
            model(batch()).square().sum().backward()
    assert watch.findings == []


def test_watch_notes_what_a_scaler_skips():
    """An overflowed gradient that a GradScaler skips is a note."""
    model = layer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    with gradgate.watch(model, optimizer) as watch:
        scaler.scale(model(batch()).square().sum() * 100).backward()
        scaler.step(optimizer)
        scaler.update()
    assert {finding.severity for finding in watch.findings} == {"note"}


def test_watch_sees_its_own_thread_only():
    """Another thread trains unwatched, and undisturbed."""
    errors = []

    def train() -> None:
        try:
            bad_data_write()
        except Exception as error:
            errors.append(error)

    with gradgate.watch() as watch:
        other = threading.Thread(target=train)
        other.start()
        other.join()
    assert (watch.findings, errors) == ([], [])


def test_watch_lets_line_tracing_be():
    """Whoever traces lines already gets his tracer back."""
    seen = []

    def tracer(frame, event, argument):
        seen.append(event)

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        with gradgate.watch(), warnings.catch_warnings():
            bad_alias_write()
        after = sys.gettrace()
    finally:
        sys.settrace(before)
    assert after is tracer


def test_watched_program_goes_on_when_the_analysis_breaks(monkeypatch):
    """A fault of the watcher's own is a warning, never the watched program's error."""

    def broken(*_):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("gradgate.watch.ending.settle", broken)
    with pytest.warns(RuntimeWarning, match="could not finish"), gradgate.watch():
        torch.ones(2, requires_grad=True).sum().backward()


@pytest.mark.parametrize("file", ["train.py", "my_graph.py", "graph.py", "recorder.py", "patches.py"])
def test_watch_sees_an_edited_gradient_whatever_the_users_file_is_called(tmp_path, file):
    """The machinery's frames are known by their whole path: a user's file that ends alike is the user's."""
    path = tmp_path / file
    path.write_text("def edit(grad):\n    grad.mul_(0.5)\n")
    scope: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)  # noqa: S102 - our own text
    x = torch.ones(3, requires_grad=True)
    with gradgate.watch() as watch:
        y = x * 3.0
        y.register_hook(scope["edit"])
        (y * y).sum().backward()
    assert [(found.code, found.culprit.file, found.culprit.line) for found in watch.findings] == [
        ("GG106", str(path), 2)
    ]

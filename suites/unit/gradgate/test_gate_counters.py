"""Exact counters: bit-equal between builds, and one changed thing at a time is seen, with its line."""

from __future__ import annotations

import gc
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fixtures.pytest_fixtures import rest_at_night
from gradgate.core.comparison import Metric
from gradgate.gates.counters import count, is_compiled, recompiles
from gradgate.gates.counts import Counts
from gradgate.gates.exact import compare_counts, different_inputs

HERE = str(Path(__file__))


def relative(file: str) -> str | None:
    return Path(file).name if file == HERE else None


class Keep(torch.autograd.Function):
    """Identity that saves a buffer more."""

    @staticmethod
    def forward(ctx, x, size):
        ctx.save_for_backward(torch.empty(size, dtype=torch.uint8))
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        ctx.saved_tensors  # noqa: B018 - backward reads what it saved
        return grad, None


class Net(nn.Module):
    """Two layers."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, width), nn.Linear(width, 1)

    def forward(self, x, twice=False, unfused=False):
        hidden = torch.relu(self.up(x))
        if unfused:
            hidden = hidden * 1
        return self.down(hidden) + (self.down(hidden) if twice else 0)


def make(
    *, ops=0, keep=0, late=0, leak=0, temporary=0, read=0, tolist=0, twice=False, rows=3, unfused=False, nets=1
) -> Any:
    """A training step in which one thing at a time can be made worse."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x, leaked = torch.randn(rows, 4, requires_grad=True), []

    def step():
        optimizer.zero_grad(set_to_none=True)
        hidden = Keep.apply(x, keep) if keep else x
        for _ in range(nets):
            out = net(hidden, twice, unfused)
        loss = out.square().mean()
        loss = Keep.apply(loss, late) if late else loss
        for _ in range(ops):
            torch.mm(x.detach().T, x.detach())
        for _ in range(read):
            loss.item()
        for _ in range(tolist):
            x.tolist()
        if temporary:
            torch.empty(temporary, dtype=torch.uint8)
        loss.backward()
        optimizer.step()
        if leak:
            leaked.append(torch.empty(leak, dtype=torch.uint8))

    return step


def line_of(text: str) -> str:
    source, start = inspect.getsourcelines(make)
    return f"{Path(HERE).name}:{start + next(i for i, line in enumerate(source) if text in line)} in step()"


def compared(**head: Any) -> dict[str, Metric]:
    counts = [count(make(**arguments), relative) for arguments in ({}, head)]
    return {metric.metric: metric for metric in compare_counts(*counts)}


def test_counts_are_the_same_from_build_to_build():
    """Tolerance 0 needs counters that do not move by themselves."""
    assert {metric.verdict for metric in compared().values()} == {"pass"}


def test_garbage_of_others_is_not_counted():
    """What computes when it is freed is freed before, and not while a step runs."""

    class Computing:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            torch.ones(1) + torch.ones(1)

    made: list[int] = []
    plain = make()

    def step() -> None:
        plain()
        made.append(gc.isenabled())
        Computing()

    usual, other = count(make(), relative), count(step, relative)

    assert (other.values["op_count"], set(made), gc.isenabled()) == (usual.values["op_count"], {False}, True)


@pytest.mark.parametrize(
    ("worse", "metric", "by", "line"),
    rest_at_night(
        [
            ({"ops": 1}, "op_count", 4, "torch.mm(x"),
            ({"keep": 64}, "saved_bytes", 64, "Keep.apply(x"),
            ({"temporary": 64}, "total_bytes", 64, "torch.empty(temporary"),
            ({"leak": 64}, "leak", 192, "leaked.append"),
            ({"read": 2}, "host_syncs", 2, "loss.item()"),
            ({"nets": 2}, "forwards", 1, "out = net("),
            ({"ops": 1}, "flops", 96, "torch.mm(x"),
            ({"keep": 64}, "saved_calls", 1, "Keep.apply(x"),
            ({"late": 640}, "saved_bytes", 640, "Keep.apply(loss"),
            ({"tolist": 3}, "host_syncs", 3, "x.tolist()"),
        ],
        day=6,
    ),
)
def test_one_thing_more_is_seen_with_its_line(worse: dict[str, Any], metric: str, by: int, line: str):
    """An operation, 64 saved bytes, a temporary, a leak of 64 bytes, a read, a second forward."""
    found = compared(**worse)[metric]
    assert (found.verdict, found.head - found.base) == ("fail", by)
    assert found.where == line_of(line)


def test_growth_that_dies_before_the_peak_is_seen_by_the_total_alone():
    """A peak is blind to what is freed before it."""
    found = compared(temporary=64)
    assert (found["live_peak_bytes"].verdict, found["total_bytes"].verdict) == ("pass", "fail")


def test_fewer_is_improved_and_not_a_failure():
    """Base does more than head."""
    counts = [count(make(**arguments), relative) for arguments in ({"ops": 1, "read": 1}, {})]
    found = {metric.metric: metric.verdict for metric in compare_counts(*counts)}
    assert (found["op_count"], found["host_syncs"], found["leak"]) == ("improved", "improved", "pass")


def test_another_operation_is_named_with_module_and_line():
    """The first one that differs, not only that something does."""
    found = compared(unfused=True)["op_signature"]
    assert found.verdict == "changed"
    assert "in Net: base runs aten.t" in found.reason
    assert "head aten.mul.Tensor(float32[3, 8](8, 1)cpu)" in found.reason
    assert found.source == "hidden = hidden * 1"


def test_parameters_cost_no_saved_bytes_and_a_storage_counts_once():
    """Saving a weight or a second view of an activation takes no memory."""
    weight = nn.Parameter(torch.ones(100))

    def step():
        x = torch.ones(100, requires_grad=True).exp()
        ((x * weight) * x.view(10, 10).view(100)).sum().backward()

    counts = count(step, relative)
    assert counts.values["saved_bytes"] == 3 * 400 - 400  # exp's result and x * weight
    assert counts.values["saved_calls"] == 5


def test_a_step_may_differentiate_twice():
    """What the hooks hand back is still on its graph."""
    x = torch.tensor(3.0, requires_grad=True)
    seen = []

    def step():
        (slope,) = torch.autograd.grad(x**3, x, create_graph=True)
        (curvature,) = torch.autograd.grad(slope, x)
        seen.append(curvature.item())

    assert count(step, relative).values["autograd_nodes"] > 0
    assert set(seen) == {18.0}


def test_batches_of_another_shape_are_incomparable():
    """More rows cost more: that says nothing about the code."""
    found = compared(rows=5)
    assert found["flops"].verdict == "incomparable"
    assert found["flops"].reason == (
        "the batches differ: base feeds Net(float32[3, 4](4, 1)cpu), head Net(float32[5, 4](4, 1)cpu)"
    )


def test_models_too_different_to_compare_batches_are_judged_by_their_counters():
    """Another class of module takes other inputs by right."""
    one, other = Counts({}, inputs=("Net(a[1])",)), Counts({}, inputs=("Other(a[2])",))
    assert different_inputs(one, other) == ""


def test_a_counter_that_base_does_not_repeat_is_incomparable():
    """A step that depends on chance cannot be held to tolerance 0."""
    base, head, again = (Counts({"op_count": number}) for number in (10, 12, 11))
    (found,) = compare_counts(base, head, again)
    assert (found.verdict, found.reason) == ("incomparable", "base itself counts 10, then 11")


def test_an_operation_that_head_no_longer_runs_is_named_on_base():
    """Head's list may simply end."""
    counts = [count(make(**arguments), relative) for arguments in ({"leak": 8}, {})]
    found = {metric.metric: metric for metric in compare_counts(*counts)}["op_signature"]
    assert found.where == line_of("leaked.append")
    assert found.reason.endswith("head nothing")


def test_what_a_step_raises_reaches_the_caller_and_leaves_no_hook_behind():
    """A broken step is its own thing."""

    def step():
        raise ValueError("broken on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        count(step, relative)
    assert "tolist" not in vars(torch.Tensor)


def test_sparse_gradients_are_counted_around():
    """A sparse tensor has no storage of its own to follow."""
    table = nn.Embedding(10, 4, sparse=True)

    def step():
        table.zero_grad()
        table(torch.tensor([1, 2])).sum().backward()

    assert count(step, relative).values["op_count"] > 0


def test_recompiles_do_not_apply_where_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch):
    """The metric is left out then."""
    monkeypatch.setattr("gradgate.gates.counters.is_compiled", lambda: False)
    assert recompiles(lambda: None) is None


def test_recompiles_counts_frames_compiled_in_steady_state(monkeypatch: pytest.MonkeyPatch):
    """A frame compiled anew at each step is a recompile at each step."""
    import torch._dynamo.utils

    @torch.compile(backend="eager", dynamic=False)
    def grows(x):
        return x * 2

    sizes = iter(range(2, 99))
    grows(torch.ones(1))
    assert is_compiled()
    assert recompiles(lambda: grows(torch.ones(next(sizes))), steps=2) == 2
    assert recompiles(lambda: grows(torch.ones(3)), steps=2) == 0
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

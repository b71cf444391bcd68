"""Stage 2: exact accumulation, one forward of each part, gradients where they belong, and no update from a NaN."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fixtures.small_runs import batch_of, bits, row, token_stage
from wmtp import head_weights, wmtp_loss
from wmtp.data.batches import Batch, Row
from wmtp.errors import NonFiniteError
from wmtp.loss import head_cross_entropy
from wmtp.stage2 import TokenStage
from wmtp.weights import uniform_weights

ROWS = [row(9, 1, prompt=2), row(4, 2, prompt=4), row(12, 3), row(5, 4), row(7, 5, prompt=6)]


def windows(rows: list[Row], sizes: list[int], *, packed: bool = False) -> list[Batch]:
    """The rows in micro-batches of these sizes."""
    batches, start = [], 0
    for size in sizes:
        part = rows[start : start + size]
        batches.append(batch_of([tuple(part)] if packed else [(one,) for one in part], train_on="completion"))
        start += size
    return batches


def state_of(stage: TokenStage) -> Any:
    return bits([stage.model.state_dict(), stage.update.state_dict()])


def reached(stage: TokenStage, loss: Tensor) -> set[str]:
    """Which parts of the model a loss sends a gradient to."""
    stage.update.zero_grad()
    loss.backward()
    return {n.split(".")[0] for n, p in stage.model.named_parameters() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("sizes", [[5], [1, 4], [2, 1, 2], [1, 1, 1, 1, 1]])
@pytest.mark.parametrize("weighting", ["critic", "uniform"])
def test_accumulation_is_exact_however_the_window_is_cut(sizes: list[int], weighting: str) -> None:
    """Uneven micro-batches, one of them (row 2 is all prompt) without any label: the same gradients and metrics.

    In double precision, so that what is left is order of summation.
    """
    overrides = ("optim.grad_clip=null", f"loss.weighting={weighting}")
    results = []
    for cut in ([5], sizes):
        stage = token_stage(*overrides)
        stage.model.double()
        window = windows(ROWS, cut)
        results.append(
            (stage.step(window), {n: p.grad for n, p in stage.model.named_parameters() if p.grad is not None})
        )
    (whole, whole_grads), (parts, parts_grads) = results
    torch.testing.assert_close(parts_grads, whole_grads, rtol=1e-9, atol=1e-12)
    assert {k: v for k, v in parts.items() if v is not None} == pytest.approx(
        {k: v for k, v in whole.items() if v is not None}, rel=1e-5
    )


def test_micro_batch_without_labels_takes_part_without_weight() -> None:
    """Its token loss is exactly 0 and attached; its real tokens still count in the value loss."""
    stage = token_stage()
    empty = windows(ROWS[1:2], [1])[0]
    terms = stage.losses(empty)
    assert (empty.positions, terms.wmtp_loss.item(), terms.wmtp_loss.requires_grad) == (0, 0.0, True)
    assert terms.value_loss.item() > 0


def test_step_says_so_when_no_position_has_a_label() -> None:
    """The token loss is exactly 0, `positions` is 0, and trunk and heads get zero gradients."""
    stage = token_stage("optim.grad_clip=null")
    measured = stage.step(windows(ROWS[1:2], [1]))
    grads = {n: p.grad for n, p in stage.model.named_parameters() if n.startswith(("trunk", "heads"))}
    assert (measured["wmtp_loss"], measured["positions"], measured["cross_entropy"]) == (0.0, 0, 0.0)
    assert [n for n, grad in grads.items() if grad is not None and bool(grad.count_nonzero())] == []


def test_loss_is_the_published_function_plus_the_value_term() -> None:
    """The step minimises `wmtp_loss` of `head_weights` plus the coefficient times the mean squared error."""
    stage = token_stage("critic.auxiliary_loss_coef=0.3", "loss.weight_temperature=0.2", "critic.discount_lambda=0.8")
    batch = windows(ROWS, [5])[0]
    terms = stage.losses(batch)
    output = stage.model(batch.token_BS, batch.valid_BS)
    weight_BSH = head_weights(
        output.value_BS.detach(), batch.label_BSH, batch.valid_BS, discount_lambda=0.8, temperature=0.2
    )
    torch.testing.assert_close(terms.wmtp_loss, wmtp_loss(output.logits_BSHV, batch.label_BSH, weight_BSH))
    torch.testing.assert_close(terms.total, terms.wmtp_loss + 0.3 * terms.value_loss)


def test_uniform_weighting_trains_no_value_head() -> None:
    """The value head is neither asked nor stepped, and its loss is no metric."""
    stage = token_stage("loss.weighting=uniform")
    calls: list[int] = []
    stage.model.value_head.register_forward_hook(lambda *_: calls.append(1))
    before = copy.deepcopy(stage.model.value_head.state_dict())
    measured = stage.step(windows(ROWS, [5]))
    stepped = {id(p) for group in stage.update.optimizer.param_groups for p in group["params"]}
    assert (calls, measured["value_loss"]) == ([], None)
    assert all(torch.equal(t, before[n]) for n, t in stage.model.value_head.state_dict().items())
    assert stepped.isdisjoint(id(p) for p in stage.model.value_head.parameters())


def test_uniform_weighting_is_the_same_step_with_other_weights() -> None:
    """Its loss is that of 1 / valid heads."""
    stage = token_stage("loss.weighting=uniform")
    batch = windows(ROWS, [5])[0]
    logits_BSHV = stage.model(batch.token_BS, batch.valid_BS, with_value=False).logits_BSHV
    expected = wmtp_loss(logits_BSHV, batch.label_BSH, uniform_weights(batch.label_BSH))
    torch.testing.assert_close(stage.losses(batch).total, expected)


@pytest.mark.parametrize(
    ("gradient", "to_trunk", "token_loss", "value_loss"),
    [
        ("detach", "false", {"trunk", "heads"}, {"value_head"}),
        ("through", "false", {"trunk", "heads", "value_head"}, {"value_head"}),
        ("detach", "true", {"trunk", "heads"}, {"trunk", "value_head"}),
        ("through", "true", {"trunk", "heads", "value_head"}, {"trunk", "value_head"}),
    ],
)
def test_loss_terms_reach_what_the_recipe_lets_them(
    gradient: str, to_trunk: str, token_loss: set[str], value_loss: set[str]
) -> None:
    """`weight_gradient` opens the weights, `value_gradient_to_trunk` the value head's input, and nothing else."""
    stage = token_stage(f"loss.weight_gradient={gradient}", f"critic.value_gradient_to_trunk={to_trunk}")
    batch = windows(ROWS, [5])[0]
    assert reached(stage, stage.losses(batch).wmtp_loss) == token_loss
    assert reached(stage, stage.losses(batch).value_loss) == value_loss


def test_through_leaves_the_trunks_gradient_alone_unless_it_is_asked_for() -> None:
    """The weights train the value head, but the trunk's gradient is that under `detach`."""
    batch = windows(ROWS, [5])[0]
    grads = []
    for gradient, to_trunk in (("detach", "false"), ("through", "false"), ("through", "true")):
        stage = token_stage(f"loss.weight_gradient={gradient}", f"critic.value_gradient_to_trunk={to_trunk}")
        stage.losses(batch).wmtp_loss.backward()
        grads.append({n: p.grad for n, p in stage.model.trunk.named_parameters()})
    torch.testing.assert_close(grads[1], grads[0], rtol=0, atol=0)
    assert any(not torch.equal(grads[2][n], grads[0][n]) for n in grads[0])


@pytest.mark.parametrize("sizes", [[5], [2, 3]])
def test_step_runs_each_part_once_a_micro_batch(sizes: list[int]) -> None:
    """One forward of trunk, heads and value head each, and none more for the metrics."""
    stage, calls = token_stage(), Counter[str]()
    for name in ("trunk", "heads", "value_head"):
        module = getattr(stage.model, name)
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    stage.step(windows(ROWS, sizes))
    assert calls == dict.fromkeys(("trunk", "heads", "value_head"), len(sizes))


def test_clipping_bounds_the_norm_over_all_groups() -> None:
    """Trunk, heads and value head together."""
    stage = token_stage("optim.grad_clip=0.01")
    measured = stage.step(windows(ROWS, [5]))
    clipped = torch.cat([p.grad.flatten() for p in stage.model.parameters()]).norm().item()
    assert measured["grad_norm"] > 0.1
    assert clipped == pytest.approx(0.01, rel=1e-3)


class HostReads(TorchDispatchMode):
    """Counts reads of single numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@contextmanager
def host_reads(stage: TokenStage, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostReads]:
    """Reads outside the optimizer: of single numbers, and `tolist`, which is not dispatched."""
    mode, tolist, step = HostReads(), Tensor.tolist, stage.update.optimizer.step

    def counted(tensor: Tensor) -> Any:
        mode.count += 1
        return tolist(tensor)

    def uncounted(*arguments: Any) -> Any:
        before = mode.count
        result = step(*arguments)
        mode.count = before
        return result

    monkeypatch.setattr(Tensor, "tolist", counted)
    monkeypatch.setattr(stage.update.optimizer, "step", uncounted)
    with mode:
        yield mode


@pytest.mark.parametrize("overrides", [(), ("loss.weighting=uniform",), ("optim.grad_clip=null",)])
def test_step_reads_from_the_device_at_most_3_times(
    overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many micro-batches: the counts were made on the host, the metrics come in one piece."""
    stage, window = token_stage(*overrides), windows(ROWS, [2, 2, 1])
    stage.step(window)
    with host_reads(stage, monkeypatch) as reads:
        stage.step(window)
    assert reads.count <= 3


def test_batch_is_never_changed_by_a_step() -> None:
    """Every tensor of the batch is bit-equal behind two steps."""
    stage, window = token_stage(), windows(ROWS, [3, 2])
    before = bits([dataclasses.asdict(batch) for batch in window])
    stage.step(window)
    stage.step(window)
    assert bits([dataclasses.asdict(batch) for batch in window]) == before


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_step_runs_in_half_precision(precision: str) -> None:
    """Loss terms are float32, parameters stay float32, and the loss falls."""
    stage = token_stage(f"precision={precision}", "optim.warmup_steps=0")
    window = windows(ROWS, [5])
    terms = stage.losses(window[0])
    losses = [stage.step(window)["loss"] for _ in range(8)]
    assert {terms.total.dtype, terms.wmtp_loss.dtype, terms.value_loss.dtype} == {torch.float32}
    assert {p.dtype for p in stage.model.parameters()} == {torch.float32}
    assert losses[-1] < losses[0]


def test_overflow_under_fp16_is_skipped_and_counted() -> None:
    """A gradient hook that overflows: no update, no step of the schedule, a line that says so; then on it goes."""
    stage, window = token_stage("precision=fp16"), windows(ROWS, [5])
    stage.step(window)
    before = bits([stage.model.state_dict(), stage.update.optimizer.state_dict()])
    handle = stage.model.heads.norm.gain_D.register_hook(lambda grad: grad * float("inf"))
    measured = stage.step(window)
    handle.remove()
    assert (measured["skipped"], stage.update.scheduler.last_epoch) == (1, 1)
    assert bits([stage.model.state_dict(), stage.update.optimizer.state_dict()]) == before
    assert (stage.step(window)["skipped"], stage.update.scheduler.last_epoch) == (0, 2)


def spoil_reward(stage: TokenStage, window: list[Batch]) -> None:
    window[1].reward_BS[0, 0] = float("nan")


def spoil_parameter(stage: TokenStage, window: list[Batch]) -> None:
    stage.model.trunk.blocks[0].down.weight.data[0, 0] = float("inf")


def spoil_activation(stage: TokenStage, window: list[Batch]) -> None:
    stage.model.trunk.blocks[0].mlp_norm.register_forward_hook(lambda _m, _i, out: out / 0)


def spoil_gradient(stage: TokenStage, window: list[Batch]) -> None:
    stage.model.heads.project.weight.register_hook(lambda grad: grad * float("nan"))


def spoil_value(stage: TokenStage, window: list[Batch]) -> None:
    stage.model.value_head.register_forward_hook(lambda _m, _i, out: out * float("nan"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_reward, "the loss is nan; first non-finite: reward_BS"),
        (spoil_parameter, "first non-finite: parameter trunk.blocks.0.down.weight"),
        (spoil_activation, "the loss is nan; first non-finite: the output of trunk.blocks.0.mlp_norm"),
        (spoil_value, "the loss is nan; first non-finite: the output of value_head"),
        (spoil_gradient, "the gradient norm is nan; first non-finite: the gradient of heads.project.weight"),
    ],
)
def test_step_stops_before_the_update_and_names_what_is_not_finite(
    spoil: Callable[[TokenStage, list[Batch]], None], message: str
) -> None:
    """Reward, parameter, activation, value or gradient: model and optimizer state are bit-equal to before."""
    stage, window = token_stage(), windows(ROWS, [3, 2])
    stage.step(window)
    spoil(stage, window)
    before = state_of(stage)
    with pytest.raises(NonFiniteError) as caught:
        stage.step(window)
    assert str(caught.value).endswith(message)
    assert state_of(stage) == before


def test_loss_that_is_not_finite_stops_under_fp16_too() -> None:
    """A scaler excuses gradients, never the loss."""
    stage, window = token_stage("precision=fp16"), windows(ROWS, [5])
    window[0].reward_BS[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"the loss is nan; first non-finite: reward_BS"):
        stage.step(window)


def test_step_says_that_no_tensor_is_to_blame_when_only_a_sum_overflows() -> None:
    """Every tensor is finite, the norm over all of them is not."""
    stage, window = token_stage(), windows(ROWS, [5])
    for parameter in stage.model.parameters():
        parameter.register_hook(lambda grad: torch.full_like(grad, 3e38))
    with pytest.raises(NonFiniteError, match=r"the gradient norm is inf; first non-finite: no single tensor"):
        stage.step(window)


def test_step_on_packed_rows_equals_the_step_on_separate_rows() -> None:
    """Packing changes speed: loss, counts and gradients are those of the rows one by one."""
    overrides = ("optim.grad_clip=null", "data.packing=true")
    results = []
    for packed in (True, False):
        stage = token_stage(*overrides)
        stage.model.double()
        results.append((stage.step(windows(ROWS, [5], packed=packed)), stage.model))
    (together, one), (apart, other) = results
    keys = ("loss", "wmtp_loss", "value_loss", "cross_entropy", "weight_entropy", "grad_norm", "tokens", "positions")
    assert {k: together[k] for k in keys} == pytest.approx({k: apart[k] for k in keys}, rel=1e-5)
    grads = [{n: p.grad for n, p in model.named_parameters()} for model in (one, other)]
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-4, atol=1e-7)


def test_heldout_cross_entropy_is_unweighted_over_all_labels() -> None:
    """The mean over labels of all heads, and NaN where there is none."""
    stage, batches = token_stage(), windows(ROWS, [3, 2])
    stage.model.eval()
    with torch.no_grad():
        logits = [stage.model(batch.token_BS, batch.valid_BS).logits_BSHV for batch in batches]
        total = sum(
            head_cross_entropy(x, batch.label_BSH).sum().item() for x, batch in zip(logits, batches, strict=True)
        )
    expected = total / sum(batch.labels for batch in batches)
    assert stage.heldout_cross_entropy(batches) == pytest.approx(expected, rel=1e-6)
    assert str(stage.heldout_cross_entropy(windows(ROWS[1:2], [1]))) == "nan"


def test_evaluation_changes_nothing_that_training_sees() -> None:
    """Modes, parameters, gradients, optimizer state and random numbers are as before, dropout or not."""
    stage, window = token_stage("model.dropout=0.5"), windows(ROWS, [3, 2])
    stage.step(window)
    stage.model.heads.eval()
    modes = [module.training for module in stage.model.modules()]
    grads = {n: p.grad.clone() for n, p in stage.model.named_parameters()}
    before, random = state_of(stage), torch.get_rng_state()
    stage.heldout_cross_entropy(window)
    assert [module.training for module in stage.model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert state_of(stage) == before
    assert all(torch.equal(p.grad, grads[n]) for n, p in stage.model.named_parameters())


def test_step_calls_what_wraps_the_model() -> None:
    """`forward` stands in for the model, so that a wrapped or compiled form is what trains."""

    class Wrapper(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner, self.calls = inner, 0

        def forward(self, *arguments: Any, **named: Any) -> Any:
            self.calls += 1
            return self.inner(*arguments, **named)

    stage = token_stage()
    stage.forward = wrapper = Wrapper(stage.model)
    stage.step(windows(ROWS, [5]))
    assert wrapper.calls == 1

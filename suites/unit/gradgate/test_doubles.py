"""Casts to float32 leave float64 alone: in a run of float64, and in a formula that is given float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradgate import Run
from gradgate.checks.formula_calls import Call
from gradgate.subjects.capabilities import declared
from gradgate.subjects.doubles import doubles_kept


class Upcasting(Run):
    """A value head in front of which the trainer casts up, as for a trunk in sixteen bits."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.modules = {"trunk": nn.Linear(3, 4, dtype=dtype), "value_head": nn.Linear(4, 1, dtype=dtype)}
        self.seen: list[torch.dtype] = []

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield torch.ones(2, 3)

    def losses(self, batch: Tensor) -> Mapping[str, Tensor]:
        hidden = self.modules["trunk"](batch.to(self.modules["trunk"].weight.dtype)).float()
        self.seen.append(hidden.dtype)
        return {"total": self.modules["value_head"](hidden).square().mean()}

    def step(self, batch: Tensor) -> Mapping[str, float]:
        loss = self.losses(batch)["total"]
        loss.backward()
        return {"loss": float(loss.detach())}


def test_a_run_of_float64_keeps_it_through_a_cast() -> None:
    run = Upcasting(torch.float64)
    assert run.losses(torch.ones(2, 3))["total"].dtype == torch.float64
    assert run.step(torch.ones(2, 3))["loss"] > 0
    assert set(run.seen) == {torch.float64}


def test_the_same_step_without_the_harness_ends_in_a_layer_of_another_dtype() -> None:
    run = Upcasting(torch.float64)
    with pytest.raises(RuntimeError, match="dtype"):
        Upcasting.losses.__wrapped__(run, torch.ones(2, 3))  # type: ignore[attr-defined]


def test_what_a_run_of_float64_makes_without_a_dtype_is_float64() -> None:
    """It is written to by what has the run's dtype; the default is what it was behind it."""

    class Placing(Upcasting):
        def losses(self, batch: Tensor) -> Mapping[str, Tensor]:
            value_B = super().losses(batch)["total"].expand(len(batch))
            placed_BS = torch.zeros(batch.shape)
            placed_BS[torch.arange(len(batch)), -1] = value_B
            return {"total": placed_BS.mean()}

    run = Placing(torch.float64)
    assert run.losses(torch.ones(2, 3))["total"].dtype == torch.float64
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_other_run_casts_as_it_does(dtype: torch.dtype) -> None:
    run = Upcasting(dtype)
    run.modules["value_head"].float()
    run.losses(torch.ones(2, 3))
    assert run.seen == [torch.float32]


@pytest.mark.parametrize(
    "cast",
    [
        lambda x: x.float(),
        lambda x: x.to(torch.float32),
        lambda x: x.to("cpu", dtype=torch.float32),
        lambda x: x.type(torch.float32),
        lambda x: torch.softmax(x, -1, dtype=torch.float32),
        lambda x: nn.functional.softmax(x, dim=-1, dtype=torch.float32),
        lambda x: nn.functional.log_softmax(x, dim=-1, dtype=torch.float32),
        lambda x: x.log_softmax(-1, torch.float32),
    ],
)
def test_every_way_to_say_float32_is_one_that_keeps(cast: Any) -> None:
    with doubles_kept():
        assert cast(torch.ones(3, dtype=torch.float64)).dtype == torch.float64
        assert cast(torch.ones(3, dtype=torch.bfloat16)).dtype == torch.float32
    assert cast(torch.ones(3, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize("cast", [lambda x: x.half(), lambda x: x.to(torch.bfloat16), lambda x: x.to(torch.int64)])
def test_casts_down_are_casts(cast: Any) -> None:
    with doubles_kept():
        assert cast(torch.ones(3, dtype=torch.float64)).dtype != torch.float64


class Checkpointed(Upcasting):
    """Its trunk's features are computed again in the backward."""

    def losses(self, batch: Tensor) -> Mapping[str, Tensor]:
        def head(features: Tensor) -> Tensor:
            return self.modules["value_head"](features.float())

        features = self.modules["trunk"](batch.to(self.modules["trunk"].weight.dtype))
        value = checkpoint(head, features, use_reentrant=False)
        assert isinstance(value, Tensor)
        return {"total": value.square().mean(), "count": torch.tensor(2.0)}


def test_what_a_backward_computes_again_is_what_the_forward_computed() -> None:
    """Also where it is not the step that goes backward, and the casts are themselves again behind it."""
    before = Tensor.float
    run = Checkpointed(torch.float64)
    run.losses(torch.ones(2, 3))["total"].backward()
    assert run.modules["trunk"].weight.grad is not None
    assert Tensor.float is before


def test_a_backward_that_raises_leaves_the_casts_to_the_next_run() -> None:
    """What it entered is left before anything else of a run is asked."""
    before = Tensor.float
    run = Checkpointed(torch.float64)
    total = run.losses(torch.ones(2, 3))["total"]
    run.modules["value_head"].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        total.backward()
    Upcasting(torch.float32).losses(torch.ones(2, 3))
    assert Tensor.float is before


def test_what_torch_itself_casts_is_cast() -> None:
    """A gradient scaler takes the reciprocal of its scale in float64, and wants it in float32."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1, dtype=torch.float64))])
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    with doubles_kept():
        scaler.scale(optimizer.param_groups[0]["params"][0].sum()).backward()
        scaler.unscale_(optimizer)
    assert optimizer.param_groups[0]["params"][0].grad == 1.0


def test_a_step_that_raises_leaves_the_casts_as_they_were() -> None:
    before = Tensor.float, torch.softmax
    with pytest.raises(RuntimeError, match="own"), doubles_kept():
        raise RuntimeError("own")
    assert (Tensor.float, torch.softmax) == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_formula_answers_in_the_dtype_of_its_values(dtype: torch.dtype) -> None:
    call = Call("returns", lambda value_BS: value_BS.float(), "a case", {"value_BS": torch.ones(2, 3, dtype=dtype)})
    assert call().dtype == dtype


def test_a_capability_that_a_run_takes_back_is_none() -> None:
    """`losses = Run.losses` says that there are none, though a class above has some."""

    class Without(Upcasting):
        losses = Run.losses

    assert "losses" in declared(Upcasting(torch.float64))
    assert "losses" not in declared(Without(torch.float64))

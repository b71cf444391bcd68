"""The update: unscale, measure the norm, refuse what is not finite, clip, step. One read from the device a step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from wmtp.errors import NonFiniteError
from wmtp.parallel import laid_out, whole
from wmtp.processes import ALONE, Processes
from wmtp.settings import OptimSection

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SKIPS_IN_A_ROW = 20


class Update:
    """Optimizer, schedule, scaler and clipping of one stage.

    Args:
        groups: AdamW's parameter groups, from `parameter_groups`.
        optim: betas, weight decay, clipping and schedule.
        total_steps: length of the schedule.
        device: where the parameters are.
        precision: fp32, bf16 or fp16; fp16 brings a gradient scaler.
        processes: those whose losses add up; their gradients already have.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        optim: OptimSection,
        *,
        total_steps: int,
        device: torch.device,
        precision: str = "fp32",
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self.grad_clip = optim.grad_clip
        self.device, self.precision = device, precision
        self.optimizer = AdamW(groups, betas=optim.betas, weight_decay=optim.weight_decay, fused=True)
        self.scheduler = LambdaLR(self.optimizer, lambda step: schedule(step, total_steps, optim))
        self.scaler = torch.amp.GradScaler(device.type) if precision == "fp16" else None
        self.skipped = 0
        self.skipped_in_a_row = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass's precision; off for fp32."""
        return autocast(self.device, self.precision)

    def backward(self, loss: Tensor) -> None:
        """Backward of one micro-batch's share of the loss."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def apply(self, loss: Tensor, measured: Mapping[str, Tensor]) -> dict[str, float]:
        """Make the update, or refuse it before anything has changed.

        Args:
            loss: scalar, this process's share of the step's loss, detached.
            measured: further scalars to add up and read on the way, detached.

        Returns:
            `measured`, `loss`, `grad_norm` (before clipping), `lr` (of this update) and `skipped` as numbers.

        Raises:
            NonFiniteError: the loss is not finite, or a gradient is not and no scaler is there to explain it, or the
                scaler has skipped 20 steps in a row. Parameters and optimizer state are untouched.
        """
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = whole(get_total_norm(gradients), self.processes)
        names = ["loss", *measured, "grad_norm"]
        numbers = torch.stack([x.detach().double() for x in (loss, *measured.values(), norm)])
        if self.processes.world > 1:
            self.processes.add_up(numbers[:-1])
        read = dict(zip(names, numbers.tolist(), strict=True)) | {  # the one read
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "skipped": 0.0,
        }
        if not math.isfinite(read["loss"]):
            raise NonFiniteError(f"the loss is {read['loss']}")
        if not math.isfinite(read["grad_norm"]):
            return read | self._skip(read["grad_norm"])
        self.skipped_in_a_row = 0
        if self.grad_clip is not None:
            clip_grads_with_norm_(self.parameters, self.grad_clip, norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.scheduler.step()
        return read

    def _skip(self, norm: float) -> dict[str, float]:
        """An overflow under the scaler: no update, no step of the schedule, a smaller scale."""
        if self.scaler is None:
            raise NonFiniteError(f"the gradient norm is {norm}")
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= SKIPS_IN_A_ROW:
            raise NonFiniteError(f"the gradient norm is {norm}, and {SKIPS_IN_A_ROW} updates in a row were skipped")
        self.scaler.update()
        return {"skipped": 1.0}

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """All that an update changes beside the parameters."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {"last_epoch": self.scheduler.last_epoch},
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Bring back what `state_dict` gave; the rates are the schedule's, whose length may have changed.

        Raises:
            TypeError, ValueError, KeyError: a part is missing or does not fit. AdamW's fused kernel checks no shapes.
        """
        self.optimizer.load_state_dict(self._laid_out(state["optimizer"]))
        for parameter, moments in self.optimizer.state.items():
            for name in ("exp_avg", "exp_avg_sq"):
                if moments[name].shape != parameter.shape:
                    found, expected = list(moments[name].shape), list(parameter.shape)
                    raise ValueError(f"the optimizer's {name} has shape {found}, its parameter has {expected}")
        self.scheduler.last_epoch = state["scheduler"]["last_epoch"]
        self.scheduler._step_count = self.scheduler.last_epoch + 1  # counts the call of its constructor
        share = self.scheduler.lr_lambdas[0](self.scheduler.last_epoch)
        for group, peak in zip(self.optimizer.param_groups, self.scheduler.base_lrs, strict=True):
            group["lr"] = peak * share
        self.scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        self.skipped, self.skipped_in_a_row = state["skipped"], state["skipped_in_a_row"]

    def _laid_out(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The optimizer's state, its moments spread as their parameters are."""
        if not self.processes.sharded:
            return dict(state)
        moments = {
            index: {
                name: laid_out(tensor, self.parameters[index]) if name != "step" else tensor
                for name, tensor in of_one.items()
            }
            for index, of_one in state["state"].items()
        }
        return dict(state) | {"state": moments}


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """Autocast to a precision; off for fp32."""
    return torch.autocast(device.type, dtype=DTYPES.get(precision, torch.bfloat16), enabled=precision in DTYPES)


def schedule(step: int, total_steps: int, optim: OptimSection) -> float:
    """Share of the peak learning rate at a step, counted from 0.

    Warm-up is linear and its first step is not 0; from its end to the last step (`total_steps` - 1) the share falls
    from 1 to `final_ratio`, along half a cosine or in a line; beyond, it stays.

    Returns:
        A factor in [0, 1].
    """
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    if optim.schedule == "constant":
        return 1.0
    span = max(1, total_steps - 1 - optim.warmup_steps)
    progress = min(1.0, (step - optim.warmup_steps) / span)
    remaining = 0.5 * (1.0 + math.cos(math.pi * progress)) if optim.schedule == "cosine" else 1.0 - progress
    return optim.final_ratio + (1.0 - optim.final_ratio) * remaining


def parameter_groups(modules: Iterable[tuple[str, nn.Module, float]], weight_decay: float) -> list[dict[str, Any]]:
    """AdamW's groups: for each named module one with weight decay for its matrices and one without for the rest.

    A parameter that two modules share (tied embeddings) belongs to the first. Frozen parameters belong to none.

    Args:
        modules: name, module and learning rate.
        weight_decay: of matrices; norms and biases (one axis) have none.

    Returns:
        Groups with `name`, `params`, `lr` and `weight_decay`; empty ones left out.
    """
    groups: list[dict[str, Any]] = []
    seen: set[int] = set()
    for name, module, lr in modules:
        fresh = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in fresh)
        matrices, others = [p for p in fresh if p.dim() > 1], [p for p in fresh if p.dim() <= 1]
        groups.append({"name": name, "params": matrices, "lr": lr, "weight_decay": weight_decay})
        groups.append({"name": f"{name} (no decay)", "params": others, "lr": lr, "weight_decay": 0.0})
    return [group for group in groups if group["params"]]

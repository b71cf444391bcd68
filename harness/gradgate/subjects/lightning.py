"""LightningRun: a LightningModule and its optimizers as a run. Imports neither `lightning` nor `pytorch_lightning`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run
from gradgate.subjects.moving import to_dtype

FILE = "lightning.ckpt"


class LightningRun(Run):
    """Any LightningModule, automatic or manual optimization, on one device. Subclasses write `build`.

    The step is the order of Lightning's training loop: `on_train_batch_start`, `training_step`, `optimizer_zero_grad`,
    backward, `on_after_backward`, `on_before_optimizer_step`, clipping, `optimizer_step`, then the schedulers whose
    interval is "step", then `on_train_batch_end`. What the module logs is the step's metrics.
    `max_norm` stands for the Trainer's `gradient_clip_val`.
    """

    def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self._dtype, self._device = dtype, device
        self._open(seed)

    def _open(self, seed: int) -> None:
        torch.manual_seed(seed)
        self._seed = seed
        self.module, self._loader = self.build(seed)
        if not hasattr(self.module, "training_step") or not hasattr(self.module, "configure_optimizers"):
            raise SubjectError(f"build(seed) returned a {type(self.module).__name__} first, expected a LightningModule")
        self.module.to(self._device, self._dtype).train()
        self.optimizers, self._schedulers = _configured(self.module.configure_optimizers())
        self._logged: dict[str, float] = {}
        self._attach()
        if not self.module.automatic_optimization:  # its training_step steps: there is no loss to be had without
            self.losses = MethodType(Run.losses, self)  # type: ignore[method-assign]
        self._at = 0
        self.modules = dict(self.module.named_children()) or {"model": self.module}

    def build(self, seed: int) -> tuple[Any, Any]:
        """Build the LightningModule and its train loader from this seed. Required."""
        raise NotImplementedError

    def batches(self) -> Iterator[Any]:
        """The loader's batches, epoch after epoch, in an order that the seed and the epoch decide."""
        for epoch in count(self._at // self._epoch_length()):
            rows = self._epoch(epoch)
            for batch in rows[self._at - epoch * len(rows) :]:
                yield to_dtype(batch, self._dtype, self._device)

    def step(self, batch: Any) -> Mapping[str, float]:
        """One turn of the training loop."""
        module, number = self.module, self._at
        self._logged.clear()
        module.on_train_batch_start(batch, number)
        if module.automatic_optimization:
            outputs = self._optimize(batch, number)
        else:
            outputs = module.training_step(batch, number)
        module.on_train_batch_end(outputs, batch, number)
        self._at += 1
        return {"loss": _number(_loss(outputs)), **self._logged} if outputs is not None else dict(self._logged)

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The loss that `training_step` returns."""
        return {"total": _loss(self.module.training_step(batch, self._at))}

    def save(self, path: Path) -> None:
        """What Lightning's checkpoint holds: weights, optimizers, schedulers, the step, the module's own additions."""
        checkpoint = {
            "state_dict": self.module.state_dict(),
            "optimizer_states": [optimizer.state_dict() for optimizer in self.optimizers],
            "lr_schedulers": [scheduler.state_dict() for scheduler in self._schedulers],
            "global_step": self._at,
            "seed": self._seed,
            "rng": torch.get_rng_state(),
        }
        self.module.on_save_checkpoint(checkpoint)
        temporary = path / f".{FILE}.tmp"  # Lightning's own checkpoints are whole or not there, too
        torch.save(checkpoint, temporary)
        temporary.replace(path / FILE)

    def load(self, path: Path) -> None:
        """Bring back what `save` wrote, through the module's `on_load_checkpoint`."""
        # gradgate: ignore[checkpoint-unsafe] -- our own file, and modules add what they like
        checkpoint = torch.load(path / FILE, weights_only=False)
        self._open(checkpoint["seed"])  # what a user who resumes gives again
        self.module.on_load_checkpoint(checkpoint)
        self.module.load_state_dict(checkpoint["state_dict"])
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(state)
        for scheduler, state in zip(self._schedulers, checkpoint["lr_schedulers"], strict=True):
            scheduler.load_state_dict(state)
        self._at = checkpoint["global_step"]
        torch.set_rng_state(checkpoint["rng"])

    def _attach(self) -> None:
        """Stand in for the Trainer that the module's own helpers ask."""
        many = self.optimizers if len(self.optimizers) > 1 else self.optimizers[0]
        schedulers = self._schedulers if len(self._schedulers) != 1 else self._schedulers[0]
        helpers = {
            "log": lambda name, value, *_, **__: self._logged.update({name: _number(value)}),
            "log_dict": lambda values, *_, **__: self._logged.update({k: _number(v) for k, v in values.items()}),
            "optimizers": lambda *_, **__: many,
            "lr_schedulers": lambda: schedulers or None,
            "manual_backward": lambda loss, *args, **options: loss.backward(*args, **options),
        }
        for name, helper in helpers.items():
            object.__setattr__(self.module, name, helper)

    def _optimize(self, batch: Any, number: int) -> Any:
        module, optimizer = self.module, self.optimizers[0]
        outputs = module.training_step(batch, number)
        loss = _loss(outputs)
        module.optimizer_zero_grad(0, number, optimizer)
        module.backward(loss)
        module.on_after_backward()
        module.on_before_optimizer_step(optimizer)
        if self.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), self.max_norm)
        # Lightning runs all this in the closure; ahead of it, checks see the gradients at the optimizer's entry.
        module.optimizer_step(0, number, optimizer, lambda: loss)
        for scheduler in self._schedulers:
            scheduler.step()
        return outputs

    def _epoch_length(self) -> int:
        return len(self._epoch(0))

    def _epoch(self, epoch: int) -> list[Any]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed + epoch)
            rows = list(self._loader)
        if not rows:
            raise SubjectError("the train loader that build(seed) returned is empty")
        return rows


def _number(value: Any) -> float:
    return float(value.detach() if isinstance(value, Tensor) else value)


def _loss(outputs: Any) -> Tensor:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
    if not isinstance(loss, Tensor):
        raise SubjectError(f"training_step returned a {type(outputs).__name__}, expected a loss or a dict with 'loss'")
    return loss


def _configured(found: Any) -> tuple[list[Any], list[Any]]:
    """Optimizers and the schedulers that step each step, from the forms that `configure_optimizers` may return."""
    if isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], list | tuple):
        optimizers, entries = list(found[0]), list(found[1])
    else:
        items = list(found) if isinstance(found, list | tuple) else [found]
        optimizers = [item["optimizer"] if isinstance(item, Mapping) else item for item in items]
        entries = [item["lr_scheduler"] for item in items if isinstance(item, Mapping) and "lr_scheduler" in item]
    if not optimizers or not all(isinstance(optimizer, torch.optim.Optimizer) for optimizer in optimizers):
        raise SubjectError(f"configure_optimizers returned {found!r}; expected optimizers")
    steps = [entry for entry in entries if isinstance(entry, Mapping) and entry.get("interval", "epoch") == "step"]
    return optimizers, [entry["scheduler"] for entry in steps]

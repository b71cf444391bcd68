"""HuggingFaceRun: a `transformers.Trainer` as a run, through its own data, loss, step, schedule and checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run
from gradgate.subjects.moving import to_dtype

STEPS = 1000  # what the schedule is told to last

SEED_FILE = "seed.txt"


class HuggingFaceRun(Run):
    """Any `transformers.Trainer` on one device, gradient accumulation included. Subclasses write `trainer`.

    The step is the body of the Trainer's inner loop: `training_step` on each micro-batch, clipping at `max_grad_norm`,
    the optimizer, the scheduler, `zero_grad`. Callbacks, logging and evaluation are left out. A batch is the tuple
    of the step's micro-batches where `gradient_accumulation_steps` is above 1, else the only one.

    Attributes:
        module_name: what the model is called in reports and in `Stage.edges`. Where it is a language model, its logits
            are those of `logits_from`, too.
    """

    module_name: ClassVar[str] = "model"

    def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        self.dtype, self._device = dtype, device
        self._resumed_from: str | None = None
        self._open(seed)

    def _open(self, seed: int) -> None:
        from transformers import Trainer, set_seed

        set_seed(seed)
        device, dtype = self._device, self.dtype
        self._seed = seed
        trainer = self.trainer(seed, device)
        if not isinstance(trainer, Trainer):
            raise SubjectError(f"trainer(seed, device) returned a {type(trainer).__name__}, not a transformers.Trainer")
        self.hf = trainer
        set_seed(seed)  # building may have drawn; from here on the Trainer's own seeding counts
        trainer.model.to(dtype)
        self._loader = trainer.get_train_dataloader()
        trainer.create_optimizer_and_scheduler(STEPS)
        self._model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped = self._model
        trainer.current_gradient_accumulation_steps = self._micro = trainer.args.gradient_accumulation_steps
        self.modules = {self.module_name: trainer.model}
        if self.logits_from is None and _is_language_model(trainer.model):
            self.logits_from = self.module_name
        self.optimizers = [trainer.optimizer.optimizer]
        self.max_norm = trainer.args.max_grad_norm or None

    def trainer(self, seed: int, device: str) -> Any:
        """Build the Trainer: model, data, arguments, everything from this seed and on this device. Required."""
        raise NotImplementedError

    def batches(self) -> Iterator[Any]:
        """What the Trainer's loader gives, epoch after epoch, from its step on; a last, short group is left."""
        at = self.hf.state.global_step
        groups = len(self._loader) // self._micro
        if not groups:
            raise SubjectError(f"the Trainer's loader has {len(self._loader)} batches, a step takes {self._micro}")
        for epoch in count(at // groups):
            skip, at = at % groups, 0
            if skip == 0:
                self._restore_rng()
            self._loader.set_epoch(epoch)
            group: list[Any] = []
            for number, batch in enumerate(self._loader):
                if number < skip * self._micro:
                    continue
                group.append(to_dtype(dict(batch), self.dtype))
                if len(group) == self._micro:
                    self._restore_rng()
                    yield group[0] if self._micro == 1 else tuple(group)
                    group = []

    def step(self, batch: Any) -> Mapping[str, float]:
        """One optimizer step: the body of the Trainer's inner loop."""
        trainer, micro = self.hf, self._micro_batches(batch)
        trainer.current_gradient_accumulation_steps = len(micro)
        items = trainer._get_num_items_in_batch(micro, trainer.args.device)
        loss = torch.zeros((), device=trainer.args.device)
        for number, inputs in enumerate(micro, start=1):
            trainer.accelerator.gradient_state._set_sync_gradients(number == len(micro))
            loss = loss + trainer.training_step(self._model, dict(inputs), items).detach()
        if trainer.args.max_grad_norm:
            trainer.accelerator.clip_grad_norm_(self._model.parameters(), trainer.args.max_grad_norm)
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
        self._model.zero_grad()
        trainer.state.global_step += 1
        return {"loss": float(loss)}

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The Trainer's `compute_loss`, as `training_step` scales it over the micro-batches."""
        trainer, micro = self.hf, self._micro_batches(batch)
        items = trainer._get_num_items_in_batch(micro, trainer.args.device)
        scaled = (trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None
        self._model.train()
        terms = []
        for inputs in micro:
            with trainer.compute_loss_context_manager():
                loss = trainer.compute_loss(
                    self._model, trainer._prepare_inputs(dict(inputs)), num_items_in_batch=items
                )
            terms.append(loss if scaled else loss / len(micro))
        return {"total": torch.stack(terms).sum()}

    def window(self, parts: Sequence[Any]) -> Any:
        """Micro-batches of one update, as the Trainer's `gradient_accumulation_steps` makes them."""
        return tuple(parts)

    def save(self, path: Path) -> None:
        """The Trainer's own checkpoint, `checkpoint-N`, under `path`, and the seed, which a user gives again."""
        if not (path / SEED_FILE).exists():
            (path / SEED_FILE).write_text(str(self._seed), encoding="utf-8")
        self.hf.args.output_dir = str(path)
        self.hf._save_checkpoint(self._model, None)

    def load(self, path: Path) -> None:
        """The Trainer's own resume: weights, optimizer, schedule, step, and with the first batch the generators."""
        from transformers import TrainerState
        from transformers.trainer_utils import get_last_checkpoint

        checkpoint = get_last_checkpoint(str(path))
        if checkpoint is None:
            raise SubjectError("the Trainer wrote no checkpoint-N folder")
        self._open(int((path / SEED_FILE).read_text(encoding="utf-8")))
        self.hf._load_from_checkpoint(checkpoint)
        self.hf._load_optimizer_and_scheduler(checkpoint)
        self.hf.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        self._resumed_from = checkpoint

    def _micro_batches(self, batch: Any) -> list[Any]:
        return list(batch) if isinstance(batch, tuple) else [batch]

    def _restore_rng(self) -> None:
        # As the Trainer does it: behind the batches that are skipped, for skipping draws.
        if self._resumed_from is not None:
            self.hf._load_rng_state(self._resumed_from)
            self._resumed_from = None


def _is_language_model(model: Any) -> bool:
    """Whether a model has a layer that makes logits over the vocabulary."""
    layer_of = getattr(model, "get_output_embeddings", None)
    return layer_of is not None and layer_of() is not None

"""HuggingFaceRun: a `transformers.Trainer` as a run, through its own data, loss, step, schedule and checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from types import MappingProxyType, MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run
from gradgate.subjects.global_state import GlobalState
from gradgate.subjects.moving import to_dtype

STEPS = 1000  # what the schedule is told to last, where `updates` says nothing

SEED_FILE = "seed.txt"


class HuggingFaceRun(Run):
    """Any `transformers.Trainer` on one device, gradient accumulation included. Subclasses write `trainer`.

    The step is the body of the Trainer's inner loop: `training_step` on each micro-batch, clipping at `max_grad_norm`,
    the optimizer, the scheduler, `zero_grad`. Of the callbacks your own are called (not those of transformers): at the
    beginning of the run, and around each step. What they ask for in `control`, logging, evaluating and saving among it,
    is left out. A batch is the tuple of the step's micro-batches where `gradient_accumulation_steps` is above 1, else
    the only one.

    Attributes:
        module_name: what the model is called in reports and in `Stage.edges`. Where it is a language model, its logits
            are those of `logits_from`, too, unless the class says what that is (None: no logits).
        hf: the Trainer that `trainer` built.
        options: what `Stage.options` moves, for `trainer` to read: key -> value.
        updates: what the schedule is made for; None: 1000, which no check comes to the end of.
    """

    module_name: ClassVar[str] = "model"
    options: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        seed: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.dtype, self._device = dtype, device
        if options is not None:
            self.options = dict(options)
        self._resumed_from: str | None = None
        self._open(seed)
        self._call("on_train_begin")

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
        trainer.create_optimizer_and_scheduler(self.updates or STEPS)
        self._model, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        trainer.model_wrapped = self._model
        trainer.current_gradient_accumulation_steps = self._micro = trainer.args.gradient_accumulation_steps
        _begin_state(trainer, self.updates or STEPS, self._loader)
        self.modules = self.parts(trainer.model)
        if self.logits_from is None and not self._says_logits() and _is_language_model(trainer.model):
            self.logits_from = self.module_name
        self.optimizers = [trainer.optimizer.optimizer]
        self.max_norm = trainer.args.max_grad_norm or None
        if trainer.eval_dataset is None and type(self).evaluate is HuggingFaceRun.evaluate:
            self.evaluate = MethodType(Run.evaluate, self)  # type: ignore[method-assign]

    def trainer(self, seed: int, device: str) -> Any:
        """Build the Trainer: model, data, arguments, everything from this seed and on this device. Required."""
        raise NotImplementedError

    def parts(self, model: Any) -> Mapping[str, torch.nn.Module]:
        """What `modules` is of the model that was built or loaded: itself by `module_name`; write it to name its parts,
        `{"model": model, "value_head": model.value_head}`."""
        return {self.module_name: model}

    def _says_logits(self) -> bool:
        kinds = type(self).__mro__
        return any("logits_from" in vars(kind) for kind in kinds[: kinds.index(HuggingFaceRun)])

    def _call(self, event: str) -> None:
        """Call the callbacks that are not the library's own."""
        handler = self.hf.callback_handler
        every = handler.callbacks
        handler.callbacks = [each for each in every if not type(each).__module__.startswith("transformers.")]
        try:
            getattr(handler, event)(self.hf.args, self.hf.state, self.hf.control)
        finally:
            handler.callbacks = every

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
        self._call("on_step_begin")
        for number, inputs in enumerate(micro, start=1):
            trainer.accelerator.gradient_state._set_sync_gradients(number == len(micro))
            loss = loss + trainer.training_step(self._model, dict(inputs), items).detach()
        if trainer.args.max_grad_norm:
            trainer.accelerator.clip_grad_norm_(self._model.parameters(), trainer.args.max_grad_norm)
        self._call("on_pre_optimizer_step")
        trainer.optimizer.step()
        self._call("on_optimizer_step")
        trainer.lr_scheduler.step()
        self._model.zero_grad()
        trainer.state.global_step += 1
        trainer.state.epoch = trainer.state.global_step / max(1, len(self._loader) // self._micro)
        self._call("on_step_end")
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

    def evaluate(self) -> Mapping[str, Any]:
        """The Trainer's own `evaluate`; modes and generators are put back, as the next `training_step` and epoch do."""
        modes, before = {module: module.training for module in self.hf.model.modules()}, GlobalState.now()
        try:
            return self.hf.evaluate()  # type: ignore[no-any-return]
        finally:
            before.restore()
            for module, training in modes.items():
                module.training = training

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
        self.hf._load_callback_state()
        self._resumed_from = checkpoint
        self._call("on_train_begin")

    def _micro_batches(self, batch: Any) -> list[Any]:
        return list(batch) if isinstance(batch, tuple) else [batch]

    def _restore_rng(self) -> None:
        # As the Trainer does it: behind the batches that are skipped, for skipping draws.
        if self._resumed_from is not None:
            self.hf._load_rng_state(self._resumed_from)
            self._resumed_from = None


def _begin_state(trainer: Any, updates: int, loader: Any) -> None:
    """Make the Trainer's state anew, as `train` does, and tell the callbacks what is trained."""
    from transformers import TrainerState
    from transformers.trainer_callback import ExportableState

    handler = trainer.callback_handler
    stateful = [each for each in [*handler.callbacks, trainer.control] if isinstance(each, ExportableState)]
    trainer.state = TrainerState(stateful_callbacks=stateful)
    trainer.state.max_steps = updates
    handler.model, handler.optimizer, handler.lr_scheduler = trainer.model, trainer.optimizer, trainer.lr_scheduler
    handler.train_dataloader = loader


def _is_language_model(model: Any) -> bool:
    """Whether a model has a layer that makes logits over the vocabulary."""
    layer_of = getattr(model, "get_output_embeddings", None)
    return layer_of is not None and layer_of() is not None

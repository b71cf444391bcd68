"""The stages as the loop sees them: what to do at a position, how to evaluate, what to keep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from wmtp.data.batches import Batch
from wmtp.experiment import Data, save_model, save_value_head
from wmtp.parallel import replicated
from wmtp.stage1 import FeatureBatch, Features, ValueStage, join_rows, uncounted
from wmtp.stage2 import TokenStage
from wmtp.trainer import Trainer


class WarmUp:
    """The trunk's warm-up: uniform multi-token prediction, as a stage for the loop."""

    name = "warmup"
    patience: int | None = None

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.total_steps = self.steps()
        self.eval_every = trainer.recipe.train.eval_every
        self.heldout = trainer.collator.heldout()
        replica = replicated(trainer.model, trainer.processes, partly=self.is_uniform())
        self.stage = TokenStage(
            trainer.model,
            trainer.recipe,
            device=trainer.device,
            precision=trainer.config.precision,
            uniform=self.is_uniform(),
            total_steps=self.total_steps,
            forward=torch.compile(replica) if trainer.config.compile else replica,  # type: ignore[arg-type]
            replica=replica,
            processes=trainer.processes,
        )
        self.update = self.stage.update

    def steps(self) -> int:
        """Length of the stage."""
        return self.trainer.recipe.pretrain.trunk_steps

    def is_uniform(self) -> bool:
        """Whether heads are weighted uniformly."""
        return True

    def batch_at(self, position: int) -> tuple[tuple[Batch, ...], int]:
        """The window of micro-batches at a position, and the position behind it."""
        size = self.trainer.recipe.train.accumulation_steps
        taken = list(islice(self.trainer.collator.train_batches(position), size))
        return tuple(batch for batch, _ in taken), taken[-1][1]

    def advance(self, position: int) -> tuple[dict[str, Any], int]:
        """One update from the window of micro-batches at a position."""
        window, behind = self.batch_at(position)
        return self.stage.step(window), behind

    def evaluate(self) -> tuple[dict[str, Any], float]:
        """The unweighted cross-entropy on the held-out rows."""
        cross_entropy = self.stage.heldout_cross_entropy(self.heldout)
        return {"heldout_cross_entropy": cross_entropy}, cross_entropy

    def improved(self, score: float) -> None:
        """Nothing is kept of a warm-up but its end."""

    def finish(self, score: float) -> None:
        """Nothing to hand over: the model itself is what was trained."""


class Stage2(WarmUp):
    """Main training as a stage for the loop; keeps the best model and the last."""

    name = "stage2"

    def __init__(self, trainer: Trainer) -> None:
        super().__init__(trainer)
        self.patience = trainer.recipe.train.patience

    def steps(self) -> int:
        """Length of the stage."""
        return self.trainer.recipe.train.max_steps

    def is_uniform(self) -> bool:
        """Whether this is the control group."""
        return self.trainer.uniform

    def improved(self, score: float) -> None:
        """Keep the model that does best on the held-out rows."""
        self._save("best.ckpt", score)

    def finish(self, score: float) -> None:
        """Write the final model."""
        self._save("final.ckpt", score)

    def _save(self, name: str, score: float) -> None:
        trainer = self.trainer
        save_model(
            trainer.folder / name, trainer.model, trainer.recipe, {"heldout_cross_entropy": score}, trainer.processes
        )


class Stage1:
    """Value-head pretraining as a stage for the loop; keeps the value head."""

    name = "stage1"

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        section = trainer.recipe.pretrain
        self.eval_every = trainer.collator.order.batches_per_epoch
        self.total_steps = section.num_epochs * self.eval_every
        if section.max_steps is not None:
            self.total_steps = min(self.total_steps, section.max_steps)
        self.patience = section.patience
        self.stage = ValueStage(
            trainer.model,
            trainer.recipe,
            device=trainer.device,
            precision=trainer.config.precision,
            total_steps=self.total_steps,
            processes=trainer.processes,
        )
        self.update = self.stage.update
        train = trainer.collator.in_turn(trainer.data.train)
        self.features = self._features(
            trainer.report.track("computing the trunk's features", train), trainer.data.train
        )
        self.heldout = self._features(trainer.collator.heldout(), trainer.data.heldout)
        self.score_from = [row.prompt_length for row in trainer.data.heldout]
        self.right_R = right_rows(trainer.collator.reward_N, trainer.data)

    def _features(self, batches: Iterable[Batch], packs: Sequence[object]) -> list[Features]:
        """Features of all packs in their order: each process computes its own rows', and has all of them behind it."""
        own = self.stage.features(batches)
        if self.trainer.processes.world == 1:
            return own
        counted = [row for row in own if len(row.hidden_SD)]  # a batch without rows for this process has an empty one
        pairs = dict(zip(self.trainer.collator.own_rows(len(packs)), counted, strict=True))
        everybody = {index: row for theirs in self.trainer.processes.gather(pairs) for index, row in theirs.items()}
        return [everybody[index] for index in range(len(packs))]

    def batch_at(self, position: int) -> tuple[FeatureBatch, int]:
        """The features at a position, this process's rows of them, and the position behind them."""
        indices = self.trainer.collator.order.batch(position)
        own = self.trainer.processes.share(indices)
        batch = join_rows([self.features[i] for i in own or indices[:1]])
        return batch if own else uncounted(batch), position + len(indices)

    def advance(self, position: int) -> tuple[dict[str, Any], int]:
        """One update from the features at a position."""
        batch, behind = self.batch_at(position)
        return self.stage.step(batch), behind

    def evaluate(self) -> tuple[dict[str, Any], float]:
        """The value head on the held-out rows, beside predictors that know less."""
        quality = self.stage.quality(self.heldout, self.score_from, self.right_R)
        quality = self.trainer.processes.from_leader(quality)  # whether to stop is one decision
        measured = {
            "heldout_value_loss": quality.value_loss,
            "heldout_constant_loss": quality.constant_loss,
            "heldout_position_loss": quality.position_loss,
            "heldout_auc": quality.auc,
        }
        return measured, quality.value_loss

    def improved(self, score: float) -> None:  # noqa: ARG002
        """With early stopping the best value head is what Stage 2 gets."""
        if self.patience is not None:
            save_value_head(self.trainer.folder / "value_head.ckpt", self.trainer.model, self.trainer.processes)

    def finish(self, score: float) -> None:  # noqa: ARG002
        """Write the value head that Stage 2 starts from: the last one, or the best where stopping may be early."""
        if self.patience is None:
            save_value_head(self.trainer.folder / "value_head.ckpt", self.trainer.model, self.trainer.processes)


Stage = WarmUp | Stage1 | Stage2


def build_stage(name: str, trainer: Trainer) -> Stage:
    """A stage by name, on the model as it is now."""
    kinds: dict[str, type[Stage]] = {"warmup": WarmUp, "stage1": Stage1, "stage2": Stage2}
    return kinds[name](trainer)


def right_rows(reward_N: Tensor, data: Data) -> Tensor:
    """Bool[R]: which held-out rows earn more than the middle between the least and the most."""
    heldout_R = reward_N[[row.index for row in data.heldout]]
    return heldout_R > (heldout_R.min() + heldout_R.max()) / 2

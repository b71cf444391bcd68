"""Stage 1, value-head pretraining: the trunk is frozen, its features are computed once, and the value head learns what
the rest of a row will earn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from wmtp.data.batches import Batch
from wmtp.errors import NonFiniteError
from wmtp.evaluation import Predictions, ValueQuality, evaluating, value_quality
from wmtp.loss import squared_error_sum
from wmtp.model import CriticWmtp, ValueHead
from wmtp.nonfinite import first_nonfinite, first_nonfinite_gradient
from wmtp.parallel import replicated
from wmtp.processes import ALONE, Processes
from wmtp.returns import gae_returns
from wmtp.settings import Recipe
from wmtp.update import Update, autocast, parameter_groups


@dataclass(frozen=True)
class Features:
    """What Stage 1 reads of one row of a batch: the trunk's output, kept on the host.

    Attributes:
        hidden_SD: Float[S, D].
        reward_S: Float[S], rewards placed on tokens.
        valid_S: Bool[S].
        document_S: Long[S], zeros without packing.
    """

    hidden_SD: Tensor
    reward_S: Tensor
    valid_S: Tensor
    document_S: Tensor

    def columns(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The four tensors, in the order of `FeatureBatch`."""
        return self.hidden_SD, self.reward_S, self.valid_S, self.document_S


@dataclass(frozen=True)
class FeatureBatch:
    """Several rows of features, padded on the right.

    Attributes:
        hidden_BSD: Float[B, S, D], off the graph.
        reward_BS: Float[B, S].
        valid_BS: Bool[B, S].
        document_BS: Long[B, S].
        tokens: real tokens, counted on the host.
    """

    hidden_BSD: Tensor
    reward_BS: Tensor
    valid_BS: Tensor
    document_BS: Tensor
    tokens: int


class ValueStage:
    """One optimizer step of Stage 1 at a time.

    Args:
        model: its value head is trained; its trunk is not in the optimizer and only asked for features.
        recipe: critic, pretrain and optim sections.
        device: where the model is.
        precision: fp32, bf16 or fp16.
        total_steps: length of the stage.
        processes: those that share each batch.
    """

    def __init__(
        self,
        model: CriticWmtp,
        recipe: Recipe,
        *,
        device: torch.device,
        precision: str = "fp32",
        total_steps: int,
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.model, self.recipe, self.device, self.precision = model, recipe, device, precision
        self.value_head: ValueHead = model.value_head
        self.forward = replicated(self.value_head, processes)
        # The learning rate stays: three epochs are too short for a schedule to matter, and one key less to explain.
        optim = recipe.optim.model_copy(update={"schedule": "constant", "warmup_steps": 0})
        self.update = Update(
            parameter_groups([("value_head", self.value_head, recipe.pretrain.lr)], optim.weight_decay),
            optim,
            total_steps=total_steps,
            device=device,
            precision=precision,
            processes=processes,
        )

    def step(self, batch: FeatureBatch) -> dict[str, Any]:
        """One update of the value head.

        Returns:
            The step's metrics.

        Raises:
            NonFiniteError: names the first tensor that is not finite; nothing has been updated.
        """
        batch = to_device(batch, self.device)
        (tokens,) = self.processes.total((batch.tokens,))
        self.value_head.train()
        self.update.zero_grad()
        loss = self.loss(batch, tokens=tokens)
        self.update.backward(loss)
        try:
            read = self.update.apply(loss.detach(), {})
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}; first non-finite: {self._blame(batch)}") from None
        return {
            "loss": read["loss"],
            "wmtp_loss": None,
            "value_loss": read["loss"],
            "cross_entropy": None,
            "weight_entropy": None,
            "grad_norm": read["grad_norm"],
            "lr": read["lr"],
            "tokens": tokens,
            "skipped": int(read["skipped"]),
        }

    def loss(
        self, batch: FeatureBatch, record: dict[str, Tensor] | None = None, *, tokens: int | None = None
    ) -> Tensor:
        """Mean squared error of the values against the returns of the current values.

        Args:
            batch: on the model's device.
            tokens: the divisor, real tokens of all processes; None: this batch's own.
            record: gets the tensors on the way, by name.

        Returns:
            Scalar in squared reward units, on the graph.
        """
        critic = self.recipe.critic
        with self.update.autocast():
            value_BS = self.forward(batch.hidden_BSD)
        return_BS = gae_returns(
            batch.reward_BS,
            value_BS.detach(),
            batch.valid_BS,
            gamma=critic.gamma,
            gae_lambda=critic.gae_lambda,
            document_BS=batch.document_BS,
        )
        loss = squared_error_sum(value_BS, return_BS, batch.valid_BS)
        loss = loss / max(1, batch.tokens if tokens is None else tokens)
        if record is not None:
            record |= {"value_BS": value_BS, "return_BS": return_BS, "value_loss": loss}
        return loss

    def features(self, batches: Iterable[Batch]) -> list[Features]:
        """The frozen trunk's output for every row of these batches, in order, in eval mode, kept on the host."""
        features: list[Features] = []
        with evaluating(self.model), autocast(self.device, self.precision):
            for batch in (batch.to(self.device) for batch in batches):
                hidden_BSD = self.model.features(batch.token_BS, batch.valid_BS, batch.document_BS, batch.plain)
                features.extend(split_rows(hidden_BSD.cpu(), batch))
        return features

    def quality(self, features: Sequence[Features], score_from: Sequence[int], right_R: Tensor) -> ValueQuality:
        """The value head on held-out rows, against Monte-Carlo returns, which no value head has a hand in.

        Args:
            features: of held-out rows, one document each.
            score_from: for each row the position from which its score counts, its first completion token.
            right_R: Bool[R], which rows are right.
        """
        return value_quality(self.predictions(features, score_from), right_R)

    def predictions(self, features: Sequence[Features], score_from: Sequence[int]) -> Predictions:
        """Values and targets at all real tokens, and a score for each row: its mean value from `score_from` on."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        scores = []
        with evaluating(self.value_head):
            for row, start in zip(features, score_from, strict=True):
                value_S = self.value_head(row.hidden_SD.to(self.device, self.value_head.outer.weight.dtype)).cpu()
                target_BS = gae_returns(
                    row.reward_S[None], torch.zeros_like(value_S)[None], row.valid_S[None],
                    gamma=self.recipe.critic.gamma, gae_lambda=1.0,
                )  # fmt: skip
                parts.append((value_S, target_BS[0], torch.arange(len(value_S))))
                scores.append(value_S[min(start, len(value_S) - 1) :].mean())
        value_N, target_N, position_N = (torch.cat(column) for column in zip(*parts, strict=True))
        return Predictions(value_N, target_N, position_N, torch.stack(scores))

    def _blame(self, batch: FeatureBatch) -> str:
        if self.processes.sharded:
            return "not looked for, since no process holds a whole tensor; distributed.parallel: ddp does"
        for rank, place in enumerate(self.processes.gather(self._forward_blame(batch))):
            if place is not None:
                return place if self.processes.world == 1 else f"{place}, on rank {rank}"
        return first_nonfinite_gradient(self.value_head)

    def _forward_blame(self, batch: FeatureBatch) -> str | None:
        record: dict[str, Tensor] = {}
        inputs = {"hidden_BSD": batch.hidden_BSD, "reward_BS": batch.reward_BS}
        return first_nonfinite(self.value_head, inputs, record, partial(self.loss, batch, record))


def split_rows(hidden_BSD: Tensor, batch: Batch) -> list[Features]:
    """A batch's features row by row, without the padding on the right; on the host."""
    document_BS = torch.zeros_like(batch.token_BS) if batch.document_BS is None else batch.document_BS
    lengths = (batch.valid_BS * torch.arange(1, batch.valid_BS.shape[1] + 1, device=batch.valid_BS.device)).amax(1)
    columns = (batch.reward_BS.cpu(), batch.valid_BS.cpu(), document_BS.cpu())
    return [
        Features(hidden_BSD[b, :length].clone(), *(column[b, :length].clone() for column in columns))
        for b, length in enumerate(lengths.tolist())
    ]


def join_rows(rows: Sequence[Features]) -> FeatureBatch:
    """Rows of features as one batch, padded on the right."""
    columns = zip(*(row.columns() for row in rows), strict=True)
    hidden_BSD, reward_BS, valid_BS, document_BS = (pad_sequence(list(column), batch_first=True) for column in columns)
    return FeatureBatch(hidden_BSD, reward_BS, valid_BS, document_BS, tokens=int(valid_BS.sum()))


def uncounted(batch: FeatureBatch) -> FeatureBatch:
    """The batch with nothing in it that counts."""
    return replace(batch, valid_BS=torch.zeros_like(batch.valid_BS), tokens=0)


def to_device(batch: FeatureBatch, device: torch.device) -> FeatureBatch:
    """The batch on a device."""
    if device.type == "cpu":
        return batch
    hidden_BSD, reward_BS, valid_BS, document_BS = (
        tensor.to(device, non_blocking=True)
        for tensor in (batch.hidden_BSD, batch.reward_BS, batch.valid_BS, batch.document_BS)
    )
    return FeatureBatch(hidden_BSD, reward_BS, valid_BS, document_BS, batch.tokens)

"""Stage 2, main training: weighted multi-token prediction with the critic's weights. The trunk's warm-up is the same
stage with uniform weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from wmtp.data.batches import Batch
from wmtp.errors import NonFiniteError
from wmtp.evaluation import evaluating
from wmtp.loss import head_cross_entropy, squared_error_sum, weighted_sum
from wmtp.model import CriticWmtp
from wmtp.nonfinite import first_nonfinite, first_nonfinite_gradient
from wmtp.parallel import exchanging
from wmtp.processes import ALONE, Processes
from wmtp.returns import gae_returns
from wmtp.settings import Recipe
from wmtp.update import Update, parameter_groups
from wmtp.weights import head_weights, uniform_weights, weight_entropy


@dataclass(frozen=True)
class Terms:
    """One micro-batch's share of the step's loss. Scalars; the first three are on the graph.

    Attributes:
        total: what is minimised.
        wmtp_loss: its first term, in nats.
        value_loss: its second before the coefficient, in squared reward units; None where the critic is not trained.
        cross_entropy: unweighted sum over labels, in nats, off the graph.
        weight_entropy: share of the head weights' mean entropy, in nats, off the graph.
    """

    total: Tensor
    wmtp_loss: Tensor
    value_loss: Tensor | None
    cross_entropy: Tensor
    weight_entropy: Tensor


class TokenStage:
    """One optimizer step of Stage 2 at a time.

    Args:
        model: trained as a whole; `forward` is what runs it (its compiled or wrapped form).
        recipe: loss, critic, optim and train sections.
        device: where the model is.
        precision: fp32, bf16 or fp16.
        uniform: weigh heads uniformly and train no value head.
        total_steps: length of the stage and of its schedule.
        forward: what to call instead of the model itself.
        replica: what exchanges gradients between processes; None: the model itself.
        processes: those that share each micro-batch.
    """

    def __init__(
        self,
        model: CriticWmtp,
        recipe: Recipe,
        *,
        device: torch.device,
        precision: str = "fp32",
        uniform: bool = False,
        total_steps: int,
        forward: nn.Module | None = None,
        replica: nn.Module | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.processes, self.replica = processes, model if replica is None else replica
        self.model, self.recipe, self.device, self.uniform = model, recipe, device, uniform
        self.forward = model if forward is None else forward
        trained = [("trunk", model.trunk, recipe.optim.lr), ("heads", model.heads, recipe.optim.lr)]
        if not uniform:
            trained.append(("value_head", model.value_head, recipe.critic.value_lr))
        self.update = Update(
            parameter_groups(trained, recipe.optim.weight_decay),
            recipe.optim,
            total_steps=total_steps,
            device=device,
            precision=precision,
            processes=processes,
        )

    def step(self, window: Sequence[Batch]) -> dict[str, Any]:
        """One update from the micro-batches of a window.

        Each loss term is divided by its own count over the whole window and all processes, so that it does not matter
        how the window is cut into micro-batches and shared. The counts were made on the host, when the batches were.

        Returns:
            The step's metrics.

        Raises:
            NonFiniteError: names the first tensor that is not finite; nothing has been updated.
        """
        positions, tokens, labels = self.processes.total(counts(window))
        self.model.train()
        self.update.zero_grad()
        window = [batch.to(self.device) for batch in window]
        shares = []
        for left, batch in zip(reversed(range(len(window))), window, strict=True):
            with exchanging(self.replica, self.processes, now=left == 0):
                terms = self.losses(batch, positions=positions, tokens=tokens)
                self.update.backward(terms.total)
            shares.append(_measured(terms))
        measured = {name: torch.stack([share[name] for share in shares]).sum(0) for name in shares[0]}
        try:
            read = self.update.apply(measured.pop("loss"), measured)
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}; first non-finite: {self._blame(window)}") from None
        return {
            "loss": read["loss"],
            "wmtp_loss": read["wmtp_loss"],
            "value_loss": read.get("value_loss"),
            "cross_entropy": read["cross_entropy"] / max(1, labels),
            "weight_entropy": read["weight_entropy"],
            "grad_norm": read["grad_norm"],
            "lr": read["lr"],
            "tokens": tokens,
            "positions": positions,
            "skipped": int(read["skipped"]),
        }

    def losses(
        self,
        batch: Batch,
        *,
        positions: int | None = None,
        tokens: int | None = None,
        record: dict[str, Tensor] | None = None,
    ) -> Terms:
        """The loss terms of one micro-batch, on the graph.

        Args:
            batch: on the model's device.
            positions: divisor of the token loss, positions with a valid head; None: this batch's own.
            tokens: divisor of the value loss, real tokens; None: this batch's own.
            record: gets the tensors on the way, by name, in the order of the data; left out in training, where it
                would keep them alive through backward.

        Returns:
            Terms, each already divided.
        """
        critic, loss = self.recipe.critic, self.recipe.loss
        positions = max(1, batch.positions if positions is None else positions)
        tokens = max(1, batch.tokens if tokens is None else tokens)
        with self.update.autocast():
            hidden_BSD, logits_BSHV, value_BS = self.forward(
                batch.token_BS, batch.valid_BS, batch.document_BS, plain=batch.plain, with_value=not self.uniform
            )
        record = {} if record is None else record
        record |= {"hidden_BSD": hidden_BSD, "logits_BSHV": logits_BSHV}
        if value_BS is None:
            weight_BSH = uniform_weights(batch.label_BSH)
        else:
            weight_BSH = head_weights(
                value_BS if loss.weight_gradient == "through" else value_BS.detach(),
                batch.label_BSH,
                batch.valid_BS,
                discount_lambda=critic.discount_lambda,
                temperature=loss.weight_temperature,
                document_BS=batch.document_BS,
            )
        cross_entropy_BSH = head_cross_entropy(logits_BSHV, batch.label_BSH)
        wmtp_loss = weighted_sum(cross_entropy_BSH, weight_BSH) / positions
        total, value_loss = wmtp_loss, None
        if value_BS is not None:
            return_BS = gae_returns(
                batch.reward_BS,
                value_BS.detach(),
                batch.valid_BS,
                gamma=critic.gamma,
                gae_lambda=critic.gae_lambda,
                document_BS=batch.document_BS,
            )
            value_loss = squared_error_sum(value_BS, return_BS, batch.valid_BS) / tokens
            total = wmtp_loss + critic.auxiliary_loss_coef * value_loss
            record |= {"value_BS": value_BS, "return_BS": return_BS, "value_loss": value_loss}
        record |= {"weight_BSH": weight_BSH, "cross_entropy_BSH": cross_entropy_BSH, "wmtp_loss": wmtp_loss}
        return Terms(
            total=total,
            wmtp_loss=wmtp_loss,
            value_loss=value_loss,
            cross_entropy=cross_entropy_BSH.detach().sum(),
            weight_entropy=weight_entropy(weight_BSH) * (batch.positions / positions),
        )

    def heldout_cross_entropy(self, batches: Sequence[Batch]) -> float:
        """Unweighted mean cross-entropy over all labels of all heads, in nats; NaN without any label. Training is as
        it was afterwards."""
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        with evaluating(self.model), self.update.autocast():
            for batch in (batch.to(self.device) for batch in batches):
                output = self.model(
                    batch.token_BS, batch.valid_BS, batch.document_BS, plain=batch.plain, with_value=False
                )
                total += head_cross_entropy(output.logits_BSHV, batch.label_BSH).double().sum()
        self.processes.add_up(total)
        labels = self.processes.total(counts(batches))[2]
        return float(total) / labels if labels else float("nan")

    def _blame(self, window: Sequence[Batch]) -> str:
        if self.processes.sharded:
            return "not looked for, since no process holds a whole tensor; distributed.parallel: ddp does"
        for rank, place in enumerate(self.processes.gather(self._forward_blame(window))):
            if place is not None:
                return place if self.processes.world == 1 else f"{place}, on rank {rank}"
        return first_nonfinite_gradient(self.model)

    def _forward_blame(self, window: Sequence[Batch]) -> str | None:
        wrapped, self.forward = self.forward, self.model  # a wrapper may wait for processes that look elsewhere
        try:
            for batch in window:
                record: dict[str, Tensor] = {}
                place = first_nonfinite(
                    self.model, {"reward_BS": batch.reward_BS}, record, partial(self.losses, batch, record=record)
                )
                if place is not None:
                    return place
            return None
        finally:
            self.forward = wrapped


def counts(batches: Sequence[Batch]) -> tuple[int, int, int]:
    """Positions with a valid head, real tokens, and labels of all batches together.

    Of this process's rows; the divisors of a step are the sums over all processes.
    """
    return sum(b.positions for b in batches), sum(b.tokens for b in batches), sum(b.labels for b in batches)


def _measured(terms: Terms) -> dict[str, Tensor]:
    measured = {
        "loss": terms.total,
        "wmtp_loss": terms.wmtp_loss,
        "cross_entropy": terms.cross_entropy,
        "weight_entropy": terms.weight_entropy,
    }
    if terms.value_loss is not None:
        measured["value_loss"] = terms.value_loss
    return {name: tensor.detach() for name, tensor in measured.items()}

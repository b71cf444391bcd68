"""Which positions the value loss trains, read out of its gradient at the values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks.ahead import ahead
from gradgate.checks.raised import calling
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Run

TERM = "value_loss"


@dataclass(frozen=True)
class ValueShares:
    """Where the value loss of one batch reaches the values.

    Args:
        valid_BS: Bool[B, S], True = real token.
        shared_BS: Bool[B, S], the value has a gradient.
        first_BS: Bool[B, S], the first position of a row, or of a document where rows are packed.
        supervised_BS: Bool[B, S], tokens that the run says are trained on; None: it does not say.
    """

    valid_BS: Tensor
    shared_BS: Tensor
    first_BS: Tensor
    supervised_BS: Tensor | None = None

    @property
    def kept(self) -> Tensor:
        """Bool[B, S]: real tokens with a share."""
        return self.valid_BS & self.shared_BS

    @property
    def dropped(self) -> Tensor:
        """Bool[B, S]: real tokens without a share, behind the first of their row (document) that has one.

        What is in front of it is taken for a prompt, and a row without any for one that trains no value. Where each
        supervised token has the value in front of it, that of the state in which it was chosen, none is dropped.
        """
        if self._are_in_front():
            return torch.zeros_like(self.valid_BS)
        count_BS = self.kept.cumsum(1)
        before_BS = (count_BS - self.kept.long()).masked_fill(~self.first_BS, 0).cummax(1).values
        return self.valid_BS & (count_BS > before_BS) & ~self.shared_BS

    def _are_in_front(self) -> bool:
        """Whether the values with a share are those in front of the supervised tokens, one position each."""
        if self.supervised_BS is None:
            return False
        rows = self.supervised_BS.any(-1)
        in_front_BS = self.valid_BS & ahead(self.supervised_BS, 1)[..., 0]
        return bool(rows.any()) and torch.equal(self.kept[rows], in_front_BS[rows])


OFFSET = 0.36787944117144233  # a value that equals its return, as 0 may, has a share and no gradient


def value_shares(run: Run, batch: Batch, modules: Sequence[str], *, states: bool = True) -> ValueShares | None:
    """Where `value_loss` has a gradient at the values of a batch.

    Args:
        run: a live run in float64.
        batch: one of its batches.
        modules: names of those that the term trains; one that returns a number for each position is the value head.
        states: whether values one position in front of the supervised tokens may be meant.

    Returns:
        None where none does, or the loss does not come from what it returned.
    """
    with calling("valid()"):
        valid_BS = run.valid(batch).cpu().bool()
    heads = [run.modules[name] for name in modules if name in run.modules]
    with values_of(heads, valid_BS) as values, calling("losses()"):
        loss = run.losses(batch).get(TERM)
    if loss is None or not loss.requires_grad or not values:
        return None
    gradients = torch.autograd.grad(loss, values, allow_unused=True)
    reached = [gradient.reshape(valid_BS.shape).cpu() != 0 for gradient in gradients if gradient is not None]
    if not reached:
        return None
    supervised_BS = run.supervised(batch).cpu().bool() if states and "supervised" in declared(run) else None
    return ValueShares(valid_BS, torch.stack(reached).any(0), _first(run, batch, valid_BS), supervised_BS)


def _first(run: Run, batch: Batch, valid_BS: Tensor) -> Tensor:
    """Bool[B, S], where rows begin, and the documents within them."""
    document_BS = None
    if "tokens" in declared(run):
        with calling("tokens()"):
            document_BS = run.tokens(batch).document_BS
    first_BS = torch.zeros_like(valid_BS)
    if document_BS is not None:
        first_BS[:, 1:] = (document_BS[:, 1:] != document_BS[:, :-1]).cpu()
    return first_BS


@contextmanager
def values_of(heads: Sequence[nn.Module], valid_BS: Tensor, offset: float = OFFSET) -> Iterator[list[Tensor]]:
    """What the modules return inside the block that is one number a position, rows first, on the graph: by `offset`
    more than it is."""
    found: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or not output.is_floating_point() or not output.dim():
            return None
        if output.numel() != valid_BS.numel() or output.shape[0] not in (len(valid_BS), valid_BS.numel()):
            return None
        moved = output + offset  # those without a graph too: old values, to which a clip holds the new ones
        if moved.requires_grad:
            found.append(moved)
        return moved

    with ExitStack() as stack:
        for head in heads:
            stack.callback(head.register_forward_hook(keep).remove)
        yield found

"""Optimizer steps: whose gradients an update uses, and who has none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _push_mode

from gradgate.watch.catalogue import make
from gradgate.watch.handed import owned
from gradgate.watch.places import Place, here

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder

STALE = "an update uses gradients to which an earlier update's were added: nothing cleared them"


class Updates:
    """What the optimizers of a block do."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.starved: dict[int, Tensor] = {}  # updated by an optimizer, and without any gradient so far
        self.built_at: list[tuple[set[int], Place | None]] = []  # the tensors an optimizer was made with
        self._aside = False

    def built(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is made."""
        self.built_at.append(({id(tensor) for tensor in owned(optimizer)}, here(3)))

    def before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer is about to step."""
        recorder = self._recorder
        self.come_back()
        tensors = owned(optimizer)
        stale = self._look_for_stale(tensors)
        mixed = None if stale else recorder.gradients.before_step(tensors)
        if mixed:
            recorder.ledger.add(
                make(
                    "stale_grad",
                    "an update uses gradients of two backwards, with another optimizer's update between the two",
                    culprit=mixed[1].place,
                    victim=mixed[0].place,
                )
            )
        if not args[1:] and not kwargs and not recorder.backward.depth and not recorder.shelf.holds(tensors):
            self._aside = recorder.step_aside()

    def _look_for_stale(self, tensors: list[Tensor]) -> bool:
        stale = self._recorder.gradients.stale(tensors)
        if stale:
            self._recorder.ledger.add(make("stale_grad", STALE, culprit=stale.place))
        return stale is not None

    def come_back(self) -> None:
        """Be on the dispatch stack again."""
        if self._aside:
            self._aside = False
            _push_mode(self._recorder)

    def after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """An optimizer has stepped."""
        self.come_back()
        tensors = owned(optimizer)
        self._look_for_stale(tensors)  # of a closure, that the step itself calls several times
        self._recorder.gradients.after_step(tensors)
        self._recorder.rounds.stepped(optimizer)
        for tensor in tensors:
            if tensor.requires_grad and tensor.is_leaf and not self._recorder.gradients.had(tensor):
                self.starved[id(tensor)] = tensor

"""OwnLoop: a trainer that keeps its loop to itself as a run, one turn of the loop a step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from greenlet import greenlet
from torch import Tensor

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run
from gradgate.subjects.inside import backwards_read, locals_from
from gradgate.subjects.places import Place

_DEPTH = 24  # calls, of three frames of C and more each


class OwnLoop(Run):
    """A trainer whose only way in is a method that trains to the end. Subclasses call `begin` and write `batches`.

    The loop runs on a stack of its own, in this thread, and stands still where it asks its loader for a batch. A step
    hands it that batch and lets it go on to where it asks for the next: what runs is the trainer's own code.
    Give the trainer a number of steps and epochs that no check comes to the end of.

    Attributes:
        terms: loss term -> the local variable of the loop that holds it at the backward, or another place, as in
            `StepLosses`.
        length: what `len(loader)` is.
    """

    terms: ClassVar[Mapping[str, str]] = {}
    length: ClassVar[int] = 1_000_000

    def begin(
        self,
        loop: Callable[[Any], Any],
        *,
        dtype: torch.dtype | None = None,
        loader_in: Any = None,
        argv: Sequence[str] | None = None,
    ) -> None:
        """Start the loop and let it go to where it first asks for a batch. What is set for it holds until then.

        Args:
            loop: calls the trainer's own loop on the loader that it is given:
                `lambda loader: trainer.run({"train_dataloader": loader})`; a script's `lambda loader: train.main()`.
            dtype: what the loop builds its modules in: the default of torch meanwhile.
            loader_in: the module whose first `DataLoader(...)` is to be that loader, for a loop that makes its own.
            argv: the command line that the loop finds, without the program's name.

        Raises:
            SubjectError: the loop ends without asking for a batch.
        """
        self._frame: FrameType | None = None
        self._greenlet = greenlet(partial(_below, _DEPTH, loop))
        loader = _Loader(self)
        with ExitStack() as stack:
            if dtype is not None:
                stack.callback(torch.set_default_dtype, torch.get_default_dtype())
                torch.set_default_dtype(dtype)
            if loader_in is not None:
                stack.enter_context(patch.object(loader_in, "DataLoader", _first(loader, loader_in.DataLoader)))
            if argv is not None:
                stack.enter_context(patch.object(sys, "argv", [sys.argv[0], *argv]))
            self._go_on(loader)

    def local(self, name: str) -> Any:
        """A local variable of the loop, or of what called it, where it stands still: its optimizer, say.

        Raises:
            SubjectError: it has none of this name.
        """
        found = locals_from(self._frame)
        if name not in found:
            raise SubjectError(f"the loop has no local variable {name!r}; it has {', '.join(sorted(found))}")
        return found[name]

    def step(self, batch: Any) -> Mapping[str, float]:
        """One turn of the trainer's loop. The metrics are the loss terms, where they are still there behind it."""
        self._go_on(batch)
        found = locals_from(self._frame)
        places = {term: Place.of(name) for term, name in self.terms.items()}
        held = {term: place.tensor(found) for term, place in places.items() if not place.function}
        return {term: float(value.detach()) for term, value in held.items() if value is not None}

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The loss terms of one turn whose backwards, optimizers and schedules do nothing.

        `total` is the sum of what goes backward before each optimizer's first step.
        """
        with backwards_read(self, self.terms) as found:
            self._go_on(batch)
        if not found.parts:
            raise SubjectError("the loop made a turn without a backward: there are no losses to be had from it")
        return found.losses(self.coefficients)

    def _go_on(self, given: Any) -> None:
        if self._greenlet.dead:
            raise SubjectError("the trainer's loop has ended: give it more epochs and steps than the checks take")
        self._profile = sys.getprofile()
        self._greenlet.switch(given)
        if self._greenlet.dead:
            raise SubjectError("the trainer's loop came to its end: give it more epochs and steps than the checks take")

    def _next_batch(self, frame: FrameType) -> Any:
        self._frame = frame
        batch = self._greenlet.parent.switch()
        sys.setprofile(self._profile)  # each stack has its own
        return batch


def _below(depth: int, loop: Callable[[Any], Any], loader: Any) -> Any:
    """Call the loop so many calls of C below the end of its stack.

    An error of torch's reads the addresses of up to 64 callers off the stack. Beyond the loop's own end there is what
    its parent has put there since, and reading on can end the process.
    """
    if depth == 0:
        return loop(loader)
    return next(map(partial(_below, depth - 1, loop), (loader,)))


def _first(loader: _Loader, make: Callable[..., Any]) -> Callable[..., Any]:
    """What makes the loader at its first call, that of the training data, and then what was made before."""
    waiting = [loader]
    return lambda *args, **options: waiting.pop() if waiting else make(*args, **options)


class _Loader:
    """What the loop takes for its data: asking it for a batch stops the loop until the next step."""

    def __init__(self, run: OwnLoop) -> None:
        self._run = run

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self._run._next_batch(sys._getframe(1))

    def __len__(self) -> int:
        return self._run.length

"""OwnLoop: a trainer that keeps its loop to itself as a run, one turn of the loop a step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from types import FrameType, ModuleType
from typing import Any, ClassVar
from unittest.mock import patch

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Run
from gradgate.subjects.doubles import doubles_kept
from gradgate.subjects.inside import WEIGHTS, Backwards, assigned_from, backwards_read, locals_from
from gradgate.subjects.keeping import Counts, at_its_end
from gradgate.subjects.loaders import LentLoader, OwnLoader, first_call, first_made
from gradgate.subjects.loop_state import LocalNumbers, Ranges, objects_of, own_calls
from gradgate.subjects.places import Place

_DEPTH = 24  # calls, of three frames of C and more each
_WINDOW = 64  # micro-batches that a loop may collect in front of a backward


class _NotYetError(SubjectError):
    """A local variable of the loop has no value so far."""


class OwnLoop(Run):
    """A trainer whose only way in is a method that trains to the end. Subclasses call `begin` and write `batches`.

    Where `begin` is told the class of the loader that the loop makes, `batches` need not be written: that yields them.

    The loop runs on a stack of its own, in this thread, and stands still where it asks its loader for a batch. A step
    hands it that batch and lets it go on to where it asks for the next: what runs is the trainer's own code.
    Give the trainer a number of steps and epochs that no check comes to the end of.

    A loop that collects a window of batches in front of its update makes none in the turns that only collect: `step`
    has no metrics there, and `losses` hands it the batch again until it goes backward.

    Attributes:
        terms: loss term -> the local variable of the loop that holds it at the backward, or another place, as in
            `StepLosses`; one whose variable has no value in a setting is left out there.
        weights_from: the place that holds the head weights, [B, S, H], as in `terms`; None: not declared.
        length: what `len(loader)` is.
    """

    terms: ClassVar[Mapping[str, str]] = {}
    weights_from: ClassVar[str | None] = None
    length: ClassVar[int] = 1_000_000
    _own_loader: OwnLoader | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a turn that only collects have no metrics, whatever the adapter looks for behind it."""
        super().__init_subclass__(**options)
        if "step" in vars(cls):
            setattr(cls, "step", _collecting(cls.step))  # noqa: B010 - a method, to mypy

    def begin(
        self,
        loop: Callable[[Any], Any],
        *,
        dtype: torch.dtype | None = None,
        loader_in: Any = None,
        made_by: str = "DataLoader",
        loader_class: type[Any] | None = None,
        counts_in: ModuleType | None = None,
        argv: Sequence[str] | None = None,
    ) -> None:
        """Start the loop and let it go to where it first asks for a batch. What is set for it holds until then.

        Args:
            loop: calls the trainer's own loop on the loader that it is given:
                `lambda loader: trainer.run({"train_dataloader": loader})`; a script's `lambda loader: train.main()`.
            dtype: what the loop builds its modules in: the default of torch meanwhile.
            loader_in: the module whose first `DataLoader(...)` is to be that loader, for a loop that makes its own.
            made_by: what is called there for it, where that is something else: the function that the loop calls for
                the batches of an epoch, by the name that its module has for it.
            loader_class: a class, of the trainer or `DataLoader`, whose first instance that the loop makes stays what
                it is: the loop stands still where it iterates over it. `batches`, where it is not written, is what
                that yields, `set_epoch` called before each epoch where it has that.
            counts_in: the module whose loop is `for step in range(...)`: the ranges that it makes while it begins go
                back behind a turn for its losses, as other numbers do.
            argv: the command line that the loop finds, without the program's name.

        Raises:
            SubjectError: the loop ends without asking for a batch, or makes no instance of `loader_class`.
        """
        if loader_in is not None and loader_class is not None:
            raise SubjectError("begin: `loader_in` lends the loop a loader, `loader_class` leaves it its own: give one")
        self._frame: FrameType | None = None
        self._ranges = Ranges()
        self._greenlet = greenlet(partial(_below, _DEPTH, loop))
        self._own_loader, self._own_class = None, loader_class
        loader = LentLoader(self._next_batch, self.length)
        with ExitStack() as stack:
            if dtype is not None:
                stack.callback(torch.set_default_dtype, torch.get_default_dtype())
                torch.set_default_dtype(dtype)
            if dtype == torch.float64:
                stack.enter_context(doubles_kept())
            if loader_in is not None:
                make = first_call(loader, getattr(loader_in, made_by))
                stack.enter_context(patch.object(loader_in, made_by, make))
            if loader_class is not None:
                stack.enter_context(first_made(loader_class, self._is_inside, lambda own: self._take(own, loader)))
            if counts_in is not None:
                stack.enter_context(patch.object(counts_in, "range", self._ranges.make, create=True))
            if argv is not None:
                stack.enter_context(patch.object(sys, "argv", [sys.argv[0], *argv]))
            self._go_on(loader)
        self._require_loader()
        self._know_epochs()

    def batches(self) -> Iterator[Any]:
        """What the loader yields that the loop made, where `begin` was told its class; an adapter's own come first."""
        further = super().batches
        if self._own_loader is None or getattr(further, "__func__", None) is not Run.batches:
            return further()
        return self._own_loader.batches()

    def local(self, name: str) -> Any:
        """A local variable of the loop, or of what called it, where it stands still: its optimizer, say.

        Raises:
            SubjectError: it has none of this name.
        """
        found = locals_from(self._frame)
        if name not in found:
            kind, so_far = (_NotYetError, " so far") if name in assigned_from(self._frame) else (SubjectError, "")
            raise kind(f"the loop has no local variable {name!r}{so_far}; it has {', '.join(sorted(found))}")
        return found[name]

    def objects(self) -> dict[str, Any]:
        """What the loop's local variables hold that has a state: objects of its own classes, random generators."""
        return objects_of(self._frame)

    def step(self, batch: Any) -> Mapping[str, float]:
        """One turn of the trainer's loop. The metrics are the loss terms that are its variables, where these are still
        there behind it; those of calls are in `losses`."""
        self._go_on(batch)
        found = locals_from(self._frame)
        places = {term: Place.of(name) for term, name in self.terms.items()}
        held = {term: place.tensor(found) for term, place in places.items() if not place.function}
        return {term: float(value.detach()) for term, value in held.items() if value is not None}

    def losses(self, batch: Any) -> Mapping[str, Tensor]:
        """The loss terms of one turn whose backwards, optimizers and schedules do nothing.

        `total` is the sum of what goes backward before each optimizer's first step. Numbers that the user's own lines
        hold, as local variables and in objects and dictionaries, are behind it what they were in front of the turn.
        """
        return self._turn(batch, self.terms).losses(self.coefficients)

    def weights(self, batch: Any) -> Tensor:
        """The head weights of such a turn; of its first micro-batch, where it has several."""
        return self._turn(batch, {WEIGHTS: self.weights_from or ""}).tensor(WEIGHTS)

    def _turn(self, batch: Any, names: Mapping[str, str]) -> Backwards:
        numbers, ranges = LocalNumbers(self._frame), self._ranges.noted()
        counts = Counts(value for call in own_calls(self._frame) for value in call.f_locals.values())
        try:
            with backwards_read(self, names) as found:
                for _ in range(_WINDOW):
                    self._go_on(batch)
                    if found.parts:
                        break
        finally:
            at_its_end(counts.put_back)
            at_its_end(numbers.put_back)
            at_its_end(ranges)
        if not found.parts:
            raise SubjectError(f"the loop made {_WINDOW} turns without a backward: there are no losses to be had")
        return found

    def _go_on(self, given: Any) -> None:
        if self._greenlet.dead:
            raise SubjectError("the trainer's loop has ended: give it more epochs and steps than the checks take")
        self._profile = sys.getprofile()
        self._greenlet.switch(given)
        if self._greenlet.dead:
            self._require_loader()
            raise SubjectError("the trainer's loop came to its end: give it more epochs and steps than the checks take")

    def _next_batch(self, frame: FrameType) -> Any:
        self._frame = frame
        batch = self._greenlet.parent.switch()
        sys.setprofile(self._profile)  # each stack has its own
        return batch

    def _is_inside(self) -> bool:
        return getcurrent() is self._greenlet

    def _take(self, own: Any, loader: LentLoader) -> None:
        self._own_loader = OwnLoader(own, self._is_inside, loader)

    def _require_loader(self) -> None:
        if self._own_class is not None and self._own_loader is None:
            name = self._own_class.__name__
            raise SubjectError(
                f"the loop made no {name} while it began: let `loop` make the trainer, or whatever makes its {name}"
            )

    def _know_epochs(self) -> None:
        if self._own_loader is not None and type(self).batches is OwnLoop.batches and not self.epoch_size:
            self.epoch_size = self._own_loader.epoch_size()


def _collecting(step: Callable[[Any, Any], Mapping[str, float]]) -> Callable[[Any, Any], Mapping[str, float]]:
    @wraps(step)
    def collecting(run: Any, batch: Any) -> Mapping[str, float]:
        updates: list[Any] = []
        noted = register_optimizer_step_post_hook(lambda optimizer, *_: updates.append(optimizer))
        try:
            return step(run, batch)
        except _NotYetError:
            if updates:
                raise
            return {}
        finally:
            noted.remove()

    return collecting


def _below(depth: int, loop: Callable[[Any], Any], loader: Any) -> Any:
    """Call the loop so many calls of C below the end of its stack.

    An error of torch's reads the addresses of up to 64 callers off the stack. Beyond the loop's own end there is what
    its parent has put there since, and reading on can end the process.
    """
    if depth == 0:
        return loop(loader)
    return next(map(partial(_below, depth - 1, loop), (loader,)))

"""Batches drawn by hypothesis: a source of them, and the smallest that fails.

Importing this registers torch's generators: hypothesis seeds those that it knows before every example, and puts them
back afterwards. It keeps weak references to them, so torch's are held here for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, register_random, seed, settings
from hypothesis.errors import Flaky
from hypothesis.strategies import SearchStrategy

from gradgate.pasteable import size

ROUND = 10  # examples of one seed; all are drawn before the first is given

T = TypeVar("T")
State = tuple[torch.Tensor, list[torch.Tensor] | None]


class TorchRandom:
    """Torch's generators, on the CPU and where CUDA is in use there, as hypothesis wants a `random.Random`."""

    def seed(self, number: int) -> None:
        """Seed them."""
        torch.default_generator.manual_seed(number)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(number)

    def getstate(self) -> State:
        """Where they are."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
        return torch.get_rng_state(), cuda

    def setstate(self, state: State) -> None:
        """Put them there."""
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state_all(state[1])


TORCH_RANDOM = TorchRandom()
register_random(TORCH_RANDOM)


@dataclass(frozen=True)
class Failing(Generic[T]):
    """The smallest batch that failed.

    Args:
        batch: as it was drawn.
        fault: what the judge said of it.
        tried: batches judged in all, those while it was made smaller among them.
    """

    batch: Any
    fault: T
    tried: int


class _FailsError(Exception):
    """A batch fails: for hypothesis."""


class _EnoughError(BaseException):
    """The search is over. No Exception, so that hypothesis lets it pass."""


def sampled(strategy: SearchStrategy[Any]) -> Iterator[Any]:
    """Batches of a strategy without an end, in one and the same order each time, the simplest first."""
    for number in count():
        drawn: list[Any] = []
        _given(strategy, drawn.append, number, ROUND, (Phase.generate,))()
        yield from drawn


def smallest_failing(
    strategy: SearchStrategy[Any], judge: Callable[[Any], T | None], *, number: int, examples: int, most: int
) -> tuple[Failing[T] | None, int]:
    """Draw batches until one fails, then make it smaller as long as it does.

    Args:
        strategy: of batches.
        judge: what is wrong with a batch; None: nothing. It should not raise.
        number: seed of the search.
        examples: batches to draw.
        most: batches to judge in all; the search stops there with the smallest it has.

    Returns:
        The smallest failing batch, None where none fails; and how many were judged.
    """
    found: Failing[T] | None = None
    tried = 0

    def holds(batch: Any) -> None:
        nonlocal found, tried
        if tried >= most:
            raise _EnoughError
        tried += 1
        fault = judge(batch)
        if fault is not None:
            if found is None or size(batch) <= size(found.batch):  # of several the later one is the simpler
                found = Failing(batch, fault, tried)
            raise _FailsError

    with suppress(_FailsError, _EnoughError, Flaky):
        _given(strategy, holds, number, examples, (Phase.generate, Phase.shrink))()
    return found, tried


def _given(
    strategy: SearchStrategy[Any], test: Callable[[Any], None], number: int, examples: int, phases: tuple[Phase, ...]
) -> Callable[[], None]:
    """A test of hypothesis that prints nothing, remembers nothing and is the same for the same seed."""
    quiet = settings(
        max_examples=examples,
        phases=phases,
        derandomize=False,
        database=None,
        deadline=None,
        print_blob=False,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )

    def run(batch: Any) -> None:
        test(batch)

    whole: Callable[[], None] = seed(number)(quiet(given(strategy)(run)))
    return whole

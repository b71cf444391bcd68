"""The same random numbers for every evaluation of a loss."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gradgate.subjects.global_state import GlobalState, seed_everything


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block with all global generators set to `seed`; afterwards they are where they were."""
    before = GlobalState.now()
    seed_everything(seed)
    try:
        yield
    finally:
        before.restore()

"""Isolation: a check finds a seeded process and an empty folder, and leaves no trace in either."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from gradgate.subjects.doubles import end_backwards
from gradgate.subjects.global_state import GlobalState, seed_everything

# A check's steps take milliseconds; on two loaded cores a second thread made them up to ten times slower. And one
# thread sums in one order.
THREADS = 1


@contextmanager
def isolated(seed: int, label: str = "check") -> Iterator[Path]:
    """Seed every global generator and take one thread; afterwards put generators, settings and warning filters back.

    Args:
        seed: for torch's, Python's and numpy's global generators, so that the order of checks does not matter.
        label: part of the folder's name.

    Yields:
        An empty folder, removed at the end.
    """
    before = GlobalState.now()
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix=f"gradgate-{label}-", ignore_cleanup_errors=True) as folder,
    ):
        try:
            seed_everything(seed)
            torch.set_num_threads(THREADS)
            yield Path(folder)
        finally:
            end_backwards()
            before.restore()

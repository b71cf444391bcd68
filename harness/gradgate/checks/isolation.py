"""Isolation: a check finds a seeded process and an empty folder, and leaves no trace in either."""

from __future__ import annotations

import os
import sys
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


@contextmanager
def unheard() -> Iterator[None]:
    """Drop what the block prints, on either stream, also out of C: hundreds of small runs of a trainer that reports
    every step bury the results. For a process of its own: descriptors are everybody's."""
    streams = (sys.stdout, sys.stderr)
    for stream in streams:
        stream.flush()
    kept = [os.dup(number) for number in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in (1, 2):
            os.dup2(nowhere, number)
        yield
    finally:
        for stream in streams:
            stream.flush()
        for number, descriptor in zip((1, 2), kept, strict=True):
            os.dup2(descriptor, number)
        for descriptor in (*kept, nowhere):
            os.close(descriptor)

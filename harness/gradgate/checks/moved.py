"""Runs of a stage with one key of its configuration moved at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gradgate.subjects.contract import Context, Run, Stage


def moved(stage: Stage, context: Context) -> Iterator[tuple[str, Run]]:
    """A fresh run in float64 for each value of each key but its first, with what was moved in words.

    What does not start so is left to GG414.
    """
    for key, values in (stage.options or {}).items():
        for value in values[1:]:
            try:
                run = stage.start(context.seed, dtype=torch.float64, device=context.device, options={key: value})
            except Exception:  # noqa: S112 - GG414 tells it
                continue
            yield f"`{key}` = {value!r}", run

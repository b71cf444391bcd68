"""A stage with a key of its configuration moved: runs of each, keys by their words, dropout turned on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from gradgate.checks.snapshot import named_parameters
from gradgate.subjects.contract import Context, Run, Stage


def moved(stage: Stage, context: Context) -> Iterator[tuple[dict[str, Any], Run]]:
    """A fresh run in float64 for each value of each key but its first, with the options that it was started with.

    What does not start so is left to GG414.
    """
    options = stage.options or {}
    yield from runs_of(stage, context, ({key: value} for key, values in options.items() for value in values[1:]))


def runs_of(
    stage: Stage, context: Context, several: Iterable[Mapping[str, Any]], dtype: torch.dtype = torch.float64
) -> Iterator[tuple[dict[str, Any], Run]]:
    """A fresh run for each of several options, with them; what does not start so is left to GG414."""
    for options in several:
        try:
            run = stage.start(context.seed, dtype=dtype, device=context.device, **as_given(options))
        except (Exception, SystemExit):  # noqa: S112 - GG414 tells it
            continue
        yield dict(options), run


def plain_and_moved(run: Run, stage: Stage, context: Context) -> Iterator[tuple[dict[str, Any], Run]]:
    """A run as it is, without an option, and then those of `moved`."""
    yield {}, run
    yield from moved(stage, context)


def moves(stage: Stage, words: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """No option moved, then each value of each option that has one of these words in its name."""
    yield {}
    for key, values in (stage.options or {}).items():
        if any(word in key.lower() for word in words):
            yield from ({key: value} for value in values)


def take_parameters(run: Run, base: Run) -> bool:
    """Give a run the parameters of another; whether it has the same ones."""
    theirs = {name: parameter for parameter, name in named_parameters(base).items()}
    ours = {name: parameter for parameter, name in named_parameters(run).items()}
    if {name: each.shape for name, each in ours.items()} != {name: each.shape for name, each in theirs.items()}:
        return False
    with torch.no_grad():
        for name, parameter in ours.items():
            parameter.copy_(theirs[name])
    return True


def as_given(options: Mapping[str, Any]) -> dict[str, Any]:
    """What `start` is given for options that are moved: nothing where none is, since it may not take any."""
    return {"options": dict(options)} if options else {}


def in_words(options: Mapping[str, Any]) -> str:
    """What was moved, behind a message; empty where nothing was."""
    return "".join(f" with {key} = {value!r}" for key, value in options.items())


def drawing_of(stage: Stage) -> dict[str, Any]:
    """What makes a step draw random numbers where a key of the configuration can: what nobody draws nobody misses."""
    for key, values in (stage.options or {}).items():
        numbers = [value for value in values if isinstance(value, float | int) and not isinstance(value, bool)]
        if "dropout" in key.lower() and numbers and not numbers[0] and max(numbers) > 0:
            return {"options": {key: max(numbers)}}
    return {}

"""One update on a batch as a whole and in micro-batches: the gradients with which the optimizers step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.count_lines import line_of_parts
from gradgate.checks.invariance import Distance, Probe, elements
from gradgate.checks.moved import as_given, in_words
from gradgate.checks.own_lines import Line
from gradgate.checks.raised import SubjectRaisedError, calling
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.updates import gradients_at_updates
from gradgate.checks.without_dropout import without_dropout
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage
from gradgate.subjects.settings import is_of_accumulation

SMALL = 2.0**-30


@dataclass(frozen=True)
class Split:
    """A batch that comes to an update in micro-batches.

    Args:
        stage: of the runs that step on them.
        context: seed and device.
        whole: the batch.
        parts: the micro-batches; the batch alone where the trainer cuts it itself.
        cut: the rows of each; the same rows again and again where each is the whole batch.
        distance: of the gradient from that of the whole.
        settings: the key that says how many there are, with their number; empty: `Run.window` makes an update of them.
    """

    stage: Stage
    context: Context
    whole: Batch
    parts: Sequence[Batch]
    cut: Sequence[Sequence[int]]
    distance: Distance
    settings: Mapping[str, int]

    def line(self, source: Path | None) -> Line | None:
        """The line that does not hand the count of the whole on."""
        if self.settings:
            return None
        gradient = partial(_of_window, self.stage, self.context)
        return line_of_parts(partial(gradient, [self.whole]), partial(gradient, self.parts), self._is_near, source)

    def _is_near(self, one: Tensor, other: Tensor) -> bool:
        return float((one - other).norm()) / SMALL <= self.distance.allowed


class NoUpdateError(Exception):
    """An update did not come in as many micro-batches as it was to have."""


def splits_of(probe: Probe, stage: Stage, context: Context, batch: Batch, rows: Sequence[int]) -> list[Split] | None:
    """How far the gradient of one step on parts of the batch is from that on the whole, for each way to cut it.

    Returns:
        None where neither `Run.window` nor a key says how an update is made of several.

    Raises:
        NoUpdateError: a key says of how many, and none comes.
    """
    if "window" in declared(probe.run):
        return _in_windows(probe, stage, context, batch, rows)
    found = next(accumulating(stage), None)
    if found is None:
        return None
    try:
        return _in_turns(probe, stage, context, batch, rows, *found)
    except SubjectRaisedError:  # with a key moved, and so GG414's
        return None


def _in_windows(probe: Probe, stage: Stage, context: Context, batch: Batch, rows: Sequence[int]) -> list[Split]:
    cuts = [[[row] for row in rows], [[rows[0]], list(rows[1:])]] if len(rows) > 1 else []
    whole = _of_window(stage, context, [batch])
    found = []
    for cut in cuts:
        with calling("select_rows()"):
            parts = [probe.run.select_rows(batch, part) for part in cut]
        distance = _distance(probe, batch, _of_window(stage, context, parts), whole)
        found.append(Split(stage, context, batch, parts, cut, distance, {}))
    return found


def come_twice(probe: Probe, stage: Stage, context: Context, batch: Batch, rows: Sequence[int]) -> Split:
    """How far the gradient of one step on the batch twice is from that on it once, where `Run.window` makes an update.

    What weighs the rows of a micro-batch against each other gives the same for each, so that their count alone counts.
    """
    once, twice = (_of_window(stage, context, [batch] * times) for times in (1, 2))
    distance = _distance(probe, batch, twice, once)
    return Split(stage, context, batch, [batch, batch], [rows, rows], distance, {})


def _in_turns(
    probe: Probe, stage: Stage, context: Context, batch: Batch, rows: Sequence[int], key: str, count: int
) -> list[Split]:
    """One update of a batch against one of as many micro-batches as a key says: the batch each time, then its parts."""
    settings = {key: count}
    whole, _ = _of_turns(stage, context, [batch], {key: 1})
    if whole is None:
        return []
    again, turns = _of_turns(stage, context, [batch] * count, settings)
    if again is None:
        raise NoUpdateError(f"no update in {count} micro-batches with {key} = {count!r}")
    if turns > 1 and _total(stage, context, [], batch, settings) != _total(stage, context, [batch], batch, settings):
        return []  # a step without an update changes the next one: statistics that run along
    cut = [rows] * turns
    found = [Split(stage, context, batch, [batch] * turns, cut, _distance(probe, batch, again, whole), settings)]
    if turns == count <= len(rows) and not found[0].distance.is_beyond:
        in_parts = partial(_in_parts, probe, stage, context, batch, whole, settings)
        may_be_pairs = len(rows) >= 2 * count
        try:
            split = in_parts(_cut(rows, count, 1))
        except SubjectRaisedError:  # at a row alone, which is GG404's
            if not may_be_pairs:
                raise
            split = in_parts(_cut(rows, count, 2))
        if split is not None and isnan(split.distance.measured) and may_be_pairs:  # of a row alone, again
            pairs = in_parts(_cut(rows, count, 2))
            split = pairs if pairs is not None and pairs.distance.is_beyond else split
        found += [split] if split is not None else []
    return found


def _cut(rows: Sequence[int], count: int, size: int) -> list[Sequence[int]]:
    """So many parts, of `size` rows each; the last has the rest."""
    return [*(rows[size * part : size * (part + 1)] for part in range(count - 1)), rows[size * (count - 1) :]]


def _in_parts(
    probe: Probe,
    stage: Stage,
    context: Context,
    batch: Batch,
    whole: Tensor,
    settings: Mapping[str, int],
    cut: Sequence[Sequence[int]],
) -> Split | None:
    """One update on parts of a batch; None where none comes."""
    with calling("select_rows()"):
        parts = [probe.run.select_rows(batch, part) for part in cut]
    split, _ = _of_turns(stage, context, parts, settings)
    if split is None:
        return None
    return Split(stage, context, batch, parts, cut, _distance(probe, batch, split, whole), settings)


def accumulating(stage: Stage) -> Iterator[tuple[str, int]]:
    """Keys of a stage that say of how many micro-batches an update is made, with a number of several."""
    for key, values in {**(stage.options or {}), **(stage.neutral or {})}.items():
        several = [value for value in values if type(value) is int and value > 1]
        if is_of_accumulation(key) and all(type(value) is int for value in values) and several:
            yield key, min(several)


def _distance(probe: Probe, batch: Batch, gradient: Tensor, whole: Tensor) -> Distance:
    size = float(whole.norm())
    noise = probe.noise(batch, probe(batch))["the gradient of `total`"] * SMALL
    allowed = 2 * elements(batch) * (noise + probe.unit * size)
    return Distance("the gradient", float((gradient - whole).norm()) / SMALL, allowed / SMALL, size / SMALL)


def _of_window(stage: Stage, context: Context, parts: Sequence[Batch]) -> Tensor:
    """Double[P]: what the optimizers step with in a fresh run's first step on these micro-batches."""
    run = _started(stage, context, {})
    with calling("window()"):
        batch = run.window(parts)
    gradient, _ = _stepped(run, context, [batch], f"step() on {len(parts)} micro-batches")
    return torch.zeros(1, dtype=torch.float64) if gradient is None else gradient


def _started(stage: Stage, context: Context, settings: Mapping[str, int]) -> Run:
    with calling("start()"):
        return stage.start(context.seed, dtype=torch.float64, device=context.device, **as_given(settings))


def _of_turns(
    stage: Stage, context: Context, batches: Sequence[Batch], settings: Mapping[str, int]
) -> tuple[Tensor | None, int]:
    """Double[P]: what the optimizers of a fresh run first step with, and in which of its steps on these batches."""
    return _stepped(_started(stage, context, settings), context, batches, f"step(){in_words(settings)}")


def _total(stage: Stage, context: Context, before: Sequence[Batch], batch: Batch, settings: Mapping[str, int]) -> float:
    """The loss of a batch in a fresh run, behind steps on others."""
    run = _started(stage, context, settings)
    with seeded(context.seed), without_dropout(), calling(f"losses(){in_words(settings)}"):
        for each in before:
            run.step(each)
        return float(run.losses(batch)["total"].detach())


def _stepped(run: Run, context: Context, batches: Sequence[Batch], doing: str) -> tuple[Tensor | None, int]:
    trained = [parameter for parameter in named_parameters(run) if parameter.requires_grad]
    turns = 0
    with (
        seeded(context.seed),
        without_dropout(),
        _small_backwards(),
        gradients_at_updates(trained) as updates,
        calling(doing),
    ):
        for batch in batches:
            run.step(batch)
            turns += 1
            if updates:
                break
    if not updates or not trained:
        return None, turns
    flat = [p.new_zeros(p.numel()) if (g := updates[0].gradients[p]) is None else g.flatten() for p in trained]
    return torch.cat([each.double().cpu() for each in flat]), turns


@contextmanager
def _small_backwards() -> Iterator[None]:
    """Scale what every backward starts from, where that is the loss itself, so that no gradient is clipped."""
    original = torch.autograd.backward

    def small(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
        if grad_tensors is None:
            tensors = tensors * SMALL if isinstance(tensors, Tensor) else [tensor * SMALL for tensor in tensors]
        return original(tensors, grad_tensors, *args, **kwargs)

    torch.autograd.backward = small
    try:
        yield
    finally:
        torch.autograd.backward = original

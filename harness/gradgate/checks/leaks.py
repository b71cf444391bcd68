"""The line at which a number that must not matter begins to: two runs that differ there, operation by operation.

First each mask that attention should have is put in the place of what an operation gives, as for the formulas: the one
that ends the leak is the place. Where none does, it is the first operation whose output differs outside of the
positions that were changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gradgate.checks.culprits import Failing, culprit
from gradgate.checks.naming import are_named
from gradgate.checks.oracle_steps import masks
from gradgate.checks.own_lines import keyword_at
from gradgate.checks.raised import SubjectRaisedError, calling
from gradgate.checks.randomness import seeded
from gradgate.checks.traced import Done, Traced
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.finding import Location
from gradgate.core.origin import at_line
from gradgate.subjects.contract import Batch, Run, Tokens

_ATTENTION = "scaled_dot_product_attention"
SECONDS = 30.0  # of processor time to put masks in; on a slow trainer the operations that differ must do
_SEEN = 1e-9  # share of an operation's largest number; what is judged has its own bound


def leak(
    run: Run,
    batches: tuple[Batch, Batch],
    tokens: Tokens,
    changed_BS: Tensor,
    source: Path | None,
    differs: Callable[[Batch, Batch], bool],
    *,
    seed: int,
) -> Location | None:
    """The line through which what was changed reaches what it must not.

    Args:
        run: a live run.
        batches: two that differ where `changed_BS` is True, and nowhere else.
        tokens: of both, as far as masks and documents go.
        changed_BS: Bool[B, S].
        source: the subject's own folder.
        differs: whether what is judged differs between the two.
        seed: of the runs.

    Returns:
        The place; None where the two make other operations, no own line does, or none is asked for. The masks are tried
        for `SECONDS`, so that a check is not over its time, and what it found lost, for want of a line.
    """
    if not are_named():
        return None
    steps = masks(tokens.valid_BS.bool(), tokens.document_BS)
    found = culprit([Failing(lambda: differs(*batches), lambda answer: answer is False, steps)], source, SECONDS)
    before, after = (_traced(run, batch, source, seed) for batch in batches)
    return found or _first(before, after, changed_BS)


def _traced(run: Run, batch: Batch, source: Path | None, seed: int) -> list[Done]:
    mode = Traced(source)
    try:
        with seeded(seed), without_dropout(), calling("losses()"), mode:
            run.losses(batch)
    except SubjectRaisedError:
        return []
    return mode.done


def _first(before: list[Done], after: list[Done], changed_BS: Tensor) -> Location | None:
    """The first operation that differs elsewhere; None also where the two are not one and the same course."""
    for one, other in zip(before, after, strict=False):
        if one.site != other.site:
            return None
        for ours, theirs in zip(one.outputs, other.outputs, strict=False):
            if ours.shape != theirs.shape:
                return None
            if _outside(difference(ours, theirs), changed_BS):
                return _of_mask(one)
    return None


def _of_mask(done: Done) -> Location:
    """The line of an operation; of attention, whose call may be long, that of what says who sees whom."""
    if done.site.name != _ATTENTION:
        return done.place
    masked = any(tensor.dtype == torch.bool or key == "attn_mask" for key, tensor in done.given.items())
    line = keyword_at((done.site.code, done.place.line), "attn_mask" if masked else "is_causal")
    return done.place if line is None else at_line(*line)


def difference(ours: Tensor, theirs: Tensor) -> Tensor:
    """Bool of their shape: where two outputs differ by more than roundoff."""
    if not ours.is_floating_point():
        return ours != theirs
    differs = ~((ours == theirs) | (ours.isnan() & theirs.isnan()))
    finite = ours[ours.isfinite()].abs()
    limit = _SEEN * float(finite.max()) if finite.numel() else 0.0
    return differs & ~((ours - theirs).abs() <= limit)


def are_apart(ours: Tensor, theirs: Tensor) -> bool:
    """Whether two outputs have other shapes, or differ anywhere by more than roundoff."""
    return ours.shape != theirs.shape or bool(difference(ours, theirs).any())


def _outside(differs: Tensor, changed_BS: Tensor) -> bool:
    """Whether an output differs where nothing was changed, whichever of its axes the positions are."""
    if not differs.any():
        return False
    rows, positions = changed_BS.shape
    if differs.dim() and differs.shape[0] % (rows * positions) == 0 and differs.shape[0] > rows:
        differs = differs.reshape(rows, positions, -1)  # rows and positions were made one axis
    sizes = list(enumerate(differs.shape))
    pairs = [(i, j) for i, b in sizes if b == rows for j, s in sizes if s == positions and i != j]
    return all(_beyond(differs.movedim(pair, (0, 1)), changed_BS) for pair in pairs)


def _beyond(differs: Tensor, changed_BS: Tensor) -> bool:
    return bool((differs.flatten(2).any(-1) if differs.dim() > 2 else differs)[~changed_BS].any())

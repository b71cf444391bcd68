"""Whole fits, one for each stage, seed and device in a process: they take seconds and several checks want them."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from gradgate.checks.raised import calling
from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Fit, Stage

_FITS: WeakKeyDictionary[Stage, dict[tuple[int, str], Fit]] = WeakKeyDictionary()


def fit(stage: Stage, seed: int, device: str) -> Fit:
    """The stage's fit at a seed, from memory where there is one.

    Raises:
        SubjectError: the stage has no `fit`, or it returns something else than a Fit.
        SubjectRaisedError: the fit raised.
    """
    known = _FITS.setdefault(stage, {})
    if (seed, device) not in known:
        if stage.fit is None:
            raise SubjectError(f"stage {stage.name!r} has no `fit`")
        with calling(f"fit(seed={seed})"):
            result = stage.fit(seed, device=device)
        if not isinstance(result, Fit):
            raise SubjectError(f"fit of stage {stage.name!r} returned {type(result).__name__}, expected gradgate.Fit")
        known[seed, device] = result
    return known[seed, device]

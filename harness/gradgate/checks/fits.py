"""Whole fits, one for each stage, seed and device in a process: they take seconds and several checks want them.

Where a check may use more than one process, the next seeds are fitted side by side: what wants one fit soon wants those
of the seeds behind it.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Mapping
from weakref import WeakKeyDictionary

from gradgate.checks.raised import calling
from gradgate.checks.time_limit import LIMITS
from gradgate.core.errors import SubjectError
from gradgate.core.workers import Lost, run
from gradgate.subjects.contract import Context, Fit, Stage, Subject

MOST_AT_ONCE = 4  # as many as a clear case wants in the profile pr

_FITS: WeakKeyDictionary[Stage, dict[tuple[int, str], Fit]] = WeakKeyDictionary()


def fit(subject: Subject, stage: Stage, seed: int, context: Context) -> Fit:
    """The stage's fit at a seed, from memory where there is one.

    Raises:
        SubjectError: the stage has no `fit`, or it returns something else than a Fit.
        SubjectRaisedError: the fit raised.
    """
    known = _FITS.setdefault(stage, {})
    key = seed, context.device
    if key not in known and min(context.jobs, MOST_AT_ONCE) > 1:
        _side_by_side(subject, seed, context)
    if key not in known:
        known[key] = _fitted(stage, seed, context.device)
    return known[key]


def _fitted(stage: Stage, seed: int, device: str) -> Fit:
    if stage.fit is None:
        raise SubjectError(f"stage {stage.name!r} has no `fit`")
    with calling(f"fit(seed={seed})"):
        result = stage.fit(seed, device=device)
    if not isinstance(result, Fit):
        raise SubjectError(f"fit of stage {stage.name!r} returned {type(result).__name__}, expected gradgate.Fit")
    return result


def _side_by_side(subject: Subject, first: int, context: Context) -> None:
    """Fit this seed and the next ones, each in a process of its own; what fails there is left to whoever asks for it.

    A process fits every stage: they often come out of one run.
    """
    stages = [stage for stage in subject.stages if stage.fit is not None]
    known = [_FITS.setdefault(stage, {}) for stage in stages]
    seeds = range(first, first + min(context.jobs, MOST_AT_ONCE))
    importlib.import_module("torch._dynamo")  # the first optimizer does: seconds, once, and not again in every process

    def fitted(seed: int) -> bytes:
        return pickle.dumps(_able(stages, seed, context.device))  # as bytes: no memory is shared with what has ended

    missing = [[seed] for seed in seeds if not all((seed, context.device) in each for each in known)]
    for number, answer in run(missing, fitted, jobs=len(seeds), timeout=LIMITS[context.profile]):
        if not isinstance(answer, Lost):
            for index, result in pickle.loads(answer).items():  # noqa: S301 - from our own fork
                known[index].setdefault((missing[number][0], context.device), result)


def _able(stages: list[Stage], seed: int, device: str) -> Mapping[int, Fit]:
    """The fits of those stages that can be fitted."""
    found = {}
    for index, stage in enumerate(stages):
        try:
            found[index] = _fitted(stage, seed, device)
        except Exception:  # noqa: S112 - raised again, and told, by whoever asks
            continue
    return found

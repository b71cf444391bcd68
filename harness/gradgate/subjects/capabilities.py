"""Capabilities: which optional parts of the contract a subject has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from gradgate.core.errors import SubjectError, nearest
from gradgate.core.origin import in_one_line
from gradgate.subjects.contract import Run, Stage, Subject

_OF_RUN = {
    "losses", "tokens", "rows", "valid", "pad", "crop", "evaluate", "save", "saved", "logits", "optimizers", "max_norm",
    "window", "supervised", "rewards", "value_targets", "samples", "heldout", "hyperparameters",
    "strategy", "placed", "end_token", "sources", "weights", "formulas",
}  # fmt: skip
_SEED = 0


class Capabilities:
    """What one subject offers. A stage is started once, when a check first asks about its run.

    Args:
        subject: the trainer.
        device: where to start its runs.
    """

    def __init__(self, subject: Subject, device: str = "cpu") -> None:
        self._subject = subject
        self._device = device
        self._of_runs: dict[int, frozenset[str]] = {}

    def missing(self, stage: Stage | None, needs: Sequence[str]) -> list[str]:
        """What a check needs and the subject lacks.

        Args:
            stage: the stage that the check is for; None: the subject as a whole, where one stage that has it is enough.
            needs: keys of `Subject.CAPABILITIES`.

        Returns:
            One hint a capability: the line of adapter that would enable it.

        Raises:
            SubjectError: a stage does not start, so that nothing can be said of its run.
            ValueError: a need is no capability; the check is wrong.
        """
        for need in needs:
            if need not in Subject.CAPABILITIES:
                raise ValueError(f"no capability {need!r}{nearest(need, Subject.CAPABILITIES)}")
        stages = list(self._subject.stages) if stage is None else [stage]
        return [Subject.CAPABILITIES[need] for need in needs if not self._has(stages, need)]

    def _has(self, stages: Sequence[Stage], need: str) -> bool:
        if need in ("corpus", "program"):
            return getattr(self._subject, need) is not None
        if need.startswith("functions."):
            return getattr(self._subject.functions, need.partition(".")[2]) is not None
        if need in ("fit", "edges", "loop", "precisions", "options", "neutral", "scaling", "distributed", "after"):
            return any(getattr(stage, need) is not None for stage in stages)
        return any(need in self._of_run(stage) for stage in stages)

    def _of_run(self, stage: Stage) -> frozenset[str]:
        if id(stage) not in self._of_runs:
            try:
                run = stage.start(_SEED, dtype=torch.float32, device=self._device)
            except Exception as error:
                raise SubjectError(f"stage {stage.name!r} does not start: {in_one_line(error)}") from error
            try:
                self._of_runs[id(stage)] = declared(run)
            except Exception as error:  # a property
                told = f"stage {stage.name!r}: an attribute of its run raises: {in_one_line(error)}"
                raise SubjectError(told) from error
        return self._of_runs[id(stage)]


def declared(run: Run) -> frozenset[str]:
    """The capabilities that a run declares: methods that its class overrides, attributes that it sets."""
    has = {
        "losses": _overrides(run, "losses"),
        "weights": _overrides(run, "weights") and getattr(run, "weights_from", "own") is not None,
        "tokens": _overrides(run, "tokens"),
        "rows": _overrides(run, "select_rows"),
        "valid": _overrides(run, "valid") or _overrides(run, "tokens"),
        "pad": _overrides(run, "pad"),
        "crop": _overrides(run, "crop"),
        "evaluate": _overrides(run, "evaluate"),
        "samples": _overrides(run, "samples") and run.epoch_size > 0,
        "heldout": _overrides(run, "heldout"),
        "hyperparameters": _overrides(run, "hyperparameters") or getattr(run, "rates", None) is not None,
        "strategy": _overrides(run, "strategy"),
        "supervised": _overrides(run, "supervised"),
        "rewards": _overrides(run, "rewards"),
        "value_targets": _overrides(run, "value_targets"),
        "placed": _overrides(run, "placed"),
        "window": _overrides(run, "window"),
        "sources": _overrides(run, "sources"),
        "formulas": bool(getattr(run, "formulas", None)),
        "end_token": getattr(run, "end_token", None) is not None,
        "max_norm": getattr(run, "max_norm", None) is not None,
        "saved": _overrides(run, "save"),
        "save": _overrides(run, "save") and _overrides(run, "load"),
        "logits": getattr(run, "logits_from", None) is not None,
        "optimizers": bool(getattr(run, "optimizers", ())),
    }
    return frozenset(name for name in _OF_RUN if has[name])


def _overrides(run: Any, method: str) -> bool:
    own = getattr(run, method, None)
    return own is not None and getattr(own, "__func__", own) is not getattr(Run, method)

"""Trial: one check once more, on a trainer of which something was exchanged in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradgate.checks.runner import check_trainer
from gradgate.subjects.contract import Stage, Subject


def trial_of(
    subject: Subject, code: str, stage: str | None, *, seed: int = 0, baselines: Path | None = None
) -> Callable[[float], bool]:
    """A function that runs a check and says whether it passes, within so many seconds.

    Args:
        subject: the trainer, loaded.
        code: of the check.
        stage: where it failed; None: on the subject as a whole.
        seed: of the check.
        baselines: as the check had them.
    """

    def passes(timeout: float) -> bool:
        verdict = check_trainer(
            _afresh(subject),
            select=[code],
            stages=None if stage is None else [stage],
            seed=seed,
            baselines=baselines,
            timeout=timeout,
        )
        return [result.status for result in verdict.results] == ["passed"]

    return passes


def _afresh(subject: Subject) -> Subject:
    """The subject with stages that no check has met: what was recorded of the old ones is not of this source."""

    def other(stage: Stage) -> Stage:
        def start(*arguments: Any, **options: Any) -> Any:
            return stage.start(*arguments, **options)

        return replace(stage, start=start)

    return replace(subject, stages=[other(stage) for stage in subject.stages])

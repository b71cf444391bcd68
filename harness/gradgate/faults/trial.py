"""Trial: one check once more, on a trainer of which something was exchanged in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradgate.checks.naming import unnamed
from gradgate.checks.runner import check_trainer
from gradgate.subjects.contract import Stage, Subject

_building: list[None] = []  # not empty while a run is being started


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

    return lambda timeout: status_of(subject, code, stage, timeout, seed=seed, baselines=baselines) == "passed"


def status_of(
    subject: Subject, code: str, stage: str | None, timeout: float, *, seed: int = 0, baselines: Path | None = None
) -> str:
    """What a check says, within so many seconds; arguments as for `trial_of`. Of several stages all, with blanks."""
    with unnamed():
        verdict = check_trainer(
            _afresh(subject),
            select=[code],
            stages=None if stage is None else [stage],
            seed=seed,
            baselines=baselines,
            timeout=timeout,
        )
    return " ".join(result.status for result in verdict.results)


def is_building() -> bool:
    """Whether a run is being started by a trial."""
    return bool(_building)


def _afresh(subject: Subject) -> Subject:
    """The subject with stages that no check has met: what was recorded of the old ones is not of this source."""

    def other(stage: Stage) -> Stage:
        def start(*arguments: Any, **options: Any) -> Any:
            _building.append(None)
            try:
                return stage.start(*arguments, **options)
            finally:
                _building.pop()

        return replace(stage, start=start)

    return replace(subject, stages=[other(stage) for stage in subject.stages])

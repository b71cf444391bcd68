"""The check that failed, asked again and again: with a cheaper one before it, and with what must not be spoilt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from gradgate.checks.first_fault import first_fault_only
from gradgate.checks.isolation import isolated
from gradgate.checks.snapshot import named_parameters
from gradgate.faults.trial import status_of
from gradgate.subjects.contract import Stage, Subject

_FORMULAS = ("GG501", "GG401", "GG403", "GG404")
_OF_FORMULAS = "345"  # families whose faults may be a formula's
_OF_A_STEP = ("GG100", "GG203", "GG204", "GG206", "GG208", "GG412")
_QUICK = _FORMULAS[:3]
_TRAIN_TOO_MUCH = ("GG203", "GG606")  # whose faults train what they should not


@dataclass(frozen=True, slots=True)
class Sound:
    """What holds in spite of a fault.

    Args:
        checks: code and stage of other quick checks that pass.
        trained: names of parameters that a step moves.
    """

    checks: tuple[tuple[str, str | None], ...]
    trained: frozenset[str]


def _moved(stage: Stage, seed: int) -> frozenset[str]:
    """Names of the parameters that two steps move; none where they raise."""
    try:
        run = stage.start(seed)
        names = named_parameters(run)
        before = {parameter: parameter.detach().clone() for parameter in names}
        for batch in islice(run.batches(), 2):
            run.step(batch)
    except Exception:  # the subject's, as it is with the change
        return frozenset()
    return frozenset(name for parameter, name in names.items() if not parameter.detach().equal(before[parameter]))


@dataclass(frozen=True)
class Asked:
    """The check that failed, and another that fails too and is cheaper.

    Args:
        subject: the trainer.
        code: of the check.
        stage: where it failed.
        seed: of the check.
        baselines: as the check had them.
        formula: code of a check of formulas alone that fails as well; empty: none.
    """

    subject: Subject
    code: str
    stage: str | None
    seed: int
    baselines: Path | None
    formula: str = ""

    def passes(self, timeout: float) -> bool:
        """Whether they pass on the subject as it is now."""
        if self.formula and not self._one(self.formula, None, timeout):
            return False
        return self._one(self.code, self.stage, timeout)

    def cheapest(self, timeout: float) -> Asked:
        """With a check of formulas that fails as well: it asks in milliseconds what a step is asked in a second."""
        if self.stage is None or self.code[2] not in _OF_FORMULAS:
            return self
        with first_fault_only():
            failing = (code for code in _FORMULAS if self._status(code, None, timeout) in ("failed", "error"))
            return replace(self, formula=next(failing, ""))

    def sound(self, timeout: float) -> Sound:
        """What is sound in spite of the fault; a change that spoils it is no repair."""
        steps = [] if self.stage is None else [(code, self.stage) for code in _OF_A_STEP]
        formulas = [(code, None) for code in _QUICK] if self.code[2] in _OF_FORMULAS else []
        checks = [one for one in [*steps, *formulas] if one[0] != self.code and self._passes_first(*one, timeout)]
        return Sound(tuple(checks), frozenset() if self.code in _TRAIN_TOO_MUCH else self._trained())

    def is_as_sound(self, before: Sound, timeout: float) -> bool:
        """Whether all of it still is: without a backward no gradient is wrong, and nothing is trained."""
        return before.trained <= self._trained() and all(self._passes_first(*one, timeout) for one in before.checks)

    def _trained(self) -> frozenset[str]:
        """The parameters that two steps move."""
        for stage in self.subject.stages:
            if stage.name == self.stage:
                with isolated(self.seed, "repair"):
                    return _moved(stage, self.seed)
        return frozenset()

    def _passes_first(self, code: str, stage: str | None, timeout: float) -> bool:
        with first_fault_only():
            return self._one(code, stage, timeout)

    def _one(self, code: str, stage: str | None, timeout: float) -> bool:
        return self._status(code, stage, timeout) == "passed"

    def _status(self, code: str, stage: str | None, timeout: float) -> str:
        return status_of(self.subject, code, stage, timeout, seed=self.seed, baselines=self.baselines)

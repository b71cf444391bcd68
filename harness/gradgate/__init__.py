"""gradgate: verification and regression harness for PyTorch training code.

Everything public is imported when it is first used, so that `import gradgate` costs neither torch nor pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradgate.checks.fit_of import fit_of
    from gradgate.checks.runner import check_trainer
    from gradgate.core.errors import GradientFaultError, GradientFaultWarning
    from gradgate.core.finding import Finding, Location
    from gradgate.core.rule import Rule
    from gradgate.core.verdict import Outcome, Result, Verdict
    from gradgate.plugin import parametrize
    from gradgate.subjects.contract import (
        After,
        Context,
        Corpus,
        Fit,
        Functions,
        Looped,
        Placed,
        Run,
        Scaling,
        Stage,
        Subject,
        Tokens,
    )
    from gradgate.subjects.inside import StepLosses
    from gradgate.subjects.looping import looped
    from gradgate.subjects.own_loop import OwnLoop
    from gradgate.subjects.program import Program, command
    from gradgate.subjects.rows import TokenRows
    from gradgate.subjects.schedule import Schedule, by_parameter, on_matrices
    from gradgate.subjects.settings import configured, options_of
    from gradgate.subjects.toy_rows import toy_rows
    from gradgate.watch.block import watch
    from gradgate.watch.guard import guard

__version__ = "0.1.0"

_HOMES = {
    "gradgate.checks.fit_of": ("fit_of",),
    "gradgate.checks.runner": ("check_trainer",),
    "gradgate.core.errors": ("GradientFaultError", "GradientFaultWarning"),
    "gradgate.core.finding": ("Finding", "Location"),
    "gradgate.core.rule": ("Rule",),
    "gradgate.core.verdict": ("Outcome", "Result", "Verdict"),
    "gradgate.plugin": ("parametrize",),
    "gradgate.subjects.contract": (
        "After",
        "Context",
        "Corpus",
        "Fit",
        "Functions",
        "Looped",
        "Placed",
        "Run",
        "Scaling",
        "Stage",
        "Subject",
        "Tokens",
    ),
    "gradgate.subjects.inside": ("StepLosses",),
    "gradgate.subjects.looping": ("looped",),
    "gradgate.subjects.own_loop": ("OwnLoop",),
    "gradgate.subjects.program": ("Program", "command"),
    "gradgate.subjects.rows": ("TokenRows",),
    "gradgate.subjects.schedule": ("Schedule", "by_parameter", "on_matrices"),
    "gradgate.subjects.settings": ("configured", "options_of"),
    "gradgate.subjects.toy_rows": ("toy_rows",),
    "gradgate.watch.block": ("watch",),
    "gradgate.watch.guard": ("guard",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "After",
    "Context",
    "Corpus",
    "Finding",
    "Fit",
    "Functions",
    "GradientFaultError",
    "GradientFaultWarning",
    "Location",
    "Looped",
    "Outcome",
    "OwnLoop",
    "Placed",
    "Program",
    "Result",
    "Rule",
    "Run",
    "Scaling",
    "Schedule",
    "Stage",
    "StepLosses",
    "Subject",
    "TokenRows",
    "Tokens",
    "Verdict",
    "__version__",
    "by_parameter",
    "check_trainer",
    "command",
    "configured",
    "fit_of",
    "guard",
    "looped",
    "on_matrices",
    "options_of",
    "parametrize",
    "toy_rows",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'gradgate' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return __all__

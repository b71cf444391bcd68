"""Errors of use. Each names what was given, what was expected, and the nearest valid choice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class GradgateError(Exception):
    """A mistake of the user's. The command line prints it in one line and exits with 2; pytest shows a UsageError."""


class UnknownCodeError(GradgateError):
    """A rule was asked for by a code or name that the catalogue does not have."""


class TargetError(GradgateError):
    """TARGET does not import, does not build, or is not a Subject."""


class SubjectError(GradgateError):
    """A subject breaks its contract: a stage without a step, a loss that is no scalar, a capability that lies."""


class GradientFaultError(GradgateError):
    """A guarded step broke a gradient in silence, and `on_finding="raise"` asked to be stopped.

    Args:
        text: the findings.
        findings: what was found, worst first.
    """

    def __init__(self, text: str, findings: Iterable[Any]) -> None:
        super().__init__(text)
        self.findings = list(findings)


class GradientFaultWarning(UserWarning):
    """What a guarded step broke, or why it could not be replayed."""


class ShapeError(GradgateError):
    """Shapes of arguments disagree."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no choice is near.

    Args:
        word: what the user wrote.
        choices: what would have been valid.

    Returns:
        A clause to append to a message, starting with a semicolon; empty without a near choice.
    """
    match = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f"; did you mean {match[0]!r}?" if match else ""

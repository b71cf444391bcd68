"""Text: what a rule says about one way in which its fault shows."""

from __future__ import annotations

from dataclasses import dataclass

from gradgate.core.finding import Severity


@dataclass(frozen=True, slots=True)
class Text:
    """One message of a rule.

    Args:
        message: the first line, with `{words}` that the report fills in.
        why: what follows from it.
        fix: what to write instead.
        severity: where the evidence is complete.
        unsure: where a fact of the program, such as whether an argument carries gradient, is assumed.
    """

    message: str
    why: str
    fix: str
    severity: Severity = "error"
    unsure: Severity = "warning"

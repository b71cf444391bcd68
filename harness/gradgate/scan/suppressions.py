"""Suppressions: `# gradgate: ignore[inplace-on-saved-tensor] -- reason`, at the end of a line or alone on the line
before."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.core.finding import Finding, Location

CODE, NAME = "GG004", "suppression-without-reason"
_COMMENT = re.compile(r"#\s*gradgate:\s*ignore\b(?:\[(?P<names>[^\]]*)\])?(?P<rest>.*)$")


@dataclass(frozen=True, slots=True)
class Suppression:
    """One comment.

    Args:
        line: where it stands, 1-based.
        covers: the line whose findings it is about.
        names: codes or names of rules, lower case.
        reason: what follows `--`.
    """

    line: int
    covers: int
    names: frozenset[str]
    reason: str

    def hides(self, finding: Finding) -> bool:
        """Whether it is about this finding. One without a reason, or without a rule, hides nothing."""
        return bool(self.reason) and bool(self.names & {finding.code.lower(), finding.name})


def suppressions(lines: list[str]) -> list[Suppression]:
    """All suppressions of a file."""
    found = []
    for number, text in enumerate(lines, 1):
        if "gradgate:" not in text:
            continue
        match = _COMMENT.search(text)
        if match and text[: match.start()].count('"') % 2 == 0 and text[: match.start()].count("'") % 2 == 0:
            names = frozenset(name.strip().lower() for name in (match["names"] or "").split(",") if name.strip())
            reason = match["rest"].partition("--")[2].strip()
            alone = text.lstrip().startswith("#")
            found.append(Suppression(number, _next_code(lines, number) if alone else number, names, reason))
    return found


def _next_code(lines: list[str], number: int) -> int:
    """The first line behind a comment that is neither empty nor a comment."""
    for at in range(number, len(lines)):
        stripped = lines[at].strip()
        if stripped and not stripped.startswith("#"):
            return at + 1
    return number


def complaints(path: str, lines: list[str], known: frozenset[str]) -> Iterator[Finding]:
    """A finding for each suppression that gives no reason, names no rule, or names one that does not exist."""
    for entry in suppressions(lines):
        problem = ""
        if not entry.names:
            problem = "a suppression names no rule"
        elif entry.names - known:
            problem = f"a suppression names {', '.join(sorted(entry.names - known))}, which is no rule"
        elif not entry.reason:
            problem = f"the suppression of {', '.join(sorted(entry.names))} gives no reason"
        if problem:
            yield Finding(
                CODE, NAME, problem, severity="warning",
                culprit=Location(path, entry.line, "", lines[entry.line - 1].strip()),
                why="it hides nothing until it does",
                fix="# gradgate: ignore[rule-name] -- why this is right here",
            )  # fmt: skip

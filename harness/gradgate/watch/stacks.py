"""Whole stacks, on request: the way from the program's entry to the line of an operation, installed packages too."""

from __future__ import annotations

from dataclasses import replace
from types import FrameType

from gradgate.core.finding import Finding, Location
from gradgate.core.origin import at_line


class Stacks:
    """The last stack seen at each line of the user's own code."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int], list[tuple[str, int, str]]] = {}

    def note(self, frame: FrameType | None) -> None:
        """An operation runs at a line: keep the way to it, outermost first."""
        if frame is None:
            return
        key = (frame.f_code.co_filename, frame.f_lineno)
        way = []
        walking: FrameType | None = frame
        while walking is not None:
            way.append(
                (walking.f_code.co_filename, walking.f_lineno, at_line(walking.f_code, walking.f_lineno).function)
            )
            walking = walking.f_back
        self._seen[key] = way[::-1]

    def put_into(self, finding: Finding) -> Finding:
        """The finding with the stacks of its culprit and its victim, as lists of `file:line in function()`."""
        shown = {"stack": self._shown(finding.culprit), "stack of the victim": self._shown(finding.victim)}
        return replace(finding, detail={**finding.detail, **{name: way for name, way in shown.items() if way}})

    def _shown(self, place: Location | None) -> list[str]:
        way = self._seen.get((place.file, place.line), []) if place else []
        return [str(Location(*step)) for step in way]

"""Excerpts: the lines around a finding's culprit and victim, read while the source is at hand; then JSON holds them."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from textwrap import dedent
from typing import Any

from gradgate.core.finding import Finding, Location

AROUND = 3  # lines before and behind
APART = 12  # lines between culprit and victim that are shown rather than left out
WITH_EXCERPT = 200  # findings of one file of results that get any
WIDEST = 200  # characters of a line


def excerpts(finding: Finding) -> list[dict[str, Any]]:
    """The source around the culprit and the victim, in the order of the lines; as one where they are near.

    Args:
        finding: whose places name files as this process can read them.

    Returns:
        `{"file": ..., "first": number of the first line, "lines": [text, ...]}` each. Nothing for a place whose file
        cannot be read, or holds another text at that line by now.
    """
    places = [place for place in (finding.culprit, finding.victim) if place is not None and _is_there(place)]
    places.sort(key=lambda place: (place.file, place.line))
    if len(places) == 2 and places[0].file == places[1].file and places[1].line - places[0].line <= APART:
        return [_excerpt(places)]
    return [_excerpt([place]) for place in places]


def _excerpt(places: Sequence[Location]) -> dict[str, Any]:
    lines = linecache.getlines(places[0].file)
    first = max(1, places[0].line - AROUND)
    shown = [line.rstrip()[:WIDEST] for line in lines[first - 1 : places[-1].line + AROUND]]
    while not shown[-1]:  # the places' own lines are not empty
        shown.pop()
    while not shown[0]:
        shown, first = shown[1:], first + 1
    return {"file": places[0].file, "first": first, "lines": dedent("\n".join(shown)).split("\n")}


def _is_there(place: Location) -> bool:
    text = linecache.getline(place.file, place.line).strip()
    return bool(text) and text == place.source

"""A stage with switches of its configuration flipped: the settings in which a check is made once more."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import combinations, islice
from typing import Any
from weakref import WeakKeyDictionary

from gradgate.checks.isolation import isolated
from gradgate.checks.moved import as_given, in_words
from gradgate.checks.raised import is_raised
from gradgate.core.finding import SEVERITIES, Finding, Severity
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject
from gradgate.subjects.settings import is_of_evaluation

STEPS = 2  # that a run makes before its settings are taken for possible
QUICK = 4  # settings that the quick profile looks at, the first, in which most pairs are
SHARE = 0.5  # of a check's time limit, after which no further settings are begun
FAILED_SECONDS = (
    20.0  # the same for a check that has found a fault already: it may find the same in all of them, slowly
)

Settings = Mapping[str, Any]
StageCheck = Callable[[Subject, Stage, Context], Outcome]
Value = tuple[str, int]  # a switch and the number of its value

_OPENS = re.compile(r"grad|detach|freez|frozen|through|stop|\btie|shar|train", re.IGNORECASE)  # or closes an edge
_NUMBER = re.compile(r"[-+]?\d[\d.]*(e[-+]?\d+)?")


@dataclass(frozen=True)
class Flipped:
    """A stage in other settings.

    Args:
        settings: key -> value, of the keys that have another than their first.
        stage: it starts in these, and has none to move.
    """

    settings: Settings
    stage: Stage


@dataclass(frozen=True, slots=True)
class Again:
    """How a check is made once more.

    Args:
        severity: of what it finds then, at most.
        edges: whether it judges which loss trains which module, so that keys whose words open or close a way for
            gradients are left as they are.
        check: what of the check is made; None: all of it.
        quick: settings that the quick profile looks at, of the first; 0: none, it is done in the longer ones alone.
    """

    severity: Severity = "error"
    edges: bool = False
    check: StageCheck | None = None
    quick: int = QUICK


_FLIPPED: WeakKeyDictionary[Stage, dict[tuple[int, str], list[Flipped]]] = WeakKeyDictionary()


def again(
    check: StageCheck, how: Again, subject: Subject, stage: Stage, context: Context, outcome: Outcome, seconds: float
) -> Outcome:
    """The outcome of a check, with what it finds further where switches of the configuration are flipped.

    Args:
        check: of one stage.
        how: it is made again.
        subject: whose stage it is.
        stage: as it is.
        context: of the check.
        outcome: with the stage as it is.
        seconds: that the check may take in all.

    Returns:
        The outcome as it is where nothing new is found. A finding says with which settings, the fewest that show it.
    """
    if outcome.not_applicable or outcome.inconclusive:
        return outcome
    limit = how.quick if context.profile == "quick" else None
    if limit == 0:
        return outcome

    def found_in(flipped: Flipped) -> list[Finding]:
        try:
            with isolated(context.seed, "switches") as folder:
                seen = (how.check or check)(subject, flipped.stage, replace(context, folder=folder))
        except Exception:  # what is declared of the stage need not hold, or be there, in these settings
            return []
        return [finding for finding in seen.findings if not is_raised(finding)]

    has_failed = any(each.severity == "error" for each in outcome.findings)
    end = time.perf_counter() + min(SHARE * seconds, FAILED_SECONDS if has_failed else seconds)
    told = set(map(_kind, outcome.findings))
    new: list[Finding] = []
    for flipped in looked_at(stage, context)[:limit]:
        if time.perf_counter() > end:
            break
        settings = {key: value for key, value in flipped.settings.items() if not (how.edges and _OPENS.search(key))}
        if settings != flipped.settings:
            flipped = in_settings(stage, settings)
        for finding in found_in(flipped) if settings else ():
            if _kind(finding) in told:
                continue
            told.add(_kind(finding))
            fewest = _fewest(finding, settings, lambda fewer: found_in(in_settings(stage, fewer)), end)
            new.append(_told(*fewest, how.severity))
    return replace(outcome, findings=(*outcome.findings, *new)) if new else outcome


def looked_at(stage: Stage, context: Context) -> list[Flipped]:
    """Those of `pairwise` that the profile has time for, tried once in a process."""
    known = _FLIPPED.setdefault(stage, {})
    key = (context.seed, context.profile)
    if key not in known:
        known[key] = list(islice(pairwise(stage, context), QUICK if context.profile == "quick" else None))
    return known[key]


def pairwise(stage: Stage, context: Context) -> Iterator[Flipped]:
    """The stage in settings in which every two values of two switches come together once at least, as far as it runs.

    A switch is a key of `Stage.options` or `Stage.neutral` between words, that is on or off, or that has numbers of
    which one is 0. Its first value is what it is set to otherwise. A value with which no step can be made is GG414's.
    """
    switches = {
        key: (values[0], *(value for value in values[1:] if _runs(in_settings(stage, {key: value}), context)))
        for key, values in {**(stage.neutral or {}), **(stage.options or {})}.items()
        if values and is_switch(values) and not is_of_evaluation(key)
    }
    for row in _rows({key: values for key, values in switches.items() if values[1:]}):
        flipped = _possible(stage, row, context)
        if flipped.settings:
            yield flipped


def _rows(switches: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Settings that cover every pair of values but those of first ones: greedily, the most new pairs first."""
    values = {key: [(key, number) for number in range(len(listed))] for key, listed in switches.items()}
    left = {
        (one, other): None
        for first, second in combinations(values, 2)
        for one in values[first]
        for other in values[second]
        if one[1] or other[1]
    }
    if len(switches) == 1:
        yield from ({key: value} for key, listed in switches.items() for value in listed[1:])
    while left:
        row: dict[str, Value] = {key: (key, number) for key, number in next(iter(left))}
        for key in values:
            if key not in row:
                row[key] = max(values[key], key=lambda value: sum(pair in left for pair in _pairs(value, row, values)))
        covered = set(combinations((row[key] for key in values), 2))
        left = {pair: None for pair in left if pair not in covered}
        yield {key: switches[key][row[key][1]] for key in values if row[key][1]}


def _pairs(value: Value, row: Mapping[str, Value], order: Mapping[str, Any]) -> Iterator[tuple[Value, Value]]:
    """A value with each of a row that is not whole yet, in the order of their keys."""
    places = {key: place for place, key in enumerate(order)}
    for other in row.values():
        yield (value, other) if places[value[0]] < places[other[0]] else (other, value)


def _possible(stage: Stage, row: Settings, context: Context) -> Flipped:
    """The stage in these settings, or as many of them as it runs in together."""
    settings: dict[str, Any] = {}
    flipped = in_settings(stage, row)
    if _runs(flipped, context):
        return flipped
    for key, value in row.items():
        more = in_settings(stage, {**settings, key: value})
        if _runs(more, context):
            settings, flipped = dict(more.settings), more
    return flipped if settings else in_settings(stage, {})


def _runs(flipped: Flipped, context: Context) -> bool:
    try:
        with isolated(context.seed, "switches"):
            run = flipped.stage.start(context.seed, device=context.device)
            for batch in islice(run.batches(), STEPS):
                run.step(batch)
    except (Exception, SystemExit):
        return False
    return True


def in_settings(stage: Stage, settings: Settings) -> Flipped:
    """The stage as it starts with these settings."""

    def start(*args: Any, options: Settings | None = None, **named: Any) -> Run:
        return stage.start(*args, **named, **as_given({**settings, **(options or {})}))

    return Flipped(dict(settings), replace(stage, start=start, options=None, neutral=None, distributed=None))


def _fewest(
    finding: Finding, settings: Settings, ask: Callable[[Settings], list[Finding]], end: float
) -> tuple[Finding, Settings]:
    """A finding as it is with as few of the settings as show it, each left out that can be while there is time."""
    for key in settings:
        if time.perf_counter() > end:
            break
        fewer = {other: value for other, value in settings.items() if other != key}
        same = next((other for other in ask(fewer) if _kind(other) == _kind(finding)), None) if fewer else None
        if same is not None:
            finding, settings = same, fewer
    return finding, settings


def _told(finding: Finding, settings: Settings, severity: Severity) -> Finding:
    least = max(finding.severity, severity, key=SEVERITIES.index)
    message, detail = (
        f"{finding.message}{in_words(settings)}",
        {**finding.detail, "settings": {key: repr(value) for key, value in settings.items()}},
    )
    return replace(finding, message=message, severity=least, detail=detail)


def _kind(finding: Finding) -> tuple[Any, ...]:
    """What makes two findings of one check the same: all but their numbers."""
    place = finding.culprit or finding.victim
    return (finding.kind, place, "" if place else _NUMBER.sub("#", finding.message))


def is_switch(values: Sequence[Any]) -> bool:
    """Whether values are words, on and off, or numbers of which one is 0: a term without its factor, a ramp at once."""
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    return (len(numbers) == len(values) and 0 in numbers) or all(map(is_word, values))


def is_word(value: Any) -> bool:
    """Whether a value is a name, or on or off."""
    return value is None or isinstance(value, bool | str | Enum)

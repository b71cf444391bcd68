"""Change points: where the level of a number in the history of a machine became another one.

Counters are exact: any other value is a change. Times are noisy: they are turned into normal scores, which depend on
their order alone, so that a false alarm is as rare in heavy-tailed noise as in any other; ruptures splits the scores
(PELT, squared error, a penalty a split), and the penalty grows with the autocorrelation of what is left, since
nights that resemble the night before hold less evidence than their number says.

Sources: van der Waerden 1952, Indagationes Mathematicae 14:453 (normal scores); Killick, Fearnhead and Eckley 2012,
JASA 107:1590 (PELT); Truong, Oudre and Vayatis 2020, Signal Processing 167:107299 (ruptures).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist, median
from typing import Any

from gradgate.core.errors import GradgateError

SHORTEST = 5  # entries of a level
FEWEST, MOST = 15, 365  # entries that are looked at; below the first nothing can be said
PENALTY = 3.0  # times log(entries): measured, see docs/gates.md
_DERIVED = ("cpu_time_ratio",)  # moves with the stored figure, not with the code


@dataclass(frozen=True, slots=True)
class Change:
    """One level that became another.

    Args:
        subject: whose number it is.
        number: `stage/metric`.
        time: of the first entry at the new level.
        commit: of that entry; empty where it was not recorded.
        last: the commit of the entry before.
        before: median of the old level, or the exact value.
        after: of the new one.
        entries: how many entries each level has.
    """

    subject: str
    number: str
    time: str
    commit: str
    last: str
    before: float | str
    after: float | str
    entries: tuple[int, int]

    def __str__(self) -> str:
        """In one line."""
        span = f"{self.last[:10]}..{self.commit[:10]}" if self.last and self.commit else "commits not recorded"
        return (
            f"{self.subject} {self.number}: {_shown(self.before)} -> {_shown(self.after)}{self._percent()} "
            f"at {self.time} ({span}; {self.entries[0]} entries before, {self.entries[1]} since)"
        )

    def _percent(self) -> str:
        if isinstance(self.before, str) or isinstance(self.after, str) or not self.before:
            return ""
        return f" ({self.after / self.before - 1:+.1%})"


def changes(entries: Sequence[Mapping[str, Any]]) -> list[Change]:
    """Every change in the history of a machine, oldest first.

    Args:
        entries: as `history.recall` gives them.

    Raises:
        GradgateError: times are to be looked at, and ruptures is not installed.
    """
    found = []
    for subject in dict.fromkeys(entry["subject"] for entry in entries):
        own = [entry for entry in entries if entry["subject"] == subject][-MOST:]
        for name in dict.fromkeys(name for entry in own for name in entry["numbers"]):
            if not name.endswith(_DERIVED):
                found += _of_number(subject, name, [entry for entry in own if name in entry["numbers"]])
    return sorted(found, key=lambda change: (change.time, change.number))


def levels(values: Sequence[float]) -> list[int]:
    """Where a noisy number moves to another level.

    Args:
        values: finite, in their order.

    Returns:
        Index of the first value of each new level; none below `FEWEST` values.

    Raises:
        GradgateError: ruptures is not installed.
    """
    if len(values) < FEWEST or len(set(values)) < 2:
        return []
    scores = _normal_scores(values)
    base = PENALTY * math.log(len(values))
    first = _split(scores, base)
    if not first:
        return []
    kept = min(0.9, _autocorrelation(scores, first) + 2 * len(first) / len(values))  # fitted levels hide some of it
    return _split(scores, base * (1 + kept) / (1 - kept))


def _of_number(subject: str, name: str, entries: Sequence[Mapping[str, Any]]) -> list[Change]:
    values = [entry["numbers"][name] for entry in entries]
    if all(isinstance(value, float) and math.isfinite(value) for value in values):
        starts = levels(values)
    else:
        starts = [at for at, (one, other) in enumerate(pairwise(values), 1) if one != other]
    edges = [0, *starts, len(values)]
    return [
        Change(
            subject,
            name,
            str(entries[at]["time"]),
            str(entries[at].get("commit", "")),
            str(entries[at - 1].get("commit", "")),
            _level(values[low:at]),
            _level(values[at:high]),
            (at - low, high - at),
        )
        for low, at, high in zip(edges, starts, edges[2:], strict=False)
    ]


def _split(scores: Sequence[float], penalty: float) -> list[int]:
    try:
        import numpy as np
        import ruptures
    except ImportError as error:
        raise GradgateError(f"change points need {error.name}: pip install 'gradgate[trend]'") from None
    search = ruptures.KernelCPD(kernel="linear", min_size=SHORTEST).fit(np.asarray(scores)[:, None])
    return [int(end) for end in search.predict(pen=penalty)[:-1]]


def _normal_scores(values: Sequence[float]) -> list[float]:
    """Quantiles of the normal distribution at the values' ranks; equal values share the mean of their ranks."""
    ordered = sorted(values)
    ranks: dict[float, list[int]] = {}
    for rank, value in enumerate(ordered, 1):
        ranks.setdefault(value, []).append(rank)
    normal = NormalDist()
    return [normal.inv_cdf(sum(ranks[value]) / len(ranks[value]) / (len(values) + 1)) for value in values]


def _autocorrelation(scores: Sequence[float], starts: Sequence[int]) -> float:
    """Of neighbours, at least 0, after taking each level's mean away."""
    edges = [0, *starts, len(scores)]
    rest: list[float] = []
    for low, high in pairwise(edges):
        mean = sum(scores[low:high]) / (high - low)
        rest += [score - mean for score in scores[low:high]]
    total = sum(value * value for value in rest)
    return max(0.0, sum(a * b for a, b in pairwise(rest)) / total) if total else 0.0


def _level(values: Sequence[Any]) -> float | str:
    return median(values) if all(isinstance(value, int | float) for value in values) else str(values[-1])


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:,}" if isinstance(value, int) else f"{value:.4g}"

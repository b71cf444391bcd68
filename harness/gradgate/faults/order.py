"""Which change is tried first: by what training code suffers most, where the check looks, and what it speaks of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from math import log

# Bits that a change costs before it is tried; what undoes an addition is cheapest, since most faults are additions.
_COST: Mapping[str, float] = {
    **dict.fromkeys(("drop-clamp", "drop-roll", "drop-detach", "drop-data", "skip-statement", "drop-condition"), 0.0),
    **dict.fromkeys(("swap-axis", "swap-operator", "swap-comparison", "drop-operand", "keep-part", "drop-index"), 1.0),
    **dict.fromkeys(("invert-mask", "use-unused", "use-read", "sum-to-mean", "mean-to-sum", "drop-sign"), 1.0),
    **dict.fromkeys(("insert-call", "drop-guard", "skip-branch", "drop-context", "drop-method", "add-argument"), 1.5),
    **dict.fromkeys(("abs-to-square", "square-to-abs", "add-detach", "add-mask", "one-branch", "guard-divisor"), 2.0),
    **dict.fromkeys(("off-by-one", "drop-bound", "flip-flag", "other-setting", "drop-argument", "drop-call"), 2.0),
    **dict.fromkeys(("other-divisor", "add-divisor", "other-context", "other-end"), 2.0),
    **dict.fromkeys(("swap-arguments", "call-twice", "other-name", "add-double"), 4.0),
}  # fmt: skip
_CUTS = ("drop-detach", "drop-data", "drop-context", "drop-clamp", "drop-method", "keep-part", "drop-argument")
# By code, what makes its fault as a rule; such changes cost less.
_FITTING: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("GG201", "GG202", "GG204"), _CUTS),
    "GG203": ("add-detach", "one-branch", "insert-call"),
    "GG206": ("insert-call",),
    **dict.fromkeys(("GG210", "GG802"), ("skip-statement", "drop-argument", "drop-context")),
    "GG207": ("insert-call", "drop-method", "keep-part"),
    **dict.fromkeys(("GG305", "GG306"), ("drop-method", "wrong-dtype", "drop-context", "add-double")),
    "GG410": ("other-divisor", "add-divisor", "drop-operand"),
    "GG406": ("other-divisor", "add-divisor", "add-mask", "invert-mask"),
    **dict.fromkeys(("GG405", "GG407"), ("add-mask", "invert-mask", "drop-index", "swap-axis")),
    **dict.fromkeys(("GG503", "GG606"), ("other-context", "insert-call")),
    **dict.fromkeys(("GG414",), ("other-setting", "use-read", "add-argument", "drop-condition", "swap-comparison")),
}
_FITS = 2.0  # bits
CHEAPEST = -_FITS
_OTHER = 3.0  # of operators that are not listed
_DEEPER = 0.7  # for each call between the check and the function
_BUILDING = 2.0  # where it ran only while the run was built
_NAMED = 2.5  # bits that a line gains near the one that the check named
_SPOKEN = 4.0  # bits that a statement gains at most where it has the words of the finding
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_FINDING, _RULE = 3.0, 1.0  # weight of a word of the finding, and of the rule's page


class Relevance:
    """How much a statement speaks of what a check complains about.

    A word counts by how rare it is among the statements that ran: what is in every line tells nothing.

    Args:
        statements: of all functions that ran, as Python.
        finding: the finding's message and fix.
        rule: the rule's page.

    Source: Zhou, Zhang and Lo 2012, ICSE, bug localization by the words of the report (BugLocator).
    """

    def __init__(self, statements: Iterable[str], finding: str, rule: str = "") -> None:
        self._common: Counter[str] = Counter()
        self._count = 0
        for statement in statements:
            self._common.update(words(statement))
            self._count += 1
        self._asked = dict.fromkeys(words(rule), _RULE) | dict.fromkeys(words(finding), _FINDING)
        self._most = max([1.0, *(self._raw(word) for word in self._asked if word in self._common)])

    def __call__(self, statement: str) -> float:
        """From 0, nothing in common, to 1."""
        best = sorted((self._raw(word) for word in words(statement) if word in self._asked), reverse=True)[:3]
        return min(1.0, sum(score / 2**i for i, score in enumerate(best)) / self._most / 1.75) if best else 0.0

    def _raw(self, word: str) -> float:
        return self._asked[word] * log((1 + self._count) / (1 + self._common[word]))


def bits(statement: str, relevance: Relevance, depth: int, *, building: bool, named: bool) -> float:
    """What a statement's changes cost before it is asked which; the smallest are tried first.

    Args:
        statement: as Python.
        relevance: what the check complains about.
        depth: calls between the check and the function.
        building: whether it ran only while the run was built.
        named: whether it stands near the line that the check named.
    """
    return _DEEPER * depth + _BUILDING * building - _NAMED * named - _SPOKEN * relevance(statement)


def cost(operator: str, code: str) -> float:
    """What a change costs on top of its statement, for a check of this code; no less than `CHEAPEST`."""
    return _COST.get(operator, _OTHER) - _FITS * (operator in _FITTING.get(code, ()))


def words(text: str) -> set[str]:
    """Its words of three letters and more, lower case, without an ending."""
    found = (word.lower() for word in _WORD.findall(text))
    return {_stem(word) for word in found if len(word) > 2}


def _stem(word: str) -> str:
    for ending in ("ing", "ed", "es", "s", "er", "e"):
        if word.endswith(ending) and len(word) - len(ending) > 2:
            return word[: -len(ending)]
    return word

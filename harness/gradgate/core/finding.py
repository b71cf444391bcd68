"""Finding and Location: one fault at one place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Severity = Literal["error", "warning", "note"]
Kind = Literal[
    "inplace_saved", "inplace_leaf", "inplace_view", "optimizer_step_between", "silent_data_write",
    "silent_alias_write", "graph_cut", "freed_graph", "nan_forward", "nan_backward", "missing_grad", "stale_grad",
    "custom_function",
    "dtype_overflow", "nondeterminism", "other",
]  # fmt: skip
SEVERITIES: tuple[str, ...] = get_args(Severity)
KINDS: tuple[str, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Location:
    """A line of the user's own code.

    Args:
        file: path as the interpreter knows it.
        line: 1-based line number.
        function: the enclosing function's name.
        source: the line's text, stripped.
    """

    file: str
    line: int
    function: str = ""
    source: str = ""

    def __str__(self) -> str:
        """`file:line in function()`."""
        return f"{self.file}:{self.line}" + (f" in {self.function}()" if self.function else "")


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault at one place.

    Args:
        code: the rule's stable code, `GG101`.
        name: the rule's kebab-case name.
        message: what is wrong, with observed and allowed numbers and their units; stands alone in one line.
        kind: the fault's kind, from `KINDS`.
        severity: error, warning or note.
        culprit: the line that did it, or None.
        victim: the line that suffered, or None.
        op: the operation's name, where one is to blame.
        tensor: shape, dtype and device of the tensor, where one is to blame.
        confirmed: whether backward did use the damaged tensor; None where nothing was measured.
        fix: what to write instead.
        count: how often the same fault was seen.
        detail: further numbers, ready for JSON.
        why: what follows from it; where a check leaves it empty, the runner puts the rule's own sentence.
    """

    code: str
    name: str
    message: str
    kind: Kind = "other"
    severity: Severity = "error"
    culprit: Location | None = None
    victim: Location | None = None
    op: str | None = None
    tensor: dict[str, Any] | None = None
    confirmed: bool | None = None
    fix: str = ""
    count: int = 1
    detail: dict[str, Any] = field(default_factory=dict)
    why: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")
        if self.severity not in SEVERITIES:
            raise ValueError(f"severity {self.severity!r} is none of {', '.join(SEVERITIES)}")

    def headline(self) -> str:
        """`GG101 inplace-on-saved-tensor: message`, in one line."""
        return f"{self.code} {self.name}: {self.message}"

    def lines(self) -> list[str]:
        """As house style has it: the headline, then where, saved, why, fix and more."""
        rows = [
            ("where", _shown(self.culprit)),
            ("saved" if self.culprit else "where", _shown(self.victim)),
            ("tried", self.detail.get("repair", "")),
            ("why", self.why),
            ("fix", self.fix),
            ("more", f"gradgate rule {self.code}"),
        ]
        times = f" ({self.count} times)" if self.count > 1 else ""
        return [self.headline() + times, *(f"  {label + ':':<7}{text}" for label, text in rows if text)]


def _shown(location: Location | None) -> str:
    return "" if location is None else f"{location}      {location.source}".rstrip()

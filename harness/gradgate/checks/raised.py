"""An exception of the subject's own is a finding; one of the harness is not. This module keeps the two apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding, Kind
from gradgate.core.origin import origin
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

StageCheck = Callable[[Subject, Stage, Context], Outcome]

_KINDS: tuple[tuple[str, Kind], ...] = (
    ("modified by an inplace operation", "inplace_saved"),
    ("leaf Variable that requires grad is being used in an in-place", "inplace_leaf"),
    ("is a view", "inplace_view"),
    ("backward through the graph a second time", "freed_graph"),
    ("does not require grad and does not have a grad_fn", "graph_cut"),
)


class SubjectRaisedError(Exception):
    """The subject raised while a check drove it.

    Args:
        doing: what the check asked for, for example "step 2".
        error: what the subject raised.
    """

    def __init__(self, doing: str, error: BaseException) -> None:
        super().__init__(f"{doing} raised {type(error).__name__}: {first_line(error)}")
        self.error = error


@contextmanager
def calling(doing: str) -> Iterator[None]:
    """Mark a block as the subject's own code: what it raises becomes a SubjectRaisedError, errors of use aside."""
    try:
        yield
    except GradgateError:
        raise
    except (Exception, SystemExit) as error:
        raise SubjectRaisedError(doing, error) from error


def reports_raises(code: str, name: str) -> Callable[[StageCheck], StageCheck]:
    """Decorate a check: a SubjectRaisedError that leaves it becomes its one finding."""

    def decorate(check: StageCheck) -> StageCheck:
        @functools.wraps(check)
        def reporting(subject: Subject, stage: Stage, context: Context) -> Outcome:
            try:
                return check(subject, stage, context)
            except SubjectRaisedError as raised:
                return Outcome(findings=(as_finding(raised, code, name),))

        return reporting

    return decorate


def as_finding(raised: SubjectRaisedError, code: str, name: str) -> Finding:
    """As a finding of the check that met it; the victim is the innermost line of the user's own code."""
    error = raised.error
    return Finding(
        code=code,
        name=name,
        message=str(raised),
        kind=kind_of(str(error)),
        victim=origin(error),
        fix="run this step alone in a plain loop until it passes; GG100 runs exactly that",
        detail={"error": type(error).__name__, "text": str(error)},
    )


def is_raised(finding: Finding) -> bool:
    """Whether a finding says no more than that the subject raised."""
    return finding.detail.keys() == {"error", "text"}


def kind_of(text: str) -> Kind:
    """What kind of fault an error tells of, by its text or a message that quotes it; else `other`."""
    return next((kind for words, kind in _KINDS if words in text), "other")


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an error's text, cut at `limit` characters."""
    line = (str(error).splitlines() or [""])[0]
    return line if len(line) <= limit else line[: limit - 1] + "…"

"""Which own line of a loop ends it too early, too late or never: told by what runs behind the evaluations of courses
whose scores only get better or only worse."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FrameType
from typing import Any

from gradgate.checks.own_lines import Line, OwnLines, heads_of, statement_at


class Handed(tuple[float, ...]):
    """Scores that tell when one is handed out."""

    note: Callable[[], None] = staticmethod(lambda: None)

    def __iter__(self) -> Iterator[float]:
        for score in super().__iter__():
            self.note()
            yield score

    def __getitem__(self, index: Any) -> Any:
        self.note()
        return super().__getitem__(index)


class LoopLines(OwnLines):
    """The lines that the function which asks for an evaluation runs behind each.

    Attributes:
        decided: for each evaluation the lines of that function, from the one that asks for it to the next step.
        handed_on: for each evaluation the lines of the functions that the line which asks for it calls behind it.
        loops: how often each loop's head ran.
        tests: how often each condition was the last before an evaluation, in the innermost function that had one.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.decided: list[list[Line]] = []
        self.handed_on: list[list[Line]] = []
        self.loops: dict[Line, int] = {}
        self.around: set[CodeType] = set()  # functions that run while a score is asked for
        self.inner: dict[Line, Line] = {}  # of a line that calls an own function, the last line of that
        self.tests: Counter[Line] = Counter()
        self._asking: FrameType | None = None
        self._asked_at = 0
        self._tested: dict[FrameType, Line] = {}

    def evaluated(self) -> None:
        """A score is handed out."""
        if self.frames:
            self.decided.append([])
            self.handed_on.append([])
            self._asked_at = self.at[-1]
            self.around |= {frame.f_code for frame in self.frames}
            self._asking = self.frames[-1]
            tested = next((self._tested[frame] for frame in reversed(self.frames) if frame in self._tested), None)
            self.tests.update([] if tested is None else [tested])

    def behind(self, line: Line) -> None:
        """Look at what the line has done."""
        if self._asking is not None and self.frames[-1] is self._asking:
            lines = self.decided[-1]
            if not lines or lines[-1] != line:
                lines.append(line)
        elif self._asking is not None and len(self.frames) > 1 and self.frames[-2] is self._asking:
            self.inner[self._asking.f_code, self.at[-2]] = line
            if self.at[-2] == self._asked_at:
                self.handed_on[-1].append(line)
        statement = statement_at(line)
        if isinstance(statement, ast.If):
            self._tested[self.frames[-1]] = (line[0], statement.lineno)
        if isinstance(statement, ast.While | ast.For):
            self._tested.pop(self.frames[-1], None)
            self.loops[line] = self.loops.get(line, 0) + 1
            if self._asking is not None and self.frames[-1] is self._asking and self.decided[-1][1:]:
                self._asking = None  # the next step begins

    def leaving(self, frame: FrameType, value: Any) -> None:  # noqa: ARG002
        """Note what an own function gives."""
        self._tested.pop(frame, None)
        if frame is self._asking:
            self._asking = None

    def decisions(self) -> list[list[Line]]:
        """The lines that decide, behind each evaluation: of the function that a score is handed on to, if it does."""
        comparing = {line[0] for lines in self.handed_on for line in lines if _compares(line)}
        handed_on = [[line for line in lines if line[0] in comparing] for lines in self.handed_on]
        return handed_on if comparing else self.decided


def line_of_stop(
    course: Callable[[Sequence[float]], Any],
    source: Any,
    better: Sequence[float],
    worse: Sequence[float],
    wrong: Sequence[str],
    *,
    patience: int | None,
) -> Line | None:
    """The line that decides wrongly.

    Args:
        course: runs the loop on scores.
        source: of the subject.
        better: scores that are ever better.
        worse: scores that are ever worse.
        wrong: the courses on which it ends elsewhere.
        patience: of each of them; None: there is one without.
    """
    up, down = _traced(course, source, better), _traced(course, source, worse)
    loops = {line: count for line, count in (down.loops or up.loops).items() if line[0] in down.around | up.around}
    loop = max(loops, key=lambda line: loops[line], default=None)
    if patience is None:
        return loop
    improved, worsened = _typical(up), _typical(down)
    if not improved or not worsened:
        return loop
    code = worsened[0][0]
    tests = [line for line in worsened if _compares(line)]
    first = next(iter(tests), worsened[0])
    first = down.inner.get(first, first)
    is_tied = "all equal" in wrong and "ever worse" not in wrong
    is_split = not isinstance(statement_at(tests[0]) if tests else None, ast.Assign)  # into two branches of lines
    if (is_split and set(improved) == set(worsened)) or "ever better" in wrong or is_tied:
        return first
    if "ever worse" in wrong and _fired(down, patience):
        return loop
    only = [line for line in improved if line not in worsened and line[0] is code]
    if wrong and set(wrong) <= {"better again behind one that was worse"} and only:
        return only[0]
    if any("NaN" in name for name in wrong) and "ever worse" not in wrong:
        return first
    return worsened[-1]


def line_of_evaluation(course: Callable[[Sequence[float]], Any], source: Any, scores: Sequence[float]) -> Line | None:
    """The condition behind which a loop evaluates, where it does so too often or too rarely.

    Args:
        course: runs the loop on scores.
        source: of the subject.
        scores: any.
    """
    tests = _traced(course, source, scores).tests
    return max(reversed(tests), key=lambda line: tests[line], default=None)  # one before any step comes first


def _traced(course: Callable[[Sequence[float]], Any], source: Any, scores: Sequence[float]) -> LoopLines:
    trace = LoopLines(source)
    handed = Handed(scores)
    handed.note = trace.evaluated
    with trace.on():
        course(handed)
    return trace


def _fired(trace: LoopLines, patience: int) -> bool:
    """Whether the evaluation that ends the run decides something that the one before it did not."""
    decided = trace.decisions()
    return len(decided) > patience and not set(decided[patience]) <= {
        one for each in decided[:patience] for one in each
    }


def _compares(line: Line) -> bool:
    return any(isinstance(node, ast.Compare | ast.IfExp) for head in heads_of(line) for node in ast.walk(head))


def _typical(trace: LoopLines) -> list[Line]:
    """What is decided behind the second evaluation: behind the first one any score is the best."""
    decided = next(iter(trace.decisions()[1:]), [])
    code: CodeType | None = decided[0][0] if decided else None
    lines = [line for line in dict.fromkeys(decided) if line[0] is code]
    return [line for line in lines if not isinstance(statement_at(line), ast.While | ast.For)]

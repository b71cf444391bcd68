"""Which own line of a loop ends it too early, too late or never: told by what runs behind the evaluations of courses
whose scores only get better or only worse."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from types import CodeType, FrameType
from typing import Any

from gradgate.checks.own_lines import Line, OwnLines, statement_at


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
        loops: how often each loop's head ran.
    """

    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.decided: list[list[Line]] = []
        self.loops: dict[Line, int] = {}
        self.around: set[CodeType] = set()  # functions that run while a score is asked for
        self._asking: FrameType | None = None

    def evaluated(self) -> None:
        """A score is handed out."""
        if self.frames:
            self.decided.append([])
            self.around |= {frame.f_code for frame in self.frames}
            self._asking = self.frames[-1]

    def behind(self, line: Line) -> None:
        """Look at what the line has done."""
        if self._asking is not None and self.frames[-1] is self._asking:
            lines = self.decided[-1]
            if not lines or lines[-1] != line:
                lines.append(line)
        if isinstance(statement_at(line), ast.While | ast.For):
            self.loops[line] = self.loops.get(line, 0) + 1

    def leaving(self, frame: FrameType, value: Any) -> None:  # noqa: ARG002
        """Note what an own function gives."""
        if frame is self._asking:
            self._asking = None


def line_of_stop(
    course: Callable[[Sequence[float]], Any],
    source: Any,
    better: Sequence[float],
    worse: Sequence[float],
    wrong: Sequence[str],
    *,
    patient: bool,
) -> Line | None:
    """The line that decides wrongly.

    Args:
        course: runs the loop on scores.
        source: of the subject.
        better: scores that are ever better.
        worse: scores that are ever worse.
        wrong: the courses on which it ends elsewhere.
        patient: whether each of them has patience.
    """
    up, down = _traced(course, source, better), _traced(course, source, worse)
    loops = {line: count for line, count in (down.loops or up.loops).items() if line[0] in down.around | up.around}
    loop = max(loops, key=lambda line: loops[line], default=None)
    if not patient:
        return loop
    improved, worsened = _typical(up), _typical(down)
    if not improved or not worsened:
        return loop
    code = worsened[0][0]
    tests = [line for line in worsened if isinstance(statement_at(line), ast.If)]
    first = next(iter(tests), worsened[0])
    is_tied = "all equal" in wrong and "ever worse" not in wrong
    if set(improved) == set(worsened) or "ever better" in wrong or is_tied:
        return first
    only = [line for line in improved if line not in worsened and line[0] is code]
    if wrong and set(wrong) <= {"better again behind one that was worse"} and only:
        return only[0]
    if any("NaN" in name for name in wrong) and "ever worse" not in wrong:
        return first
    return worsened[-1]


def _traced(course: Callable[[Sequence[float]], Any], source: Any, scores: Sequence[float]) -> LoopLines:
    trace = LoopLines(source)
    handed = Handed(scores)
    handed.note = trace.evaluated
    with trace.on():
        course(handed)
    return trace


def _typical(trace: LoopLines) -> list[Line]:
    """What is decided behind the second evaluation: behind the first one any score is the best."""
    decided = trace.decided[1] if len(trace.decided) > 1 else []
    code: CodeType | None = decided[0][0] if decided else None
    return [line for line in dict.fromkeys(decided) if line[0] is code]

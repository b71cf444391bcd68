"""The scanner on program text that nobody would write: it may find nothing, it may refuse, it never breaks."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.scan_programs import PROGRAMS
from gradgate.scan.scanner import scan_source
from gradgate.scan.sources import Source
from gradgate.scan.tree import Tree

PIECES = sorted({line.strip() for program in PROGRAMS for line in program.bad.split("\n") if line.strip()})
WORDS = sorted({word for piece in PIECES for word in piece.split()})


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """One of the programs with words and lines replaced, dropped or repeated."""
    lines = draw(st.sampled_from(PROGRAMS)).bad.split("\n")
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(lines) - 1))
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        words = lines[at].split() or ["pass"]
        words[draw(st.integers(0, len(words) - 1))] = draw(st.sampled_from(WORDS))
        new = draw(st.sampled_from([draw(st.sampled_from(PIECES)), " ".join(words), "pass", lines[at].strip()]))
        lines[at : at + draw(st.integers(0, 1))] = [indent + new]
    return "\n".join(lines)


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(mutated())
def test_scan_survives_mutated_programs(text: str):
    """No exception leaves the scanner; what is no Python is told as that."""
    result = scan_source("program.py", Source(text, {}), Tree(()), frozenset())

    assert not result.problem or result.problem.startswith(("is no Python 3", "cannot be parsed"))


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.sampled_from(PROGRAMS), st.floats(0, 1))
def test_scan_survives_truncated_programs(program, share: float):
    """A file cut off anywhere is scanned or told."""
    text = program.bad[: int(len(program.bad) * share)]

    result = scan_source("program.py", Source(text, {}), Tree(()), frozenset())

    assert not result.problem or result.problem.startswith(("is no Python 3", "cannot be parsed"))

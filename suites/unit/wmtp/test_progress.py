"""Progress: a bar where there is a terminal, a few plain lines where there is none."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from wmtp.progress import Report, numbers, quiet


def lines(steps: int, *, verbose: bool = False, done: int = 0) -> list[str]:
    """What a pipe gets of a piece of work."""
    stream = io.StringIO()
    report = Report(Console(file=stream), verbose=verbose)
    with report.bar("stage2", steps, done) as bar:
        for step in range(done, steps):
            bar.advance({"loss": float(step), "tokens": 3, "value_loss": None})
    return stream.getvalue().splitlines()


def test_pipe_gets_ten_lines_of_a_long_work() -> None:
    """One each tenth of the way, the last step included."""
    assert [line.split()[1] for line in lines(100)] == [f"{n}/100" for n in range(10, 101, 10)]


@pytest.mark.parametrize(("steps", "verbose"), [(7, False), (30, True)])
def test_pipe_gets_every_step_when_they_are_few_or_asked_for(steps: int, verbose: bool) -> None:
    """Fewer than ten steps, or --verbose."""
    assert len(lines(steps, verbose=verbose)) == steps


def test_line_shows_the_numbers_that_a_person_follows() -> None:
    """Loss terms with four digits; counts and nulls are left to the metrics file."""
    assert lines(1) == ["stage2 1/1  loss 0.0000"]
    assert numbers({"loss": 1.0, "value_loss": 0.25, "cross_entropy": None}) == ["loss 1.0000", "value_loss 0.2500"]


def test_lines_go_on_where_a_resumed_work_is() -> None:
    """Steps that were made before count as done."""
    assert [line.split()[1] for line in lines(10, done=8)] == ["9/10", "10/10"]


def test_terminal_gets_a_bar() -> None:
    """With count and numbers, redrawn in place, within 80 columns."""
    stream = io.StringIO()
    report = Report(Console(file=stream, force_terminal=True, width=80, color_system=None))
    with report.bar("stage2", 1000) as bar:
        bar.advance({"loss": 2.5, "cross_entropy": 2.25, "value_loss": 0.125})
        report.say("a line beside it")
    shown = stream.getvalue()
    for part in ("   1/1000", "loss 2.5000  cross_entropy 2.2500", "a line beside it"):
        assert part in shown
    assert report.progress is None


def test_items_are_tracked_one_by_one() -> None:
    """Each is handed on, and counted when it has been used."""
    stream = io.StringIO()
    assert list(Report(Console(file=stream)).track("rows", ["a", "b"])) == ["a", "b"]
    assert stream.getvalue().splitlines() == ["rows 1/2", "rows 2/2"]


def test_quiet_report_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither lines nor bars."""
    report = quiet()
    report.say("hello")
    list(report.track("rows", [1, 2]))
    assert capsys.readouterr() == ("", "")

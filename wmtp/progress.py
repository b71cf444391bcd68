"""What a person sees of a run: a bar where there is a terminal, plain lines where there is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SHOWN = ("loss", "cross_entropy", "value_loss", "heldout_cross_entropy", "heldout_value_loss")
PLAIN_LINES = 10
Item = TypeVar("Item")


class Bar:
    """The progress of one piece of long work.

    Args:
        report: who draws.
        title: what is done.
        total: how many steps it takes.
        done: how many are done already.
    """

    def __init__(self, report: Report, title: str, total: int, done: int) -> None:
        self.report, self.title, self.total, self.done = report, title, total, done
        self.task = (
            None if report.progress is None else report.progress.add_task(title, total=total, completed=done, m="")
        )

    def advance(self, metrics: Mapping[str, Any] | None = None) -> None:
        """One more step is done."""
        self.done += 1
        shown = numbers(metrics or {})
        if self.report.progress is not None and self.task is not None:
            self.report.progress.update(self.task, advance=1, m="  ".join(shown[:2]))  # more does not fit 80 columns
        elif self.report.verbose or self.done * PLAIN_LINES // self.total > (self.done - 1) * PLAIN_LINES // self.total:
            self.report.say(f"{self.title} {self.done}/{self.total}  {'  '.join(shown)}".rstrip())


class Report:
    """Where progress goes.

    Args:
        console: rich console, of standard error.
        verbose: a line for every step where there is no terminal.
    """

    def __init__(self, console: Console, *, verbose: bool = False) -> None:
        self.console, self.verbose = console, verbose
        self.progress: Progress | None = None

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
        """A bar for the work inside."""
        if not self.console.is_terminal:
            yield Bar(self, title, total, done)
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True), TextColumn("{task.fields[m]}"),
        )  # fmt: skip
        with Progress(*columns, console=self.console) as progress:
            self.progress = progress
            try:
                yield Bar(self, title, total, done)
            finally:
                self.progress = None

    def track(self, title: str, items: Sequence[Item]) -> Iterator[Item]:
        """The items, with a bar that moves on behind each."""
        with self.bar(title, len(items)) as bar:
            for item in items:
                yield item
                bar.advance()


def numbers(metrics: Mapping[str, Any]) -> list[str]:
    """The few metrics that a person follows, each a short text."""
    return [f"{name} {metrics[name]:.4f}" for name in SHOWN if isinstance(metrics.get(name), float)]


def quiet() -> Report:
    """A report that nobody sees."""
    return Report(Console(quiet=True))

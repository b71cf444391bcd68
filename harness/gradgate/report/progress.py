"""Live progress: the check that is running, as a bar on a terminal, as one line a check in a log."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from gradgate.checks.runner import Step


@contextmanager
def live(console: Console) -> Iterator[Callable[[Step], None]]:
    """Show what runs while the block does.

    Args:
        console: where the report will go; if it is no terminal, lines go to stderr, so that the report stays clean.

    Yields:
        What `check_trainer` takes as `on_start`.
    """
    if not console.is_terminal:
        yield _log
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda step: progress.update(task, description=_text(step), completed=step.number - 1, total=step.total)


def _log(step: Step) -> None:
    print(f"[{step.number}/{step.total}] {_text(step)}", file=sys.stderr, flush=True)  # noqa: T201


def _text(step: Step) -> str:
    return f"{step.rule.code} {step.rule.name}" + (f" on {step.stage}" if step.stage else "")

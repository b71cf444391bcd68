"""What `gradgate baseline` keeps of earlier checks on a class of machine: remembered, shown, written for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradgate.core.errors import GradgateError

if TYPE_CHECKING:
    from gradgate.core.verdict import Verdict
    from gradgate.gates.changes import Change
    from gradgate.subjects.contract import Stage, Subject

LAST = 10  # entries that are shown


@dataclass(frozen=True, slots=True)
class Past:
    """The history of a class of machine.

    Args:
        machine: its name.
        entries: one a check, as `gates.history.recall` gives them.
        changes: where a level became another one.
        reason: why changes could not be looked for; empty where they were.
    """

    machine: str
    entries: Sequence[dict[str, Any]]
    changes: Sequence[Change]
    reason: str

    @classmethod
    def of(cls, machine: str) -> Past:
        """Read it, and look for changes."""
        from gradgate.gates.changes import changes
        from gradgate.gates.history import recall

        entries = recall(machine)
        try:
            return cls(machine, entries, changes(entries), "")
        except GradgateError as error:
            return cls(machine, entries, (), str(error))

    def tell_changes(self) -> None:
        """One line each."""
        for change in self.changes:
            click.echo(f"change: {change}")

    def show(self) -> None:
        """The last checks, and every change."""
        for entry in self.entries[-LAST:]:
            times = {name: value for name, value in entry["numbers"].items() if name.endswith("step_ms")}
            shown = ", ".join(f"{name.removesuffix('/step_ms')} {value:.3g} ms" for name, value in times.items())
            click.echo(f"  {entry['time']}  {entry['subject']}  {shown or 'not timed'}")
        self.tell_changes()
        click.echo(self.reason or f"{len(self.changes)} changes in {len(self.entries)} entries")

    def write(self, file: Path) -> None:
        """History and changes as JSON, for the report."""
        import json

        from gradgate.report.json import require_writable, write_whole

        require_writable(file)
        tree = {
            "schema_version": 1,
            "machine": self.machine,
            "history": self.entries,
            "changes": [asdict(change) for change in self.changes],
            "not_looked_for": self.reason,
        }
        write_whole(file, json.dumps(tree, indent=1) + "\n")
        click.echo(f"written: {file}")


def remember(machine: str, subject: Subject, verdict: Verdict, commit: str, device: str) -> None:
    """Add what a check measured to the history, and tell the changes in it.

    Args:
        machine: name of its class.
        subject: what was checked; stages with nothing stored are measured here.
        verdict: of the checks.
        commit: that was measured; empty where there is none.
        device: where steps run.
    """
    from gradgate.gates import history

    numbers = {
        f"{result.stage}/{name}": value
        for result in verdict.results
        if result.stage is not None
        for name, value in result.measured.items()
    }
    bare = [stage for stage in subject.stages if f"{stage.name}/step_ms" not in numbers]
    problem = history.remember(machine, subject.name, _without_a_baseline(subject, bare, device) | numbers, commit)
    if problem:
        click.echo(problem, err=True)
    past = Past.of(machine)
    past.tell_changes()
    if past.reason:
        click.echo(past.reason, err=True)


def _without_a_baseline(subject: Subject, stages: Sequence[Stage], device: str) -> dict[str, Any]:
    """What the checks measure where something is stored: counts and the fastest step of each stage."""
    from gradgate.checks.raised import SubjectRaisedError
    from gradgate.checks.stored import counted, timed

    numbers: dict[str, Any] = {}
    for stage in stages:
        try:
            counts, fastest_s = counted(subject, stage, device), min(timed(stage, device))
        except SubjectRaisedError:  # which the checks have told
            continue
        numbers |= {f"{stage.name}/{name}": value for name, value in counts.values.items()}
        numbers[f"{stage.name}/step_ms"] = fastest_s * 1e3
    return numbers

"""`gradgate baseline`: stored counts, times and trajectories of a trainer, shown, checked and recorded anew."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gradgate.commands.exits import FAILED
from gradgate.commands.history import Past, remember
from gradgate.core.errors import GradgateError
from gradgate.core.project import Project, find_project

if TYPE_CHECKING:
    from gradgate.core.verdict import Verdict
    from gradgate.gates.baselines import Baseline, Entry
    from gradgate.subjects.contract import Stage, Subject

CODES = ("GG002", "GG702", "GG704", "GG801", "GG803", "GG903")

Command = Callable[..., None]


@click.group()
def baseline() -> None:
    """Stored baselines: what a step counts and costs, what a fit goes through; one file a class of machine.

    \b
      gradgate baseline show
      gradgate baseline check
      gradgate baseline update --reason "one more operation for the mask"

    They lie in reports/baselines, or where `[tool.gradgate] baselines` says, and are committed.
    """


def _target(command: Command) -> Command:
    for option in (
        click.option(
            "--path", type=click.Path(path_type=Path), metavar="DIR", help="Put DIR first on the import path."
        ),
        click.option("--device", default="cpu", show_default=True, help="Where steps run."),
        click.argument("target", required=False),
    ):
        command = option(command)
    return command


@baseline.command()
@click.option("--path", type=click.Path(path_type=Path), metavar="DIR", help="A folder of the project.")
@click.option("--history", is_flag=True, help="The last checks of this machine, too, and where their numbers changed.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write history and changes as JSON, which the report draws.",
)
def show(path: Path | None, history: bool, json_file: Path | None) -> None:
    """Every stored baseline, and which class this machine is of."""
    from gradgate.gates.baselines import BaselineError, read_all
    from gradgate.gates.machine import this_machine

    folder = _folder(_project(path))
    with _one_thread():
        machine = this_machine()
    click.echo(f"this machine: {machine.name}")
    files = read_all(folder)
    if not files:
        click.echo(f"no stored baselines in {folder}")
    for file, found in files.items():
        if isinstance(found, BaselineError):
            click.echo(f"\n{found}")
            continue
        differences = found.machine.differences(machine)
        click.echo(
            f"\n{file.name}: " + ("this class" if not differences else f"another class: {'; '.join(differences)}")
        )
        for key, entry in found.entries.items():
            click.echo(_entry(key, entry))
    if history or json_file:
        past = Past.of(machine.name)
        if history:
            past.show()
        if json_file:
            past.write(json_file)
    if any(isinstance(found, BaselineError) for found in files.values()):
        sys.exit(FAILED)


@baseline.command()
@_target
def check(target: str | None, path: Path | None, device: str) -> None:
    """Hold every stage of TARGET against what is stored: counters at tolerance 0, times at 25 % as a warning, whole
    fits by the spread of the stored seeds.

    What was measured goes to the history of this class of machine, also where nothing is stored yet; changes in it are
    told, and change no exit code.

    Exit codes: 0 nothing grew; 1 a counter grew or a file is unusable; 2 usage, or no baseline for this machine.
    """
    from gradgate.checks.runner import check_trainer
    from gradgate.gates.machine import this_machine
    from gradgate.report.model import build
    from gradgate.report.text import to_text

    project = _project(path)
    subject = _load(target, path, device)
    verdict = check_trainer(
        subject, select=CODES, device=device, baselines=_folder(project), command=_words(target, path)
    )
    click.echo(to_text(build(verdict)), nl=False)
    with _one_thread():
        machine = this_machine().name
    remember(machine, subject, verdict, _commit(path or Path.cwd()), device)
    _require_judged(verdict)
    if verdict.conclusion != "passed":
        sys.exit(FAILED)


@baseline.command()
@_target
@click.option("--reason", required=True, metavar="TEXT", help="Why the numbers change; it is stored with them.")
@click.option("--dry-run", is_flag=True, help="Show the difference, write nothing.")
def update(target: str | None, path: Path | None, device: str, reason: str, dry_run: bool) -> None:
    """Measure every stage of TARGET and store it for this class of machine, with the commit and the reason.

    The working tree must be clean, the baselines aside, so that the numbers belong to a commit.
    """
    from gradgate.compare.checkout import head_of
    from gradgate.gates.baselines import file_of
    from gradgate.gates.machine import this_machine
    from gradgate.report.json import require_writable

    if not reason.strip():
        raise GradgateError("--reason: expected why the numbers change, got an empty text")
    folder = _folder(_project(path))
    commit, dirty = head_of(path or Path.cwd(), folder)
    if dirty:
        shown = ", ".join(dirty[:3]) + (f" and {len(dirty) - 3} more" if len(dirty) > 3 else "")
        raise GradgateError(
            f"the working tree is not clean: {shown}; commit or stash it, so that numbers have a commit"
        )
    subject = _load(target, path, device)
    with _one_thread():
        machine = this_machine()
    file = file_of(folder, machine)
    if not dry_run:
        require_writable(file)
    fresh = dict(_measured(subject, device, commit, reason.strip()))
    _store(file, machine, fresh, dry_run=dry_run)


def _store(file: Path, machine: Any, fresh: Mapping[str, Entry], *, dry_run: bool) -> None:
    """Merge what was measured into the file, as it is by now: another run may have written meanwhile."""
    from gradgate.gates.baselines import Baseline
    from gradgate.report.json import write_whole

    with _alone(file.parent, dry_run=dry_run):
        stored = _stored(file)
        before: Mapping[str, Entry] = stored.entries if stored else {}
        for key, entry in fresh.items():
            click.echo(_difference(key, before.get(key), entry))
        if not dry_run:
            write_whole(file, Baseline(machine, {**before, **fresh}).dumps())
    click.echo(f"{'would be written' if dry_run else 'written'}: {file}")


def _stored(file: Path) -> Baseline | None:
    """The file as it is; None where there is none, or it is damaged, which is said: it is about to be replaced."""
    from gradgate.gates.baselines import BaselineError, NewerError, read

    if not file.exists():
        return None
    try:
        return read(file)
    except NewerError:
        raise
    except BaselineError as error:
        click.echo(f"replaced whole, other entries too: {error}", err=True)
        return None


def _measured(subject: Subject, device: str, commit: str, reason: str) -> Iterator[tuple[str, Entry]]:
    from datetime import UTC, datetime

    from gradgate.checks.stored import counted, timed
    from gradgate.checks.trajectories import SEEDS, recorded
    from gradgate.core.workers import usable_cores
    from gradgate.gates.baselines import Entry, key_of

    for stage in subject.stages:
        click.echo(f"measuring {stage.name}", err=True)
        with _driving(subject, stage):
            counts, times = counted(subject, stage, device), timed(stage, device)
            if stage.fit is not None:
                click.echo(f"measuring {stage.name}: {len(SEEDS)} whole fits", err=True)
            followed = recorded(subject, stage, device, usable_cores())
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        yield key_of(subject.name, stage.name, device), Entry(counts, times, commit, now, reason, followed)


@contextmanager
def _driving(subject: Subject, stage: Stage) -> Iterator[None]:
    from gradgate.checks.raised import SubjectRaisedError

    try:
        yield
    except SubjectRaisedError as error:
        raise GradgateError(f"stage {stage.name} of {subject.name} cannot be measured: {error}") from error


def _difference(key: str, before: Entry | None, after: Entry) -> str:
    """Stored against measured, one row a number that is not the same."""
    if before is None:
        return f"{_entry(key, after)}\n  new"
    names = dict.fromkeys([*before.counts.values, *after.counts.values])
    values = [(name, before.counts.values.get(name, 0), after.counts.values.get(name, 0)) for name in names]
    rows = [f"  {name}: {_number(old)} -> {_number(new)}" for name, old, new in values if old != new]
    rows += [f"  {name}: {_ends(before, name)} -> {_ends(after, name)}" for name in _moved(before, after)]
    rows.append(
        f"  cpu_time: {before.cpu_s * 1e3:.3g} -> {after.cpu_s * 1e3:.3g} ms ({after.cpu_s / before.cpu_s:.2f} times)"
    )
    return "\n".join([f"{key}  ({before.commit[:12]} -> {after.commit[:12]})", *rows])


def _moved(before: Entry, after: Entry) -> list[str]:
    """Trajectories that are new, gone or not the same."""
    names = dict.fromkeys([*before.trajectories, *after.trajectories])
    return [name for name in names if before.trajectories.get(name) != after.trajectories.get(name)]


def _ends(entry: Entry, name: str) -> str:
    """Where a trajectory begins and ends, over its seeds."""
    from statistics import fmean

    one = entry.trajectories.get(name)
    if one is None:
        return "none"
    return f"{fmean(row[0] for row in one.points):.4g} to {fmean(row[-1] for row in one.points):.4g}"


def _entry(key: str, entry: Entry) -> str:
    values = ", ".join(f"{name} {_number(value)}" for name, value in entry.counts.values.items())
    rows = [
        f"{key}  {entry.commit[:12]}, {entry.recorded}: {entry.reason}",
        f"  {values}",
        f"  cpu_time {entry.cpu_s * 1e3:.3g} ms, fastest of {len(entry.rounds)} steps",
        *(f"  {name} {_ends(entry, name)}, {len(one.points)} seeds" for name, one in entry.trajectories.items()),
    ]
    return "\n".join(rows)


def _number(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def _project(path: Path | None) -> Project:
    return find_project(path or Path.cwd())


def _folder(project: Project) -> Path:
    if project.baselines is None:
        raise GradgateError("no pyproject.toml here or above: stored baselines lie beside one, in reports/baselines")
    return project.baselines


def _load(target: str | None, path: Path | None, device: str) -> Subject:
    from gradgate.commands.verify import load

    subject: Subject = load(target, path, device)
    return subject


def _words(target: str | None, path: Path | None) -> list[str]:
    return ["gradgate", "verify", *([target] if target else []), *(["--path", str(path)] if path else [])]


def _require_judged(verdict: Verdict) -> None:
    """Nothing to hold the trainer against is no pass."""
    judged = [result for result in verdict.results if result.code in ("GG702", "GG801", "GG803")]
    reasons = [result.reason for result in judged if result.status == "not_applicable"]
    if judged and len(reasons) == len(judged):
        raise GradgateError(reasons[0])


def _commit(here: Path) -> str:
    """The commit that was measured; empty outside a repository, and where the tree has changes."""
    from gradgate.compare.checkout import head_of

    try:
        commit, dirty = head_of(here, _folder(_project(here)))
    except GradgateError:
        return ""
    return "" if dirty else commit


@contextmanager
def _one_thread() -> Iterator[None]:
    """Threads as stages are measured with: they belong to the class of the machine."""
    from gradgate.checks.isolation import isolated

    with isolated(0, "baseline"):
        yield


@contextmanager
def _alone(folder: Path, *, dry_run: bool) -> Iterator[None]:
    """Hold the folder, so that two updates at once do not lose one another's entries; a kill lets go of it."""
    if dry_run:
        yield
        return
    import fcntl
    import os

    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

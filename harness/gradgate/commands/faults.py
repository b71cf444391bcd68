"""`gradgate faults`: plant faults in a trainer's source and see which checks notice."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gradgate.commands.exits import INTERRUPTED, USAGE
from gradgate.core.errors import GradgateError
from gradgate.core.options import MAX_SEED, SEED
from gradgate.core.project import find_project

if TYPE_CHECKING:
    from gradgate.faults.catalogue import Fault
    from gradgate.faults.planting import Outcome

_PATH = click.option(
    "--path",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="The folder on the import path that holds the source; default: where the nearest pyproject.toml is.",
)
_FOLDER = click.option(
    "--faults",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The catalogue, a folder or one file of it; default: [tool.gradgate] faults of pyproject.toml.",
)
_SELECT = click.option(
    "--select", multiple=True, metavar="IDS", help="Only these: ids (LW-01) or classes (LW), separated by commas."
)


@click.group()
def faults() -> None:
    """Plant known faults in a trainer's source and see which checks notice: the harness's own power, measured.

    A fault is an edit of the source. It is made in a copy, in a process of its own; the source itself is only read.

    \b
      gradgate faults list
      gradgate faults run
      gradgate faults run --select LW,GF-07 --json faults.json
      gradgate faults run --changed main
      gradgate faults generate mytrainer/loss.py --output more.yaml
      gradgate faults run --faults more.yaml
    """


@faults.command("list")
@_PATH
@_FOLDER
@_SELECT
def list_faults(path: Path | None, folder: Path | None, select: tuple[str, ...]) -> None:
    """List the faults of the catalogue, and whether each still fits the source. Exit code 2 where one does not."""
    from gradgate.faults.catalogue import plant
    from gradgate.faults.edit import EditError

    root, chosen = _chosen(path, folder, select)
    stale = []
    for fault in chosen:
        try:
            place = ", ".join(f"{file}:{first}" for file, first, _ in plant(fault, root).lines)
        except EditError as error:
            stale.append(str(error))
            place = "does not fit"
        codes = ",".join(fault.codes) or ("clean" if fault.clean else "any")
        click.echo(f"{fault.id:<7} {codes:<18} {place:<28} {fault.what}")
    click.echo(f"{len(chosen)} entries, {sum(fault.clean for fault in chosen)} of them clean edits")
    for line in stale:
        click.echo(f"Error: {line}", err=True)
    if stale:
        sys.exit(USAGE)


@faults.command("run")
@click.argument("target", required=False)
@_PATH
@_FOLDER
@_SELECT
@click.option(
    "--changed", metavar="REF", help="Only faults in functions, or for checks, that differ from this git revision."
)
@click.option("-j", "--jobs", type=click.IntRange(1), help="Processes at a time; default: the cores.")
@click.option("--timeout", type=click.FloatRange(1.0), default=480.0, show_default=True, help="Seconds for each fault.")
@click.option(
    "--among",
    type=click.IntRange(0, 20),
    default=0,
    show_default=True,
    help="Innocent edits beside each fault, as in a pull request; where the check names no line, it is "
    "looked for among all places that changed. 0: the fault stands alone.",
)
@click.option(
    "--locate",
    type=click.FloatRange(0.0),
    default=0.0,
    show_default=True,
    help="Seconds to look for such a line without knowing what changed, by trial repairs; 0: do not look.",
)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=SEED.default, show_default=True, help=SEED.help)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the results."
)
def run_faults(
    target: str | None,
    path: Path | None,
    folder: Path | None,
    select: tuple[str, ...],
    changed: str | None,
    jobs: int | None,
    timeout: float,
    among: int,
    locate: float,
    seed: int,
    json_file: Path | None,
) -> None:
    """Plant each fault, run the checks that should notice it, then the rest, and print what noticed what.

    TARGET is as for `gradgate verify`. A fault that nothing notices though its witness sees an effect has survived; one
    without effect is equivalent and does not count. Clean edits must raise nothing.

    Exit code 0 where every fault was noticed and no clean edit raised an alarm, else 1; 2 where a fault does not fit
    the source any more, or the unedited source fails a check that is to notice one.
    """
    from gradgate.faults.planting import Campaign
    from gradgate.report.json import require_writable, write_whole
    from gradgate.report.kills import dumps, line, summary

    if json_file:
        require_writable(json_file)
    root, chosen = _chosen(path, folder, select)
    if changed is not None:
        from gradgate.faults.changed import affected

        chosen = affected(chosen, root, changed)
        if not chosen:
            click.echo(f"nothing that differs from {changed} bears on a fault")
            return
    import os

    campaign = Campaign(_target(target, root), root, jobs or os.cpu_count() or 1, timeout, seed, locate, among)
    done: list[Outcome] = []

    def show(outcome: Outcome) -> None:
        done.append(outcome)
        click.echo(f"[{len(done)}/{len(chosen)}] {line(outcome)}")

    click.echo(f"driving the unedited source, then {len(chosen)} edits, {campaign.jobs} at a time", err=True)
    try:
        outcomes = campaign.run(chosen, show)
    except KeyboardInterrupt:
        click.echo(f"interrupted: {len(done)} of {len(chosen)} are known", err=True)
        outcomes = done
    click.echo(summary(outcomes), nl=False)
    if json_file:
        write_whole(json_file, dumps(outcomes))
        click.echo(f"written: {json_file}")
    if len(outcomes) < len(chosen):
        sys.exit(INTERRUPTED)
    sys.exit(0 if all(outcome.status in ("killed", "equivalent", "quiet") for outcome in outcomes) else 1)


@faults.command("generate")
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE...")
@_PATH
@click.option(
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the faults there, as a catalogue's file (YAML).",
)
@click.option("--count", type=click.IntRange(1), default=50, show_default=True, help="Faults at most.")
@click.option(
    "--seed", type=click.IntRange(0, MAX_SEED), default=SEED.default, show_default=True, help="Of the choice."
)
def generate_faults(sources: tuple[Path, ...], path: Path | None, output: Path, count: int, seed: int) -> None:
    """Make faults from a trainer's source: one place of one statement changed at a time.

    SOURCE is a file, or a folder with *.py, under the folder on the import path. What is changed is what training code
    suffers: a mask or a detach dropped, an axis swapped, a sum for a mean, a sign turned, a statement left out, another
    dtype, one off. The same seed makes the same choice.

    \b
      gradgate faults generate mytrainer/loss.py mytrainer/steps --output more.yaml --count 20
      gradgate faults list --faults more.yaml
      gradgate faults run mytrainer.adapter:subject --faults more.yaml

    Not every such change is a fault: look at what survives. A survivor without effect on the witness, four steps of
    each stage, is listed as equivalent.
    """
    from gradgate.faults.generate import dumps, mutants
    from gradgate.report.json import require_writable, write_whole

    require_writable(output)
    root = _root(path)
    made = mutants(sources, root, count, seed)
    write_whole(output, dumps(made))
    operators = len({fault.source for fault in made})
    click.echo(f"written: {output}: {len(made)} faults by {operators} operators")
    click.echo(f"run them with: gradgate faults run --faults {output}")


def _root(path: Path | None) -> Path:
    project = find_project(path or Path.cwd())
    return (path or (project.file.parent if project.file else Path.cwd())).resolve()


def _chosen(path: Path | None, folder: Path | None, select: Iterable[str]) -> tuple[Path, list[Fault]]:
    from gradgate.faults import catalogue

    project = find_project(path or Path.cwd())
    root = _root(path)
    if folder is None:
        if project.faults is None or project.file is None:
            raise GradgateError("no catalogue of faults: give --faults DIR, or set `faults` under [tool.gradgate]")
        folder = project.file.parent / project.faults
    words = [word.strip() for part in select for word in part.split(",") if word.strip()]
    return root, catalogue.select(catalogue.read(folder), words)


def _target(target: str | None, root: Path) -> str:
    from gradgate.subjects.loading import target_of

    return target or target_of(root)

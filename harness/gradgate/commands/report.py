"""`gradgate report`: the HTML report, from the JSON that the other commands write."""

from __future__ import annotations

import os
from pathlib import Path

import click

from gradgate.core.errors import GradgateError

_OUTPUT = click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("reports/report.html"),
    show_default=True,
    metavar="FILE",
    help="Where to write it; a file that is no report of ours is left alone.",
)


@click.group()
def report() -> None:
    """One HTML file that says what was found: self-contained, readable without a network or a script.

    \b
      gradgate verify --json reports/verify.json
      gradgate report build reports
      gradgate report compare before.json after.json -o reports/changes.html
    """


@report.command("build")
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path))
@_OUTPUT
@click.option(
    "--coverage-html",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The folder of `coverage html`, to be linked; by default the folder `coverage` beside the report.",
)
@click.option(
    "--flame-graph",
    "flame_graphs",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A page of `memray flamegraph`, to be linked; by default those in `memory` beside the report; repeatable.",
)
def build(inputs: tuple[Path, ...], output: Path, coverage_html: Path | None, flame_graphs: tuple[Path, ...]) -> None:
    """Build the report from INPUTS: result files, or folders that hold them; by default the folder reports.

    What a file is shows in the file: results of `gradgate verify`, `gradgate compare`, `gradgate faults run`,
    `gradgate baseline show --json` and `gradgate scan --format json`, and what `coverage json` and diff-cover write.
    A section whose input is missing says so.
    """
    from gradgate.report.inputs import read_all
    from gradgate.report.page import render

    _require_ours(output)
    found = read_all(inputs or (Path("reports"),))
    _write(output, render(found, _link(coverage_html, output), _flame_graphs(flame_graphs, output)))


@report.command("compare")
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@_OUTPUT
def compare(before: Path, after: Path, output: Path) -> None:
    """Put two results of `gradgate verify --json` side by side: statuses, findings and numbers that changed."""
    from gradgate.report.differences import differences
    from gradgate.report.inputs import read_run
    from gradgate.report.page import render_differences

    _require_ours(output)
    _write(output, render_differences(differences(read_run(before), read_run(after))))


@report.command("serve")
@click.argument("page", type=click.Path(path_type=Path), default=Path("reports/report.html"))
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
def serve(page: Path, port: int) -> None:
    """Serve PAGE to a browser on this machine until Ctrl-C; by default reports/report.html."""
    from gradgate.report.serve import server

    with server(page, port) as running:
        click.echo(f"{page}: http://127.0.0.1:{running.server_port}/ until Ctrl-C")
        running.serve_forever()


def _flame_graphs(given: tuple[Path, ...], output: Path) -> list[str]:
    """Links to memray's pages: those given, else those that `make speed` wrote beside the report."""
    for page in given:
        if not page.is_file():
            raise GradgateError(f"--flame-graph {page}: no such file; write one with `memray flamegraph`")
    return [_relative(page, output) for page in given or sorted((output.parent / "memory").glob("*.html"))]


def _link(folder: Path | None, output: Path) -> str:
    if folder is None:
        beside = output.parent / "coverage" / "index.html"
        return _relative(beside, output) if beside.is_file() else ""
    if not (folder / "index.html").is_file():
        raise GradgateError(f"--coverage-html {folder}: no index.html in it; write it with `coverage html`")
    return _relative(folder / "index.html", output)


def _relative(page: Path, output: Path) -> str:
    return Path(os.path.relpath(page, output.parent)).as_posix()


def _require_ours(output: Path) -> None:
    """Only a report of ours is overwritten."""
    from gradgate.report.json import require_writable
    from gradgate.report.page import OURS

    require_writable(output)
    if output.is_file() and output.stat().st_size and OURS.encode() not in output.read_bytes()[:2000]:
        raise GradgateError(f"{output} is no report of gradgate's: not overwritten; choose another --output")


def _write(output: Path, text: str) -> None:
    from gradgate.report.json import write_whole

    write_whole(output, text)
    click.echo(f"written: {output} ({len(text.encode()) / 1e6:.2f} MB)")

"""`gradgate blame`: an unchanged program under the recorder."""

from __future__ import annotations

import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click

from gradgate.core import interrupt

if TYPE_CHECKING:
    from gradgate.core.finding import Finding


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-m", "is_module", is_flag=True, help="PROGRAM is a module, as in `python -m MODULE`.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the findings as JSON.",
)
@click.option("--first", is_flag=True, help="End the program at the first finding that is no note.")
@click.option("--pdb", "in_debugger", is_flag=True, help="As --first, and open the debugger there.")
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def blame(
    program: str,
    arguments: tuple[str, ...],
    is_module: bool,
    json_file: Path | None,
    first: bool,
    in_debugger: bool,
) -> None:
    """Run an unchanged program under the recorder and name the lines that broke its gradients.

    PROGRAM is a script, or with -m a module; what follows it are its own arguments. It keeps its output; the findings
    come at the end on stderr. Exit code 1 with findings (errors or warnings), else the program's own, 2 where it
    cannot be started.

    \b
      gradgate blame train.py --epochs 1
      gradgate blame --json findings.json -m my_project.train
      gradgate blame --pdb train.py
    """
    from gradgate.report.json import dumps_findings, require_writable, write_whole
    from gradgate.watch.program import debug, run_module, run_script

    if json_file:
        require_writable(json_file)
    interrupt.is_raised()  # the program's own to handle

    def stop(finding: Finding, trace: TracebackType | None) -> None:
        if in_debugger:
            click.echo("\n".join(finding.lines()), err=True)
            debug(finding, trace)

    ran = (run_module if is_module else run_script)(program, arguments, stop if first or in_debugger else None)
    if ran.is_child:
        sys.exit(ran.exit)
    code = 1 if any(finding.severity != "note" for finding in ran.findings) else ran.exit
    for finding in ran.findings:
        click.echo("\n".join(finding.lines()), err=True)
    if json_file:
        write_whole(json_file, dumps_findings(ran.findings, code))
    sys.exit(code)

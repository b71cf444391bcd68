"""The command line: the group, its help, and what an error of use looks like. Torch is never imported for --help."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from gradgate import __version__
from gradgate.commands.exits import BROKEN, INTERRUPTED, USAGE
from gradgate.core import interrupt
from gradgate.core.errors import GradgateError, nearest
from gradgate.core.origin import in_one_line

# Where each command lives in `gradgate.commands`. Only the one that is asked for is imported: all take 0.25 s.
COMMANDS = {
    "verify": "verify:verify",
    "init": "init:init",
    "blame": "blame:blame",
    "scan": "scan:scan_command",
    "compare": "compare:compare",
    "baseline": "baseline:baseline",
    "faults": "faults:faults",
    "report": "report:report",
    "rule": "rule:show_rule",
}
HELP = """Verify PyTorch training code: drive a real trainer and say what is wrong with it.

\b
  gradgate verify                              the registered or configured trainer
  gradgate verify my_project.adapter:subject   any other one
  gradgate verify --select GG4 --json out.json one family; results for a machine
  gradgate init my_project.train:Trainer       write a first adapter for a trainer, to fill in
  gradgate blame train.py --epochs 1           run a program, name the line that broke a gradient
  gradgate scan src --diff main                find gradient faults in the source, without running it
  gradgate compare bench:make --base-ref main  is this checkout slower or heavier than main?
  gradgate baseline check                      has a counter grown since the stored baseline?
  gradgate faults run                          plant known faults, see which checks notice
  gradgate report build reports                one HTML file from the JSON results
  gradgate rule GG401                          what a code means and how to fix it
  gradgate rule --list                         every rule, and which are built
"""
EPILOG = """Exit codes of verify: 0 all hold, 1 something failed, 2 usage, or TARGET does not import or build,
3 inconclusive, 4 the harness broke, 130 interrupted.

\b
Completion in bash: eval "$(_GRADGATE_COMPLETE=bash_source gradgate)"
"""


class Commands(click.Group):
    """Commands whose errors end in one line and the exit code that the documentation promises."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's own signature
        """All names, without an import."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None: there is no such one."""
        module, _, attribute = COMMANDS.get(cmd_name, "").partition(":")
        if not module:
            return None
        command: click.Command = getattr(importlib.import_module(f"gradgate.commands.{module}"), attribute)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; no error of use ends in a traceback."""
        try:
            return super().invoke(ctx)
        except GradgateError as error:
            _stop(ctx, f"Error: {error}", USAGE)
        except KeyboardInterrupt:
            _stop(ctx, "interrupted", INTERRUPTED)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            _stop(ctx, f"gradgate itself broke, which is a bug in it: {_with_place(error)}", BROKEN)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find a command; an unknown one names the nearest."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            ctx.fail(f"no command {args[0]!r}, only {', '.join(known)}{nearest(args[0], known)}")
        return super().resolve_command(ctx, args)


@click.group(cls=Commands, help=HELP, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradgate", message="%(prog)s %(version)s")
def cli() -> None:
    """The group; its help is HELP."""


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to break
    cli(prog_name="gradgate")


def _with_place(error: Exception) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return f"{in_one_line(error)} [{frames[-1].filename}:{frames[-1].lineno}]"


def _stop(ctx: click.Context, message: str, code: int) -> None:
    click.echo(message, err=True)
    ctx.exit(code)


if __name__ == "__main__":
    interrupt.ends_at_once()
    main()

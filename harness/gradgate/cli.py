"""The command line. Only it decides exit codes; torch is imported when a command needs it, never for --help."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from gradgate import __version__
from gradgate.checks import catalogue
from gradgate.checks.rules import RULES
from gradgate.core.errors import GradgateError, nearest
from gradgate.core.options import DEVICE, MAX_SEED, PROFILE, SEED
from gradgate.core.origin import in_one_line
from gradgate.core.project import find_project

if TYPE_CHECKING:
    from gradgate.core.verdict import Verdict
    from gradgate.report.model import Report

USAGE, BROKEN, INTERRUPTED = 2, 4, 130
EXIT_CODES = {"passed": 0, "failed": 1, "inconclusive": 3, "error": BROKEN}

HELP = """Verify PyTorch training code: drive a real trainer and say what is wrong with it.

\b
  gradgate verify                              the registered or configured trainer
  gradgate verify my_project.adapter:subject   any other one
  gradgate verify --select GG4 --json out.json one family; results for a machine
  gradgate blame train.py --epochs 1           run a program, name the line that broke a gradient
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


class Selector(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases
    """Codes, prefixes of codes or names, separated by commas."""

    name = "codes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:  # noqa: ARG002
        """Split at the commas and refuse what fits no rule."""
        words = value if isinstance(value, list) else [word.strip() for word in value.split(",") if word.strip()]
        catalogue.select(words)
        return words

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:  # noqa: ARG002
        """Codes with their names."""
        return [CompletionItem(rule.code, help=rule.name) for rule in RULES if rule.code.startswith(incomplete.upper())]


@click.group(cls=Commands, help=HELP, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gradgate", message="%(prog)s %(version)s")
def cli() -> None:
    """The group; its help is HELP."""


@cli.command()
@click.argument("target", required=False)
@click.option("--select", multiple=True, type=Selector(), help="Only these: codes, prefixes (GG4) or names.")
@click.option("--ignore", multiple=True, type=Selector(), help="All but these, in the same words.")
@click.option(
    "--profile", type=click.Choice(PROFILE.choices), default=PROFILE.default, show_default=True, help=PROFILE.help
)
@click.option("--device", default=DEVICE.default, show_default=True, help=DEVICE.help)
@click.option("--seed", type=click.IntRange(0, MAX_SEED), default=SEED.default, show_default=True, help=SEED.help)
@click.option("--stage", "stages", multiple=True, metavar="NAME", help="Only this stage of the subject; repeatable.")
@click.option(
    "--path",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Put DIR first on the import path: a trainer that is not installed.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the results as JSON.",
)
@click.option(
    "--report",
    "report_dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write DIR/verify.json and DIR/verify.txt.",
)
@click.option("-x", "--exit-first", is_flag=True, help="Stop at the first check that fails or breaks.")
def verify(
    target: str | None,
    select: Iterable[list[str]],
    ignore: Iterable[list[str]],
    stages: tuple[str, ...],
    path: Path | None,
    json_file: Path | None,
    report_dir: Path | None,
    **options: Any,
) -> None:
    """Run the catalogue on a trainer and print a verdict.

    TARGET is `package.module:factory`, a function that returns a gradgate.Subject, or the name of a registered subject.
    Without it: `[tool.gradgate] target` of the nearest pyproject.toml, else the registered subject.

    \b
      gradgate verify
      gradgate verify my_project.adapter:subject --path ~/my_project
      gradgate verify --select GG401,GG402 --select plain-step-fails
      gradgate verify --profile nightly --device cuda --json results.json

    Checks known to fail are named with their reason under [tool.gradgate.expected] in pyproject.toml.
    """
    from rich.console import Console

    from gradgate.report.progress import live

    _check_outputs(json_file, report_dir)
    project = find_project(path or Path.cwd())
    subject = _load(target, path, options["device"])
    from gradgate.checks.runner import check_trainer

    console = Console(highlight=False, emoji=False, markup=False)
    with live(console) as on_start:
        verdict = check_trainer(
            subject,
            select=[word for words in select for word in words],
            ignore=[word for words in ignore for word in words],
            stages=stages or None,
            expected=project.expected,
            command=_command(target, path),
            on_start=on_start,
            **options,
        )
    _show(console, verdict, json_file, report_dir)
    sys.exit(INTERRUPTED if verdict.interrupted else EXIT_CODES[verdict.conclusion])


@cli.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("-m", "is_module", is_flag=True, help="PROGRAM is a module, as in `python -m MODULE`.")
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the findings as JSON.",
)
@click.argument("program")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def blame(program: str, arguments: tuple[str, ...], is_module: bool, json_file: Path | None) -> None:
    """Run an unchanged program under the recorder and name the lines that broke its gradients.

    PROGRAM is a script, or with -m a module; what follows it are its own arguments. It keeps its output; the findings
    come at the end on stderr. Exit code 1 with findings (errors or warnings), else the program's own, 2 where it
    cannot be started.

    \b
      gradgate blame train.py --epochs 1
      gradgate blame --json findings.json -m my_project.train
    """
    from gradgate.report.json import dumps_findings, require_writable, write_whole
    from gradgate.watch.program import run_module, run_script

    if json_file:
        require_writable(json_file)
    ran = (run_module if is_module else run_script)(program, arguments)
    if ran.is_child:
        sys.exit(ran.exit)
    code = 1 if any(finding.severity != "note" for finding in ran.findings) else ran.exit
    for finding in ran.findings:
        click.echo("\n".join(finding.lines()), err=True)
    if json_file:
        write_whole(json_file, dumps_findings(ran.findings, code))
    sys.exit(code)


@cli.command("rule")
@click.argument("code", required=False)
@click.option("--list", "all_rules", is_flag=True, help="List every rule instead.")
def show_rule(code: str | None, all_rules: bool) -> None:
    """Print the page of a rule: what it detects, how it decides, how to fix it. CODE is a code or a name.

    \b
      gradgate rule GG401
      gradgate rule weight-sum
    """
    if all_rules:
        click.echo("\n".join(_listing()))
        return
    if code is None:
        raise click.UsageError("give a CODE such as GG401, or --list")
    page = catalogue.page(catalogue.rule(code))
    if not sys.stdout.isatty():
        click.echo(page, nl=False)
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(page))


def main() -> None:
    """The entry point."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without UTF-8 is no reason to break
    cli(prog_name="gradgate")


def _listing() -> Iterable[str]:
    for title, rules in catalogue.by_family(RULES).items():
        yield f"\n{title}"
        for rule in rules:
            yield f"  {rule.code}  {rule.name:<36}{'' if catalogue.is_built(rule) else 'not built yet'}".rstrip()


def _load(target: str | None, path: Path | None, device: str) -> Any:
    from gradgate.subjects.loading import load_target

    subject = load_target(target, path)
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise GradgateError(f"--device {device!r} is no device; expected cpu, cuda or cuda:N") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise GradgateError(f"--device {device}: this machine has no CUDA device that torch can use")
    return subject


def _command(target: str | None, path: Path | None) -> list[str]:
    words = ["gradgate", "verify"]
    words += [target] if target else []
    return words + (["--path", str(path)] if path else [])


def _outputs(json_file: Path | None, report_dir: Path | None) -> list[Path]:
    files = [json_file] if json_file else []
    return files + ([report_dir / "verify.json", report_dir / "verify.txt"] if report_dir else [])


def _check_outputs(json_file: Path | None, report_dir: Path | None) -> None:
    """Find out now, not after minutes of checks, that a result cannot be written."""
    from gradgate.report.json import require_writable

    for file in _outputs(json_file, report_dir):
        require_writable(file)


def _show(console: Any, verdict: Verdict, json_file: Path | None, report_dir: Path | None) -> None:
    from gradgate.report.json import dumps, write_whole
    from gradgate.report.model import build
    from gradgate.report.text import render, to_text

    report: Report = build(verdict)
    if console.is_terminal:
        console.print(render(report))
    else:
        click.echo(to_text(report), nl=False)
    for file in _outputs(json_file, report_dir):
        write_whole(file, to_text(report) if file.suffix == ".txt" and file != json_file else dumps(verdict))
        console.print(f"written: {file}", soft_wrap=True)


def _with_place(error: Exception) -> str:
    import traceback

    frames = traceback.extract_tb(error.__traceback__)
    return f"{in_one_line(error)} [{frames[-1].filename}:{frames[-1].lineno}]"


def _stop(ctx: click.Context, message: str, code: int) -> None:
    click.echo(message, err=True)
    ctx.exit(code)


if __name__ == "__main__":
    main()

"""`gradgate verify`: the whole catalogue on a trainer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from gradgate import __version__
from gradgate.checks import catalogue
from gradgate.checks.rules import RULES
from gradgate.commands.base import against
from gradgate.commands.exits import EXIT_CODES, INTERRUPTED
from gradgate.commands.lines import LineSearch
from gradgate.core import interrupt
from gradgate.core.errors import GradgateError
from gradgate.core.options import DEVICE, MAX_SEED, PROFILE, SEED
from gradgate.core.project import find_project
from gradgate.core.reads import listen
from gradgate.core.scratch import scratch
from gradgate.core.workers import usable_cores

if TYPE_CHECKING:
    from gradgate.core.finding import Finding
    from gradgate.core.verdict import Verdict
    from gradgate.report.model import Report

FORMS = ("verify.json", "verify.txt", "verify.md", "verify.xml", "verify.sarif", "badge.json")
ANNOTATIONS = 10  # of one kind in a step; GitHub drops the rest in silence


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


@click.command()
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
    "--base-ref",
    metavar="REF",
    help="Compare speed and memory with this branch, tag or commit: GG701, GG702, GG801, GG803. Where another check "
    "fails and names no line, look for it among those that differ from it; without REF, from HEAD and from where the "
    "branch began.",
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
    help="Write DIR/verify.json, .txt, .md (for a pull request), .xml (JUnit), .sarif and DIR/badge.json.",
)
@click.option(
    "--github",
    is_flag=True,
    help="Annotate the ten worst lines on GitHub, and write the whole to its step summary.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.0, min_open=True),
    metavar="SECONDS",
    help="What hangs is stopped after this and its line named; default: 180, 600 or 3600 by the profile.",
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=0),
    metavar="N",
    help="Processes that run checks side by side; default: one a core, on cpu. 0: none, for a debugger, "
    "and to see what the trainer prints, which is dropped in them.",
)
@click.option(
    "--locate",
    type=click.FloatRange(min=0.0),
    default=0.0,
    metavar="SECONDS",
    help="Where a check fails and names no line: change the source in one place at a time, in memory, for so many "
    "seconds a check; the line whose change makes it pass is named.",
)
@click.option(
    "--reuse",
    is_flag=True,
    help="Do not run checks again that passed here before, where none of the files that they read, no package and no "
    "setting has changed since. Kept in $GRADGATE_CACHE, else in the user's cache folder.",
)
@click.option("-x", "--exit-first", is_flag=True, help="Stop at the first check that fails or breaks.")
def verify(
    target: str | None,
    select: Iterable[list[str]],
    ignore: Iterable[list[str]],
    stages: tuple[str, ...],
    path: Path | None,
    base_ref: str | None,
    json_file: Path | None,
    report_dir: Path | None,
    jobs: int | None,
    github: bool,
    locate: float,
    reuse: bool,
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
      gradgate verify --base-ref origin/main
      gradgate verify --select GG401 --locate 20

    Checks known to fail are named with their reason under [tool.gradgate.expected] in pyproject.toml.
    """
    from rich.console import Console

    from gradgate.report.progress import live
    from gradgate.subjects.loading import spelled_out, target_of

    _check_outputs(json_file, report_dir)
    reads = listen() if reuse else None
    project = find_project(path or Path.cwd())
    subject = load(target, path, options["device"])
    from gradgate.checks.reuse import Reuse
    from gradgate.checks.runner import check_trainer
    from gradgate.gates.self_checks import log_folder

    console = Console(highlight=False, emoji=False, markup=False)
    here = path or Path.cwd()
    spelled = spelled_out(target or target_of(here)) if base_ref else ""
    chosen = [word for words in select for word in words], [word for words in ignore for word in words]
    processes = _jobs(jobs, options["device"])
    # From here on there are results to tell, and things to remove.
    with interrupt.unwinding(), against(base_ref, spelled, here, project.accept) as compare, scratch():
        with live(console) as on_start:
            verdict = check_trainer(
                subject,
                select=chosen[0],
                ignore=chosen[1],
                stages=stages or None,
                expected=project.expected,
                command=_command(target, path, base_ref),
                baselines=project.baselines,
                compare=compare,
                jobs=processes,
                reuse=Reuse(log_folder() / "results", reads, spelled_out(target or target_of(here))) if reads else None,
                on_start=on_start,
                **options,
            )
        search = LineSearch(subject, processes, options["seed"], project.baselines)
        verdict = search.by_reverts(verdict, base_ref, locate)
        verdict = search.by_repairs(verdict, locate)
        verdict = _with_source(verdict, subject, chosen, stages, options)
    verdict = replace(verdict, environment={**verdict.environment, "root": str(_root())})
    _show(console, verdict, json_file, report_dir)
    if github:
        _annotate(verdict)
    sys.exit(INTERRUPTED if verdict.interrupted else EXIT_CODES[verdict.conclusion])


def _with_source(
    verdict: Verdict,
    subject: Any,
    chosen: tuple[list[str], list[str]],
    stages: tuple[str, ...],
    options: dict[str, Any],
) -> Verdict:
    """The verdict with the scanner's findings in the subject's source, each marked by what a recorded run shows."""
    from gradgate.checks.crosscheck import cross_check
    from gradgate.checks.runner import with_stages
    from gradgate.checks.time_limit import LIMITS, TimeOverError, time_limit
    from gradgate.subjects.contract import Context

    if verdict.interrupted or verdict.not_run:
        return verdict
    codes = {rule.code for rule in catalogue.select(*chosen) if "scan" in rule.looks and len(rule.looks) > 1}
    context = Context(seed=options["seed"], profile=options["profile"], device=options["device"])
    try:
        with time_limit(options["timeout"] or LIMITS[options["profile"]]):
            return replace(verdict, source=cross_check(with_stages(subject, stages), context, codes))
    except (TimeOverError, KeyboardInterrupt) as error:
        click.echo(f"the source was not cross-checked: {str(error) or 'interrupted'}", err=True)
        return verdict


def load(target: str | None, path: Path | None, device: str) -> Any:
    """The subject that a command is to drive.

    Raises:
        GradgateError: it does not import or build, or there is no such device.
    """
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


def _jobs(given: int | None, device: str) -> int:
    """How many processes run checks.

    Raises:
        GradgateError: some are asked for where none can be.
    """
    import torch

    able = 0 if torch.device(device).type != "cpu" or torch.cuda.is_initialized() else usable_cores()
    if given and not able:
        raise GradgateError(f"--jobs {given}: on {device}, on this system, checks run in one process: --jobs 0")
    return able if given is None else given


def _command(target: str | None, path: Path | None, base_ref: str | None) -> list[str]:
    words = ["gradgate", "verify"]
    words += [target] if target else []
    words += ["--path", str(path)] if path else []
    return words + (["--base-ref", base_ref] if base_ref else [])


def _outputs(json_file: Path | None, report_dir: Path | None) -> list[Path]:
    return ([json_file] if json_file else []) + ([report_dir / name for name in FORMS] if report_dir else [])


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
        write_whole(file, dumps(verdict) if file == json_file else _form(file.name, verdict))
        console.print(f"written: {file}", soft_wrap=True)


def _form(name: str, verdict: Verdict) -> str:
    """One of the files that --report writes."""
    from gradgate.report import findings_sarif, json, junit, markdown, text
    from gradgate.report.model import build, ranked
    from gradgate.scan.baseline import fingerprints

    report = build(verdict)
    if name == "verify.sarif":
        findings, root = ranked(report), _root()
        return findings_sarif.to_sarif(findings, fingerprints(findings, root), {}, __version__, root) + "\n"
    return {
        "verify.json": lambda: json.dumps(verdict),
        "verify.txt": lambda: text.to_text(report),
        "verify.md": lambda: markdown.to_markdown(report, ranked(report), _root()),
        "verify.xml": lambda: junit.to_junit(report),
        "badge.json": lambda: markdown.to_badge(report),
    }[name]()


def _annotate(verdict: Verdict) -> None:
    """The ten worst as annotations, which is what GitHub shows of one kind in a step; all of them in the summary."""
    from gradgate.report.findings_github import to_github
    from gradgate.report.model import build, ranked

    undecided = verdict.conclusion == "inconclusive"
    firsts: dict[Any, Finding] = {}  # a check may find much at one line: there the first of it is enough
    for finding in ranked(build(verdict)):
        firsts.setdefault((finding.code, finding.culprit or finding.message), finding)
    worst = list(firsts.values())[: ANNOTATIONS - undecided]
    click.echo(to_github(worst, {}, _root()), nl=False)
    if undecided:
        click.echo("::warning title=gradgate::inconclusive: nothing failed, but not all is decided; see the summary")
    file = os.environ.get("GITHUB_STEP_SUMMARY")
    if file:
        try:
            with Path(file).open("a", encoding="utf-8") as stream:
                stream.write(_form("verify.md", verdict))
        except OSError as error:
            raise GradgateError(f"GITHUB_STEP_SUMMARY {file}: cannot be written: {error.strerror}") from error


def _root() -> Path:
    """Files are named relative to the project."""
    file = find_project(Path.cwd()).file
    return (file.parent if file else Path.cwd()).resolve()

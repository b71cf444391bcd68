"""`gradgate scan`: the rules that can be seen in the source."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import click

from gradgate import __version__
from gradgate.checks.catalogue import select as select_rules
from gradgate.checks.rules import SUPPRESSIBLE
from gradgate.commands.exits import FAILED, HOLDS
from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding
from gradgate.core.project import Project, find_project
from gradgate.report import findings_github, findings_json, findings_sarif, findings_text
from gradgate.scan import baseline as baselines
from gradgate.scan.cache import Cache, default_folder
from gradgate.scan.changes import changed_lines, touches
from gradgate.scan.fixes import apply_fixes
from gradgate.scan.scanner import ScanResult, scan
from gradgate.scan.sources import PARTLY, UnreadableError, decode, read_bytes

FORMATS = ("text", "json", "sarif", "github")


@click.command("scan")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--format", "form", type=click.Choice(FORMATS), default=None, help="How to show findings.  [default: text]"
)
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write them to a file instead.")
@click.option(
    "--select", multiple=True, metavar="CODES", help="Only these: codes (GG101), prefixes (GG1) or names, by commas."
)
@click.option("--ignore", multiple=True, metavar="CODES", help="All but these.")
@click.option("--diff", metavar="REF", help="Only findings on lines that differ from this commit.")
@click.option(
    "--baseline", type=click.Path(path_type=Path, dir_okay=False), help="Leave out the findings that this file lists."
)
@click.option("--write-baseline", is_flag=True, help="Write all findings to the baseline, and exit with 0.")
@click.option("--fix", is_flag=True, help="Show the mechanical fixes as a diff; nothing is written.")
@click.option("--write", is_flag=True, help="With --fix: write them.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes.  [default: one a core]")
@click.option("--no-cache", is_flag=True, help="Neither read nor keep results of earlier runs.")
def scan_command(
    paths: tuple[Path, ...], form: str | None, output: Path | None, select: tuple[str, ...], ignore: tuple[str,
    ...], diff: str | None,
    baseline: Path | None, write_baseline: bool, fix: bool, write: bool, jobs: int | None, no_cache: bool,
) -> None:  # fmt: skip
    """Find gradient faults in the source of PATHS (files, folders, notebooks), without running it.

    Without PATHS: those of [tool.gradgate.scan], else the current folder.

    \b
      gradgate scan src                              what a linter for autograd would say
      gradgate scan src --diff main                  only what this branch changed
      gradgate scan src --format sarif --output scan.sarif
      gradgate scan src --fix                        the mechanical fixes, as a diff; --fix --write applies them

    One finding is silenced by a comment on its line: # gradgate: ignore[inplace-on-saved-tensor] -- the reason.
    Exit codes: 0 nothing found, 1 findings, 2 usage, or nothing could be read.
    """
    started = time.perf_counter()
    project = find_project(Path.cwd())
    settings = project.scan
    chosen = _existing(paths or tuple(_from(project, name) for name in settings.paths) or (Path(),))
    wanted = {rule.code for rule in select_rules(_split(select) or settings.select, _split(ignore) or settings.ignore)}
    ledger = baseline or (_from(project, settings.baseline) if settings.baseline else None)
    if write and not fix:
        raise click.UsageError("--write goes with --fix")
    if write_baseline and ledger is None:
        raise click.UsageError("--write-baseline needs --baseline FILE, or baseline under [tool.gradgate.scan]")
    cache = None if no_cache else Cache(default_folder())
    result = scan(chosen, known=SUPPRESSIBLE, cache=cache, jobs=jobs)
    if cache is not None:
        cache.save()
    root = (project.file.parent if project.file else Path.cwd()).resolve()
    result = replace(
        result,
        findings=tuple(
            finding
            for finding in result.findings
            if finding.code in wanted and not _is_left_out(finding, settings.exclude, root)
        ),
    )
    if fix:
        _fix(result, write)
        return
    if write_baseline and ledger is not None:
        marks = baselines.fingerprints(result.findings, root)
        baselines.write(ledger, result.findings, marks, root)
        click.echo(f"{ledger}: {len(marks)} findings written", err=True)
        return
    result, marks = _new_only(result, ledger, diff, root)
    _show(result, marks, form or "text", output, root, time.perf_counter() - started)
    raise SystemExit(_exit_code(result))


def _exit_code(result: ScanResult) -> int:
    if result.findings:
        return FAILED
    unread = sum(Path(file).is_file() and not text.startswith(PARTLY) for file, text in result.problems.items())
    if result.problems and result.files <= unread:
        raise GradgateError(
            "nothing could be read: " + "; ".join(f"{file} {text}" for file, text in list(result.problems.items())[:3])
        )
    return HOLDS


def _existing(paths: Sequence[Path]) -> tuple[Path, ...]:
    for path in paths:
        if not path.exists() and not path.is_symlink():
            raise click.UsageError(f"no file or folder {str(path)!r}")
    return tuple(paths)


def _from(project: Project, name: str) -> Path:
    """A path of the project file, which is relative to that file."""
    folder = project.file.parent if project.file else Path.cwd()
    path = folder / name
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _split(codes: Sequence[str]) -> list[str]:
    return [code for entry in codes for code in entry.split(",") if code.strip()]


def _is_left_out(finding: Finding, patterns: Sequence[str], root: Path) -> bool:
    if not patterns or finding.culprit is None:
        return False
    path = Path(finding.culprit.file).resolve()
    relative = path.relative_to(root) if path.is_relative_to(root) else path
    return any(
        relative.match(pattern) or any(parent.match(pattern) for parent in relative.parents) for pattern in patterns
    )


def _new_only(result: ScanResult, ledger: Path | None, diff: str | None, root: Path) -> tuple[ScanResult, list[str]]:
    """What neither the baseline lists nor the diff leaves alone, with its marks."""
    marks = baselines.fingerprints(result.findings, root)
    old = baselines.read(ledger) if ledger is not None else frozenset()
    changed = changed_lines(diff, Path.cwd()) if diff is not None else None
    kept = [
        (finding, mark)
        for finding, mark in zip(result.findings, marks, strict=True)
        if mark not in old and (changed is None or touches(finding, changed))
    ]
    findings = tuple(finding for finding, _ in kept)
    return replace(result, findings=findings, unchanged=len(marks) - len(kept)), [mark for _, mark in kept]


def _show(result: ScanResult, marks: list[str], form: str, output: Path | None, root: Path, seconds: float) -> None:
    counts = {"files": result.files, "lines": result.lines, "suppressed": result.hidden, "left_out": result.unchanged}
    if form == "json":
        text = findings_json.to_json(result.findings, marks, result.problems, counts) + "\n"
    elif form == "sarif":
        text = findings_sarif.to_sarif(result.findings, marks, result.problems, __version__, root) + "\n"
    elif form == "github":
        text = findings_github.to_github(result.findings, result.problems, root)
    else:
        text = findings_text.to_text(result.findings, _excerpts())
    if output is not None:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise GradgateError(f"--output {output}: cannot be written: {error.strerror}") from error
    else:
        click.echo(text, nl=False)
    if form == "text" or output is not None:
        for file, problem in result.problems.items():
            click.echo(f"{file}: {problem}", err=True)
        line = findings_text.summary(
            result.findings, result.files, result.lines, result.hidden, result.unchanged, seconds
        )
        click.echo(("\n" if text and output is None else "") + line, err=True)


def _excerpts() -> findings_text.Excerpt:
    held: dict[str, list[str]] = {}

    def excerpt(file: str, line: int) -> str:
        if file not in held:
            try:
                data = read_bytes(Path(file))
                held[file] = [] if file.endswith(".ipynb") else decode(Path(file), data).text.split("\n")
            except UnreadableError:
                held[file] = []
        lines = held[file]
        return lines[line - 1] if 0 < line <= len(lines) else ""

    return excerpt


def _fix(result: ScanResult, write: bool) -> None:
    fixed = apply_fixes(result.findings, write=write)
    for text in fixed.diffs:
        click.echo(text, nl=False)
    verb = "written" if write else "possible; --fix --write applies them"
    click.echo(
        f"{fixed.count} fix{'es' if fixed.count != 1 else ''} {verb}; "
        f"{len(result.findings) - fixed.count} findings need a hand",
        err=True,
    )
    for problem in fixed.problems:
        click.echo(problem, err=True)
    sys.stdout.flush()

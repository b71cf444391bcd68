"""`gradgate compare`: base against head, speed and memory."""

from __future__ import annotations

import sys
from math import isfinite
from pathlib import Path
from typing import Any

import click

from gradgate.core import interrupt
from gradgate.core.comparison import METRICS, Comparison
from gradgate.core.errors import GradgateError, nearest
from gradgate.core.project import find_project

EXIT_OF = {"pass": 0, "changed": 0, "improved": 0, "fail": 1, "noisy": 3, "incomparable": 3, "broken": 4}
FORM = "module:factory"


class Share(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases
    """A share: 0.03 or 3%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read it."""
        if isinstance(value, float):
            return value
        try:
            share = float(value[:-1]) / 100 if value.endswith("%") else float(value)
        except ValueError:
            share = 0.0
        if not 0 < share < 1:
            self.fail(f"{value!r} is no share between 0 and 1; write 3% or 0.03", param, ctx)
        return share


FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.argument("target", metavar="MODULE:FACTORY")
@click.option("--base", type=FOLDER, metavar="DIR", help="Checkout to compare with.")
@click.option("--base-ref", metavar="REF", help="Or: a branch, tag or commit of head's repository.")
@click.option("--head", type=FOLDER, default=".", metavar="DIR", show_default=True, help="Checkout that is judged.")
@click.option("--stage", metavar="NAME", help="The stage, where FACTORY returns a gradgate.Subject.")
@click.option("--tolerance", type=Share(), default=0.03, show_default="3%", help="Slowdown that must be found.")
@click.option(
    "--budget",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="After so long no further measurement is begun.",
)
@click.option("--new-benchmark", is_flag=True, help="Base does not have it yet: count head alone.")
@click.option("--accept", multiple=True, metavar="METRIC=REASON", help="A growth that is meant; repeatable.")
@click.option(
    "--source", multiple=True, metavar="SUBDIR", help="Subfolder that packages are imported from; repeatable."
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write JSON."
)
def compare(target: str, json_file: Path | None, **options: Any) -> None:
    """Is head slower or heavier than base?

    MODULE:FACTORY names a function without arguments that returns a function that runs one training step, or a
    gradgate.Subject. It is loaded from both checkouts into one process; both are stepped in turns.

    \b
      gradgate compare bench:make --base ../main --head .
      gradgate compare bench:make --base-ref origin/main
      gradgate compare my_project.adapter:subject --stage train --base-ref HEAD~1
      gradgate compare bench:make --base-ref main --accept saved_bytes="keeps the mask for backward"

    \b
    A factory, in bench.py:
      def make():
          model, batch = build()
          def step():
              loss = model(batch).loss
              loss.backward()
              ...
          return step

    Time passes or fails by the interval of many mirrored turns, at the tolerance; counters (operations, FLOPs, saved
    bytes, peak, leaks) at zero, with the line. Exit codes: 0 pass, changed or improved; 1 regression; 2 usage;
    3 noisy or incomparable; 4 a side is broken.
    """
    from gradgate.report.comparison import to_text
    from gradgate.report.json import require_writable, write_whole

    if json_file:
        require_writable(json_file)
    try:
        with interrupt.unwinding():
            found = _compared(target, **options)
    finally:
        if sys.stderr.isatty():
            click.echo("\r\x1b[K", err=True, nl=False)
    click.echo(to_text(found), nl=False)
    if json_file:
        write_whole(json_file, dumps(found))
    sys.exit(EXIT_OF[found.verdict])


def dumps(found: Comparison) -> str:
    """The text of the JSON file."""
    import json

    return json.dumps(found.tree(), indent=2, ensure_ascii=False) + "\n"


def _compared(
    target: str,
    base: Path | None,
    base_ref: str | None,
    head: Path,
    accept: tuple[str, ...],
    source: tuple[str, ...],
    stage: str | None,
    tolerance: float,
    budget: float,
    new_benchmark: bool,
) -> Comparison:
    _require_form(target)
    if not isfinite(budget):
        raise GradgateError(f"--budget {budget}: expected a number of seconds")
    if (base is None) == (base_ref is None) and not new_benchmark:
        raise GradgateError("give one of --base DIR and --base-ref REF")
    reasons = {**find_project(head).accept, **dict(map(_reason, accept))}
    _require_metrics(reasons)
    from gradgate.compare.checkout import checked_out
    from gradgate.compare.session import Question, count_new
    from gradgate.compare.session import compare as run

    question = Question(
        target,
        base or head,
        head,
        "nothing" if new_benchmark else str(base),
        str(head),
        sources=source,
        stage=stage,
        tolerance=tolerance,
        budget_s=budget,
        accept=reasons,
    )
    if new_benchmark:
        return count_new(question, _progress)
    if base_ref is None:
        return run(question, _progress)
    with checked_out(base_ref, head) as revision:
        from dataclasses import replace

        named = replace(question, base=revision.folder, base_text=f"{base_ref} ({revision.commit[:12]})")
        return run(replace(named, notes=_dirty(revision.dirty)), _progress)


def _require_form(target: str) -> None:
    module, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise GradgateError(f"{target!r} is not of the form {FORM}")


def _reason(text: str) -> tuple[str, str]:
    metric, _, reason = text.partition("=")
    if not reason.strip():
        raise GradgateError(f"--accept {text}: expected METRIC=REASON, the reason not empty")
    return metric.strip(), reason.strip()


def _require_metrics(reasons: dict[str, str]) -> None:
    for name in reasons:
        if name not in METRICS:
            raise GradgateError(f"accepted: no metric {name!r}{nearest(name, METRICS)}; known: {', '.join(METRICS)}")


def _dirty(files: tuple[str, ...]) -> tuple[str, ...]:
    if not files:
        return ()
    shown = ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    return (f"head is the working tree, with uncommitted changes: {shown}",)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text}", err=True, nl=False)
    elif "block" not in text:
        click.echo(text, err=True)

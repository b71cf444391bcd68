"""`gradgate rule`: the page of a rule."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from gradgate.checks import catalogue
from gradgate.checks.rules import RULES


@click.command("rule")
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


def _listing() -> Iterable[str]:
    for title, rules in catalogue.by_family(RULES).items():
        yield f"\n{title}"
        for rule in rules:
            yield f"  {rule.code}  {rule.name:<36}{'' if catalogue.is_built(rule) else 'not built yet'}".rstrip()

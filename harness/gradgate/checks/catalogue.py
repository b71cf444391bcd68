"""The catalogue: every rule there is, which of them are built, and their pages.

A rule is built where this package has a module of its name (`gg401_weight_sum.py`). Such modules import torch, so
their pages are read from the source; `load_check` imports one only to run it.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradgate.checks
from gradgate.checks.rules import RULES
from gradgate.core.errors import UnknownCodeError, nearest
from gradgate.core.rule import FAMILIES, Rule
from gradgate.core.verdict import Outcome
from gradgate.scan.rules.pages import page as source_page
from gradgate.subjects.contract import Objective

if TYPE_CHECKING:
    from gradgate.checks.switches import Again


@dataclass(frozen=True, slots=True)
class Check:
    """A check module, imported.

    Args:
        rule: its catalogue entry.
        function: `check(subject, stage, context) -> Outcome`.
        needs: capabilities without which it is not applicable.
        objective: the stages that it is for; None: every stage.
        per_stage: False where it looks at the subject as a whole, once.
        group: checks of one group share what a process keeps, and run in one; empty: it shares nothing that is dear.
        solo: whether it measures time, and wants the machine for itself.
        again: how it is made again where switches of the configuration are flipped; None: it is not.
    """

    rule: Rule
    function: Callable[..., Outcome]
    needs: tuple[str, ...]
    objective: Objective | None
    per_stage: bool
    group: str = ""
    solo: bool = False
    again: Again | None = None


def rule(code_or_name: str) -> Rule:
    """The rule of a code or a name; case does not matter.

    Raises:
        UnknownCodeError: the catalogue has no such rule.
    """
    wanted = code_or_name.strip().lower()
    for entry in RULES:
        if wanted in (entry.code.lower(), entry.name):
            return entry
    raise UnknownCodeError(f"no rule {code_or_name!r}{_hint(code_or_name)}")


def select(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> list[Rule]:
    """Rules by code (`GG401`), prefix of codes (`GG4`) or name (`weight-sum`), in catalogue order.

    Args:
        select: what to take; empty: everything.
        ignore: what to leave out of it.

    Raises:
        UnknownCodeError: a selector fits no rule.
    """
    chosen = set().union(*map(_matching, select)) if select else set(RULES)
    return [entry for entry in RULES if entry in chosen - set().union(*map(_matching, ignore))]


def is_built(entry: Rule) -> bool:
    """Whether a check looks for this rule's fault."""
    return _file(entry) is not None


def reads_source(entry: Rule) -> bool:
    """Whether a rule's check reads the trainer's files, and runs nothing."""
    return set(entry.looks) == {"scan"} and is_built(entry)


def page(entry: Rule) -> str:
    """The rule's page in Markdown: title, the catalogue's line, and the docstring of its check."""
    file = _file(entry)
    seen = source_page(entry.code)
    text = (
        ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) if file else "" if seen else "**Not built yet.**"
    )
    if seen:
        text = f"{text}\n\n## In the source (`gradgate scan`)\n\n{seen}".lstrip()
    facts = [f"*Family:* {entry.family}", f"*Fails when* {entry.fails_when}."]
    if entry.looks:
        facts.insert(1, f"*Looks:* {', '.join(entry.looks)}")
    return f"# {entry.code} {entry.name}\n\n" + "  \n".join(facts) + f"\n\n{text or ''}\n"


def load_check(entry: Rule) -> Check:
    """Import the check of a rule that is built.

    Raises:
        ImportError: it is not built, or its module does not import.
        AttributeError: the module lacks `check`, `NEEDS` or `PER_STAGE`.
    """
    module: Any = importlib.import_module(f"gradgate.checks.{_stem(entry)}")
    objective = getattr(module, "OBJECTIVE", None)
    group, solo = getattr(module, "GROUP", ""), getattr(module, "SOLO", False)
    again: Again | None = getattr(module, "AGAIN", None)
    return Check(entry, module.check, tuple(module.NEEDS), objective, bool(module.PER_STAGE), group, solo, again)


def by_family(rules: Iterable[Rule]) -> dict[str, list[Rule]]:
    """Rules under the titles of their families, both in catalogue order; families without any are left out."""
    rules = list(rules)
    groups = {title: [entry for entry in rules if entry.family == title] for title in FAMILIES.values()}
    return {title: group for title, group in groups.items() if group}


def _stem(entry: Rule) -> str:
    return f"{entry.code.lower()}_{entry.name.replace('-', '_')}"


def _file(entry: Rule) -> Path | None:
    file = Path(gradgate.checks.__path__[0]) / f"{_stem(entry)}.py"
    return file if file.is_file() else None


def _matching(selector: str) -> set[Rule]:
    wanted = selector.strip()
    found = {entry for entry in RULES if entry.name == wanted.lower()}
    if len(wanted) > 2 and wanted.upper().startswith("GG"):
        found |= {entry for entry in RULES if entry.code.startswith(wanted.upper())}
    if not found:
        raise UnknownCodeError(f"no rule fits {selector!r}{_hint(selector)}")
    return found


def _hint(word: str) -> str:
    lower = nearest(word.strip().lower(), [entry.name for entry in RULES])
    return lower or nearest(word.strip().upper(), [entry.code for entry in RULES])

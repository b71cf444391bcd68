"""The rules' pages as files: one Markdown page a rule, and an index of all."""

from __future__ import annotations

import sys
from pathlib import Path

from gradgate.checks import catalogue
from gradgate.checks.rules import RULES


def pages() -> dict[str, str]:
    """File name -> Markdown, of every rule and of the index."""
    files = {f"{rule.code}.md": catalogue.page(rule).rstrip() + "\n" for rule in RULES}
    return {"README.md": index()} | files


def index() -> str:
    """All rules by family, each with its page and whether it is built, and reads the source alone."""
    origin = "Written by `make docs` from the checks' docstrings. `gradgate rule CODE` prints the same pages."
    lines = ["# Rules", "", origin, ""]
    for title, rules in catalogue.by_family(RULES).items():
        lines += [f"## {title}", "", "| code | name | fails when | |", "|---|---|---|---|"]
        for rule in rules:
            state = "built" if catalogue.is_built(rule) else "not built yet"
            state = "reads the source" if catalogue.reads_source(rule) else state
            lines.append(f"| [{rule.code}]({rule.code}.md) | {rule.name} | {rule.fails_when} | {state} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def write(folder: Path) -> int:
    """Write all pages into a folder, which is created; pages of rules that are gone are removed.

    Returns:
        How many files were written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = pages()
    for old in folder.glob("*.md"):
        if old.name not in files:
            old.unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return len(files)


if __name__ == "__main__":  # `make docs`
    write(Path(sys.argv[1]))

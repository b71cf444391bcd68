"""What the rules' pages say about the source. Read from the files' text, so that a page costs no import of the
scanner."""

from __future__ import annotations

import ast
from pathlib import Path


def page(code: str) -> str | None:
    """A rule's part about the source, in Markdown without a title.

    Args:
        code: `GG101`.

    Returns:
        The docstring of the rule's module; None where the scanner has no such rule.
    """
    for file in Path(__file__).parent.glob(f"{code.lower()}_*.py"):
        return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    return None

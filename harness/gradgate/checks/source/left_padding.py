"""Whether a trainer may put padding in front of its rows, by its source."""

from __future__ import annotations

import re
from collections.abc import Iterable

from gradgate.checks.source.trainer import File

SIDE = re.compile(r"pad\w*_side|side_of_pad|left_pad|pad\w*_left", re.IGNORECASE)


def may_pad_on_the_left(files: Iterable[File]) -> bool:
    """Whether a padding side is spoken of, and one that is the left."""
    lines = [line for file in files for line in file.lines]
    return any(SIDE.search(line) for line in lines) and any('"left"' in line or "'left'" in line for line in lines)

"""Sizes: bytes as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gradgate.core.errors import GradgateError

UNITS: Mapping[str, int] = {
    "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*")


def as_bytes(size: object) -> int:
    """A size in bytes: `24 MiB`, `1.5 GB`, or a number of bytes.

    Raises:
        GradgateError: it is none.
    """
    if isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is None or found[2] not in UNITS:
        raise GradgateError(f"{size!r} is no size; write a number of bytes, or a text such as '24 MiB': {_known()}")
    return int(float(found[1]) * UNITS[found[2]])


def as_text(size: int) -> str:
    """Bytes with three digits in the largest binary unit that leaves at least 1."""
    unit = next((name for name in ("GiB", "MiB", "KiB") if size >= UNITS[name]), "B")
    return f"{size / UNITS[unit]:.3g} {unit}"


def _known() -> str:
    return ", ".join(UNITS)

"""Texts of others made inert: what is not seen, or moves what is, is spelled out."""

from __future__ import annotations

import re
from typing import Any

LONGEST = 2000  # characters of one text; the rest is in the JSON

# Unicode's categories Cc (but newline and tab), Cf, Cs, Zl and Zp, and what XML cannot hold.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)


def inert(value: Any) -> Any:
    """A JSON tree whose texts cannot turn a page around: control and direction characters are spelled out.

    Markup is left alone, which the writer of each form escapes. Texts over `LONGEST` characters are cut and say so.
    """
    if isinstance(value, str):
        shown = _HIDDEN.sub(_spelled, value[:LONGEST])
        return shown + (f"… ({len(value) - LONGEST} more characters in the JSON)" if len(value) > LONGEST else "")
    if isinstance(value, list):
        return [inert(item) for item in value]
    if isinstance(value, dict):
        return {inert(key): inert(item) for key, item in value.items()}
    return value


def _spelled(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"

"""Local variables of a function that runs, written from outside."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any


def write_locals(frame: FrameType, values: Mapping[str, Any]) -> None:
    """Give local variables other values while their function runs."""
    held = frame.f_locals
    held.update(values)
    if sys.version_info < (3, 13):  # there they are written through
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))

"""Numbers that a step or an evaluation reports, those of them that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from numbers import Real
from typing import Any


def finite(named: Mapping[str, Any]) -> dict[str, float]:
    """Numbers that are finite; a difference says nothing of others."""
    found = {name: float(value) for name, value in named.items() if isinstance(value, Real)}
    return {name: value for name, value in found.items() if isfinite(value)}


def fractional(named: Mapping[str, Any]) -> dict[str, float]:
    """Finite numbers that are no whole ones: what was measured, not counted."""
    return {name: value for name, value in finite(named).items() if value != round(value)}

"""Averages of weights in a trainer's source, by their names, for the checks that ask what becomes of them."""

from __future__ import annotations

import ast
import re

AVERAGE = re.compile(r"(^|_)(ema|shadow|averaged?|averages|avg_model|polyak|swa)(_|$|\d)", re.IGNORECASE)
AVERAGING = re.compile(r"(^|_)(ema|averag\w*|polyak|shadow)(_|$)|^EMA|EMA$|Ema[A-Z]|MovingAverage|AveragedModel")
DECAY = re.compile(r"(^|_)(decay|beta|momentum|ema_decay|mu|keep)(_|$)", re.IGNORECASE)
COPIES = ("clone", "deepcopy", "copy", "tensor", "zeros_like", "empty_like", "cpu", "numpy")


def is_of_average(name: str, owner: ast.ClassDef | None) -> bool:
    """Whether a function averages weights, by its own name or its class's."""
    return bool(AVERAGING.search(name)) or (owner is not None and bool(AVERAGING.search(owner.name)))

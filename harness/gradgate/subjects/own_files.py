"""The files of the modules that are imported and lie in no installed package: the trainer's, and its adapter's."""

from __future__ import annotations

import re
import site
import sys
import sysconfig
from functools import cache
from pathlib import Path

import gradgate

INSTALLED = tuple({*site.getsitepackages(), sysconfig.get_path("stdlib"), str(Path(gradgate.__path__[0]))})


def own_files() -> list[Path]:
    """Their paths, sorted."""
    modules = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files = {file for file in modules if file and file.endswith(".py") and not file.startswith(INSTALLED)}
    return [Path(file) for file in sorted(files)]


@cache  # asked at each losses() of a setting that does not call the function
def defines(name: str) -> bool:
    """Whether one of them has a function, or a method, of this name, or of the last part of it."""
    definition = re.compile(rf"^\s*(async )?def {re.escape(name.rpartition('.')[2])}\(", re.MULTILINE)
    return any(definition.search(text_of(file)) for file in own_files())


def text_of(file: Path) -> str:
    """The text of a file; empty where it cannot be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""

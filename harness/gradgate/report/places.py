"""Places: files named relative to the project, so that two checkouts of it name the same file."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any


def relative(file: str, root: PurePath) -> str:
    """A file's path below `root`; unchanged where it lies elsewhere or is relative already."""
    path = Path(file)
    return path.relative_to(root).as_posix() if path.is_absolute() and path.is_relative_to(root) else file


def brought_near(tree: Any) -> Any:
    """A result's JSON tree with each `file` below its `environment.root` made relative to that."""
    environment = tree.get("environment") if isinstance(tree, dict) else None
    root = environment.get("root") if isinstance(environment, dict) else None
    return _near(tree, PurePath(root)) if isinstance(root, str) and root else tree


def _near(value: Any, root: PurePath) -> Any:
    if isinstance(value, list):
        return [_near(item, root) for item in value]
    if isinstance(value, dict):
        return {
            key: relative(item, root) if key == "file" and isinstance(item, str) else _near(item, root)
            for key, item in value.items()
        }
    return value

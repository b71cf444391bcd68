"""Sides: two checkouts' packages in one process, each under its own import root and with its own module table.

While a side is active, its folders come first on the path and its modules stand in `sys.modules`; the other side's are
put aside. Lazy, relative and importlib imports, and pickle, look things up there and so find their own side.

Known limits: a thread or a callback of one side that imports during the other's turn gets the other's module; what a
side patches into torch or another shared package holds for both. An operator registered with torch by both sides
exists once: that is found (`clashes`), and the sides then need a process each.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import torch

SHARED = "gradgate"  # the harness itself is never loaded twice


class Side:
    """One checkout.

    Args:
        name: base or head.
        root: its folder; while the side is active it is the working folder.
        roots: where its packages lie, searched in order; under `root`.
    """

    def __init__(self, name: str, root: Path, roots: Sequence[Path]) -> None:
        self.name = name
        self.root = root.resolve()
        self.roots = [str(folder.resolve()) for folder in roots]
        self.own: set[str] = set()  # names of its modules, found so far
        self.operators: set[str] = set()  # that it has registered with torch
        self._aside: dict[str, ModuleType] = {}

    def holds(self, file: str | None) -> bool:
        """Whether a file lies in this checkout."""
        return file is not None and (file == str(self.root) or file.startswith(str(self.root) + os.sep))

    def relative(self, file: str) -> str | None:
        """A file's path within the checkout; None for one outside it or installed in it."""
        path = os.path.realpath(file)
        return os.path.relpath(path, self.root) if self.holds(path) and "site-packages" not in path else None

    def take(self) -> None:
        """Put its modules into the table."""
        sys.modules.update(self._aside)
        self._aside = {}

    def put_aside(self) -> None:
        """Take its modules out of the table, the ones that its turn has imported among them."""
        for name in self.own:
            module = sys.modules.pop(name, None)
            if module is not None:
                self._aside[name] = module


class Sides:
    """All sides of a process; at most one is active. Use as a context manager: the process is as before afterwards.

    Args:
        sides: they are told apart by the deepest root that holds a file, so that one may lie inside the other.
    """

    def __init__(self, sides: Sequence[Side]) -> None:
        self._sides = sorted(sides, key=lambda side: -len(str(side.root)))
        self._active: Side | None = None
        self._finder = _Finder(self)

    def __enter__(self) -> Self:
        self._path, self._folder = list(sys.path), Path.cwd()
        self._displaced = {
            name: module
            for name, module in list(sys.modules.items())
            if not _is_shared(name) and self._owner_of(module)
        }
        for name in self._displaced:  # imported before, by whatever started this process: not a side's own copy
            del sys.modules[name]
        self._paths = {side.name: side.roots + self._not_foreign(side) for side in self._sides}
        sys.meta_path.insert(0, self._finder)
        self._library = (torch.library.Library.define, torch.library.Library.impl)
        torch.library.Library.define = _noting(self, self._library[0])  # type: ignore[method-assign]
        torch.library.Library.impl = _noting(self, self._library[1])  # type: ignore[method-assign]
        return self

    def __exit__(self, *exc: object) -> None:
        self._deactivate()
        sys.meta_path.remove(self._finder)
        sys.modules.update(self._displaced)
        torch.library.Library.define, torch.library.Library.impl = self._library  # type: ignore[method-assign]

    @property
    def active(self) -> Side | None:
        """The side whose turn it is."""
        return self._active

    @contextmanager
    def turn(self, side: Side) -> Iterator[None]:
        """Make a side the active one for a block."""
        self._activate(side)
        try:
            yield
        finally:
            self._deactivate()

    def owner(self, file: str | None) -> Side | None:
        """The side in whose checkout a file lies; installed packages belong to none."""
        if file is None or "site-packages" in file:
            return None
        holders = [side for side in self._sides if side.holds(file)]
        if self._active in holders and self._active.root == holders[0].root:  # a checkout compared with itself
            return self._active
        return holders[0] if holders else None

    def _owner_of(self, module: Any) -> Side | None:
        return self.owner(getattr(module, "__file__", None))

    def _not_foreign(self, side: Side) -> list[str]:
        """The present path without what lies in the other checkout."""
        owners = {entry: self.owner(os.path.realpath(entry)) for entry in self._path}
        return [entry for entry, owner in owners.items() if owner is None or owner.root == side.root]

    def _activate(self, side: Side) -> None:
        side.take()
        sys.path[:] = self._paths[side.name]
        os.chdir(side.root)
        self._active = side

    def _deactivate(self) -> None:
        if self._active is not None:
            self._active.put_aside()
            sys.path[:] = self._path
            os.chdir(self._folder)
            self._active = None


class _Finder(MetaPathFinder):
    """Finds the active side's modules and keeps their names, so that no swap has to scan `sys.modules`."""

    def __init__(self, sides: Sides) -> None:
        self._sides = sides

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        side = self._sides.active
        if side is None or _is_shared(name):
            return None
        spec = PathFinder.find_spec(name, path, target) or self._found_by_others(name, path, target)
        if spec is None:
            return None
        owner = self._sides.owner(_place(spec))
        if owner is side:
            side.own.add(name)
        elif owner is not None:
            raise ModuleNotFoundError(f"{side.name} has no {name!r}; the installed one is {owner.name}'s", name=name)
        return spec

    def _found_by_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and finder is not PathFinder:
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    return spec
        return None


def clashes(base: Side, head: Side) -> list[str]:
    """Operators that both sides have registered with torch: base would run head's kernel."""
    return sorted(base.operators & head.operators)


def import_fresh(module: str) -> ModuleType:
    """Import a module, seeing files that were written a moment ago."""
    importlib.invalidate_caches()
    return importlib.import_module(module)


def _is_shared(name: str) -> bool:
    return name == SHARED or name.startswith(SHARED + ".")


def _place(spec: ModuleSpec) -> str | None:
    if spec.origin and spec.has_location:
        return os.path.realpath(spec.origin)
    places = list(spec.submodule_search_locations or ())
    return os.path.realpath(places[0]) if places else None


def _noting(sides: Sides, method: Any) -> Any:
    def noted(library: Any, name: Any, *args: Any, **kwargs: Any) -> Any:
        if sides.active is not None:
            bare = str(name).split("(")[0].split("::")[-1]
            sides.active.operators.add(f"{library.ns}::{bare}")
        return method(library, name, *args, **kwargs)

    return noted

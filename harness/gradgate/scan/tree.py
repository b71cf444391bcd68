"""The scanned tree: parsed files by path, and what a name imported from within the tree means."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import Path

from gradgate.scan.modules import Class, Function, Module
from gradgate.scan.sources import UnreadableError, decode, parse_quietly, read_bytes

MOST_MODULES = 160  # parsed files kept
MOST_FOLLOWED = 300_000  # bytes of a file that an import is followed into
HOPS = 4


class Tree:
    """Parsed files under some roots."""

    def __init__(self, roots: tuple[str, ...]) -> None:
        self.roots = tuple(str(Path(root).resolve()) for root in roots)
        self._modules: OrderedDict[str, Module | None] = OrderedDict()
        self._found: dict[tuple[str, str], Function | Class | None] = {}
        self._alone: Module | None = None  # the file that is scanned, where it is too large to be kept
        self.digests: dict[str, str] = {}
        self.used: set[str] = set()  # files that the last analysis looked into

    def resolve(self, module: Module, name: str) -> Function | Class | None:
        """The function or class that a module imports under a name, if its file is under the roots."""
        key = (module.path, name)
        if key not in self._found:
            self._found[key] = self._look_up(module, name, HOPS)
        found = self._found[key]
        if found is not None:
            self.used.add(found.module.path)
        return found

    def _look_up(self, module: Module, name: str, hops: int) -> Function | Class | None:
        if name not in module.relative or hops == 0:
            return None
        level, source, original = module.relative[name]
        for path in _candidates(Path(module.path), level, source):
            if path.is_file() and self._is_inside(path):
                other = self._load(path)
                if other is None:
                    continue
                found = other.functions.get(original) or other.classes.get(original)
                return found or self._look_up(other, original, hops - 1)
        return None

    def _is_inside(self, path: Path) -> bool:
        text = str(path.resolve())
        return any(text.startswith(root) for root in self.roots)

    def parsed(self, path: str, text: str) -> Module:
        """A file that is scanned itself: parsed once for that, and for those that import it.

        Raises:
            SyntaxError, ValueError, RecursionError, MemoryError: as `parse` does.
        """
        held = self._modules.get(path)
        if held is not None and held.lines == text.split("\n"):
            return held
        module = parse(path, text)
        if path.endswith(".py") and len(text) <= MOST_FOLLOWED:
            self._keep(path, module)
        else:
            self._alone = module
        return module

    def _keep(self, key: str, module: Module | None) -> None:
        self._modules[key] = module

    def trim(self) -> None:
        """Let go of the files that were not asked for longest; to be called between two files, never amid one."""
        if self._alone is not None:
            self._alone.release()
            self._alone = None
        if len(self._modules) <= MOST_MODULES:
            return
        self._found.clear()  # it would hold on to what is let go
        for _ in range(len(self._modules) - MOST_MODULES // 2):
            _, module = self._modules.popitem(last=False)
            if module is not None:
                module.release()

    def _load(self, path: Path) -> Module | None:
        key = str(path)
        if key in self._modules:
            self._modules.move_to_end(key)
            return self._modules[key]
        module = None
        try:
            data = read_bytes(path)
            if len(data) <= MOST_FOLLOWED and b"torch" in data:
                self.digests[key] = digest(data)
                module = parse(key, decode(path, data).text)
        except (UnreadableError, SyntaxError, ValueError, RecursionError, MemoryError):
            module = None
        self._keep(key, module)
        return module


def parse(path: str, text: str) -> Module:
    """A file's text as a Module.

    Raises:
        SyntaxError: it is no Python 3.
        ValueError: it holds null bytes.
        RecursionError, MemoryError: it is nested too deeply.
    """
    return Module(path, parse_quietly(text), text.split("\n"))


def digest(data: bytes) -> str:
    """A content's key."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _candidates(file: Path, level: int, source: str) -> list[Path]:
    parts = source.split(".") if source else []
    if level:
        folders = [file.parents[level - 1]] if level <= len(file.parents) else []
    else:
        folders = list(file.parents)[:6]
    found = []
    for folder in folders:
        base = folder.joinpath(*parts)
        found += [base.with_suffix(".py"), base / "__init__.py"] if parts else [base / "__init__.py"]
    return found

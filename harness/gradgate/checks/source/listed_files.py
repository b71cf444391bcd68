"""Files that a trainer's source lists by a pattern, and the paths that it puts together, for what fits what."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gradgate.checks.source.best_pointers import THERE
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import Names, with_stars

LISTS = ("glob", "iterdir", "listdir", "iglob")
BEST = re.compile(r"best", re.IGNORECASE)
TIME = re.compile(r"mtime|ctime")
WRAPS = ("Path", "pathlib.Path", "str", "os.fspath")


@dataclass(frozen=True)
class Written:
    """A path that is put together.

    Args:
        folder: how what is in front of the last part may be written.
        name: the last part, with `*` for what is filled in.
    """

    folder: frozenset[str]
    name: str


@dataclass(frozen=True)
class Listed:
    """Files that are listed.

    Args:
        patterns: all of which they fit.
        by_name: whether they are sorted by name.
        node: where.
    """

    folder: frozenset[str]
    patterns: tuple[str, ...]
    by_name: bool
    node: ast.expr
    place: Place


def is_taken(listed: Listed, best: Written, paths: list[tuple[Written, ast.expr]]) -> bool:
    """Whether files that are listed, or the last of them by their sort, may be the best."""
    name = best.name.replace("*", "1")
    if not (listed.folder & best.folder and fits(name, listed.patterns)):
        return False
    numbered = [path.name.replace("*", "1") for path, _ in paths if "*" in path.name and not BEST.search(path.name)]
    numbered = [other for other in numbered if fits(other, listed.patterns)]
    return bool(numbered) and (not listed.by_name or any(name < other for other in numbered))


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a name fits all patterns."""
    return all(fnmatchcase(name, pattern) for pattern in patterns)


class Listings:
    """Paths, and files that are listed, in a trainer's functions.

    Args:
        own: the trainer's functions.
    """

    def __init__(self, own: Places) -> None:
        self.own = own

    def listed(self, node: ast.expr, place: Place, names: Names, hops: int = 6) -> Listed | None:
        """The files that an expression lists; None: it is not known which."""
        if hops == 0:
            return None
        if isinstance(node, ast.Name) and (held := names.held(node)) is not node:
            key = _sorting(node.id, held, place)
            found = self.listed(held, place, names, hops - 1)
            return found if found is None or key == "" else sorted_by(found, key)
        if isinstance(node, ast.Subscript):
            return self.listed(node.value, place, names, hops - 1)
        if isinstance(node, ast.ListComp | ast.GeneratorExp) and len(node.generators) == 1:
            found = self.listed(node.generators[0].iter, place, names, hops - 1)
            kept = [pattern for test in node.generators[0].ifs for pattern in _patterns(test)]
            unknown = found is None or None in kept
            return None if unknown or found is None else _with(found, [one for one in kept if one is not None])
        if not isinstance(node, ast.Call):
            return None
        called = called_name(node)
        if called in ("list", "reversed") and node.args:
            return self.listed(node.args[0], place, names, hops - 1)
        if called == "sorted":
            found = self.listed(node.args[0], place, names, hops - 1)
            keys = [ast.unparse(word.value) for word in node.keywords if word.arg == "key"]
            return found and sorted_by(found, keys[0] if keys else "str")
        if called in LISTS:
            return self._of_call(node, called, place)
        other = self.own.called(node, place)
        values = [part.value for part in other.nodes if isinstance(part, ast.Return)] if other else []
        if other is not None and len(values) == 1 and values[0] is not None:
            found = self.listed(values[0], other, other.names, hops - 1)
            same = {dotted(given) for given in other.given(node).values()} - {""}
            return found and Listed(found.folder | same, found.patterns, found.by_name, found.node, found.place)
        return None

    def _of_call(self, node: ast.Call, called: str, place: Place) -> Listed | None:
        inside = node.func.value if isinstance(node.func, ast.Attribute) else None
        if called == "iterdir" and inside is not None:
            return Listed(self._folders(inside, place), (), False, node, place)
        if called == "listdir" and node.args:
            return Listed(self._folders(node.args[0], place), (), False, node, place)
        if not node.args or called == "iterdir":
            return None
        if inside is not None and dotted(inside) != "glob" and (name := _written(node.args[0])) is not None:
            return Listed(self._folders(inside, place), (name,), False, node, place)
        path = self._path(node.args[0], place)
        written = path is not None and "{" not in ast.unparse(node.args[0]).rpartition("/")[2]
        return Listed(path.folder, (path.name,), False, node, place) if path is not None and written else None

    def paths(self, place: Place) -> Iterator[tuple[Written, ast.expr]]:
        """The paths that a function puts together, and where."""
        for node in place.nodes:
            if isinstance(node, ast.BinOp | ast.JoinedStr | ast.Call) and (path := self._path(node, place)):
                yield path, node
                for name in self._filled_in(path, node, place):
                    yield Written(path.folder, name), node

    def _filled_in(self, path: Written, node: ast.expr, place: Place) -> Iterator[str]:
        """The names of a path in which an argument is filled in by a call."""
        parts = [part for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
        last = dotted(parts[-1].value) if parts else ""
        if last in place.positional and path.name.count("*") == 1:
            for caller, call in self.own.calls_of(place.name):
                given = place.given(call).get(last)
                if isinstance(given, ast.Constant) and isinstance(given.value, str) and caller is not None:
                    yield path.name.replace("*", given.value)

    def _path(self, node: ast.expr, place: Place) -> Written | None:
        """A path of an expression, where its last part is written down."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            name = _written(node.right)
            return None if name is None else Written(self._folders(node.left, place), name)
        if isinstance(node, ast.Call) and dotted(node.func).endswith("path.join") and len(node.args) > 1:
            name, front = _written(node.args[-1]), ast.Call(node.func, node.args[:-1], [])
            folder = node.args[0] if len(node.args) == 2 else ast.copy_location(front, node)
            return None if name is None else Written(self._folders(folder, place), name)
        if isinstance(node, ast.JoinedStr) and len(node.values) > 1 and isinstance(node.values[0], ast.FormattedValue):
            rest = _written(ast.JoinedStr(node.values[1:])) or ""
            if rest.startswith("/") and "/" not in rest[1:]:
                return Written(self._folders(node.values[0].value, place), rest[1:])
        return None

    def _folders(self, node: ast.expr, place: Place, hops: int = 3) -> frozenset[str]:
        """How a folder may be written: as it is, as what its name holds, or as what its function is given."""
        while isinstance(node, ast.Call) and dotted(node.func) in WRAPS and len(node.args) == 1:
            node = node.args[0]
        held = place.names.held(node)
        if held is not node and hops:
            return self._folders(held, place, hops - 1)
        if isinstance(node, ast.Name) and node.id in place.positional:
            calls = [each for each in self.own.calls_of(place.name) if hops]
            given = [(place.given(call).get(node.id), caller) for caller, call in calls]
            found = [self._folders(each, caller, hops - 1) for each, caller in given if each is not None]
            return frozenset().union(*found) if found else frozenset([f"{id(place.function)} {node.id}"])
        owner = place.owner.name if place.owner is not None and dotted(node).startswith("self.") else ""
        return frozenset([f"{owner} {ast.unparse(node)}"])


def _sorting(name: str, held: ast.expr, place: Place) -> str:
    """The key by which a list of a name is sorted in place; empty: it is not."""
    for node in place.nodes:
        if isinstance(node, ast.Call) and dotted(node.func) == f"{name}.sort" and node.lineno >= held.lineno:
            return next((ast.unparse(word.value) for word in node.keywords if word.arg == "key"), "str")
    return ""


def sorted_by(listed: Listed, key: str) -> Listed | None:
    """A list that is sorted; None: by something in the names that the best does not have."""
    by_name = bool(re.fullmatch(r"str|lambda (\w+): (\1(\.name|\.stem)?|str\(\1\))", key))
    known = by_name or TIME.search(key)
    return Listed(listed.folder, listed.patterns, by_name, listed.node, listed.place) if known else None


def _with(listed: Listed, patterns: list[str]) -> Listed:
    return Listed(listed.folder, (*listed.patterns, *patterns), listed.by_name, listed.node, listed.place)


def _written(node: ast.expr) -> str | None:
    """A text with `*` for what is filled in; None: no text, or nothing of it is written down."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return with_stars(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod) and isinstance(node.left, ast.Constant):
        return re.sub(r"%[-\d.]*[a-z]", "*", node.left.value) if isinstance(node.left.value, str) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        text = node.func.value.value if isinstance(node.func.value, ast.Constant) else None
        return re.sub(r"\{[^}]*\}", "*", text) if isinstance(text, str) else None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        parts = [_written(node.left), _written(node.right)]
        return None if parts == [None, None] else "".join("*" if part is None else part for part in parts)
    return None


def _patterns(test: ast.expr) -> Iterator[str | None]:
    """The patterns of a condition on a file; None: it is of another kind."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for part in test.values:
            yield from _patterns(part)
    elif isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute) and len(test.args) == 1:
        text = _written(test.args[0])
        shape = {"endswith": "*{}", "startswith": "{}*", "match": "{}"}.get(test.func.attr)
        yield None if text is None or shape is None else shape.format(text)
    elif isinstance(test, ast.Compare) and len(test.ops) == 1:
        text = _written(test.comparators[0] if isinstance(test.ops[0], ast.Eq) else test.left)
        suffix = isinstance(test.ops[0], ast.Eq) and "suffix" in ast.unparse(test.left)
        inside = isinstance(test.ops[0], ast.In) and isinstance(test.comparators[0], ast.Name | ast.Attribute)
        yield None if text is None or not (suffix or inside) else f"*{text}" if suffix else f"*{text}*"
    elif not THERE.search(ast.unparse(test)):
        yield None

"""Pydantic models of a trainer's settings, and which of them take keys that they do not know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

from gradgate.checks.source.file_contents import READS, Contents
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.section_merges import has_field_of
from gradgate.checks.source.settings import SETTINGS
from gradgate.checks.source.trainer import File, dotted, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in

NAMED = re.compile(rf"({'|'.join(SETTINGS)}|section|experiment|(config|experiment|settings)schema)$", re.IGNORECASE)
VALIDATES = ("model_validate", "parse_obj", "validate_python")
FIELDS = ("model_fields", "__fields__", "__annotations__")


class Models:
    """The pydantic models of a trainer.

    Args:
        files: of the trainer.
        own: its functions.
    """

    def __init__(self, files: tuple[File, ...], own: Places) -> None:
        self._files, self._own = files, own
        self._classes = {name: same[0] for name, same in own.classes.items() if len(same) == 1}
        self._constants = {
            dotted(target): value
            for file in files
            if file.has("ConfigDict", "extra")
            for target, value in assignments_in(file.tree.body)
        }
        self._models = {name: node for name, node in self._classes.items() if self._is_model(node)}
        self._derived: dict[str, set[str]] = {}
        for same in own.classes.values():
            for node in same:
                for base in self._above(node):
                    self._derived.setdefault(base, set()).add(node.name)

    def lenient(self) -> Iterator[tuple[File, ast.ClassDef]]:
        """Models of settings that leave out what they do not know, each with its file: those that say so, or whose
        base is pydantic's own."""
        read = self._read()
        for file in self._files:
            for node in (node for node in file.nodes if isinstance(node, ast.ClassDef)):
                names = {node.name, *self._derived.get(node.name, ())}
                is_settings = any(map(NAMED.search, names)) or bool(read & names)
                is_first = any(dotted(base).endswith("BaseModel") for base in node.bases)
                says = node.name in self._models and self._says(node) is False
                if is_settings and (is_first or says) and not self._says(node):
                    yield file, node

    def _read(self) -> set[str]:
        """The models that are made of a file's content and take any key, and those that their fields are of."""
        if (
            not self._models
            or not any(file.has(*READS) for file in self._files)
            or any(f.has(*FIELDS) for f in self._files)
        ):
            return set()
        contents = Contents(self._own, set())
        found = {
            name for place in self._own.all if place.file.has("**", *VALIDATES) for name in self._made(place, contents)
        }
        waiting = list(found)
        while waiting:
            node = self._models[waiting.pop()]
            fields = [part.annotation for part in node.body if isinstance(part, ast.AnnAssign)]
            named = {dotted(part) for field in fields for part in ast.walk(field)} & self._models.keys()
            waiting += named - found
            found |= named
        return {name for name in found if not self._refuses(self._models[name])}

    def _made(self, place: Place, contents: Contents) -> Iterator[str]:
        """The models that a function makes of a file's content; rows of data are made in loops."""
        rows = {id(part) for node in place.nodes if isinstance(node, ast.For | ast.ListComp | ast.GeneratorExp)
                for part in ast.walk(node)}  # fmt: skip
        for call in (node for node in place.nodes if isinstance(node, ast.Call)):
            maker = dotted(call.func).split(".")
            if maker[-1] in self._models:
                name, given = maker[-1], [word.value for word in call.keywords if word.arg is None]
            elif maker[-1] in VALIDATES and maker[-2:-1] and maker[-2] in self._models and not call.keywords:
                name, given = maker[-2], call.args[:1]
            else:
                continue
            kinds = {contents.kind(each, place) for each in given}
            is_whole = has_field_of(self._models[name], self._models) and id(call) not in rows
            if kinds & {"yaml", "toml"} or (is_whole and "json" in kinds):
                yield name

    def _is_model(self, node: ast.ClassDef) -> bool:
        return any(base.endswith("BaseModel") for base in (*self._above(node), *map(dotted, node.bases)))

    def _above(self, node: ast.ClassDef) -> list[str]:
        """The names of what a class derives from, however far."""
        found: list[str] = []
        waiting = [node]
        while waiting:
            for base in map(dotted, waiting.pop().bases):
                if base not in found:
                    found.append(base)
                    waiting += [self._classes[base]] if base in self._classes else []
        return found

    def _refuses(self, node: ast.ClassDef) -> bool:
        chain = [node, *(self._classes[name] for name in self._above(node) if name in self._classes)]
        return next((said for each in chain if (said := self._says(each)) is not None), False)

    def _says(self, node: ast.ClassDef) -> bool | None:
        """Whether a model says itself that other keys are an error, or are kept; None: it says nothing."""
        checks = [part for part in node.body if isinstance(part, ast.FunctionDef)]
        for part in checks:
            inside = list(nodes_in(part.body, *OTHERS))
            asks = any(isinstance(each, ast.Attribute) and each.attr in FIELDS for each in inside)
            if asks and any(isinstance(each, ast.Raise) for each in inside):
                return True
        told = [(word.arg or "", word.value) for word in node.keywords]
        for target, value in assignments_in(node.body):
            if dotted(target) == "model_config":
                if isinstance(value, ast.Name) and value.id not in self._constants:
                    return True  # another's
                told += _options(self._constants.get(dotted(value), value), self._constants)
        for inner in (part for part in node.body if isinstance(part, ast.ClassDef)):
            told += [(dotted(target), value) for target, value in assignments_in(inner.body)]
        said = ["ignore" not in ast.unparse(value) for name, value in told if name == "extra"]
        return said[-1] if said else None


def _options(value: ast.expr, constants: Mapping[str, ast.expr]) -> Iterator[tuple[str, ast.expr]]:
    """What `ConfigDict(extra="forbid")` or a mapping says, by its name."""
    if isinstance(value, ast.BinOp) and isinstance(value.op, ast.BitOr):
        yield from (*_options(value.left, constants), *_options(value.right, constants))
    elif isinstance(value, ast.Name):
        yield from _options(constants[value.id], {}) if value.id in constants else ()
    elif isinstance(value, ast.Call):
        for word in value.keywords:
            yield from [(word.arg, word.value)] if word.arg is not None else _options(word.value, constants)
    elif isinstance(value, ast.Dict):
        for key, each in zip(value.keys, value.values, strict=True):
            yield from _options(each, constants) if key is None else [(str(getattr(key, "value", "")), each)]

"""The settings that a trainer declares: command-line arguments, fields of configuration classes, keys of YAML files."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from gradgate.checks.source.trainer import File, dotted
from gradgate.core.finding import Location
from gradgate.subjects.argument_calls import argument_call
from gradgate.subjects.contract import Subject

SETTINGS = ("config", "cfg", "args", "arguments", "settings", "options", "params", "recipe", "hparams", "opts")


@dataclass(frozen=True)
class Setting:
    """A setting of the trainer: its name, what declares it, and where."""

    name: str
    what: str
    place: Location


def declared_settings(file: File) -> Iterator[Setting]:
    """The command-line arguments and the fields of configuration classes that a file declares."""
    for node in file.nodes:
        if (argument := argument_call(node)) is not None and argument.is_setting:
            yield Setting(argument.name, "command-line argument", file.at(node))
        elif isinstance(node, ast.ClassDef) and node.name.lower().removesuffix("kwargs").endswith(SETTINGS):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_field(field):
                    yield Setting(field.target.id, f"field of {node.name}", file.at(field, node.name))


def _is_field(field: ast.AnnAssign) -> bool:
    return not dotted(field.target).startswith(("_", "model_config")) and "ClassVar" not in ast.unparse(
        field.annotation
    )


def yaml_files(subject: Subject) -> Iterator[tuple[Path, str, Any]]:
    """The YAML files in the source's folder: path, text and what they hold."""
    if subject.source is None or not Path(subject.source).is_dir():
        return
    for path in sorted((*Path(subject.source).rglob("*.yaml"), *Path(subject.source).rglob("*.yml"))):
        with suppress(OSError, ValueError, YAMLError):
            text = path.read_text(encoding="utf-8")
            yield path, text, YAML(typ="safe").load(text)


def yaml_keys(subject: Subject) -> Iterator[str]:
    """The keys of those files, at any depth."""
    for _, _, content in yaml_files(subject):
        yield from _all_keys(content)


def _all_keys(content: Any) -> Iterator[str]:
    if isinstance(content, Mapping):
        for key, inner in content.items():
            yield str(key)
            yield from _all_keys(inner)
    elif isinstance(content, list):
        for inner in content:
            yield from _all_keys(inner)

"""The settings that a trainer's source declares: command-line arguments and fields of configuration classes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.trainer_source import File, dotted
from gradgate.core.finding import Location
from gradgate.subjects.argument_calls import argument_call

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

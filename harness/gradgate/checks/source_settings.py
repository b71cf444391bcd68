"""The settings that a trainer's source declares: command-line arguments and fields of configuration classes."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.trainer_source import File, dotted
from gradgate.core.finding import Location

SETTINGS = ("config", "cfg", "args", "arguments", "settings", "options", "params", "recipe", "hparams", "opts")


@dataclass(frozen=True)
class Setting:
    """A setting of the trainer: its name, what declares it, and where."""

    name: str
    what: str
    place: Location


def is_argument(node: ast.AST) -> bool:
    """Whether a node is a call of `add_argument`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"


def declared_settings(file: File) -> Iterator[Setting]:
    """The command-line arguments and the fields of configuration classes that a file declares."""
    for node in file.nodes:
        if isinstance(node, ast.Call) and is_argument(node):
            name = _destination(node)
            if name:
                yield Setting(name, "command-line argument", file.at(node))
        elif isinstance(node, ast.ClassDef) and node.name.lower().removesuffix("kwargs").endswith(SETTINGS):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and _is_field(field):
                    yield Setting(field.target.id, f"field of {node.name}", file.at(field, node.name))


def _is_field(field: ast.AnnAssign) -> bool:
    return not dotted(field.target).startswith(("_", "model_config")) and "ClassVar" not in ast.unparse(
        field.annotation
    )


def _destination(call: ast.Call) -> str:
    """The attribute that an `add_argument` fills."""
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if isinstance(given.get("dest"), ast.Constant):
        return str(given["dest"].value)  # type: ignore[attr-defined]
    names = [str(node.value) for node in call.args if isinstance(node, ast.Constant)]
    long = [name for name in names if name.startswith("--")] or [name for name in names if not name.startswith("-")]
    if not long or getattr(given.get("action"), "value", "") in ("help", "version"):
        return ""
    return long[0].lstrip("-").replace("-", "_")

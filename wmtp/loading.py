"""Reads config and recipe: YAML 1.2, overrides from the command line, and one clear line for each mistake."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from wmtp.errors import ConfigError, nearest
from wmtp.settings import Config, Recipe, Section

Settings = TypeVar("Settings", Config, Recipe)
READY_RECIPES = "recipes"


def load_settings(
    config_path: Path | None,
    recipe_path: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    saved: tuple[str, str] | None = None,
) -> tuple[Config, Recipe]:
    """The config and the recipe of a run.

    Args:
        config_path: YAML file; None: the defaults.
        recipe_path: YAML file, or the name of a recipe that ships with wmtp; None: the embedded one.
        overrides: `key=value` with dotted keys of either, the value in YAML.
        saved: config and recipe of the run that is resumed, as JSON; they stand where no file is given.

    Raises:
        ConfigError: names the file and the key, what was expected and the nearest valid choice.
    """
    saved_config, saved_recipe = ({}, None) if saved is None else (_saved(saved[0]), _saved(saved[1]))
    config_tree, config_name = saved_config, "config"
    if config_path is not None:
        config_tree, config_name = read_yaml(config_path), str(config_path)
    recipe_tree, recipe_name = saved_recipe, "recipe"
    if recipe_path is not None or recipe_tree is None:
        recipe_name = str(recipe_path or "embedded")
        recipe_tree = read_yaml(find_recipe(recipe_name))
    for override in overrides:
        key, value = parse_override(override)
        section = key.split(".")[0]
        if section in Recipe.model_fields:
            put(recipe_tree, key, value)
        elif section in Config.model_fields:
            put(config_tree, key, value)
        else:
            raise ConfigError(
                f"--set {shortened(override)}: no key {key!r}{nearest(key, [*key_names(Config), *key_names(Recipe)])}"
            )
    return validate(Config, config_tree, config_name), validate(Recipe, recipe_tree, recipe_name)


def ready_recipes() -> dict[str, Path]:
    """The recipes that ship with wmtp, by name."""
    folder = Path(str(resources.files("wmtp"))) / READY_RECIPES
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str | Path) -> Path:
    """A recipe's file, from its path or from the name of a ready one."""
    ready = ready_recipes()
    if str(name) in ready:
        return ready[str(name)]
    if Path(name).suffix not in {".yaml", ".yml"} and not os.path.exists(name):  # noqa: PTH110 - a name too long is no path
        raise ConfigError(
            f"--recipe {name}: neither a file nor a ready recipe ({', '.join(ready)}){nearest(str(name), ready)}"
        )
    return Path(name)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML 1.2 file as a dictionary.

    Raises:
        ConfigError: the file is missing, is empty, no UTF-8, no YAML, or holds something else than keys.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start})") from None
    except OSError as error:
        siblings = [p.name for p in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: {error.strerror or error}{nearest(path.name, siblings)}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """YAML text as a dictionary; ruamel.yaml speaks YAML 1.2 (`1e-3` is a number) and refuses a key given twice."""
    try:
        tree = YAML(typ="safe", pure=True).load(StringIO(text))
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: {(error.problem or 'not YAML').splitlines()[0]}") from None
    except RecursionError:
        raise ConfigError(f"{name}: nested too deep") from None
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{name}: not YAML: {str(error).splitlines()[0]}") from None
    if tree is None:
        raise ConfigError(f"{name}: is empty, expected keys and values ({{}} leaves all defaults)")
    if not isinstance(tree, dict):
        raise ConfigError(f"{name}: holds a {type(tree).__name__}, expected keys and values")
    return tree


def parse_override(override: str) -> tuple[str, Any]:
    """`a.b=value` as the key and the value that YAML gives it."""
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--set {shortened(override)}: expected key=value, such as --set train.max_steps=100")
    return key, parse_yaml(f"value: {text}", f"--set {shortened(override)}").get("value")


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key in a nested dictionary; a section that is not one yet becomes one."""
    *sections, last = key.split(".")
    for section in sections:
        inner = tree.get(section)
        if not isinstance(inner, dict):
            inner = tree[section] = {}
        tree = inner
    tree[last] = value


def validate(model: type[Settings], tree: Mapping[str, Any], name: str) -> Settings:
    """A tree as settings; the first mistake is the error, the others are counted."""
    try:
        return model.model_validate(_tuples(tree))
    except RecursionError:
        raise ConfigError(f"{name}: a key that refers to itself, or is nested too deep") from None
    except ValidationError as error:
        mistakes = error.errors()
        more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
        raise ConfigError(f"{name}: {explain(model, mistakes[0])}{more}") from None


def explain(model: type[Section], mistake: ErrorDetails) -> str:
    """One mistake in one line: the dotted key, what it holds, what was expected."""
    key = ".".join(str(part) for part in mistake["loc"])
    if mistake["type"] == "extra_forbidden":
        siblings = section_at(model, mistake["loc"][:-1]).model_fields
        near = nearest(str(mistake["loc"][-1]), siblings) or nearest(key, key_names(model))
        return f"unknown key {key!r}{near or '; known here: ' + ', '.join(siblings)}"
    if mistake["type"] == "invalid_key":
        known = section_at(model, mistake["loc"][:-1]).model_fields
        return f"key {key}: expected a name, one of {', '.join(known)}"
    if mistake["type"] == "model_type":
        section = section_at(model, mistake["loc"])
        return f"{key} is {in_yaml(mistake['input'])}: expected keys and values ({', '.join(section.model_fields)})"
    expected = mistake["msg"].removeprefix("Value error, ")
    if mistake["type"] == "string_pattern_mismatch":
        expected = f"expected {field_at(model, mistake['loc']).description}"
    expected = expected.replace("Input should be", "expected")
    if mistake["type"] == "value_error":
        return f"{key}: {expected}"
    held = mistake["input"]
    choices = mistake.get("ctx", {}).get("expected", "")
    words = str(choices).replace("'", "").replace(" or ", ", ").split(", ") if choices else []
    near = nearest(held, words) if isinstance(held, str) else ""
    return f"{key} is {in_yaml(held)}: {expected}{near}"


def in_yaml(value: Any) -> str:
    """A value as its file has it, for messages."""
    if isinstance(value, dict):
        return "keys and values"
    return (
        {None: "null", True: "true", False: "false"}[value]
        if value is None or isinstance(value, bool)
        else shortened(repr(value))
    )


def shortened(text: str) -> str:
    """At most some 80 characters of a text, for messages."""
    return text if len(text) <= 80 else f"{text[:77]}..."


def section_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel]:
    """The section that a path of keys leads to; the last one on the way where the path leaves the sections."""
    for part in location:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        candidates = [inner, *get_args(inner)]
        sections = [kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not sections:
            break
        model = sections[0]
    return model


def field_at(model: type[BaseModel], location: Sequence[str | int]) -> FieldInfo:
    """The field at the end of a path of keys; what is inside of it is its own."""
    section = section_at(model, location)
    return next(section.model_fields[str(part)] for part in reversed(location) if str(part) in section.model_fields)


def key_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a settings model."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from key_names(inner, f"{prefix}{name}.")
        else:
            yield prefix + name


def _saved(text: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except (TypeError, ValueError):
        tree = None
    if not isinstance(tree, dict):
        raise ConfigError("the checkpoint that is resumed holds no settings of a run")
    return tree


def _tuples(tree: Any) -> Any:
    """YAML has lists only; the strict settings have tuples."""
    if isinstance(tree, Mapping):
        return {key: _tuples(value) for key, value in tree.items()}
    return tuple(tree) if isinstance(tree, list) else tree

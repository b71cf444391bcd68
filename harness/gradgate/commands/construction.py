"""How an adapter makes an instance of a trainer's class: its arguments, and the configuration among them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from gradgate.commands.methods import is_of_the_trainer
from gradgate.commands.rewriting import alias_of

CONFIG = re.compile(r"^(c|cfg|conf|config|configuration|args|hparams|settings|opts?)$|_(cfg|config|args)$")
_CONFIGURES = re.compile(r"config|settings|args|options|hparams", re.IGNORECASE)
_LOADS = re.compile(r"load|from_|read|parse|get|make|build|create", re.IGNORECASE)
_FILE = re.compile(r"path|file|yaml|json|toml")
_SMALL_FILE = re.compile(r"small|tiny|debug|smoke|toy|test|mini")
_FOLDERS, _ENDS = ("configs", "config", "conf"), (".yaml", ".yml", ".json", ".toml")
GIVEN = ("seed", "device", "dtype")
# What makes a run small, by the last word of a key of the configuration.
SMALL = {
    16: r"d_model|width|dim|n_embd|hidden|hidden_size|hidden_dim|embed_dim|model_dim",
    2: r"n_layers?|num_layers|layers|num_hidden_layers|depth|n_heads?|num_heads|num_attention_heads",
    4: r"batch_size|train_batch_size|per_device_train_batch_size",
    1: r"grad_accum|accum_steps|grad_accum_steps|accumulation_steps|gradient_accumulation_steps",
}
_WRITTEN = re.compile(r"^(out|output|save|checkpoint|ckpt|log|run)_?(dir|path|folder|root)$")
_PLACED = re.compile(r"(^|_)(path|file|dir|folder|root)$")


@dataclass
class Construction:
    """What makes the trainer in an adapter.

    Args:
        imports: lines.
        constants: lines behind them.
        lines: of `__init__`, up to where `self.trainer` is there.
        config: whether there is a CONFIG.
    """

    imports: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    config: bool = False


def construction(module: str, kind: type[Any]) -> Construction:
    """How to make an instance of a class that the adapter knows as one of that module."""
    made, arguments = Construction(), []
    for given in _parameters(kind):
        if given.name in GIVEN:
            arguments.append(f"{given.name}={given.name}")
        elif given.default is given.empty and not made.config and _is_config(kind, given):
            made.config = True
            _configure(made, module, given.name, _annotation(kind, given.name))
            arguments.append("self.config" if not arguments else f"{given.name}=self.config")
        elif given.default is given.empty:
            what = getattr(given.annotation, "__name__", str(given.annotation))
            of = "" if given.annotation is given.empty else f", {what}"
            made.lines.append(f"{given.name} = ...  # REPLACE: what {kind.__name__} takes for it{of}, small")
            arguments.append(f"{given.name}={given.name}")
    comment = "" if made.config or arguments else "  # REPLACE: small"
    made.lines.append(f"self.trainer = {alias_of(module)}.{kind.__qualname__}({', '.join(arguments)}){comment}")
    return made


def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    try:
        return [given for given in inspect.signature(kind).parameters.values() if given.kind in named]
    except (TypeError, ValueError):
        return []


def _is_config(kind: type[Any], given: inspect.Parameter) -> bool:
    found = _annotation(kind, given.name)
    return bool(CONFIG.search(given.name)) or (found is not None and bool(_CONFIGURES.search(found.__name__)))


def _annotation(kind: type[Any], name: str) -> type[Any] | None:
    """The class of an argument, as the constructor of the class or of a base has it."""
    for base in inspect.getmro(kind):
        found = hints_of(base.__dict__.get("__init__")).get(name)
        if inspect.isclass(found) and is_of_the_trainer(found):
            return found
    return None


def hints_of(holder: Any) -> dict[str, Any]:
    """The annotations of a class or a function; none where one cannot be looked up."""
    try:
        return get_type_hints(holder)
    except (NameError, TypeError, AttributeError):
        return {}


def _configure(made: Construction, module: str, name: str, kind: type[Any] | None) -> None:
    """A CONFIG, and the copy of it that a run is started with."""
    root = root_of(module)
    keys = dict(keys_of(kind)) if kind is not None else {}
    settings = dict(moved(keys, root))
    if kind is None:
        made.constants.append(f"CONFIG = ...  # REPLACE: a small `{name}`, as your script makes it for the trainer")
    else:
        made.constants.append(f"CONFIG = {loaded(made, kind, root)}")
    place_root(made, module, [*made.constants, *settings.values()])
    place_settings(made, settings, is_known=kind is not None)
    made.lines.append("self.config = gradgate.configured(CONFIG, settings)")


def place_root(made: Construction, module: str, texts: Iterable[str]) -> None:
    """The folder of a module as ROOT, where one of some texts names it."""
    if any("ROOT" in text for text in texts):
        made.imports.append("from pathlib import Path")
        up = module.count(".")
        made.constants.insert(0, f"ROOT = Path({alias_of(module)}.__file__).resolve().parents[{up}]")


def place_settings(made: Construction, settings: Mapping[str, str], *, is_known: bool = True) -> None:
    """What a run is started with: numbers as SMALL, the rest in `settings`.

    Args:
        made: gets them.
        settings: key -> value, as text.
        is_known: whether the keys of the configuration are; else there is no SMALL.
    """
    made.imports += ["from pathlib import Path"] * any("Path(mk" in value for value in settings.values())
    made.imports += ["from tempfile import mkdtemp"] * any("mkdtemp" in value for value in settings.values())
    small = {key: value for key, value in settings.items() if value.replace("_", "").isdigit()}
    if is_known:
        text = "".join(f'\n    "{key}": {value},' for key, value in small.items()) + "\n" * bool(small)
        made.constants.append(f"SMALL = {{{text}}}  # REPLACE: what makes a step take milliseconds")
    started = [f'"{key}": {value}' for key, value in settings.items() if key not in small]
    entries = [*(["**SMALL"] if is_known else []), *started, "**(options or {})"]
    made.lines += ["settings = {", *(f"    {each}," for each in entries), "}"]


def loaded(made: Construction, kind: type[Any], root: Path | None) -> str:
    """The call that gives a configuration: of a function or a classmethod that gives one, else of the class."""
    there = sys.modules[kind.__module__]
    functions = [found for found in vars(there).values() if inspect.isfunction(found) and _gives(found, kind)]
    for found in sorted(functions, key=lambda each: not _LOADS.search(each.__name__)):
        made.imports.append(f"from {kind.__module__} import {found.__name__}")
        return f"{found.__name__}({_arguments(found, root)})"
    made.imports.append(f"from {kind.__module__} import {kind.__name__}")
    for name, found in vars(kind).items():
        if isinstance(found, classmethod) and _LOADS.match(name):
            return f"{kind.__name__}.{name}({_arguments(getattr(kind, name), root)})"
    return f"{kind.__name__}({_arguments(kind, root)})"


def _gives(function: Any, kind: type[Any]) -> bool:
    is_public = not function.__name__.startswith("_") and function.__module__ == kind.__module__
    return is_public and hints_of(function).get("return") is kind


def _arguments(function: Any, root: Path | None) -> str:
    """A file of configuration, where the first argument is one; `...` for what else has to be given."""
    found, file = [], _config_file(root)
    for number, given in enumerate(inspect.signature(function).parameters.values()):
        if number == 0 and file and _FILE.search(given.name):
            found.append(f'str(ROOT / "{file}")')
        elif given.default is given.empty and given.kind not in (given.VAR_POSITIONAL, given.VAR_KEYWORD):
            found.append(f"{given.name}=...")
    return ", ".join(found)


def root_of(module: str) -> Path | None:
    """The folder that a module is imported from."""
    file = getattr(sys.modules[module], "__file__", None)
    return Path(file).resolve().parents[module.count(".")] if file else None


def _config_file(root: Path | None) -> str:
    """A file that looks like a configuration, relative to the folder; one of a small run first."""
    for folder in [root / name for name in _FOLDERS] if root is not None else []:
        there = sorted(path for path in folder.glob("*") if path.suffix in _ENDS)
        if there:
            found = min(there, key=lambda path: not _SMALL_FILE.search(path.stem))
            return f"{folder.name}/{found.name}"
    return ""


def keys_of(kind: type[Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key -> default of what a configuration's classes declare; of one without a default None."""
    fields = {each.name: each.default for each in dataclasses.fields(kind)} if dataclasses.is_dataclass(kind) else {}
    for name, annotation in hints_of(kind).items():
        if inspect.isclass(annotation) and annotation is not kind and is_of_the_trainer(annotation):
            yield from keys_of(annotation, f"{before}{name}.")
        else:
            default = fields.get(name, getattr(kind, name, None))
            yield before + name, default if isinstance(default, bool | int | float | str) else None


def moved(keys: dict[str, Any], root: Path | None) -> Iterator[tuple[str, str]]:
    """What each key that a small run is started with is set to, as text."""
    for key, default in keys.items():
        word = key.rpartition(".")[2]
        small = [number for number, words in SMALL.items() if re.fullmatch(words, word)]
        if word in GIVEN[:2]:
            yield key, word
        elif _WRITTEN.search(word):
            yield key, "mkdtemp()"
        elif isinstance(default, str) and _PLACED.search(word) and root is not None and default:
            if (root / default).exists():
                yield key, f"str(ROOT / CONFIG.{key})"
        elif isinstance(default, int) and small:
            yield key, str(small[0])

"""The mappings that a trainer's source saves, where they are written down."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from gradgate.checks.resuming import holds_optimizer
from gradgate.checks.source_values import assignments_in, last_name
from gradgate.checks.trainer_source import File, Function, called_name, calls_in, dotted

LOADS = ("torch.load", "load_file", "safetensors.torch.load_file")
SAVES = ("torch.save", "save_file", "safetensors.torch.save_file")
TOLD = re.compile(  # to whoever opens the file
    r"^(config|cfg|recipe|monitor|args|hparams|hyper_?parameters|settings|stage|version|format|meta(data)?|date|time(stamp)?|git\w*|host\w*)$"
)
OF_RUN = re.compile(r"config|cfg|args$|setting|experiment|hparams|hyper|option|recipe", re.IGNORECASE)
FIGURES = re.compile(
    r"^(metrics?|figures|held_out|eval\w*|(val|train|eval|test)_(loss|acc\w*|score|metrics?))$", re.IGNORECASE
)
WRITTEN_OUT = ("model_dump", "asdict", "to_dict", "dict", "vars", "to_container", "as_dict", "model_dump_json", "dumps")
TIMES = ("now", "utcnow", "strftime", "isoformat", "gethostname", "getuser", "check_output", "version")


@dataclass(frozen=True)
class Saved:
    """A mapping that is saved: its keys, and where."""

    file: File
    call: ast.expr
    function: str
    entries: dict[str, ast.expr]


def saved_in(file: File) -> Iterator[Saved]:
    """The mappings that `torch.save` is given, where they are written down."""
    return _given_to(file, SAVES)


def handed_to_savers(files: tuple[File, ...]) -> Iterator[Saved]:
    """The mappings that the trainer's own functions are given which save what they are given first."""
    savers = {
        function.name
        for file in files
        for function, _ in file.functions
        for call in calls_in(function)
        if dotted(call.func) in SAVES and call.args and dotted(call.args[0]) in _first_parameter(function)
    }
    return (one for file in files if savers for one in _given_to(file, savers))


def _first_parameter(function: Function) -> list[str]:
    return [each.arg for each in function.args.args if each.arg not in ("self", "cls")][:1]


def _given_to(file: File, called: Collection[str]) -> Iterator[Saved]:
    """The mappings that some functions are given first, where they are written down."""
    for function, _ in file.functions:
        nodes = list(ast.walk(function))
        for call in nodes:
            if isinstance(call, ast.Call) and dotted(call.func) in called and call.args:
                given = _mapping(_held(call.args[0], nodes))
                if isinstance(given, ast.Dict):
                    yield Saved(file, call, function.name, entries_of(given))


def returned_in(file: File) -> Iterator[Saved]:
    """The mappings with an optimizer's state that functions give back, for others to save.

    Those of a `state_dict` have a method of their own that reads them.
    """
    for function, _ in file.functions:
        if function.name == "state_dict":
            continue
        nodes = list(ast.walk(function))
        for node in nodes:
            given = _mapping(_held(node.value, nodes)) if isinstance(node, ast.Return) else None
            if isinstance(given, ast.Dict):
                entries = entries_of(given)
                if holds_optimizer(entries.values()):
                    yield Saved(file, given, function.name, entries)


def _held(given: ast.expr | None, nodes: Iterable[ast.AST]) -> ast.expr | None:
    """An expression, or what a name that it is was first assigned among a function's nodes."""
    if not isinstance(given, ast.Name):
        return given
    return next((value for name, value in assignments_in(nodes) if dotted(name) == given.id), given)


def _mapping(given: ast.expr | None) -> ast.expr | None:
    """An expression, and of `dict(model=...)` the same as it is written in braces."""
    if not (isinstance(given, ast.Call) and dotted(given.func) == "dict" and given.keywords and not given.args):
        return given
    keys = [None if word.arg is None else ast.copy_location(ast.Constant(word.arg), given) for word in given.keywords]
    return ast.copy_location(ast.Dict(list(keys), [word.value for word in given.keywords]), given)


def entries_of(mapping: ast.Dict) -> dict[str, ast.expr]:
    """The entries of a mapping whose keys are written down."""
    keys = zip(mapping.keys, mapping.values, strict=True)
    return {str(key.value): value for key, value in keys if isinstance(key, ast.Constant)}


def is_record(key: str, value: ast.expr) -> bool:
    """Whether an entry tells whoever opens the file of the run, and is no state: its configuration, its versions, when
    and where it ran, a figure."""
    if TOLD.search(key) or FIGURES.search(key) or (isinstance(value, ast.Constant) and isinstance(value.value, str)):
        return True
    called = called_name(value)
    if called in TIMES or dotted(value) == "torch.__version__" or (called and dotted(value.func) == "time.time"):  # type: ignore[attr-defined]
        return True
    inside = [part for part in ast.walk(value) if isinstance(part, ast.Name | ast.Attribute)]
    return (not called or called in WRITTEN_OUT) and any(OF_RUN.search(last_name(part)) for part in inside)

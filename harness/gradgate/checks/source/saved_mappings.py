"""The mappings that a trainer's source saves, where they are written down."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import places_in
from gradgate.checks.source.resuming import holds_optimizer
from gradgate.checks.source.trainer import File, Function, called_name, calls_in, dotted
from gradgate.checks.source.values import assignments_in, last_name

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
    """The mappings that the trainer's own functions are given which save what they are given."""
    own = places_in(files)
    savers = {
        place: name
        for place in own.functions
        for call in calls_in(place.function)
        if dotted(call.func) in SAVES and call.args and (name := dotted(call.args[0])) in place.parameters
    }
    names = {place.name for place in savers}
    for place in own.functions if savers else ():
        for call in (node for node in ast.walk(place.function) if isinstance(node, ast.Call)):
            if called_name(call) not in names:
                continue
            called = own.called(call, place)
            alike = [each for each in savers if each.name == called_name(call) and isinstance(call.func, ast.Attribute)]
            saver = called or (alike[0] if len(alike) == 1 else None)  # of several methods, one that saves
            given = saver.given(call).get(savers[saver]) if saver is not None and saver in savers else None
            for one in _mapping_given(given, call, place.file, place.function) if given is not None else ():
                if called is not None or holds_optimizer(one.entries.values()):
                    yield one


def _given_to(file: File, called: Collection[str]) -> Iterator[Saved]:
    """The mappings that some functions are given first, where they are written down."""
    for function, _ in file.functions:
        for call in ast.walk(function):
            if isinstance(call, ast.Call) and dotted(call.func) in called and call.args:
                yield from _mapping_given(call.args[0], call, file, function)


def _mapping_given(given: ast.expr, call: ast.Call, file: File, function: Function) -> Iterator[Saved]:
    """The mapping that a call is given, where it is written down, with what is put into it in front of the call."""
    nodes = list(ast.walk(function))
    mapping = _mapping(_held(given, nodes))
    if isinstance(mapping, ast.Dict):
        entries = entries_of(mapping)
        for target, value in assignments_in(nodes) if isinstance(given, ast.Name) else ():
            key = target.slice if isinstance(target, ast.Subscript) else None
            is_put = isinstance(target, ast.Subscript) and dotted(target.value) == dotted(given)
            if is_put and isinstance(key, ast.Constant) and isinstance(key.value, str) and value.lineno <= call.lineno:
                entries.setdefault(key.value, value)
        yield Saved(file, call, function.name, entries)


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

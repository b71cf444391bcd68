"""Records whose fields a function saves one by one, and the best score among them that it leaves out."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.best_scores import BEST, WHOLE
from gradgate.checks.source.resuming import holds_optimizer
from gradgate.checks.source.score_keepers import Held
from gradgate.checks.source.trainer import File, Function, dotted
from gradgate.checks.source.values import ORDERS, assignments_in

LEAST = 2  # fields that stand in a mapping as they are, for its record to be saved one by one


def lost_scores(files: tuple[File, ...]) -> Iterator[Held]:
    """Best scores that are compared as a record's, where its other fields are saved with the optimizer's state."""
    compared = sorted({field for file in files for field in _compared(file)})
    for file in files if compared else ():
        for function, _ in file.functions:
            for mapping in (node for node in ast.walk(function) if isinstance(node, ast.Dict)):
                record, fields = _record(mapping)
                if not record or _is_whole(function, record):
                    continue
                for field in compared:
                    if field not in fields and not any(_names(each, field) for each in files):
                        yield Held(file, f"{record}.{field}", "a record", function)


def _compared(file: File) -> Iterator[str]:
    """The fields of records that hold a best score: compared by order, and assigned somewhere."""
    if not file.has("best", "lowest", "highest"):
        return
    given = {dotted(target) for target, _ in assignments_in(file.nodes)}
    for node in file.nodes:
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ORDERS):
            for side in (node.left, *node.comparators):
                base, _, field = dotted(side).rpartition(".")
                if base not in ("", "self") and BEST.search(field) and dotted(side) in given:
                    yield field


def _record(mapping: ast.Dict) -> tuple[str, set[str]]:
    """What a mapping with an optimizer's state takes fields of, and these fields; empty: no record."""
    if not holds_optimizer(mapping.values):
        return "", set()
    bases = [dotted(value).rpartition(".")[0] for value in mapping.values if isinstance(value, ast.Attribute)]
    base = max(bases, key=bases.count, default="")
    if base in ("", "self") or bases.count(base) < LEAST:
        return "", set()
    attributes = (node for value in mapping.values for node in ast.walk(value) if isinstance(node, ast.Attribute))
    return base, {node.attr for node in attributes if dotted(node.value) == base}


def _is_whole(function: Function, record: str) -> bool:
    """Whether a function takes all that a record has."""
    calls = (node for node in ast.walk(function) if isinstance(node, ast.Call))
    return any(dotted(call.func) in WHOLE[:-1] and record in map(ast.unparse, call.args) for call in calls)


def _names(file: File, field: str) -> bool:
    """Whether a file has a text that is the field's name: as a key of what is saved, or of what is read."""
    return any(isinstance(node, ast.Constant) and node.value == field for node in file.nodes)

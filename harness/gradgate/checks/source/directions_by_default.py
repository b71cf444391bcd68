"""Scores that transformers' Trainer goes by, where nothing says whether the larger is the better one."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

from gradgate.checks.source.places import Places
from gradgate.checks.source.settings import yaml_files
from gradgate.checks.source.trainer import File, called_name
from gradgate.checks.source.values import last_name, text_of
from gradgate.core.finding import Location
from gradgate.subjects.contract import Subject

SCORE, WAY = "metric_for_best_model", "greater_is_better"
ARGUMENTS = ("TrainingArguments", "Seq2SeqTrainingArguments")
SMALLER = "loss"  # at the end of a name: the smaller is the better one


def directions_by_default(files: tuple[File, ...], own: Places, subject: Subject) -> Iterator[tuple[Location, str]]:
    """The names of scores of which the larger is kept, since they do not end in "loss", each with where it stands.

    Those of calls, of arguments that calls give, of mappings, fields and YAML files; not where that one, the class or
    its family, or an assignment to arguments says which way is the better one, or where more may be given.
    """
    if not any(file.has(*ARGUMENTS) for file in files) or any(_is_set_outside(file) for file in files):
        return
    family = _of_arguments(own)
    told = {name for name in family for one in own.classes.get(name, ()) if _fields(one).get(WAY) is not None}
    for file in files if not told else ():
        for node in file.nodes if file.has(SCORE) else ():
            if isinstance(node, ast.ClassDef) and node.name in family:
                value = _fields(node).get(SCORE)
            elif isinstance(node, ast.Call) and called_name(node) in (*ARGUMENTS, *family):
                value = _alone({word.arg or "": word.value for word in node.keywords})
            elif isinstance(node, ast.Dict):
                pairs = zip(node.keys, node.values, strict=True)
                value = _alone({str(getattr(key, "value", "")): value for key, value in pairs})
            else:
                continue
            for at, name in _texts(value, file, own):
                if not name.endswith(SMALLER):
                    yield at, name
    for path, text, content in yaml_files(subject) if not told else ():
        for name in _in_yaml(content):
            line = next((at for at, each in enumerate(text.splitlines(), 1) if SCORE in each and name in each), 1)
            yield Location(str(path), line, "", text.splitlines()[line - 1].strip()), name


def _texts(value: ast.expr | None, file: File, own: Places) -> Iterator[tuple[Location, str]]:
    """The text that a score is called by and where it stands, also what calls give an argument."""
    if text := text_of(value):
        yield file.at(value), text
    elif isinstance(value, ast.Name):
        around = (place for place in own.functions if place.file is file and value.id in place.parameters)
        for place in around:
            if any(node is value for node in place.nodes) and place.names.held(value) is value:
                for caller, given in own.values_given(place, value.id):
                    if text := text_of(given):
                        yield caller.file.at(given, caller.name), text


def _is_set_outside(file: File) -> bool:
    """Whether a file gives `greater_is_better` to something by itself: an object, a mapping or an argument."""
    if not file.has(WAY):
        return False
    for node in file.nodes:
        is_stored = isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store)
        if is_stored and last_name(node) == WAY:
            return True
        if isinstance(node, ast.Call) and any(text_of(each) in (WAY, f"--{WAY}") for each in node.args):
            return True
        of_other = isinstance(node, ast.Call) and called_name(node) not in ARGUMENTS
        if of_other and any(word.arg == WAY for word in node.keywords):  # type: ignore[attr-defined]
            return True
    return False


def _of_arguments(own: Places) -> set[str]:
    """The classes below transformers' arguments."""
    found: set[str] = set()
    while (
        more := {
            name
            for name, same in own.classes.items()
            for one in same
            if {last_name(base) for base in one.bases} & {*ARGUMENTS, *found}
        }
        - found
    ):
        found |= more
    return found


def _fields(owner: ast.ClassDef) -> dict[str, ast.expr]:
    """The fields of a class, each with its default, in `field(default=...)` too."""
    found: dict[str, ast.expr] = {}
    for part in owner.body:
        if isinstance(part, ast.AnnAssign | ast.Assign) and part.value is not None:
            target = part.target if isinstance(part, ast.AnnAssign) else part.targets[0]
            words = {word.arg: word.value for word in part.value.keywords} if isinstance(part.value, ast.Call) else {}
            found[last_name(target)] = words.get("default", part.value)
    return found


def _alone(words: Mapping[str, ast.expr]) -> ast.expr | None:
    """The score among what is given, where neither its way nor anything else may be given as well."""
    return None if WAY in words or "" in words else words.get(SCORE)


def _in_yaml(content: object) -> Iterator[str]:
    if isinstance(content, Mapping):
        name = content.get(SCORE)
        if isinstance(name, str) and WAY not in content and not name.endswith(SMALLER):
            yield name
        for inner in content.values():
            yield from _in_yaml(inner)

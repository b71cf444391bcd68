"""Seeds of a trainer that calls leave to their defaults, though its configuration has one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.setting_names import is_of_settings
from gradgate.checks.source.settings import SETTINGS
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import assignments_in, defaults_of, last_name, outwards, parents_in

SEED = re.compile(r"^_?((random|shuffle|split|data|rng|base|global|order|sampling|sampler)_?)?seed$|^random_state$")
DRAWS = re.compile(
    r"shuffl|Random\(|manual_seed|default_rng|RandomState|randperm|permutation|sampl|\bseed\(|random\.seed|PCG64|Philox"
)
ASIDE = re.compile(
    r"(^|_)(e?val|eval\w*|valid\w*|test\w*|held_?out|dev|probe|demo|example|bench\w*|smoke|debug|sanity|main_test|fixed"
    r"|selfcheck|self_check|dummy|synth\w*|toy|fake)(_|$)|Eval|Valid|Test|Probe",
)


@dataclass(frozen=True)
class SeedLeft:
    """A call that leaves a seed to its default.

    Args:
        place: the function that it stands in.
        call: itself.
        argument: the seed's name.
        default: what it goes by.
        setting: where the run's seed is given to something else.
    """

    place: Place
    call: ast.Call
    argument: str
    default: str
    setting: tuple[Place, ast.expr]


def seeds_left_out(own: Places) -> Iterator[SeedLeft]:
    """The calls of what draws by a seed of its own that are not given the run's."""
    setting = next(_given_seeds(own), None)
    if setting is None:
        return
    seeded = dict(_seeded(own))
    for here in own.functions if seeded else ():
        for node in here.nodes:
            if not isinstance(node, ast.Call) or (made := called_name(node)) not in seeded:
                continue
            place, argument, default = seeded[made]
            if place is not None and own.called(node, here) is not place:
                continue
            if here is place or _gives(node, argument, place) or _is_aside(node, here) or _is_set(node, here):
                continue
            yield SeedLeft(here, node, argument, default, setting)


def _given_seeds(own: Places) -> Iterator[tuple[Place, ast.expr]]:
    """The settings that are the run's seed, where something is given them."""
    for place in own.all:
        for call in (node for node in place.nodes if isinstance(node, ast.Call)) if place.file.has("seed") else ():
            for given in given_by(call):
                held = place.names.held(given)
                for part in (given, held):
                    named = isinstance(part, ast.Attribute | ast.Subscript) and SEED.search(last_name(part))
                    if named and is_of_settings(part.value, place, own):  # type: ignore[attr-defined]
                        yield place, part


def _seeded(own: Places) -> Iterator[tuple[str, tuple[Place | None, str, str]]]:
    """What draws by a seed that has a number for its default: functions, and classes by their names."""
    for place in own.functions:
        name = place.owner.name if place.owner is not None and place.name == "__init__" else place.name
        text = _text(
            place.file.lines, place.owner if name != place.name and place.owner is not None else place.function
        )
        for argument, value in defaults_of(place.function.args):
            if SEED.search(argument.arg) and _is_number(value) and DRAWS.search(text):
                yield name, (place, argument.arg, ast.unparse(value))
    for file in {place.file for place in own.all}:
        for node in (each for each in file.nodes if isinstance(each, ast.ClassDef)):
            if not _is_record(node) or not DRAWS.search(_text(file.lines, node)):
                continue
            for target, value in assignments_in(each for each in node.body if isinstance(each, ast.AnnAssign)):
                if SEED.search(dotted(target)) and _is_number(value):
                    yield node.name, (None, dotted(target), ast.unparse(value))


def _is_record(node: ast.ClassDef) -> bool:
    """Whether a class is made of its fields, does something with them, and is no configuration."""
    made = any(re.search(r"dataclass|define", ast.unparse(each)) for each in node.decorator_list)
    acts = any(isinstance(each, ast.FunctionDef) for each in node.body)
    return made and acts and not node.name.lower().endswith(SETTINGS)


def _text(lines: Sequence[str], node: ast.stmt) -> str:
    return "\n".join(lines[node.lineno - 1 : node.end_lineno])


def _is_number(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, int) and not isinstance(value.value, bool)


def _gives(call: ast.Call, argument: str, place: Place | None) -> bool:
    """Whether a call gives the seed, or may, or gives a generator instead."""
    if any(isinstance(each, ast.Starred) for each in call.args) or any(word.arg is None for word in call.keywords):
        return True
    words = {word.arg for word in call.keywords}
    if argument in words or any(re.search(r"seed|rng|generator|random", str(word)) for word in words):
        return True
    positional = place.positional.index(argument) if place is not None and argument in place.positional else 99
    told = any(re.search(r"seed|rng|generator", ast.unparse(each)) for each in call.args)
    return len(call.args) > positional or told


def _is_aside(call: ast.Call, here: Place) -> bool:
    """Whether a call is for an evaluation or a test, which may well draw alike in each run."""
    parents = parents_in(here.function)
    told = [here.name, called_name(call), *(dotted(each) for each in given_by(call))]
    for around in outwards(call, parents):
        if isinstance(around, ast.Assign):
            told += [ast.unparse(target) for target in around.targets]
        elif isinstance(around, ast.AnnAssign):
            told.append(ast.unparse(around.target))
        elif isinstance(around, ast.keyword):
            told.append(str(around.arg))
    return any(ASIDE.search(part) for each in told for part in each.split("."))


def _is_set(call: ast.Call, here: Place) -> bool:
    """Whether what is made is given a seed behind that."""
    names = {dotted(target) for target, value in assignments_in(here.nodes) if value is call} - {""}
    for node in here.nodes:
        target = getattr(node, "func", None) if isinstance(node, ast.Call) else node
        if isinstance(target, ast.Attribute) and "seed" in target.attr and dotted(target.value) in names:
            return True
    return False

"""Trainers that go on from a checkpoint and draw at random, and keep no random state."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradgate.checks.source.dropouts import RATE, drops
from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.resuming import holds_optimizer, loads_optimizer
from gradgate.checks.source.saved_mappings import Saved, returned_in
from gradgate.checks.source.trainer import File, dotted
from gradgate.checks.source.values import assignments_in, defaults_of

KEPT = re.compile(
    r"rng_?states?|random_?state|getstate|get_state\(|save_state\(|generator_state"
    r"|[\"']\w*(rng|random)\w*[\"']\s*[:\]]",
    re.IGNORECASE,
)
KINDS = {  # of generators: what takes its state, and what draws from it
    "torch": (
        re.compile(r"get_rng_state|torch\.random\.|(?<!random)\.get_state\(|generator_state|default_generator", re.I),
        re.compile(r"^torch\."),
    ),
    "python's own": (re.compile(r"getstate\("), re.compile(r"^random\.")),
    "numpy": (re.compile(r"random\.get_state\(|bit_generator", re.I), re.compile(r"^(np|numpy)\.")),
}
LIBRARY = re.compile(r"^\s*(from|import) (lightning|pytorch_lightning|accelerate|deepspeed|ignite|composer)\b")
OF_LIBRARY = re.compile(r"\b(Seq2Seq)?Trainer\(|\b(SFT|DPO|PPO|GRPO)Trainer\b")
SEED_OF_PLACE = re.compile(  # not one of a generator of its own
    r"(?<![\w.])((torch|cuda|random|np|numpy|self|utils|\w*seed\w*)\.)*\w*seed\w*\(.*(epoch|step|iter)|fold_in\(|fork_rng\(",
    re.I,
)
DRAWS = re.compile(
    r"^(torch\.(rand|randn|randint|randperm|multinomial|bernoulli|normal|rand_like|randn_like|randint_like)"
    r"|random\.(random|randint|choice|choices|sample|shuffle|uniform|gauss|randrange)"
    r"|(np|numpy)\.random\.(rand|randn|randint|random|choice|permutation|shuffle|normal|uniform))$"
)
TAKES = re.compile(
    r"^(random\.getstate|(np|numpy)\.random\.get_state|torch\.(cuda\.)?(random\.)?get_rng_state(_all)?)$"
)
ALL = re.compile("")
DEPTH = 3  # calls that are followed


def without_random_state(files: tuple[File, ...], saved: list[Saved]) -> Iterator[tuple[File, ast.AST, str, str]]:
    """The checkpoint of a trainer that loads an optimizer's state to go on, draws, and takes no random state."""
    given = [*saved, *(one for file in files for one in returned_in(file))]
    whole = next((one for one in given if holds_optimizer(one.entries.values())), None)
    if whole is None or not any(map(_goes_on, places_in(files).all)):
        return
    lines = [line.partition("#")[0] for file in files for line in file.lines]
    if any(pattern.search(line) for line in lines for pattern in (LIBRARY, OF_LIBRARY, SEED_OF_PLACE)):
        return
    if any(map(KEPT.search, lines)):
        yield from _without_a_kind(files, lines)
        return
    if (draws := _drawing(files)) is not None:
        told = f"the checkpoint holds the optimizer and no random state, and {draws}: a run that is resumed from it "
        yield whole.file, whole.call, whole.function, f"{told}draws what it drew at its start"


def _without_a_kind(files: tuple[File, ...], lines: list[str]) -> Iterator[tuple[File, ast.AST, str, str]]:
    """What takes the states of some generators, where another one draws in training."""
    kept = [name for name, (takes, _) in KINDS.items() if any(map(takes.search, lines))]
    for name, (_, draws_by) in KINDS.items() if kept else ():
        draws = _drawing(files, draws_by) if name not in kept else None
        where = _taken(files) if draws is not None else None
        if where is not None:
            place, node = where
            told = f"the random state that {place.name}() takes is of {' and '.join(kept)} alone, and {draws} by {name}"
            yield place.file, node, place.name, f"{told}: a run that is resumed draws other numbers"


def _taken(files: tuple[File, ...]) -> tuple[Place, ast.Call] | None:
    """The function that takes the state of a generator."""
    for place in places_in(files).functions:
        for node in place.nodes if place.file.has("state(") else ():
            if isinstance(node, ast.Call) and TAKES.search(dotted(node.func)):
                return place, node
    return None


def _goes_on(place: Place) -> bool:
    return place.file.has("load_state_dict(") and bool(loads_optimizer(place.nodes))


def _drawing(files: tuple[File, ...], by: re.Pattern[str] = ALL) -> str | None:
    """What draws in training, by these names; None: nothing that is seen."""
    asked = [file for file in files if file.has("rop", "Transformer")] if by.search("torch.dropout") else []
    zero = _zero(files) if asked else frozenset()
    dropping = next((file for file in asked if drops(file.tree, zero)), None)
    if dropping is not None:
        return f"{dropping.path.name} has dropout"
    own = places_in(files)
    for place in own.functions:
        if place.file.has(".backward("):
            calls = [node for node in place.nodes if isinstance(node, ast.Call)]
            if any(isinstance(call.func, ast.Attribute) and call.func.attr == "backward" for call in calls):
                for call in (call for call in _draws(place, own, DEPTH) if by.search(dotted(call.func))):
                    return f"`{ast.unparse(call)}` draws in training"
    return None


def _draws(place: Place, own: Places, depth: int) -> Iterator[ast.Call]:
    """The draws from a global generator of a function, or of those that it calls."""
    for node in place.nodes:
        if isinstance(node, ast.Call):
            if DRAWS.search(dotted(node.func)) and all(word.arg != "generator" for word in node.keywords):
                yield node
            elif depth and (called := own.called(node, place)) is not None and called.name != "__init__":
                yield from _draws(called, own, depth - 1)


def _zero(files: tuple[File, ...]) -> frozenset[str]:
    """The names of rates that are 0 wherever they are given a number that is written down."""
    given: dict[str, list[bool]] = {}
    for file in files:
        for node in file.nodes:
            for name, value in _named(node):
                if RATE.search(name) and isinstance(value, ast.Constant) and isinstance(value.value, int | float):
                    given.setdefault(name, []).append(not value.value)
    return frozenset(name for name, numbers in given.items() if all(numbers))


def _named(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """What a node gives a value under a name: a field, an attribute, a keyword, the default of an argument."""
    if isinstance(node, ast.keyword) and node.arg:
        yield node.arg, node.value
    elif isinstance(node, ast.arguments):
        yield from ((argument.arg, default) for argument, default in defaults_of(node))
    else:
        for target, value in assignments_in([node]):
            inside = value
            if isinstance(value, ast.Call):  # `Field(0.0)`, `Field(default=0.0)`
                told = [*value.args[:1], *(word.value for word in value.keywords if word.arg == "default")]
                inside = told[0] if told else value
            yield dotted(target).rpartition(".")[2], inside

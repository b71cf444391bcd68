"""What a trainer's source restores on a resume, for the checks that look at what it does behind that."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.objects_in_turn import given_members, in_turn, is_optimizer, kept_members
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.references import kinds_of, meant, model_named
from gradgate.checks.source.trainer import dotted, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in, blocks_in, places_of

FIRST = frozenset({"reference", "initial", "anchor"})  # kinds that stay as they are
RESUMES = re.compile(r"resum|restor|restart|latest|continu|last_ckpt|last_checkpoint", re.IGNORECASE)
OPTIMIZER = re.compile(r"optim|(^|[._])opt\d?$", re.IGNORECASE)
NO_MODEL = re.compile(r"optim|opt\d?$|sched|scaler|loader|sampler|ema|stop|meter|stat|rng|metric|norm", re.IGNORECASE)
PROGRESS = re.compile(r"(^|[._])(global_)?(step|epoch|iteration|iter)s?(_\w+)?$")
DEPTH = 3  # calls that are followed


@dataclass(frozen=True)
class Loaded:
    """What is loaded: by the names that models and optimizers have where it is asked."""

    models: frozenset[str] = frozenset()
    optimizers: frozenset[str] = frozenset()
    progress: bool = False
    mappings: tuple[ast.expr, ...] = ()  # that the function is given, and loads the objects of in turn

    def __or__(self, other: Loaded) -> Loaded:
        models, optimizers = self.models | other.models, self.optimizers | other.optimizers
        return Loaded(models, optimizers, self.progress or other.progress, (*self.mappings, *other.mappings))


class Restores:
    """What is restored, in the order in which it happens.

    Args:
        own: the trainer's functions.
    """

    def __init__(self, own: Places) -> None:
        self.own = own
        self._known: dict[tuple[int, int], Loaded] = {}

    def blocks(self, place: Place) -> list[list[ast.stmt]]:
        """The lists of statements of a function, without those in loops."""
        nodes = nodes_in(place.function.body, *OTHERS, ast.For, ast.While)
        inside = [node for node in nodes if not isinstance(node, (*OTHERS, ast.For, ast.While))]
        return [place.function.body, *blocks_in(inside)]

    def restored(self, statement: ast.stmt, place: Place) -> frozenset[str]:
        """The models that a statement restores on a resume, if what is behind it follows."""
        if isinstance(statement, (*OTHERS, ast.For, ast.While)):
            return frozenset()
        nodes = list(nodes_in([statement], *OTHERS))
        left = _left_in(nodes)
        nodes = [node for node in nodes if id(node) not in left]
        loaded = self.loaded(nodes, place, DEPTH)
        told = [node.test for node in nodes if isinstance(node, ast.If)]
        told += [node for node in nodes if isinstance(node, ast.Call) and self.loaded([node], place, DEPTH).models]
        resumes = any(RESUMES.search(ast.unparse(each)) for each in told)
        return loaded.models if loaded.optimizers or (resumes and loaded.progress) else frozenset()

    def loaded(self, nodes: list[ast.AST], place: Place, depth: int) -> Loaded:
        """What nodes of a function load, or the functions that they call."""
        found = Loaded()
        names = [dotted(part) for target, _ in assignments_in(nodes) for part in places_of(target)]
        found |= Loaded(progress=any(PROGRESS.search(name) or name in _first_turns(place) for name in names))
        turns = {id(call): mapping for call, mapping in in_turn(place, "load_state_dict")}
        for call in (node for node in nodes if isinstance(node, ast.Call)):
            if id(call) in turns:
                pairs = kept_members(turns[id(call)], place, self.own)
                found |= Loaded(mappings=(turns[id(call)],)) if pairs is None else self._each(pairs, place)
            elif isinstance(call.func, ast.Attribute) and call.func.attr == "load_state_dict":
                name = model_named(call.func.value)
                if OPTIMIZER.search(name):
                    found |= Loaded(optimizers=frozenset({name}))
                elif (
                    name not in ("", "self", "super") and not NO_MODEL.search(name) and not first_kinds(call.func.value)
                ):
                    found |= Loaded(models=frozenset({name}))
            else:
                found |= self._called(call, place, depth)
        return found

    def _each(self, pairs: list[tuple[str, ast.expr]], place: Place) -> Loaded:
        """What is loaded where each of some objects is."""
        found = Loaded()
        for key, value in pairs:
            name = model_named(value)
            if is_optimizer(key, value, place, self.own):
                found |= Loaded(optimizers=frozenset({name}))
            elif name not in ("", "self") and not NO_MODEL.search(name) and not first_kinds(value):
                found |= Loaded(models=frozenset({name}))
        return found

    def _called(self, call: ast.Call, place: Place, depth: int) -> Loaded:
        """What a call of the trainer's own loads, by the names of where it is called; one that says that it is no
        resume loads nothing of one."""
        said = (word.value for word in call.keywords if word.arg is not None and RESUMES.search(word.arg))
        if any(isinstance(value, ast.Constant) and not value.value for value in said):
            return Loaded()
        told = []
        for called in meant(self.own, call, place) if depth else ():
            key = id(called.function), depth
            if key not in self._known:
                self._known[key] = self.loaded(called.nodes, called, depth - 1)
            if (held := self._known[key]) != Loaded():
                names = Here(call, called)
                models = frozenset(filter(None, map(names.name, held.models)))
                optimizers = frozenset(filter(None, map(names.name, held.optimizers)))
                one = Loaded(models, optimizers, held.progress)
                for mapping in held.mappings:
                    pairs = given_members(mapping, called, call, place, self.own)
                    one |= self._each(pairs, place) if pairs is not None else Loaded()
                told.append(one)
        told = [each for each in told if each.models] or told
        return told[0] if len(told) == 1 else Loaded()


def _first_turns(place: Place) -> set[str]:
    """The names that a loop of a function begins to count at: `for step in range(first, total)`."""
    loops = [node.iter for node in place.nodes if isinstance(node, ast.For)]
    return {
        dotted(loop.args[0])
        for loop in loops
        if isinstance(loop, ast.Call) and dotted(loop.func) in ("range", "trange") and len(loop.args) > 1
    }


class Here:
    """What the names of a function are where it is called."""

    def __init__(self, call: ast.Call, called: Place) -> None:
        self._given = called.given(call)
        self._called = called
        self._receiver = dotted(call.func).rpartition(".")[0]

    def name(self, inside: str) -> str:
        """The name outside; empty for what is not seen there."""
        first, _, rest = inside.partition(".")
        if first == "self" and self._called.owner is not None:
            return f"{self._receiver}.{rest}" if self._receiver and rest else ""
        given = self._given.get(first)
        outside = model_named(given) if given is not None else ""
        return f"{outside}.{rest}" if outside and rest else outside


def first_kinds(node: ast.expr) -> frozenset[str]:
    """What kinds of reference that stays as it is an expression names."""
    return kinds_of(dotted(node)) & FIRST


def reached(block: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a list and of its branches that make a reference on a resume as well, outside of loops."""
    for statement in block:
        if isinstance(statement, ast.If):
            if not says(statement.test):
                yield from reached([*statement.body, *statement.orelse])
        elif isinstance(statement, ast.With | ast.Try):
            yield from reached(statement.body)
        elif not isinstance(statement, (*OTHERS, ast.For, ast.While)):
            yield statement


def says(test: ast.expr) -> bool:
    """Whether a condition speaks of a resume, or asks whether there is a reference, or where training is."""
    compared = [node.left for node in ast.walk(test) if isinstance(node, ast.Compare)]
    turned = [node.operand for node in ast.walk(test) if isinstance(node, ast.UnaryOp)]
    names = {dotted(node) for node in ast.walk(test) if isinstance(node, ast.Name | ast.Attribute)}
    asks = any(first_kinds(node) for node in (*compared, *turned))
    return asks or bool(RESUMES.search(ast.unparse(test))) or any(map(PROGRESS.search, names))


def _left_in(nodes: list[ast.AST]) -> set[int]:
    """What stands in branches behind which the function ends."""
    left: set[int] = set()
    for node in nodes:
        if isinstance(node, ast.If):
            for block in (node.body, node.orelse):
                if block and isinstance(block[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
                    left |= {id(inner) for part in block for inner in ast.walk(part)}
    return left

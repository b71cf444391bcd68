"""Which parts of a model a trainer's source freezes and releases, and which parts its classes have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted, given_by, nodes_in
from gradgate.checks.source.values import assignments_in

_PARAMETERS = ("parameters", "named_parameters")
_REGISTERS = ("register_buffer", "register_parameter", "register_module", "add_module")
_JOINS = ("chain", "list", "tuple")
_NORM = re.compile(r"norm|(^|_)ln(_|\d|$)", re.IGNORECASE)
_FREEZES = re.compile(r"freez", re.IGNORECASE)
_ITSELF = re.compile(r"_*freeze(_(all|self|weights|parameters|params))?$", re.IGNORECASE)
_TRUNKS = re.compile(r"trunk|backbone|encoder|base|body", re.IGNORECASE)
_LEARNT = {"Embedding", "EmbeddingBag", "Linear", "Bilinear", "LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm1d"}
_LEARNT |= {"Conv1d", "Conv2d", "GRU", "LSTM", "MultiheadAttention", "ModuleList", "ModuleDict", "Sequential"}
_LEARNT |= {"Parameter", "TransformerEncoder", "TransformerEncoderLayer", "TransformerDecoderLayer"}


@dataclass(frozen=True)
class Switch:
    """A place at which parameters are told to train, or not to.

    Args:
        part: of the model, from its root on, without `self`; empty: all of it.
        trains: whether they are to train.
        node: where.
        some: whether it is of a part's first or last members alone, `blocks[:2]`.
    """

    part: tuple[str, ...]
    trains: bool
    node: ast.AST
    some: bool = False


def switches_in(place: Place, places: Places) -> list[Switch]:
    """The parts that a function freezes or releases, those that it hands to a function that does so among them."""
    found = [each for node, what, flag in _written(place) for each in _switched(what, flag, node, place)]
    for node in place.nodes:
        if isinstance(node, ast.Call) and (helper := places.called(node, place)) is not None and helper is not place:
            found += _by_helper(node, helper, place)
    return found


def parts_of(places: Places, name: str) -> set[str]:
    """The parts with parameters of its own that the module of an attribute has; empty: not known, or several may be."""
    found = _made_in(places, name)
    return {part for part, value in found if is_learnt(value, places)}


def attributes_of(places: Places, name: str) -> set[str]:
    """All attributes that the module of an attribute has; empty: not known, or several may be."""
    return {part for part, _ in _made_in(places, name)}


def frozen_in_part(place: Place, found: Iterable[Switch], places: Places) -> Iterator[tuple[Switch, list[str]]]:
    """The first of the parts of a module that a function freezes one by one, and the names of those that it leaves out.

    Args:
        place: the function, which is named after freezing the module, or leaves norms out alone.
        found: what it freezes and releases.
        places: all functions.
    """
    if not _FREEZES.search(place.name):
        return
    frozen = [each for each in found if not each.trains and each.part and not each.some]
    spoken = {node.attr for node in place.nodes if isinstance(node, ast.Attribute)}
    spoken |= {part for node in place.nodes if isinstance(node, ast.Constant) for part in str(node.value).split(".")}
    for above in dict.fromkeys(each.part[:-1] for each in frozen):
        of_it = [each for each in frozen if each.part[:-1] == above]
        names = {each.part[-1] for each in of_it}
        if len(names) < 2 or any(each.part == above for each in frozen):
            continue
        made = _made_in(places, above[-1]) if above else _made_by(place.owner, places)
        known = {part for part, value in made if is_learnt(value, places)}
        left = known - spoken
        says = (
            bool(_ITSELF.match(place.name))
            if not above
            else above[-1].lower() in place.name.lower() or bool(_TRUNKS.search(place.name))
        )
        norms = bool(left) and all(map(_NORM.search, left))
        names_them = any(name.rstrip("s").lower() in place.name.lower() for name in names)
        if names <= known and left and ((above and says) or (norms and (says or (above and not names_them)))):
            yield of_it[0], sorted(".".join((*above[-1:], one)) for one in left)


def _made_by(owner: ast.ClassDef | None, places: Places) -> list[tuple[str, ast.expr]]:
    """What a module gives itself in `__init__`, where it has no base but torch's."""
    if owner is None or {dotted(base).rpartition(".")[2] for base in owner.bases} - {"Module"}:
        return []
    init = [node for place in places.methods_of(owner) if place.name == "__init__" for node in place.nodes]
    return [(target.attr, value) for target, value in _own_assignments(init)]


def is_learnt(value: ast.expr, places: Places) -> bool:
    """Whether a call makes a module with parameters, or a parameter: torch's, or a class of the trainer's."""
    return called_name(value) in _LEARNT or called_name(value) in places.classes


def _made_in(places: Places, name: str) -> list[tuple[str, ast.expr]]:
    """What the class of an attribute gives itself in `__init__`, where it has no base but torch's."""
    made = {called_name(value) for value in _values_of(name, places.all)}
    kinds = {kind for each in made for kind in _kinds_of(each, places)}
    if len(kinds) != 1 or len(nodes := places.classes[next(iter(kinds))]) != 1:
        return []
    bases = {dotted(base).rpartition(".")[2] for base in nodes[0].bases}
    if bases - {"Module"}:
        return []
    init = [node for place in places.methods_of(nodes[0]) if place.name == "__init__" for node in place.nodes]
    registered = [node for node in init if isinstance(node, ast.Call) and called_name(node) in _REGISTERS]
    named = ((str(call.args[0].value), call) for call in registered if isinstance(call.args[0], ast.Constant))
    return [*((target.attr, value) for target, value in _own_assignments(init)), *named]


def _kinds_of(name: str, places: Places) -> set[str]:
    """The class of a name, or the classes that the function of that name makes."""
    if name in places.classes:
        return {name}
    returns = (node.value for place in places.named(name) for node in place.nodes if isinstance(node, ast.Return))
    return {called for value in returns if value is not None and (called := called_name(value)) in places.classes}


def _values_of(name: str, all_places: Iterable[Place]) -> Iterator[ast.expr]:
    for place in all_places:
        if place.name == "__init__":
            yield from (value for target, value in _own_assignments(place.nodes) if target.attr == name)


def _own_assignments(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.Attribute, ast.expr]]:
    """Attributes of `self`, each with what it is given."""
    for target, value in assignments_in(nodes):
        if isinstance(target, ast.Attribute) and dotted(target.value) == "self":
            yield target, value


def _written(place: Place) -> Iterator[tuple[ast.AST, ast.expr, ast.expr]]:
    """Where a function writes `requires_grad` itself, of what, and what."""
    for node in place.nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "requires_grad_":
            yield node, node.func.value, next(iter(given_by(node)), ast.Constant(True))
        elif isinstance(node, ast.Assign) and dotted(node.targets[0]).endswith(".requires_grad"):
            yield node, node.targets[0].value, node.value  # type: ignore[attr-defined]


def _switched(what: ast.expr, flag: ast.expr, node: ast.AST, place: Place) -> list[Switch]:
    if not isinstance(flag, ast.Constant) or not isinstance(flag.value, bool):
        return []
    whole = _meant(what, place)
    return [Switch(part, flag.value, node, part not in whole) for part in _meant(what, place, sliced=not flag.value)]


def _by_helper(call: ast.Call, helper: Place, place: Place) -> list[Switch]:
    """What a call of `set_trainable(model.trunk, True)` or `unfreeze(model.trunk)` switches."""
    given, found = helper.given(call), []
    for _, what, flag in _written(helper):
        flag = given.get(flag.id, flag) if isinstance(flag, ast.Name) else flag
        for root in _meant(what, helper):
            if len(root) == 1 and root[0] in given:
                found += _switched(given[root[0]], flag, call, place)
    return found


def _meant(what: ast.expr, place: Place, hops: int = 4, *, sliced: bool = False) -> list[tuple[str, ...]]:
    """The parts of the model that an expression names: itself, or what its loop goes over; also those of which it names
    some alone, if told so: `blocks[:2]`."""
    if isinstance(what, ast.Name) and hops and (loop := _loop_of(what, place)) is not None:
        inner = (_meant(module, place, hops - 1, sliced=sliced) for module in _modules_of(loop, place))
        return [part for parts in inner for part in parts]
    if sliced and isinstance(what, ast.Subscript) and isinstance(what.slice, ast.Slice):
        what = what.value
    path = dotted(what)
    if not path or isinstance(what, ast.Subscript):
        return []
    first, *rest = path.split(".")
    root = what
    while isinstance(root, ast.Attribute):
        root = root.value
    held = place.names.held(root)
    if held is not root and isinstance(held, ast.Attribute):
        first, *rest = [*dotted(held).split("."), *rest]
    return [tuple(name for name in (first, *rest) if name != "self")]


def _modules_of(loop: ast.For, place: Place) -> list[ast.expr]:
    """What a loop goes over, or over whose parameters; nothing where a condition in it chooses among them."""
    if any(isinstance(node, ast.If) for node in nodes_in(loop.body)):
        return []
    return _modules_in(place.names.held(loop.iter), place)


def _modules_in(over: ast.expr, place: Place) -> list[ast.expr]:
    """The modules of an expression, or those whose parameters it is: of a list, a sum of lists, or a chain."""
    over = over.value if isinstance(over, ast.Starred) else over
    if isinstance(over, ast.Call) and isinstance(over.func, ast.Attribute) and over.func.attr in _PARAMETERS:
        return [over.func.value]
    if isinstance(over, ast.Tuple | ast.List):
        return [module for each in over.elts for module in _modules_in(each, place)]
    if isinstance(over, ast.BinOp) and isinstance(over.op, ast.Add):
        return [module for side in (over.left, over.right) for module in _modules_in(place.names.held(side), place)]
    if isinstance(over, ast.Call) and called_name(over) in _JOINS:
        return [module for each in given_by(over) for module in _modules_in(place.names.held(each), place)]
    return [over]


def _loop_of(name: ast.Name, place: Place) -> ast.For | None:
    """The innermost loop around a name that goes through something by it."""
    found = None
    for node in place.nodes:
        if isinstance(node, ast.For) and node.lineno <= name.lineno <= (node.end_lineno or node.lineno):
            target = node.target.elts[-1] if isinstance(node.target, ast.Tuple) and node.target.elts else node.target
            if isinstance(target, ast.Name) and target.id == name.id and (found is None or node.lineno > found.lineno):
                found = node
    return found

"""The live tensors that an object of the trainer's own hands out: an average's, which it moves on in place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in

MOVES = ("lerp_", "mul_", "add_", "copy_", "sub_", "addcmul_", "set_")
BRINGS = re.compile(r"load|restor|reset|^__init__$", re.IGNORECASE)
WHOLE = ("items", "values", "copy")
SHALLOW = ("dict", "list", "tuple", "OrderedDict", "copy.copy")


@dataclass(frozen=True)
class Lent:
    """What hands out live tensors.

    Args:
        methods: by their names, the keys under which they give them; None: they give them as a whole.
        attributes: the names of those that hold them.
    """

    methods: dict[str, frozenset[str | None]]
    attributes: frozenset[str]

    def gives(self, value: ast.expr) -> str:
        """The object whose live tensors an expression is; empty: it is none's."""
        key = None
        if isinstance(value, ast.Subscript) and isinstance(value.slice, ast.Constant):
            key, value = value.slice.value, value.value
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and not value.args:
            keys = self.methods.get(value.func.attr, frozenset())
            found = bool(keys) if key is None else bool(keys & {key, None})
            return ast.unparse(value.func.value) if found else ""
        of = dotted(value).rpartition(".")[0] if isinstance(value, ast.Attribute) else ""
        return of if of not in ("", "self") and value.attr in self.attributes else ""  # type: ignore[attr-defined]


def lent_in(own: Places) -> Lent:
    """What the classes of a trainer hand out; a name that means another thing elsewhere is left out."""
    found: dict[str, set[str | None]] = {}
    attributes: set[str] = set()
    others: set[str] = set()
    for owner in (owner for same in own.classes.values() for owner in same):
        methods = own.methods_of(owner)
        moved = {name for place in methods if not BRINGS.search(place.name) for name in _moved(place)}
        attributes |= {name for name in moved if not _copies(methods, name)}
        for place in methods:
            keys = {key for value in place.returned for key in _live(place.names.held(value), moved)}
            if keys:
                found.setdefault(place.name, set()).update(keys)
            elif place.name != "state_dict":
                others.add(place.name)
    return Lent(
        {name: frozenset(keys) for name, keys in found.items() if name not in others},
        frozenset(attributes - {dotted(t).rpartition(".")[2] for t in _replaced(own)}),
    )


def _moved(place: Place) -> Iterator[str]:
    """The attributes whose tensors a method writes in place."""
    calls = [node for node in place.nodes if isinstance(node, ast.Call) and called_name(node) in MOVES]
    loops = [node for node in place.nodes if isinstance(node, ast.For)]
    for call in calls:
        of = call.func.value if isinstance(call.func, ast.Attribute) else call
        while isinstance(of, ast.Call) and isinstance(of.func, ast.Attribute):
            of = of.func.value  # shadow.mul_(decay).add_(...)
        of = place.names.held(of)
        if isinstance(of, ast.Subscript) and dotted(of.value).startswith("self."):
            yield dotted(of.value).removeprefix("self.")
        name = of.id if isinstance(of, ast.Name) else ""
        for loop in loops if name else ():
            names = [part.id for part in ast.walk(loop.target) if isinstance(part, ast.Name)]
            if name in names:
                yield from _behind(loop.iter, names.index(name))


def _behind(over: ast.expr, at: int) -> Iterator[str]:
    """The attribute whose tensors a loop gives as the name at a place of its target."""
    if isinstance(over, ast.Call) and dotted(over.func) == "zip" and at < len(over.args):
        over, at = over.args[at], -1
    if isinstance(over, ast.Call) and called_name(over) in WHOLE and isinstance(over.func, ast.Attribute):
        at = -1 if called_name(over) == "values" or at == 1 else at
        over = over.func.value
    if at in (-1, 0) and dotted(over).startswith("self."):
        yield dotted(over).removeprefix("self.")


def _copies(methods: list[Place], name: str) -> bool:
    """Whether a method puts other tensors in an attribute's place: what was handed out stays as it is."""
    for place in (place for place in methods if not BRINGS.search(place.name)):
        for target, _ in assignments_in(place.nodes):
            inner = target.value if isinstance(target, ast.Subscript) else target
            if dotted(inner) == f"self.{name}":
                return True
    return False


def _replaced(own: Places) -> Iterator[ast.expr]:
    """The attributes of other objects that are assigned."""
    for place in own.functions:
        for target, _ in assignments_in(place.nodes):
            if isinstance(target, ast.Attribute) and dotted(target.value) != "self":
                yield target


def _live(value: ast.expr, moved: set[str]) -> Iterator[str | None]:
    """The keys under which what is returned has live tensors; None: as a whole."""
    if isinstance(value, ast.Dict):
        for key, part in zip(value.keys, value.values, strict=True):
            if isinstance(key, ast.Constant) and any(True for _ in _live(part, moved)):
                yield str(key.value)
    elif isinstance(value, ast.DictComp):
        over, target, given = value.generators[0].iter, value.generators[0].target, value.value
        passes = isinstance(target, ast.Tuple) and dotted(given) == dotted(target.elts[-1]) != ""
        if passes and called_name(over) == "items" and isinstance(over, ast.Call):
            yield from _live(over.func.value, moved) if isinstance(over.func, ast.Attribute) else ()
    elif isinstance(value, ast.Call) and dotted(value.func) in SHALLOW and len(value.args) == 1:
        yield from _live(value.args[0], moved)
    elif isinstance(value, ast.Call) and called_name(value) == "copy" and isinstance(value.func, ast.Attribute):
        yield from _live(value.func.value, moved) if not value.args else ()
    elif isinstance(value, ast.Attribute) and dotted(value).removeprefix("self.") in moved:
        yield None

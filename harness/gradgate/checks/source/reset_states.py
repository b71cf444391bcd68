"""Numbers that a trainer's source restores on a resume, and puts back to their first value behind that."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import loads_optimizer
from gradgate.checks.source.trainer import File, dotted
from gradgate.checks.source.values import always_run, assignments_in, last_name, outwards, parents_in

RESTORES = re.compile(r"^_?(load|restor|resum|set_state|from_state|continue)", re.IGNORECASE)
RESUMED = re.compile(r"resum|restor|loaded|continu|first_time|step|epoch", re.IGNORECASE)
KEPT = re.compile(
    r"best|lowest|highest|patience|bad|stale|wait|since|worse|value|score|metric|step|epoch|seen|count|done|total",
    re.IGNORECASE,
)
INFINITE = re.compile(r"^-?((math|np|numpy|torch)\.inf|float\(['\"][+-]?inf(inity)?['\"]\))$")
DEPTH = 3  # calls that are followed


@dataclass(frozen=True)
class Reset:
    """A method that puts back what another one of its class restores.

    Args:
        place: the method.
        node: where it does.
        names: the attributes.
        restoring: the other one.
    """

    place: Place
    node: ast.stmt
    names: tuple[str, ...]
    restoring: Place


def reset_behind(own: Places) -> Iterator[tuple[File, ast.AST, str, str]]:
    """The methods that run behind a resume alone, each with what it puts back."""
    order = _Order(own)
    for reset in _resets(own):
        where = next(order.fired_behind(reset), None)
        if where is not None:
            names = ", ".join(f"`{name}`" for name in reset.names)
            told = f"{reset.place.name}() puts {names} back, which {reset.restoring.name}() restores: {where}"
            yield reset.place.file, reset.node, reset.place.name, told


def _resets(own: Places) -> Iterator[Reset]:
    for owner in (owner for same in own.classes.values() for owner in same):
        methods = own.methods_of(owner)
        for restoring in (place for place in methods if RESTORES.search(place.name)):
            restored = {dotted(target): value for target, value in assignments_in(restoring.nodes) if _is_read(value)}
            restored = {
                name: value for name, value in restored.items() if name.startswith("self.") and KEPT.search(name)
            }
            for place in methods if restored else ():
                if place is restoring or place.name in ("__init__", "state_dict") or RESTORES.search(place.name):
                    continue
                always = [node for node in always_run(place.function) if isinstance(node, ast.stmt)]
                back = {dotted(to): node for node in always for to, value in assignments_in([node]) if _is_first(value)}
                if names := tuple(name for name in restored if name in back):
                    yield Reset(place, back[names[0]], names, restoring)


def _is_read(value: ast.expr) -> bool:
    """Whether a value is an entry of a mapping."""
    parts = list(ast.walk(value))
    asked = (part for part in parts if isinstance(part, ast.Call) and last_name(part.func) in ("get", "pop"))
    return any(isinstance(part, ast.Subscript) and last_name(part) for part in parts) or any(
        part.args for part in asked
    )


def _is_first(value: ast.expr) -> bool:
    """Whether a value is a number that is written down, or infinite, or nothing."""
    inner = value.operand if isinstance(value, ast.UnaryOp) else value
    return isinstance(inner, ast.Constant) or bool(INFINITE.search(ast.unparse(value)))


class _Order:
    """Whether a method runs behind what goes on from a checkpoint."""

    def __init__(self, own: Places) -> None:
        self.own = own
        self._parents: dict[int, dict[int, ast.AST]] = {}

    @cached_property
    def _names(self) -> frozenset[str]:
        """The names of functions all of which load an optimizer's state, or call one that does."""
        loading = {place for place in self.own.functions if loads_optimizer(place.nodes)}
        names: set[str] = set()
        for _ in range(DEPTH):
            names = {place.name for place in loading if all(other in loading for other in self.own.named(place.name))}
            loading |= {
                place
                for place in self.own.functions
                if any(isinstance(node, ast.Call) and last_name(node.func) in names for node in place.nodes)
            }
        return frozenset(names)

    def fired_behind(self, reset: Reset) -> Iterator[str]:
        """Where a method is called by its name, behind a resume and in front of none."""
        name = reset.place.name
        if not self._names or name in self._names or len(self.own.named(reset.restoring.name)) == 0:
            return
        for place in self.own.all:
            if place.function is reset.place.function or not place.file.has(name):
                continue
            for call in (node for node in place.nodes if isinstance(node, ast.Call)):
                fired = any(isinstance(each, ast.Constant) and each.value == name for each in call.args)
                called = last_name(call.func) == name and dotted(call.func).partition(".")[0] != "super"
                if (fired or called) and (found := self._behind(place, call, DEPTH)):
                    yield found

    def _behind(self, place: Place, call: ast.Call, depth: int) -> str:
        """The line of a resume behind which a call runs; empty: there is none, or another follows."""
        if self._asks(place, call):
            return ""
        resumes = [
            node
            for node in place.nodes
            if isinstance(node, ast.Call) and node is not call and last_name(node.func) in self._names
        ]
        resumes += [node for node in loads_optimizer(place.nodes) if node is not call]
        before = [node for node in resumes if node.lineno < call.lineno]
        if any(node.lineno > call.lineno for node in resumes):
            return ""
        if before:
            here = place.name or place.file.path.name
            return f"{here}() calls it in line {call.lineno}, behind the resume in line {before[-1].lineno}"
        for caller, outer in self.own.calls_of(place.name) if depth and place.name else ():
            same = caller.function is not place.function and self._goes_to(outer, caller, place)
            if same and (found := self._behind(caller, outer, depth - 1)):
                return found
        return ""

    def _goes_to(self, call: ast.Call, caller: Place, place: Place) -> bool:
        called = self.own.called(call, caller)
        if called is not None or len(self.own.named(place.name)) == 1:
            return called in (place, None)
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        if receiver is None or place.owner is None:
            return False
        made = caller.names.held(receiver)
        known = last_name(made.func if isinstance(made, ast.Call) else made)
        return known.replace("_", "").lower() == place.owner.name.lower()

    def _asks(self, place: Place, call: ast.Call) -> bool:
        """Whether a call stands under a condition that asks for a resume, or in a loop."""
        if place.is_top:
            return False
        known = self._parents.setdefault(id(place.function), parents_in(place.function))
        around = [node for node in outwards(call, known) if isinstance(node, ast.If | ast.For | ast.While)]
        if any(isinstance(node, ast.If) and RESUMED.search(ast.unparse(node.test)) for node in around):
            return True
        loops = [node for node in around if isinstance(node, ast.For | ast.While)]
        return any(isinstance(node, ast.While) or "epoch" in ast.unparse(node.target) for node in loops)

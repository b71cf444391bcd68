"""What a run loads, makes and calls, in the order in which it happens: through methods, hooks below, and arguments."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice

from gradgate.checks.source.objects_called import class_of
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.resuming import names_of
from gradgate.checks.source.trainer import dotted, given_by, last_attr, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in, last_name, places_of

LOAD, MAKE, SAME, USE, COPY = "load", "make", "same", "use", "copy"
LEFT = "left"  # a branch behind which its function ends
LEAVES = (ast.Return, ast.Raise, ast.Continue, ast.Break)
DEPTH = 5  # calls that are followed
MOST = 1000  # events of one function
Guard = tuple[int, str]


@dataclass(frozen=True)
class Event:
    """Something that happens to an object.

    Args:
        kind: it is loaded, made anew, another name of another (`SAME`), called or handed on (`USE`), or copied into
            another that is told as given (`COPY`).
        name: the object's, as it is called where the run begins.
        node: the statement, or the call.
        place: the function that it stands in.
        guards: the branches and loops around it, of whatever function, each with the branch.
        tests: the conditions of these branches.
        value: what it is made by, or the call.
        given: what that is given, as it is called where the run begins.
    """

    kind: str
    name: str
    node: ast.AST
    place: Place
    guards: tuple[Guard, ...]
    tests: tuple[str, ...]
    value: ast.expr
    given: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Its place in words."""
        return f"{self.place.name}() in line {getattr(self.node, 'lineno', 0)} of {self.place.file.path.name}"

    def follows(self, other: Event) -> bool:
        """Whether this happens wherever another, which is in front, has: no branch and no loop is around it that is
        not around the other, and none around the other behind which its function ends."""
        more = set(other.guards) - set(self.guards)
        return set(self.guards) <= set(other.guards) and all(branch != LEFT for _, branch in more)


@dataclass(frozen=True)
class _Frame:
    """A function that is being followed, the class of its object, and what is around where it is."""

    place: Place
    owner: ast.ClassDef | None
    guards: tuple[Guard, ...] = ()
    tests: tuple[str, ...] = ()

    def under(self, node: ast.AST, branch: str, test: ast.expr | None = None) -> _Frame:
        """The same one within a branch or a loop."""
        tests = (*self.tests, ast.unparse(test)) if test is not None else self.tests
        return _Frame(self.place, self.owner, (*self.guards, (id(node), branch)), tests)


@dataclass
class Orders:
    """The order in which the runs of a trainer go.

    Args:
        own: its functions.
        watched: the last names of the objects whose events are asked for.
        marked: the calls that copy an object into another, by their `id`, each with both names in its function.
        along: functions that are followed beside those that load or make what is watched.
    """

    own: Places
    watched: frozenset[str]
    marked: dict[int, tuple[str, str]] = field(default_factory=dict)
    along: frozenset[Place] = frozenset()
    _calls: dict[int, list[ast.Call]] = field(default_factory=dict)
    _known: dict[tuple[int, int], tuple[Event, ...]] = field(default_factory=dict)
    _owned: dict[int, dict[str, Place]] = field(default_factory=dict)

    @cached_property
    def _names(self) -> frozenset[str]:
        """What the functions that have to do with it are called by."""
        return frozenset(_called_by(place) for place in self._relevant)

    @cached_property
    def _relevant(self) -> frozenset[Place]:
        """The functions that have to do with what is watched, and those that lead to them by a name."""
        return self._leading_to({place for place in self.own.functions if self._concerns(place)})

    @cached_property
    def _loading(self) -> frozenset[Place]:
        """Those that lead to what loads something."""
        return self._leading_to({place for place in self.own.functions if _loads(place)})

    def _leading_to(self, places: set[Place]) -> frozenset[Place]:
        """Functions, and those that call one of their names, as far as calls are followed."""
        found, new = set(places), set(places)
        for _ in range(DEPTH):
            names = set(map(_called_by, new))
            new = {caller for name in names for caller, _ in self.own.calls_of(name)} - found
            found |= new
        return frozenset(found)

    def _concerns(self, place: Place) -> bool:
        if place in self.along:
            return True
        if not place.file.has(*(self.watched or ("load_state_dict",))):
            return False
        made = (part for target, _ in assignments_in(place.nodes) for part in places_of(target))
        return _loads(place) or any(last_name(part) in self.watched for part in made)

    def runs(self) -> Iterator[tuple[list[Event], int]]:
        """The events of each function that begins a run, and of each method that no other of its class calls, behind
        those of the `__init__`, with their number."""
        for place in self.own.functions:
            if place.owner is None and place in self._loading:
                yield list(self._of(place, None)), 0
        for owner in (owner for same in self.own.classes.values() for owner in same):
            methods = self._methods(owner)
            if self._loading.isdisjoint(methods.values()):
                continue
            called = {
                dotted(node.func).removeprefix("self.")
                for place in methods.values()
                for node in place.nodes
                if isinstance(node, ast.Call)
            }
            made = list(self._of(methods["__init__"], owner)) if "__init__" in methods else []
            for name, place in methods.items():
                if name != "__init__" and name not in called and place in self._loading:
                    yield [*made, *self._of(place, owner)], len(made)

    def _methods(self, owner: ast.ClassDef) -> dict[str, Place]:
        """The methods that an object of a class has, those of its bases among them."""
        if id(owner) not in self._owned:
            found = self._owned[id(owner)] = {}
            for place in (place for one in self._line(owner) for place in self.own.methods_of(one)):
                found.setdefault(place.name, place)
        return self._owned[id(owner)]

    def _line(self, owner: ast.ClassDef) -> list[ast.ClassDef]:
        """A class and those that it is made of."""
        line = [owner]
        for one in line:
            for base in one.bases:
                same = self.own.classes.get(last_name(base), [])
                line += [each for each in same[:1] if each not in line]
        return line

    def _of(self, place: Place, owner: ast.ClassDef | None) -> tuple[Event, ...]:
        """The events of a function, by its own names."""
        key = id(place), id(owner)
        if key not in self._known:
            self._known[key] = ()  # what calls itself is followed once
            events = self._block(place.function.body, _Frame(place, owner))
            self._known[key] = tuple(islice((event for event in events if self._is_watched(event)), MOST))
        return self._known[key]

    def _is_watched(self, event: Event) -> bool:
        names = (event.name, *event.given) if event.kind == SAME else (event.name,)
        return event.kind in (LOAD, COPY) or any(name.rpartition(".")[2] in self.watched for name in names)

    def _block(self, block: list[ast.stmt], frame: _Frame) -> Iterator[Event]:
        for statement in block:
            if isinstance(statement, OTHERS):
                continue
            if isinstance(statement, ast.If):
                yield from self._simple(statement.test, frame)
                for branch, block in (("body", statement.body), ("else", statement.orelse)):
                    left = bool(block) and isinstance(block[-1], LEAVES)
                    yield from self._block(block, frame.under(statement, LEFT if left else branch, statement.test))
            elif isinstance(statement, ast.For | ast.AsyncFor | ast.While):
                yield from self._simple(statement.test if isinstance(statement, ast.While) else statement.iter, frame)
                yield from self._in_turn(statement, frame)
                yield from self._block(statement.body, frame.under(statement, "loop"))
            elif isinstance(statement, ast.With | ast.AsyncWith):
                for item in statement.items:
                    yield from self._simple(item.context_expr, frame)
                yield from self._block(statement.body, frame)
            elif isinstance(statement, ast.Try):
                yield from self._block(statement.body, frame)
                for handler in statement.handlers:
                    yield from self._block(handler.body, frame.under(handler, "except"))
                yield from self._block([*statement.orelse, *statement.finalbody], frame)
            else:
                yield from self._simple(statement, frame)

    def _in_turn(self, loop: ast.For | ast.AsyncFor | ast.While, frame: _Frame) -> Iterator[Event]:
        """What is loaded by its name: `getattr(self, name).load_state_dict(state[name])` in a loop over names."""
        for call in self._calls_in(loop) if isinstance(loop, ast.For) else ():
            of = call.func.value if isinstance(call.func, ast.Attribute) else None
            is_load = isinstance(loop, ast.For) and last_attr(call) == "load_state_dict"
            if is_load and isinstance(of, ast.Call) and dotted(of.func) == "getattr" and of.args:
                for name in names_of(loop):  # type: ignore[arg-type]
                    if outside := self._outside(ast.Attribute(of.args[0], name), frame):
                        yield Event(LOAD, outside, call, frame.place, frame.guards, frame.tests, call)

    def _calls_in(self, node: ast.AST) -> list[ast.Call]:
        if id(node) not in self._calls:
            inside = [part for part in nodes_in([node], *OTHERS) if isinstance(part, ast.Call)]
            self._calls[id(node)] = inside[::-1]  # what is given first
        return self._calls[id(node)]

    def _simple(self, node: ast.AST, frame: _Frame) -> Iterator[Event]:
        place = frame.place
        targets = [(part, value) for target, value in assignments_in([node]) for part in places_of(target)]
        for call in self._calls_in(node):
            of = call.func.value if isinstance(call.func, ast.Attribute) else None
            name = self._outside(of, frame) if of is not None else ""
            if id(call) in self.marked:
                source, copied_to = self.marked[id(call)]
                yield Event(COPY, source, call, place, frame.guards, frame.tests, call, (copied_to,))
            if name and last_attr(call) == "load_state_dict" and name not in ("self", "super"):
                yield Event(LOAD, name, call, place, frame.guards, frame.tests, call, self._given(call, frame))
                continue
            made_for = next((self._outside(part, frame) for part, value in targets if value is call), "")
            yield from self._followed(call, frame, made_for)
            whole = self._outside(call.func, frame)
            for used in dict.fromkeys((name, whole, *self._given(call, frame))):
                if used.rpartition(".")[2] in self.watched:
                    yield Event(USE, used, call, place, frame.guards, frame.tests, call, self._given(call, frame))
        for target, value in targets:
            name = self._outside(target, frame)
            if not name:
                continue
            if isinstance(value, ast.Call | ast.DictComp | ast.ListComp) and not isinstance(target, ast.Subscript):
                calls = self._calls_in(value)
                inside = [other for each in calls for other in self._given(each, frame)]
                inside += [
                    self._outside(each.func.value, frame) for each in calls if isinstance(each.func, ast.Attribute)
                ]
                given = tuple(filter(None, dict.fromkeys(inside)))
                yield Event(MAKE, name, node, place, frame.guards, frame.tests, value, given)
            elif other := self._outside(value, frame):
                yield Event(SAME, name, node, place, frame.guards, frame.tests, value, (other,))

    def _given(self, call: ast.Call, frame: _Frame) -> tuple[str, ...]:
        return tuple(name for each in given_by(call) if (name := self._outside(each, frame)))

    def _outside(self, node: ast.expr, frame: _Frame) -> str:
        """What an object of a function is called there, by the name that it had first."""
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store):
            held = frame.place.names.held(node)
            node = held if isinstance(held, ast.Name | ast.Attribute | ast.Subscript) else node
        while isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
            node = node.value  # one of several
        return dotted(node) if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) else ""

    def _followed(self, call: ast.Call, frame: _Frame, made_for: str) -> Iterator[Event]:
        """The events of what a call goes to, by the names that it has for them."""
        if last_attr(call) not in self._names and last_attr(call) != "__init__":
            return
        called, owner, of = self._called(call, frame)
        if called is None or called not in self._relevant:
            return
        if called.name == "__init__" and last_attr(call) != "__init__":
            of = made_for
        names = {name: f"{name}@{call.lineno}" for name in called.parameters} | {"self": of}  # what has no name here
        given = ((name, self._outside(value, frame)) for name, value in called.given(call).items())
        names |= {name: outside for name, outside in given if outside}
        for event in self._of(called, owner or called.owner):
            name = "" if event.kind in (MAKE, SAME) and "." not in event.name else _renamed(event.name, names)
            if name:
                also = tuple(filter(None, (_renamed(each, names) for each in event.given)))
                inside = tuple((at, "body" if branch == LEFT else branch) for at, branch in event.guards)
                guards, tests = (*frame.guards, *inside), (*frame.tests, *event.tests)
                yield replace(event, name=name, given=also, guards=guards, tests=tests)

    def _called(self, call: ast.Call, frame: _Frame) -> tuple[Place | None, ast.ClassDef | None, str]:
        """The function that a call goes to, the class of its object, and what that is called."""
        of = call.func.value if isinstance(call.func, ast.Attribute) else None
        name = last_attr(call)
        if frame.owner is not None and of is not None and dotted(of) == "self":
            return self._methods(frame.owner).get(name), frame.owner, "self"
        if isinstance(of, ast.Call) and dotted(of.func) == "super" and frame.place.owner is not None:
            line = self._line(frame.place.owner)[1:]
            methods = (place for one in line for place in self.own.methods_of(one) if place.name == name)
            return next(methods, None), frame.owner, "self"
        called = self.own.called(call, frame.place)
        if called is None and of is not None and dotted(of) and dotted(of) != "self":
            kind = class_of(dotted(of), frame.place, self.own)
            if kind is not None:
                return self._methods(kind).get(name), kind, self._outside(of, frame)
        return called, called.owner if called is not None else None, self._outside(of, frame) if of is not None else ""


def _loads(place: Place) -> bool:
    """Whether a function loads the state of something, by itself."""
    if not place.file.has("load_state_dict"):
        return False
    return any(isinstance(node, ast.Attribute) and node.attr == "load_state_dict" for node in place.nodes)


def _called_by(place: Place) -> str:
    return place.owner.name if place.name == "__init__" and place.owner is not None else place.name


def _renamed(name: str, names: dict[str, str]) -> str:
    """What a function's object is called where that is called; empty: it is not seen there."""
    first, dot, rest = name.partition(".")
    return f"{names[first]}{dot}{rest}" if names.get(first) else ""

"""Objects that a trainer makes once, hands out as a default, and writes into."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import File, called_name, dotted
from gradgate.checks.source.values import assignments_in, defaults_of, last_name

COPIES = ("BaseModel", "BaseSettings", "RootModel")  # pydantic's, which give each instance a copy of a default
VALUES = ("NamedTuple", "Enum", "IntEnum", "StrEnum", "Protocol", "Exception", "Module", "TypedDict")
ONCE = ("cache", "lru_cache")
FIELDS = ("field", "Field", "attrib", "ib")
BLOCKS = ("__enter__", "__exit__", "__post_init__")  # what is put back, or belongs to the making of the object


@dataclass(frozen=True)
class Shared:
    """An object that all instances of a class hold.

    Args:
        file: the class's.
        node: what hands it out.
        owner: the class.
        name: what it is called there.
        kept: the attribute that holds it.
        writer: the function that writes into it.
    """

    file: File
    node: ast.expr
    owner: ast.ClassDef
    name: str
    kept: str
    writer: str


def shared_objects(own: Places) -> Iterator[Shared]:
    """The objects that instances share though something writes into them."""
    objects = _Objects(own)
    files = {id(node): file for file in {place.file for place in own.all} for node in file.nodes}
    for owner in (one for same in own.classes.values() for one in same):
        for node, kept, made, name in objects.handed_out(owner):
            if (writer := objects.writer(kept, made)) is not None:
                yield Shared(files[id(owner)], node, owner, name, kept, writer.name)


class _Objects:
    def __init__(self, own: Places) -> None:
        self._own = own
        self._top = {
            target.id: value
            for place in own.all
            if place.is_top
            for target, value in assignments_in(place.nodes)
            if isinstance(target, ast.Name)
        }
        self._by_name = next((each for each in own.functions if self._sets_by_name(each)), None)

    def handed_out(self, owner: ast.ClassDef) -> Iterator[tuple[ast.expr, str, ast.ClassDef, str]]:
        """What hands one object to all instances: where, the attribute, the object's class, and its name."""
        is_data = _is_data(owner)
        for target, value in assignments_in(owner.body):
            if not isinstance(target, ast.Name) or target.id.isupper():
                continue
            if called_name(value) in FIELDS and isinstance(value, ast.Call):
                words = {word.arg: word.value for word in value.keywords}
                yield from self._found(value, target.id, self._given_by(words.get("default_factory")))
            elif not any(last_name(base) in COPIES for base in owner.bases):
                found = [(made, name) for made, name in self._shared(value) if not is_data or not _refused(made)]
                if not _is_class_var(target.id, owner):
                    yield from self._found(value, target.id, found)
        for place in (each for each in self._own.methods_of(owner) if each.name == "__init__"):
            defaults = {each.arg: value for each, value in defaults_of(place.function.args)}
            for target, value in assignments_in(place.nodes):
                if isinstance(target, ast.Attribute) and dotted(target.value) == "self":
                    for leaf in _leaves(value, place):
                        given = defaults.get(leaf.id) if isinstance(leaf, ast.Name) else None
                        found = list(self._shared(leaf, place) if given is None else self._shared(given))
                        called = isinstance(leaf, ast.Call)  # made anew at each call of `__init__`
                        yield from self._found(value, target.attr, [] if called else found)

    @staticmethod
    def _found(
        node: ast.expr, kept: str, found: list[tuple[ast.ClassDef, str]]
    ) -> Iterator[tuple[ast.expr, str, ast.ClassDef, str]]:
        yield from ((node, kept, made, name) for made, name in found)

    def _given_by(self, factory: ast.expr | None) -> list[tuple[ast.ClassDef, str]]:
        """The objects of the module that a default factory gives, and never a new one."""
        if isinstance(factory, ast.Lambda):
            return [] if _makes(factory.body) else list(self._shared(factory.body))
        places = self._own.named(last_name(factory)) if isinstance(factory, ast.Name | ast.Attribute) else []
        places = [each for each in places if each.owner is None] if isinstance(factory, ast.Name) else places
        found: list[tuple[ast.ClassDef, str]] = []
        for place in places[:1] if len(places) == 1 else ():
            once = not place.decorators.isdisjoint(ONCE)
            for value in place.returned:
                if once or not _makes(value):
                    found += self._shared(value, place)
        return found

    def _shared(self, value: ast.expr, place: Place | None = None) -> Iterator[tuple[ast.ClassDef, str]]:
        """The class of an object of the module that an expression is, or looks up in a table."""
        if isinstance(value, ast.Name) and place is not None:
            given = [each for target, each in assignments_in(place.nodes) if dotted(target) == value.id]
            shared = any(isinstance(node, ast.Global) and value.id in node.names for node in place.nodes)
            if value.id in place.parameters or (given and not shared):
                return
            for each in given:
                yield from ((made, value.id) for made in self._class_of(each))
        called = isinstance(value, ast.Call)
        if isinstance(value, ast.Subscript) or (called and called_name(value) == "get" and value.args):  # type: ignore[attr-defined]
            of = value.value if isinstance(value, ast.Subscript) else value.func.value  # type: ignore[attr-defined]
            table = self._top.get(last_name(of))
            for each in table.values[:1] if isinstance(table, ast.Dict) else ():
                yield from ((made, last_name(of)) for made in self._class_of(each))
        elif called:
            yield from ((made, ast.unparse(value)) for made in self._class_of(value))
        elif (held := self._top.get(last_name(value))) is not None:
            yield from ((made, last_name(value)) for made in self._class_of(held))

    def _class_of(self, value: ast.expr) -> Iterator[ast.ClassDef]:
        """The class of the trainer's that a call makes an object of, where that can be written into."""
        same = self._own.classes.get(called_name(value), []) if isinstance(value, ast.Call) else []
        for made in same[:1] if len(same) == 1 else ():
            if not any(last_name(base) in VALUES for base in made.bases) and not _is_told(made, "frozen"):
                yield made

    def writer(self, kept: str, made: ast.ClassDef) -> Place | None:
        """The function that writes into what an attribute holds: by name, or by whatever name it is given."""
        for place in self._own.functions:
            if place.name in BLOCKS:
                continue
            if place.file.has(kept) and any(_is_held(each, kept, place) for each in _written(place)):
                return place
            kinds = {name for name, each in place.parameters.items() if dotted(each.annotation or each) == made.name}
            if kinds and any(dotted(each) in kinds for each in _written(place)):
                return place
        return self._by_name if _is_data(made) else None

    def _sets_by_name(self, place: Place) -> bool:
        """Whether a function sets attributes of what stands under names in an object of a dataclass: overrides do."""
        nodes = place.nodes
        if not place.file.has("setattr("):
            return False
        given = [(dotted(target), value) for target, value in assignments_in(nodes)]
        found = {target for target, value in given if _looks_up(value)}
        calls = [node for node in nodes if isinstance(node, ast.Call)]
        set_on = {dotted(node.args[0]) for node in calls if dotted(node.func) == "setattr" and len(node.args) == 3}
        again = [node for node in calls if called_name(node) == place.name]
        goes_down = any(dotted(each) in found or _looks_up(each) for node in again for each in node.args)
        if not set_on & found and not (goes_down and set_on & set(place.parameters)):
            return False
        roots = {dotted(value) for target, value in given if target in set_on} | set_on
        return any(self._is_data(root, place) for root in roots)

    def _is_data(self, name: str, place: Place, hops: int = 2) -> bool:
        """Whether a name of a function is an object of a dataclass of the trainer's."""
        if name == "self" and place.owner is not None:
            return _is_data(place.owner)
        if (given := place.parameters.get(name)) is None:
            return False
        if self._names_data(last_name(given.annotation) if given.annotation is not None else ""):
            return True
        for where, value in self._own.values_given(place, name):
            held = where.names.held(value)
            if where is not place and self._names_data(called_name(held)):
                return True
            if hops and where is not place and self._is_data(dotted(held), where, hops - 1):
                return True
        return False

    def _names_data(self, name: str) -> bool:
        return any(map(_is_data, self._own.classes.get(name, ())))


def _makes(value: ast.expr) -> bool:
    """Whether a value is made anew, and not looked up."""
    return isinstance(value, ast.Call) and called_name(value) != "get"


def _leaves(value: ast.expr, place: Place) -> Iterator[ast.expr]:
    """What a value may be: the sides of `or`, the branches of a condition, and what a parameter is given instead."""
    if isinstance(value, ast.BoolOp | ast.IfExp):
        for each in value.values if isinstance(value, ast.BoolOp) else (value.body, value.orelse):
            yield from _leaves(each, place)
        return
    yield value
    if isinstance(value, ast.Name) and value.id in place.parameters:
        yield from (each for target, each in assignments_in(place.nodes) if dotted(target) == value.id)


def _is_class_var(name: str, owner: ast.ClassDef) -> bool:
    """Whether an attribute is declared as the class's, or some method writes it so."""
    declared = (part for part in owner.body if isinstance(part, ast.AnnAssign) and dotted(part.target) == name)
    if any("ClassVar" in ast.unparse(part.annotation) for part in declared):
        return True
    return any(isinstance(node, ast.Attribute) and dotted(node) == f"cls.{name}" for node in ast.walk(owner))


def _is_told(made: ast.ClassDef, word: str) -> bool:
    """Whether a class's decorator sets a word to True."""
    calls = (each for each in made.decorator_list if isinstance(each, ast.Call))
    words = {each.arg: each.value for call in calls for each in call.keywords}
    return isinstance(words.get(word), ast.Constant) and bool(words[word].value)  # type: ignore[attr-defined]


def _refused(made: ast.ClassDef) -> bool:
    """Whether a dataclass refuses an object of a class for a default, since it has no hash."""
    return _is_data(made) and not _is_told(made, "unsafe_hash")


def _written(place: Place) -> Iterator[ast.expr]:
    """The objects whose attributes a function sets."""
    for node in place.nodes:
        targets: list[ast.expr] = [node.target] if isinstance(node, ast.AugAssign) else []
        targets += [target for target, _ in assignments_in([node])]
        yield from (target.value for target in targets if isinstance(target, ast.Attribute))
        if isinstance(node, ast.Call) and dotted(node.func) == "setattr" and len(node.args) == 3:
            yield node.args[0]


def _is_held(node: ast.expr, kept: str, place: Place) -> bool:
    """Whether something is what an attribute of that name holds."""
    return any(isinstance(each, ast.Attribute) and each.attr == kept for each in (node, place.names.held(node)))


def _is_data(made: ast.ClassDef) -> bool:
    """Whether a class is a dataclass."""
    return any(last_name(getattr(each, "func", each)) == "dataclass" for each in made.decorator_list)


def _looks_up(value: ast.expr) -> bool:
    """Whether a value is an attribute by a name that may be any."""
    called = isinstance(value, ast.Call) and dotted(value.func) == "getattr" and len(value.args) > 1
    return called and not isinstance(value.args[1], ast.Constant)  # type: ignore[attr-defined]

"""Which section of the configuration an expression of a trainer's source is, for the checks that compare settings."""

from __future__ import annotations

import ast
import re

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import assignments_in, last_name

Section = tuple[str, ...]  # names from the whole down; ("class", NAME): what a class declares
WHOLE = r"config|cfg|conf|recipe|settings|hparams"
NAMED = re.compile(rf"^_*(?P<of>\w*?)_?({WHOLE})$")
ARGS = re.compile(r"^_*(?P<of>\w+_)?(args|arguments|opts|flags|namespace)$")
SAME = ("vars", "dict", "asdict", "deepcopy", "copy", "to_container", "model_dump", "to_dict")
HOPS = 6
VALIDATORS = {"validator", "root_validator", "field_validator", "model_validator", "validates"}  # decorators


def called(name: str) -> Section | None:
    """The section that a name stands for: `cfg` is the whole, `loss_cfg` is `loss`; None: no configuration."""
    name = name.lower()
    if found := NAMED.match(name):
        return (found["of"],) if found["of"] else ()
    if found := ARGS.match(name):
        return ((found["of"] or "").rstrip("_"), "args") if found["of"] else ("args",)
    return None


def is_configuration(node: ast.expr) -> bool:
    """Whether an expression is a configuration or a part of one, by the names in it."""
    parts = [part for part in ast.walk(node) if isinstance(part, ast.Name | ast.Attribute)]
    return any(called(last_name(part)) is not None for part in parts)


def asked(node: ast.AST) -> tuple[ast.expr, str, ast.expr | None] | None:
    """What `config.get("name", 1.0)` or `getattr(config, "name", 1.0)` asks: of what, the name, the default."""
    if not isinstance(node, ast.Call) or node.keywords:
        return None
    if isinstance(node.func, ast.Attribute) and node.func.attr == "get" and 1 <= len(node.args) <= 2:
        holder, key, *more = (node.func.value, *node.args)
    elif dotted(node.func) == "getattr" and 2 <= len(node.args) <= 3:
        holder, key, *more = node.args
    else:
        return None
    if isinstance(key, ast.Constant) and isinstance(key.value, str):
        return holder, key.value, more[0] if more else None
    return None


class Sections:
    """The sections of a trainer.

    Args:
        places: its functions.
    """

    def __init__(self, places: Places) -> None:
        self._places = places

    def of(self, node: ast.expr, place: Place, hops: int = HOPS) -> Section | None:
        """The section that an expression is; one of its own where it may be several; None: no configuration."""
        if not hops:
            return None
        if (
            isinstance(node, ast.Subscript)
            and isinstance(node.slice, ast.Constant)
            and isinstance(node.slice.value, str)
        ):
            return self._below(self.of(node.value, place, hops - 1), node.slice.value)
        if isinstance(node, ast.Attribute):
            return self._of_attribute(node, place, hops)
        if isinstance(node, ast.BoolOp):
            return self.of(node.values[0], place, hops - 1)
        if isinstance(node, ast.Call):
            return self._of_call(node, place, hops)
        return self._of_name(node, place, hops) if isinstance(node, ast.Name) else None

    def _below(self, section: Section | None, name: str) -> Section | None:
        if section is None:
            return None
        if section[:1] == ("class",) and (kind := self._field_class(section[1], name)):
            return "class", kind
        return (*section, *(found if (found := called(name)) is not None else (name,)))

    def _field_class(self, owner: str, name: str) -> str:
        for field in (field for one in self._places.classes.get(owner, ()) for field in one.body):
            if isinstance(field, ast.AnnAssign) and dotted(field.target) == name:
                return self._class_in(field.annotation)
        return ""

    def _class_in(self, annotation: ast.expr | None) -> str:
        """The class of the trainer's that an annotation names; empty: none, or several."""
        if annotation is None:
            return ""
        names = {part.id for part in ast.walk(annotation) if isinstance(part, ast.Name)}
        names |= {part.attr for part in ast.walk(annotation) if isinstance(part, ast.Attribute)}
        names |= {str(part.value) for part in ast.walk(annotation) if isinstance(part, ast.Constant)}
        own = [name for name in names if len(self._places.classes.get(name, ())) == 1]
        return own[0] if len(own) == 1 else ""

    def _of_attribute(self, node: ast.Attribute, place: Place, hops: int) -> Section | None:
        if dotted(node.value) in ("self", "cls") and place.owner is not None:
            return self._of_self(node, place, place.owner, hops)
        section = self.of(node.value, place, hops - 1)
        if section is not None:
            return self._below(section, node.attr)
        found = called(node.attr)
        return None if found is None else (f"of {ast.unparse(node.value)}", *found)

    def _of_self(self, node: ast.Attribute, place: Place, owner: ast.ClassDef, hops: int) -> Section | None:
        """What a class keeps; its own where other classes may keep something else under that name."""
        own = _own(node, place) if called(node.attr) is not None else None
        kin = {dotted(base).rpartition(".")[2] for base in owner.bases}
        if owner.name in self._places.bases or any(name in self._places.classes for name in kin):
            return own
        found = []
        for method in self._places.methods_of(owner):
            kept = [v for target, v in assignments_in(method.nodes) if dotted(target) == f"self.{node.attr}"]
            found += [(method, value) for value in kept]
        if len(found) == 1:
            return self._or_called(self.of(found[0][1], found[0][0], hops - 1), node.attr)
        if not found and (kind := self._field_class(owner.name, node.attr)):
            return "class", kind
        return own

    def _of_call(self, node: ast.Call, place: Place, hops: int) -> Section | None:
        if (found := asked(node)) is not None:
            return self._below(self.of(found[0], place, hops - 1), found[1])
        name = called_name(node)
        if name in SAME:
            of = node.args[0] if node.args else node.func.value if isinstance(node.func, ast.Attribute) else None
            return self.of(of, place, hops - 1) if of is not None else None
        return ("class", name) if called(name) is not None and len(self._places.classes.get(name, ())) == 1 else None

    def _of_name(self, node: ast.Name, place: Place, hops: int) -> Section | None:
        held = place.names.held(node)
        if held is not node:
            return self._or_called(self.of(held, place, hops - 1), node.id)
        own = _own(node, place) if called(node.id) is not None else None
        if any(isinstance(part, ast.For | ast.comprehension) and _binds(part.target, node.id) for part in place.nodes):
            return own
        if node.id not in place.parameters:
            return called(node.id)
        if kind := self._class_in(place.parameters[node.id].annotation):
            return "class", kind
        given = self._places.given_to(place, node.id)
        if given is None:
            return own
        sections = {self.of(value, caller, hops - 1) for caller, value in given}
        if not sections:
            return called(node.id)
        return self._or_called(sections.pop(), node.id) if len(sections) == 1 else own

    def _or_called(self, section: Section | None, name: str) -> Section | None:
        return called(name) if section is None else section


def _own(node: ast.expr, place: Place) -> Section:
    owner = place.owner.name if place.owner is not None else ""
    where = owner if owner and dotted(node).startswith("self.") else f"{owner}.{place.name}"
    return "in", str(place.file.path), where, dotted(node)


def _binds(target: ast.expr, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(target))

"""Numbers that a trainer declares as None, or as more than 0, where they are not given, and that may be given as 0; and
what stands in for them by their truth."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from gradgate.checks.source.defaulted import MAY_BE_0, conditions
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.setting_sections import Sections
from gradgate.checks.source.trainer import File, Function, dotted, nodes_in
from gradgate.checks.source.values import OTHERS, assignments_in, defaults_of, last_name, parameters_of

ALSO_0 = re.compile(
    r"(^|_)(floor|min_lr|(min_)?delta|threshold|workers|offset|delay|temperature|bias|shift|burn_in|discount|lr_min"
    r"|(warmup|decay|delay|freeze|frozen|burn_in|skip)_(steps|epochs|updates|iters|tokens|batches|ratio|fraction))$"
)
SAYS_0 = re.compile(r"\b(0|zero|auto\w*|unset)\b")
NONE_MEANS = re.compile(r"(^|[\W_])(inf|maxsize|None)\b")
NUMBERS = ("int", "float", "NonNegativeInt", "NonNegativeFloat")


class OptionalNumbers:
    """The numbers that are None where they are not given, or fields that are more than 0 then, and that may be 0.

    Not those that a range or a check keeps from 0, nor those that another declaration has as 0, unless it is known of
    which class a number is a field.

    Args:
        files: of the trainer.
        own: its functions.
    """

    def __init__(self, files: Iterable[File], own: Places) -> None:
        optional, others = set[str](), set[str]()
        self._of_class: dict[str, set[str]] = {}
        self._sections = Sections(own)
        for file in files:
            for owner, name, annotation, default in _declared(file):
                if not _may_be_0(name):
                    continue
                is_none = annotation is not None and _is_optional(annotation)
                is_none = is_none or (
                    annotation is None and isinstance(default, ast.Constant) and default.value is None
                )
                is_kept = isinstance(default, ast.Call) and any(map(_is_above_0, default.keywords))
                is_kept = is_kept or (annotation is not None and "Positive" in ast.unparse(annotation))
                is_none = is_none or (bool(owner) and _is_more(default) and not _speaks_of_0(file, name, default))
                is_number = (
                    isinstance(default, ast.Constant) and default.value in (0, -1) and default.value is not False
                )
                (optional if is_none and not is_kept else others if is_kept or is_number else set()).add(name)
                if owner and is_none and not is_kept:
                    self._of_class.setdefault(owner, set()).add(name)
            compared = (node for node in file.nodes if isinstance(node, ast.Compare))
            others |= {last_name(one) for node in compared for one in _kept_above_0(node)}
        self.names = frozenset(optional - others)
        self._of_class = {owner: names - self.names for owner, names in self._of_class.items()}
        if any(self._of_class.values()):
            self._leave_out(own)

    def __bool__(self) -> bool:
        return bool(self.names) or any(self._of_class.values())

    def has(self, node: ast.expr, place: Place) -> bool:
        """Whether an expression is one of them."""
        name = last_name(node)
        if name in self.names:
            return True
        if not isinstance(node, ast.Attribute) or not any(name in names for names in self._of_class.values()):
            return False
        return name in self._of_class.get(self._class_of(node.value, place), ())

    def _class_of(self, node: ast.expr, place: Place) -> str:
        """The class that an expression is an object of; empty: it is not known."""
        section = self._sections.of(node, place) or ()
        return section[1] if section[:1] == ("class",) and len(section) == 2 else ""

    def _leave_out(self, own: Places) -> None:
        """Those that a comparison keeps from 0 which may be of their class."""
        waiting = set().union(*self._of_class.values())
        for place in own.all:
            for node in place.nodes if place.file.has(*waiting) else ():
                for one in _kept_above_0(node) if isinstance(node, ast.Compare) else ():
                    if (name := last_name(one)) not in waiting:
                        continue
                    of = self._class_of(one.value, place) if isinstance(one, ast.Attribute) else ""
                    for names in [self._of_class.get(of, set())] if of else self._of_class.values():
                        names.discard(name)


def _is_more(default: ast.expr | None) -> bool:
    """Whether a field is a number above 0 where it is not given: who gives 0 means 0."""
    number = default.value if isinstance(default, ast.Constant) else None
    return isinstance(number, int | float) and not isinstance(number, bool) and number > 0


def _speaks_of_0(file: File, name: str, default: ast.expr | None) -> bool:
    """Whether a comment at a field, in front of it, or a text of its class says what 0 stands for."""
    at = default.lineno if default is not None else 1
    beside = [file.lines[at - 1].partition("#")[2]]
    beside += [line.partition("#")[2] for line in file.lines[max(at - 2, 0) : at - 1]]
    for node in (part for owner in file.nodes if isinstance(owner, ast.ClassDef) for part in owner.body):
        text = node.value.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) else None
        if isinstance(text, str):
            beside += [line for line in text.splitlines() if name in line or node.lineno == at + 1]
    return any(map(SAYS_0.search, beside))


def _declared(file: File) -> Iterator[tuple[str, str, ast.expr | None, ast.expr | None]]:
    """The fields of classes and the arguments of functions: class, name, annotation and default."""
    for node in file.nodes:
        if isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign):
                    yield node.name, dotted(field.target), field.annotation, field.value
        elif isinstance(node, Function):
            defaults = {each.arg: default for each, default in defaults_of(node.args)}
            for each in parameters_of(node):
                yield "", each.arg, each.annotation, defaults.get(each.arg)


def _may_be_0(name: str) -> bool:
    return bool(MAY_BE_0.search(name) or ALSO_0.search(name)) and not name.endswith("aspect_ratio")


def _is_optional(annotation: ast.expr) -> bool:
    """Whether an annotation is that of a number or None."""
    text = ast.unparse(annotation).strip("'\"")
    found = re.fullmatch(r"(typing\.|t\.)?Optional\[(\w+)\]|(\w+) \| None|None \| (\w+)|(typing\.)?Union\[(.+)\]", text)
    if found is None:
        return False
    kinds = [part.strip() for part in re.split(r"[,|]", next(filter(None, (found[2], found[3], found[4], found[6]))))]
    return set(kinds) - {"None"} <= set(NUMBERS) and (found[6] is None or "None" in kinds)


def _is_above_0(word: ast.keyword) -> bool:
    is_number = isinstance(word.value, ast.Constant) and isinstance(word.value.value, int | float)
    return is_number and (word.arg == "gt" or (word.arg == "ge" and word.value.value > 0))  # type: ignore[attr-defined]


def _kept_above_0(node: ast.Compare) -> Iterator[ast.expr]:
    """What a comparison asks to be more than 0, by its name."""
    sides = [node.left, *node.comparators]
    for left, how, right in zip(sides, node.ops, sides[1:], strict=False):
        for one, other, above, from_ in ((left, right, ast.Gt | ast.LtE, ast.GtE | ast.Lt), (
            right, left, ast.Lt | ast.GtE, ast.LtE | ast.Gt)):  # fmt: skip
            number = other.value if isinstance(other, ast.Constant) else None
            is_above = (number == 0 and isinstance(how, above)) or (number == 1 and isinstance(how, from_))
            if is_above and number is not False and last_name(one):
                yield one


def stood_in_for(place: Place, optional: OptionalNumbers) -> Iterator[tuple[ast.AST, str]]:
    """Where the truth of such a number decides what is taken, each with the number as it is written."""
    nodes = place.nodes
    left_out = {id(part) for node in nodes for part in conditions(node)}
    targets = {id(value): last_name(target) for target, value in assignments_in(nodes)}
    for node in nodes:
        if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) and id(node) not in left_out:
            number, other = node.values[0], node.values[-1]
        elif isinstance(node, ast.IfExp):
            is_not = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
            number, other = (node.orelse, node.body) if is_not else (node.body, node.orelse)
            asked = node.test.operand if isinstance(node.test, ast.UnaryOp) and is_not else node.test
            number = _converted(number)
            if ast.unparse(asked) != ast.unparse(number):
                continue
        else:
            continue
        is_one = _is_one(number, place, optional) and _is_something(other)
        if is_one and _are_alike(targets.get(id(node), ""), last_name(number)):
            yield node, ast.unparse(number)
    yield from _of_branches(place, optional)


def _of_branches(place: Place, optional: OptionalNumbers) -> Iterator[tuple[ast.AST, str]]:
    """`if not warmup: warmup = ...`, and branches of which one takes the number and the other something else."""
    following = {
        id(one): two
        for node in (place.function, *place.nodes)
        for block in (getattr(node, "body", None), getattr(node, "orelse", None))
        if isinstance(block, list)
        for one, two in pairwise(block)
    }
    for node in (each for each in place.nodes if isinstance(each, ast.If)):
        is_not = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
        asked = node.test.operand if isinstance(node.test, ast.UnaryOp) and is_not else node.test
        if not _is_one(asked, place, optional):
            continue
        behind = [following[id(node)]] if id(node) in following else []
        without, with_it = (node.body, node.orelse or behind) if is_not else (node.orelse or behind, node.body)
        text = ast.unparse(asked)
        taken = dict(_takes(with_it))
        for target, value in _takes(without):
            is_same = target == text and is_not and not node.orelse
            is_twin = target in taken and ast.unparse(_converted(taken[target])) == text
            if (is_same or is_twin) and _is_something(value):
                yield node, text


def _takes(block: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    """What a block assigns, and what it gives back (under an empty name)."""
    for node in nodes_in(block, *OTHERS, ast.If, ast.For, ast.While):
        if isinstance(node, ast.Return) and node.value is not None:
            yield "", node.value
    yield from ((ast.unparse(target), value) for target, value in assignments_in(block))


def _are_alike(target: str, number: str) -> bool:
    """Whether what is assigned is the number by its name, and not what is made of it; nothing is assigned: it may be.

    Their names have the beginning of a word in common.
    """
    words = [name.lower().strip("_").split("_") for name in (target, number)]
    return not target or any(one.startswith(two) or two.startswith(one) for one in words[0] for two in words[1])


def _converted(node: ast.expr) -> ast.expr:
    """What `int(x)` and `float(x)` are of."""
    is_cast = isinstance(node, ast.Call) and dotted(node.func) in ("int", "float") and len(node.args) == 1
    return node.args[0] if isinstance(node, ast.Call) and is_cast else node


def _is_one(node: ast.expr, place: Place, optional: OptionalNumbers) -> bool:
    held = place.names.held(node) if isinstance(node, ast.Name) else node
    if isinstance(held, ast.Call) and isinstance(held.func, ast.Attribute) and held.func.attr == "get":
        key = held.args[0] if len(held.args) == 1 else None
        return isinstance(key, ast.Constant) and key.value in optional.names
    is_written = isinstance(held, ast.Attribute | ast.Name) or (
        isinstance(held, ast.Subscript) and isinstance(held.slice, ast.Constant)
    )
    return is_written and optional.has(held, place)


def _is_something(other: ast.expr) -> bool:
    """Whether what stands in is not nothing itself."""
    if isinstance(other, ast.Constant):
        return isinstance(other.value, int | float) and bool(other.value)
    is_empty = isinstance(other, ast.List | ast.Dict | ast.Tuple) or NONE_MEANS.search(ast.unparse(other))
    return not is_empty

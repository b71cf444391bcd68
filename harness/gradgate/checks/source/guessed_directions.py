"""Directions that a trainer's source guesses from the names of scores, for the check that holds them against these."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import SPLITS, assignments_in, last_name

NAMED = re.compile(r"monitor|metric|score|name|key|watch", re.IGNORECASE)
FALLING = re.compile(r"minimi[sz]e|(low|small)er_(is_)?better|is_loss|falls|lower$", re.IGNORECASE)
RISING = re.compile(r"maximi[sz]e|(high|great|larg|bigg)er_(is_)?better|rises|higher$", re.IGNORECASE)
MADE = ("frozenset", "set", "tuple", "list", "compile", "dict")
CHANGED = {"lower": 0, "upper": 0, "strip": 0, "casefold": 0, "removeprefix": 1, "removesuffix": 1, "replace": 2}
TEXTS = {"min": True, "max": False, "<": True, ">": False, "minimize": True, "maximize": False}


@dataclass(frozen=True)
class Guess:
    """A direction that a name decides.

    Args:
        place: where it stands.
        node: its condition, or the table that is asked.
        falls: whether the smaller is the better one where the condition holds.
        test: the condition, with the texts that its constants hold.
    """

    place: Place
    node: ast.expr
    falls: bool
    test: ast.expr

    def of(self, name: str) -> bool | None:
        """Whether the smaller is taken for the better one of a score of this name; None: the condition is another."""
        holds = _holds(self.test, name)
        return None if holds is None else holds is self.falls


def guesses_in(own: Places) -> Iterator[Guess]:
    """The guesses of a trainer: a choice of a direction by a part of a name, or a truth value that says one."""
    constants = _constants(own)
    for place in own.all:
        if not place.file.has("min", "max", "lower", "higher", "smaller", "greater", "inf"):
            continue
        for node in place.nodes:
            if isinstance(node, ast.IfExp) and (test := _asked(node.test, constants)) is not None:
                falls = _way(node.body)
                if falls is not None and _way(node.orelse) is not falls and _way(node.orelse) is not None:
                    yield Guess(place, node.test, falls, test)
            elif isinstance(node, ast.If) and (test := _asked(node.test, constants)) is not None:
                falls = _taken(node.body)
                if falls is not None and _taken(node.orelse or _behind(node, place)) is (not falls):
                    yield Guess(place, node.test, falls, test)
            elif isinstance(node, ast.Return) and node.value is not None:
                yield from _said(place, node.value, place.name, constants)
            elif isinstance(node, ast.Call):
                yield from _looked_up(place, node, constants)
        for target, value in assignments_in(place.nodes):
            yield from _said(place, value, last_name(target), constants)


def _said(place: Place, value: ast.expr, name: str, constants: dict[str, ast.expr]) -> Iterator[Guess]:
    if bool(FALLING.search(name)) is bool(RISING.search(name)):
        return
    if (test := _asked(value, constants)) is not None:
        yield Guess(place, value, bool(FALLING.search(name)), test)


def _looked_up(place: Place, call: ast.Call, constants: dict[str, ast.expr]) -> Iterator[Guess]:
    """The direction that a table gives, and the one that is taken for a name that it lacks: `WAYS.get(name, "min")`."""
    if called_name(call) != "get" or len(call.args) != 2 or not _is_a_name(call.args[0]):
        return
    held = constants.get(last_name(call.func.value)) if isinstance(call.func, ast.Attribute) else None
    falls = _way(call.args[1])
    if isinstance(held, ast.Dict) and falls is not None:
        pairs = [pair for pair in zip(held.keys, held.values, strict=True) if pair[0] is not None]
        ways = {_way(value) for _, value in pairs}
        if pairs and None not in ways:
            others: list[ast.expr] = [key for key, value in pairs if key is not None and _way(value) is not falls]
            test = ast.Compare(call.args[0], [ast.In()], [ast.Tuple(others, ast.Load())])
            yield Guess(place, call, not falls, test)


def _constants(own: Places) -> dict[str, ast.expr]:
    """The texts and tables of texts that the top level of a file, a class or an attribute of `self` is given once."""
    found: dict[str, list[ast.expr]] = {}
    fields = (field for same in own.classes.values() for owner in same for field in owner.body)
    for target, value in assignments_in(fields):
        found.setdefault(last_name(target), []).append(value)
    for place in own.all:
        for target, value in assignments_in(place.nodes):
            if place.is_top or dotted(target).startswith(("self.", "cls.")):
                found.setdefault(last_name(target), []).append(value)
    return {name: _bare(same[0]) for name, same in found.items() if len(same) == 1 and _is_text(_bare(same[0]))}


def _bare(value: ast.expr) -> ast.expr:
    """What a collection, or a pattern, is made of: `frozenset({"acc"})`, `re.compile("acc$")`."""
    made = isinstance(value, ast.Call) and value.args and called_name(value) in MADE
    return value.args[0] if made and isinstance(value, ast.Call) else value


def _is_text(value: ast.expr) -> bool:
    return isinstance(value, ast.Dict) or bool(_written(value))


class _SpeltOut(ast.NodeTransformer):
    """A condition with what its constants hold in their place."""

    def __init__(self, constants: dict[str, ast.expr], *, names_too: bool = False) -> None:
        self.constants, self.names_too = constants, names_too

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._held(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self._held(node) if dotted(node) else self.generic_visit(node)  # type: ignore[return-value]

    def _held(self, node: ast.expr) -> ast.expr:
        held = self.constants.get(last_name(node), node)
        is_score = _is_a_name(node) and isinstance(held, ast.Constant) and not self.names_too
        return node if is_score else held

    def every(self, node: ast.expr) -> ast.expr:
        """A copy of a part in which a variable has its value."""
        spelt: ast.expr = self.visit(copy.deepcopy(node))
        return spelt

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Attribute):  # what it is looked up in is no constant's attribute
            node.func.value = self.visit(node.func.value)
        node.args = [self.visit(each) for each in node.args]
        return node


def _asked(test: ast.expr, constants: dict[str, ast.expr]) -> ast.expr | None:
    """A condition that asks the text of a score's name, with what its constants hold; None: it asks something else."""
    if not any(_is_a_name(part) for part in ast.walk(test) if isinstance(part, ast.expr)):
        return None
    spelt: ast.expr = _SpeltOut(constants).visit(copy.deepcopy(test))
    return spelt if _holds(spelt, "") is not None else None


def _holds(test: ast.expr, name: str) -> bool | None:
    """Whether a condition holds for a name; None: it asks something else."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _holds(test.operand, name)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        parts = [_holds(part, name) for part in test.values]
        known = [part for part in parts if part is not None]
        return None if len(known) < len(parts) else (all(known) if isinstance(test.op, ast.And) else any(known))
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return _compared(test, name)
    if not isinstance(test, ast.Call):
        return None
    if isinstance(test.func, ast.Attribute) and test.func.attr in ("endswith", "startswith"):
        text, texts = _text(test.func.value, name), _written(test.args[0]) if len(test.args) == 1 else []
        if text is None or not texts:
            return None
        return text.endswith(tuple(texts)) if test.func.attr == "endswith" else text.startswith(tuple(texts))
    if called_name(test) in ("search", "match", "fullmatch") and isinstance(test.func, ast.Attribute):
        pattern, asked = [*([] if dotted(test.func.value) == "re" else [test.func.value]), *test.args][:2]
        return _fits(called_name(test), pattern, _text(asked, name))
    if dotted(test.func) == "bool" and test.args:
        return _holds(test.args[0], name)
    return _any_of(test, name) if dotted(test.func) in ("any", "all") and test.args else None


def _compared(test: ast.Compare, name: str) -> bool | None:
    (sign,), left, right = test.ops, test.left, test.comparators[0]
    if isinstance(sign, ast.In | ast.NotIn):
        if (text := _text(right, name)) is not None and isinstance(left, ast.Constant) and isinstance(left.value, str):
            found = left.value in text
        elif (text := _text(left, name)) is not None and (texts := _written(right)):
            found = text in texts
        else:
            return None
        return found is isinstance(sign, ast.In)
    text, texts = _text(left, name), _written(right)
    if isinstance(sign, ast.Eq | ast.NotEq) and text is not None and len(texts) == 1 and left is not right:
        return (text == texts[0]) is isinstance(sign, ast.Eq)
    return None


def _fits(how: str, pattern: ast.expr, text: str | None) -> bool | None:
    written = pattern.value if isinstance(pattern, ast.Constant) else None
    if text is None or not isinstance(written, str):
        return None
    try:
        return getattr(re, how)(written, text) is not None
    except re.error:
        return None


def _any_of(call: ast.Call, name: str) -> bool | None:
    """Whether any, or all, of the texts that a generator is over hold for a name."""
    given = call.args[0]
    if not isinstance(given, ast.GeneratorExp | ast.ListComp) or len(given.generators) != 1:
        return None
    over = given.generators[0]
    texts = _written(over.iter)
    if not texts or not isinstance(over.target, ast.Name) or over.ifs:
        return None
    held = [
        _holds(_SpeltOut({over.target.id: ast.Constant(text)}, names_too=True).every(given.elt), name) for text in texts
    ]
    known = [each for each in held if each is not None]
    return None if len(known) < len(held) else (any(known) if dotted(call.func) == "any" else all(known))


def _text(node: ast.expr, name: str) -> str | None:
    """What an expression makes of a name; None: it is of none."""
    if _is_a_name(node) and isinstance(node, ast.Name | ast.Attribute):
        return name
    if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Call):
        cut, at = node.value, ast.unparse(node.slice)
        text = _text(cut.func.value, name) if isinstance(cut.func, ast.Attribute) else None
        marks = _written(cut.args[0]) if cut.args else []
        if text is None or called_name(cut) not in SPLITS or at not in ("-1", "0") or len(marks) != 1:
            return None
        parts: tuple[str, ...] = tuple(getattr(text, called_name(cut))(marks[0]))
        return parts[int(at)]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        text, given = _text(node.func.value, name), [text for each in node.args for text in _written(each)]
        if text is not None and node.func.attr in CHANGED and len(given) == len(node.args) == CHANGED[node.func.attr]:
            changed: str = getattr(text, node.func.attr)(*given)
            return changed
    return None


def _is_a_name(node: ast.expr) -> bool:
    return isinstance(node, ast.Name | ast.Attribute) and bool(NAMED.search(last_name(node)))


def _written(node: ast.expr) -> list[str]:
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    texts = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return texts if len(texts) == len(parts) else []


def _way(node: ast.expr) -> bool | None:
    """Whether a value is what a score that has to fall is given: `min`, `<`, infinity to begin with."""
    if isinstance(node, ast.Constant):
        return TEXTS.get(node.value) if isinstance(node.value, str) else None
    text = ast.unparse(node).replace("'", "").lower()
    if text in ("operator.lt", "min", "float(inf)", "math.inf", "np.inf", "torch.inf", "inf"):
        return True
    if text in ("operator.gt", "max", "float(-inf)", "-float(inf)", "-math.inf", "-np.inf", "-torch.inf", "-inf"):
        return False
    return None


def _taken(block: list[ast.stmt]) -> bool | None:
    """The way that a block gives back, or assigns."""
    values = [each.value for each in block if isinstance(each, ast.Return | ast.Assign | ast.AnnAssign)]
    ways = {way for value in values if value is not None and (way := _way(value)) is not None}
    return ways.pop() if len(ways) == 1 else None


def _behind(branch: ast.If, place: Place) -> list[ast.stmt]:
    body = place.function.body
    return body[body.index(branch) + 1 :] if branch in body and isinstance(branch.body[-1], ast.Return) else []

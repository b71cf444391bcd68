"""Directions that a trainer's source guesses from the names of scores, for the check that holds them against these."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradgate.checks.source_places import Place, Places
from gradgate.checks.source_values import assignments_in, last_name
from gradgate.checks.trainer_source import dotted

NAMED = re.compile(r"monitor|metric|score|name|key|watch", re.IGNORECASE)
FALLING = re.compile(r"minimi[sz]e|(low|small)er_(is_)?better|is_loss|falls|lower$", re.IGNORECASE)
RISING = re.compile(r"maximi[sz]e|(high|great|larg|bigg)er_(is_)?better|rises|higher$", re.IGNORECASE)
TEXTS = {"min": True, "max": False, "<": True, ">": False, "minimize": True, "maximize": False}


@dataclass(frozen=True)
class Guess:
    """A direction that a name decides.

    Args:
        place: where it stands.
        node: its condition.
        falls: whether the smaller is the better one where the condition holds.
    """

    place: Place
    node: ast.expr
    falls: bool

    def of(self, name: str) -> bool | None:
        """Whether the smaller is taken for the better one of a score of this name; None: the condition is another."""
        holds = _holds(self.node, name)
        return None if holds is None else holds is self.falls


def guesses_in(own: Places) -> Iterator[Guess]:
    """The guesses of a trainer: a choice of a direction by a part of a name, or a truth value that says one."""
    for place in own.all:
        if not place.file.has("min", "max", "lower", "higher", "smaller", "greater", "inf"):
            continue
        for node in place.nodes:
            if isinstance(node, ast.IfExp) and _asks_a_name(node.test):
                falls = _way(node.body)
                if falls is not None and _way(node.orelse) is not falls and _way(node.orelse) is not None:
                    yield Guess(place, node.test, falls)
            elif isinstance(node, ast.If) and _asks_a_name(node.test):
                falls = _taken(node.body)
                if falls is not None and _taken(node.orelse or _behind(node, place)) is (not falls):
                    yield Guess(place, node.test, falls)
            elif isinstance(node, ast.Return) and node.value is not None and _asks_a_name(node.value):
                yield from _said(place, node.value, place.name)
        for target, value in assignments_in(place.nodes):
            if _asks_a_name(value):
                yield from _said(place, value, last_name(target))


def _said(place: Place, test: ast.expr, name: str) -> Iterator[Guess]:
    if bool(FALLING.search(name)) is not bool(RISING.search(name)):
        yield Guess(place, test, bool(FALLING.search(name)))


def _asks_a_name(test: ast.expr) -> bool:
    """Whether a condition asks the text of a score's name, as far as it is known."""
    return _holds(test, "") is not None


def _holds(test: ast.expr, name: str) -> bool | None:
    """Whether a condition holds for a name; None: it asks something else."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _holds(test.operand, name)
        return None if inner is None else not inner
    if isinstance(test, ast.BoolOp):
        parts = [_holds(part, name) for part in test.values]
        known = [part for part in parts if part is not None]
        return None if len(known) < len(parts) else (all(known) if isinstance(test.op, ast.And) else any(known))
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.In | ast.NotIn):
        left, right = test.left, test.comparators[0]
        if isinstance(left, ast.Constant) and isinstance(left.value, str) and _is_a_name(right):
            found = left.value in name
        elif _is_a_name(left) and (texts := _written(right)):
            found = name in texts
        else:
            return None
        return found is isinstance(test.ops[0], ast.In)
    if isinstance(test, ast.Call) and isinstance(test.func, ast.Attribute) and _is_a_name(test.func.value):
        texts, asks = _written(test.args[0]) if len(test.args) == 1 else [], test.func.attr
        if not texts or asks not in ("endswith", "startswith"):
            return None
        return any(name.endswith(text) if asks == "endswith" else name.startswith(text) for text in texts)
    if isinstance(test, ast.Call) and dotted(test.func) == "any" and test.args:
        return _any_of(test.args[0], name)
    return None


def _any_of(given: ast.expr, name: str) -> bool | None:
    """Whether one of the texts that a generator is over is in a name."""
    if not isinstance(given, ast.GeneratorExp | ast.ListComp) or len(given.generators) != 1:
        return None
    test, over = given.elt, given.generators[0]
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.In)):
        return None
    texts = _written(over.iter)
    fits = dotted(test.left) == dotted(over.target) != "" and _is_a_name(test.comparators[0])
    return any(text in name for text in texts) if fits and texts else None


def _is_a_name(node: ast.expr) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("lower", "strip"):
        node = node.func.value
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
    for each in block[:1]:
        value = each.value if isinstance(each, ast.Return | ast.Assign | ast.AnnAssign) else None
        return _way(value) if value is not None else None
    return None


def _behind(branch: ast.If, place: Place) -> list[ast.stmt]:
    body = place.function.body
    return body[body.index(branch) + 1 :] if branch in body and isinstance(branch.body[-1], ast.Return) else []

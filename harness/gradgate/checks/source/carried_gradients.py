"""Whether what a trainer computes carries the gradient of something, followed through names, functions and objects."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from functools import lru_cache

from gradgate.checks.source.objects_called import object_called, table_called
from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import assignments_in, outwards, parents_in

WITHOUT = re.compile(r"detach|no_grad|inference_mode|\.item\(|tolist|numpy|\.data\b|stop_grad")
KEEPS = re.compile(  # what lets a gradient through
    r"^(exp|expm1|softmax|log_softmax|sigmoid|tanh|relu|softplus|abs|square|pow|sqrt|rsqrt|log|log1p|clamp|clamp_min"
    r"|clamp_max|clip|mul|div|add|sub|neg|reciprocal|minimum|maximum|where|masked_fill|masked_fill_|nan_to_num|sum|mean"
    r"|cumsum|lerp|view|reshape|squeeze|unsqueeze|flatten|transpose|permute|expand|expand_as|contiguous|float|double|to"
    r"|type_as|clone|gather|stack|cat|pad|roll|normalize|gelu|silu|leaky_relu|masked_select|logsigmoid|cross_entropy|nll_loss)$"
)
LIBRARIES = ("torch", "F", "functional", "nn.functional", "torch.nn.functional", "torch.special")


class Carried:
    """What carries the gradient of some names of a function.

    Args:
        place: the function.
        places: all functions.
        roots: the names, as they are written.
        hops: how many functions are followed.
    """

    def __init__(self, place: Place, places: Places, roots: Collection[str], hops: int = 4) -> None:
        self._place, self._places, self._roots, self._hops = place, places, set(roots), hops
        self._asked = set[int]()

    def by(self, node: ast.expr) -> bool:
        """Whether an expression does."""
        if isinstance(node, ast.Name | ast.Attribute):
            return self._by_name(node)
        if isinstance(node, ast.BinOp):
            return self.by(node.left) or self.by(node.right)
        if isinstance(node, ast.UnaryOp):
            return isinstance(node.op, ast.USub) and self.by(node.operand)
        if isinstance(node, ast.IfExp):
            return self.by(node.body) or self.by(node.orelse)
        if isinstance(node, ast.Subscript | ast.Starred):
            return self.by(node.value)
        if isinstance(node, ast.Tuple | ast.List):
            return any(map(self.by, node.elts))
        return isinstance(node, ast.Call) and self._by_call(node)

    def _by_name(self, node: ast.expr) -> bool:
        values = [
            (target, value)
            for target, value in assignments_in(self._place.nodes)
            if dotted(target) == dotted(node) and (value.end_lineno or value.lineno) < node.lineno
        ]
        if dotted(node) in self._roots:
            last = max((value for _, value in values), key=lambda value: value.lineno, default=None)
            return last is None or not (WITHOUT.search(ast.unparse(last)) or is_without(last, self._place))
        for target, value in sorted(values, key=lambda one: one[1].lineno, reverse=True):
            if id(value) in self._asked:
                return False
            self._asked.add(id(value))
            carries = self.by(value)
            self._asked.discard(id(value))
            if WITHOUT.search(ast.unparse(value)) or is_without(value, self._place):
                return False
            if carries or not _is_conditional(target, self._place):
                return carries
        return False

    def _by_call(self, call: ast.Call) -> bool:
        name = called_name(call)
        called = self._places.called(call, self._place) or object_called(call, self._place, self._places)
        if called is not None:
            return self._through(call, called)
        if several := table_called(call, self._place, self._places):
            bound = call.args[1:] if call.args and dotted(call.args[0]) == "self" else call.args
            return any(self._through(ast.Call(call.func, bound, call.keywords), each) for each in several)
        if isinstance(call.func, ast.Attribute) and KEEPS.match(name):
            of_library = dotted(call.func.value) in LIBRARIES
            own = [] if of_library else [call.func.value]
            given_too = [] if name in ("to", "type_as", "view", "reshape", "expand_as") else given_by(call)
            return any(map(self.by, [*own, *given_too]))
        return False

    def _through(self, call: ast.Call, called: Place) -> bool:
        """Whether a function gives back what carries the gradient of what a call gives it, alone or in fields."""
        given = called.given(call)
        roots = {each for each, value in given.items() if self.by(value)}
        roots |= {f"{each}.{field}" for each, value in given.items() for field in self._fields(value)}
        return bool(roots) and self._hops > 0 and returns_carry(called, self._places, roots, self._hops - 1)

    def _fields(self, value: ast.expr) -> list[str]:
        """The fields that carry it, of an object without an `__init__` that is made of what it is given by name, or of
        an argument that has such fields."""
        held = self._place.names.held(value)
        if isinstance(held, ast.Call) and called_name(held) in self._places.classes:
            return [word.arg for word in held.keywords if word.arg and self.by(word.value)]
        return [root.partition(".")[2] for root in self._roots if root.startswith(f"{dotted(held)}.")]


def returns_carry(place: Place, places: Places, roots: Collection[str], hops: int) -> bool:
    """Whether what a function gives back carries the gradient of some of its arguments."""
    if is_bare(place):
        return False
    carried = Carried(place, places, roots, hops)
    values = place.returned
    return any(carried.by(value) and not is_without(value, place) for value in values)


def is_bare(place: Place) -> bool:
    """Whether a function is run without gradients, by its decorator."""
    return any(WITHOUT.search(ast.unparse(each)) for each in place.function.decorator_list)


def is_without(node: ast.AST, place: Place) -> bool:
    """Whether a node stands in a block without gradients."""
    return any(
        isinstance(around, ast.With) and any(WITHOUT.search(ast.unparse(item)) for item in around.items)
        for around in outwards(node, _parents(place))
    )


def _is_conditional(node: ast.AST, place: Place) -> bool:
    return any(isinstance(around, ast.If | ast.For | ast.While | ast.Try) for around in outwards(node, _parents(place)))


@lru_cache(maxsize=256)
def _parents(place: Place) -> dict[int, ast.AST]:
    return parents_in(place.function)

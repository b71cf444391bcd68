"""Functions of a trainer's source computed with numbers in place of tensors, for the check of what undoes another."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from gradgate.checks.source.places import Place, Places
from gradgate.checks.source.trainer import called_name, dotted
from gradgate.checks.source.values import defaults_of

TINY = 1e-9
BITS = 997  # of a name's sum, by which its number is chosen: another one for each name
VARIANCE = re.compile(r"(^|_)(var|variance|sigma_?sq|sigma2|std2)(_|$)")
SPREAD = re.compile(r"(^|_)(std|stddev|sigma|scale|spread|dev)(_|$)")
SMALL = re.compile(r"(^|_)(eps|epsilon|tiny)(_|$)|EPS")
KEEPS = {
    *("to", "float", "double", "detach", "clone", "item", "cpu", "cuda", "view", "reshape", "unsqueeze", "squeeze"),
    *("expand", "expand_as", "expand_dims", "type_as", "contiguous", "as_tensor", "tensor", "asarray", "array"),
    *("view_as", "astype", "nan_to_num", "broadcast_to", "type"),
}
BOUNDS = ("clamp", "clip", "clamp_", "clamp_min", "maximum", "max")
SIGNS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
OF_TWO: dict[str, Callable[[float, float], float]] = {
    **dict.fromkeys(("add", "add_"), operator.add),
    **dict.fromkeys(("sub", "sub_", "subtract"), operator.sub),
    **dict.fromkeys(("mul", "mul_", "multiply"), operator.mul),
    **dict.fromkeys(("div", "div_", "divide", "true_divide"), operator.truediv),
    **dict.fromkeys(("pow", "pow_"), operator.pow),
}
OF_ONE: dict[str, Callable[[float], float]] = {
    "sqrt": math.sqrt,
    "sqrt_": math.sqrt,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "exp": math.exp,
    "log": math.log,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1 / x,
    "neg": operator.neg,
    "abs": abs,
}


class UnknownError(Exception):
    """Something is done that is not followed."""


def computed(place: Place, own: Places, given: Mapping[str, float], known: dict[str, float]) -> float:
    """What a function returns of a number.

    Args:
        place: the function.
        own: all of the trainer's.
        given: its arguments' numbers; the others have one by their names.
        known: the numbers of what functions share, which is added to.

    Raises:
        UnknownError: something else is done with it.
    """
    return _Run(place, own, dict(given), known).result()


def is_of(name: str, known: Iterable[str]) -> bool:
    """Whether a name that one function has and another lacks is tiny, or the root or square of what that has."""
    kinds = ((VARIANCE, SPREAD), (SPREAD, VARIANCE))
    akin = any(one.search(name) and any(map(other.search, known)) for one, other in kinds)
    return akin or bool(SMALL.search(name))


class _Run:
    """One call of a function.

    Attributes:
        held: the numbers of its names.
        tensors: the names that hold what it was given first: what bounds them leaves them as they are.
    """

    def __init__(self, place: Place, own: Places, given: dict[str, float], known: dict[str, float], deep: int = 4):
        self.place, self.own, self.known, self.deep = place, own, known, deep
        self.held, self.tensors = given, set(given)
        for each, default in defaults_of(place.function.args):
            if each.arg not in given and isinstance(default, ast.Constant) and isinstance(default.value, int | float):
                self.held[each.arg] = self.known.setdefault(each.arg, float(default.value))

    def result(self) -> float:
        """What it returns at its end: what it returns on a condition before that is another case."""
        value = self._block(self.place.function.body)
        if value is None:
            raise UnknownError
        return value

    def _block(self, body: Sequence[ast.stmt]) -> float | None:
        for at, each in enumerate(body):
            if isinstance(each, ast.Return) and each.value is not None:
                return self.of(each.value)
            if isinstance(each, ast.If) and self._gives_back(each.body) and not each.orelse:
                continue
            if isinstance(each, ast.If) and self._gives_back(each.orelse or body[at + 1 :]):
                return self._block(each.body)
            if isinstance(each, ast.With):
                if (value := self._block(each.body)) is not None:
                    return value
            elif isinstance(each, ast.Assign) and len(each.targets) == 1:
                self._assign(each.targets[0], each.value)
            elif isinstance(each, ast.AnnAssign) and each.value is not None:
                self._assign(each.target, each.value)
            elif isinstance(each, ast.AugAssign) and isinstance(each.target, ast.Name):
                self.held[each.target.id] = self.of(ast.BinOp(_read(each.target), each.op, each.value))
            elif not isinstance(each, ast.Assert | ast.Pass) and not self._leaves_as_it_is(each):
                raise UnknownError
        return None

    def _gives_back(self, body: Sequence[ast.stmt]) -> bool:
        """Whether statements raise, or return what the function was given as it is: there is nothing to do yet."""
        last = body[-1] if body else None
        bare = isinstance(last, ast.Return) and last.value is not None and dotted(last.value) in self.tensors
        return isinstance(last, ast.Raise) or (bare and len(body) == 1)

    def _leaves_as_it_is(self, each: ast.stmt) -> bool:
        """Whether a statement is a text, or a call of something else than of a number that it may change."""
        call = each.value if isinstance(each, ast.Expr) else None
        changes = isinstance(call, ast.Call) and dotted(call.func).partition(".")[0] in self.held
        return isinstance(call, ast.Constant | ast.Call) and not changes

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            for part, given in zip(target.elts, value.elts, strict=True):
                self._assign(part, given)
        elif isinstance(target, ast.Name):
            self.held[target.id] = self.of(value)
            if self._is_tensor(value):
                self.tensors.add(target.id)
        else:
            raise UnknownError

    def _is_tensor(self, value: ast.expr) -> bool:
        """Whether a value is of what the function was given first."""
        return any(isinstance(part, ast.Name) and part.id in self.tensors for part in ast.walk(value))

    def of(self, node: ast.expr) -> float:
        """The number of an expression."""
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
            return float(node.value)
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
            return -self.of(node.operand) if isinstance(node.op, ast.USub) else self.of(node.operand)
        if isinstance(node, ast.BinOp) and type(node.op) in SIGNS:
            return _real(SIGNS[type(node.op)](self.of(node.left), self.of(node.right)))
        if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
            return self.of(node.value)  # a row or a column of it
        if isinstance(node, ast.Name) and node.id in self.held:
            return self.held[node.id]
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript) and dotted(node):
            return self._named(dotted(node))
        if isinstance(node, ast.Call):
            return self._called(node)
        raise UnknownError

    def _named(self, name: str) -> float:
        """The number of an attribute, an argument or a constant: by what a property makes of it, or by its name."""
        holder, _, last = name.rpartition(".")
        if holder == "self" and self.place.owner is not None and self.deep:
            for method in self.own.methods_of(self.place.owner):
                if method.name == last and method.function.decorator_list:
                    return _Run(method, self.own, {}, self.known, self.deep - 1).result()
        return self.known.setdefault(last, TINY if SMALL.search(last) else self._chosen(last))

    def _chosen(self, name: str) -> float:
        if VARIANCE.search(name) and (number := next(self._like(SPREAD), None)) is not None:
            return number * number
        if SPREAD.search(name) and (number := next(self._like(VARIANCE), None)) is not None:
            return math.sqrt(number)
        return 2.0 + sum(at * ord(letter) for at, letter in enumerate(name, 1)) % BITS / BITS

    def _like(self, kind: re.Pattern[str]) -> Iterator[float]:
        return (number for name, number in self.known.items() if kind.search(name))

    def _called(self, call: ast.Call) -> float:
        name, of_library = called_name(call), dotted(call.func).partition(".")[0] in ("torch", "np", "numpy", "math")
        if name in ("max", "min") and isinstance(call.func, ast.Name) and call.args:
            return self.of(call.args[0])
        plain = isinstance(call.func, ast.Name) and name in ("float",)
        parts = [] if of_library or plain or not isinstance(call.func, ast.Attribute) else [call.func.value]
        parts += call.args
        is_own = isinstance(call.func, ast.Name) or dotted(call.func).startswith("self.")
        if is_own and not plain and dotted(call.func).count(".") < 2:
            return self._followed(call)
        if not parts or (call.keywords and name not in (*KEEPS, *BOUNDS)):
            raise UnknownError
        if plain or name in KEEPS or name in BOUNDS:
            return self.of(parts[0])
        if name in OF_ONE and len(parts) == 1:
            return OF_ONE[name](self.of(parts[0]))
        if name in OF_TWO and len(parts) == 2:
            return _real(OF_TWO[name](self.of(parts[0]), self.of(parts[1])))
        raise UnknownError

    def _followed(self, call: ast.Call) -> float:
        """What a function of the trainer's own returns."""
        place = self.own.called(call, self.place)
        if place is None or not self.deep or (place.owner is not None and place.owner is not self.place.owner):
            raise UnknownError
        given = {name: self.of(value) for name, value in place.given(call).items()}
        return _Run(place, self.own, given, self.known, self.deep - 1).result()


def _real(value: object) -> float:
    """A number that is none of a negative number's root."""
    if isinstance(value, float):
        return value
    raise UnknownError


def _read(target: ast.Name) -> ast.Name:
    return ast.copy_location(ast.Name(target.id, ast.Load()), target)

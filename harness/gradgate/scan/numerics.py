"""Numeric remarks that travel with values, and the faults that they reveal: masks that overflow, slopes that are
infinite."""

from __future__ import annotations

import ast
import math
import operator as py
from collections.abc import Sequence
from typing import Any

from gradgate.scan.frame import Frame, Report
from gradgate.scan.values import LIKELY, MAYBE, NO, Cut, Value, const, merge, tensor, unknown

HALF_MAX = 65504.0  # torch.finfo(torch.float16).max
_STEEP = frozenset({
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "acos", "asin", "reciprocal", "atanh",
    "logit", "acosh", "tan", "sinh", "cosh",
})  # fmt: skip
_KEEPS_FACTS = frozenset(
    {
        "view",
        "reshape",
        "transpose",
        "permute",
        "squeeze",
        "unsqueeze",
        "clone",
        "flatten",
        "expand",
        "select",
        "t",
        "contiguous",
    }
)
_ELEMENTWISE = frozenset(
    {"square", "pow", "abs", "mul", "exp", "log", "div", "sub", "add", "huber_loss", "mse_loss", "smooth_l1_loss"}
)
_BENT = frozenset(
    {"square", "pow", "abs", "mul", "exp", "log", "div", "mse_loss", "smooth_l1_loss"}
)  # their slope reads the operand
_PLAIN: dict[type, Any] = {
    ast.Add: py.add,
    ast.Sub: py.sub,
    ast.Mult: py.mul,
    ast.Div: py.truediv,
    ast.Pow: py.pow,
    ast.FloorDiv: py.floordiv,
    ast.Mod: py.mod,
}


def plain(operator: type, left: Value, right: Value) -> Value:
    """A binary operator on what is no tensor."""
    function = _PLAIN.get(operator)
    if left.kind == right.kind == "const" and function is not None:
        one, other = left.data, right.data
        if type(one) in (int, float) and type(other) in (int, float) and abs(one) < 1e12 and abs(other) < 1e12:
            try:
                answer = function(one, other) if operator is not ast.Pow or abs(other) < 64 else None
            except ArithmeticError:
                answer = None
            if type(answer) in (int, float):
                return const(answer)
    if left.kind == right.kind == "seq" and operator is ast.Add:
        return Value("seq", items=[*(left.items or ()), *(right.items or ())][:16])
    result = unknown()
    if operator is ast.Sub and left.kind == "const" and left.data == 1 and right.kind == "unknown":
        result.facts = {"inverted": True}
    result.nodes = merge(left.nodes, right.nodes)
    result.cut = merge(left.cut, right.cut)
    return result


def compare(frame: Frame, node: ast.Compare, left: Value, right: list[Value]) -> Value:
    """A comparison: no gradient passes, and what was compared is remembered."""
    values = [left, *right]
    tensors = [value for value in values if value.kind == "tensor"]
    if not tensors:
        return unknown()
    result = tensor()
    result.dtype = "bool"
    stores = frozenset().union(*(value.stores for value in tensors))
    result.facts = {"compares": stores}
    if left.kind == "tensor" and len(right) == 1 and isinstance(node.ops[0], ast.NotEq) and right[0] is left:
        result.facts["nan_of"] = left.stores
    lost = [value for value in tensors if frame.state.grad(value) >= LIKELY]
    if lost and frame.state.grad_on:
        result.cut = (Cut(frame.line(node), "comparison", frame.state.nodes(lost[0])),)
    return result


def cutting(frame: Frame, place: ast.AST, name: str, given: Sequence[Value]) -> Value:
    """argmax and its like: integers, no gradient."""
    result = tensor()
    result.dtype = "int"
    lost = [value for value in given if value.kind == "tensor" and frame.state.grad(value) >= LIKELY]
    if lost and frame.state.grad_on:
        result.cut = (Cut(frame.line(place), name, frame.state.nodes(lost[0])),)
    return result


def follow(
    frame: Frame, place: ast.AST, name: str, given: Sequence[Value], result: Value, options: dict[str, Value]
) -> None:
    """Carry remarks from operands to the result, and report what they show."""
    base = given[0] if given else None
    if base is None or result.kind not in ("tensor", "seq"):
        return
    facts: dict[str, Any] = {}
    if name in _KEEPS_FACTS:
        facts.update(base.facts)
    result.dtype = result.dtype or base.dtype or (given[1].dtype if len(given) > 1 else "")
    grad = frame.state.grad(base) if frame.state.grad_on else NO
    form = shape(name, given)
    if form:
        facts["shape"] = form
    elif name in _PAIRING and len(given) > 1:
        _broadcast(frame, place, name, given[0], given[1])
    handler = _HANDLERS.get(name)
    if handler is not None:
        handler(frame, place, given, facts, grad)
    if name in _STEEP and grad >= MAYBE:
        facts["steep"] = (name, frame.line(place), base.stores)
    elif "steep" in base.facts and name in _ELEMENTWISE:
        facts["steep"] = base.facts["steep"]
    elif name == "div" and len(given) > 1 and given[1].kind == "tensor":
        facts["divided"] = (name, frame.line(place), given[1].stores)
    if name in _ELEMENTWISE and grad + (frame.state.grad(given[1]) if len(given) > 1 else 0) >= MAYBE:
        _chain(frame, place, name, given, facts)
    if facts:
        result.facts = {**result.facts, **facts}


def _chain(frame: Frame, place: ast.AST, name: str, given: Sequence[Value], facts: dict[str, Any]) -> None:
    """What a value was computed from, one bent operation back."""
    sources: frozenset[int] = frozenset()
    bent: Any = None
    for value in given:
        if value.kind == "tensor":
            sources |= value.stores | value.facts.get("sources", frozenset())
            bent = bent or value.facts.get("bent")
    if len(sources) <= 12:
        facts["sources"] = sources
    if bent is None and name in _BENT:
        bent = (name, frame.line(place), sources)
    if bent is not None:
        facts["bent"] = bent


def _softmax(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    base = given[0]
    facts["softmax"] = True
    fill = base.facts.get("fill")
    if fill is None:
        return
    line, number, what = fill
    if number == -math.inf:
        if what == "rows" and grad >= LIKELY:
            frame.run.report(Report("GG304", "nan_forward", frame.line(place), line, "all-masked", (), sure=False))
    elif base.dtype not in ("float", "half"):
        frame.run.report(
            Report(
                "GG304",
                "dtype_overflow",
                line,
                frame.line(place),
                "too-large",
                (("number", f"{number:g}"),),
                sure=False,
            )
        )


def _sigmoid(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    facts["sigmoid"] = True


def _logsumexp(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    fill = given[0].facts.get("fill")
    if fill is not None and fill[1] == -math.inf and grad >= MAYBE:
        facts["empty"] = ("logsumexp", frame.line(place), fill[0])


def _log(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    base = given[0]
    if base.facts.get("softmax") and grad >= MAYBE:
        facts["log_of"] = (base.stores, frame.line(place))
        frame.run.report(Report("GG307", "nan_backward", frame.line(place), None, "log-softmax", ()))
    if base.facts.get("sigmoid") and grad >= MAYBE:
        frame.run.report(Report("GG307", "nan_backward", frame.line(place), None, "log-sigmoid", ()))
    grown = base.facts.get("grown")
    if grown is not None and grad >= MAYBE:
        frame.run.report(
            Report(
                "GG304",
                "dtype_overflow",
                grown[1],
                frame.line(place),
                "log-cosh" if grown[0] == "cosh" else "log-exp",
                (),
            )
        )


def _mul(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    if len(given) < 2:
        return
    for one, other in ((given[0], given[1]), (given[1], given[0])):
        logged = other.facts.get("log_of")
        if logged is not None and one.kind == "tensor" and one.stores & logged[0]:
            frame.run.reports.pop(("GG307", logged[1].file, logged[1].number), None)
            frame.run.report(Report("GG301", "nan_forward", frame.line(place), logged[1], "plogp", ()))
        number = other.data if other.kind in ("const", "tensor") else None
        if one.facts.get("inverted") and isinstance(number, int | float) and HALF_MAX < abs(number) < math.inf:
            half = "half" in (one.dtype, other.dtype)
            if one.dtype != "float" or half:
                frame.run.report(
                    Report(
                        "GG304",
                        "dtype_overflow",
                        frame.line(place),
                        None,
                        "zero-times-inf",
                        (("number", f"{number:g}"),),
                        sure=half,
                    )
                )


def _sub(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    if len(given) < 2:
        return
    left, right = given[0], given[1]
    if left.kind == "const" and left.data == 1 and right.kind in ("tensor", "unknown"):
        facts["inverted"] = True
    one, other = left.facts.get("spread"), right.facts.get("spread") or right.stores
    if one is not None and one & other and left is not right:
        facts["difference"] = frame.line(place)
    other_spread = right.facts.get("spread")
    if other_spread is not None and left.stores & other_spread:
        facts["difference"] = frame.line(place)


def _difference(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    if "difference" in given[0].facts:
        facts["difference"] = given[0].facts["difference"]
    if "grown" in given[0].facts:
        facts["grown"] = given[0].facts["grown"]


def _sqrt(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    made = given[0].facts.get("difference")
    if made is not None and grad >= MAYBE:
        frame.run.report(Report("GG307", "nan_backward", frame.line(place), made, "sqrt-diagonal", ()))


def _cosh(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    facts["grown"] = ("cosh", frame.line(place))


def _exp(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    facts["exp"] = frame.line(place)


def _add(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    if len(given) < 2:
        return
    for one, other in ((given[0], given[1]), (given[1], given[0])):
        if one.kind == "const" and one.data == 1 and "exp" in other.facts:
            facts["grown"] = ("exp", other.facts["exp"])
        for key in ("fill", "empty"):
            if other.kind == "tensor" and key in other.facts:
                facts[key] = other.facts[key]
        if (
            other.kind == "tensor"
            and "difference" in other.facts
            and one.kind != "tensor"
            and not (one.kind == "const" and one.data == 0)
        ):
            facts.pop("difference", None)


def _masked_fill(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    base = given[0]
    mask = given[1] if len(given) > 1 else None
    fill = given[2] if len(given) > 2 else None
    number = fill.data if fill is not None and fill.kind in ("const", "tensor") else None
    if not isinstance(number, int | float) or isinstance(number, bool) or abs(number) <= HALF_MAX:
        return
    if base.dtype == "half" and abs(number) != math.inf:
        frame.run.report(
            Report("GG304", "dtype_overflow", frame.line(place), None, "too-large-half", (("number", f"{number:g}"),))
        )
    rows = mask is not None and not mask.facts.get("triangular")
    facts["fill"] = (frame.line(place), float(number), "rows" if rows else "")


def _triangular(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    facts["triangular"] = True


def _isnan(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    facts["nan_of"] = given[0].stores


def _where(frame: Frame, place: ast.AST, given: Sequence[Value], facts: dict[str, Any], grad: int) -> None:
    if len(given) < 3:
        return
    guard = given[0]
    compared = guard.facts.get("compares", frozenset())
    missing = guard.facts.get("nan_of", frozenset())
    for branch in (given[1], given[2]):
        if branch.kind != "tensor":
            continue
        steep = branch.facts.get("steep") or branch.facts.get("divided")
        if steep is not None and steep[2] & compared and frame.state.grad(branch) >= MAYBE:
            frame.run.report(Report("GG307", "nan_backward", steep[1], frame.line(place), "where", (("op", steep[0]),)))
        bent = branch.facts.get("bent")
        if bent is not None and bent[2] & missing and frame.state.grad(branch) >= MAYBE:
            frame.run.report(
                Report("GG307", "nan_backward", bent[1], frame.line(place), "where-nan", (("op", bent[0]),))
            )
        empty = branch.facts.get("empty")
        if empty is not None:
            frame.run.report(Report("GG304", "nan_backward", empty[1], empty[2], "empty", (("op", empty[0]),)))


_PAIRING = frozenset({"sub", "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"})


def shape(name: str, given: Sequence[Value]) -> str:
    """`column` for [N, 1], `flat` for [N], where the operation fixes it; empty where it does not."""
    argument = given[1].data if len(given) > 1 and given[1].kind == "const" else None
    base = given[0].facts.get("shape", "")
    if name in ("squeeze", "view", "reshape", "flatten"):
        return (
            "flat"
            if (name in ("squeeze", "flatten") and argument is None and len(given) == 1)
            or (argument == -1 and len(given) == 2)
            else ""
        )
    if name == "unsqueeze":
        return "column" if base == "flat" and argument in (1, -1) else ""
    if name in ("sigmoid", "tanh", "relu", "exp", "neg", "clone", "softplus", "clamp"):
        return str(base)
    return ""


def _broadcast(frame: Frame, place: ast.AST, name: str, left: Value, right: Value) -> None:
    shapes = {left.facts.get("shape"), right.facts.get("shape")}
    if shapes == {"column", "flat"}:
        op = "the difference" if name == "sub" else f"{name}()"
        frame.run.report(Report("GG415", "other", frame.line(place), None, "column", (("op", op),)))


def narrowed(frame: Frame, place: ast.AST, value: Value) -> None:
    """A constant was converted to a narrower dtype."""
    number = value.data
    if value.dtype == "half" and isinstance(number, int | float) and HALF_MAX < abs(number) < math.inf:
        value.facts = {**value.facts, "overflowed": True}


_HANDLERS: dict[str, Any] = {
    "softmax": _softmax, "sigmoid": _sigmoid, "log": _log, "log2": _log, "mul": _mul, "sub": _sub, "rsub": _sub,
    "sqrt": _sqrt, "cosh": _cosh,
    "square": _difference, "pow": _difference, "abs": _difference, "sum": _difference, "mean": _difference, "exp": _exp,
    "add": _add, "masked_fill": _masked_fill, "tril": _triangular, "triu": _triangular, "isnan": _isnan,
    "isfinite": _isnan,
    "where": _where, "logsumexp": _logsumexp,
}  # fmt: skip

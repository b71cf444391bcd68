"""Comparisons of a packed row's documents at two tokens, and what holds them, for the checks that read the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.head_shifts import HEAD, NUMBER, HeadLoop, Sum, less, slices_of, sum_of
from gradgate.checks.source.places import Place
from gradgate.checks.source.trainer import called_name, dotted, given_by
from gradgate.checks.source.values import assignments_in, last_name

DOCUMENTS = re.compile(
    r"(^|_)(docs?|documents?|doc_?ids?|document_?ids?|segs?|segments?|segment_?ids?|seq_?ids?|sequence_?ids?)(_[A-Z]+)?$"
)
ENDS = re.compile(r"(^|_)(ends?|stops?|last|remaining|remains|limits?|until|left|lengths?)(_[A-Z]+)?$")
SUMS = ("cumsum", "cumprod", "cummin", "cummax", "unfold", "max_pool1d", "accumulate", "logcumsumexp", "minimum")
EQUAL = ("eq", "ne")


def neighbours(place: Place, head: str) -> Iterator[ast.expr]:
    """The comparisons of documents with those of the next or the last token."""
    for node, apart in _compared(place, head):
        if apart in ({NUMBER: 1}, {NUMBER: -1}):
            yield node


def is_far(place: Place, heads: Sequence[str]) -> bool:
    """Whether documents are compared as far apart as a head is ahead."""
    compared = (apart for head in heads for _, apart in _compared(place, head))
    return any(apart is not None and HEAD in apart for apart in compared)


def is_otherwise(place: Place, head: str) -> bool:
    """Whether a function compares documents in a way that is not known, or goes on from token to token."""
    if any(isinstance(node, ast.Call) and called_name(node) in SUMS for node in place.nodes):
        return True
    return any(
        apart is None or set(apart) - {NUMBER} or apart.get(NUMBER, 0) ** 2 != 1 for _, apart in _compared(place, head)
    )


def is_carried(loop: HeadLoop) -> bool:
    """Whether a loop carries a mask on from head to head, goes over places of its own, or asks where something ends."""
    inside = list(loop.nodes)
    written = {
        dotted(node.targets[0].value)
        for node in inside
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)
    }
    seen = set[str]()
    for node in sorted((n for n in inside if isinstance(n, ast.Assign | ast.AugAssign)), key=lambda n: n.lineno):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            name = dotted(target)
            reads = isinstance(node, ast.AugAssign) and isinstance(node.op, ast.BitAnd | ast.BitOr | ast.Mult)
            sums = isinstance(node.value, ast.BinOp) and isinstance(node.value.op, ast.Add)  # a loss that is added up
            reads = reads or (not sums and any(dotted(part) == name for part in ast.walk(node.value)))
            if isinstance(target, ast.Name) and name not in seen | written and reads:
                return True
            seen.add(name)
    for part in inside:
        if isinstance(part, ast.For | ast.While | ast.comprehension):
            return True
        asked = list(ast.walk(part)) if isinstance(part, ast.Compare) else []
        if any(isinstance(each, ast.Subscript) and ENDS.search(last_name(each.value)) for each in asked):
            return True
    return False


def linked(place: Place, head: str) -> dict[str, ast.expr]:
    """The names that hold a comparison of neighbours, or what is made of it, each with the comparison."""
    found = {id(node): node for node in neighbours(place, head)}
    names = dict[str, ast.expr]()
    for target, value in sorted(assignments_in(place.nodes), key=lambda pair: pair[1].lineno) if found else ():
        to = target.value if isinstance(target, ast.Subscript) else target
        for part in ast.walk(value):
            node = found.get(id(part)) or (names.get(part.id) if isinstance(part, ast.Name) else None)
            if node is not None and dotted(to):
                names.setdefault(dotted(to), node)
    return names


def _compared(place: Place, head: str) -> Iterator[tuple[ast.expr, Sum | None]]:
    """The comparisons of documents with documents, and how far apart these are; None: that is not known."""
    for node in place.nodes:
        sides = _sides(node)
        if sides is None:
            continue
        if len(sides) == 1:  # diff
            if _base(sides[0], place):
                yield node, {NUMBER: 1}  # type: ignore[misc]
            continue
        bases = [_base(side, place) for side in sides]
        if all(bases):
            places = [_begin(side, place, head) for side in sides]
            known = places[0] is not None and places[1] is not None
            yield node, less(places[0], places[1]) if known else None  # type: ignore[arg-type, misc]


def _sides(node: ast.AST) -> list[ast.expr] | None:
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.NotEq):
        left, right = node.left, node.comparators[0]
        for one in (left, right):
            if isinstance(one, ast.Call) and called_name(one) == "diff":
                return one.args[:1] or [one.func.value]  # type: ignore[attr-defined]
        return [left, right]
    if isinstance(node, ast.Call) and called_name(node) in EQUAL and isinstance(node.func, ast.Attribute):
        sides = node.args if dotted(node.func.value) == "torch" else [node.func.value, *node.args]
        return sides[:2] if len(sides) == 2 else None
    return None


def _base(node: ast.expr, place: Place, hops: int = 3) -> str:
    """The documents that an expression is of; empty: it is of none."""
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
        if any(isinstance(part, ast.Constant) and part.value is None for part in ast.walk(node.slice)):
            return ""  # pairs of all tokens: `doc[:, :, None]`
        return _base(node.value, place, hops)
    if isinstance(node, ast.Call):
        given = [*node.args]
        if isinstance(node.func, ast.Attribute) and dotted(node.func.value) not in ("torch", "F", "np"):
            given = [node.func.value]
        if called_name(node) == "cat" and node.args and isinstance(node.args[0], ast.Tuple | ast.List):
            given = [part for part in node.args[0].elts if isinstance(part, ast.Subscript)]
        moved = called_name(node) in ("roll", "cat", "pad", "clone", "long", "contiguous")
        return _base(given[0], place, hops) if moved and given else ""
    if DOCUMENTS.search(last_name(node)):
        return last_name(node)
    held = place.names.held(node)
    return _base(held, place, hops - 1) if held is not node and hops else ""


def _begin(node: ast.expr, place: Place, head: str, hops: int = 3) -> Sum | None:
    """The token that an expression of documents begins with; None: it is not known."""
    if isinstance(node, ast.Subscript) and (parts := [each for each in slices_of(node) if each.lower or each.upper]):
        return sum_of(parts[0].lower, place.names, head) if len(parts) == 1 else None
    if isinstance(node, ast.Subscript):
        is_whole = slices_of(node) or dotted(node)
        return {} if is_whole else None
    if isinstance(node, ast.Call):
        given = given_by(node)
        if called_name(node) == "roll":
            of_torch = isinstance(node.func, ast.Attribute) and dotted(node.func.value) == "torch"
            moved = sum_of(given[of_torch], place.names, head) if len(given) > of_torch else None
            return None if moved is None else {key: -count for key, count in moved.items()}
        if called_name(node) == "cat" and node.args and isinstance(node.args[0], ast.Tuple | ast.List):
            first = node.args[0].elts[0]
            if isinstance(first, ast.Subscript) and _base(first, place):
                return _begin(first, place, head)
            return {NUMBER: -1}
        return None
    held_value = place.names.held(node)
    if held_value is not node and hops and not isinstance(held_value, ast.Name | ast.Attribute):
        return _begin(held_value, place, head, hops - 1) if _base(held_value, place) else {}
    return {}

"""What a function's names hold of targets that are ahead, and of masks of tokens, for the check of the two."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable

from gradgate.checks.source.trainer import called_name, given_by
from gradgate.checks.source.values import last_name, places_of

IDS = re.compile(r"(^|_)(ids?|tokens?|labels?|targets?|seqs?|sequences?|x|y)$", re.IGNORECASE)
OF_ROWS = re.compile(r"doc|seg|pos|group|pack|sample|row|type", re.IGNORECASE)  # what has ids as well
LOSS = re.compile(r"loss|entropy|(^|_)(ce|nll)($|_)|log_?p(rob)?s?|gather|mean|average|reduce|select", re.IGNORECASE)
KEPT = {
    *("clone", "contiguous", "long", "to", "reshape", "view", "flatten", "float", "bool", "int", "type_as", "detach"),
    *(
        "masked_fill",
        "masked_fill_",
        "squeeze",
        "unsqueeze",
        "copy",
        "half",
        "double",
        "cuda",
        "logical_not",
        "neg",
        "eq",
    ),
}
JOINS = ("logical_and", "logical_or", "bitwise_and", "mul", "where", "minimum")
AHEAD, CUT, WHOLE, FULL = "ahead", "cut", "whole", "full"


class Alignment:
    """What names hold behind the statements that were passed: of each one a mask's places, and a target's.

    Args:
        is_mask: whether a name is that of a mask which says of each token what it is.
    """

    def __init__(self, is_mask: Callable[[ast.expr], bool]) -> None:
        self._is_mask = is_mask
        self._masks: dict[str, set[str]] = {}
        self._targets: dict[str, str] = {}

    def mask(self, node: ast.expr) -> set[str]:
        """At which places a mask of tokens is taken: `ahead`, `cut` of its end, or `whole`; none: it is no mask."""
        if isinstance(node, ast.UnaryOp):
            return self.mask(node.operand)
        if isinstance(node, ast.BinOp):
            return self.mask(node.left) | self.mask(node.right)
        if isinstance(node, ast.IfExp):
            return self.mask(node.body) | self.mask(node.orelse)
        if isinstance(node, ast.Compare):
            return self.mask(node.left)
        if isinstance(node, ast.Call):
            return self._mask_of_call(node)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            return self._cut(self.mask(node.value), _second(node))
        if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
            return self._masks.get(ast.unparse(node)) or ({WHOLE} if self._is_mask(node) else set())
        return set()

    def _mask_of_call(self, call: ast.Call) -> set[str]:
        name = called_name(call)
        before = [call.func.value] if isinstance(call.func, ast.Attribute) else []
        if name == "roll":
            return {AHEAD} if any(map(self.mask, [*before, *call.args])) else set()
        parts = before if name in KEPT else [*before, *call.args] if name in JOINS else []
        return {place for part in parts for place in self.mask(part)}

    @staticmethod
    def _cut(places: set[str], second: ast.Slice | None) -> set[str]:
        if not places or second is None or places != {WHOLE}:
            return places
        return {AHEAD} if not _is_start(second.lower) else {CUT} if second.upper is not None else {WHOLE}

    def target(self, node: ast.expr) -> str:
        """Whether something is ahead by one place or more: `cut`, the first left out, or `full`; empty: neither."""
        if isinstance(node, ast.Name) and node.id in self._targets:
            return self._targets[node.id]
        if isinstance(node, ast.UnaryOp):
            return self.target(node.operand)
        if isinstance(node, ast.Compare):
            return self.target(node.left)
        if isinstance(node, ast.BinOp):
            return self.target(node.left) or self.target(node.right)
        if isinstance(node, ast.Subscript):
            return self._target_of_part(node)
        return self._target_of_call(node) if isinstance(node, ast.Call) else ""

    def _target_of_part(self, node: ast.Subscript) -> str:
        second = _second(node)
        if second is not None and isinstance(node.slice, ast.Tuple) and not _is_start(second.lower):
            return CUT if _is_of_ids(node.value) and not ast.unparse(second.lower or node).startswith("-") else ""
        return "" if isinstance(node.slice, ast.Slice) else self.target(node.value)

    def _target_of_call(self, call: ast.Call) -> str:
        name = called_name(call)
        before = [call.func.value] if isinstance(call.func, ast.Attribute) else []
        if name == "roll":
            named = any(_is_of_ids(part) for part in [*before, *call.args[:1]])
            return FULL if named and "-" in ast.unparse(call) else ""
        if name in ("pad", "cat", "concat"):
            parts = [part for each in call.args[:1] for part in (places_of(each))]
            return FULL if any(self.target(part) == CUT for part in parts) else ""
        given = before if name in KEPT else call.args[1:] if name == "where" else []
        given = given_by(call) if LOSS.search(name) else given
        return next((found for part in given if (found := self.target(part))), "")

    def passed(self, node: ast.AST) -> None:
        """Take note of what a statement assigns."""
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                self._assigned(target, node.value)
        elif (
            isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and (places := self.mask(node.value))
        ):
            self._masks[node.target.id] = self._masks.get(node.target.id, set()) | places

    def _assigned(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for each, part in zip(target.elts, value.elts, strict=False):
                self._assigned(each, part)
        elif isinstance(target, ast.Name):
            self._masks.pop(target.id, None)
            found, places = self.target(value), self.mask(value)
            self._targets.pop(target.id, None)
            if found:
                self._targets[target.id] = found
            elif places:
                self._masks[target.id] = places
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name) and self.target(value) == CUT:
            second = _second(target)
            if second is not None and _is_start(second.lower) and second.upper is not None:
                self._targets[target.value.id] = FULL


def _second(node: ast.Subscript) -> ast.Slice | None:
    """The slice of the second axis."""
    parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else []
    whole = len(parts) > 1 and isinstance(parts[0], ast.Slice) and parts[0].lower is None and parts[0].upper is None
    second = parts[1] if whole or (parts and ast.unparse(parts[0]) == "...") else None
    return second if isinstance(second, ast.Slice) else None


def _is_of_ids(node: ast.expr) -> bool:
    name = last_name(node)
    return bool(IDS.search(name)) and not OF_ROWS.search(name)


def _is_start(node: ast.expr | None) -> bool:
    return node is None or (isinstance(node, ast.Constant) and node.value == 0)

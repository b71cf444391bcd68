"""What puts padding behind a row in a trainer's source, for the checks that read it."""

from __future__ import annotations

import ast
import re

from gradgate.checks.source.places import Place
from gradgate.checks.source.trainer import called_name, calls_in, dotted, given_for
from gradgate.checks.source.values import assignments_in, is_true, last_name

PAD = re.compile(r"pad|eos|fill", re.IGNORECASE)
TOKENIZER = re.compile(r"(^|_)tok(enizer)?$|^encode_batch$|^batch_encode_plus$", re.IGNORECASE)
MAKES = re.compile(r"^(new_)?(full|zeros|ones|empty)(_like)?$")


def pads_behind(node: ast.AST, any_side: bool) -> bool:
    """Whether an expression puts padding behind a row."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return is_padding(node.right) and not is_padding(node.left)
    if not isinstance(node, ast.Call):
        return False
    name = called_name(node)
    if name == "pad_sequence":
        side = given_for(node, "padding_side", 3)
        return (side is None or ast.unparse(side) == "'right'") and "::-1" not in ast.unparse(node)
    if name == "pad" and len(node.args) > 1 and isinstance(node.args[1], ast.Tuple | ast.List):
        first, *rest = map(ast.unparse, node.args[1].elts)
        return first == "0" and rest not in ([], ["0"])
    if name in ("cat", "concatenate", "hstack") and node.args and isinstance(node.args[0], ast.List | ast.Tuple):
        parts = node.args[0].elts
        return len(parts) > 1 and _is_made_of_padding(parts[-1]) and not _is_made_of_padding(parts[0])
    asks = [word.value for word in node.keywords if word.arg == "padding"]
    pads = bool(asks) and (is_true(asks[0]) or ast.unparse(asks[0]) in ("'longest'", "'max_length'"))
    return pads and bool(TOKENIZER.search(name)) and not any_side


def is_padding(node: ast.expr) -> bool:
    """Whether an expression is `[pad] * n`."""
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
        return False
    lists = [side for side in (node.left, node.right) if isinstance(side, ast.List | ast.Tuple) and len(side.elts) == 1]
    return bool(lists) and bool(PAD.search(ast.unparse(lists[0])) or ast.unparse(lists[0].elts[0]) == "0")


def _is_made_of_padding(node: ast.expr) -> bool:
    makes = any(MAKES.search(called_name(call)) for call in calls_in(node))
    return makes and bool(PAD.search(ast.unparse(node)))


def is_filled(node: ast.AST, place: Place) -> bool:
    """Whether a tensor of padding is written from the first column of each row."""
    if not (isinstance(node, ast.Name) and isinstance(held := place.names.held(node), ast.Call)):
        return False
    if not MAKES.search(called_name(held)):
        return False
    return any(_is_written(target, node.id) for target, _ in assignments_in(place.nodes))


def _is_written(target: ast.expr, name: str) -> bool:
    """Whether a row of a tensor is written up to a length."""
    if not isinstance(target, ast.Subscript):
        return False
    of_row = isinstance(target.value, ast.Subscript) and last_name(target.value.value) == name
    parts = target.slice.elts if isinstance(target.slice, ast.Tuple) else [target.slice] if of_row else []
    if not parts or not (of_row or dotted(target.value) == name):
        return False
    last = parts[-1]
    begins = isinstance(last, ast.Slice) and (last.lower is None or ast.unparse(last.lower) == "0")
    return begins and isinstance(last, ast.Slice) and last.upper is not None and (of_row or len(parts) > 1)

"""Files of a trainer's source that are loaded where they happen to be there, and what runs where they are missing."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.trainer import Function, called_name, dotted, nodes_in
from gradgate.checks.source.values import OTHERS, Names, blocks_in

MISSING = ("FileNotFoundError", "OSError", "IOError")
EXISTS = ("exists", "is_file", "isfile", "is_dir", "isdir")
NEWEST = re.compile(r"latest|newest|last_(checkpoint|ckpt)|find_\w*(checkpoint|ckpt)")
LOADS = re.compile(r"load|restore|read(?!_text|_bytes|lines?$)", re.IGNORECASE)
TEXTS = ("json", "yaml", "toml", "csv", "tomllib")  # what a text is parsed by, which holds no weights
Asks = ast.If | ast.IfExp | ast.ExceptHandler | ast.With
TELLS = re.compile(r"(^|\.)(print|echo|debug|info|warn|warning|log|write)$", re.IGNORECASE)


def asked_for(
    nodes: Sequence[ast.AST], function: Function, names: Names
) -> Iterator[tuple[Asks, ast.expr, Sequence[ast.AST], Sequence[ast.AST]]]:
    """What asks for files among a function's own nodes: with the path, what runs where it is there, and where not."""
    for block in blocks_in((function, *(node for node in nodes if not isinstance(node, OTHERS)))):
        for at, branch in enumerate(block):
            if isinstance(branch, ast.If) and (asked := _asked(branch.test, names)) is not None:
                yield branch, asked[0], *_parts(branch, block[at + 1 :], asked[1])
    for node in nodes:
        if isinstance(node, ast.IfExp) and (asked := _asked(node.test, names)) is not None:
            there, missing = (node.body, node.orelse) if asked[1] else (node.orelse, node.body)
            if isinstance(missing, ast.Constant) and missing.value is None:
                yield node, asked[0], [there], []
        elif isinstance(node, ast.Try):
            opened = (
                call for call in nodes_in(node.body) if isinstance(call, ast.Call) and LOADS.search(called_name(call))
            )
            path = next((call.args[0] for call in opened if call.args and not isinstance(call.args[0], ast.Call)), None)
            for handler in node.handlers:
                kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
                if path is not None and any(kind is not None and dotted(kind) in MISSING for kind in kinds):
                    yield handler, path, node.body, handler.body
        elif isinstance(node, ast.With) and any(_suppresses(item.context_expr) for item in node.items):
            opened = (call for call in nodes_in(node.body) if isinstance(call, ast.Call))
            given = (call.args[0] for call in opened if LOADS.search(called_name(call)) and call.args)
            if (path := next((each for each in given if not isinstance(each, ast.Call)), None)) is not None:
                yield node, path, node.body, []


def _suppresses(node: ast.expr) -> bool:
    return called_name(node) == "suppress" and any(dotted(kind) in MISSING for kind in node.args)  # type: ignore[attr-defined]


def _asked(test: ast.expr, names: Names) -> tuple[ast.expr, bool] | None:
    """The path whose existence a condition asks for, and whether it holds where the file is there."""
    parts = test.values if isinstance(test, ast.BoolOp) else [test]
    for part in parts:
        is_there = not (isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.Not))
        asked = part if is_there else part.operand  # type: ignore[attr-defined]
        if not is_there and isinstance(asked, ast.BoolOp) and isinstance(asked.op, ast.And):
            inner = _asked(asked, names)
            return (inner[0], False) if inner is not None and inner[1] else None
        if isinstance(asked, ast.Call) and isinstance(asked.func, ast.Attribute) and asked.func.attr in EXISTS:
            return (asked.args[0] if asked.args else asked.func.value), is_there
        if isinstance(asked, ast.Compare) and ast.unparse(asked.comparators[0]) == "None":
            is_there = isinstance(asked.ops[0], ast.IsNot)
            asked = asked.left
        if isinstance(asked, ast.Name | ast.NamedExpr):
            name = asked.target if isinstance(asked, ast.NamedExpr) else asked
            held = asked.value if isinstance(asked, ast.NamedExpr) else names.held(asked)
            if "glob(" in ast.unparse(held) or NEWEST.search(called_name(held)):
                return name, is_there
    return None


def _parts(branch: ast.If, rest: list[ast.stmt], is_there: bool) -> tuple[list[ast.stmt], list[ast.stmt]]:
    """What runs where the file is there, and where it is missing."""
    leaves = isinstance(branch.body[-1], ast.Return | ast.Continue)
    otherwise = branch.orelse or (rest if leaves else [])
    return (branch.body, otherwise) if is_there else (otherwise, branch.body)


def loads(statements: Sequence[ast.AST]) -> bool:
    """Whether something is loaded that is no mere text."""
    calls = (node for node in nodes_in(statements) if isinstance(node, ast.Call))
    return any(LOADS.search(called_name(call)) and dotted(call.func).partition(".")[0] not in TEXTS for call in calls)


def is_passed_over(statements: Sequence[ast.AST]) -> bool:
    """Whether nothing is done but to say so."""
    for statement in statements:
        if isinstance(statement, ast.Return | ast.Continue | ast.Pass):
            if any(isinstance(node, ast.Call) for node in ast.walk(statement)):
                return False
        elif not (
            isinstance(statement, ast.Expr)
            and isinstance(statement.value, ast.Call)
            and TELLS.search(ast.unparse(statement.value.func))
        ):
            return False
    return True


def does_nothing(statements: Sequence[ast.AST]) -> bool:
    """Whether nothing is done, nor told, but that numbers begin at what is written down."""
    begins = (ast.Assign, ast.AnnAssign)
    left = [one for one in statements if not (isinstance(one, begins) and isinstance(one.value, ast.Constant))]
    return is_passed_over(left) and not any(isinstance(one, ast.Expr) for one in left)

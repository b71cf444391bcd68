"""Lines of a trainer's own methods as an adapter has them: `self` is the trainer there, its modules are imported."""

from __future__ import annotations

import ast
import builtins
import copy
from collections.abc import Iterable
from typing import Any

_LEAVING = (ast.Return, ast.Yield, ast.YieldFrom, ast.Await, ast.Break, ast.Continue)
_TELLS = ("logger", "log", "print", "info", "logging", "writer", "wandb")


class Rewriter:
    """Rewrites lines of one method.

    Args:
        module: of the method.
        known: what names mean in that module.
        local: names that the adapter has there, too.

    Attributes:
        imports: what the adapter then has to import.
    """

    def __init__(self, module: str, known: dict[str, Any], local: Iterable[str] = ()) -> None:
        self.module, self.known, self.local = module, known, set(local)
        self.imports: list[str] = []

    def text(self, node: ast.AST) -> str | None:
        """The adapter's text of an expression or a statement; None: it has names that nobody knows there."""
        renaming = _Renaming(self, node)
        written = ast.unparse(renaming.visit(copy.deepcopy(node)))
        if renaming.unknown:
            return None
        if renaming.imports:
            self.imports.append(import_of(self.module))
        return written

    def statement(self, node: ast.stmt) -> str | None:
        """The adapter's text of a call, or of what sets attributes or known names; None: it is something else."""
        if not isinstance(node, ast.Expr | ast.Assign | ast.AugAssign) or _leaves(node) or _only_tells(node):
            return None
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call):
            return None
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names = [target.id for target in targets if isinstance(target, ast.Name)]
        return self.text(node) if set(names) <= self.local else None

    def statements(self, nodes: Iterable[ast.stmt]) -> list[str]:
        """Those that can be had, in order; of another that does something, a comment."""
        found = []
        for node in nodes:
            written = self.statement(node)
            if written is None and not _is_nothing(node):
                written = f"# REPLACE: your loop has `{ast.unparse(node).splitlines()[0]}` here; what of it a run needs"
            found += [written] if written else []
        return found


class _Renaming(ast.NodeTransformer):
    def __init__(self, rewriter: Rewriter, node: ast.AST) -> None:
        self.rewriter, self.unknown, self.imports = rewriter, False, False
        parts = list(ast.walk(node))
        self.inner = {part.arg for part in parts if isinstance(part, ast.arg)}
        self.inner |= {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        names = self.rewriter
        if node.id == "self":
            return ast.Attribute(node, "trainer", ast.Load())
        if node.id in names.local | self.inner:
            return node
        if node.id in names.known:
            self.imports = True
            return ast.Attribute(ast.Name(alias_of(names.module), ast.Load()), node.id, ast.Load())
        self.unknown |= not hasattr(builtins, node.id)
        return node


def alias_of(module: str) -> str:
    """What an adapter calls a module."""
    return module.rpartition(".")[2]


def double_quoted(text: str) -> str:
    """The text of an expression with quotes as the adapter's other lines have them, where none stand in them."""
    return text if '"' in text or "\\" in text else text.replace("'", '"')


def import_of(module: str) -> str:
    """The line that imports it by that name."""
    package = module.rpartition(".")[0]
    return f"from {package} import {alias_of(module)}" if package else f"import {module}"


def _leaves(node: ast.AST) -> bool:
    return any(isinstance(part, _LEAVING) for part in ast.walk(node))


def _only_tells(node: ast.AST) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    words = ast.unparse(call.func).split(".") if isinstance(call, ast.Call) else []
    return any(word.strip("_") in _TELLS for word in words)


def _is_nothing(node: ast.stmt) -> bool:
    """Whether a statement is a docstring, tells something, leaves, or sets a name alone."""
    is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    names = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    is_local = isinstance(node, ast.Assign | ast.AnnAssign) and all(isinstance(name, ast.Name) for name in names)
    return is_text or is_local or _only_tells(node) or isinstance(node, ast.Return | ast.Pass)

"""A collective (`all_reduce`, `broadcast`, `barrier`, `all_gather`, ...) inside `if rank == 0:` or its like, or
behind `if rank != 0: return`, that the other ranks do not call: not in the other branch, nor in a second guard
of the same function.

```python
if rank == 0:
    dist.barrier()       # bad: the others never arrive

dist.barrier()           # good: every rank calls it
```
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.scan.frame import Report
from gradgate.scan.modules import Function, Module
from gradgate.scan.nodes import walk
from gradgate.scan.rules.text import Text
from gradgate.scan.values import Line

CODE, NAME = "GG611", "collective-behind-guard"
TEXTS = {
    "guarded": Text(
        "{op} runs only where `{test}` holds; the other ranks do not call it",
        "ranks wait for each other for ever",
        "call the collective on every rank, and guard only what uses its result",
    ),
}
COLLECTIVES = frozenset({
    "all_reduce", "all_gather", "all_gather_object", "all_gather_into_tensor", "broadcast",
    "broadcast_object_list", "barrier", "reduce",
    "reduce_scatter", "reduce_scatter_tensor", "gather", "gather_object", "scatter", "scatter_object_list",
    "all_to_all", "all_to_all_single",
    "monitored_barrier", "wait_for_everyone",
})  # fmt: skip
_RANKS = ("rank", "is_main_process", "is_master", "is_main", "is_rank_zero", "is_global_zero", "main_process")


def look(module: Module) -> Iterator[Report]:
    """Collectives that only some ranks reach."""
    if not COLLECTIVES & set(module.attributes) and not COLLECTIVES & set(module.imports):
        return
    for function in module.scopes:
        if function.calls & COLLECTIVES:
            yield from _in_function(module, function)


def _in_function(module: Module, function: Function) -> Iterator[Report]:
    guards = [node for node in walk(function.node) if isinstance(node, ast.If) and _is_rank(node.test)]
    found: list[tuple[ast.Call, str, ast.If]] = []
    for guard in guards:
        here, there = _collectives(module, guard.body), _collectives(module, guard.orelse)
        for mine, other in ((here, there), (there, here)):
            names = {name for _, name in other}
            found += [(node, name, guard) for node, name in mine if name not in names]
        if guard.body and isinstance(guard.body[-1], ast.Return) and not guard.orelse:
            after = _after(module, function, guard)
            met = {name for _, name in here} & {name for _, name in after}
            found = [entry for entry in found if entry[2] is not guard or entry[1] not in met]
            if _is_plain_exit(guard):
                found += [(node, name, guard) for node, name in after if name not in met]
    counts = _guarded_calls(module, function)
    reported: set[int] = set()
    for node, name, guard in found:
        if counts.get(name, 0) > 1:
            continue  # two guards, each with the same collective: the ranks meet
        if node.lineno not in reported:
            reported.add(node.lineno)
            line = Line(module.path, node.lineno, node.col_offset, function.name)
            test = ast.unparse(guard.test)
            words = (("op", f"{name}()"), ("test", test if len(test) < 60 else test[:57] + "..."))
            yield Report(
                CODE, "other", line, Line(module.path, guard.lineno, guard.col_offset, function.name), "guarded", words
            )


def _guarded_calls(module: Module, function: Function) -> dict[str, int]:
    """How many branches on a rank, in whatever form, hold each collective."""
    counts: dict[str, int] = {}
    for node in walk(function.node):
        if isinstance(node, ast.If) and any(
            "rank" in _last(part).lower() or "main" in _last(part).lower()
            for part in walk(node.test)
            if isinstance(part, ast.expr)
        ):
            for name in {name for _, name in _collectives(module, node.body)}:
                counts[name] = counts.get(name, 0) + 1
    return counts


def _is_rank(test: ast.expr) -> bool:
    """`rank == 0`, `not is_main_process`, `dist.get_rank() != 0`: true on one rank, or on all but one."""
    if isinstance(test, ast.UnaryOp):
        return _is_rank(test.operand)
    if isinstance(test, ast.BoolOp):
        return isinstance(test.op, ast.And) and any(_is_rank(part) for part in test.values)
    if isinstance(test, ast.Compare):
        if (
            len(test.ops) != 1
            or not isinstance(test.ops[0], ast.Eq | ast.NotEq)
            or not isinstance(test.comparators[0], ast.Constant)
        ):
            return False
        return test.comparators[0].value == 0 and _names_rank(test.left)
    return _names_rank(test) and not _last(test).endswith("rank")


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _names_rank(node: ast.expr) -> bool:
    name = _last(node).lower()
    return name in _RANKS or name.endswith("_rank") or name in ("get_rank", "get_global_rank")


def _is_plain_exit(guard: ast.If) -> bool:
    return all(isinstance(node, ast.Return | ast.Expr) for node in guard.body)


def _after(module: Module, function: Function, guard: ast.If) -> list[tuple[ast.Call, str]]:
    body = getattr(function.node, "body", [])
    if guard not in body:
        return []
    return _collectives(module, body[body.index(guard) + 1 :])


def _collectives(module: Module, body: list[ast.stmt]) -> list[tuple[ast.Call, str]]:
    nodes = [node for statement in body for node in walk(statement)]
    tried = [node for node in nodes if isinstance(node, ast.With) and _expects_error(node)]
    failing = {id(part) for node in tried for part in walk(node)}
    calls = (node for node in nodes if isinstance(node, ast.Call) and id(node) not in failing)
    return [(node, _last(node)) for node in calls if _is_collective(module, node)]


def _expects_error(node: ast.With) -> bool:
    """A test that the collective fails: it is meant to be called by some ranks alone."""
    names = [_last(item.context_expr) for item in node.items]
    return any(name == "raises" or name.startswith("assertRaises") or "exception" in name for name in names)


def _is_collective(module: Module, node: ast.Call) -> bool:
    name = _last(node)
    if name not in COLLECTIVES or any(keyword.arg in ("group", "process_group") for keyword in node.keywords):
        return False
    dotted = module.dotted(node.func)
    root = node.func.value if isinstance(node.func, ast.Attribute) else None
    return (
        dotted.startswith(("torch.distributed", "torch.dist"))
        or (isinstance(root, ast.Name) and root.id in ("dist", "accelerator"))
        or name == "wait_for_everyone"
    )

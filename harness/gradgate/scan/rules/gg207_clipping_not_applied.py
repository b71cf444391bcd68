"""Gradients are clipped where it does nothing, or the wrong thing: before backward, behind the optimizer's step, or
between `scaler.scale(loss).backward()` and the step without `scaler.unscale_(optimizer)`, so that the bound is held
against gradients that the scaler has multiplied. Seen where backward, clipping and step stand in one function.

```python
scaler.scale(loss).backward()
clip_grad_norm_(model.parameters(), 1.0)      # bad: the gradients are still scaled
scaler.step(optimizer)

scaler.scale(loss).backward()
scaler.unscale_(optimizer)
clip_grad_norm_(model.parameters(), 1.0)      # good
scaler.step(optimizer)
```
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradgate.scan.frame import Report
from gradgate.scan.modules import Function, Module
from gradgate.scan.rules.text import Text
from gradgate.scan.values import Line

CODE, NAME = "GG207", "clipping-not-applied"
TEXTS = {
    "scaled": Text(
        "{op} is held against gradients that are still scaled by `{name}` (backward on line {victim})",
        "the bound is off by the loss scale, thousands of times: nearly every step is clipped to nothing",
        "call `{name}.unscale_(optimizer)` before the clipping",
    ),
    "late": Text(
        "{op} comes behind the optimizer's step on line {victim}: what was stepped was not clipped",
        "the bound has no effect",
        "clip between backward and step",
    ),
    "early": Text(
        "{op} comes before the backward on line {victim}: what is stepped is not clipped",
        "the bound has no effect",
        "clip between backward and step",
    ),
}
CLIPS = frozenset({"clip_grad_norm_", "clip_grad_value_"})


def look(module: Module) -> Iterator[Report]:
    """Clipping in the wrong place."""
    if not CLIPS & (set(module.attributes) | set(module.imports)):
        return
    for function in module.scopes:
        if function.calls & CLIPS and "backward" in function.calls:
            yield from _in_function(module, function)


def _in_function(module: Module, function: Function) -> Iterator[Report]:
    calls = sorted(_calls(function.node), key=lambda node: (node.lineno, node.col_offset))
    clips = [node for node in calls if _last(node.func) in CLIPS]
    backwards = [node for node in calls if _last(node.func) == "backward"]
    steps = [node for node in calls if _last(node.func) == "step" and _is_optimizer(node)]
    unscaling = [node.lineno for node in calls if _last(node.func) == "unscale_"]
    yield from _early(module, function, clips, backwards, steps)
    for clip in clips:
        before = [node for node in backwards if node.lineno < clip.lineno]
        if not before:
            continue
        scaler = _scaler(before[-1])
        stepped = [node for node in steps if before[-1].lineno < node.lineno < clip.lineno]
        others = [node for node in clips if before[-1].lineno < node.lineno < clip.lineno]
        what, victim = "", before[-1]
        if stepped and not others and not any(node.lineno > clip.lineno for node in steps):
            what, victim = "late", stepped[-1]
        elif scaler and not _unscaled(unscaling, clip) and any(_last_of_base(node) == scaler for node in steps):
            what = "scaled"
        if what:
            words = (("op", f"{_last(clip.func)}()"), ("name", scaler))
            yield Report(CODE, "other", _line(module, function, clip), _line(module, function, victim), what, words)


def _unscaled(unscaling: Sequence[int], clip: ast.Call) -> bool:
    """Whether gradients are unscaled in front of a clipping, or in a loop around both, where lines do not tell."""
    return any(line <= clip.lineno for line in unscaling)


def _early(
    module: Module, function: Function, clips: list[ast.Call], backwards: list[ast.Call], steps: list[ast.Call]
) -> Iterator[Report]:
    """All clipping stands before the first backward, and a step behind it: nothing clips what it steps with."""
    first = backwards[0].lineno if backwards else 0
    stepped = any(step.lineno > first for step in steps) and all(step.lineno > first for step in steps)
    if clips and stepped and all(clip.lineno < first for clip in clips):
        words = (("op", f"{_last(clips[-1].func)}()"), ("name", ""))
        yield Report(
            CODE, "other", _line(module, function, clips[-1]), _line(module, function, backwards[0]), "early", words
        )


def _line(module: Module, function: Function, node: ast.Call) -> Line:
    return Line(module.path, node.lineno, node.col_offset, function.name)


def _calls(node: ast.AST) -> Iterator[ast.Call]:
    """The calls of a function's own body, without those of functions inside it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.Call):
            yield child
        yield from _calls(child)


def _last(node: ast.AST) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _last_of_base(node: ast.Call) -> str:
    return _last(node.func.value) if isinstance(node.func, ast.Attribute) else ""


def _is_optimizer(node: ast.Call) -> bool:
    name = _last_of_base(node).lower()
    return "opt" in name or "scaler" in name


def _scaler(backward: ast.Call) -> str:
    """`scaler` of `scaler.scale(loss).backward()`; empty where the loss is not scaled."""
    inner = backward.func.value if isinstance(backward.func, ast.Attribute) else None
    if isinstance(inner, ast.Call) and _last(inner.func) == "scale":
        return _last_of_base(inner)
    return ""


__all__ = ["CODE", "NAME", "TEXTS", "look"]

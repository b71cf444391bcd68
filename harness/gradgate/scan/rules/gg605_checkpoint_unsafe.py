"""`torch.load` with `weights_only=False`, or without the argument (the default before PyTorch 2.6 runs code), and
`pickle.load` in a function that loads a checkpoint. What a program has just made itself is left alone: a buffer in
memory, a file that the same function saved, the temporary file of a test.

```python
torch.load(path)                         # bad: unpickles, which can run any code
torch.load(path, weights_only=True)      # good
```
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.scan.frame import Report
from gradgate.scan.modules import Module, is_test
from gradgate.scan.nodes import walk
from gradgate.scan.rules.text import Text
from gradgate.scan.values import Line

CODE, NAME = "GG605", "checkpoint-unsafe"
_WHY = "whoever can write the file can run code where it is loaded"
TEXTS = {
    "missing": Text(
        "torch.load without weights_only=True",
        _WHY + "; before PyTorch 2.6 the default unpickles",
        "pass weights_only=True",
        "warning",
    ),
    "false": Text(
        "torch.load with weights_only=False unpickles the file",
        _WHY,
        "save tensors and plain containers; load with weights_only=True",
        "warning",
    ),
    "pickle": Text(
        "pickle.load of a checkpoint runs the code that is in it",
        _WHY,
        "torch.load(..., weights_only=True), or safetensors",
        "warning",
    ),
}


def look(module: Module) -> Iterator[Report]:
    """Calls that unpickle."""
    if "load" not in module.attributes and "load" not in module.imports:
        return
    for function, node in _calls(module):
        name = module.dotted(node.func)
        what = ""
        if _is_own(module, function, node):
            continue
        if name == "torch.load":
            what = _weights_only(node)
        elif name in ("pickle.load", "cPickle.load") and any(
            word in function.lower() for word in ("checkpoint", "ckpt", "resume", "restore")
        ):
            what = "pickle"
        if what:
            yield Report(CODE, "other", Line(module.path, node.lineno, node.col_offset, function), None, what, ())


_MEMORY = ("buffer", "buf", "bytes", "stream", "tmp", "temp")


def _is_own(module: Module, function: str, node: ast.Call) -> bool:
    """Whether the file is one that the program has just made itself: a buffer in memory, a test's temporary file."""
    if not node.args:
        return False
    given = node.args[0]
    words = " ".join(part.attr if isinstance(part, ast.Attribute) else part.id for part in walk(given)
                     if isinstance(part, ast.Attribute | ast.Name)).lower()  # fmt: skip
    if any(word in words for word in _MEMORY):
        return True
    return is_test(module.path, function) or _is_saved_here(module, function, given)


def _is_saved_here(module: Module, function: str, given: ast.expr) -> bool:
    """Whether the same function saves to what it loads."""
    if not isinstance(given, ast.Name):
        return False
    for entry in module.scopes:
        if entry.name == function and "save" in entry.calls:
            for node in walk(entry.node):
                if isinstance(node, ast.Call) and module.dotted(node.func) == "torch.save" and len(node.args) > 1:
                    target = node.args[1]
                    if isinstance(target, ast.Name) and target.id == given.id:
                        return True
    return False


def _calls(module: Module) -> Iterator[tuple[str, ast.Call]]:
    seen: set[int] = set()
    for function in (*module.every, module.body):
        if "load" in function.calls:
            for node in walk(function.node):
                if isinstance(node, ast.Call) and id(node) not in seen:
                    seen.add(id(node))
                    yield function.name, node


def _weights_only(node: ast.Call) -> str:
    for keyword in node.keywords:
        if keyword.arg is None:
            return ""
        if keyword.arg == "weights_only":
            value = keyword.value
            return "false" if isinstance(value, ast.Constant) and value.value is False else ""
    return "missing"

"""What holds the live tensors of a module, for the checks that read the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence

from gradgate.checks.source_values import Names, assignments_in
from gradgate.checks.trainer_source import File, dotted

SHALLOW = ("dict", "OrderedDict", "collections.OrderedDict", "copy.copy")
STATES = ("state_dict", "named_parameters", "named_buffers")
DEVICES = ("cuda", "device", "mps", "xpu", "ccelerat", "abric", "gpu")
IS_CPU = re.compile(r"^(device\s*(:[^=]*)?=|.*add_argument\(.--device.*default=)\s*.cpu\b")  # a setting's default


def runs_on_cpu(files: Sequence[File]) -> bool:
    """Whether a trainer names no other device, or is told none where nothing is said: `.cpu()` copies nothing there."""
    return not any(file.has(*DEVICES) for file in files) or any(
        IS_CPU.search(line.strip()) for file in files if file.has("device") for line in file.lines
    )


def kept_in(nodes: Iterable[ast.AST]) -> Iterator[tuple[ast.expr, ast.expr]]:
    """What is assigned, and its value; the entries that `update` gives a mapping among them."""
    given = list(nodes)
    yield from assignments_in(given)
    for node in given:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "update":
            entries = [(ast.Constant(word.arg), word.value) for word in node.keywords if word.arg is not None]
            for mapping in node.args:
                if isinstance(mapping, ast.Dict):
                    entries += [(key, value) for key, value in zip(mapping.keys, mapping.values, strict=True) if key]  # type: ignore[misc]
            for key, value in entries:
                yield ast.Subscript(node.func.value, key), value


def aliased(value: ast.expr, names: Names, on_cpu: bool) -> Iterator[str]:
    """The modules whose live tensors an expression holds."""
    if isinstance(value, ast.Name) and (held := names.held(value)) is not value:
        yield from aliased(held, names, on_cpu)
    elif isinstance(value, ast.Dict) and None in value.keys and len(value.keys) > 1:
        return  # entries of one over those of another
    elif isinstance(value, ast.Dict | ast.Tuple | ast.List):
        for part in parts_of(value):
            yield from aliased(part, names, on_cpu)
    elif isinstance(value, ast.DictComp) and _passes_on(value, on_cpu):
        yield from aliased(value.generators[0].iter.func.value, names, on_cpu)  # type: ignore[attr-defined]
    elif isinstance(value, ast.Call):
        if dotted(value.func) in SHALLOW and len(value.args) == 1 and not value.keywords:
            yield from aliased(value.args[0], names, on_cpu)
        elif isinstance(value.func, ast.Attribute) and not value.args:
            if value.func.attr in STATES:
                yield ast.unparse(value.func.value)
            elif value.func.attr == "copy":
                yield from aliased(value.func.value, names, on_cpu)


def _passes_on(value: ast.DictComp, on_cpu: bool) -> bool:
    """Whether a comprehension over `items()` gives the tensors that it gets, or what shares their memory."""
    over, target, given = value.generators[0].iter, value.generators[0].target, value.value
    if not (isinstance(over, ast.Call) and dotted(over.func).rpartition(".")[2] == "items"):
        return False
    shares = ("detach", "cpu") if on_cpu else ("detach",)
    while isinstance(given, ast.Call) and isinstance(given.func, ast.Attribute) and given.func.attr in shares:
        given = given.func.value
    if isinstance(given, ast.Attribute) and given.attr == "data":
        given = given.value
    return isinstance(target, ast.Tuple) and dotted(given) == dotted(target.elts[-1]) != ""


def parts_of(node: ast.Dict | ast.Tuple | ast.List) -> list[ast.expr]:
    """The values of a mapping or of a row."""
    return node.values if isinstance(node, ast.Dict) else node.elts

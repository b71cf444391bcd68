"""What holds the live tensors of a module, for the checks that read the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence

from gradgate.checks.source.averages import AVERAGE, COPIES
from gradgate.checks.source.lent_states import Lent
from gradgate.checks.source.trainer import File, Function, called_name, calls_in, dotted
from gradgate.checks.source.values import Names, assignments_in, blocks_in, last_name

LEAST = 3  # letters of a name that tells of a class
SHALLOW = ("dict", "OrderedDict", "collections.OrderedDict", "copy.copy")
WEIGHTS = ("named_parameters", "parameters", "state_dict")
STATES = ("state_dict", "named_parameters", "named_buffers")
NOTHING = Lent({}, frozenset())
DEVICES = ("cuda", "device", "mps", "xpu", "ccelerat", "abric", "gpu")
IS_CPU = re.compile(r"^(device\s*(:[^=]*)?=|.*add_argument\(.--device.*default=)\s*.cpu\b")  # a setting's default


def runs_on_cpu(files: Sequence[File]) -> bool:
    """Whether a trainer names no other device, or is told none where nothing is said: `.cpu()` copies nothing there."""
    return not any(file.has(*DEVICES) for file in files) or any(
        IS_CPU.search(line.strip()) for file in files if file.has("device") for line in file.lines
    )


def classes_of_numbers(files: Sequence[File]) -> set[str]:
    """The names of classes that are no modules, and whose own `state_dict` gives what none of their tensors is."""
    found = set[str]()
    for owner in (node for file in files if file.has("def state_dict") for node in file.nodes):
        if not isinstance(owner, ast.ClassDef) or any("Module" in ast.unparse(base) for base in owner.bases):
            continue
        starts = [part for part in owner.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
        given = {dotted(target): value for start in starts for target, value in assignments_in(ast.walk(start))}
        for method in (part for part in owner.body if isinstance(part, ast.FunctionDef)):
            dicts = (
                [node for node in ast.walk(method) if isinstance(node, ast.Dict)] if method.name == "state_dict" else []
            )
            if dicts and all(_is_number(given.get(dotted(value))) for one in dicts for value in one.values):
                found.add(owner.name)
    return found


def _is_number(value: ast.expr | None) -> bool:
    """Whether the value that one begins with is a number, by how it is written."""
    return isinstance(value, ast.Constant) or called_name(value or ast.Constant(None)) in ("float", "int")


def is_named_after(module: str, classes: set[str]) -> bool:
    """Whether what holds a state is called as one of some classes is, or as its last word: `normaliser`."""
    last = module.rpartition(".")[2].replace("_", "").lower()
    return any(name.lower().endswith(last) for name in classes) if len(last) > LEAST else False


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


def aliased(value: ast.expr, names: Names, on_cpu: bool, lent: Lent = NOTHING) -> Iterator[str]:
    """The modules whose live tensors an expression holds, and the objects that hand theirs out."""
    of_item = isinstance(value, ast.Subscript) and isinstance(value.value, ast.Name)
    if of_item and (held := names.held(value.value)) is not value.value:  # type: ignore[attr-defined]
        value = ast.copy_location(ast.Subscript(held, value.slice), value)  # type: ignore[attr-defined]
    if given := lent.gives(value):
        yield given
    elif isinstance(value, ast.Name) and (held := names.held(value)) is not value:
        yield from aliased(held, names, on_cpu, lent)
    elif isinstance(value, ast.Dict) and None in value.keys and len(value.keys) > 1:
        return  # entries of one over those of another
    elif isinstance(value, ast.Dict | ast.Tuple | ast.List):
        for part in parts_of(value):
            yield from aliased(part, names, on_cpu, lent)
    elif isinstance(value, ast.DictComp) and _passes_on(value, on_cpu):
        yield from aliased(value.generators[0].iter.func.value, names, on_cpu)  # type: ignore[attr-defined]
    elif isinstance(value, ast.Call):
        if dotted(value.func) in SHALLOW and len(value.args) == 1 and not value.keywords:
            yield from aliased(value.args[0], names, on_cpu, lent)
        elif isinstance(value.func, ast.Attribute) and not value.args:
            if value.func.attr in STATES:
                yield ast.unparse(value.func.value)
            elif value.func.attr == "copy":
                yield from aliased(value.func.value, names, on_cpu, lent)


def _passes_on(value: ast.DictComp, on_cpu: bool) -> bool:
    """Whether a comprehension over `items()` gives the tensors that it gets, or what shares their memory."""
    over, target, given = value.generators[0].iter, value.generators[0].target, value.value
    if called_name(over) != "items":
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


def is_the_models(value: ast.expr) -> bool:
    """Whether a value is made of a model's parameters, none of them copied."""
    calls = [node for node in ast.walk(value) if isinstance(node, ast.Call)]
    if any(called_name(call) in COPIES for call in calls):
        return False
    if isinstance(value, ast.Call):
        inner = [value] if called_name(value) != "dict" and called_name(value) != "list" else calls[1:]
        return any(called_name(call) in WEIGHTS and _is_of_model(call.func) for call in inner)
    if isinstance(value, ast.DictComp | ast.ListComp):
        held = value.value if isinstance(value, ast.DictComp) else value.elt
        over, target = value.generators[0].iter, value.generators[0].target
        gives = called_name(over) in WEIGHTS or ".state_dict()" in ast.unparse(over)
        return gives and base_of(held) in {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
    return False


def _is_of_model(method: ast.expr) -> bool:
    return isinstance(method, ast.Attribute) and bool(dotted(method)) and not AVERAGE.search(last_name(method.value))


def base_of(node: ast.expr) -> str:
    """The name that `.data` and `.detach()` are taken of."""
    while isinstance(node, ast.Attribute | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def called_in_loops(file: File, loops: list[ast.For | ast.While]) -> set[str]:
    """The functions that are called in loops, and by those."""
    calls: dict[str, set[str]] = {}
    for function, _ in file.functions:
        calls.setdefault(function.name, set()).update(names_of_calls(function))
    found, new = set[str](), set[str]().union(*map(names_of_calls, loops))
    while new - found:
        found |= new
        new = set[str]().union(*(calls.get(name, ()) for name in new))
    return found


def names_of_calls(node: ast.AST) -> set[str]:
    """The last names of what is called in a node."""
    return set(map(called_name, calls_in(node)))


def leading_to(methods: Sequence[Function], method: Function) -> set[str]:
    """The names of a method and of those that call it, whatever is between."""
    found, new = set[str](), {method.name}
    while new - found:
        found |= new
        new = {each.name for each in methods if names_of_calls(each) & found}
    return found


def are_right_behind(methods: Sequence[Function], function: Function, writers: set[str]) -> bool:
    """Whether wherever a method is called, or in itself, one of the writers is called without a condition."""
    if names_of_calls(function) & writers:
        return True
    callers = [each for each in methods if function.name in names_of_calls(each)]
    return all(any(_follows(block, function.name, writers) for block in blocks_in(ast.walk(each))) for each in callers)


def _follows(block: list[ast.stmt], name: str, writers: set[str]) -> bool:
    """Whether behind a statement that calls a function another calls one of the writers."""
    at = next((at for at, statement in enumerate(block) if name in names_of_calls(statement)), len(block))
    behind = (part for part in block[at:] if isinstance(part, ast.Expr | ast.Assign | ast.Return))
    return any(names_of_calls(part) & writers - {name} for part in behind)

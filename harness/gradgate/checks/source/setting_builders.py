"""Functions of a trainer that make a configuration of a mapping, and leave out the keys that it does not know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

from gradgate.checks.source.settings import SETTINGS
from gradgate.checks.source.trainer import File, Function, called_name, calls_in, dotted, given_by, names_in
from gradgate.checks.source.values import Names, assignments_in, own_nodes

FIELDS = re.compile(
    r"(^|\.)(fields|get_type_hints|vars|__dict__)$|\.?(__dataclass_fields__|__annotations__|model_fields|__fields__)$"
)
SECTION = re.compile(
    r"(^|_)(configs?|cfg|settings|sections?|recipes?|options|hparams|hyperparameters)(_|$)", re.IGNORECASE
)
OTHERS = re.compile(
    r"(^|_)(k?w?args|namespace|env|environ|state|states|ckpt|checkpoint|saved|batch|record|row|metrics|defaults?|old"
    r"|legacy|kw|vars|info|metadata|update|tokens?)(_|$)",
    re.IGNORECASE,
)
LENIENT = re.compile(r"state|checkpoint|ckpt|legacy|compat|migrat|subset|filter|known|ignore|extract|select|pick|batch")
REFUSES = re.compile(r"check|valid|unknown|refus|reject|requir|strict|forbid|ensure|verify|extra|unexpected|leftover")
TELLS = ("warn", "warning", "error", "exit", "fail", "print", "info", "log", "critical", "exception")

Known = Sequence[tuple[File, Function, ast.ClassDef | None]]


def lenient_builders(files: Sequence[File]) -> Iterator[tuple[File, Function, ast.AST, str]]:
    """The functions that leave keys out: file, function, where they are left out, and what holds them."""
    functions = [(file, function, owner) for file in files for function, owner in file.functions]
    for file, function, owner in functions:
        if not file.has("fields", "hasattr", "__annotations__", "get_type_hints", ".items()"):
            continue
        if LENIENT.search(function.name):
            continue
        nodes, names = own_nodes(function), Names(function)
        for node in nodes:
            mapping = _read_by_fields(node, names) or _read_if_known(node, names, nodes)
            over = node.iter if isinstance(node, ast.For) else None
            if not mapping or _is_of_fields(mapping, over, names) or OTHERS.search(mapping.rpartition(".")[2]):
                continue
            if _builds_settings(function, owner, functions) and not _refuses(function, mapping, functions):
                yield file, function, node, mapping
            break


def _builds_settings(function: Function, owner: ast.ClassDef | None, functions: Known) -> bool:
    """Whether a function makes or fills a configuration, by its name, its class, or what it is given."""
    if SECTION.search(function.name) or (owner is not None and owner.name.lower().endswith(SETTINGS)):
        return True
    arguments = [each.arg for each in function.args.args if each.arg not in ("self", "cls")]
    made = {dotted(call.func).lower() for call in calls_in(function)}
    if any(
        name.rpartition(".")[2][:1].isupper() and name.lower().endswith(SETTINGS)
        for name in map(dotted, _callees(function))
    ):
        return True
    if any(argument.lower() in ("cfg", "config", "settings", "recipe") for argument in arguments) and "setattr" in made:
        return True
    if any(_fills_settings(function, other) for _, other, _ in functions):
        return True
    given = [arg for _, other, _ in functions for call in _calls_of(function, other) for arg in call.args]
    return any(dotted(arg)[:1].isupper() and dotted(arg).lower().endswith(SETTINGS) for arg in given)


def _fills_settings(function: Function, other: Function) -> bool:
    """Whether another function makes a configuration and has this one set attributes on it."""
    calls = [call for call in calls_in(function) if dotted(call.func) == "setattr" and len(call.args) == 3]
    filled = {dotted(call.args[0]) for call in calls}
    names = Names(other)
    for call in _calls_of(function, other) if filled else ():
        given = dict(zip(_arguments(function), call.args, strict=False)) | {
            word.arg: word.value for word in call.keywords
        }
        for name in filled & set(given):
            made = called_name(names.held(given[name]))
            if made[:1].isupper() and made.lower().endswith(SETTINGS):
                return True
    return False


def _callees(function: Function) -> Iterator[ast.expr]:
    return (call.func for call in calls_in(function))


def _calls_of(function: Function, other: Function) -> Iterator[ast.Call]:
    """The calls of one function in another."""
    return (call for call in calls_in(other) if called_name(call) == function.name)


def _are_fields(node: ast.expr, names: Names) -> bool:
    """Whether an expression is the fields of a class, or their names."""
    return any(
        bool(FIELDS.search(dotted(part.func) if isinstance(part, ast.Call) else dotted(part)))
        for part in names.parts(node)
        if isinstance(part, ast.Call | ast.Attribute)
    )


def _is_of_fields(mapping: str, over: ast.expr | None, names: Names) -> bool:
    """Whether what a loop goes over is a mapping that has been made of fields."""
    read = [part for part in ast.walk(over) if dotted(part) == mapping] if over is not None else []
    return any(isinstance(part, ast.expr) and _are_fields(names.held(part), names) for part in read)


def _read_by_fields(node: ast.AST, names: Names) -> str:
    """The mapping that is read field by field; empty: none is."""
    if isinstance(node, ast.For) and isinstance(node.target, ast.Name | ast.Tuple):
        loop, inside = node.iter, [part for each in node.body for part in ast.walk(each)]
    elif isinstance(node, ast.DictComp):
        loop, inside = node.generators[0].iter, list(ast.walk(node))
    else:
        return ""
    if not _are_fields(loop, names):
        return ""
    target = node.target if isinstance(node, ast.For) else node.generators[0].target
    first = target.elts[0] if isinstance(target, ast.Tuple) else target
    keys = {f"{dotted(first)}.name", dotted(first)}
    puts = isinstance(node, ast.DictComp) or any(
        (isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store) and dotted(part.slice) in keys)
        or (isinstance(part, ast.Call) and dotted(part.func) == "setattr" and dotted(part.args[1]) in keys)
        for part in inside
    )
    for part in inside if puts else ():
        asked = isinstance(part, ast.Call) and isinstance(part.func, ast.Attribute) and part.func.attr == "get"
        if asked and part.args and dotted(part.args[0]) in keys:  # type: ignore[attr-defined]
            return dotted(part.func.value)  # type: ignore[attr-defined]
        if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Load) and dotted(part.slice) in keys:
            return dotted(part.value)
    return ""


def _read_if_known(node: ast.AST, names: Names, nodes: Sequence[ast.AST]) -> str:
    """The mapping of which those items are taken whose keys are known; empty: none is."""
    if isinstance(node, ast.DictComp):
        part = node.generators[0]
        known = any(_is_known(test, dotted(node.key), names) for test in part.ifs)
        given = any(
            isinstance(call, ast.Call)
            and any(word.arg is None and names.held(word.value) is node for word in call.keywords)
            for call in nodes
        )
        return _items_of(part.iter) if known and given else ""
    if not isinstance(node, ast.For):
        return ""
    target = node.target.elts[0] if isinstance(node.target, ast.Tuple) and node.target.elts else node.target
    key, last = dotted(target), node.body[-1]
    for branch in node.body:
        if isinstance(branch, ast.If) and not branch.orelse:
            negated = isinstance(branch.body[0], ast.Continue)
            puts = last if negated else branch
            if _is_known(branch.test, key, names, negated) and _puts(puts, key):
                return _items_of(node.iter)
    return ""


def _items_of(node: ast.expr) -> str:
    asked = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "items"
    return dotted(node.func.value) if asked else dotted(node)  # type: ignore[attr-defined]


def _is_known(test: ast.expr, key: str, names: Names, negated: bool = False) -> bool:
    """Whether a test asks if a key is that of a field."""
    if negated and isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _is_known(test.operand, key, names)
    if isinstance(test, ast.Call) and dotted(test.func) == "hasattr" and not negated:
        return len(test.args) == 2 and dotted(test.args[1]) == key
    if not (isinstance(test, ast.Compare) and dotted(test.left) == key):
        return False
    asked = isinstance(test.ops[0], ast.NotIn if negated else ast.In)
    return asked and _are_fields(test.comparators[0], names)


def _puts(node: ast.stmt, key: str) -> bool:
    """Whether a statement sets what a key names."""
    for part in ast.walk(node):
        if isinstance(part, ast.Call) and dotted(part.func) == "setattr" and dotted(part.args[1]) == key:
            return True
        if isinstance(part, ast.Subscript) and isinstance(part.ctx, ast.Store) and dotted(part.slice) == key:
            return True
    return False


def _refuses(function: Function, mapping: str, functions: Known) -> bool:
    """Whether a function, what it calls with the mapping, or what calls it with that, refuses or tells what is left."""
    if _tells(function, mapping) or _holds_against(function, mapping) or _checks(function, mapping, functions):
        return True
    goes_down = any(_calls_of(function, function))  # who calls it holds the outermost keys alone
    place = next((index for index, each in enumerate(_arguments(function)) if each == mapping), None)
    for _, other, _ in functions:
        for call in _calls_of(function, other) if other is not function else ():
            words = {word.arg: word.value for word in call.keywords}
            given = words.get(mapping)
            if given is None and place is not None and place < len(call.args):
                given = call.args[place]
            for held in (given, Names(other).held(given)) if given is not None else ():
                text = ast.unparse(held)
                read = called_name(held)
                if (_holds_against(other, text) and not goes_down) or _checks(other, text, functions):
                    return True
                if any(each.name == read and _names_keys(each) for _, each, _ in functions):
                    return True
    return False


def _arguments(function: Function) -> list[str]:
    """What a call of a function gives, in order."""
    given = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    is_bound = given[:1] == ["self"] or any(dotted(each) == "classmethod" for each in function.decorator_list)
    return given[1:] if is_bound else given


def _tells(function: Function, mapping: str) -> bool:
    """Whether a function raises, but for what is no mapping at all, or tells something; of a section of a larger
    mapping, because of the section."""
    guards = [node for node in ast.walk(function) if isinstance(node, ast.If)]
    no_mapping = [node for node in guards if "isinstance(" in ast.unparse(node.test)]
    guarded = {id(part) for node in no_mapping for each in node.body for part in ast.walk(each)}
    of_others = _told_of_others(function, mapping, guards)
    return any(
        (isinstance(node, ast.Raise) and id(node) not in guarded | of_others)
        or isinstance(node, ast.Assert)
        or (isinstance(node, ast.Call) and called_name(node) in TELLS and id(node) not in of_others)
        for node in ast.walk(function)
    )


def _told_of_others(function: Function, mapping: str, guards: Sequence[ast.If]) -> set[int]:
    """What stands under conditions that ask for no key of a mapping that is a section of another one."""
    nodes = own_nodes(function)
    loops = [node for node in nodes if isinstance(node, ast.For) and called_name(node.iter) == "items"]
    targets = [dotted(loop.target.elts[-1]) for loop in loops if isinstance(loop.target, ast.Tuple)]
    values = [value for target, value in assignments_in(nodes) if dotted(target) == mapping]
    if mapping not in targets and not any(_is_part(value, mapping) for value in values):
        return set()
    of_it = {mapping}
    for _ in range(2):
        for target, value in assignments_in(nodes):
            of_it |= {dotted(target)} - {""} if of_it & names_in(value) and dotted(target) else set()
        for loop in (node for node in nodes if isinstance(node, ast.For)):
            if of_it & names_in(loop.iter):
                of_it |= names_in(loop.target)
    inner = [(node, [id(part) for part in ast.walk(node)]) for node in guards]
    found = set[int]()
    for node, inside in sorted(inner, key=lambda one: -len(one[1])):  # the innermost decides
        asks = of_it & names_in(node.test)
        found = found - set(inside) if asks else found | set(inside)
    return found


def _is_part(value: ast.expr, mapping: str) -> bool:
    """Whether a value is an entry of another mapping: `raw[name]`, `raw.get(name, {})`, also where it may be empty."""
    if isinstance(value, ast.BoolOp):
        value = value.values[0]
    asked = isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in ("get", "pop")
    of = value.func.value if asked else value.value if isinstance(value, ast.Subscript) else None  # type: ignore[attr-defined]
    return of is not None and dotted(of) not in ("", mapping)


def _holds_against(function: Function, mapping: str) -> bool:
    """Whether the keys of a mapping are held against others as a set, or what is left of it is used."""
    return any(_asks_for_rest(node, mapping) for node in ast.walk(function))


def _asks_for_rest(node: ast.AST, mapping: str) -> bool:
    if isinstance(node, ast.comprehension):
        is_rest = any("not in" in ast.unparse(test) for test in node.ifs)
        return is_rest and mapping in (ast.unparse(node.iter), _items_of(node.iter), ast.unparse(node.iter)[:-7])
    if isinstance(node, ast.BinOp):
        is_set = isinstance(node.op, ast.Sub | ast.BitXor | ast.BitAnd)
    elif isinstance(node, ast.Compare):
        is_set = isinstance(node.ops[0], ast.LtE | ast.GtE | ast.Lt | ast.Gt) and "len(" not in ast.unparse(node)
    else:
        sets = ("difference", "issubset", "issuperset", "symmetric_difference", "pop")
        is_set = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in sets
    return is_set and mapping in map(ast.unparse, (part for part in ast.walk(node) if isinstance(part, ast.expr)))


def _checks(function: Function, mapping: str, functions: Known) -> bool:
    """Whether a function hands the mapping to what is named after a check, or raises."""
    for call in calls_in(function):
        given = given_by(call)
        name = called_name(call)
        if name != function.name and mapping in map(ast.unparse, given):
            raising = any(each.name == name and _names_keys(each) for _, each, _ in functions)
            if REFUSES.search(name) or raising:
                return True
    return False


def _names_keys(function: Function) -> bool:
    """Whether what a function raises is of keys."""
    raised = [node for node in ast.walk(function) if isinstance(node, ast.Raise)]
    return any(
        re.search(r"unknown|unexpected|key(?!\s*=)|unrecogni|not known|no such|extra", ast.unparse(node))
        for node in raised
    )

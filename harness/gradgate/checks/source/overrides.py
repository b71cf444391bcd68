"""Arguments of a command line that a loop asks for by name: what is declared, and where one is looked up."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from gradgate.checks.source.trainer import File, dotted, names_in
from gradgate.checks.source.values import Names, assignments_in
from gradgate.subjects.argument_calls import argument_call

ZERO_MEANS = re.compile(r"seed|warm|patience|worker")  # of whole numbers these may be 0
ARGS = re.compile(r"^(\w+_)?(args|opts|options|flags|namespace|cli)$|^(\w+_)?over(ride|write)s?$|parse_args\(.*\)$")
MAPPING = re.compile(r"^(vars\((?P<of>.*)\)|(?P<own>\w+)\.__dict__|(?P<named>(\w+_)?over(ride|write)s?))$")
LOOKUPS = ("get", "pop")


@dataclass(frozen=True)
class Declared:
    """The arguments of the command lines of all files.

    Args:
        names: of all of them.
        numbers: of those that are None where they are not given, and that may be 0.
    """

    names: frozenset[str]
    numbers: frozenset[str]

    def may_be_0(self, names: Sequence[str] | None) -> bool:
        """Whether one of some arguments may be 0 where it is given; None: it is not known which they are."""
        if names is None:
            return bool(self.numbers) or not self.names
        return any(name in self.numbers or name not in self.names for name in names)


def declared_in(files: Iterable[File]) -> Declared:
    """Read the `add_argument` of all files."""
    found = {name: is_number for file in files for name, is_number in _declared(file)}
    return Declared(frozenset(found), frozenset(name for name, is_number in found.items() if is_number))


def _declared(file: File) -> Iterator[tuple[str, bool]]:
    for argument in map(argument_call, file.nodes) if file.has("add_argument") else ():
        if argument is None:
            continue
        kind, default = (argument.words.get(word, ast.Constant(None)) for word in ("type", "default"))
        may_be_0 = dotted(kind) == "float" or (dotted(kind) == "int" and ZERO_MEANS.search(argument.name))
        is_none = isinstance(default, ast.Constant) and default.value is None and "action" not in argument.words
        yield argument.name, bool(may_be_0 and is_none)


@dataclass(frozen=True)
class Lookup:
    """Where an argument is asked for by a name that is a variable.

    Args:
        key: the variable.
        text: the value, as it is written where it is asked for.
    """

    key: str
    text: str


class Lookups:
    """Those of a function.

    Args:
        file: it stands in.
        nodes: its own.
        names: what they hold.
        declared: arguments of the command line.
    """

    def __init__(self, file: File, nodes: Sequence[ast.AST], names: Names, declared: Declared) -> None:
        self._file, self._nodes, self._names, self._declared = file, nodes, names, declared

    def of(self, value: ast.expr) -> Lookup | None:
        """The one that a value is, or holds, of arguments of which one may be 0; None: it is something else."""
        written, text = value, ast.unparse(value)
        if isinstance(value, ast.NamedExpr):
            written, text = value.value, value.target.id
        key = _key(self._names.held(written))
        if key is None or not self._declared.may_be_0(self._asked_for.get(key)):
            return None
        return Lookup(key, text)

    @cached_property
    def _asked_for(self) -> dict[str, list[str]]:
        """The names that a variable takes, where they are written down."""
        loops = [node for node in self._nodes if isinstance(node, ast.For | ast.comprehension)]
        found = {dotted(loop.target): self._words(loop.iter) for loop in loops}
        return {key: words for key, words in found.items() if key and words}

    def _words(self, over: ast.expr) -> list[str]:
        if isinstance(over, ast.Name):
            held = (value for target, value in assignments_in(self._file.tree.body) if dotted(target) == over.id)
            over = next(held, over)
        parts = over.elts if isinstance(over, ast.Tuple | ast.List | ast.Set) else []
        words = [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]
        return words if len(words) == len(parts) else []


def _key(value: ast.expr) -> str | None:
    """The variable that `getattr(args, name)`, `vars(args)[name]` or `overrides.get(name)` asks for."""
    given: ast.expr | None = None
    if isinstance(value, ast.Subscript) and _is_mapping(value.value):
        given = value.slice
    elif isinstance(value, ast.Call) and value.args:
        if dotted(value.func) == "getattr" and len(value.args) > 1 and ARGS.search(ast.unparse(value.args[0])):
            given = value.args[1]
        elif isinstance(value.func, ast.Attribute) and value.func.attr in LOOKUPS and _is_mapping(value.func.value):
            given = value.args[0]
    return given.id if isinstance(given, ast.Name) else None


def _is_mapping(node: ast.expr) -> bool:
    found = MAPPING.search(ast.unparse(node))
    return found is not None and any(ARGS.search(part) for part in found.groupdict().values() if part)


def puts(body: Sequence[ast.stmt], value: str, key: str = "") -> bool:
    """Whether a value goes into an attribute, an entry or `setattr`, converted or not, and nothing else is done.

    Args:
        body: the statements.
        value: as it is written.
        key: the variable by which it is put there; empty: any.
    """
    held = {value}
    *before, last = body
    for one in before:
        target, made = next(iter(assignments_in([one])), (None, None))
        if made is None or not isinstance(target, ast.Name):
            return False
        held |= {target.id} if mentions(made, held) else set()
    put, place = _put(last)
    return put is not None and mentions(put, held) and (not key or (place is not None and key in names_in(place)))


def _put(node: ast.stmt) -> tuple[ast.expr | None, ast.expr | None]:
    """What is put somewhere, and the key by which it is."""
    if isinstance(node, ast.Assign):
        target = node.targets[0]
        if isinstance(target, ast.Subscript):
            return node.value, target.slice
        return (node.value, None) if isinstance(target, ast.Attribute) else (None, None)
    call = node.value if isinstance(node, ast.Expr) else None
    is_set = isinstance(call, ast.Call) and dotted(call.func) in ("setattr", "object.__setattr__") and call.args[2:]
    return (call.args[-1], call.args[1]) if isinstance(call, ast.Call) and is_set else (None, None)


def mentions(node: ast.AST, texts: set[str]) -> bool:
    """Whether one of some expressions stands in another."""
    return any(isinstance(part, ast.expr) and ast.unparse(part) in texts for part in ast.walk(node))

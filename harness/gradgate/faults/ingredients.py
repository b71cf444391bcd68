"""Repairs out of the trainer's own source: a call that is missing here and stands elsewhere, a setting not read.

What a function lacks, another one of the same trainer has, as often as not.

Source: Barr et al. 2014, FSE, the plastic surgery hypothesis.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from gradgate.faults.operators import Function, Variant, exchanged, functions, heads, statements

_LONGEST = 90  # characters of a call that is worth trying elsewhere
_FORGOTTEN: Mapping[str, tuple[str, ...]] = {  # by a part of an attribute's name: what training loops forget of it
    "optim": ("zero_grad()", "step()"),
    "sched": ("step()",),
    "scaler": ("update()",),
    "model": ("train()", "eval()"),
}


@dataclass(frozen=True)
class Ingredients:
    """What the source holds.

    Args:
        calls: statements that are calls, each with the name of the function that it stands in.
        chains: dotted names that are read, such as `recipe.optim.lr`.
        attributes: by class, the attributes of `self` that it uses.
        optional: by function, the names of arguments that may be left out.
        fields: of each class that declares more than one, their names.
        contexts: what `with` statements enter.
    """

    calls: tuple[tuple[str, str], ...]
    chains: tuple[str, ...]
    attributes: Mapping[str, frozenset[str]]
    optional: Mapping[str, tuple[str, ...]]
    fields: tuple[frozenset[str], ...]
    contexts: tuple[str, ...]


def gather(trees: Sequence[ast.Module]) -> Ingredients:
    """All that the parsed files hold, each once."""
    calls: dict[tuple[str, str], None] = {}
    chains: dict[str, None] = {}
    attributes: dict[str, frozenset[str]] = {}
    optional: dict[str, tuple[str, ...]] = {}
    for path, node in (found for tree in trees for found in functions(tree)):
        for statement in statements(node):
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
                calls[ast.unparse(statement), node.name] = None
        dotted = [ast.unparse(part) for one in statements(node) for part in _read(one) if _is_chain(part)]
        chains |= dict.fromkeys(dotted)
        own = _held(node)
        attributes[_holder(path)] = attributes.get(_holder(path), frozenset()) | own
        optional[node.name] = _optional(node)
    short = tuple((text, name) for text, name in calls if len(text) <= _LONGEST and "\n" not in text)
    declared = [_fields(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    fields = tuple(of_one for of_one in declared if len(of_one) > 1)
    entered = dict.fromkeys(
        ast.unparse(node.context_expr) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.withitem)
    )
    return Ingredients(short, tuple(chains), attributes, optional, fields, tuple(entered))


class Pantry:
    """What the source holds for one function.

    Args:
        path: dotted path of the function.
        function: from a parsed source.
        found: of all files.
        known: the function's globals.
    """

    def __init__(self, path: Sequence[str], function: Function, found: Ingredients, known: Collection[str]) -> None:
        self._found = found
        text, names, own = ast.unparse(function), _names(function), found.attributes.get(_holder(path), frozenset())
        calls = sorted(found.calls, key=lambda call: call[1] != function.name)  # those of a namesake first
        every = dict.fromkeys([*(call for call, _ in calls), *_forgotten(own)])
        names |= set(known)
        self._calls = [call for call in every if call not in text and _fits(call, names, own)]
        self._contexts = [context for context in found.contexts if _fits(context, names, own)]
        dotted = [ast.unparse(part) for one in statements(function) for part in _read(one) if _is_chain(part)]
        self._chains = [*dict.fromkeys(dotted)]
        self._spare = [*_spare(self._chains, found.fields)]

    def of_statement(self, statement: ast.stmt) -> Iterator[Variant]:
        """A call that the function does not make, before the statement; a setting that it does not read, in it.

        An object whose attributes are all fields of one class of the source is taken for one of that class.
        """
        before = ast.unparse(statement)
        for call in () if isinstance(statement, ast.FunctionDef | ast.ClassDef) else self._calls:
            yield Variant("insert-call", statement.lineno, before, f"{call}\n{before}")
        for item in statement.items if isinstance(statement, ast.With) else ():
            for context in self._contexts:
                changed = exchanged(statement, item.context_expr, _parsed(context))
                yield Variant("other-context", statement.lineno, before, changed)
        for place in _read(statement):
            for operator, other in _with_settings(place, self._chains, self._spare, self._found):
                yield Variant(operator, place.lineno, before, exchanged(statement, place, other))


def _forgotten(own: Collection[str]) -> Iterator[str]:
    for name in sorted(own):
        for part, calls in _FORGOTTEN.items():
            if part in name:
                yield from (f"self.{name}.{call}" for call in calls)


def _spare(chains: Sequence[str], fields: Sequence[frozenset[str]]) -> Iterator[str]:
    """Fields of the objects of a function that it does not read."""
    read: dict[str, set[str]] = {}
    for chain in chains:
        holder, _, name = chain.rpartition(".")
        read.setdefault(holder, set()).add(name)
    for holder, names in read.items():
        for of_one in fields:
            if names <= of_one:
                yield from (f"{holder}.{name}" for name in sorted(of_one - names))


def _with_settings(
    place: ast.expr, chains: Sequence[str], spare: Sequence[str], found: Ingredients
) -> Iterator[tuple[str, ast.expr]]:
    held = ast.unparse(place)
    if _is_chain(place):
        for chain in (*chains, *spare, *(chain for chain in found.chains if chain not in chains)):
            if chain != held and chain.split(".")[0] == held.split(".")[0] and _alike(chain, held):
                yield "other-setting", _parsed(chain)
    elif isinstance(place, ast.Constant) and isinstance(place.value, int | float | str):
        for chain in spare:
            yield "other-setting", _parsed(chain)
    elif isinstance(place, ast.Call):
        yield from _with_argument(place, (*chains, *spare), found)
    elif isinstance(place, ast.BinOp) and isinstance(place.op, ast.Add | ast.Sub):
        for chain in spare:
            yield "use-read", ast.BinOp(place.left, place.op, ast.BinOp(_parsed(chain), ast.Mult(), place.right))


def _with_argument(place: ast.Call, chains: Sequence[str], found: Ingredients) -> Iterator[tuple[str, ast.expr]]:
    """The call with an argument that it leaves out, where something of that name is at hand."""
    name = place.func.attr if isinstance(place.func, ast.Attribute) else getattr(place.func, "id", "")
    given = {keyword.arg for keyword in place.keywords}
    for argument in found.optional.get(name, ()):
        for chain in chains if argument not in given else ():
            if chain.rpartition(".")[2] == argument:
                more = [*place.keywords, ast.keyword(argument, _parsed(chain))]
                yield "add-argument", ast.Call(place.func, place.args, more)


def _read(statement: ast.stmt) -> Iterator[ast.expr]:
    """The expressions of a statement itself."""
    for head in heads(statement):
        yield from _inside(head)


def _inside(node: ast.expr) -> Iterator[ast.expr]:
    """Expressions of an expression, dotted names as a whole; neither names of methods nor the insides of texts."""
    yield node
    if _is_chain(node) or isinstance(node, ast.JoinedStr):
        return
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.Call) and child is node.func:
            child = child.value if isinstance(child, ast.Attribute) else child
        if isinstance(child, ast.keyword):
            child = child.value
        if isinstance(child, ast.expr):
            yield from _inside(child)


def _alike(chain: str, held: str) -> bool:
    """Whether the last names share a word: `lr` and `value_lr`."""
    return bool(set(chain.rpartition(".")[2].split("_")) & set(held.rpartition(".")[2].split("_")))


def _fits(call: str, names: Collection[str], own: Collection[str]) -> bool:
    """Whether a function has what the call reads: names, and attributes of `self`."""
    tree = ast.parse(call, mode="eval")
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    held = _held(tree)
    return read <= set(names) and held <= set(own)


def _held(tree: ast.AST) -> frozenset[str]:
    """Attributes of `self`."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    return frozenset(one.attr for one in found if isinstance(one.value, ast.Name) and one.value.id == "self")


def _names(function: Function) -> set[str]:
    arguments = (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
    return read | {argument.arg for argument in arguments}


def _optional(function: Function) -> tuple[str, ...]:
    given = function.args
    late = given.args[len(given.args) - len(given.defaults) :] if given.defaults else []
    named = [one.arg for one, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is not None]
    return (*(one.arg for one in late), *named)


def _fields(node: ast.ClassDef) -> frozenset[str]:
    """What a class declares with a type, as dataclasses and settings do."""
    declared = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
    return frozenset(target.id for target in declared if isinstance(target, ast.Name))


def _is_chain(node: ast.AST) -> bool:
    """Whether it reads `name.attribute`, or more attributes."""
    if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
        return False
    return isinstance(node.value, ast.Name) or _is_chain(node.value)


def _holder(path: Sequence[str]) -> str:
    return ".".join(path[:-1])


def _parsed(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body

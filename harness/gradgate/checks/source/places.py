"""The functions of a trainer's source, and the calls between them, read once for all checks that follow calls."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from gradgate.checks.source.trainer import NONE, File, Function, dotted, files_of
from gradgate.checks.source.values import Names, last_name, own_nodes, parameters_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Subject

_TOP = "<module>"
_LIBRARIES = {*sys.stdlib_module_names, "torch", "np", "numpy", "F", "nn", "yaml", "pd", "transformers", "safetensors"}


@dataclass(frozen=True, eq=False)
class Place:
    """A function of a file, or the file's top level as if it were one.

    Args:
        file: it stands in.
        function: itself.
        owner: the class whose method it is.
    """

    file: File
    function: Function
    owner: ast.ClassDef | None = None

    @property
    def name(self) -> str:
        """The function's; empty: the top level."""
        return "" if self.is_top else self.function.name

    @property
    def is_top(self) -> bool:
        """Whether it is the top level of its file."""
        return self.function.name == _TOP

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Its own nodes, without those of functions and classes in it."""
        return own_nodes(self.function)

    @cached_property
    def does_nothing(self) -> bool:
        """Whether it is there to be written below: a text, `pass`, `...` or an error."""
        return all(
            isinstance(each, ast.Pass | ast.Raise)
            or (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
            for each in self.function.body
        )

    @cached_property
    def returned(self) -> list[ast.expr]:
        """What it gives back, at each `return` of something."""
        return [node.value for node in self.nodes if isinstance(node, ast.Return) and node.value is not None]

    @cached_property
    def decorators(self) -> set[str]:
        """The last names of its decorators, called or not."""
        return {last_name(getattr(each, "func", each)) for each in self.function.decorator_list}

    @cached_property
    def names(self) -> Names:
        """What its names hold."""
        return Names(self.function)

    @cached_property
    def parameters(self) -> dict[str, ast.arg]:
        """By their names."""
        return {each.arg: each for each in parameters_of(self.function)}

    @cached_property
    def positional(self) -> list[str]:
        """The names of what it may be given by position, in order, without `self`."""
        given = [each.arg for each in (*self.function.args.posonlyargs, *self.function.args.args)]
        return given[1:] if self.owner is not None and given[:1] in (["self"], ["cls"]) else given

    def given(self, call: ast.Call) -> dict[str, ast.expr]:
        """What a call gives it, by the names of its arguments; what stands behind `*rows` is not known."""
        starred = (at for at, each in enumerate(call.args) if isinstance(each, ast.Starred))
        given = dict(zip(self.positional, call.args[: next(starred, None)], strict=False))
        return given | {word.arg: word.value for word in call.keywords if word.arg is not None}


class Places:
    """The functions of all files of a trainer, by name: ask `places_in` for them.

    Args:
        files: of the trainer.

    Attributes:
        all: of each file its top level, then its functions.
        functions: those alone.
    """

    def __init__(self, files: tuple[File, ...]) -> None:
        self.all = [
            place
            for file in files
            for place in (_top_of(file), *(Place(file, function, owner) for function, owner in file.functions))
        ]
        self.functions = [place for place in self.all if not place.is_top]
        self._files = files
        self._named: dict[str, list[Place]] = {}
        self._owned: dict[int, list[Place]] = {}
        for place in self.functions:
            self._named.setdefault(place.name, []).append(place)
            if place.owner is not None:
                self._owned.setdefault(id(place.owner), []).append(place)
        self._made = {place.owner.name: place for place in self._named.get("__init__", ()) if place.owner is not None}

    @cached_property
    def classes(self) -> dict[str, list[ast.ClassDef]]:
        """The classes of all files, by their names."""
        found: dict[str, list[ast.ClassDef]] = {}
        for node in (node for file in self._files for node in file.nodes):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, []).append(node)
        return found

    @cached_property
    def bases(self) -> set[str]:
        """The last names of what classes are made of."""
        return {_last(base) for same in self.classes.values() for one in same for base in one.bases}

    def called(self, call: ast.Call, here: Place) -> Place | None:
        """The function that a call goes to; None: it is another's, or several may be meant.

        A method of `self` is one of the same class, or of one above, or where that does nothing the one that stands in
        its place below; a function is looked for in the same file first.
        """
        before, _, name = dotted(call.func).rpartition(".")
        if before.partition(".")[0] in _LIBRARIES:
            return None
        known = self.named(name)
        if isinstance(call.func, ast.Name):
            known = [place for place in known if place.owner is None]
            known = [place for place in known if place.file is here.file] or known
            return known[0] if len(known) == 1 else self._made.get(name)
        if before in ("self", "cls") and here.owner is not None:
            above = {here.owner.name, *map(_last, here.owner.bases)}
            of_class = [place for place in known if place.owner is here.owner]
            below = known
            known = of_class or [place for place in known if place.owner is not None and place.owner.name in above]
            if len(known) == 1 and known[0].does_nothing:
                known = [place for place in below if self._is_below(place, known[0])] or known
        return known[0] if len(known) == 1 else None

    def _is_below(self, place: Place, above: Place) -> bool:
        """Whether a method stands in the place of another: its class has the other's for a base, however far above."""
        if above.owner is None or place.owner is None or place.does_nothing:
            return False
        waiting, seen = [place.owner], set[str]()
        while waiting:
            for name in set(map(_last, waiting.pop().bases)) - seen:
                seen.add(name)
                waiting += self.classes.get(name, [])
        return above.owner.name in seen

    def named(self, name: str) -> list[Place]:
        """The functions of a name, methods among them."""
        return self._named.get(name, [])

    def methods(self, name: str) -> list[Place]:
        """The methods of a name, of whatever class."""
        return [place for place in self.named(name) if place.owner is not None]

    def methods_of(self, owner: ast.ClassDef) -> list[Place]:
        """The methods of a class."""
        return self._owned.get(id(owner), [])

    def calls_of(self, name: str) -> Iterator[tuple[Place, ast.Call]]:
        """The calls of a name in functions, whatever it is looked up in, each with the function that it stands in."""
        return ((place, call) for place, call in self._calls.get(name, ()) if not place.is_top)

    def calls_leading_to(self, places: Iterable[Place], runs: Callable[[Place], Iterable[ast.AST]]) -> frozenset[int]:
        """The calls of these functions, and of those that make such a call, however deep, by their `id`.

        Args:
            places: the functions.
            runs: the nodes of one in which a call counts: those that run whenever it does.
        """
        found, waiting = set[int](), list(places)
        seen = set(waiting)
        while waiting:
            place = waiting.pop()
            for caller, call in self._calls.get(place.name, ()):
                if self.called(call, caller) is not place:
                    continue
                found.add(id(call))
                if caller not in seen and not caller.is_top and any(node is call for node in runs(caller)):
                    seen.add(caller)
                    waiting.append(caller)
        return frozenset(found)

    def given_to(self, place: Place, parameter: str) -> list[tuple[Place, ast.expr]] | None:
        """What the calls of a function give a parameter, and where; None: it may be given something else."""
        name = place.owner.name if place.owner is not None and place.name == "__init__" else place.name
        same = len(self.named(name)) + len(self.classes.get(name, ()))
        if place.function.decorator_list or same != 1 or name in self._handed_on or name in self.bases:
            return None
        found = []
        for caller, call in self._calls.get(name, ()):
            value = place.given(call).get(parameter)
            if value is None and _takes_more(call):
                return None
            found += [(caller, value)] if value is not None else []
        return found

    def values_given(self, place: Place, parameter: str, *, made: bool = False) -> Iterator[tuple[Place, ast.expr]]:
        """What the calls that are known to go to a function give a parameter, and where; others may give it more.

        Args:
            place: the function.
            parameter: its name.
            made: whether an `__init__` is called by its class.
        """
        by_class = made and place.owner is not None and place.name == "__init__"
        name = place.owner.name if by_class and place.owner is not None else place.name
        for caller, call in self.calls_of(name):
            if self.called(call, caller) is place and (value := place.given(call).get(parameter)) is not None:
                yield caller, value

    @cached_property
    def _calls(self) -> dict[str, list[tuple[Place, ast.Call]]]:
        found: dict[str, list[tuple[Place, ast.Call]]] = {}
        for place in self.all:
            for node in place.nodes:
                if isinstance(node, ast.Call) and (name := _last(node.func)):
                    found.setdefault(name, []).append((place, node))
        return found

    @cached_property
    def _handed_on(self) -> set[str]:
        """The names that stand where nothing is called: in a table, as an argument."""
        nodes = [node for file in self._files for node in file.nodes]
        left_out = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        left_out |= {id(part) for node in nodes for annotation in _annotations(node) for part in ast.walk(annotation)}
        found = {node.id for node in nodes if isinstance(node, ast.Name) and id(node) not in left_out}
        return found | {node.attr for node in nodes if isinstance(node, ast.Attribute) and id(node) not in left_out}


@lru_cache(maxsize=1)
def places_in(files: tuple[File, ...]) -> Places:
    """The functions of a trainer: made once for all checks, as they read the same files. Those of one trainer are kept,
    since they hold all of its nodes."""
    return Places(files)


def read_place_by_place(
    subject: Subject,
    asks: Callable[[File], bool],
    find: Callable[[Place, Places], Iterable[Finding]],
    what: str,
    *,
    tops: bool = False,
) -> Outcome:
    """What `find` finds in each function of a trainer, none of it allowed.

    Args:
        subject: the trainer.
        asks: whether a file may hold any: its functions alone are read.
        find: reads one function.
        what: the findings' name in what is measured.
        tops: whether the top levels of files are read as well.
    """
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    known = set(filter(asks, files))
    places = places_in(files) if known else None
    read = () if places is None else places.all if tops else places.functions
    findings = tuple(found for place in read if place.file in known for found in find(place, places_in(files)))
    return Outcome(findings, {what: len(findings)}, {what: 0})


def read_as_one(
    subject: Subject, asks: Sequence[Sequence[str]], find: Callable[[Places], Iterable[Finding]], what: str
) -> Outcome:
    """What `find` finds in a trainer as a whole, none of it allowed.

    Args:
        subject: the trainer.
        asks: groups of texts; of each some file must have one, or there is nothing to read.
        find: reads all functions.
        what: the findings' name in what is measured.
    """
    files = files_of(subject)
    if not files:
        return Outcome(not_applicable=NONE)
    is_asked = all(any(file.has(*texts) for file in files) for texts in asks)
    findings = tuple(find(places_in(files))) if is_asked else ()
    return Outcome(findings, {what: len(findings)}, {what: 0})


def _top_of(file: File) -> Place:
    nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
    return Place(file, ast.FunctionDef(_TOP, nothing, file.tree.body, [], None, None, lineno=1))


def _last(node: ast.expr) -> str:
    return dotted(node).rpartition(".")[2]


def _annotations(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation is not None:
        yield node.annotation
    elif isinstance(node, Function) and node.returns is not None:
        yield node.returns


def _takes_more(call: ast.Call) -> bool:
    starred = any(isinstance(one, ast.Starred) for one in call.args)
    return starred or any(word.arg is None for word in call.keywords)

"""What a trainer does with its references, under all the names that they are handed on by."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cached_property

from gradgate.checks.source.places import Place, places_in
from gradgate.checks.source.references import ALL, PASSED_ON, chain_of, copy_key, kinds_of, meant, puts_in_eval
from gradgate.checks.source.trainer import File, called_name, dotted
from gradgate.checks.source.values import assignments_in, outwards, parents_in, places_of

MAY_PUT = re.compile(r"eval|freez|frozen|prepare|dropout|inference", re.IGNORECASE)  # functions that nobody knows
MOVES = re.compile(r"ema(_|$)|polyak|soft|average|moving|momentum|lerp", re.IGNORECASE)
FREEZES = re.compile(r"freez|frozen|requires_grad", re.IGNORECASE)
NO_GRADIENT = re.compile(r"no_grad|inference_mode|set_grad_enabled\(False\)")
WEIGHTS = {*PASSED_ON, "parameters", "named_parameters", "state_dict", "load_state_dict", "buffers", "modules", "apply"}
ROUNDS = 4  # times that a reference is handed on
NOTHING: frozenset[str] = frozenset()


class Uses:
    """The references of a trainer by kind, as `kinds_of` has it: which are called, frozen, loaded, or put into eval.

    Args:
        files: of the trainer.
    """

    def __init__(self, files: tuple[File, ...]) -> None:
        self.own = places_in(files)
        self.places = [*self.own.functions, *(place for place in self.own.all if place.is_top)]
        self.called, self.frozen, self.loaded, self.eased = NOTHING, NOTHING, NOTHING, NOTHING
        self.moved = NOTHING  # beside the model, or saved with it
        self._names: dict[tuple[int, str], frozenset[str]] = {}
        for _ in range(ROUNDS):
            known = dict(self._names)
            for place in self.places:
                self._hand_on(place)
            if known == self._names:
                break
        for place in self.places:
            for node in place.nodes:
                if isinstance(node, ast.Call):
                    self._note_call(node, place)
                elif isinstance(node, ast.For):
                    self._note_loop(node, place)

    @cached_property
    def _returned(self) -> dict[str, frozenset[str]]:
        """What functions return that nothing but references is made by, by their names."""
        found: dict[str, frozenset[str]] = {}
        others = set()
        for place in self.places:
            nodes = place.nodes
            taken = [(dotted(target), value) for target, value in assignments_in(nodes)]
            taken += [(node.arg, node.value) for node in nodes if isinstance(node, ast.keyword) and node.arg]
            for name, value in taken:
                first, _ = chain_of(value)
                if isinstance(first, ast.Call):
                    last = called_name(first)
                    found[last] = found.get(last, NOTHING) | kinds_of(name)
                    others |= set() if kinds_of(name) else {last}
        return {name: kinds for name, kinds in found.items() if kinds and name not in others}

    def kinds_of_function(self, name: str) -> frozenset[str]:
        """What a function returns, by its own name or that of what takes it."""
        return kinds_of(name) | self._returned.get(name, NOTHING)

    def kinds(self, node: ast.expr, place: Place) -> frozenset[str]:
        """What kinds of reference an expression is."""
        node, _ = chain_of(node)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            return kinds_of(str(node.slice.value))
        if isinstance(node, ast.Call):
            return copy_key(node) or self.kinds_of_function(called_name(node))
        name = dotted(node)
        return kinds_of(name) | self._names.get((_scope(name, place), name), NOTHING) if name else NOTHING

    def _hand_on(self, place: Place) -> None:
        """Note under which names of this function, or of those that it calls, a reference stands."""
        for target, value in assignments_in(place.nodes):
            self._name(target, self.kinds(value, place), place)
        of_function = self.kinds_of_function(place.function.name)
        for node in place.nodes:
            if isinstance(node, ast.For | ast.comprehension) and isinstance(node.iter, ast.Tuple | ast.List):
                for each in node.iter.elts:
                    self._name(node.target, self.kinds(each, place), place)
            elif isinstance(node, ast.Return) and node.value is not None and of_function:
                self._name(chain_of(node.value)[0], of_function, place)
            elif isinstance(node, ast.Call) and any(self.kinds(each, place) for each in _given(node)):
                for called in meant(self.own, node, place):
                    for name, value in called.given(node).items():
                        self._name(ast.Name(name), self.kinds(value, place), called)

    def _name(self, target: ast.expr, kinds: frozenset[str], place: Place) -> None:
        if kinds and (name := dotted(target)):
            key = _scope(name, place), name
            self._names[key] = self._names.get(key, NOTHING) | kinds

    def _note_call(self, call: ast.Call, place: Place) -> None:
        """What a call does to a reference: it asks it, or puts it into eval mode, or freezes, loads or moves it."""
        name = dotted(call.func)
        given = NOTHING.union(*(self.kinds(each, place) for each in _given(call)))
        of = self.kinds(call.func.value, place) if isinstance(call.func, ast.Attribute) else NOTHING
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        itself = NOTHING if self._is_function(name) else self.kinds(call.func, place) if name else NOTHING
        asks = itself | (of if method not in WEIGHTS else NOTHING)
        self.called |= asks
        if puts_in_eval(call) and isinstance(call.func, ast.Attribute):
            self.eased |= of | self._looped(call.func.value, place)
        if method == "requires_grad_":
            self.frozen |= of
        if method == "load_state_dict":
            self.loaded |= of
        if given:
            self.loaded |= given if "load" in name else NOTHING
            self.frozen |= given if FREEZES.search(name) else NOTHING
            unknown = not meant(self.own, call, place) and MAY_PUT.search(ast.unparse(call.func))
            told = any(word.arg and "eval" in word.arg for word in call.keywords)
            self.moved |= given if MOVES.search(name) else NOTHING
            self.eased |= given if unknown or told or MOVES.search(name) else NOTHING
        if name == "zip":  # moved beside the model
            moved = (_of_weights(each) for each in _given(call) if isinstance(each, ast.Call))
            kinds = NOTHING.union(*(self.kinds(each, place) for each in moved if each is not None))
            self.eased, self.moved = self.eased | kinds, self.moved | kinds
        if method == "state_dict":
            self.moved |= of
        if (asks or given) - self.frozen and self._without_gradient(call, place):
            self.frozen |= asks | given

    def _note_loop(self, loop: ast.For, place: Place) -> None:
        """A loop over the parameters of a reference that freezes them."""
        freezes = any("requires_grad" in ast.unparse(statement) for statement in loop.body)
        if freezes and isinstance(loop.iter, ast.Call) and (weights := _of_weights(loop.iter)) is not None:
            self.frozen |= self.kinds(weights, place)

    def _looped(self, node: ast.expr, place: Place) -> frozenset[str]:
        """All kinds, where what is put into eval mode is each of many, or is looked up by its name."""
        loops = (each for each in place.nodes if isinstance(each, ast.For | ast.comprehension))
        targets = {dotted(part) for loop in loops for part in places_of(loop.target)}
        looked_up = isinstance(node, ast.Call) and dotted(node.func) == "getattr"
        return ALL if looked_up or (isinstance(node, ast.Name) and node.id in targets) else NOTHING

    def _is_function(self, name: str) -> bool:
        return name.rpartition(".")[2] in self._function_names

    @cached_property
    def _function_names(self) -> set[str]:
        return {place.function.name for place in self.own.functions}

    def _without_gradient(self, call: ast.Call, place: Place) -> bool:
        """Whether a call stands where no gradient is kept."""
        if any(NO_GRADIENT.search(ast.unparse(each)) for each in place.function.decorator_list):
            return True
        if not place.file.has("no_grad", "inference_mode", "set_grad_enabled"):
            return False
        around = (node for node in outwards(call, self._parents(place)) if isinstance(node, ast.With))
        return any(NO_GRADIENT.search(ast.unparse(item.context_expr)) for node in around for item in node.items)

    def _parents(self, place: Place) -> dict[int, ast.AST]:
        key = id(place.file)
        if key not in self._around:
            self._around[key] = parents_in(place.file.tree)
        return self._around[key]

    @cached_property
    def _around(self) -> dict[int, dict[int, ast.AST]]:
        return {}


def _scope(name: str, place: Place) -> int:
    return id(place.owner) if name.startswith("self.") and place.owner is not None else id(place.function)


def _given(call: ast.Call) -> Iterator[ast.expr]:
    yield from call.args
    yield from (word.value for word in call.keywords)


def _of_weights(call: ast.Call) -> ast.expr | None:
    """The module whose parameters a call gives."""
    of = call.func if isinstance(call.func, ast.Attribute) else None
    return of.value if of is not None and of.attr in ("parameters", "named_parameters") else None

"""A run over one file, and the frame of one function call in it."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gradgate.scan.modules import Class, Function, Module
from gradgate.scan.state import Hazard, Save, State, join_states, joined, reach
from gradgate.scan.values import LIKELY, MAYBE, NO, YES, Line, Node, Value, const, merge, tensors_in, unknown

BUDGET = 5_000  # expressions and statements that one root may cost; then calls are no longer entered
IDLE_BUDGET = 600  # the same, for as long as nothing was saved, written, cut or backpropagated
MOST_COST = 5 * BUDGET  # what a root may cost without any further call; then it is left
DEPTH = 7
Heap = dict[tuple[int, str], Value]
_LASTING = ("instance", "layer", "optim")


class OverBudgetError(Exception):
    """A root cost too much."""


@dataclass(frozen=True, slots=True)
class Report:
    """A fault as the flow sees it; the rules turn it into a Finding."""

    code: str
    kind: str
    culprit: Line
    victim: Line | None
    what: str  # which of the rule's messages
    words: tuple[tuple[str, str], ...] = ()  # what the message names
    sure: bool = True


@dataclass(eq=False)
class Run:
    """What all frames of one file share."""

    module: Module
    resolve: Callable[[Module, str], Function | Class | None]
    evaluate: Callable[[Frame, ast.expr], Value]
    execute: Callable[[Frame, list[ast.stmt]], None]
    invoke: Callable[..., Value]
    reports: dict[tuple[str, str, int], Report] = field(default_factory=dict)
    hazards: list[Hazard] = field(default_factory=list)
    escaped: list[Node] = field(default_factory=list)
    fields: dict[str, tuple[Value, Heap]] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)  # fields stored by a root that knew all its arguments
    is_complete: bool = False  # whether this root has no argument that is not known
    wanted: set[str] = field(default_factory=set)  # field names that were asked for and not known yet
    optimized: set[str] = field(default_factory=set)  # modules given to an optimizer
    globals: dict[tuple[int, str], Value] = field(default_factory=dict)
    lines: dict[tuple[str, int, int, str], Line] = field(default_factory=dict)
    undifferentiated: bool = (
        False  # the root calls an operation with out=, which raises where an input carries gradient
    )
    clobbered: Value | None = None  # the last tensor that an activation rewrote in place
    cost: int = 0
    limit: int = IDLE_BUDGET
    top: Frame | None = None  # the file's top level, while it runs
    shared: dict[str, Value] = field(default_factory=dict)  # what it left under names that nothing binds again
    heap: Heap = field(default_factory=dict)  # what hangs on these
    grad_on: bool = True  # whether it left gradient on
    entered: list[Function] = field(default_factory=list)

    def report(self, report: Report) -> None:
        """Keep a report; the first of one code at one line stands, a sure one before an unsure one."""
        place = (report.code, report.culprit.file, report.culprit.number)
        if place not in self.reports or (report.sure and not self.reports[place].sure):
            self.reports[place] = report

    def field(self, name: str, value: Value, state: State) -> None:
        """Remember what the file stores under an attribute's name, for readers that do not know their object."""
        worth = value.kind in (*_LASTING, "class", "function") or (value.kind == "tensor" and value.leaf)
        if worth and (name not in self.fields or (self.is_complete and name not in self.settled)):
            self.fields[name] = (value, state.copy().heap)
            if self.is_complete:
                self.settled.add(name)
            if not value.name:
                value.name = name

    def recall(self, name: str, state: State) -> Value | None:
        """What the file stores under a name, with what hangs on it."""
        found = self.fields.get(name)
        if found is None:
            self.wanted.add(name)
            return None
        value, heap = found
        for place, held in heap.items():
            if place not in state.heap:
                state.put(*place, held)
        return value

    def variable(self, name: str) -> Value | None:
        """A variable of the file's top level: as it is now, or as it was left."""
        return self.shared.get(name) if self.top is None else self.top.env.get(name)

    def share(self, frame: Frame) -> None:
        """The top level was run: models, optimizers and parameters that it made are known to the functions."""
        self.heap, self.grad_on = frame.state.heap, frame.state.grad_on
        for name, value in frame.env.items():
            if name not in self.module.rebound and (value.kind in _LASTING or (value.kind == "tensor" and value.leaf)):
                self.shared[name] = value

    def replace_layer(self, frame: Frame, base: Value, target: ast.Attribute) -> None:
        """A layer is put into a model whose parameters an optimizer already holds."""
        if base.name in self.optimized:
            frame.state.replaced = merge(frame.state.replaced, ((base.name, target.attr, frame.line(target)),))

    def optimize(self, frame: Frame, names: frozenset[str]) -> None:
        """An optimizer takes the parameters of modules as they are now."""
        self.optimized |= names
        frame.state.replaced = tuple(entry for entry in frame.state.replaced if entry[0] not in names)

    def reread(self, value: Value) -> None:
        """A tensor that an activation rewrote is read again under its old name."""
        line, op = value.facts["clobbered"]
        words = (("name", value.name or "a tensor"), ("op", op))
        self.report(Report("GG105", "other", line, None, "clobbered", words))

    def kept(self, frame: Frame, node: ast.AST, value: Value) -> None:
        """A value goes into a container: after its backward it keeps its graph there."""
        self._still_attached(frame, node, value, "kept")

    def accumulate(self, frame: Frame, node: ast.AST, value: Value) -> None:
        """`total += value`."""
        self._still_attached(frame, node, value, "summed")

    def _still_attached(self, frame: Frame, node: ast.AST, value: Value, what: str) -> None:
        if not frame.loops or value.kind not in ("tensor", "unknown"):
            return
        nodes = frame.state.nodes(value)
        freed = frame.state.freed
        if freed and any(part in gone for part in reach(nodes, through_opaque=False, limit=200) for gone, _ in freed):
            self.report(Report("GG210", "other", frame.line(node), None, what, (("name", value.name or "the loss"),)))

    def cut_at(self, frame: Frame, place: ast.AST, how: str, source: Value) -> None:
        """A cut that needs no further evidence."""
        if frame.state.grad_on and source.view != "detached" and not source.facts.get("detached"):
            self.report(Report("GG202", "graph_cut", frame.line(place), source.origin, how, ()))

    def check_cuts(self, value: Value, nodes: tuple[Node, ...]) -> None:
        """Report the cuts in a value that reaches a backward, or a caller, beside values that do carry gradient."""
        for cut in value.cut if nodes else ():
            kept = reach(nodes, excluded=cut.excluded)
            if not kept:
                continue  # on the path with the cut nothing carries gradient: a decision, such as a prediction
            names = {node.trained for node in reach(cut.lost) if node.trained} - {node.trained for node in kept}
            by_node = cut.how in ("tensor", "create_graph") and any(node not in kept for node in cut.lost)
            if names or by_node:
                victim = max(cut.lost, key=lambda node: node.serial).line if cut.lost else None
                words = (("module", ", ".join(sorted(names)[:3])),) if names else ()
                self.report(Report("GG202", "graph_cut", cut.line, victim, cut.how, words, sure=bool(names)))


@dataclass(eq=False)
class Frame:
    """One call of one function."""

    run: Run
    function: Function
    env: dict[str, Value]
    state: State
    myself: Value | None = None
    modules: tuple[str, ...] = ()
    depth: int = 0
    loops: int = 0
    returns: list[tuple[Value, State]] = field(default_factory=list)
    exits: list[tuple[State, dict[str, Value]]] = field(default_factory=list)
    yields: list[Value] = field(default_factory=list)
    outer: dict[str, Value] | None = None
    given: dict[int, str] = field(default_factory=dict)  # memory of a custom function's arguments
    last_turn: bool | None = None  # whether the innermost loop is in the last turn that is looked at
    asked_for_last: bool = False  # whether something in that loop depends on it
    quiet: bool = False  # inside a context that keeps version counters still

    def evaluate(self, node: ast.expr) -> Value:
        """An expression's value."""
        return self.run.evaluate(self, node)

    def isolated(self, module: Module) -> Frame:
        """A frame in which only the module's own names are known."""
        return Frame(self.run, module.body, {}, self.state, depth=self.depth)

    def line(self, node: Any) -> Line:
        """Where a piece of this function stands."""
        path, name = self.function.module.path, self.function.name
        key = (path, node.lineno, node.col_offset, name)
        found = self.run.lines.get(key)
        if found is None:
            found = self.run.lines[key] = Line(*key)
        return found

    def node(self, op: str, place: ast.AST, parents: tuple[Node, ...], trained: str = "") -> Node:
        """A new grad node at a place."""
        modules = (*self.modules, trained) if trained else self.modules
        return Node(op, self.line(place), parents, modules, trained)

    def nodes_of(self, value: Value) -> tuple[Node, ...]:
        """The grad functions of a value, or of all tensors that it holds."""
        if not value.items:
            return self.state.nodes(value)
        found = self.state.nodes(value)
        for part in tensors_in(value):
            found = merge(found, self.state.nodes(part))
        return found

    def grad_of(self, value: Value) -> int:
        """How sure it is that a value, or a tensor that it holds, carries gradient."""
        best = self.state.grad(value)
        for part in tensors_in(value) if value.items else ():
            best = max(best, self.state.grad(part))
        return best

    def leave(self, place: ast.AST, value: Value) -> None:
        """Return from the function: the path ends here."""
        if value.nodes and self.depth:
            line = self.line(place)
            for node in value.nodes:
                if node.handed is None:
                    node.handed = line
        self.returns.append((value, self.state.copy()))
        self.state.dead = True

    def run_body(self) -> Value:
        """Run the function; afterwards the state is what holds behind all its returns."""
        node = self.function.node
        if isinstance(node, ast.Lambda):
            return self.evaluate(node.body)
        self.run.execute(self, node.body)
        if not self.returns:
            return Value("seq", items=self.yields[:8]) if self.yields else const(None)
        states = [state for _, state in self.returns]
        if not self.state.dead:
            states.append(self.state)
        self.state, _ = join_states(states, [{} for _ in states])
        result, first = self.returns[0]
        for value, state in self.returns[1:]:
            result = joined(result, first, value, state)
        return result

    def keep(self, value: Value, node: Node, what: str, grad: int, *, unchecked: bool = False) -> None:
        """Note that a node keeps a value for backward."""
        node.keeps = True
        self.run.limit = BUDGET
        for store in value.stores:
            self.state.save(store, Save(node, what, grad, unchecked))

    def escape(self, value: Value, depth: int = 3) -> None:
        """A value leaves what can be seen: somebody may run backward through it."""
        self.run.escaped.extend(self.state.nodes(value))
        if value.items and depth:
            for item in value.items:
                self.escape(item, depth - 1)

    def write(self, target: Value, place: ast.AST, how: str, op: str, given: Value | None = None) -> Node | None:
        """A value's memory is written; the write's own node, where autograd records one."""
        state, line = self.state, self.line(place)
        self.run.limit = BUDGET
        how = "data" if target.silent and how == "inplace" else how
        if self.given and how == "inplace" and "mark_dirty" not in self.function.calls:
            for name in {self.given[store] for store in target.stores if store in self.given}:
                words = (("name", name), ("op", op))
                self.run.report(Report("GG107", "custom_function", line, None, "dirty", words))
        if how == "array":
            self._foreign_write(target, line, op)
        for store in target.stores:
            for save in state.saves.get(store, ()):
                if save in target.ignored:
                    continue
                self.run.hazards.append(Hazard(save, line, how, op, target.name, self._is_scratch(place)))
        if how in ("data", "array", "quiet") or not state.grad_on or target.view == "detached":
            return None
        grad = max(state.grad(target), state.grad(given) if given is not None else NO)
        if grad < MAYBE:
            return None
        parents = state.nodes(target)
        if given is not None:
            parents = merge(parents, state.nodes(given))
        node = self.node(op, place, parents)
        for store in target.stores:
            state.record(store, (node,), grad)
        return node

    def _is_scratch(self, place: ast.AST) -> bool:
        """Whether a write goes to `self.name` of an object that is no module."""
        target = getattr(place, "target", place)
        while isinstance(target, ast.Subscript | ast.Call):
            target = target.value if isinstance(target, ast.Subscript) else getattr(target.func, "value", None)
        owner = self.function.owner
        if owner is None or owner.is_layer or owner.is_function or not isinstance(target, ast.Attribute):
            return False
        return isinstance(target.value, ast.Name) and target.value.id == self.function.parameters[:1][0]

    def _foreign_write(self, target: Value, line: Line, op: str) -> None:
        """An array is written that is a tensor's memory, where no save of it can be seen: in a hook, or by a kernel."""
        source = target.facts.get("array_of")
        if source is None or self.run.entered[1:]:
            return
        function, module = self.function, self.function.module
        given = function.parameters[1:] if self.myself is not None and not function.static else function.parameters
        if (
            source[1] == "detach"
            and len(given) == 3
            and source[0] == given[2]
            and "register_forward_hook" in module.attributes
        ):
            self.run.report(Report("GG104", "silent_alias_write", line, None, "hook", (("op", op),)))
        elif (
            source[1] == "direct" and source[0] in given and any(owner.is_function for owner in module.classes.values())
        ):
            self.run.report(Report("GG104", "silent_alias_write", line, None, "direct", (("name", source[0]),)))

    def leaf_write(self, target: Value, place: ast.AST, op: str) -> None:
        """A write that autograd forbids: to a leaf, to one of several views, to a view made without grad."""
        if not self.state.grad_on or target.view == "detached" or target.silent:
            return
        grad, line = self.state.grad(target), self.line(place)
        words = (("name", target.name or "the tensor"), ("op", op))
        if target.leaf and target.grad == YES:
            self.run.report(Report("GG105", "inplace_leaf", line, None, "leaf", words))
        elif target.view == "many" and grad >= LIKELY:
            self.run.report(
                Report("GG105", "inplace_view", line, target.nodes[0].line if target.nodes else None, "many", words)
            )
        elif target.view == "no_grad" and grad >= LIKELY:
            self.run.report(Report("GG105", "inplace_view", line, None, "no_grad", words))
        elif target.view == "expand":
            self.run.report(Report("GG105", "inplace_view", line, None, "expand", words, sure=False))

    def keep_on_ctx(self, place: ast.Attribute, value: Value) -> None:
        """`ctx.name = tensor` in a custom function's forward."""
        if value.is_tensor and value.view != "detached" and not value.dtype and value.stores & set(self.given):
            name = next((self.given[store] for store in value.stores if store in self.given), value.name)
            words = (("name", name), ("attribute", place.attr))
            self.run.report(Report("GG107", "custom_function", self.line(place), None, "kept", words))

    def clobber(self, source: Value, place: ast.AST, op: str) -> None:
        """An activation in place rewrites a tensor that somebody else may still read."""
        source.facts = {**source.facts, "clobbered": (self.line(place), op)}
        self.run.clobbered = source

    def persist(self, target: Value, place: ast.AST, given: Value | None) -> None:
        """A buffer of an object is overwritten with a value that has a graph."""
        name = target.facts.get("persistent")
        attached = self.state.grad_on and given is not None and self.state.grad(given) == YES
        if name and attached and not target.leaf and target.view != "detached" and self.function.name != "__init__":
            self.run.report(Report("GG209", "freed_graph", self.line(place), None, "buffer", (("name", name),)))


__all__ = ["Frame", "Heap", "OverBudgetError", "Report", "Run", "unknown"]

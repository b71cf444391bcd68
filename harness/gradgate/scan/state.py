"""What is true at one point of a function: who is saved, what was written, whether gradient is on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gradgate.scan.values import Line, Node, Value, fresh, join, merge


@dataclass(frozen=True, slots=True)
class Save:
    """A node keeps a tensor for backward."""

    node: Node
    what: str  # "its result", "its input", "its weight"
    grad: int  # how sure it is that gradient flows through the node
    unchecked: bool = False  # kept on ctx by a custom function: no version check will speak up


@dataclass(frozen=True, slots=True)
class Hazard:
    """A write to a saved tensor; a finding as soon as the node is seen to be used."""

    save: Save
    line: Line
    how: str  # inplace, data, array, out
    op: str
    name: str
    scratch: bool = False  # the tensor hangs on an object that is no module: a solver's state, a cache


@dataclass(frozen=True, slots=True)
class Step:
    """Parameters change: an optimizer steps, or code writes them."""

    line: Line
    names: frozenset[str]  # the modules whose parameters they are; empty: any
    how: str  # step, data, inplace
    serial: int


class State:
    """One path's state; copied at branches, joined behind them.

    A copy shares its tables until one side writes: most branches touch none, and are then joined for nothing.
    """

    __slots__ = ("_own", "dead", "freed", "grad_on", "grads", "graph", "heap", "replaced", "saves", "steps")

    def __init__(self, heap: dict[tuple[int, str], Value] | None = None) -> None:
        self._own = _TABLES - {"heap"}
        self.saves: dict[int, tuple[Save, ...]] = {}
        self.graph: dict[int, tuple[Node, ...]] = {}
        self.grads: dict[int, int] = {}
        self.heap: dict[tuple[int, str], Value] = {} if heap is None else heap
        self.steps: tuple[Step, ...] = ()
        self.freed: tuple[tuple[frozenset[Node], Line], ...] = ()
        self.replaced: tuple[tuple[str, str, Line], ...] = ()  # (model, its layer, where) behind its optimizer's back
        self.grad_on = True
        self.dead = False

    def copy(self) -> State:
        """A twin for one branch."""
        twin = State.__new__(State)
        twin.saves, twin.graph, twin.grads, twin.heap = self.saves, self.graph, self.grads, self.heap
        self._own = twin._own = frozenset()
        twin.steps, twin.freed, twin.replaced = self.steps, self.freed, self.replaced
        twin.grad_on, twin.dead = self.grad_on, self.dead
        return twin

    def table(self, name: str) -> dict[Any, Any]:
        """One of the tables, to be written: a copy of its own where it was shared."""
        if name not in self._own:
            setattr(self, name, dict(getattr(self, name)))
            self._own |= {name}
        found: dict[Any, Any] = getattr(self, name)
        return found

    def save(self, store: int, save: Save) -> None:
        """Note that a node keeps this memory."""
        kept = self.saves.get(store, ())
        if len(kept) < 12:
            self.table("saves")[store] = (*kept, save)

    def put(self, owner: int, attribute: str, value: Value) -> None:
        """An attribute of an object gets a value."""
        self.table("heap")[(owner, attribute)] = value

    def record(self, store: int, nodes: tuple[Node, ...], grad: int | None = None) -> None:
        """A memory is written by an operation that autograd records."""
        self.table("graph")[store] = nodes
        if grad is not None:
            self.table("grads")[store] = grad

    def nodes(self, value: Value) -> tuple[Node, ...]:
        """A value's grad functions, those of writes to its memory included."""
        found = value.nodes
        if value.view == "detached":
            return found
        for store in value.stores:
            later = self.graph.get(store)
            if later:
                found = merge(found, later)
        return found

    def grad(self, value: Value) -> int:
        """How sure it is that a value carries gradient."""
        best = value.grad
        if value.view == "detached":
            return best
        for store in value.stores:
            best = max(best, self.grads.get(store, 0))
        return best


def join_states(states: list[State], envs: list[dict[str, Value]]) -> tuple[State, dict[str, Value]]:
    """The state behind several paths; those that ended elsewhere do not count, unless all did."""
    alive = [(state, env) for state, env in zip(states, envs, strict=True) if not state.dead]
    if not alive:
        return states[0], envs[0]
    state, env = alive[0]
    if len(alive) == 1:
        return state, env
    state, env = state.copy(), dict(env)
    for other, other_env in alive[1:]:
        for name, value in other_env.items():
            mine = env.get(name)
            if mine is not value:
                env[name] = value if mine is None else joined(mine, state, value, other)
        _absorb(state, other)
    return state, env


def joined(left: Value, here: State, right: Value, there: State) -> Value:
    """What holds of a value that is one of two, by path.

    Where it is a tensor of its own on each path, what one path alone saved of the other's tensor is out of its reach.
    """
    both = join(left, right)
    if both is left or both is right or not (left.stores and right.stores):
        return both
    foreign: list[Save] = []
    for mine, state, theirs, other in ((left, here, right, there), (right, there, left, here)):
        for store in mine.stores - theirs.stores:
            kept = state.saves.get(store, ())
            foreign += [save for save in other.saves.get(store, ()) if save not in kept]
    if foreign:
        both.ignored = both.ignored | frozenset(foreign)
    return both


_TABLES = frozenset({"saves", "graph", "grads", "heap"})
_JOINS: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
    ("saves", merge),
    ("graph", merge),
    ("grads", max),
    ("heap", join),
)


def _absorb(state: State, other: State) -> None:
    for name, both in _JOINS:
        theirs = getattr(other, name)
        if getattr(state, name) is theirs:
            continue
        mine = state.table(name)
        for key, found in theirs.items():
            have = mine.get(key)
            if have is not found:
                mine[key] = found if have is None else both(have, found)
    if state.steps is not other.steps:
        state.steps = merge(state.steps, other.steps)
    if state.freed is not other.freed:
        state.freed = merge(state.freed, other.freed)
    if state.replaced is not other.replaced:
        state.replaced = merge(state.replaced, other.replaced)
    state.grad_on = state.grad_on or other.grad_on


def reach(
    nodes: tuple[Node, ...], through_opaque: bool = True, limit: int = 4000, excluded: tuple[Node, ...] = ()
) -> set[Node]:
    """All nodes that backward from these would visit.

    Args:
        nodes: where to begin.
        through_opaque: whether to go on behind functions that the scanner cannot see into (they may detach).
        limit: nodes after which to stop.
        excluded: nodes that are not entered.
    """
    seen: set[Node] = set()
    queue: list[Any] = list(nodes)
    while queue and len(seen) < limit:
        node = queue.pop()
        if node in seen or node in excluded or (not through_opaque and node.op == "opaque"):
            continue
        seen.add(node)
        queue.extend(node.parents)
    return seen


def step_of(line: Line, names: frozenset[str], how: str) -> Step:
    """A change of parameters, now."""
    return Step(line, names, how, fresh())

"""What is true at one point of a function: who is saved, what was written, whether gradient is on."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Step:
    """Parameters change: an optimizer steps, or code writes them."""

    line: Line
    names: frozenset[str]  # the modules whose parameters they are; empty: any
    how: str  # step, data, inplace
    serial: int


class State:
    """One path's state; copied at branches, joined behind them."""

    __slots__ = ("dead", "freed", "grad_on", "grads", "graph", "heap", "saves", "steps")

    def __init__(self) -> None:
        self.saves: dict[int, tuple[Save, ...]] = {}
        self.graph: dict[int, tuple[Node, ...]] = {}
        self.grads: dict[int, int] = {}
        self.heap: dict[tuple[int, str], Value] = {}
        self.steps: tuple[Step, ...] = ()
        self.freed: tuple[tuple[frozenset[Node], Line], ...] = ()
        self.grad_on = True
        self.dead = False

    def copy(self) -> State:
        """A twin for one branch."""
        twin = State()
        twin.saves, twin.graph, twin.grads, twin.heap = (
            dict(self.saves),
            dict(self.graph),
            dict(self.grads),
            dict(self.heap),
        )
        twin.steps, twin.freed, twin.grad_on, twin.dead = self.steps, self.freed, self.grad_on, self.dead
        return twin

    def save(self, store: int, save: Save) -> None:
        """Note that a node keeps this memory."""
        kept = self.saves.get(store, ())
        if len(kept) < 12:
            self.saves[store] = (*kept, save)

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


def _absorb(state: State, other: State) -> None:
    for mine, theirs in ((state.saves, other.saves), (state.graph, other.graph)):
        for store, found in theirs.items():
            have = mine.get(store)
            if have is not found:
                mine[store] = found if have is None else merge(have, found)  # type: ignore[assignment]
    for store, grad in other.grads.items():
        state.grads[store] = max(grad, state.grads.get(store, 0))
    for place, value in other.heap.items():
        mine_value = state.heap.get(place)
        if mine_value is not value:
            state.heap[place] = value if mine_value is None else join(mine_value, value)
    if state.steps is not other.steps:
        state.steps = merge(state.steps, other.steps)
    if state.freed is not other.freed:
        state.freed = merge(state.freed, other.freed)
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

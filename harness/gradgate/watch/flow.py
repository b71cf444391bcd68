"""Value flow without gradient flow: where values left the graph, and where they came back into it."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradgate.core.finding import Finding
from gradgate.watch.catalogue import make
from gradgate.watch.ops import Facts, tensors
from gradgate.watch.places import Place
from gradgate.watch.saved import _storage_of, storage_key

_MOST_CUTS = 8  # kept for one tensor; more tell nothing new
_MOST_NODES = 64
BY_ACCIDENT = frozenset({"autograd.grad", "torch.tensor"})
WRITTEN_ON_PURPOSE = frozenset({"detach", "no_grad"})


@dataclass(slots=True, eq=False)
class Cut:
    """A line at which a value lost its history.

    Args:
        place: the line.
        reason: detach, no_grad, not differentiable, zero slope, number, numpy, torch.tensor, autograd.grad, function.
        op: the operation.
        victim: the line that made the value.
        first: the number of the operation at which it was first seen.
        last: likewise, last.
        joined: whether what came of it met the graph again.
        nodes: the sequence numbers of the nodes at which it did.
        reached: whether one of them is in the graph of a loss.
    """

    place: Place | None
    reason: str
    op: str
    victim: Place | None
    first: int
    last: int
    joined: bool = False
    nodes: list[int] = field(default_factory=list)
    reached: bool = False


@dataclass(slots=True)
class _Taint:
    storage: StorageWeakRef
    cuts: tuple[Cut, ...]
    place: Place | None
    leaf: weakref.ref[Tensor] | None  # shares the storage, but has not lost its history


class Flow:
    """Follows values that came from parameters and carry no gradient any more."""

    def __init__(self) -> None:
        self._taints: dict[int, _Taint] = {}
        self._cuts: dict[tuple[Place | None, str], Cut] = {}
        self._limit = 512
        self.active = False

    @property
    def cuts(self) -> list[Cut]:
        """All cuts seen, in the order of their first operation."""
        return list(self._cuts.values())

    def of(self, tensor: Tensor) -> tuple[Cut, ...]:
        """The cuts that a tensor's value went through."""
        taint = self._taints.get(storage_key(tensor))
        if taint is None or (taint.leaf is not None and taint.leaf() is tensor):
            return ()
        return taint.cuts

    def place_of(self, tensor: Tensor) -> Place | None:
        """The line that made a tensor without history."""
        taint = self._taints.get(storage_key(tensor))
        return taint.place if taint else None

    def among(self, args: Sequence[Any]) -> tuple[Cut, ...]:
        """The cuts behind arguments that carry no gradient, or are leaves made from such."""
        found: dict[Cut, None] = {}
        for tensor in tensors(args):
            if not tensor.requires_grad or tensor.is_leaf:
                found.update(dict.fromkeys(self.of(tensor)))
        return tuple(found)[:_MOST_CUTS]

    def cut(self, place: Place | None, reason: str, op: str, victim: Place | None, index: int) -> Cut:
        """Note a cut; the same line and reason are one."""
        key = (place, reason)
        cut = self._cuts.get(key)
        if cut is None:
            cut = self._cuts[key] = Cut(place, reason, op, victim, index, index)
        else:
            cut.last, cut.victim = index, cut.victim or victim
        return cut

    def taint(
        self, out: Any, cuts: tuple[Cut, ...], place: Place | None, leaf: Tensor | None = None, *, new: bool = False
    ) -> None:
        """Results that went through cuts; new ones may require grad from the start."""
        for tensor in tensors(out):
            if tensor.is_leaf and tensor.requires_grad and not new:
                continue  # written in place under no_grad: a parameter stays a parameter
            try:
                storage = _storage_of(tensor)
            except (NotImplementedError, RuntimeError):
                continue
            kept = weakref.ref(leaf) if leaf is not None else None
            self._taints[storage._cdata] = _Taint(StorageWeakRef(storage), cuts, place, kept)
            self.active = True
        if len(self._taints) > self._limit:
            self._taints = {key: taint for key, taint in self._taints.items() if not taint.storage.expired()}
            self._limit = max(512, 2 * len(self._taints))

    def join(self, cuts: tuple[Cut, ...], node: int) -> None:
        """Values without history met the graph, at a node; -1: at the loss itself."""
        for cut in cuts:
            cut.joined = True
            if len(cut.nodes) < _MOST_NODES:
                cut.nodes.append(node)

    def reach(self, root: Tensor) -> None:
        """A backward starts: which cuts made by accident are in its graph?"""
        open_ = [cut for cut in self._cuts.values() if cut.reason in BY_ACCIDENT and cut.nodes and not cut.reached]
        if not open_:
            return
        seen = {-1, *sequence_numbers(root.grad_fn)}
        for cut in open_:
            cut.reached = not seen.isdisjoint(cut.nodes)
            cut.nodes.clear()

    def numbers(self, reason: str) -> tuple[Cut, ...]:
        """Cuts whose values are in Python or numpy now, and may come back with any new tensor."""
        return tuple(cut for cut in self._cuts.values() if cut.reason == reason)[-_MOST_CUTS:]


def sequence_numbers(node: Any) -> set[int]:
    """The numbers of all nodes of a graph."""
    waiting, seen = [node], {node}
    while waiting:
        node = waiting.pop()
        for following, _ in node.next_functions if node is not None else ():
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return {node._sequence_nr() for node in seen if node is not None}


def loses_gradient(facts: Facts, out: Any) -> str:
    """Why the results of an operation on tensors with gradient carry none; empty where they do."""
    if facts.detach:
        return "detach"
    if facts.reads_number:
        return "number"
    if isinstance(out, Tensor) and not (out.is_floating_point() or out.is_complex()) and not facts.writes:
        return "not differentiable"
    return ""


def indices_in(out: Any) -> list[Tensor]:
    """The integer tensors among several results: `topk`, `max` and `sort` return where they found their values."""
    several = out if isinstance(out, tuple | list) else ()
    return [
        part for part in several if isinstance(part, Tensor) and not (part.is_floating_point() or part.is_complex())
    ]


def cut_finding(cut: Cut, message: str, victim: Place | None, severity: Any = "error") -> Finding:
    """The finding for a cut."""
    return make(
        "graph_cut",
        f"{message}: the value passes {cut.op} ({cut.reason}), which lets no gradient back",
        culprit=cut.place,
        victim=cut.victim or victim,
        severity=severity,
        op=cut.op,
    )

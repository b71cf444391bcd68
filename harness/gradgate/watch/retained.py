"""Graphs that outlive their step: who keeps them, how many of them, and the line that put them there."""

from __future__ import annotations

import functools
import gc
import operator
import sys
import types
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradgate.core.finding import Finding
from gradgate.watch import sources
from gradgate.watch.catalogue import described, make
from gradgate.watch.places import USER, Place, kind_of

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder

_sequence = torch._C._autograd._get_sequence_nr
_descriptor: Any = torch._C.TensorBase.grad_fn
_grad_fn: Callable[[Tensor], Any] = _descriptor.__get__
_OLDER = 2  # rounds that one holder must keep, beside the last two, before it counts as growing
_MOST_NODES = 50_000
_MOST_TENSORS = 8  # of one holder or another, whose holders are looked for
_MOST_REFERRERS = 64
_DEPTH = 4  # containers between a tensor and what has a name
_PLAIN_CONTAINERS = (list, tuple, set, deque)
_LEFT_OUT = (types.ModuleType, type)


class _Tally:
    """Rounds of a loop: one ends when a thing that was met in it is met again."""

    def __init__(self) -> None:
        self.ends: list[int] = []  # sequence numbers of the first node behind each
        self._met: set[Hashable] = set()
        self._end = 0

    def meet(self, thing: Hashable) -> None:
        if thing in self._met:
            self.ends.append(self._end)
            self._met.clear()
        self._met.add(thing)
        self._end = _sequence()


class Rounds:
    """The steps of a training loop, told by what comes again: an optimizer, or else the line of a backward."""

    def __init__(self) -> None:
        self.began = _sequence()
        self.backwards = 0
        self._by_optimizer, self._by_line = _Tally(), _Tally()

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer has stepped."""
        self._by_optimizer.meet(id(optimizer))

    def ran(self, place: Place | None) -> None:
        """A backward has run at a line."""
        self.backwards += 1
        self._by_line.meet(place)

    @property
    def ends(self) -> list[int]:
        """Sequence numbers of the first nodes behind each round but the last."""
        return self._by_optimizer.ends or self._by_line.ends


@dataclass(frozen=True, slots=True)
class _Holder:
    """What keeps a tensor.

    Args:
        label: as a reader knows it: `Trainer.losses`, `total` in train().
        name: the attribute or variable.
        container: list, dict and so on, where the tensor is in one.
        file: where its owner's source is, as far as that is known.
    """

    label: str
    name: str
    container: str
    file: str


def look(recorder: Recorder) -> list[Finding]:
    """Holders of graphs of at least two steps before the last two.

    A loss that is still in a variable, or in a dictionary of metrics, when the step is over is normal; what survives
    the next step, and more of it with each step, is not.
    """
    ends = recorder.rounds.ends
    last = len(ends)
    if last <= _OLDER:
        return []
    older = (1 << (last - 1)) - 1
    if not any(mask & older for _, mask in _survivors(recorder)):
        return []
    gc.collect()  # what only a cycle keeps is not kept
    kept = [(tensor, mask) for tensor, mask in _survivors(recorder) if mask & older]
    ours = {id(kept), *(id(pair) for pair in kept)}
    held: dict[_Holder, list[tuple[Tensor, int]]] = {}
    for number, holder in sorted(_holders([tensor for tensor, _ in kept[:_MOST_TENSORS]], ours).items()):
        held.setdefault(holder, []).append(kept[number])
    found = []
    for holder, group in held.items():
        steps = functools.reduce(operator.or_, (mask & older for _, mask in group)).bit_count()
        if steps >= _OLDER:
            found.append(_finding(recorder, holder, [tensor for tensor, _ in group], steps))
    return found


def _survivors(recorder: Recorder) -> list[tuple[Tensor, int]]:
    """Tensors of the block that have a history, each with the rounds whose nodes it keeps, as bits."""
    ends, began = recorder.rounds.ends, recorder.rounds.began
    known: dict[Any, int] = {}
    found = []
    for tensor in [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor)]:
        try:
            node = _grad_fn(tensor)
        except RuntimeError:  # a view that was written where autograd forbids it
            continue
        if node is not None:
            found.append((tensor, _rounds_behind(node, ends, began, known)))
    return found


def _rounds_behind(root: Any, ends: list[int], began: int, known: dict[Any, int]) -> int:
    """The rounds of a node and of all nodes behind it, as bits; `known` is filled with what is found on the way."""
    waiting = [(root, False)]
    while waiting:
        node, is_done = waiting.pop()
        following = [behind for behind, _ in node.next_functions if behind is not None]
        if is_done:
            for behind in following:
                known[node] |= known.get(behind, 0)
        elif node not in known and len(known) < _MOST_NODES:
            known[node] = _bit(node._sequence_nr(), ends, began)
            waiting.append((node, True))
            waiting.extend((behind, False) for behind in following)
    return known.get(root, 0)


def _bit(seq: int, ends: list[int], began: int) -> int:
    # Nodes that accumulate into leaves have the largest number there is, and belong to no round.
    return 1 << bisect_right(ends, seq) if began <= seq < _sequence() else 0


def holder_label(tensors: Sequence[Tensor]) -> str:
    """What keeps the first of these tensors that anything with a name keeps; empty where nothing does."""
    some = list(tensors[:_MOST_TENSORS])
    found = _holders(some, {id(tensors), id(some)})
    return found[min(found)].label if found else ""


# --- holders ----------------------------------------------------------------------------------------------------------


def _holders(tensors: list[Tensor], ours: set[int]) -> dict[int, _Holder]:
    """The nearest thing with a name that keeps each tensor: a variable, an attribute, a closure.

    Each look for referrers walks the whole heap, so all tensors climb together.

    Args:
        tensors: what is kept.
        ours: identities of containers that this module made.

    Returns:
        Index of a tensor to its holder; those without any are left out.
    """
    found: dict[int, _Holder] = {}
    things: list[Any] = list(tensors)
    behind = {id(tensor): {number} for number, tensor in enumerate(tensors)}
    seen = ours | behind.keys() | {id(tensors), id(things)}
    for _ in range(_DEPTH):
        for thing in things:
            holder = _in_frames(thing)
            found |= dict.fromkeys(behind[id(thing)] - found.keys(), holder) if holder else {}
        above: list[Any] = []
        seen |= {id(above)}
        for referrer in gc.get_referrers(*things):
            if id(referrer) in seen:
                continue
            held = [thing for thing in gc.get_referents(referrer) if id(thing) in behind]
            for thing in held:
                holder = _named(referrer, thing)
                found |= dict.fromkeys(behind[id(thing)] - found.keys(), holder) if holder else {}
            if isinstance(referrer, (*_PLAIN_CONTAINERS, dict)) and len(above) < _MOST_REFERRERS:
                seen.add(id(referrer))
                above.append(referrer)
                behind[id(referrer)] = set().union(*(behind[id(thing)] for thing in held))
        things = [thing for thing in above if not behind[id(thing)] <= found.keys()]
        seen.add(id(things))
        if not things:
            break
    return found


def _container(thing: Any) -> str:
    return "" if isinstance(thing, Tensor) else type(thing).__name__


def _in_frames(thing: Any) -> _Holder | None:
    """A variable of a function that runs now."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if kind_of(frame.f_code) == USER:
            for name, value in frame.f_locals.items():
                if value is thing:
                    label = f"`{name}` in {frame.f_code.co_name}()"
                    return _Holder(label, name, _container(thing), frame.f_code.co_filename)
        frame = frame.f_back
    return None


def _named(referrer: Any, thing: Any) -> _Holder | None:
    """A referrer that says by what name it keeps a thing; None where it does not."""
    container = _container(thing)
    if isinstance(referrer, types.GeneratorType) and referrer.gi_frame is not None:
        name, label = _key_of(referrer.gi_frame.f_locals, thing), f"the generator {referrer.__name__}()"
        file = referrer.gi_code.co_filename
        return _Holder(f"`{name}` in {label}", name, container, file) if name else None
    if isinstance(referrer, types.CellType):
        return _in_closure(referrer, container)
    if type(referrer) is dict:
        return _in_namespace(referrer, thing, container)
    if isinstance(referrer, (*_PLAIN_CONTAINERS, *_LEFT_OUT, types.FrameType, Tensor)):
        return None
    name = _key_of(getattr(referrer, "__dict__", {}), thing)
    return _attribute(referrer, name, container) if name else None


def _attribute(owner: Any, name: str, container: str) -> _Holder:
    file = getattr(sys.modules.get(type(owner).__module__), "__file__", None) or ""
    return _Holder(f"`{type(owner).__name__}.{name}`", name, container, file)


def _in_closure(cell: types.CellType, container: str) -> _Holder | None:
    for function in gc.get_referrers(cell):
        for owner in gc.get_referrers(function) if isinstance(function, tuple) else ():
            closure = getattr(owner, "__closure__", None)
            if isinstance(owner, types.FunctionType) and closure is function:
                names = owner.__code__.co_freevars
                name = next(name for name, own in zip(names, closure, strict=True) if own is cell)
                label = f"`{name}` in the closure of {owner.__name__}()"
                return _Holder(label, name, container, owner.__code__.co_filename)
    return None


def _in_namespace(namespace: dict[Any, Any], thing: Any, container: str) -> _Holder | None:
    """An attribute of an instance, or a global of a module."""
    name = _key_of(namespace, thing)
    if not name:
        return None
    if "__name__" in namespace and "__builtins__" in namespace:
        return _Holder(f"the global `{name}`", name, container, namespace.get("__file__") or "")
    owners = gc.get_referrers(namespace)[:_MOST_REFERRERS]
    owner = next((owner for owner in owners if getattr(owner, "__dict__", None) is namespace), None)
    return None if owner is None else _attribute(owner, name, container)


def _key_of(namespace: Mapping[Any, Any], thing: Any) -> str:
    return next((key for key, value in namespace.items() if value is thing and isinstance(key, str)), "")


# --- the finding ------------------------------------------------------------------------------------------------------


def _finding(recorder: Recorder, holder: _Holder, tensors: list[Tensor], steps: int) -> Finding:
    oldest = min(tensors, key=lambda tensor: _grad_fn(tensor)._sequence_nr())
    maker = recorder.maker_of(oldest)
    kept = f"a {holder.container}, " if holder.container else ""
    finding = make(
        "other",
        f"{holder.label} ({kept}{len(tensors)} tensor(s) with a history) keeps the graphs of {steps} steps alive "
        "that were over before the last two",
        victim=maker,
        severity="warning",
        code="GG210",
        name="graph-retained",
        tensor=described(oldest),
        why="memory grows with every step: each graph holds its nodes, and what no backward has freed",
        fix="keep numbers, not tensors with a history: `loss.item()`, or `loss.detach()`",
        detail={"holder": holder.label, "steps": steps},
    )
    putting = sources.puts(_files(holder, maker), holder.name)
    itself = next((place for place in putting if finding.victim and place.line == finding.victim.line), None)
    return replace(finding, culprit=itself or next(iter(putting), finding.victim))


def _files(holder: _Holder, maker: Place | None) -> Iterable[str]:
    """Where the line may be that puts a tensor into its holder: its owner's file, the tensor's, and the stack's."""
    files = [holder.file] if holder.file else []
    files += [maker[0].co_filename] if maker else []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if kind_of(frame.f_code) == USER:
            files.append(frame.f_code.co_filename)
        frame = frame.f_back
    return dict.fromkeys(files)

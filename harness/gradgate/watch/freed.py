"""A backward through a graph that an earlier one freed: which tensor carried the old graph over, and who holds it."""

from __future__ import annotations

import gc
import sys
import types
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from gradgate.core.finding import Finding, Location
from gradgate.watch import sources
from gradgate.watch.catalogue import described, make
from gradgate.watch.holders import holders
from gradgate.watch.places import USER, Place, kind_of, location

_MOST_NODES = 100_000


def explain(roots: Iterable[Any], boundary: int, lines: Mapping[int, Place | None], again: Place | None) -> Finding:
    """The finding for a second backward.

    Args:
        roots: what the backward started from.
        boundary: the sequence number at the last backward that freed a graph; older nodes are that graph's.
        lines: sequence number to line.
        again: the line of the second backward.

    Returns:
        Culprit: the line that lets the old graph live on, or the second backward. Victim: the oldest line whose saved
        tensors are gone.
    """
    bridges, freed = _walk(roots, boundary)
    victim = next((lines[seq] for seq in sorted(freed) if lines.get(seq)), None)
    held, carrier = None, None
    for node, _ in bridges:
        for carrier in _tensors_of(node):
            held = _held_at(carrier, lines.get(node._sequence_nr()))
            if held:
                break
        if held:
            break
    readers = [lines.get(reader._sequence_nr()) for _, reader in bridges]
    held = held or next((place for reader in readers if reader and (place := sources.carried(reader))), None)
    held = held or (_carried_by_loop() if bridges else None)
    culprit = held or location(again)
    what = f"the graph behind `{held.source}` was freed by an earlier backward" if held else "the graph is freed"
    made = make(
        "freed_graph",
        f"backward runs a second time through a freed graph: {what}",
        victim=victim,
        tensor=described(carrier) if carrier is not None else None,
        confirmed=True,
        detail={"second backward": str(location(again))},
    )
    return replace(made, culprit=culprit)


def _walk(roots: Iterable[Any], boundary: int) -> tuple[list[tuple[Any, Any]], set[int]]:
    """Old nodes with the newer ones that lead to them; sequence numbers of old nodes that lost what they saved."""
    waiting = [root.grad_fn for root in roots if isinstance(root, Tensor) and root.grad_fn is not None]
    seen, freed = set(waiting), set()
    bridges: list[tuple[Any, Any]] = []
    while waiting and len(seen) < _MOST_NODES:
        node = waiting.pop()
        old = node._sequence_nr() < boundary
        if old and _is_freed(node):
            freed.add(node._sequence_nr())
        for following, _ in node.next_functions:
            if following is None:
                continue
            if not old and following._sequence_nr() < boundary:
                bridges.append((following, node))
            if following not in seen:
                seen.add(following)
                waiting.append(following)
    return bridges, freed


def _is_freed(node: Any) -> bool:
    for name in dir(node):
        if name.startswith("_saved_") or name == "saved_tensors":
            try:
                getattr(node, name)
            except RuntimeError as error:
                if "freed" in str(error):
                    return True
            except Exception:  # noqa: S112 - an attribute that cannot be shown tells nothing
                continue
    return False


def _tensors_of(node: Any) -> list[Tensor]:
    return [thing for thing in gc.get_objects() if type(thing) is Tensor and thing.grad_fn is node]


def _held_at(tensor: Tensor, made: Place | None) -> Location | None:
    """The line that put a tensor where it is still held: an attribute, a local name that a loop carries, a return."""
    for owner, name in holders(tensor):
        places = sources.assignments(type(owner), name)
        if places:
            return places[0]
    for frame in _frames():
        names = [name for name, value in frame.f_locals.items() if _holds(value, tensor)]
        carried = next((place for name in names if (place := sources.carried_name(frame, name))), None)
        if carried:
            return carried
        if names and made is not None and frame.f_code is not made[0]:
            returned = sources.return_after(*made)
            if returned is not None and returned.line != made[1]:  # it had a name that could have been detached
                return returned
    return None


def _carried_by_loop() -> Location | None:
    """The line of a running loop that gives a local name, which holds tensors with a history, to its next round."""
    for frame in _frames():
        for name, value in frame.f_locals.items():
            parts = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(part, Tensor) and part.grad_fn is not None for part in parts):
                place = sources.carried_name(frame, name)
                if place:
                    return place
    return None


def _holds(value: Any, tensor: Tensor) -> bool:
    """Whether a value is a tensor, or a container with it, or one with such a container."""
    if value is tensor:
        return True
    if isinstance(value, dict):
        value = list(value.values())
    if not isinstance(value, list | tuple | deque):
        return False
    inner = [part for part in value if isinstance(part, list | tuple)]
    return any(part is tensor for parts in (value, *inner) for part in parts)


def _frames() -> list[types.FrameType]:
    frames: list[types.FrameType] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if kind_of(frame.f_code) == USER:
            frames.append(frame)
        frame = frame.f_back
    return frames

"""A backward through a graph that an earlier one freed: which tensor carried the old graph over, and who holds it."""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from gradgate.core.finding import Finding, Location
from gradgate.watch import sources
from gradgate.watch.catalogue import described, make
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
    """The line that put a tensor where it is still held."""
    for owner, name in _holders(tensor):
        places = sources.assignments(type(owner), name)
        if places:
            return places[0]
    if made is None:
        return None
    for frame in _frames():
        if frame.f_code is not made[0] and any(value is tensor for value in frame.f_locals.values()):
            return sources.return_after(*made)
    return None


def _holders(tensor: Tensor) -> list[tuple[Any, str]]:
    found = []
    for referrer in gc.get_referrers(tensor):
        if isinstance(referrer, dict):
            names = [name for name, value in referrer.items() if value is tensor and isinstance(name, str)]
            owners = [owner for owner in gc.get_referrers(referrer) if _owns(owner, referrer)]
            found += [(owner, name) for owner in owners for name in names]
        else:
            held = getattr(referrer, "__dict__", None) or {}
            found += [(referrer, name) for name, value in held.items() if value is tensor]
    return found


def _owns(owner: Any, held: dict[Any, Any]) -> bool:
    own = getattr(owner, "__dict__", None)
    return own is held or (isinstance(own, dict) and own.get("_buffers") is held)


def _frames() -> list[types.FrameType]:
    frames: list[types.FrameType] = []
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        if kind_of(frame.f_code) == USER:
            frames.append(frame)
        frame = frame.f_back
    return frames

"""Who holds an object: found by asking the garbage collector, so only once something is known to be wrong."""

from __future__ import annotations

import gc
from collections import deque
from typing import Any

from gradgate.core.finding import Location
from gradgate.watch import sources


def kept_at(held: Any) -> Location | None:
    """The line that makes a thing an attribute of an object whose class's source is the user's."""
    places = (place for owner, name in holders(held) for place in sources.assignments(type(owner), name)[:1])
    return next(places, None)


def holders(held: Any) -> list[tuple[Any, str]]:
    """Objects that hold a thing as an attribute, or in a list, tuple, deque or dictionary that is one."""
    found = _owners(held)
    containers = [part for part in gc.get_referrers(held) if type(part) in (list, tuple, dict, deque)]
    for container in containers:
        found += _owners(container)
    return found


def _owners(held: Any) -> list[tuple[Any, str]]:
    found = []
    for referrer in gc.get_referrers(held):
        if isinstance(referrer, dict):
            names = [name for name, value in referrer.items() if value is held and isinstance(name, str)]
            owners = [owner for owner in gc.get_referrers(referrer) if _owns(owner, referrer)] if names else []
            found += [(owner, name) for owner in owners for name in names]
        else:
            own = getattr(referrer, "__dict__", None) or {}
            found += [(referrer, name) for name, value in own.items() if value is held]
    return found


def _owns(owner: Any, held: dict[Any, Any]) -> bool:
    own = getattr(owner, "__dict__", None)
    return own is held or (isinstance(own, dict) and own.get("_buffers") is held)

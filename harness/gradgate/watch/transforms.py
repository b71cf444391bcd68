"""torch.func refuses to run under saved-tensor hooks: ours step aside for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

_autograd = torch._C._autograd
_LOCK = threading.Lock()
_original: Any = None
_users = 0


def step_aside() -> None:
    """From here on, hooks of ours leave the stack while a transform runs. To be undone with `stay`."""
    global _original, _users
    with _LOCK:
        if not _users:
            _original = torch.autograd.graph.disable_saved_tensors_hooks
            torch.autograd.graph.disable_saved_tensors_hooks = _aside  # type: ignore[assignment]
        _users += 1


def stay() -> None:
    """Undo one `step_aside`; the last one puts torch's own function back."""
    global _users
    with _LOCK:
        _users -= 1
        if not _users:
            torch.autograd.graph.disable_saved_tensors_hooks = _original


@contextlib.contextmanager
def _aside(message: str) -> Iterator[None]:
    original = _original
    popped = []
    while (top := _autograd._top_saved_tensors_default_hooks(False)) is not None and _is_ours(top[0]):
        popped.append(top)
        _autograd._pop_saved_tensors_default_hooks()
    try:
        with original(message):
            yield
    finally:
        for pack, unpack in reversed(popped):
            _autograd._push_saved_tensors_default_hooks(pack, unpack)


def _is_ours(pack: Any) -> bool:
    return bool(getattr(getattr(pack, "__self__", None), "steps_aside", False))

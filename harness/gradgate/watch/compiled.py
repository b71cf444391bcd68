"""Compiled code inside a watched block: it runs compiled as ever, and the recorder says that it does not see inside.

Under a dispatch mode torch.compile falls back to eager without a word: the program watched would not be the one that
trains. So the recorder leaves the dispatch stack while compiled code runs; saved-tensor hooks stay, and see what the
compiled graphs save.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import _push_mode

from gradgate.core.finding import Finding
from gradgate.watch.catalogue import make
from gradgate.watch.places import Place, here

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder

_FRAMES = "torch._dynamo.eval_frame"
_sequence = torch._C._autograd._get_sequence_nr


class Compiled:
    """Where compiled code begins and ends."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._entered: tuple[Place | None, int] | None = None

    def switched(self, callback: Any) -> None:
        """Dynamo's callback changes: a function means that what follows may run compiled."""
        if callable(callback):
            self._enter()
        else:
            self.leave()

    def _enter(self) -> None:
        if self._entered is None and self._recorder.step_aside():
            place = here(3)
            self._entered = (place, _sequence())
            if sys._getframe(3).f_code.co_name == "compile_wrapper":  # the call itself, no return into it
                self._recorder.ledger.add(_unseen(place))

    def leave(self) -> None:
        """Be on the dispatch stack again; the nodes that were made meanwhile belong to the line of the call."""
        if self._entered is not None:
            (place, first), self._entered = self._entered, None
            self._recorder.lines.fill(first, place)
            _push_mode(self._recorder)


def _unseen(place: Place | None) -> Finding:
    return make(
        "other",
        "a compiled function runs compiled, and what it does inside is not seen",
        culprit=place,
        severity="note",
        code="GG003",
        name="unwatched-code",
        why="faults inside are named at this line, or not at all",
        fix='watch it uncompiled: `torch.compiler.set_stance("force_eager")`, or TORCH_COMPILE_DISABLE=1',
    )


def install(replace: Callable[[Any, str, Any], None], active: Callable[[], Recorder | None]) -> None:
    """Hear of compiled code, at once where dynamo is loaded, else when something is compiled."""
    if _FRAMES in sys.modules:
        _install_callback(replace, active)
        return
    original = torch.compile

    def compiling(*args: Any, **kwargs: Any) -> Any:
        made = original(*args, **kwargs)
        if _FRAMES in sys.modules and torch.compile is compiling:
            _install_callback(replace, active)
        return made

    replace(torch, "compile", compiling)


def _install_callback(replace: Callable[[Any, str, Any], None], active: Callable[[], Recorder | None]) -> None:
    frames = sys.modules[_FRAMES]
    original = frames._maybe_set_eval_frame
    if getattr(original, "_gradgate", False):
        return

    def switching(callback: Any) -> Any:
        recorder = active()
        if recorder is not None:
            recorder.compiled.switched(callback)
        return original(callback)

    switching._gradgate = True  # type: ignore[attr-defined]
    replace(frames, "_maybe_set_eval_frame", switching)

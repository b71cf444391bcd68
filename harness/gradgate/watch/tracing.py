"""Line tracing, switched on only while memory that the graph saved is in the hands of something outside torch."""

from __future__ import annotations

import bdb
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

from gradgate.watch.places import USER, Place, kind_of


class LineTracer:
    """Calls back after each line of the user's own code, with that line.

    Args:
        after_line: gets the line that has just run and its frame; returns whether to go on.
    """

    def __init__(self, after_line: Callable[[Place, FrameType], bool]) -> None:
        self._after_line = after_line
        self._before: Any = None
        self._frames: list[tuple[FrameType, Any]] = []
        self._last: tuple[Place, FrameType] | None = None
        self.on = False

    def start(self, frame: FrameType | None) -> None:
        """Trace from here on, in `frame` and its callers too; a debugger is left alone."""
        before = sys.gettrace()
        if self.on or isinstance(getattr(before, "__self__", None), bdb.Bdb):
            return
        self.on, self._before = True, before
        while frame is not None:
            if kind_of(frame.f_code) == USER:
                if self._last is None:
                    self._last = ((frame.f_code, frame.f_lineno), frame)
                self._frames.append((frame, frame.f_trace))
                frame.f_trace = self._in_frame
            frame = frame.f_back
        sys.settrace(self._enter)

    def flush(self) -> None:
        """Account for the line that is running now."""
        if self.on and self._last is not None:
            self._after_line(*self._last)

    def stop(self) -> None:
        """Put everything back as it was."""
        if not self.on:
            return
        self.on = False
        if getattr(sys.gettrace(), "__self__", None) is self:
            sys.settrace(self._before)
        for frame, trace in self._frames:
            frame.f_trace = trace
        self._frames, self._last, self._before = [], None, None

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG002
        return self._in_frame if self.on and kind_of(frame.f_code) == USER else None

    def _in_frame(self, frame: FrameType, event: str, argument: object) -> Any:  # noqa: ARG002
        if not self.on:
            return None
        if event == "line":
            if self._last is not None and not self._after_line(*self._last):
                self.stop()
                return None
            self._last = ((frame.f_code, frame.f_lineno), frame)
        elif event == "return":
            self.flush()
            caller = frame.f_back
            while caller is not None and kind_of(caller.f_code) != USER:
                caller = caller.f_back
            if caller is not None:  # what the rest of the calling line does is the calling line's
                self._last = ((caller.f_code, caller.f_lineno), caller)
        return self._in_frame

"""What a running program holds at a moment: all that its frames' local variables reach, with a digest of each value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from torch import Tensor
from torch.optim import Optimizer

from gradgate.checks.held_values import values_in
from gradgate.checks.run_parts import digest, is_code
from gradgate.subjects.own_files import INSTALLED

MOST = 4_000  # values of one moment
LONGEST = 48  # entries of a list that is no data
SHORT = 60  # letters of a text that is told as it is
SHOWN = re.compile(  # names of what a reader is shown
    r"(?<![Pp]ara)[Mm]eter|[Ll]og(s|ger|ging|book)?(?=[A-Z.\[]|$)|[Pp]rogress|[Tt]im(er|ing)|[Hh]istory|[Tt]racker|[Ww]riter"
    r"|[Ss]topwatch|[Tt]hroughput|[Jj]ournal"
)
Kind = Literal["tensor", "whole", "float", "text", "none", "generator"]


@dataclass(frozen=True, slots=True)
class Held:
    """A value at a moment.

    Args:
        digest: what tells it from others.
        kind: of value.
        local: whether it is a local variable itself, and in nothing else.
        root: the number of the object that the local variable is, while it lives.
    """

    digest: str
    kind: Kind
    local: bool
    root: int

    @property
    def text(self) -> str:
        """As it is told to a reader: a number or a text as it is; empty: no reader could tell it from another."""
        return "" if self.kind in ("tensor", "generator") else self.digest


def held_in(
    frame: FrameType | None, folder: Path | None, outermost: str
) -> tuple[dict[str, Held], Mapping[str, object]]:
    """All that the frames of a program reach, from the outermost one inwards, by name.

    Args:
        frame: the innermost one.
        folder: whose files' frames are looked at; None: of any file that is in no package installed.
        outermost: the file at which the program was started, whose frames are not the program's.

    Returns:
        The values, and what the local variables are: while these are kept, no other object has the number of one.
    """
    found: dict[str, Held] = {}
    seen: dict[int, object] = {}
    roots: dict[str, object] = {}
    for each in reversed([one for one in _outwards(frame, outermost) if _is_of(one, folder)]):
        for local, value in list(each.f_locals.items()):
            if local.startswith("_") or isinstance(value, Optimizer | FrameType):
                continue
            name = type(value).__name__ if local == "self" else local
            if roots.setdefault(name, value) is not value:
                name = f"{each.f_code.co_name}().{name}"
                roots[name] = value
            for key, inner in values_in(name, value, seen, longest=LONGEST, without=_is_shown):
                if len(found) >= MOST:
                    return found, roots
                found.setdefault(key, _held(inner, key == name, id(value)))
    return found, roots


def _outwards(frame: FrameType | None, outermost: str) -> Iterator[FrameType]:
    while frame is not None and frame.f_code.co_filename != outermost:
        yield frame
        frame = frame.f_back


def _is_of(frame: FrameType, folder: Path | None) -> bool:
    file = frame.f_code.co_filename
    if folder is not None:
        return file.startswith(str(folder))
    return not file.startswith((*INSTALLED, "<"))


def _is_shown(value: Any) -> bool:
    """Whether an object is code, or named after what is shown: a log, a meter, a timer."""
    return is_code(value) or bool(SHOWN.search(type(value).__name__))


def _held(value: Any, local: bool, root: int) -> Held:
    if isinstance(value, Tensor):
        return Held(digest(value), "tensor", local, root)
    if value is None:
        return Held("None", "none", local, root)
    if isinstance(value, float):
        return Held(f"{value:.6g}", "float", local, root)
    if isinstance(value, int):
        return Held(repr(value), "whole", local, root)
    if isinstance(value, str) and len(value) < SHORT:
        return Held(repr(value), "text", local, root)
    return Held(blake2b(repr(value).encode(), digest_size=12).hexdigest(), "generator", local, root)

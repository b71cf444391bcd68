"""Places: where a step holds a number, as an adapter names it: a local variable, or what a call had or gave back."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from gradgate.core.errors import SubjectError, nearest
from gradgate.subjects.own_files import defines

RETURN = "return"
_PLACE = re.compile(r"(?:(?P<function>[\w.<>]+):)?(?P<name>\w+)(?P<steps>(?:\.\w+|\[[^\[\]]+\])*)")
_STEP = re.compile(r"\.(\w+)|\[([^\[\]]+)\]")

Variables = Mapping[str, Any]


@dataclass(frozen=True)
class Place:
    """A local variable, or a part of it: `loss`, `outputs.loss`, `parts["value"]`, `compute_loss:return[1]`.

    Args:
        text: as the adapter has it.
        function: the name, or the end of the qualified name, of the function whose latest call is meant; empty: the
            lines that run.
        name: of the variable; `return` is what the call gave back.
        steps: attributes and keys on the way from there.
    """

    text: str
    function: str
    name: str
    steps: tuple[Any, ...]

    @classmethod
    def of(cls, text: str) -> Place:
        """Read a place.

        Raises:
            SubjectError: it is none.
        """
        match = _PLACE.fullmatch(text)
        if match is None:
            raise SubjectError(f"terms: {text!r} is no `variable`, `function:variable` or `function:return[1]`")
        found = _STEP.findall(match["steps"])
        steps = [name or (int(key) if key.isdigit() else key.strip("'\"")) for name, key in found]
        return cls(text, match["function"] or "", match["name"], tuple(steps))

    def value(self, variables: Variables) -> Any:
        """What is there, whatever it is; None where there is nothing."""
        value: Any = variables.get(self.name)
        for step in self.steps:
            value = _inside(value, step)
        return value

    def tensor(self, variables: Variables) -> Tensor | None:
        """The tensor there, of a returned tuple without more words the first; None where there is none."""
        value = self.value(variables)
        if isinstance(value, list) and value and all(isinstance(part, int | float) for part in value):
            return torch.tensor(value, dtype=torch.float64)
        if self.name == RETURN and not self.steps and isinstance(value, tuple | list):
            value = next((part for part in value if isinstance(part, Tensor)), None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return torch.tensor(float(value), dtype=torch.float64)
        if type(value).__module__ == "numpy" and getattr(value, "dtype", None) is not None:
            return torch.as_tensor(value) if value.dtype.kind in "fiub" else None
        return value if isinstance(value, Tensor) else None


def _inside(value: Any, step: Any) -> Any:
    try:
        return value[step]
    except (TypeError, KeyError, IndexError):
        return getattr(value, step, None) if isinstance(step, str) else None


class Calls:
    """The latest ended call of each function that places name.

    Args:
        places: of the terms.

    Attributes:
        latest: function -> local variables of its latest call that has ended, `return` among them.
    """

    def __init__(self, places: Iterable[Place]) -> None:
        self.latest: dict[str, Variables] = {}
        self._names = {place.function for place in places if place.function}
        self._ended: set[str] = set()

    @contextmanager
    def on(self) -> Iterator[None]:
        """Note calls that end within the block; where no place names a function nothing is."""
        if not self._names:
            yield
            return
        with profiled(self._note):
            yield

    def lack(self, place: Place) -> bool:
        """Whether a place is in a function of the trainer's that this setting, or stage, does not call."""
        return bool(place.function) and place.function not in self.latest and defines(place.function)

    def missing(self, term: str, place: Place) -> SubjectError:
        """Why a place in a call has no tensor."""
        variables = self.latest.get(place.function)
        if variables is None:
            near = nearest(place.function, self._ended)
            return SubjectError(f"{term}: no call of {place.function!r} ended in front of the step's backward{near}")
        return SubjectError(f"{term}: no tensor {place.text!r} in the last call in front of the step's backward"
                            f"{among(place.name, variables)}")  # fmt: skip

    def _note(self, frame: FrameType, event: str, value: Any) -> None:
        if event != "return":
            return
        code = frame.f_code
        self._ended.add(code.co_name)
        for name in self._names:
            if is_called(code, name):
                self.latest[name] = {**frame.f_locals, RETURN: value}


@contextmanager
def profiled(note: Callable[[FrameType, str, Any], object]) -> Iterator[None]:
    """Tell each call and each return within the block, of this thread."""
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def is_called(code: CodeType, name: str) -> bool:
    """Whether a function has this name, or a qualified one that ends in it."""
    return name in (code.co_name, code.co_qualname) or code.co_qualname.endswith("." + name)


def among(name: str, variables: Variables) -> str:
    """`; did you mean ...; there are ...`: the tensors among local variables."""
    tensors = sorted(key for key, value in variables.items() if isinstance(value, Tensor))
    return f"{nearest(name, tensors)}; there are {', '.join(tensors) or 'none'}"

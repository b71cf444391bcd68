"""Float64 stays float64: a trainer's casts up to float32 do nothing to what a check has made finer still.

`hidden.float()` in front of a value head means *float32 at least*. A run in float64, which no trainer has but a check
asks for, would lose nine digits there, or end in a layer whose parameters have another dtype.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional


@contextmanager
def doubles_kept(*, made: bool = False) -> Iterator[None]:
    """Leave float64 tensors as they are where `float`, `to`, `type` or a softmax would cast them to float32,
    unless torch itself asks.

    Args:
        made: whether what is made without a dtype, `torch.zeros(n)`, is float64, too.
    """
    with ExitStack() as stack:
        if made:
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(torch.float64)
        for place, name, keeping in _CASTS:
            stack.enter_context(patch.object(place, name, keeping))
        yield


def are_double(modules: Iterable[nn.Module]) -> bool:
    """Whether the first parameters of one of the modules are float64."""
    first = (next(module.parameters(), None) for module in modules)
    return any(parameter is not None and parameter.dtype == torch.float64 for parameter in first)


def keep_behind(terms: Any) -> None:
    """Let what a backward of these losses computes again, in checkpointed blocks, keep float64, too."""
    for term in terms.values() if isinstance(terms, Mapping) else ():
        if isinstance(term, Tensor) and term.requires_grad:
            term.register_hook(_enter_backward)


def _enter_backward(_gradient: Tensor) -> None:
    stack = ExitStack()
    stack.enter_context(doubles_kept(made=True))
    _BACKWARDS.append(stack)
    torch.autograd.Variable._execution_engine.queue_callback(end_backwards)


def end_backwards() -> None:
    """Leave what a backward entered; it calls this itself where it does not raise."""
    while _BACKWARDS:
        _BACKWARDS.pop().close()


def _keeping(cast: Callable[..., Any]) -> Callable[..., Any]:
    """The cast, told float64 where it is told float32 and given a float64 tensor."""

    @wraps(cast)
    def keeping(tensor: Tensor, *args: Any, **options: Any) -> Any:
        if tensor.dtype != torch.float64 or _is_torchs(sys._getframe(1)):
            return cast(tensor, *args, **options)
        return cast(tensor, *map(_widened, args), **{name: _widened(value) for name, value in options.items()})

    return keeping


def _float(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
    if tensor.dtype != torch.float64 or _is_torchs(sys._getframe(1)):
        return _TO_FLOAT(tensor, *args, **options)
    return tensor


def _is_torchs(caller: FrameType) -> bool:
    """Whether torch itself casts, as a gradient scaler does, which wants float32."""
    return caller.f_code.co_filename.startswith(_TORCH)


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


_BACKWARDS: list[ExitStack] = []  # that are on, the innermost last
_TORCH = str(Path(torch.__file__).parent)
_TO_FLOAT = Tensor.float
_WITH_DTYPE = (
    (Tensor, ("to", "type", "softmax", "log_softmax")),
    (torch, ("softmax", "log_softmax")),
    (functional, ("softmax", "log_softmax")),
)
_CASTS = (
    (Tensor, "float", _float),
    *((place, name, _keeping(getattr(place, name))) for place, names in _WITH_DTYPE for name in names),
)

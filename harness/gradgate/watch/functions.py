"""Custom autograd.Functions: tensors kept on `ctx`, inputs written unannounced, gradients edited in backward."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gradgate.watch import sources
from gradgate.watch.catalogue import described, make
from gradgate.watch.ops import tensors
from gradgate.watch.places import Place, here
from gradgate.watch.saved import Saved, storage_key

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder

# The files between the engine and what it calls, by their whole path: a user's file may be called `graph.py` too.
_MACHINERY = {
    torch.autograd.graph.__file__,
    *(str(Path(__file__).with_name(name)) for name in ("backward.py", "patches.py", "recorder.py")),
}

_GRADIENT_RULE: dict[str, Any] = {
    "code": "GG106",
    "name": "gradient-written-in-place",
    "why": "autograd shares gradient tensors between branches: the other branch gets the edited numbers",
    "fix": "return a new tensor: `return grad_output * scale`",
}


class Functions:
    """What custom Functions did in a block."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.depth = 0
        self.seen = False
        self.needed = False  # inside a forward, something that requires grad was used
        self.last_place: Place | None = None
        self.writes: dict[int, Place | None] = {}
        self._kept: weakref.WeakKeyDictionary[Any, list[Saved]] = weakref.WeakKeyDictionary()
        self._intermediates: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()

    def apply(self, original: Callable[..., Any], owner: type, args: Any, kwargs: Any) -> Any:
        """Run a Function's forward under watch."""
        recorder = self._recorder
        place = here(2)
        recorder.lines.set(torch._C._autograd._get_sequence_nr(), place)
        self.seen = True
        inputs = [(tensor, tensor._version) for tensor in tensors(args) if not tensor.is_inference()]
        outer, self.needed = self.needed, False
        self.depth += 1
        try:
            out = original(*args, **kwargs)
        finally:
            self.depth -= 1
            needed, self.needed = self.needed, outer or self.needed
        results = list(tensors(out))
        if needed and torch.is_grad_enabled() and not any(result.requires_grad for result in results):
            cut = recorder.flow.cut(place, "function", owner.__name__, None, recorder.count)
            recorder.flow.taint(results, (cut,), place)
        if not owner.__module__.startswith("torch."):
            self._check_inputs(owner, inputs, results, place)
            self._keep(results)
            self._note_intermediates(owner, [tensor for tensor, _ in inputs], results)
        return out

    @property
    def saves_intermediates(self) -> bool:
        """Whether a second derivative may meet such."""
        return bool(self._intermediates)

    def check_kept(self) -> None:
        """A backward begins: were tensors that Functions keep on `ctx` written since?"""
        for context, kept in list(self._kept.items()):
            for saved in kept:
                if saved.writes:
                    self._recorder.ledger.add(
                        make(
                            "custom_function",
                            f"{type(context).__name__.removesuffix('Backward')} kept a tensor on `ctx`, where no "
                            f"version is checked; {saved.writes[0].op or 'a write'} changed it before backward",
                            culprit=saved.writes[0].place,
                            victim=self._recorder.lines.inner(saved.seq),
                            op=saved.writes[0].op or None,
                            tensor=described(saved.tensor),
                        )
                    )

    def gradient_edited(self, op: str, target: Tensor, place: Place | None, node: Any) -> None:
        """A hook or a backward wrote the gradient that it was lent."""
        self._recorder.ledger.add(
            make(
                "custom_function",
                f"{op} edits a gradient in place inside {node.name().split('::')[-1] if node else 'a hook'}",
                culprit=place,
                victim=self._recorder.line_of(node._sequence_nr()) if node else None,
                op=op,
                tensor=described(target),
                **_GRADIENT_RULE,
            )
        )

    def _check_inputs(
        self, owner: type, inputs: list[tuple[Tensor, int]], out: list[Tensor], place: Place | None
    ) -> None:
        for tensor, version in inputs:
            returned = any(result is tensor for result in out)
            if tensor._version != version and tensor.requires_grad and not returned:
                self._recorder.ledger.add(
                    make(
                        "custom_function",
                        f"{owner.__name__}.forward writes its input in place without `ctx.mark_dirty`",
                        culprit=self.writes.get(storage_key(tensor)) or place,
                        victim=place,
                        tensor=described(tensor),
                    )
                )

    def _keep(self, results: list[Tensor]) -> None:
        for result in results[:1]:
            context: Any = result.grad_fn
            if not isinstance(context, torch.autograd.function.BackwardCFunction):
                continue
            values = list(vars(context).values())
            values += [part for value in values if isinstance(value, dict) for part in value.values()]
            held = list(tensors(values))
            kept = [self._recorder.shelf.keep(tensor, context._sequence_nr()) for tensor in held]
            if kept:
                self._recorder.lines.set_inner(context._sequence_nr(), self.last_place)
                self._kept[context] = kept

    def _note_intermediates(self, owner: type, given: list[Tensor], results: list[Tensor]) -> None:
        """What a forward saves and neither got nor returned is a constant in a second derivative."""
        hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
        if hooks is None or hooks[0] != self._recorder.shelf.pack:  # somebody else's hooks are not to be run for this
            return
        for result in results[:1]:
            context: Any = result.grad_fn
            if not isinstance(context, torch.autograd.function.BackwardCFunction) or not self._differentiable(owner):
                continue
            known = {storage_key(tensor) for tensor in (*given, *results)}
            saved = [tensor for tensor in context.saved_tensors if tensor is not None]
            if any(tensor.is_floating_point() and storage_key(tensor) not in known for tensor in saved):
                self._intermediates[context] = owner

    @staticmethod
    def _differentiable(owner: Any) -> bool:
        return not hasattr(owner.backward, "__wrapped__")  # `once_differentiable` wraps it

    def check_intermediates(self, numbers: set[int]) -> None:
        """A backward that makes a graph of its own has run nodes with these sequence numbers."""
        for context, owner in list(self._intermediates.items()):
            if context._sequence_nr() not in numbers:
                continue
            finding = make(
                "custom_function",
                f"{owner.__name__} saves what its forward computed on the way: a constant in a second derivative",
                victim=self._recorder.line_of(context._sequence_nr()),
                severity="warning",
                fix="save inputs and outputs only and compute the rest in backward, or mark it `once_differentiable`",
            )
            self._recorder.ledger.add(replace(finding, culprit=sources.call_in(owner.forward, "save_for_backward")))


def lent(frame: FrameType | None, stop: Any) -> list[Tensor]:
    """The gradients lent to the custom backward or hook that runs on this stack.

    Args:
        frame: where to begin.
        stop: the code object at which the engine was entered.
    """
    inner = None
    while frame is not None and frame.f_code is not stop:
        code = frame.f_code
        applying = code.co_name == "apply" and code.co_filename.endswith("function.py")
        if applying and isinstance(frame.f_locals.get("self"), torch.autograd.function.BackwardCFunction):
            return list(tensors(frame.f_locals.get("args", ())))
        if code.co_filename not in _MACHINERY:
            inner = frame
        frame = frame.f_back
    if inner is None or not inner.f_code.co_argcount:
        return []
    names = inner.f_code.co_varnames[: inner.f_code.co_argcount]
    given = [inner.f_locals.get(name) for name in names]
    return [tensor for tensor in tensors(given) if not (tensor.is_leaf and tensor.requires_grad)]

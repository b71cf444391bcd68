"""Backwards: the engine run under watch, what its operations write, and what it leaves behind."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _push_mode

from gradgate.watch import ending, freed
from gradgate.watch.flow import sequence_numbers
from gradgate.watch.functions import lent
from gradgate.watch.numerics import is_finite
from gradgate.watch.ops import Facts, move_versions, tensors, written
from gradgate.watch.places import Place, here, inside_checkpoint, inside_optimizer, user_frame
from gradgate.watch.saved import Saved, readable, storage_key
from gradgate.watch.slopes import Slopes

if TYPE_CHECKING:
    from gradgate.watch.recorder import Recorder

_sequence = torch._C._autograd._get_sequence_nr


class Backward:
    """The backwards of a block."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.depth = 0  # engines that run now
        self.boundary = -1  # nodes older than this belong to a graph that a backward freed
        self._slopes: Slopes | None = None

    def run(self, engine: Callable[..., Any], roots: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the engine under watch."""
        if self.depth or torch._C._are_functorch_transforms_active():
            return engine(roots, *args, **kwargs)
        recorder = self._recorder
        if recorder.closed:
            return engine(roots, *args, **kwargs)
        place = here(3)
        keep_graph, create_graph = bool(args[1]), bool(args[2])
        accumulate = bool(kwargs.get("accumulate_grad", False))
        inputs = list(tensors(args[3] if len(args) > 3 else ()))
        try:
            self._begin(roots, create_graph)
        except Exception as fault:  # the watched program must never fail because it was watched
            recorder.give_up(fault)
        began = _sequence()
        popped = not self._needed(create_graph) and self._recorder.step_aside()
        self._slopes = Slopes(roots) if self._recorder.numerics.danger else None
        self.depth += 1
        try:
            result = engine(roots, *args, **kwargs)
        except RuntimeError as error:
            self._failed(error, roots, place)
            raise
        finally:
            self.depth -= 1
            self._recorder.strangers.forget()
            if self._slopes is not None:
                self._slopes.remove()
            if popped:
                _push_mode(self._recorder)
        self._recorder.rounds.ran(place)
        if not keep_graph:
            self.boundary = began
        try:
            self._end(result, roots, inputs, place, accumulate=accumulate, create_graph=create_graph)
        except Exception as fault:
            recorder.give_up(fault)
        return result

    def _needed(self, create_graph: bool) -> bool:
        recorder = self._recorder
        return create_graph or recorder.tracer.on or recorder.python_in_backward or recorder.functions.seen

    def _begin(self, roots: Any, create_graph: bool) -> None:
        recorder = self._recorder
        recorder.functions.check_kept()
        recorder.gradients.before_backward()
        recorder.broadcasts.reach(roots)
        for root in roots:
            if not isinstance(root, Tensor):
                continue
            if root.is_leaf or not root.requires_grad:
                recorder.flow.join(recorder.flow.of(root), -1)
            recorder.flow.reach(root)
            if create_graph and recorder.functions.saves_intermediates:
                recorder.functions.check_intermediates(sequence_numbers(root.grad_fn))
            if root.is_floating_point() and root.numel() and not is_finite(root):
                recorder.ledger.add(ending.not_finite_forward(recorder, root))

    def _failed(self, error: RuntimeError, roots: Any, place: Place | None) -> None:
        recorder = self._recorder
        text = str(error)
        if "backward through the graph a second time" in text or "after they have already been freed" in text:
            recorder.quiet = True
            try:
                recorder.ledger.add(freed.explain(roots, self.boundary, recorder.lines.noted, place))
            finally:
                recorder.quiet = False
        elif "does not require grad and does not have a grad_fn" in text:
            recorder.ledger.add(
                ending.no_history(recorder, [root for root in roots if isinstance(root, Tensor)], place)
            )

    def _end(
        self,
        result: Any,
        roots: Any,
        inputs: list[Tensor],
        place: Place | None,
        *,
        accumulate: bool,
        create_graph: bool,
    ) -> None:
        recorder = self._recorder
        sick_root = any(isinstance(root, Tensor) and not is_finite(root) for root in roots)
        if accumulate:
            recorder.gradients.after_backward(place)
            gradients = recorder.gradients.present()
        else:
            recorder.gradients.returned(inputs)
            gradients = list(tensors(result))
            if not create_graph:
                cut = recorder.flow.cut(place, "autograd.grad", "autograd.grad", None, recorder.count)
                recorder.flow.taint([tensor for tensor in gradients if not tensor.requires_grad], (cut,), place)
        if not sick_root and not all_finite(gradients):
            recorder.ledger.add(
                ending.not_finite_backward(recorder, self._slopes.first if self._slopes else None, place)
            )
        self._slopes = None
        ending.soft_cuts(recorder)
        recorder.numerics.forget()

    def operation(self, facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
        """Run an operation of a backward, and note what it did."""
        recorder = self._recorder
        hit: list[Saved] = []
        frame = None
        if facts.writes:
            frame = _frame_in_backward(sys._getframe(2))
            if recorder.stacks is not None:
                recorder.stacks.note(frame)
            hit = recorder.hit(facts, args, kwargs)
            if frame is not None and not inside_optimizer(sys._getframe(2)):
                self._gradient_edits(facts, written(facts, args, kwargs), frame)
        out = facts.call(*args, **kwargs) if kwargs else facts.call(*args)
        if facts.lists:
            move_versions(args[0])
        if hit:
            at = (frame.f_code, frame.f_lineno) if frame else None
            recorder.wrote(hit, facts, at, written(facts, args, kwargs))
        return out

    def wrote(self, frame: FrameType | None) -> bool:
        """Whether what runs at `frame` is a custom backward or hook, and no forward that checkpointing runs again."""
        return bool(self.depth and not inside_checkpoint(frame, ENGINE_CODE) and lent(frame, ENGINE_CODE))

    def _gradient_edits(self, facts: Facts, targets: list[Tensor], frame: FrameType) -> None:
        keys = {storage_key(tensor) for tensor in lent(sys._getframe(2), ENGINE_CODE)}
        for target in targets:
            if storage_key(target) in keys:
                node = torch._C._current_autograd_node()
                self._recorder.functions.gradient_edited(facts.name, target, (frame.f_code, frame.f_lineno), node)


ENGINE_CODE = Backward.run.__code__


def _frame_in_backward(frame: FrameType | None) -> FrameType | None:
    """The innermost user frame, if it runs inside the engine."""
    found = user_frame(frame)
    while frame is not None and frame is not found:
        if frame.f_code is ENGINE_CODE:
            return None
        frame = frame.f_back
    return found


def all_finite(gradients: list[Tensor]) -> bool:
    """Whether all numbers of all tensors are finite."""
    dense = [
        tensor
        for tensor in map(readable, gradients)
        if tensor is not None and tensor.is_floating_point() and tensor.layout == torch.strided and tensor.numel()
    ]
    if not dense:
        return True
    with torch._C._DisableTorchDispatch(), torch.no_grad():
        try:
            total = torch.stack([norm.float() for norm in torch._foreach_norm(dense, 2)]).sum().item()
        except RuntimeError:  # several devices, or a dtype that foreach does not know
            return all(is_finite(tensor) for tensor in dense)
        return total - total == 0 or all(is_finite(tensor) for tensor in dense)

"""The recorder: sees every operation of a thread, what its graphs save, and every backward."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode, _pop_mode, _push_mode

from gradgate.core.finding import Finding
from gradgate.watch import damage, ending, freed
from gradgate.watch.catalogue import Ledger, described, make
from gradgate.watch.flow import Flow, loses_gradient
from gradgate.watch.functions import Functions, lent
from gradgate.watch.gradients import Gradients
from gradgate.watch.numerics import Numerics, is_finite
from gradgate.watch.ops import Facts, facts_of, tensors, written
from gradgate.watch.places import Place, here, inside_optimizer, user_frame
from gradgate.watch.saved import Saved, Shelf, Write, _storage_of, storage_key
from gradgate.watch.tracing import LineTracer

_MOST_LINES = 200_000
_MOST_STEPS = 32  # back along the graph, to leave the line that is asked about
_TRACED_BYTES = 1 << 22
_sequence = torch._C._autograd._get_sequence_nr
_ZEROING = frozenset({"zero_", "_foreach_zero_", "fill_"})


@dataclass(slots=True)
class Made:
    """A parameter registered in the block, and the line that did it."""

    tensor: weakref.ref[Any]
    place: Place | None
    label: str
    placed: bool = False


class Recorder(TorchDispatchMode):
    """The dispatch mode of a watched block."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.shelf = Shelf(self._unpacked, self._start_tracing)
        self.flow = Flow()
        self.numerics = Numerics()
        self.gradients = Gradients()
        self.functions = Functions(self)
        self.tracer = LineTracer(self._after_line)
        self.count = 0
        self.engine = 0
        self.python_in_backward = False
        self.boundary = -1
        self.made_at: dict[int, Made] = {}  # parameters registered in the block
        self.starved: dict[int, Tensor] = {}  # updated by an optimizer, and without any gradient so far
        self.disabled_at: Place | None = None
        self.views: dict[int, tuple[StorageWeakRef, Place | None]] = {}
        self.quiet = False
        self.damaged: dict[int, Finding] = {}  # by the ordinal of the saved tensor
        self._aside = False
        self._scaled = 0
        self._lines: dict[int, Place | None] = {}
        self._inner: dict[int, Place | None] = {}
        self._last = _sequence() - 1
        self._sick: ending.Sick | None = None

    # --- operations ---------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and note what it did."""
        if torch._C._are_functorch_transforms_active():  # what runs here are pieces of a transform, not the program
            return func(*args, **kwargs) if kwargs else func(*args)
        facts = facts_of(func)
        if facts.name == "_amp_foreach_non_finite_check_and_unscale_":  # a GradScaler looks for itself, and skips
            self.ledger.soften(self._scaled, "nan_forward", "nan_backward", "dtype_overflow")
            self._scaled = self.ledger.mark()
        if self.engine and not torch.is_grad_enabled():
            return self._in_backward(func, facts, args, kwargs)
        return self._in_forward(func, facts, args, kwargs)

    def _in_forward(self, func: Any, facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
        frame = user_frame(sys._getframe(2))
        place = None if frame is None else (frame.f_code, frame.f_lineno)
        self.count += 1
        needs = self._meet(args)
        hit = self._hit(facts, args, kwargs)
        out = func(*args, **kwargs) if kwargs else func(*args)
        if hit:
            self._wrote(hit, facts, place, written(facts, args, kwargs))
        if facts.lists:
            _move_versions(args[0])
        seq = _sequence() - 1
        if seq > self._last:
            self._last = seq
            self._lines[seq] = place
            if len(self._lines) > _MOST_LINES:
                self._forget_lines()
        if needs or self.flow.active:
            self._follow(facts, args, out, place, needs)
        if self.numerics.wants(facts, out):
            self.numerics.look(facts, args, out, place, self._maker)
        return out

    def _meet(self, args: Sequence[Any]) -> bool:
        """Whether any argument requires grad; leaves that do are noted."""
        needs = False
        known = self.gradients.leaves
        for value in args:
            if isinstance(value, Tensor):
                if value.requires_grad:
                    needs = True
                    leaf = known.get(id(value))
                    if (leaf is None or leaf.used_at < 0) and value.is_leaf:
                        self._meet_leaf(value)
            elif isinstance(value, list | tuple):
                for part in value:
                    if isinstance(part, Tensor) and part.requires_grad:
                        needs = True
                        if part.is_leaf:
                            self._meet_leaf(part)
        return needs

    def _meet_leaf(self, tensor: Tensor) -> None:
        self.gradients.meet(tensor, self.count)
        if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
            self.python_in_backward = True

    def _hit(self, facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> list[Saved]:
        if not facts.writes:
            return []
        targets = written(facts, args, kwargs)
        if facts.name in _ZEROING and self.gradients.passes:
            self._zeroed(targets)
        if self.functions.depth:
            place = here(3)
            self.functions.writes.update((storage_key(target), place) for target in targets)
        return self.shelf.hit(targets)

    def _wrote(self, hit: list[Saved], facts: Facts, place: Place | None, targets: list[Tensor]) -> None:
        """A write has run: which saved tensors did it damage?"""
        frame = sys._getframe(2)
        by_backward = bool(self.engine and lent(frame, _ENGINE_CODE))
        stepped = inside_optimizer(frame) or damage.is_manual_step(targets, facts)
        for saved in hit:
            before = saved.tensor._version
            saved.writes.append(Write(place, facts.name, before, saved.changed(), stepped, by_backward))

    def _follow(self, facts: Facts, args: Sequence[Any], out: Any, place: Place | None, needs: bool) -> None:
        """Follow values that lose their gradient here, or lost it before."""
        flow = self.flow
        cuts = flow.among(args) if flow.active else ()
        if not needs and not cuts:
            return
        grad = torch.is_grad_enabled()
        if facts.multi_view or (facts.view and not grad):
            self._note_view(out, place)
        if self.functions.depth:
            self.functions.needed = self.functions.needed or needs
            self.functions.last_place = place
            return
        reason = loses_gradient(facts, out) if grad else "no_grad"
        if not reason:
            if not needs:
                flow.taint(out, cuts, place)
                return
            if cuts:
                flow.join(cuts, _sequence() - 1)
            if facts.zero_slope:
                flow.cut(place, "zero slope", facts.name, self._maker(args, place), self.count)
            return
        if reason == "no_grad" and inside_optimizer(sys._getframe(3)):
            return
        if needs:
            source = next(tensor for tensor in tensors(args) if tensor.requires_grad)
            cut = flow.cut(place, reason, facts.name, self._maker(args, place), self.count)
            leaf = source if facts.detach and source.is_leaf else None
            flow.taint(out, (cut, *(cut for cut in cuts if cut.reason != "autograd.grad")), place, leaf)
        else:
            flow.taint(out, cuts, place)

    def _note_view(self, out: Any, place: Place | None) -> None:
        for view in tensors(out):
            storage = _storage_of(view)
            self.views[storage._cdata] = (StorageWeakRef(storage), place)
        if len(self.views) > 1024:
            self.views = {key: known for key, known in self.views.items() if not known[0].expired()}

    def _maker(self, args: Sequence[Any], place: Place | None = None) -> Place | None:
        """The line, other than `place`, that made the first argument that has a history."""
        nodes = (tensor.grad_fn for tensor in tensors(args))
        return next((line for node in nodes if (line := self._line_behind(node, place))), None)

    def _line_behind(self, node: Any, place: Place | None) -> Place | None:
        """The line of the first node, from `node` back along first inputs, that is not at `place`."""
        for _ in range(_MOST_STEPS):
            if node is None:
                break
            line = self.line_of(node._sequence_nr())
            if line is not None and line != place:
                return line
            node = next((following for following, _ in node.next_functions if following is not None), None)
        return None

    def maker_of(self, tensor: Tensor) -> Place | None:
        """The line that made a tensor."""
        return self._maker((tensor,)) or self.flow.place_of(tensor)

    # --- lines --------------------------------------------------------------------------------------------------------

    @property
    def lines(self) -> Mapping[int, Place | None]:
        """Sequence number of a node to the line that made it."""
        return self._lines

    def line_of(self, seq: int) -> Place | None:
        """The line of a node; nodes that autograd adds on its own belong to the operation before them."""
        return self._lines.get(seq) or self._lines.get(seq - 1)

    def inner_of(self, seq: int) -> Place | None:
        """The last line inside a custom Function's forward."""
        return self._inner.get(seq) or self.line_of(seq)

    def set_line(self, seq: int, place: Place | None) -> None:
        """Name the line of the node about to be made."""
        self._lines[seq] = place
        self._last = max(self._last, seq)

    def set_inner(self, seq: int, place: Place | None) -> None:
        """Name the last line inside a custom Function's forward."""
        self._inner[seq] = place

    def _forget_lines(self) -> None:
        for seq in list(self._lines)[: _MOST_LINES // 2]:
            del self._lines[seq]

    # --- what the wrapped entrances of torch report -----------------------------------------------------------------

    def exposed(self, tensor: Tensor, *, numpy: bool) -> None:
        """Memory goes to something that writes without torch."""
        if self.engine and not self.python_in_backward and not self.functions.seen:
            return
        self.shelf.expose(tensor)
        if numpy and self.flow.active:
            cuts = self.flow.of(tensor)
            if cuts:
                self.flow.cut(here(3), "numpy", "numpy", cuts[0].victim, self.count)

    def built(self, made: Any, data: Any, name: str) -> None:
        """A tensor was made from Python numbers, arrays or tensors."""
        if not isinstance(made, Tensor) or isinstance(data, Tensor):
            return
        place = here(3)
        sources = [part for part in tensors(data) if part.requires_grad or self.flow.of(part)]
        if sources:
            cut = self.flow.cut(place, "torch.tensor", name, self._maker(sources, place), self.count)
            self.flow.taint(made, (cut,), place)
        elif self.flow.active or self.flow.cuts:
            reason = "numpy" if type(data).__module__ == "numpy" else "number"
            cuts = self.flow.numbers(reason)
            if cuts:
                self.flow.taint(made, cuts, place)

    def data_set(self, tensor: Tensor, setting: Callable[[], None]) -> None:
        """`tensor.data = other`: no operation, no version, other numbers."""
        place = here(3)
        hit = [saved for saved in self.shelf.hit([tensor]) if saved.tensor is tensor]
        setting()
        by_optimizer = bool(hit) and inside_optimizer(sys._getframe(2))
        for saved in hit:
            saved.writes.append(Write(place, "data =", tensor._version, saved.changed(), by_optimizer))

    def grad_disabled(self) -> None:
        """The grad mode goes off."""
        if torch.is_grad_enabled():
            self.disabled_at = here(3)

    def grad_read(self, tensor: Tensor) -> None:
        """The user's own code reads a `.grad`."""
        if tensor.is_leaf or tensor.retains_grad or not tensor.requires_grad:
            self.gradients.read(tensor)
            return
        maker = self.maker_of(tensor)
        self.ledger.add(
            make(
                "missing_grad",
                "`.grad` of a tensor that is no leaf is read: it stays None",
                culprit=maker or here(3),
                victim=here(3) if maker else None,
                tensor=described(tensor),
                fix="convert first, then `requires_grad_()`; or `retain_grad()` before backward",
            )
        )

    def cleared(self, cleared: Iterable[Tensor]) -> None:
        """Gradients are set to None or zero."""
        place = here(3)
        for tensor in cleared:
            self.gradients.cleared(tensor, place)

    def _zeroed(self, targets: list[Tensor]) -> None:
        owners = self.gradients.owners()
        self.cleared([owners[id(target)] for target in targets if id(target) in owners])

    def registered(self, module: nn.Module, name: str, parameter: Any) -> None:
        """A module gets a parameter."""
        if parameter is not None:
            self.made_at[id(parameter)] = Made(weakref.ref(parameter), here(3), f"{type(module).__name__}.{name}")

    def registered_module(self, parent: nn.Module, name: str, child: Any) -> None:
        """A module gets a part: its parameters are known by the first line that puts them somewhere."""
        if child is None or not isinstance(child, nn.Module):
            return
        place = here(3)
        for parameter in child.parameters():
            made = self.made_at.get(id(parameter))
            if made is not None and not made.placed:
                made.place, made.label, made.placed = place, f"{type(parent).__name__}.{name}", True

    def before_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer is about to step."""
        self.come_back()
        owned = ending.owned(optimizer)
        stale = self.gradients.stale(owned)
        if stale:
            message = "an update uses gradients to which an earlier update's were added: nothing cleared them"
            self.ledger.add(make("stale_grad", message, culprit=stale.place))
        mixed = None if stale else self.gradients.before_step(owned)
        if mixed:
            self.ledger.add(
                make(
                    "stale_grad",
                    "an update uses gradients of two backwards, with another optimizer's update between the two",
                    culprit=mixed[1].place,
                    victim=mixed[0].place,
                )
            )
        if not args[1:] and not kwargs and not self.engine and not self._holds(owned):
            self._aside = self._step_aside()

    def _holds(self, targets: Iterable[Tensor]) -> bool:
        """Whether a live graph has saved any of these."""
        return bool(self.shelf.by_storage) and any(storage_key(target) in self.shelf.by_storage for target in targets)

    def come_back(self) -> None:
        """Be on the dispatch stack again."""
        if self._aside:
            self._aside = False
            _push_mode(self)

    def after_step(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:  # noqa: ARG002
        """An optimizer has stepped."""
        self.come_back()
        owned = ending.owned(optimizer)
        self.gradients.after_step(owned)
        for tensor in owned:
            if tensor.requires_grad and tensor.is_leaf and not self.gradients.had(tensor):
                self.starved[id(tensor)] = tensor

    # --- saved tensors ------------------------------------------------------------------------------------------------

    def _unpacked(self, saved: Saved) -> None:
        """Backward asks for a saved tensor that may not be what was saved."""
        if self.quiet:
            return
        self.tracer.flush()
        broken = saved.tensor._version != saved.version
        if broken or saved.changed():
            finding = damage.explain(saved, self.line_of(saved.seq))
            self.ledger.add(finding, saved.seq)
            self.damaged[saved.ordinal] = finding
        if broken:
            raise RuntimeError(saved.mismatch())

    def _start_tracing(self) -> None:
        self.tracer.start(user_frame(sys._getframe(2)))

    def _after_line(self, place: Place, frame: FrameType) -> bool:
        """Re-check, after a line, the memory that something outside torch holds."""
        traced = self.shelf.traced()
        for saved in traced:
            too_large = saved.tensor.nbytes > _TRACED_BYTES and saved.ordinal not in self.shelf.suspects
            if too_large or (any(write.op and write.changed for write in saved.writes)):
                continue
            damage.recheck(saved, place, by_backward=bool(self.engine and lent(frame, _ENGINE_CODE)))
        return bool(traced)

    # --- backward -----------------------------------------------------------------------------------------------------

    def backward(self, engine: Callable[..., Any], roots: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run the engine under watch."""
        if self.engine or torch._C._are_functorch_transforms_active():
            return engine(roots, *args, **kwargs)
        place = here(3)
        keep_graph, create_graph = bool(args[1]), bool(args[2])
        accumulate = bool(kwargs.get("accumulate_grad", False))
        inputs = list(tensors(args[3] if len(args) > 3 else ()))
        self._before_backward(roots)
        began = _sequence()
        popped = not self._needed_in_backward(create_graph) and self._step_aside()
        self.engine += 1
        try:
            result = engine(roots, *args, **kwargs)
        except RuntimeError as error:
            self._failed(error, roots, place)
            raise
        finally:
            self.engine -= 1
            if popped:
                _push_mode(self)
        if not keep_graph:
            self.boundary = began
        self._after_backward(result, roots, inputs, place, accumulate=accumulate, create_graph=create_graph)
        return result

    def _needed_in_backward(self, create_graph: bool) -> bool:
        danger = self.numerics.danger or self.tracer.on
        return create_graph or danger or self.python_in_backward or self.functions.seen

    def _step_aside(self) -> bool:
        """Leave the dispatch stack for operations that nothing is to be learnt from: half of a step's cost."""
        if _get_current_dispatch_mode() is not self:
            return False
        _pop_mode()
        return True

    def _before_backward(self, roots: Any) -> None:
        self._sick = None
        self.functions.check_kept()
        self.gradients.before_backward()
        for root in roots:
            if not isinstance(root, Tensor):
                continue
            if root.is_leaf or not root.requires_grad:
                self.flow.join(self.flow.of(root), -1)
            self.flow.reach(root)
            if root.is_floating_point() and root.numel() and not is_finite(root):
                self.ledger.add(ending.not_finite_forward(self, root))

    def _failed(self, error: RuntimeError, roots: Any, place: Place | None) -> None:
        text = str(error)
        if "backward through the graph a second time" in text or "after they have already been freed" in text:
            self.quiet = True
            try:
                self.ledger.add(freed.explain(roots, self.boundary, self._lines, place))
            finally:
                self.quiet = False
        elif "does not require grad and does not have a grad_fn" in text:
            self.ledger.add(ending.no_history(self, [root for root in roots if isinstance(root, Tensor)], place))

    def _after_backward(
        self,
        result: Any,
        roots: Any,
        inputs: list[Tensor],
        place: Place | None,
        *,
        accumulate: bool,
        create_graph: bool,
    ) -> None:
        sick_root = any(isinstance(root, Tensor) and not is_finite(root) for root in roots)
        if accumulate:
            self.gradients.after_backward(place)
            gradients = self.gradients.present()
        else:
            self.gradients.returned(inputs)
            gradients = list(tensors(result))
            if not create_graph:
                cut = self.flow.cut(place, "autograd.grad", "autograd.grad", None, self.count)
                self.flow.taint([tensor for tensor in gradients if not tensor.requires_grad], (cut,), place)
        if not sick_root and not all_finite(gradients):
            self.ledger.add(ending.not_finite_backward(self._sick, place))
        ending.soft_cuts(self)
        self.numerics.forget()

    def _in_backward(self, func: Any, facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Any:
        hit: list[Saved] = []
        frame = None
        if facts.writes:
            frame = _frame_in_backward(sys._getframe(2))
            hit = self._hit(facts, args, kwargs)
            if frame is not None and not inside_optimizer(sys._getframe(2)):
                self._gradient_edits(facts, written(facts, args, kwargs), frame)
        out = func(*args, **kwargs) if kwargs else func(*args)
        if facts.lists:
            _move_versions(args[0])
        if hit:
            at = (frame.f_code, frame.f_lineno) if frame else None
            self._wrote(hit, facts, at, written(facts, args, kwargs))
        if self.numerics.danger and self._sick is None and not facts.view:
            self._look_for_sickness(facts, out)
        return out

    def _gradient_edits(self, facts: Facts, targets: list[Tensor], frame: FrameType) -> None:
        keys = {storage_key(tensor) for tensor in lent(sys._getframe(2), _ENGINE_CODE)}
        for target in targets:
            if storage_key(target) in keys:
                node = torch._C._current_autograd_node()
                self.functions.gradient_edited(facts.name, target, (frame.f_code, frame.f_lineno), node)

    def _look_for_sickness(self, facts: Facts, out: Any) -> None:
        for tensor in tensors(out):
            if tensor.is_floating_point() and tensor.numel() and "empty" not in facts.name and not is_finite(tensor):
                node = torch._C._current_autograd_node()
                if node is not None:
                    place = self.line_of(node._sequence_nr())
                    self._sick = ending.Sick(place, node.name(), facts.name, self._line_behind(node, place))
                return


_ENGINE_CODE = Recorder.backward.__code__


def _move_versions(targets: Sequence[Tensor]) -> None:
    """A dispatch mode keeps in-place operations on lists from moving the versions that they move without it."""
    still = [target for target in targets if not target.is_inference()]
    torch._C._increment_version(still)


def _frame_in_backward(frame: FrameType | None) -> FrameType | None:
    """The innermost user frame, if it runs inside the engine."""
    found = user_frame(frame)
    while frame is not None and frame is not found:
        if frame.f_code is _ENGINE_CODE:
            return None
        frame = frame.f_back
    return found


def all_finite(gradients: list[Tensor]) -> bool:
    """Whether all numbers of all tensors are finite."""
    dense = [
        tensor
        for tensor in gradients
        if tensor.is_floating_point() and tensor.layout == torch.strided and tensor.numel()
    ]
    if not dense:
        return True
    with torch._C._DisableTorchDispatch(), torch.no_grad():
        try:
            total = torch.stack([norm.float() for norm in torch._foreach_norm(dense, 1)]).sum().item()
        except RuntimeError:  # several devices, or a dtype that foreach does not know
            return all(is_finite(tensor) for tensor in dense)
        return total - total == 0 or all(is_finite(tensor) for tensor in dense)

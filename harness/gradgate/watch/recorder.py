"""The recorder: sees every operation of a thread, and what its graphs save."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode, _pop_mode

from gradgate.core.finding import Finding
from gradgate.watch import damage
from gradgate.watch.backward import Backward
from gradgate.watch.broadcasts import Broadcasts
from gradgate.watch.catalogue import Ledger
from gradgate.watch.compiled import Compiled
from gradgate.watch.entrances import Entrances
from gradgate.watch.flow import Flow, indices_in, loses_gradient
from gradgate.watch.functions import Functions
from gradgate.watch.gradients import Gradients
from gradgate.watch.lines import Lines
from gradgate.watch.numerics import Numerics
from gradgate.watch.ops import FACTS, Facts, facts_of, move_versions, tensors, written
from gradgate.watch.places import Place, here, inside_optimizer, inside_sharding, user_frame
from gradgate.watch.registered import Made, Registered
from gradgate.watch.retained import Rounds
from gradgate.watch.rewrites import Rewrites
from gradgate.watch.saved import Saved, Shelf, Write, _storage_of, storage_key
from gradgate.watch.stacks import Stacks
from gradgate.watch.strangers import Glimpse, Strangers
from gradgate.watch.tracing import LineTracer
from gradgate.watch.updates import Updates

_MOST_STEPS = 32  # back along the graph, to leave the line that is asked about
_TRACED_BYTES = 1 << 22
_sequence = torch._C._autograd._get_sequence_nr
_ZEROING = frozenset({"zero_", "_foreach_zero_", "fill_"})


class Recorder(TorchDispatchMode):
    """The dispatch mode of a watched block."""

    def __init__(self, stacks: Stacks | None = None) -> None:
        super().__init__()
        self.ledger = Ledger()
        self.stacks = stacks
        self.shelf = Shelf(self._unpacked, self._start_tracing)
        self.strangers = Strangers(self.shelf, self._overwritten, lambda: self.backward.depth > 0)
        self.lines = Lines()
        self.flow = Flow()
        self.numerics = Numerics()
        self.rewrites = Rewrites()
        self.gradients = Gradients()
        self.functions = Functions(self)
        self.registered = Registered()
        self.entrances = Entrances(self)
        self.updates = Updates(self)
        self.compiled = Compiled(self)
        self.rounds = Rounds()
        self.broadcasts = Broadcasts(self)
        self.backward = Backward(self)
        self.tracer = LineTracer(self._after_line)
        self.count = 0
        self.python_in_backward = False
        self.disabled_at: Place | None = None
        self.views: dict[int, tuple[StorageWeakRef, Place | None]] = {}
        self.quiet = False
        self.holders = 0  # blocks that are open on this recorder
        self.thread = threading.get_ident()
        self.closed = False  # operations pass unseen
        self.fault: Exception | None = None
        self.damaged: dict[int, Finding] = {}  # by the ordinal of the saved tensor
        self._scaled = 0

    @property
    def made_at(self) -> dict[int, Made]:
        """Parameters registered in the block."""
        return self.registered.made

    @property
    def starved(self) -> dict[int, Tensor]:
        """What an optimizer updates though it never had a gradient."""
        return self.updates.starved

    def line_of(self, seq: int) -> Place | None:
        """The line of a node."""
        return self.lines.of(seq)

    # --- operations ---------------------------------------------------------------------------------------------------

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run an operation and note what it did."""
        facts = FACTS.get(func) or facts_of(func)
        call = facts.call
        if torch._C._are_functorch_transforms_active() or self.closed:  # pieces of a transform, not the program
            self.lines.skip()
            return call(*args, **kwargs) if kwargs else call(*args)
        grad = torch.is_grad_enabled()
        if self.backward.depth and not grad:
            return self.backward.operation(facts, args, kwargs)
        place, needs, hit = None, False, None
        try:
            frame = user_frame(sys._getframe(1))
            place = None if frame is None else (frame.f_code, frame.f_lineno)
            self.count += 1
            if self.stacks is not None:
                self.stacks.note(frame)
            needs = self._meet(args)
            if facts.writes:
                hit = self.hit(facts, args, kwargs)
            if needs and (facts.writes or self.rewrites.open) and frame is not None:
                self.rewrites.look(facts, args, frame, self, sys._getframe(1))
            if facts.unscales:
                self.softened()
        except Exception as fault:  # the watched program must never fail because it was watched
            self.give_up(fault)
        out = call(*args, **kwargs) if kwargs else call(*args)
        if hit:
            self.wrote(hit, facts, place, written(facts, args, kwargs))
        if facts.lists:
            move_versions(args[0])
        try:
            self.lines.note(place)
            if self.flow.active or self.functions.depth or (needs and _matters(facts, grad, out)):
                self._follow(facts, args, out, place, needs)
            if facts.shapes and needs:
                self.broadcasts.look(facts, args, out, place)
            if not facts.view and not types and self.numerics.wants(facts, out):
                self.numerics.look(facts, args, out, place, self.maker)
        except Exception as fault:
            self.give_up(fault)
        return out

    def give_up(self, fault: Exception) -> None:
        """Something in the watcher itself went wrong: let the program go on, and say so when the block ends."""
        self.fault = self.fault or fault
        self.closed = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No wrapper around each operation: no compiled code runs while this mode is on the stack."""
        return False

    def softened(self) -> None:
        """A GradScaler has looked for infinities itself, and skips the step: what was found is a note."""
        self.ledger.soften(self._scaled, "nan_forward", "nan_backward", "dtype_overflow")
        self._scaled = self.ledger.mark()

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

    def hit(self, facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> list[Saved]:
        """What an operation is about to write that a graph has saved."""
        targets = written(facts, args, kwargs)
        if self.shelf.before_write:
            self.shelf.before_write(targets)
        if facts.name in _ZEROING and self.gradients.passes:
            self.entrances.zeroed(targets)
        if self.gradients.read_by_user:
            self.gradients.updated_by_hand(targets, facts.name)
        if self.functions.depth:
            place = here(3)
            self.functions.writes.update((storage_key(target), place) for target in targets)
        if not self.shelf.holds(targets) or inside_sharding(sys._getframe(2)):
            return []
        return self.shelf.hit(targets, newest=self.lines.last)

    def wrote(self, hit: Sequence[Saved], facts: Facts, place: Place | None, targets: list[Tensor]) -> None:
        """A write has run: which saved tensors did it damage?"""
        frame = sys._getframe(2)
        by_backward = self.backward.wrote(frame)
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
                flow.cut(place, "zero slope", facts.name, self.maker(args, place), self.count)
            indices = indices_in(out)
            if indices:
                cut = flow.cut(place, "not differentiable", facts.name, self.maker(args, place), self.count)
                flow.taint(indices, (cut,), place)
            return
        if reason == "no_grad" and inside_optimizer(sys._getframe(2)):
            return
        if needs:
            source = next(tensor for tensor in tensors(args) if tensor.requires_grad)
            cut = flow.cut(place, reason, facts.name, self.maker(args, place), self.count)
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

    def maker(self, args: Sequence[Any], place: Place | None = None) -> Place | None:
        """The line, other than `place`, that made the first argument that has a history."""
        nodes = (tensor.grad_fn for tensor in tensors(args))
        return next((line for node in nodes if (line := self.line_behind(node, place))), None)

    def line_behind(self, node: Any, place: Place | None) -> Place | None:
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
        return self.maker((tensor,)) or self.flow.place_of(tensor)

    def step_aside(self) -> bool:
        """Leave the dispatch stack for operations that nothing is to be learnt from: half of a step's cost."""
        if _get_current_dispatch_mode() is not self:
            return False
        _pop_mode()
        return True

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

    def _overwritten(self, glimpse: Glimpse) -> None:
        """Backward was given, under hooks of others that check nothing, a tensor that is not what was saved."""
        if not self.quiet:
            self.ledger.add(damage.explain(glimpse, self.line_of(glimpse.seq)), glimpse.seq)

    def _start_tracing(self) -> None:
        self.tracer.start(user_frame(sys._getframe(2)))

    def _after_line(self, place: Place, frame: FrameType) -> bool:
        """Re-check, after a line, the memory that something outside torch holds."""
        traced = self.shelf.traced()
        for saved in traced:
            too_large = saved.tensor.nbytes > _TRACED_BYTES and saved.ordinal not in self.shelf.suspects
            if too_large or (any(write.op and write.changed for write in saved.writes)):
                continue
            damage.recheck(saved, place, by_backward=self.backward.wrote(frame))
        return bool(traced)


def _matters(facts: Facts, grad: bool, out: Any) -> bool:
    """Whether an operation on something that requires grad may end the gradient's flow."""
    if facts.follows or not grad:
        return True
    if isinstance(out, Tensor):
        return not (out.is_floating_point() or out.is_complex())
    return bool(indices_in(out))

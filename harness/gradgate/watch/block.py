"""The watched block: `with gradgate.watch(model, optimizer) as watch: ...`, then `watch.findings`."""

from __future__ import annotations

import threading
import warnings
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack, _pop_mode, _push_mode

from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding
from gradgate.watch import ending, patches, raised
from gradgate.watch.handed import meet
from gradgate.watch.places import location
from gradgate.watch.recorder import Recorder
from gradgate.watch.saved import mismatch_words, storage_key
from gradgate.watch.stacks import Stacks


class Watch:
    """A watched block. Nested in another, it shares the outer one's recorder, which the last to leave stops.

    Args:
        subjects: modules, optimizers and tensors that are expected to train.
        stacks: whether findings carry the user's whole stack, as `detail["stack"]`.
        first: stop the program at the first finding that is no note, by raising `Stopped` there.
    """

    def __init__(self, *subjects: Any, stacks: bool = False, first: bool = False) -> None:
        for subject in subjects:
            if not isinstance(subject, nn.Module | torch.optim.Optimizer | Tensor):
                raise GradgateError(
                    f"gradgate.watch() takes modules, optimizers and tensors, got {type(subject).__name__}"
                )
        self._subjects = subjects
        self._recorder: Recorder | None = None
        self._stacks, self._first = stacks, first
        self._mark = 0
        self._findings: list[Finding] = []
        self.backwards = 0  # that the block ran, known when it ends

    @property
    def findings(self) -> list[Finding]:
        """What was found, worst first; live while the block runs."""
        return self._findings if self._recorder is None else self._since(self._recorder)

    @property
    def recorder(self) -> Recorder:
        """What records, while the block runs."""
        assert self._recorder is not None  # noqa: S101 - entered
        return self._recorder

    def __enter__(self) -> Self:
        """Start recording."""
        recorder = self._recorder = patches.active() or _started(stacks=self._stacks)
        recorder.holders += 1
        recorder.ledger.stops = recorder.ledger.stops or self._first
        self._mark = recorder.ledger.mark()
        self._backwards_before = recorder.rounds.backwards
        meet(recorder, self._subjects)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop recording; an error leaves with the finding as a note."""
        recorder = self._recorder
        assert recorder is not None  # noqa: S101 - entered
        recorder.holders -= 1
        recorder.ledger.stops = False
        if not recorder.holders:
            _stop(recorder)
        try:
            if error is None:
                ending.settle(recorder, self._subjects)
            else:
                self._explain(recorder, error)
        except Exception as fault:  # the watched program must never fail because it was watched
            recorder.give_up(fault)
        if recorder.fault is not None and not recorder.holders:
            text = f"gradgate.watch could not finish its analysis: {recorder.fault!r}"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        self._findings = self._since(recorder)
        self.backwards = recorder.rounds.backwards - self._backwards_before
        if isinstance(error, Exception) and self._findings and not recorder.holders:
            error.add_note("\n".join(self._findings[0].lines()))
        self._recorder = None

    def _since(self, recorder: Recorder) -> list[Finding]:
        found = recorder.ledger.since(self._mark)
        return [recorder.stacks.put_into(finding) for finding in found] if recorder.stacks else found

    def _explain(self, recorder: Recorder, error: BaseException) -> None:
        explained = raised.explain(error) if isinstance(error, RuntimeError) else None
        if explained is None:
            return
        finding, operands = explained
        victim = None
        if finding.kind == "inplace_view":
            known = [recorder.views.get(storage_key(tensor)) for tensor in operands]
            victim = next((view[1] for view in known if view), None)
            victim = victim or next((place for tensor in operands if (place := recorder.maker_of(tensor))), None)
        elif finding.kind == "dtype_overflow" or finding.kind == "other":
            victim = next((place for tensor in operands if (place := recorder.maker_of(tensor))), None)
        recorder.ledger.add(replace(finding, victim=location(victim)) if victim else finding)


def _started(*, stacks: bool) -> Recorder:
    stale = patches.latest()
    if stale is not None and not stale.holders:  # another thread closed it
        _take_off_mode(stale)
        _take_off_hooks(stale)
    mismatch_words()
    recorder = Recorder(Stacks() if stacks else None)
    patches.enter(recorder)
    torch._C._autograd._push_saved_tensors_default_hooks(recorder.shelf.pack, recorder.shelf.unpack)
    _push_mode(recorder)  # not `with`: that would make dynamo skip what it is to compile
    return recorder


def _stop(recorder: Recorder) -> None:
    """Leave nothing behind; from another thread, what is on the stacks of its own can only be made deaf."""
    recorder.compiled.leave()
    recorder.updates.come_back()
    recorder.tracer.flush()
    recorder.tracer.stop()
    if recorder.thread == threading.get_ident():
        _take_off_mode(recorder)
        _take_off_hooks(recorder)
    else:
        recorder.closed = True
    patches.leave(recorder)


def _take_off_mode(recorder: Recorder) -> None:
    """Take the mode off its stack, from below others that were left on it."""
    above = []
    while recorder in _get_current_dispatch_mode_stack():
        above.append(_pop_mode())
    for mode in reversed(above[:-1]):
        _push_mode(mode)


def _take_off_hooks(recorder: Recorder) -> None:
    """Take the saved-tensor hooks off their stack, likewise."""
    top, pop = torch._C._autograd._top_saved_tensors_default_hooks, torch._C._autograd._pop_saved_tensors_default_hooks
    above = []
    while (pair := top(True)) is not None:
        pop()
        if pair[0] == recorder.shelf.pack:
            break
        above.append(pair)
    for pair in reversed(above):
        torch._C._autograd._push_saved_tensors_default_hooks(*pair)


def watch(*subjects: Any, stacks: bool = False) -> Watch:
    """Record a block and name the lines that broke its gradients.

    Args:
        subjects: modules, optimizers and tensors that are expected to train.
        stacks: whether each finding carries the user's whole stack at the culprit, as `detail["stack"]`; costs a walk
            of the stack for each operation.

    Returns:
        A context manager; `findings` is filled when the block ends, also by an exception.

    Raises:
        GradgateError: a subject is none of these.
    """
    return Watch(*subjects, stacks=stacks)

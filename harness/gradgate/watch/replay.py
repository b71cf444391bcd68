"""The replay of a step from its start: under the recorder, to name lines; with saved tensors protected, to measure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gradgate.core.finding import Finding
from gradgate.watch import transforms
from gradgate.watch.block import Watch
from gradgate.watch.catalogue import make
from gradgate.watch.difference import Difference, first_difference
from gradgate.watch.saved import kept_as
from gradgate.watch.snapshot import Snapshot
from gradgate.watch.state import State, leaves_of
from gradgate.watch.trouble import MODIFIED, Trouble, part_of
from gradgate.watch.undo import Undo, Writes

_MOST_MEASURED = 8
_LOCAL = threading.local()


def is_running() -> bool:
    """Whether a replay runs in this thread: guards inside it stand aside."""
    return getattr(_LOCAL, "running", False)


@dataclass(slots=True)
class _End:
    """How one replay ended."""

    values: dict[str, Any]
    error: str = ""
    part: str | None = None
    findings: list[Finding] = field(default_factory=list)
    damaged: dict[int, Finding] = field(default_factory=dict)


class Replay:
    """Replays of one step.

    Args:
        call: runs the step.
        arguments: of the step, positional and by name.
        state: what the user listed.
        start: taken when the step began.
    """

    def __init__(self, call: Callable[[], Any], arguments: Any, state: State, start: Snapshot) -> None:
        self._call, self._arguments, self._state, self._start = call, arguments, state, start

    def explain(self, trouble: Trouble) -> list[Finding]:
        """What the step did wrong. State, arguments and generators are afterwards what they were before.

        Args:
            trouble: what went wrong.

        Returns:
            Findings, with what the replay measured; one more where the replay was not the step again.

        Raises:
            Unsnapshotable: the state as the step left it cannot be copied.
        """
        end = Snapshot(self._state, exact=True)
        end.take(self._arguments)
        before = self._values(trouble.returned)
        undo = Undo(end.tensors, self._state.entries)
        _LOCAL.running = True
        try:
            self._start.restore()
            seen = self._recorded(trouble.ordinals, undo)
            before |= undo.gradients(before=True)
            apart = _apart(trouble, seen, before)
            findings = _related(trouble, seen)
            if trouble.ordinals and apart is None:
                findings = [self._measured(finding, seen, trouble.ordinals, undo) for finding in findings]
            elif trouble.ordinals:
                findings = [replace(finding, confirmed=None) for finding in findings]
            return findings if apart is None else [*findings, _not_repeated(apart, undo.unlisted.values())]
        finally:
            _LOCAL.running = False
            undo.put_back()
            undo.close()
            end.restore()

    def _values(self, returned: Any) -> dict[str, Any]:
        values = self._state.values()
        copies = ((name, value) for name, value in leaves_of("returned", returned))
        values |= {name: value.detach().clone() if isinstance(value, Tensor) else value for name, value in copies}
        return values

    def _recorded(self, suspects: frozenset[int], undo: Undo) -> _End:
        """Under the recorder, the saved tensors in question traced line by line."""
        watch = Watch()
        recorder = None
        returned, error, part = None, "", None
        try:
            with watch:
                recorder = watch.recorder
                recorder.shelf.suspects, recorder.shelf.before_write = suspects, undo.before_write
                recorder.gradients.before_use = undo.before_use
                returned = self._call()
        except Exception as raised:
            error, part = f"{type(raised).__name__}: {raised}", part_of(raised)
        assert recorder is not None  # noqa: S101 - entered
        values = self._values(returned) | undo.gradients()
        return _End(values, error, part, watch.findings, recorder.damaged)

    def _measured(self, finding: Finding, seen: _End, suspects: frozenset[int], undo: Undo) -> Finding:
        """The finding, an error where the damage changes any number of the step, else a warning."""
        key = _key(finding)
        ordinals = {ordinal for ordinal, cause in seen.damaged.items() if _key(cause) == key} or suspects
        undo.put_back()
        self._start.restore()
        end = self._protected(frozenset(ordinals), undo)
        if end.error:
            return replace(finding, confirmed=None, detail={**finding.detail, "not measured": end.error})
        apart = first_difference(end.values, seen.values)
        if apart is None:
            why = "no number of this step changed, by luck: what backward did not read, or numbers that cancel"
            message = f"{finding.message}; measured: no gradient changed"
            return replace(finding, severity="warning", confirmed=False, message=message, why=why)
        message = f"{finding.message}; measured: {apart.name}: {apart.text}"
        return replace(finding, severity="error", confirmed=True, message=message)

    def _protected(self, ordinals: frozenset[int], undo: Undo) -> _End:
        """With copies of the damaged tensors given to backward instead."""
        returned = None
        protection = _Protection(ordinals)
        try:
            with protection, Writes(undo):
                returned = self._call()
        except Exception as error:
            return _End({}, f"{type(error).__name__}: {error}")
        return _End(self._values(returned) | undo.gradients())


class _Protection:
    """Saved-tensor hooks that hand backward what was saved."""

    steps_aside = True

    def __init__(self, ordinals: frozenset[int]) -> None:
        self._ordinals = ordinals
        self._count = 0

    def __enter__(self) -> None:
        transforms.step_aside()
        torch._C._autograd._push_saved_tensors_default_hooks(self.pack, self.unpack)

    def __exit__(self, *_: object) -> None:
        torch._C._autograd._pop_saved_tensors_default_hooks()
        transforms.stay()

    def pack(self, tensor: Tensor) -> Tensor:
        """A copy of what is in question."""
        if torch._C._are_functorch_transforms_active():
            return tensor.detach() if tensor.grad_fn is not None else tensor
        ordinal = self._count
        self._count += 1
        if ordinal in self._ordinals:
            with torch._C._DisableTorchDispatch():
                return tensor.detach().clone()
        return kept_as(tensor, torch._C._autograd._get_sequence_nr() - 1)[0]

    def unpack(self, tensor: Tensor) -> Tensor:
        """As it was kept."""
        return tensor


def unreplayed(trouble: Trouble, reason: str) -> list[Finding]:
    """What can be said without a replay.

    Args:
        trouble: what went wrong.
        reason: why there is none.
    """
    detail = {"not replayed": reason}
    if trouble.error is not None:
        if MODIFIED not in str(trouble.error):
            return []
        message = f"a tensor was overwritten after the graph saved it for backward; not replayed: {reason}"
        return [make("inplace_saved", message, confirmed=True, detail=detail)]
    if trouble.ordinals:
        message = f"a tensor changed, and its version did not, after the graph saved it; not replayed: {reason}"
        return [make("silent_alias_write", message, confirmed=None, detail=detail)]
    message = f"the step returned a number that is not finite ({trouble.key[1]}); not replayed: {reason}"
    return [make("nan_forward", message, confirmed=None, detail=detail)]


def _key(finding: Finding) -> tuple[Any, ...]:
    return finding.code, finding.culprit, finding.victim


def _related(trouble: Trouble, seen: _End) -> list[Finding]:
    """The recorder's findings that may be what the trouble came from."""
    grave = [one for one in seen.findings if one.severity != "note" and trouble.concerns(one.kind)]
    if trouble.error is not None and seen.part != part_of(trouble.error):
        return []
    return grave[:_MOST_MEASURED] or unreplayed(trouble, "the recorder did not see it")


def _apart(trouble: Trouble, seen: _End, before: dict[str, Any]) -> Difference | None:
    """Where the replay was not the step again."""
    raised = "" if trouble.error is None else f"{type(trouble.error).__name__}: {trouble.error}"
    if raised != seen.error:
        return Difference("its end", f"{_short(raised)} became {_short(seen.error)}")
    return first_difference(before, seen.values)


def _short(raised: str) -> str:
    return raised.splitlines()[0][:120] if raised else "a return"


def _not_repeated(apart: Difference, unlisted: Iterable[str]) -> Finding:
    listed = f"; not in `state`: {', '.join(unlisted)}" if unlisted else ""
    return make(
        "nondeterminism",
        f"the step does not repeat when it is replayed: {apart.name}: {apart.text}{listed}",
        severity="warning",
        why="the replay was another step: what it names is likely, and nothing could be measured",
        detail={"differs": apart.name, "by": apart.text},
    )

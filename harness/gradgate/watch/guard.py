"""The guarded step: `step = gradgate.guard(step, state=[model, optimizer])`, then `step.findings`."""

from __future__ import annotations

import functools
import inspect
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, get_args

import torch
from torch import Tensor, nn

from gradgate.core.errors import GradgateError, GradientFaultError, GradientFaultWarning, nearest
from gradgate.core.finding import Finding
from gradgate.watch import patches, replay
from gradgate.watch.catalogue import Ledger
from gradgate.watch.copies import Unsnapshotable
from gradgate.watch.sentinel import Sentinel
from gradgate.watch.snapshot import Snapshot
from gradgate.watch.state import State
from gradgate.watch.trouble import Trouble, not_finite, raised_by_autograd

Given = ParamSpec("Given")
Returned = TypeVar("Returned", covariant=True)
OnFinding = Literal["warn", "raise"]
_MOST_REPLAYS = 3  # of one trouble; later it is counted
_MOST_REPLAYS_IN_ALL = 24


class Guarded(Protocol[Given, Returned]):
    """A guarded step: called like the step itself.

    Attributes:
        findings: what was found so far, worst first.
    """

    findings: list[Finding]

    def __call__(self, *args: Given.args, **kwargs: Given.kwargs) -> Returned:
        """Run the step."""


def guard(
    step: Callable[Given, Returned],
    state: Iterable[Any] = (),
    *,
    on_finding: OnFinding = "warn",
    replay: bool = True,
) -> Guarded[Given, Returned]:
    """Watch a training step for ever, at a few per cent of its time; on trouble, name the line.

    Always on are saved-tensor hooks with version checks and fingerprints in turns. On trouble (a saved tensor that is
    not what was saved, an error out of autograd, a number returned that is not finite) the state is put back to the
    step's start and the step replayed with the same arguments under the recorder; a damaged tensor that no operation
    wrote is checked line by line; a further replay with protected tensors measures whether any gradient changed. Then
    the state is what the step left, bit for bit, and the run goes on.

    Args:
        step: a function that runs one training step. Its arguments are its inputs; it must not draw from an iterator.
        state: what it changes: modules, optimizers, tensors, LR schedulers, a GradScaler, random generators, or
            objects with `state_dict()` and `load_state_dict()`.
        on_finding: after a silent fault warn once a finding, or raise. A loud one is PyTorch's own error, with the
            finding as a note.
        replay: take a snapshot at each step's start, so that there can be a replay.

    Returns:
        The step; `findings` is a list that grows.

    Raises:
        GradgateError: an argument is wrong; the text says what was expected.
    """
    _check(step, state, on_finding)
    watched = _Guard(step, State(state), on_finding, replay=replay)

    @functools.wraps(step)
    def guarded(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        return watched.run(args, kwargs)  # type: ignore[no-any-return]

    guarded.findings = watched.findings  # type: ignore[attr-defined]
    return guarded  # type: ignore[return-value]


def _check(step: Any, state: Any, on_finding: str) -> None:
    if not callable(step):
        raise GradgateError(f"gradgate.guard: step is of type {type(step).__name__}; expected a function")
    if inspect.isgeneratorfunction(step) or inspect.iscoroutinefunction(step) or inspect.isasyncgenfunction(step):
        raise GradgateError("gradgate.guard: step is a generator or coroutine; expected a function that runs one step")
    if isinstance(state, nn.Module | torch.optim.Optimizer | Tensor | Mapping | str) or not isinstance(state, Iterable):
        raise GradgateError(
            f"gradgate.guard: state is of type {type(state).__name__}; expected a list: state=[model, optimizer]"
        )
    choices = get_args(OnFinding)
    if on_finding not in choices:
        raise GradgateError(
            f"gradgate.guard: on_finding is {on_finding!r}; expected {' or '.join(map(repr, choices))}"
            + nearest(str(on_finding), choices)
        )


class _Guard:
    """What a guarded step keeps from call to call."""

    def __init__(self, step: Callable[..., Any], state: State, on_finding: OnFinding, *, replay: bool) -> None:
        self.findings: list[Finding] = []
        self._step, self._state, self._on_finding = step, state, on_finding
        self._sentinel = Sentinel()
        self._start = Snapshot(state) if replay else None
        self._no_replay = "" if replay else "replay=False"
        self._said: set[Any] = set()
        self._ledger = Ledger()
        self._known: dict[Any, list[Finding]] = {}
        self._replays: Counter[Any] = Counter()
        self._was_finite = True
        self._busy = threading.Lock()

    def run(self, args: Any, kwargs: Any) -> Any:
        """One step."""
        if _stands_aside() or not self._busy.acquire(blocking=False):
            return self._step(*args, **kwargs)
        try:
            self._begin(args, kwargs)
            return self._run(args, kwargs)
        finally:
            if self._start is not None:
                self._start.release()
            self._busy.release()

    def _run(self, args: Any, kwargs: Any) -> Any:
        try:
            with self._sentinel:
                returned = self._step(*args, **kwargs)
        except RuntimeError as error:
            trouble = raised_by_autograd(error)
            if trouble is not None:
                self._settle()
                found = self._explain(trouble, args, kwargs)
                if found:
                    error.add_note("\n".join(found[0].lines()))
            raise
        self._settle()
        new = [finding for trouble in self._troubles(returned) for finding in self._explain(trouble, args, kwargs)]
        if new:
            self._speak(new)
        return returned

    def _begin(self, args: Any, kwargs: Any) -> None:
        if self._start is None:
            return
        try:
            self._start.take((args, kwargs))
            self._no_replay = ""
        except Unsnapshotable as reason:
            self._no_replay = str(reason)
            if self._no_replay not in self._said:
                self._said.add(self._no_replay)
                _warn(f"gradgate.guard: faults are found, but not replayed: {reason}")

    def _settle(self) -> None:
        """The step is over: is the snapshot whole?"""
        if self._start is not None and not self._no_replay:
            self._no_replay = self._start.settle()

    def _troubles(self, returned: Any) -> Iterator[Trouble]:
        """What went wrong in silence."""
        if self._sentinel.damaged:
            ordinals = frozenset(self._sentinel.damaged)
            yield Trouble(("damaged", *sorted(ordinals)), ordinals, returned=returned)
        name = not_finite(returned)
        if name is not None and self._was_finite:
            yield Trouble(("not finite", name), returned=returned)
        self._was_finite = name is None

    def _explain(self, trouble: Trouble, args: Any, kwargs: Any) -> list[Finding]:
        """Replay a trouble, the first few times; note what it came from."""
        self._replays[trouble.key] += 1
        tired = self._replays[trouble.key] > _MOST_REPLAYS or self._replays.total() > _MOST_REPLAYS_IN_ALL
        if not tired or trouble.key not in self._known:
            reason = self._reason(args, kwargs) or ("there were enough replays" if tired else "")
            self._known[trouble.key] = self._found(trouble, reason, args, kwargs)
        found = self._known[trouble.key]
        for finding in found:
            self._ledger.add(finding)
        self.findings[:] = self._ledger.since(0)
        return found

    def _found(self, trouble: Trouble, reason: str, args: Any, kwargs: Any) -> list[Finding]:
        if reason or self._start is None:
            return replay.unreplayed(trouble, reason)
        again = replay.Replay(lambda: self._step(*args, **kwargs), (args, kwargs), self._state, self._start)
        try:
            found = again.explain(trouble)
            if any(finding.kind == "nondeterminism" for finding in found):
                self._start.distrust()
            kept = [finding for finding in found if not _is_own_write(finding)]
            if found and not kept:
                self._sentinel.harmless |= trouble.ordinals
            return kept
        except Unsnapshotable as reason:
            return replay.unreplayed(trouble, str(reason))
        except Exception as error:  # the guarded step must never fail because it was guarded
            _warn(f"gradgate.guard could not finish a replay: {error!r}")
            return replay.unreplayed(trouble, repr(error))

    def _reason(self, args: Any, kwargs: Any) -> str:
        """Why this step cannot be replayed; empty where it can."""
        if self._no_replay:
            return self._no_replay
        if _has_company():
            return "other processes would have to take part"
        drawn = next(_iterators(self._step, args, kwargs), None)
        return f"the step draws from an iterator, {drawn}; hand over what it yields" if drawn else ""

    def _speak(self, found: list[Finding]) -> None:
        """Say what was found, once each."""
        new = [finding for finding in found if _key(finding) not in self._said]
        self._said.update(map(_key, found))
        if self._on_finding == "raise":
            raise GradientFaultError("\n\n".join("\n".join(finding.lines()) for finding in found), found)
        for finding in new:
            _warn("\n".join(finding.lines()))


def _key(finding: Finding) -> tuple[Any, ...]:
    return finding.code, finding.culprit, finding.victim, finding.severity


def _is_own_write(finding: Finding) -> bool:
    """Whether an operation saved its input and then wrote it itself, as some do whose backward reads none of it."""
    foreign = finding.kind == "silent_alias_write" and finding.confirmed is False
    return foreign and finding.culprit is not None and finding.culprit == finding.victim


def _warn(text: str) -> None:
    warnings.warn(text, GradientFaultWarning, stacklevel=6)


def _stands_aside() -> bool:
    """Whether a watch or a replay runs in this thread, or hooks are not allowed: then the step runs as it is."""
    return patches.active() is not None or replay.is_running() or not _hooks_allowed()


_hooks_allowed: Callable[[], bool] = torch._C._autograd._saved_tensors_hooks_is_enabled  # type: ignore[attr-defined]


def _has_company() -> bool:
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def _iterators(step: Any, args: Any, kwargs: Any) -> Iterator[str]:
    """Names of iterators that a step is given, or that its own code names."""
    for name, value in [*enumerate(args), *kwargs.items()]:
        if _is_iterator(value):
            yield f"argument {name}"
    function = inspect.unwrap(step)
    owner = getattr(function, "__self__", None)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    held = {name: cell.cell_contents for name, cell in cells if _is_filled(cell)}
    for name in code.co_names:
        if name in function.__globals__:
            held[name] = function.__globals__[name]
        elif name in getattr(owner, "__dict__", {}):
            held[name] = vars(owner)[name]
    yield from (f"`{name}`" for name, value in held.items() if _is_iterator(value))


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _is_iterator(value: Any) -> bool:
    return hasattr(type(value), "__next__")

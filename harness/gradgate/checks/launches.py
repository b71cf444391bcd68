"""A trainer's program, started in a process of its own, observed at each update, stopped where a check wants it."""

from __future__ import annotations

import faulthandler
import hashlib
import mmap
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from gradgate.checks.forks import end, forked, quietly
from gradgate.checks.held_in_frames import Held, held_in
from gradgate.checks.raised import first_line
from gradgate.checks.released import Released, Unstepped
from gradgate.checks.without_dropout import without_dropout
from gradgate.core.finding import Location
from gradgate.core.origin import in_stack, origin
from gradgate.subjects.contract import Subject
from gradgate.subjects.program import Command, Program

Holds = Literal["nothing", "each", "begins"]
End = Literal["ended", "stopped", "refused", "raised", "hung", "slow", "died"]
NEW_PROCESS = 67280421310721  # what torch's generator is seeded with where nobody seeds it
MOST = 20_000  # updates of one launch that are looked at
HELD = 300  # updates of which all that the program holds is taken down
TEXTS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt", ".log", ".yaml", ".yml", ".md")


@dataclass(frozen=True, slots=True)
class Update:
    """What one step of an optimizer left.

    Args:
        optimizer: which one, counted in the order of their first steps.
        digest: of all its parameters.
        norms: of each of them.
        gradients: the norm of each parameter's gradient, as the step took it; 0.0 where there was none.
        rates: of its groups.
        before: of its parameters, as the step found them.
        moments: of its state, as the step found it.
        generators: of Python's, numpy's and torch's, as the step found them.
        losses: what backward started from since the last one, one number each.
        saved: whether files were written under the folder since the last one, logs and texts aside.
    """

    optimizer: int
    digest: bytes
    norms: tuple[float, ...]
    gradients: tuple[float, ...]
    rates: tuple[float, ...]
    before: bytes
    moments: bytes
    generators: Mapping[str, bytes]
    losses: tuple[float, ...]
    saved: bool


@dataclass(frozen=True, slots=True)
class Launched:
    """How a launch went.

    Args:
        updates: all of them, in order.
        end: it came to its end; it was stopped; it refused, with an exit code or a ValueError of its own; it raised; it
            took too long; it died.
        said: what it refused or raised with.
        place: the line that raised, or where it hung.
        seconds: that it took.
        held: what the program held as each update was begun, by the number of the update, from 0; see `holds`.
        unstepped: parameters that were released meanwhile, and that no optimizer has; see `holds`.
    """

    updates: tuple[Update, ...]
    end: End
    said: str = ""
    place: Location | None = None
    seconds: float = 0.0
    held: Mapping[int, Mapping[str, Held]] = field(default_factory=dict)
    unstepped: tuple[Unstepped, ...] = ()

    @property
    def in_words(self) -> str:
        """How it ended."""
        return f"{self.end}: {self.said}" if self.said else self.end


class _Stop(BaseException):
    """The end of a launch that is to be stopped; nothing that a trainer knows."""


def launch(
    subject: Subject,
    folder: Path,
    settings: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    stop: int | None = None,
    still: bool = False,
    holds: Holds = "nothing",
    seconds: float = 60.0,
) -> Launched:
    """Start the program in a fork of this process, as new as a fork can be.

    Args:
        subject: one that has a program.
        folder: where its output goes; made where it is not there.
        settings: over its configuration.
        resume: as its users ask for it.
        stop: the number of updates behind which it is stopped, from 1; None: it runs to its end.
        still: without dropout, and with every parameter put back behind each step: all updates are of one model.
        holds: of which updates all that the program holds is taken down, as the first forward of each begins, or where
            it has no module its first backward: the first 300, where it is also noted what no optimizer has, or the
            first one of each optimizer.
        seconds: after which it is killed where it has made no update meanwhile; after four times as many in any case.
    """
    _warm_up()
    folder.mkdir(parents=True, exist_ok=True)
    stacks, count = folder.with_name(f".{folder.name}.stack"), mmap.mmap(-1, 8)
    began = time.monotonic()
    watch = _Seen(folder, subject.source, stop, still, holds, count)
    process, receiver = forked(partial(_child, subject, folder, dict(settings or {}), resume, watch, stacks))
    try:
        found = _received(receiver, seconds, count)
        if found is None:
            _ask_for_stack(process, stacks)
    finally:
        end(process, receiver)
    took = time.monotonic() - began
    if isinstance(found, Launched):
        return replace(found, seconds=took)
    stack = stacks.read_text(errors="replace") if stacks.exists() else ""
    if found == "died":
        return Launched((), "died", "its process ended without a word", seconds=took)
    if found == "slow":
        return Launched((), "slow", f"still making updates after {took:.0f} s", seconds=took)
    place = in_stack(stack, subject.source) or in_stack(stack)
    return Launched((), "hung", f"no update for {seconds:.0f} s", place, took)


@cache
def _warm_up() -> None:
    """Let torch import here, and not in every fork, what a first step of an optimizer imports: a second."""
    parameter = torch.zeros(1, requires_grad=True)
    parameter.grad = torch.zeros(1)
    torch.optim.Adam([parameter]).step()


def _received(receiver: Connection, seconds: float, count: mmap.mmap) -> Launched | Literal["died", "slow"] | None:
    """What a launch sends; None where it makes no update any more."""
    began = moved = time.monotonic()
    before = b""
    while (now := time.monotonic()) - moved < seconds:
        if now - began > 4 * seconds:
            return "slow"
        try:
            if receiver.poll(0.2):
                found = receiver.recv()
                return found if isinstance(found, Launched) else "died"
        except EOFError:
            return "died"
        if count[:] != before:
            before, moved = count[:], now
    return None


def _ask_for_stack(process: int, stacks: Path) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGUSR1)
    end = time.monotonic() + 1.0
    while not (stacks.exists() and stacks.stat().st_size) and time.monotonic() < end:
        time.sleep(0.01)


def _child(
    subject: Subject,
    folder: Path,
    settings: Mapping[str, Any],
    resume: bool,
    watch: _Seen,
    stacks: Path,
) -> Launched:
    with stacks.open("w") as written:
        quietly(written)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
        program = subject.program
        assert program is not None  # noqa: S101 - a need of every check that launches
        _as_new(subject, program)
        with without_dropout() if watch.still else nullcontext():
            ended, said, place = _run(subject, program, folder, settings, resume, watch)
        faulthandler.unregister(signal.SIGUSR1)
    return Launched(
        tuple(watch.updates),
        ended,
        said,
        place,
        held=watch.held,
        unstepped=tuple(watch.released.found if watch.released else ()),
    )


def _run(
    subject: Subject, program: Program, folder: Path, settings: Mapping[str, Any], resume: bool, seen: _Seen
) -> tuple[End, str, Location | None]:
    try:
        with seen.on():
            program.launch(folder, settings, resume)
    except _Stop:
        return "stopped", "", None
    except SystemExit as leaving:
        return ("ended", "", None) if leaving.code in (None, 0) else ("refused", str(leaving.code), None)
    except BaseException as error:
        refuses = isinstance(error, ValueError | AssertionError | NotImplementedError | FileExistsError)
        refuses = refuses or (isinstance(error, FileNotFoundError) and error.errno is None)  # by a `raise` of its own
        text = f"{type(error).__name__}: {first_line(error)}"
        return "refused" if refuses else "raised", text, origin(error, subject.source)
    return ("stopped" if seen.stopped else "ended"), "", None


def _as_new(subject: Subject, program: Program) -> None:
    """What a new process has: its generators, one thread, and no module of the trainer's where it imports them anew."""
    warnings.resetwarnings()
    torch.set_num_threads(1)
    setattr(torch, "set_num_threads", _one_thread)  # noqa: B010 - more would wait for what a fork does not have
    torch.manual_seed(NEW_PROCESS)
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()
    source = subject.source.resolve() if subject.source else None
    if source is None:
        return
    root = source if source.is_dir() else source.parent
    while (root / "__init__.py").exists():  # a package is started from where it lies
        root = root.parent
    os.chdir(root)
    sys.path.insert(0, str(Path.cwd()))
    if isinstance(program.launch, Command) and program.launch.is_by_name:
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None) or ""
            if name != "__main__" and file.startswith(str(source) + os.sep):
                del sys.modules[name]


def _one_thread(_: int) -> None:
    """What stands for `torch.set_num_threads`."""


class _Seen:
    """What every step of every optimizer is told to.

    Args:
        folder: of the program's output.
        source: of the trainer.
        stop: as in `launch`.
        still: as in `launch`.
        holds: as in `launch`.
        count: eight bytes that are shared with who waits: the number of updates.
    """

    def __init__(
        self, folder: Path, source: Path | None, stop: int | None, still: bool, holds: Holds, count: mmap.mmap
    ) -> None:
        self.folder, self.source, self.stop, self.still, self.holds = folder, source, stop, still, holds
        self._count = count
        self.held: dict[int, Mapping[str, Held]] = {}
        self._roots: Mapping[str, object] = {}
        self.released = Released() if holds == "each" else None
        self.updates: list[Update] = []
        self.stopped, self._made = False, 0
        self._numbers: dict[int, int] = {}
        self._kept: list[torch.optim.Optimizer] = []  # so that no other gets the same id
        self._files = _written(folder)
        self._gradients: tuple[float, ...] = ()
        self._losses: list[float] = []
        self._found: tuple[bytes, bytes, Mapping[str, bytes]] = (b"", b"", {})
        self._values: list[torch.Tensor] = []

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch every step and every backward within the block."""
        handles = [register_optimizer_step_pre_hook(self.before), register_optimizer_step_post_hook(self)]
        if self.holds != "nothing":
            handles.append(register_module_forward_pre_hook(self.take))
        backward = torch.Tensor.backward

        def noted(tensor: torch.Tensor, *given: Any, **named: Any) -> None:
            self.take_at(sys._getframe(1))
            if tensor.numel() == 1:
                self._losses.append(float(tensor.detach()))
            backward(tensor, *given, **named)

        setattr(torch.Tensor, "backward", noted)  # noqa: B010 - a method, to mypy
        try:
            yield
        finally:
            setattr(torch.Tensor, "backward", backward)  # noqa: B010
            for handle in handles:
                handle.remove()

    def take(self, *_: Any) -> None:
        """In front of a forward: what the program holds, at the first one with a gradient behind each update."""
        if torch.is_grad_enabled():
            self.take_at(sys._getframe(1))

    def take_at(self, frame: FrameType) -> None:
        """What the program holds in a frame and those around it, once for each update; in front of a backward where no
        module had a forward."""
        if self.holds != "nothing" and len(self.held) < HELD and len(self.updates) not in self.held:
            self.held[len(self.updates)], self._roots = held_in(frame, self.source, __file__)

    def before(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """In front of a step: the gradients that it takes."""
        if self.released is not None:
            self.released.look(optimizer, len(self.updates))
        parameters = _parameters(optimizer)
        self._gradients = tuple(0.0 if p.grad is None else float(p.grad.double().norm()) for p in parameters)
        held = [value for p in parameters for value in optimizer.state.get(p, {}).values()]
        moments = _digest(each if isinstance(each, torch.Tensor) else torch.tensor(float(each or 0)) for each in held)
        self._found = _digest(parameters), moments, _generators()
        if self.still:
            self._values = [parameter.detach().clone() for parameter in parameters]

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._made += 1
        self._count[:] = self._made.to_bytes(8, "little")
        if len(self.updates) < MOST:
            self.updates.append(self._update(optimizer))
        if self.stop is not None and len(self.updates) >= self.stop:
            self.stopped = True
            raise _Stop

    def _update(self, optimizer: torch.optim.Optimizer) -> Update:
        if id(optimizer) not in self._numbers:
            self._numbers[id(optimizer)] = len(self._kept)
            self._kept.append(optimizer)
        elif self.holds == "begins":
            self.held.pop(len(self.updates), None)
        parameters = _parameters(optimizer)
        for parameter, value in zip(parameters, self._values, strict=False):
            parameter.detach().copy_(value)
        norms = tuple(float(parameter.detach().double().norm()) for parameter in parameters)
        before, self._files = self._files, _written(self.folder)
        rates = tuple(float(group["lr"]) for group in optimizer.param_groups)
        losses, self._losses = tuple(self._losses), []
        number, wrote = self._numbers[id(optimizer)], self._files != before
        return Update(number, _digest(parameters), norms, self._gradients, rates, *self._found, losses, wrote)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _digest(tensors: Iterable[torch.Tensor]) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"")
    return found.digest()


def _generators() -> dict[str, bytes]:
    states = {"torch": torch.get_rng_state().numpy().tobytes(), "random": repr(random.getstate()).encode()}
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, words, *place = numpy.random.get_state()
        states["numpy"] = words.tobytes() + repr((kind, place)).encode()
    return {name: hashlib.blake2b(state, digest_size=16).digest() for name, state in states.items()}


def _written(folder: Path) -> frozenset[tuple[str, int]]:
    """The files of a folder that are neither logs nor texts, each with when it was written."""
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            if not name.endswith(TEXTS) and not name.startswith("events.out"):
                with suppress(OSError):
                    file = Path(place, name)
                    found.append((str(file), file.stat().st_mtime_ns))
    return frozenset(found)


def first_parting(ours: Sequence[Update], others: Sequence[Update]) -> int | None:
    """The number of the first update, from 0, behind which two runs have other parameters, or that one lacks."""
    for i, (one, other) in enumerate(zip(ours, others, strict=False)):
        if one.digest != other.digest:
            return i
    return None if len(ours) == len(others) else min(len(ours), len(others))


def distance(one: Update, other: Update) -> float:
    """The largest relative distance of two norms of one parameter."""
    pairs = list(zip(one.norms, other.norms, strict=False))
    return max((abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs if a != b), default=0.0)

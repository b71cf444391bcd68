"""Steps: a target of one side built into something that runs a step, with the process's global state as its own."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pkgutil import iter_modules
from typing import Any

import torch

from gradgate.core.errors import GradgateError, nearest
from gradgate.core.origin import in_one_line
from gradgate.gates.sides import Side, Sides, import_fresh
from gradgate.gates.timing import Sample
from gradgate.subjects.contract import Subject
from gradgate.subjects.global_state import GlobalState, seed_everything

SEED = 0


class MissingError(Exception):
    """A side has no such factory. `args`: the side's name, what is missing."""


class BrokenError(Exception):
    """A side does not import, build or step. `args`: the side's name, what it was doing, the error in one line."""


class Copy:
    """One copy of one side's step. Everything global belongs to it while it runs.

    Args:
        sides: of this process.
        side: whose step.
        target: `module:factory`.
        stage: of a Subject, or None.

    Raises:
        MissingError: the side has no such factory.
        BrokenError: importing or building raises.
        GradgateError: the factory returns neither a step nor a subject with that stage.
    """

    def __init__(self, sides: Sides, side: Side, target: str, stage: str | None) -> None:
        self._sides, self.side = sides, side
        self._state = GlobalState.now()
        with self._entered("building"):
            seed_everything(SEED)
            self._step = _step_of(_factory(side, target)(), target, stage)

    def run(self, function: Callable[[Callable[[], Any]], Any]) -> Any:
        """Call a function with the step, as this side.

        Raises:
            BrokenError: the step raises.
        """
        with self._entered("stepping"):
            return function(self._step)

    def __call__(self, steps: int, clock: Callable[[], float] = time.thread_time) -> Sample:
        """Run so many steps; the seconds they took.

        Raises:
            BrokenError: the step raises.
        """
        with self._entered("stepping"):
            return timed(self._step, steps, clock)

    @contextmanager
    def _entered(self, doing: str) -> Iterator[None]:
        outer = GlobalState.now()
        with self._sides.turn(self.side):
            state = self._state
            if doing != "building":
                state.restore()
            try:
                yield
                self._state = GlobalState.now()
            except (GradgateError, MissingError):
                raise
            except (Exception, SystemExit) as error:
                raise BrokenError(self.side.name, doing, in_one_line(error, self.side.root)) from error
            finally:
                outer.restore()


def timed(step: Callable[[], Any], steps: int, clock: Callable[[], float]) -> Sample:
    """Seconds of so many steps: CPU time, wall time without waiting for a processor, device time where there is one."""
    device = torch.cuda.is_initialized()
    if device:
        torch.cuda.synchronize()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
    (waited, preempted), wall, cpu = disturbances(), time.perf_counter(), clock()
    for _ in range(steps):
        step()
    cpu = clock() - cpu
    if device:
        end.record()
        torch.cuda.synchronize()
    wall, (waited_after, preempted_after) = time.perf_counter() - wall, disturbances()
    waited, preempted = waited_after - waited, preempted_after - preempted
    seconds = {"cpu_time": max(cpu, SHORTEST_S), "wall_time": max(wall - waited, SHORTEST_S)}
    if device:
        seconds = {"device_time": max(start.elapsed_time(end) / 1e3, SHORTEST_S), **seconds}
    return Sample(seconds, waited, preempted)


def disturbances() -> tuple[float, int]:
    """Seconds that this thread could have run but had no processor, and how often one was taken from it; so far.

    What other programs take from a step is theirs: without it, the wall clock is as steady as CPU time. Where the
    kernel does not say, nothing is taken off.
    Source: Linux, Documentation/scheduler/sched-stats.rst, /proc/<pid>/schedstat, the second field, in nanoseconds.
    """
    global _schedstat
    try:
        if _schedstat is None:
            _schedstat = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        waited_s = int(os.pread(_schedstat, 80, 0).split()[1]) / 1e9
        return waited_s, resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
    except (OSError, IndexError, ValueError, AttributeError):
        return 0.0, 0


SHORTEST_S = 1e-9  # a clock may stand still, and a logarithm needs more than 0
_schedstat: int | None = None  # one file, opened once by the thread that steps


def _factory(side: Side, target: str) -> Callable[[], Any]:
    name, _, attribute = target.partition(":")
    try:
        module: Any = import_fresh(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            known = [module.name for module in iter_modules(side.roots)]
            hint = nearest(name.partition(".")[0], known)
            raise MissingError(side.name, f"no module {name!r} under {side.root}{hint}") from error
        raise
    if side.relative(getattr(module, "__file__", None) or "") is None:
        raise MissingError(side.name, f"no module {name!r} under {side.root}, only {module.__file__}, outside it")
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            known = [choice for choice in dir(found) if not choice.startswith("_")]
            raise MissingError(side.name, f"no {attribute!r} in {module.__file__}{nearest(part, known)}")
        found = getattr(found, part)
    if not callable(found):
        raise GradgateError(f"{target} on {side.name}: expected a factory, got a {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _step_of(built: Any, target: str, stage: str | None) -> Callable[[], Any]:
    if isinstance(built, Subject):
        run = _stage_of(built, target, stage).start(SEED)
        batches = run.batches()
        return lambda: run.step(next(batches))
    if not callable(built):
        raise GradgateError(
            f"{target} returned a {type(built).__name__}, expected a step without arguments or a Subject"
        )
    if stage is not None:
        raise GradgateError(f"--stage {stage}: {target} returns a step, not a Subject with stages")
    return built  # type: ignore[no-any-return]


def _stage_of(subject: Subject, target: str, name: str | None) -> Any:
    known = [stage.name for stage in subject.stages]
    if name is None and len(known) == 1:
        name = known[0]
    if name not in known:
        asked = f"has no stage {name!r}" if name else "has several stages, name one with --stage"
        raise GradgateError(f"{target} {asked}: {', '.join(known)}{nearest(name or '', known)}")
    return subject.stages[known.index(name)]

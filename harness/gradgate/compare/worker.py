"""The worker: loads both sides in a fresh process, counts, times, and answers in JSON lines. Forked by `zygote`."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import torch

from gradgate.compare.job import ONE_PROCESS, Job
from gradgate.compare.priority import undisturbed
from gradgate.compare.steps import BrokenError, Copy, MissingError
from gradgate.compare.turns import beyond_budget, steps_a_turn, timing_tree, tolerances_of
from gradgate.core.comparison import Metric
from gradgate.core.errors import GradgateError
from gradgate.gates.counters import STEPS, WARM_UP, count, is_compiled, recompiles
from gradgate.gates.counts import Counts
from gradgate.gates.decision import LOOKS
from gradgate.gates.exact import compare_counts, different_inputs
from gradgate.gates.sides import Side, Sides, clashes
from gradgate.gates.timing import BASE, COPIES, HEAD, Turn, measure

LAZY = "torch._dynamo"  # what torch imports at an optimizer's first step, for 1 to 2 s
MORE = 2  # further plain steps, in which recompiles are counted

Say = Callable[..., None]


def main(answers: int) -> None:
    """Read a job from standard input, answer on a file descriptor: standard output is for what the sides print."""
    with os.fdopen(answers, "w", buffering=1) as channel, undisturbed():
        _answer(Job.loads(sys.stdin.readline()), _sayer(channel))


def _answer(job: Job, say: Say) -> None:
    try:
        if job.lone:
            _serve(job, say)
        else:
            say(**_work(job, say))
    except MissingError as error:
        say(missing=list(error.args))
    except BrokenError as error:
        say(broken=dict(zip(("side", "doing", "error"), error.args, strict=True)))
    except GradgateError as error:
        say(usage=str(error))


def _sayer(channel: TextIO) -> Say:
    def say(**message: Any) -> None:
        channel.write(json.dumps(message) + "\n")

    return say


def _sides(job: Job) -> tuple[Side, Side]:
    base, head = (
        Side(name, Path(checkout.root), [Path(folder) for folder in checkout.roots])
        for name, checkout in ((BASE, job.base), (HEAD, job.head))
    )
    return base, head


def _serve(job: Job, say: Say) -> None:
    """Serve one side alone: its counts, then a turn for each number of steps that comes on standard input."""
    both = _sides(job)
    side = both[(BASE, HEAD).index(job.lone)]
    with Sides(both) as sides:
        copy = Copy(sides, side, job.target_of(job.lone), job.stage)
        _freeze()
        if job.count:
            say(counts=count_copy(copy).tree())
        else:
            _catch_up([copy], STEPS + MORE)
        clock, step_s, quantities = _calibrate({(job.lone, 1): copy})
        _freeze()
        say(ready={"step_s": step_s, "quantities": quantities, "environment": environment(), "notes": _notes()})
        for line in sys.stdin:
            copy(1)  # its caches are cold: another process has just run
            sample = copy(int(line), clock)
            say(sample=[dict(sample.seconds), sample.waited_s, sample.preempted])


def _work(job: Job, say: Say) -> dict[str, Any]:
    base, head = _sides(job)
    by_name = {BASE: base, HEAD: head}
    with Sides([base, head]) as sides:
        copies: dict[tuple[str, int], Copy] = {}

        def build(name: str) -> Copy:
            say(progress=f"loading {name}")
            return Copy(sides, by_name[name], job.target_of(name), job.stage)

        for name, number in COPIES[:2]:
            try:
                copies[name, number] = build(name)
            except MissingError:
                if name == BASE:
                    build(HEAD)  # what head lacks too is a mistake of spelling, no new benchmark
                raise
        if LAZY in sys.modules:
            say(loaded=LAZY)
        _freeze()
        metrics: list[Metric] = []
        answer: dict[str, Any] = {"environment": environment()}
        if clashes(base, head):
            return {"clash": clashes(base, head)}
        if job.count:
            metrics, mismatch = _count(copies, build, say)
            answer["metrics"] = [metric.tree() for metric in metrics]
            answer["notes"] = _notes()
            if mismatch:
                return {**answer, "mismatch": mismatch}
        else:
            _catch_up(copies.values(), WARM_UP)
        for name, number in COPIES[2:]:
            copies[name, number] = build(name)
            _catch_up([copies[name, number]], STEPS + MORE if job.count else WARM_UP)
        if clashes(base, head):
            return {"clash": clashes(base, head)}
        return {**answer, **_time(job, copies, say)}


def _count(copies: Mapping[tuple[str, int], Copy], build: Callable[[str], Copy], say: Say) -> tuple[list[Metric], str]:
    say(progress="counting base")
    base = count_copy(copies[BASE, 1])
    say(progress="counting head")
    head = count_copy(copies[HEAD, 1])
    again = None
    if base.values != head.values:
        say(progress="counting base once more")
        again = count_copy(build(BASE))
    return compare_counts(base, head, again), different_inputs(base, head)


def count_copy(copy: Copy) -> Counts:
    """All counters of one copy: those of the recorder, then recompiles in plain steps, then the device's peak."""
    counts: Counts = copy.run(lambda step: count(step, copy.side.relative))
    further: dict[str, int] = copy.run(_in_plain_steps)
    return Counts({**counts.values, **further}, counts.by_line, counts.operations, counts.inputs)


def _in_plain_steps(step: Callable[[], Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        step()
        torch.cuda.synchronize()
        found["device_peak_bytes"] = torch.cuda.max_memory_allocated() - held
    else:
        step()
    compiled = recompiles(step, MORE - 1)
    return found if compiled is None else {**found, "recompiles": compiled}


def _notes() -> list[str]:
    return ["torch.compile is in use: operations and memory were counted on the eager program"] if is_compiled() else []


def _freeze() -> None:
    """Keep what is alive out of later collections: one of torch's own objects takes 0.2 s, and falls on one side."""
    gc.collect()
    gc.freeze()


def _catch_up(copies: Iterable[Copy], steps: int) -> None:
    for copy in copies:
        copy(steps)


def _time(job: Job, copies: Mapping[tuple[str, int], Copy], say: Say) -> dict[str, Any]:
    clock, step_s, quantities = _calibrate(copies)
    _freeze()
    steps = steps_a_turn(step_s)
    untimed = beyond_budget(step_s * steps, job.budget_s)
    if untimed:
        return {"untimed": untimed}
    tolerances = tolerances_of(quantities, job.tolerance)
    turns = {key: _turn(copy, clock) for key, copy in copies.items()}
    timing = measure(
        turns,
        tolerances,
        steps=steps,
        budget_s=job.budget_s,
        clock=time.perf_counter,
        seed=job.attempt,
        on_look=lambda done: say(progress=f"timing, block {done} of at most {LOOKS[-1]}"),
    )
    return {"timing": timing_tree(timing, tolerances, ONE_PROCESS)}


def _turn(copy: Copy, clock: Callable[[], float]) -> Turn:
    return lambda steps: copy(steps, clock)


def _calibrate(copies: Mapping[tuple[str, int], Copy]) -> tuple[Callable[[], float], float, list[str]]:
    """The clock that sees all of the step's work, a step's seconds, and the quantities, the decisive one first."""
    threaded, longest, names = False, 0.0, ["cpu_time"]
    for copy in copies.values():
        whole = time.process_time()
        sample = copy(2)
        whole = time.process_time() - whole
        threaded = threaded or whole > 1.05 * sample.seconds["cpu_time"] + 0.002
        longest, names = max(longest, sample.seconds["wall_time"] / 2), list(sample.seconds)
    return (time.process_time if threaded else time.thread_time), max(longest, 1e-6), names


def environment() -> dict[str, Any]:
    """What the numbers depend on."""
    return {
        "torch": torch.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }

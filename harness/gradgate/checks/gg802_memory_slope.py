"""Memory grows from step to step.

## What it detects

A list, cache or meter that keeps tensors of every step, a buffer that is appended to, activations that a reference
outlives, a hook registered in every step and never removed.

## Why it matters

The run ends hours later, out of memory, on a step that has nothing to do with it. Hooks that pile up cost time as well,
and run as often as there are steps behind them.

## How it decides

One run takes 4 steps to settle and 12 more, on copies of two batches in turn, so that a cache of what was computed for
a sample is filled before the first look, and one that goes by the batch's identity is not. Every operation's storages
are followed until they are freed; of the fifth step the report also draws the bytes alive in its course and the lines
that save most for backward. After steps 4, 8, 12 and 16, garbage that only a cycle keeps is collected, and the bytes
alive are added up by the line that made them; what the optimizers keep is left out, since LBFGS gathers a history on
purpose. Statistic: bytes a step of the lines that rose between every two looks. Allowed: 0. Hooks on the run's modules,
those whose forward runs, parameters and optimizers are counted at the same looks, by the line that defines them;
allowed: 0 more.

The holder is the nearest variable, attribute, global or closure that keeps one of the tensors.

False-alarm rate: 0 for steps that keep a fixed number of tensors, reached within 4 steps. A buffer that fills for
longer, a replay memory for one, is named as growth: put its reason under `expected`.

## Example

Bad:

```python
self.seen.append(hidden_BSD.detach())
```

Good:

```python
self.seen.append(float(hidden_BSD.norm()))
```

## How to fix

Keep numbers, or a buffer of fixed size; remove a hook by its handle in `finally`.

## Known limits

Python's own objects (lists of floats), memory that C++ allocates without an operation, and what `batches()` keeps are
not seen. Graphs whose nodes stay but hold no tensor are GG210's.

## Sources

Fault ME-03 of the fault catalogue; PyTorch FAQ, "My model reports cuda runtime error(2): out of memory".
"""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from weakref import WeakSet

from torch import Tensor, nn
from torch._C import DisableTorchFunctionSubclass
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.nn.parameter import Parameter

from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.stored import root_of
from gradgate.core.finding import Finding, Location
from gradgate.core.origin import at_line, is_own_code
from gradgate.core.verdict import Outcome, Series
from gradgate.gates.growth import STEPS, WARM_UP, WINDOW, Growth, growth, rising
from gradgate.gates.lines import Line
from gradgate.subjects.contract import Context, Run, Stage, Subject
from gradgate.watch.retained import holder_label

CODE, NAME = "GG802", "memory-slope"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
MOST_LINES, MOST_POINTS = 12, 200  # of what reports draw


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step on two batches in turn and look at what stays alive."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    batches = cycle(list(islice(run.batches(), 2)))
    hooks: list[Counter[Location | None]] = []
    ran: WeakSet[nn.Module] = WeakSet()  # a model around what the run names carries hooks, too
    made = 0

    def step() -> None:
        nonlocal made
        with calling(f"step {made + 1}"):
            run.step(_another(next(batches)))
        made += 1
        if made >= WARM_UP and (made - WARM_UP) % WINDOW == 0:
            hooks.append(_hooks(run, ran))

    handle = register_module_forward_pre_hook(lambda module, _: ran.add(module))
    try:
        grown = growth(step, partial(_own, subject), partial(_optimizer_state, run))
    finally:
        handle.remove()
    findings = [_of_tensors(line, size, grown.addresses[line]) for line, size in _largest_first(grown.by_line)]
    more = rising(hooks)
    findings += [_of_hooks(place, number) for place, number in more.items()]
    measured = {"bytes_a_step": grown.bytes_a_step, "hooks_a_step": sum(more.values()) / STEPS}
    allowed = {"bytes_a_step": 0, "hooks_a_step": 0}
    return Outcome(tuple(findings), measured, allowed, series=_series(subject, grown))


def _another(batch: Any) -> Any:
    """The batch as a loader would make it anew: what is kept by its identity is kept once more."""
    try:
        return deepcopy(batch)
    except Exception:  # what cannot be copied is handed on
        return batch


def _series(subject: Subject, grown: Growth) -> Series:
    """Bytes alive between steps and within one, and the lines that save most for backward."""
    root = root_of(subject)
    most = sorted(grown.saved.items(), key=lambda item: (-item[1], str(item[0])))[:MOST_LINES]
    return {
        "live_bytes": {"made by the step": grown.live},
        "step_bytes": {"alive": highest(grown.course, MOST_POINTS)},
        "saved_bytes": {_label(line, root): [(1.0, float(size))] for line, size in most},
    }


def _label(line: Line, root: Path) -> str:
    """The line as reports name it, relative to the subject's folder."""
    return f"{replace(line, file=os.path.relpath(line.file, root))}: {line.source}" if line.file else str(line)


def highest(course: Sequence[int], most: int) -> list[tuple[float, float]]:
    """A course in few points: of each stretch the highest, so that no peak is lost.

    Args:
        course: bytes in their order.
        most: how many points at most.

    Returns:
        (number of the event, counted from 1, bytes).
    """
    width = -(-len(course) // most)
    stretches = [range(first, min(first + width, len(course))) for first in range(0, len(course), max(1, width))]
    tops = [max(stretch, key=lambda at: course[at]) for stretch in stretches]
    return [(float(at + 1), float(course[at])) for at in tops]


def _own(subject: Subject, file: str) -> str | None:
    return file if is_own_code(file, subject.source) else None


def _largest_first(by_line: Any) -> list[tuple[Line, int]]:
    return sorted(by_line.items(), key=lambda item: (-item[1], str(item[0])))


def _optimizer_state(run: Run) -> set[int]:
    """Addresses of the storages that the optimizers keep, however deep."""
    found: set[int] = set()
    waiting: list[Any] = [optimizer.state for optimizer in run.optimizers]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            found.add(value.untyped_storage()._cdata)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
    return found


def _hooks(run: Run, ran: Iterable[nn.Module]) -> Counter[Location | None]:
    """Hooks by the line that defines them; what is no Python function has none."""
    owners: dict[int, Any] = {id(optimizer): optimizer for optimizer in run.optimizers}
    for module in (*run.modules.values(), *ran):
        owners |= {id(part): part for part in (*module.modules(), *module.parameters())}
    return Counter(_place(hook) for owner in owners.values() for hook in _hooks_of(owner))


def _hooks_of(owner: Any) -> Iterator[Callable[..., Any]]:
    if isinstance(owner, Parameter):
        tables = [owner._backward_hooks, owner._post_accumulate_grad_hooks]
    else:
        tables = [table for name, table in vars(owner).items() if name.endswith("_hooks") and isinstance(table, dict)]
    for table in tables:
        yield from (table or {}).values()


def _place(hook: Any) -> Location | None:
    function = getattr(hook, "__func__", getattr(hook, "func", hook))
    code = getattr(function, "__code__", None)
    return at_line(code, code.co_firstlineno) if code is not None else None


def _of_tensors(line: Line, size: int, addresses: Collection[int]) -> Finding:
    kept = [thing for thing in gc.get_objects() if issubclass(type(thing), Tensor) and _lies_in(thing, addresses)]
    label = holder_label(kept)
    held = f", kept by {label}" if label else ""
    return Finding(
        CODE,
        NAME,
        f"memory grows by {size / STEPS:,.0f} bytes a step, {size:,} over {STEPS} steps{held}; allowed: 0",
        culprit=Location(line.file, line.number, line.function, line.source) if line.file else None,
        fix="keep numbers, not tensors, or a buffer of fixed size",
        detail={"bytes": size, "steps": STEPS, "holder": label},
    )


def _lies_in(tensor: Tensor, addresses: Collection[int]) -> bool:
    try:
        with DisableTorchFunctionSubclass():  # a lazy module's parameter refuses every function until it is made
            return tensor.untyped_storage()._cdata in addresses
    except (RuntimeError, NotImplementedError):
        return False


def _of_hooks(place: Location | None, number: int) -> Finding:
    return Finding(
        CODE,
        NAME,
        f"{number} more hooks after {STEPS} steps, {number / STEPS:.3g} a step; allowed: 0",
        culprit=place,
        fix="register it once, or remove it by its handle in `finally`",
        detail={"hooks": number, "steps": STEPS},
    )

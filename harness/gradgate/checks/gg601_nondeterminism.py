"""Two runs from one seed differ.

## What it detects

Random numbers from a generator that the run does not seed: numpy's, Python's, one of a module of its own; an order that
depends on hashes, file systems or finishing threads; a cache or counter that survives from one run to the next; memory
that is read before it is written.

## Why it matters

A result that does not repeat can be neither compared nor debugged. Every other comparison of two runs, resuming,
speed, an ablation, then measures this noise first.

## How it decides

Three runs from one seed in one process take 4 steps (8 in profile pr, 32 in nightly). The first two find the global
generators of torch, numpy and Python in the same state; the third finds them in another one, as after somebody else has
used them. Statistic: values that differ, bit for bit: each batch, gradient at the update, parameter, buffer, optimizer
state and metric. Allowed: 0. The finding names the first one in the order in which things happen; to come closer, two
more runs record the outputs of all modules. Where only the third run differs, the finding names the generator that it
depends on.

Metrics that are named after time or memory (`step_s`, `tokens_per_second`, `peak_mib`) are not compared.

False-alarm rate: 0.

## Example

Bad:

```python
def start(seed, ...):
    torch.manual_seed(seed)
    ...
    keep = np.random.rand(len(rows)) < 0.9        # numpy is not seeded
```

Good:

```python
generator = np.random.default_rng(seed)
keep = generator.random(len(rows)) < 0.9
```

## How to fix

Give each source of random numbers a generator that `start` seeds, and save its state with the checkpoint. Sort what
comes from sets and folders. On a GPU: `torch.use_deterministic_algorithms(True)`.

## Known limits

All runs are in one process with one thread, so an order that comes from hash seeds or from the number of threads is not
seen. An operation that is nondeterministic once in a thousand calls may pass. What begins after the last step, a later
epoch for instance, is not seen.

## Sources

PyTorch notes, "Reproducibility".
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gradgate.checks import batches as trees
from gradgate.checks.own_lines import named
from gradgate.checks.parting_lines import line_of_parting_runs
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.snapshot import Difference, Snapshot, first_difference, named_parameters, take
from gradgate.checks.switches import Again
from gradgate.checks.updates import gradients_at_updates
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject
from gradgate.subjects.global_state import GlobalState, seed_everything

CODE, NAME = "GG601", "nondeterminism"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()
STEPS = {"quick": 4, "pr": 8, "nightly": 32}
ELSEWHERE = 1_000_003  # seeds the global generators of the third run
MEASURED = re.compile(
    r"(?<![a-z])(s|ms|seconds?|time|elapsed|duration|speed|throughput|mib|gib|mb|gb|bytes|memory)(?![a-z])"
)

TORCH = "torch's"
GENERATORS: Mapping[str, Callable[[int], Any]] = {
    TORCH: torch.manual_seed,
    "numpy's": np.random.seed,
    "Python's": random.seed,
}


@dataclass(frozen=True)
class _Step:
    """One step of a run: the batch, and everything that was seen from its forward to its end, in that order."""

    batch: Batch
    values: Snapshot


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Run three times."""
    at_start = GlobalState.now()

    def runs(reseed: Callable[[int], Any] | None = None, outputs: bool = False) -> list[_Step]:
        at_start.restore()
        if reseed is not None:
            reseed(ELSEWHERE)
        return _run(stage, context, outputs)

    first = runs()
    apart = _first_apart(first, runs())
    findings = []
    if apart is not None:
        closer = _first_apart(runs(outputs=True), runs(outputs=True))
        finding = _finding(f"two runs from seed {context.seed} differ", closer or apart)
        findings.append(named(finding, partial(_line, subject, runs, runs), context.seed))
    elif (apart := _first_apart(first, runs(seed_everything))) is not None:
        used = [name for name, reseed in GENERATORS.items() if _first_apart(first, runs(reseed)) is not None]
        closer = _first_apart(runs(outputs=True), runs(seed_everything, outputs=True))
        finding = _finding(_depends(used, context.seed), closer or apart)
        if TORCH not in used:  # what lacks a seed is elsewhere than what draws, and torch's has one for all
            other = partial(runs, seed_everything)
            finding = named(finding, partial(_line, subject, runs, other), context.seed)
        findings.append(finding)
    measured = {"runs_that_differ": len(findings), "steps": len(first) - 1}
    return Outcome(tuple(findings), measured, {"runs_that_differ": 0})


def _line(subject: Subject, first: Callable[[], list[_Step]], second: Callable[[], list[_Step]]) -> Location | None:
    """The line at which the second run leaves the first."""
    return line_of_parting_runs(subject.source, first, second, lambda one, other: _first_apart(one, other) is None)


def _run(stage: Stage, context: Context, outputs: bool) -> list[_Step]:
    """A fresh run, step by step; the entry before the first step holds the state it starts from."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    names = named_parameters(run)
    steps = [_Step(None, _state(run))]
    for number, batch in enumerate(islice(run.batches(), STEPS[context.profile]), 1):
        seen: dict[str, Any] = {}
        with ExitStack() as stack:
            if outputs:
                stack.enter_context(_outputs(run, seen))
            updates = stack.enter_context(gradients_at_updates(names))
            stack.enter_context(calling(f"step {number}"))
            metrics = run.step(batch)
        for i, update in enumerate(updates, 1):
            gradients = {names[parameter]: gradient for parameter, gradient in update.gradients.items()}
            seen |= {f"gradient of {name} at update {i}": gradient for name, gradient in gradients.items()}
        steps.append(_Step(batch, {**seen, **_state(run), **_compared(metrics)}))
    return steps


def _state(run: Run) -> Snapshot:
    buffers = {
        f"{name}.{key}": buffer.detach().clone()
        for name, module in run.modules.items()
        for key, buffer in module.named_buffers()
    }
    return {**take(run), **buffers}


def _compared(metrics: Mapping[str, Any]) -> Snapshot:
    kept = {name: value for name, value in metrics.items() if not MEASURED.search(name.lower())}
    return {f"metric {name}": "nan" if value != value else value for name, value in kept.items()}


@contextmanager
def _outputs(run: Run, seen: dict[str, Any]) -> Iterator[None]:
    """Note the output tensors of all modules in the order in which they come."""

    def note(name: str, module: nn.Module, args: Any, output: Any) -> None:
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                label = f"output of {name}"
                seen[f"{label}, {len(seen) + 1}" if label in seen else label] = tensor.detach().clone()

    with ExitStack() as stack:
        for name, module in run.modules.items():
            for key, part in module.named_modules(prefix=name):
                stack.callback(part.register_forward_hook(partial(note, key)).remove)
        yield


def _first_apart(left: list[_Step], right: list[_Step]) -> tuple[int, Difference] | None:
    """The number of the first step in which two runs differ, and where; 0: as they start."""
    for number, (ours, theirs) in enumerate(zip(left, right, strict=False)):
        found = trees.first_difference(ours.batch, theirs.batch) or first_difference(ours.values, theirs.values)
        if found is not None:
            return number, found
    return None


def _depends(used: list[str], seed: int) -> str:
    which = " and ".join(used) or "the"
    return f"a run from seed {seed} depends on what {which} global generator held before it"


def _finding(claim: str, apart: tuple[int, Difference]) -> Finding:
    number, difference = apart
    when = f"in step {number}" if number else "as they start"
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{claim}: first {when}, `{difference.name}`: {difference.text}; allowed: no bit",
        kind="nondeterminism",
        fix="draw every random number from generators that start() seeds; sort sets; no state outside the run",
        detail={"step": number, "value": difference.name},
    )

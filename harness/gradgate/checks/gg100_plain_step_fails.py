"""The plain training step raises.

## What it detects

A step that does not survive three batches on a fresh run: an in-place write to a tensor that backward still needs, a
graph that is walked twice, an optimizer that steps before a pending backward, a shape or dtype that does not fit, or
anything else that ends in an exception.

## Why it matters

It runs before every other check, and with no hook of any kind. Under `saved_tensors_hooks` PyTorch skips its own
version check: with them installed the loudest of all gradient faults becomes a silently wrong gradient.

## How it decides

Statistic: the number of steps that raise, out of 3 on one run from the run's own batches. Allowed: 0. A step's first
call often takes another way than its later ones (optimizer state, caches, accumulated graphs), hence more than one.
False-alarm rate: 0; an exception is a fact. Where it raises, the stage is run once more under the recorder, and the
finding carries the line that it names: the one that wrote, not the one that lost.

## Example

Bad:

```python
weight_BSH = torch.softmax(delta_BSH / tau, dim=-1)
weight_BSH[:, -1] = 0.0                  # softmax saved its output for backward
```

Good:

```python
weight_BSH = torch.softmax((delta_BSH / tau).masked_fill(~valid_BSH, -torch.inf), dim=-1)
```

## How to fix

Read the exception, and the line that the finding names; the code of the fault itself (GG101, GG102, GG105, GG209) is
red beside this one and says how to write it instead. A schedule that raises because a group of parameters was added
behind it says so.

## Known limits

Whatever installs saved-tensor hooks around the check, or inside the step (`save_on_cpu`, checkpointing, a profiler),
switches PyTorch's version check off there. A step that fails on its fourth batch passes.

## Sources

Fault LW-01 of the fault catalogue; PyTorch notes, "Autograd mechanics", in-place correctness checks.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import islice

from torch.optim.lr_scheduler import LRScheduler

from gradgate.checks.own_lines import place, searched
from gradgate.checks.raised import SubjectRaisedError, as_finding, calling
from gradgate.checks.recording import with_guilty_line
from gradgate.checks.second_lines import line_of_second
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG100", "plain-step-fails"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
STEPS = 3


# What the recorder calls a fault of which PyTorch's error says no more; "other": a guard of the trainer's own.
_RECORDED: Mapping[str, tuple[str, ...]] = {
    "inplace_saved": ("inplace_saved", "optimizer_step_between"),
    "other": ("dtype_overflow", "nan_forward", "nan_backward"),
}


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step on the first batches; where that raises, ask the recorder for the line."""
    outcome = _plain(subject, stage, context)
    findings = (
        finding
        if finding.detail.get("groups")
        else with_guilty_line(finding, subject, stage, context, _RECORDED.get(finding.kind, (finding.kind,)))
        for finding in outcome.findings
    )
    return replace(outcome, findings=tuple(_of_second(finding, subject, stage, context) for finding in findings))


def _of_second(finding: Finding, subject: Subject, stage: Stage, context: Context) -> Finding:
    """With the line that goes through a graph again, where it is not the one that did so at first."""
    if finding.kind != "freed_graph":
        return finding
    found = searched(partial(line_of_second, subject.source, partial(_stepped, stage, context)), context.seed)
    return finding if found is None else replace(finding, culprit=place(found))


def _plain(subject: Subject, stage: Stage, context: Context) -> Outcome:
    try:
        return _stepped(stage, context)
    except SubjectRaisedError as raised:
        return Outcome(findings=(_explained(as_finding(raised, CODE, NAME), raised.error),))


def _explained(finding: Finding, error: BaseException) -> Finding:
    """An error of a schedule that does not know of all groups says as much."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    schedules = [held for frame in frames if isinstance(held := frame.f_locals.get("self"), LRScheduler)]
    for schedule in schedules:
        known, groups = len(schedule.base_lrs), len(schedule.optimizer.param_groups)
        if known != groups:
            return replace(
                finding,
                message=f"{finding.message}: the schedule was built when its optimizer had {known} group(s), and now "
                f"it has {groups}; the rates of what was added behind it are not its own",
                culprit=finding.victim,
                fix="add every group of parameters before the schedule is built; until then, step without the schedule",
                detail={**finding.detail, "groups": groups, "scheduled": known},
            )
    return finding


def _stepped(stage: Stage, context: Context) -> Outcome:
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    batches = islice(run.batches(), STEPS)
    for number in range(1, STEPS + 1):
        with calling(f"drawing batch {number} of {STEPS}"):
            batch = next(batches)
        with calling(f"step {number} of {STEPS}"):
            run.step(batch)
    return Outcome(measured={"steps_that_raise": 0}, allowed={"steps_that_raise": 0})

"""The gradient that the step uses disagrees with finite differences of its loss.

## What it detects

A saved tensor that was written through `.data` or numpy, a custom `autograd.Function` with a wrong backward, a hook
that edits gradients, a tensor cut off and marked `requires_grad_()` again, a term that the step scales or leaves out
though the loss has it, accumulation without its division.

## Why it matters

No error, a loss that looks right, and a model that minimises something else.

## How it decides

In float64, on one batch, at the initial parameters moved by 1 % of their size (a generic point: no exact zeros).
Running statistics of the data (GG407) are held still.

1. For each module of the run, random directions u over its trainable parameters, scaled to their size. Statistic:
   `|D-g.u|/s`, where g is the gradient of `losses(batch)["total"]` by backward, D the derivative along u by central
   differences extrapolated over h, h/2 and h/4, and s = sqrt(sum (g_i u_i)^2), the size that g.u has for random signs
   (at least 1e-4 of the loss). Threshold: 1e-5. D counts only where its own estimated error is below a quarter of that,
   and where it disagrees only if all smaller h disagree as well; other step sizes, then other directions are tried, so
   that the kink of a ReLU is no false alarm. It fails where 2 directions disagree, passes where 2 agree and none
   disagrees, and is inconclusive in between. Roundoff is about 1e-16 L / h = 1e-12 for a loss L of a few nats and h =
   1e-3; measured on sound trainers: 1e-12 to 2e-7.
2. What `detach`, `no_grad`, `.data` or a trip through Python cut off is held constant in the differences, since
   autograd says so: their values are recorded on the first evaluation and replayed on the others. A replay that takes
   another way is inconclusive.
3. Equal parts (halves, thirds, quarters of at least 4 rows) of matrices whose gradient is exactly 0 where that of the
   other rows is not. Statistic: the change of the loss, nothing held constant, when such a part moves by its own size,
   as a share of the loss. Threshold: 1e-9 (1e-6 in float32); units that are off, and rows that no input reaches,
   change nothing at all.
4. On two batches, the gradient with which the optimizer really steps, a, against g at the same parameters and random
   state. Statistic for each parameter: `|a-c*g|/|c*g|` (at least 1e-9 of the whole). Threshold: 1e-6, with one factor
   0 < c <= 1 an optimizer, which clipping by norm may put there; clipping by value is recognised too. Where c is
   below 1 on both batches the norms must be the same, or it is no clipping. Where the two draw different random
   numbers and disagree, or the loss has a generator of its own, this part is inconclusive.

False-alarm rate: a kink that changes the slope by more than the threshold would have to lie within some hundredths of
the smallest h, 1e-6, of the point, and of all larger ones at once: 1e-8 for each unit that has one.

## Example

Bad:

```python
weight_BSH = torch.softmax(score_BSH, dim=-1)
weight_BSH.data[~valid_BSH] = 0.0                 # backward reads the overwritten output, and says nothing
```

Good:

```python
weight_BSH = torch.softmax(score_BSH.masked_fill(~valid_BSH, -torch.inf), dim=-1)
```

## How to fix

The finding names the module and the parameter that is furthest off, and the line, where the recorder saw a write that
explains it (GG103, GG104, GG106 and GG107 are red beside this one). For a custom Function, `torch.autograd.gradcheck`
on it alone; otherwise look for writes into tensors that backward reads, between the parameter and the loss.

## Known limits

A cut where none was meant is no wrong gradient (GG202), unless it takes a part of a weight from the rest. Surrogate
gradients (a custom backward that is meant to differ) are reported. Reentrant checkpointing hides cut-off values inside
it. A loss that computes in float32 on the way is held to 2 % (slopes) and 1e-4 (step); one that computes in less is not
judged by differences. A fault that clipping by norm makes up for on both batches (a constant factor) does not show.

## Sources

Faults GF-01, GF-02, GF-10 and GF-11 of the fault catalogue; Ridders 1982, Advances in Engineering Software 4:75, for
the extrapolation; PyTorch, `torch.autograd.gradcheck`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

import torch
from torch import nn

from gradgate.checks.cut_lines import line_of_cut
from gradgate.checks.cut_parts import cut_parts, dead_rows
from gradgate.checks.loss_gradient import (
    LossGradient,
    Slope,
    UnstableLossError,
    gradients_by_backward,
    move_to_a_generic_point,
    plain_loss,
    random_direction,
)
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.recording import with_guilty_line
from gradgate.checks.running_statistics import statistics_still
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.step_gradient import Agreement, compare_step
from gradgate.checks.update_lines import line_of_hook, line_of_written_gradient, watched_step
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG205", "wrong-gradient"
NEEDS: tuple[str, ...] = ("losses",)
PER_STAGE = True
GUILTY = ("silent_data_write", "silent_alias_write", "custom_function", "inplace_saved", "optimizer_step_between")
AGREEING = 2  # directions that settle a module, either way
DIRECTIONS = 6  # directions that are tried
EPSILON = torch.finfo(torch.float32).eps  # coarser than that, and differences mean nothing


@dataclass(frozen=True)
class Bounds:
    """What is allowed.

    Args:
        slope: finite differences against backward, as a share of the slope's size.
        step: the step's gradient of a parameter against the loss's, as a share of its norm.
        rows: the change of the loss by rows without gradient, as a share of it.
    """

    slope: float = 1e-5
    step: float = 1e-6
    rows: float = 1e-9


EXACT, SINGLE = Bounds(), Bounds(slope=2e-2, step=1e-4, rows=1e-6)


@dataclass
class _Report:
    """What the two comparisons gave so far."""

    names: dict[nn.Parameter, str]
    bounds: Bounds = EXACT
    findings: list[Finding] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    unsettled: list[str] = field(default_factory=list)

    def worst(self, name: str, value: float) -> None:
        self.measured[name] = max(value, self.measured.get(name, 0.0))

    def fail(self, message: str, fix: str, **detail: float | str) -> None:
        self.findings.append(Finding(CODE, NAME, message, fix=fix, detail=detail))

    def outcome(self) -> Outcome:
        allowed = {
            "slope_disagreement": self.bounds.slope,
            "step_gradient_error": self.bounds.step,
            "step_gradient_factor": 1 + self.bounds.step,
            "change_by_rows_without_gradient": self.bounds.rows,
        }
        allowed = {name: bound for name, bound in allowed.items() if name in self.measured}
        return Outcome(tuple(self.findings), self.measured, allowed, inconclusive="; ".join(self.unsettled))


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Compare backward with differences, then the step with backward."""
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    report = _Report(named_parameters(run))
    trainable = [parameter for parameter in report.names if parameter.requires_grad]
    if not trainable:
        return Outcome(not_applicable="no parameter requires grad")
    other = next((parameter for parameter in trainable if parameter.dtype != torch.float64), None)
    if other is not None:
        return Outcome(inconclusive=f"`{report.names[other]}` is {other.dtype}, though the run was started in float64")
    generator = torch.Generator().manual_seed(context.seed)
    move_to_a_generic_point(trainable, generator)
    batches = list(islice(run.batches(), 2))
    with statistics_still(run, batches, context.seed, all_that_moves=True):
        _compare(report, run, batches, trainable, generator, context.seed)
    report.findings = [with_guilty_line(finding, subject, stage, context, GUILTY) for finding in report.findings]
    report.findings = [
        named(finding, partial(_line, subject, stage, context, finding), context.seed) for finding in report.findings
    ]
    return report.outcome()


def _compare(
    report: _Report,
    run: Run,
    batches: Sequence[Batch],
    trainable: Sequence[nn.Parameter],
    generator: torch.Generator,
    seed: int,
) -> None:
    try:
        gradient = LossGradient(run, batches[0], trainable, seed)
        report.bounds = bounds_of(gradient.precision)
        for name, parameters in _groups(run):
            _compare_module(report, gradient, name, parameters, generator)
        _look_for_cut_parts(report, gradient, trainable, generator)
    except UnstableLossError as unstable:
        report.unsettled.append(str(unstable))
    _compare_steps(report, run, batches, trainable, seed)


def _line(subject: Subject, stage: Stage, context: Context, finding: Finding) -> Line | None:
    """The line that cuts rows off, writes to gradients, hangs a hook on the parameter, or recomputes with other random
    numbers."""
    start = partial(stage.start, context.seed, dtype=torch.float64, device=context.device)
    parameter = str(finding.detail.get("parameter", ""))
    if "first" in finding.detail:
        return line_of_cut(subject.source, partial(_has_gradient, start, parameter))[0]
    hook = line_of_hook(subject.source, start, parameter)
    run = start()
    (batch,) = islice(run.batches(), 1)
    trace = watched_step(subject.source, run, batch)
    again = next((event.line for event in trace.of("recompute") if not event.said), None)
    return hook or line_of_written_gradient(trace) or again


def _has_gradient(start: Callable[[], Run], name: str) -> bool:
    """Whether all parts of a parameter get some from a run's first batch."""
    run = start()
    (parameter,) = (parameter for parameter, known in named_parameters(run).items() if known == name)
    gradient = gradients_by_backward(run.losses(next(iter(run.batches())))["total"], [parameter])[parameter]
    return bool(gradient.any()) and dead_rows(gradient) is None


def bounds_of(precision: float) -> Bounds:
    """What a loss of this machine epsilon can be held to.

    Raises:
        UnstableLossError: it is coarser than float32.
    """
    if precision > EPSILON:
        raise UnstableLossError(f"the loss computes with a machine epsilon of {precision:.0e}: no difference is exact")
    return EXACT if precision < EPSILON else SINGLE


def _groups(run: Run) -> Iterator[tuple[str, list[nn.Parameter]]]:
    for name, module in run.modules.items():
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if parameters:
            yield name, parameters


def _compare_module(
    report: _Report,
    gradient: LossGradient,
    name: str,
    parameters: Sequence[nn.Parameter],
    generator: torch.Generator,
) -> None:
    """Try directions until two agree and none disagrees, or two disagree."""
    good: list[Slope] = []
    bad: list[Slope] = []
    for _ in range(DIRECTIONS):
        slope = gradient.slope(random_direction(parameters, generator), report.bounds.slope)
        if slope is not None:
            (good if slope.disagreement <= report.bounds.slope else bad).append(slope)
        if len(bad) == AGREEING or (len(good) >= AGREEING and not bad):
            break
    for slope in good + bad:
        report.worst("slope_disagreement", slope.disagreement)
    if len(bad) >= AGREEING:
        _report_module(report, gradient, name, bad[0], parameters, generator)
    elif len(good) < AGREEING or bad:
        tried = f"{len(good)} of {DIRECTIONS} directions agree, {len(bad)} disagree, the rest gives no exact difference"
        report.unsettled.append(f"`{name}`: {tried}")


def _look_for_cut_parts(
    report: _Report, gradient: LossGradient, parameters: Sequence[nn.Parameter], generator: torch.Generator
) -> None:
    for part in cut_parts(gradient, parameters, generator, report.bounds.rows):
        name = report.names[part.parameter]
        report.worst("change_by_rows_without_gradient", part.change)
        report.fail(
            f"rows {part.first} to {part.last} of `{name}` get no gradient, those beside them do; the loss changes by "
            f"{part.change:.1e} of itself when they move by their size, allowed {report.bounds.rows:.0e}",
            "look for a `detach` or a `no_grad` behind one of the layers that share this weight",
            parameter=name,
            first=part.first,
            last=part.last,
        )


def _report_module(
    report: _Report,
    gradient: LossGradient,
    name: str,
    slope: Slope,
    parameters: Sequence[nn.Parameter],
    generator: torch.Generator,
) -> None:
    allowed = report.bounds.slope
    apart = {parameter: gradient.slope(random_direction([parameter], generator), allowed) for parameter in parameters}
    errors = {parameter: abs(s.by_differences - s.by_backward) for parameter, s in apart.items() if s is not None}
    worst = report.names[max(errors, key=lambda parameter: errors[parameter])] if errors else name
    report.fail(
        f"the gradient of `{name}` is wrong: along a random direction the loss changes by {slope.by_differences:.6g}, "
        f"backward says {slope.by_backward:.6g} "
        f"({slope.disagreement:.1e} of their size apart, allowed {allowed:.0e}); furthest off: `{worst}`",
        f"look between `{worst}` and the loss for a write to a tensor that backward reads, or a custom backward",
        module=name,
        parameter=worst,
        slope_by_differences=slope.by_differences,
        slope_by_backward=slope.by_backward,
    )


def _compare_steps(
    report: _Report,
    run: Run,
    batches: Sequence[Batch],
    trainable: Sequence[nn.Parameter],
    seed: int,
) -> None:
    """Real steps, each against the gradient of the loss at the same point."""
    first, again, other = (plain_loss(run, batches[0], s) for s in (seed, seed, seed + 1))
    if first != again:
        report.unsettled.append("the loss draws random numbers of its own: the step's gradient cannot be compared")
        return
    found = report.findings
    steps = []
    for batch in batches:
        steps.append(compare_step(run, batch, trainable, seed))
        before = len(found)
        for agreement in steps[-1].agreements:
            _compare_step(report, agreement)
        if len(found) > before and first != other and not steps[-1].same_random_numbers:
            del found[before:]
            report.unsettled.append("step and loss draw different random numbers, and their gradients differ")
        if len(found) > before:
            return
    _compare_clipping(report, *(step.agreements for step in steps))


def _compare_step(report: _Report, agreement: Agreement) -> None:
    if agreement.clipped_by_value:
        return
    name = report.names[agreement.parameter]
    report.worst("step_gradient_error", agreement.error)
    report.worst("step_gradient_factor", agreement.factor)
    if agreement.factor <= 0 or agreement.error > report.bounds.step:
        report.fail(
            f"the step does not use the loss's gradient: that of `{name}` at the update is {agreement.error:.1e} of "
            f"its norm away from {agreement.factor:.4g} times the loss's, allowed {report.bounds.step:.0e}",
            "look between backward() and optimizer.step(), and at what `losses` and the step do differently",
            parameter=name,
            factor=agreement.factor,
            cosine=agreement.cosine,
        )
    elif agreement.factor > 1 + report.bounds.step:
        report.fail(
            f"the step's gradient is {agreement.factor:.6g} times the loss's; allowed: at most 1",
            "divide each micro-batch's loss by its share of the whole batch, and zero the gradients before backward",
            factor=agreement.factor,
        )


def _compare_clipping(report: _Report, first: Sequence[Agreement], second: Sequence[Agreement]) -> None:
    for one, other in zip(first, second, strict=False):
        both_smaller = max(one.factor, other.factor) < 1 - report.bounds.step
        if both_smaller and not one.clipped_by_value and abs(one.norm / other.norm - 1) > 1e-4:
            report.fail(
                f"the step's gradient is {one.factor:.6g} and {other.factor:.6g} times the loss's on two batches, "
                f"its norm {one.norm:.4g} and {other.norm:.4g}; allowed: a factor of 1, or the same norm (clipping)",
                "minimise the loss itself: look for a division by the number of micro-batches or processes too many",
                factor=one.factor,
            )

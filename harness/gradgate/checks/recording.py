"""One recorded run of a stage and of the formulas, for every check that looks at what the recorder saw; and the guilty
line from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from numbers import Real
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from gradgate.checks.cases import Case, ragged
from gradgate.checks.edges import may_be_frozen
from gradgate.checks.formula_calls import weights_call
from gradgate.checks.isolation import isolated
from gradgate.checks.raised import SubjectRaisedError, calling
from gradgate.checks.updates import parameters_of
from gradgate.core.finding import SEVERITIES, Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Functions, Run, Stage, Subject
from gradgate.watch.block import watch

CASES = 3  # ragged batches on which the formulas are recorded
STEPS = 5  # two more than the last two, which is what a graph must survive to count as kept

_RECORDINGS: WeakKeyDictionary[Stage, dict[tuple[int, str], Recording]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Recording:
    """What the recorder saw in a few steps of a fresh run. It holds text and numbers alone, no tensor.

    Args:
        findings: worst first, of every code and severity.
        steps: how many ran to their end.
        backwards: how many the recorder saw.
        raised: what the run raised, in words; empty where it did not.
        nan_metrics: the metrics that were NaN in every step.
    """

    findings: tuple[Finding, ...]
    steps: int
    backwards: int
    raised: str = ""
    nan_metrics: tuple[str, ...] = ()

    def outcome(self, code: str) -> Outcome:
        """What the recording says of one code.

        Errors fail the check. Warnings and notes are shown and do not: the recorder gives a warning where a fault was
        there but changed nothing that it could see, a note where the code says that it is meant.
        """
        found = tuple(finding for finding in self.findings if finding.code == code)
        errors = sum(finding.severity == "error" for finding in found)
        measured = {"faults": errors, "steps": self.steps, "backwards": self.backwards}
        allowed = {"faults": 0}
        if errors:
            return Outcome(found, measured, allowed)
        if self.raised:
            reason = f"{self.raised}: what comes behind it was not recorded (see GG100)"
            return Outcome(found, measured, allowed, inconclusive=reason)
        if not self.backwards:
            reason = f"no backward was seen in {self.steps} steps: nothing to look at"
            return Outcome(found, not_applicable=reason)
        return Outcome(found, measured, allowed)


def recorded(subject: Subject, stage: Stage, context: Context) -> Recording:
    """The recording of a stage at a seed, from memory where there is one: many checks read it, one run is made.

    The subject's formulas are recorded with the stage that learns tokens, since a run may use them without gradient.

    Raises:
        SubjectRaisedError: the stage does not start.
    """
    known = _RECORDINGS.setdefault(stage, {})
    key = (context.seed, context.device)
    if key not in known:
        with isolated(context.seed, "recording"):
            known[key] = _record(subject, stage, context)
    return known[key]


def with_guilty_line(
    finding: Finding, subject: Subject, stage: Stage, context: Context, kinds: Sequence[str], mention: str = ""
) -> Finding:
    """A finding with the lines that the recorder names for a fault of these kinds; as it is where it names none.

    Args:
        finding: of a check that measured the fault and does not know where it is.
        subject: whose stage it is.
        stage: whose recording to read.
        context: of the check.
        kinds: in which the fault may show, the likeliest first.
        mention: the name of a parameter; a recorded finding that names it, or its layer, is preferred.
    """
    try:
        seen = recorded(subject, stage, context).findings
    except SubjectRaisedError:
        return finding
    able = [other for other in seen if other.kind in kinds and other.severity != "note" and other.culprit]
    able.sort(key=lambda other: (not _names(other, mention), kinds.index(other.kind)))
    if not able:
        return finding
    guilty = able[0]
    return replace(
        finding,
        culprit=guilty.culprit,
        victim=guilty.victim or finding.victim,
        op=guilty.op,
        tensor=guilty.tensor,
        confirmed=guilty.confirmed,
        detail={**finding.detail, "recorder": guilty.message},
    )


def _names(finding: Finding, parameter: str) -> bool:
    """Whether a finding quotes a parameter, or a layer around it: `heads` for `model.heads.0.weight`."""
    quoted = finding.message.split("`")[1::2]
    return any(f".{parameter}.".find(f".{name}.") >= 0 for name in quoted if parameter)


def _record(subject: Subject, stage: Stage, context: Context) -> Recording:
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    raised, metrics = "", []
    block = watch(*_trained(run, stage), *run.optimizers)
    try:
        with calling("a recorded step"), block:
            for batch in islice(run.batches(), STEPS):
                metrics.append(run.step(batch) or {})  # noqa: PERF401 - those before one that raises count
    except SubjectRaisedError as error:
        raised = f"step {len(metrics) + 1} of {STEPS}: {error}"
    findings, backwards = list(block.findings), block.backwards
    if stage is stage_of_formulas(subject):
        formulas = watch()
        with formulas:
            call_formulas(subject.functions, context)
        findings += formulas.findings
        backwards += formulas.backwards
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    nan = [name for name in metrics[0] if all(_is_nan(each.get(name)) for each in metrics)] if metrics else []
    return Recording(tuple(findings), len(metrics), backwards, raised, tuple(nan))


def _is_nan(value: Any) -> bool:
    return isinstance(value, Real) and value != value


def stage_of_formulas(subject: Subject) -> Stage | None:
    """The stage with which the subject's formulas are run: the last that learns tokens, else the last."""
    stages = [stage for stage in subject.stages if stage.objective == "tokens"] or list(subject.stages)
    return stages[-1] if stages else None


def call_formulas(functions: Functions, context: Context) -> None:
    """Forward, and backward of what has a graph. What raises here is for GG402 and GG404 to report."""
    for case in islice(ragged(context.seed, CASES, gaps=functions.gaps), CASES):
        for output in _outputs(functions, case.tracked()):
            with suppress(Exception):
                answer = output().sum()
                if answer.requires_grad:  # weights may be made without one
                    answer.backward()


def _outputs(functions: Functions, case: Case) -> Iterator[Callable[[], Tensor]]:
    if functions.weights is not None:
        weights = weights_call(functions, case, discount_lambda=0.95, temperature=0.7)
        yield lambda: weights().square()
    if functions.loss is not None:
        loss = functions.loss
        logits_BSHV = torch.randn(*case.labels.shape, case.token_BS.numel()).requires_grad_()
        yield lambda: loss(logits_BSHV, case.labels, torch.full(case.labels.shape, 0.5))
    if functions.value_loss is not None:
        value_loss = functions.value_loss
        yield lambda: value_loss(case.value_BS, case.reward_BS, case.valid_BS)


def _trained(run: Run, stage: Stage) -> list[nn.Module]:
    """Modules that are expected to train.

    One of which no optimizer holds a part is taken for frozen where it is in eval mode, or where edges are declared and
    none names it.
    """
    held = {parameter for optimizer in run.optimizers for parameter in parameters_of(optimizer)}
    return [
        module
        for name, module in run.modules.items()
        if not may_be_frozen(stage, name, module) or held.intersection(module.parameters())
    ]

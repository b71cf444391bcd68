"""GG306: a precision that crashes, overflows or is not scaled turns it red; the clean twin is green."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fixtures.check_runs import errors, red, run_check
from fixtures.precision_faults import PRECISION_FAULTS, Inside, InsideUnscaled, Mixed, precise
from fixtures.pytest_fixtures import rest_at_night
from gradgate.core.errors import SubjectError

NEIGHBOURS = ("GG100",)
TOLD = {
    "nothing-scales-the-loss": "in fp32+fp16 the loss is not scaled: its gradient arrives times 1, allowed: at least 2",
    "overflows": "in fp32+fp16 after 3 steps loss term `total` is not finite",
    "dtypes-meet": "in fp32+bf16 step 1 raised RuntimeError: ",
    "no-autocast": "in fp32+bf16 no operation of a step computes in bf16",
    "autocast-is-off": "in fp32+bf16 no operation of a step computes in bf16",
    "half-parameters": "in fp32+bf16 parameter `trunk.",
    "infinite-update": "in fp32+bf16 after 3 steps parameter `",
}


@pytest.mark.parametrize("name", PRECISION_FAULTS)
def test_gg306_names_the_precision_and_what_is_wrong_with_it(name: str) -> None:
    """The other precision is not accused, and in float32 no neighbour sees anything."""
    precision, run, parts = PRECISION_FAULTS[name]
    subject = precise(run, precision, **parts)
    outcome = run_check("GG306", subject, subject.stages[0])

    (message,) = errors(outcome)
    assert message.startswith(TOLD[name])
    assert outcome.measured["failing"] == 1
    assert name == "dtypes-meet" or red(subject, subject.stages[0], NEIGHBOURS) == []


LINES = {
    "nothing-scales-the-loss": "self.scaler.scale(total).backward()",
    "no-autocast": "",
    "autocast-is-off": "enabled=False",
    "half-parameters": "module.to(DTYPES[precision])",
}


@pytest.mark.parametrize("name", LINES)
def test_gg306_names_the_line_that_keeps_a_run_from_its_precision(name: str) -> None:
    """The first backward, the autocast that would do it if it were on, the cast; none where there is no autocast."""
    precision, run, parts = PRECISION_FAULTS[name]
    subject = precise(run, precision, **parts)

    (finding,) = run_check("GG306", subject, subject.stages[0]).findings

    assert (LINES[name] in finding.culprit.source) if finding.culprit else not LINES[name]


@pytest.mark.parametrize("seed", rest_at_night(range(3), day=1))
def test_gg306_passes_the_clean_twin(seed: int) -> None:
    """Both dtypes of autocast; the scale is the scaler's first."""
    subject = precise(Mixed, "bf16", "fp16")
    outcome = run_check("GG306", subject, subject.stages[0], seed)

    assert outcome.findings == ()
    assert outcome.measured["loss_scale"]["fp32+bf16"] is None
    assert outcome.measured["loss_scale"]["fp32+fp16"] == pytest.approx(65536, rel=1e-2)


@pytest.mark.parametrize(("run", "found"), [(Inside, 0), (InsideUnscaled, 1)])
def test_gg306_knows_a_scaled_loss_that_is_read_inside_the_step(run: type[Mixed], found: int) -> None:
    """There `total` is what the backward starts from, and its gradient arrives as it is."""
    subject = precise(run, "fp16")

    assert len(errors(run_check("GG306", subject, subject.stages[0]))) == found


def test_gg306_refuses_a_precision_that_it_does_not_know() -> None:
    """With what there is."""
    subject = precise(Mixed, "bf16")
    stage = replace(subject.stages[0], precisions={"fp8": subject.stages[0].start})

    with pytest.raises(SubjectError, match="'fp8' is none of fp32, bf16, fp16"):
        run_check("GG306", subject, stage)

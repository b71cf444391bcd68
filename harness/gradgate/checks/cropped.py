"""The losses of a stage's own batches, cut down to a position, to a few, to one row, and without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import isfinite

import torch
from torch import Tensor

from gradgate.checks.oracles import IGNORED
from gradgate.checks.raised import SubjectRaisedError, as_finding, calling
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.core.finding import Finding
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage

LENGTHS = (1, 2, 3)
FIX = "follow the first number that is not finite: an empty mean, 0/0; `squeeze` an axis by its number"


def of_cropped_batches(stage: Stage, context: Context, code: str, name: str) -> tuple[list[Finding], int]:
    """What is wrong with the losses of short batches, one finding a symptom, and how many batches were tried.

    None is tried where the run has no `losses`.
    """
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    if "losses" not in declared(run):
        return [], 0
    found: dict[str, Finding] = {}
    tried = 0
    for told, batch in list(_short(run)):
        tried += 1
        try:
            with seeded(context.seed):
                wrong = list(_wrong(run, batch))
        except SubjectRaisedError as raised:
            symptom = str(raised)
            found.setdefault(symptom, _told(as_finding(raised, code, name), stage, told))
            with calling("start()"):
                run = stage.start(context.seed, device=context.device)  # what raised may be in the middle of anything
            continue
        for symptom, message in wrong:
            found.setdefault(symptom, _told(Finding(code, name, message, fix=FIX), stage, told))
    return list(found.values()), tried


def _short(run: Run) -> Iterator[tuple[str, Batch]]:
    whole = next(iter(run.batches()))
    has = declared(run)
    for length in LENGTHS if "crop" in has else ():
        with calling("crop()"):
            yield f"the first {length} positions of a batch", run.crop(whole, length)
    if "rows" in has:
        for length in LENGTHS[:2] if "crop" in has else ():
            with calling("select_rows() and crop()"):
                yield f"the first {length} positions of one row", run.crop(run.select_rows(whole, [0]), length)
        with calling("select_rows()"):
            yield "one row of a batch", run.select_rows(whole, [0])
    yield from _without_labels(whole)


def _without_labels(whole: Batch) -> Iterator[tuple[str, Batch]]:
    """A mapping's `labels`, none in the first row, then none at all: prompts that fill their rows, or were cut."""
    label_BS = whole.get("labels") if isinstance(whole, Mapping) else None
    if not isinstance(label_BS, Tensor) or label_BS.is_floating_point() or label_BS.dim() < len("BS"):
        return
    first_B = torch.arange(len(label_BS), device=label_BS.device) == 0
    for told, gone in (("no label in its first row", first_B), ("no label", torch.ones_like(first_B))):
        of_rows = gone.view(-1, *(1,) * (label_BS.dim() - 1))
        yield f"a batch with {told}", {**whole, "labels": label_BS.masked_fill(of_rows, IGNORED)}


def _wrong(run: Run, batch: Batch) -> Iterator[tuple[str, str]]:
    """Symptom and message of each term that is no number, of a loss off the graph, of a gradient that is no number."""
    with calling("losses()"):
        terms = run.losses(batch)
    bad = {name: float(term.detach()) for name, term in terms.items() if not isfinite(float(term.detach()))}
    yield from ((name, f"`{name}` is {number}, expected a finite number") for name, number in bad.items())
    total = terms["total"]
    if not total.requires_grad:
        yield "off the graph", "`total` is not on the graph: a step's backward raises; expected an attached 0"
    elif not bad:
        yield from _bad_gradients(run, total)


def _bad_gradients(run: Run, total: Tensor) -> Iterator[tuple[str, str]]:
    names = {parameter: name for parameter, name in named_parameters(run).items() if parameter.requires_grad}
    with calling("backward of `total`"):
        gradients = torch.autograd.grad(total, list(names), allow_unused=True)
    for name, gradient in zip(names.values(), gradients, strict=True):
        if gradient is not None and not bool(gradient.isfinite().all()):
            yield "gradient", f"the gradient of `total` at `{name}` is not finite"
            return


def _told(finding: Finding, stage: Stage, told: str) -> Finding:
    return replace(finding, message=f"stage {stage.name!r}: {finding.message}, on {told}")

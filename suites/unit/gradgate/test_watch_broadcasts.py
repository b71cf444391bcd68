"""Shapes that met by accident are found on their way to the loss; shapes that were meant are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gradgate
from gradgate.core.finding import Finding

N = 5
BATCH, TARGET, WEIGHT = torch.linspace(-1, 1, 3 * N).view(N, 3), torch.linspace(0, 1, N), torch.ones(N)
Loss = Callable[[Tensor], Tensor]


def watched(loss: Loss, batch: Tensor = BATCH) -> list[Finding]:
    """The findings of one backward from a loss of a prediction [N, 1]."""
    model = nn.Linear(3, 1)
    with gradgate.watch(model) as watch:
        loss(model(batch)).backward()
    return watch.findings


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda out: F.mse_loss(out, TARGET), "[5, 1] and [1, 5] are spread to [5, 5] in mse_loss()"),
        (lambda out: F.l1_loss(out, TARGET), "[5, 1] and [1, 5] are spread to [5, 5] in sub()"),
        (lambda out: F.smooth_l1_loss(out, TARGET), "are spread to [5, 5] in smooth_l1_loss()"),
        (lambda out: nn.HuberLoss()(out, TARGET), "are spread to [5, 5] in huber_loss()"),
        (lambda out: (out - TARGET).square().mean(), "[5, 1] against [5] becomes [5, 5] in sub()"),
        (lambda out: (TARGET - out).abs().sum() / N, "[5] against [5, 1] becomes [5, 5] in sub()"),
        (lambda out: (out.square() * WEIGHT).mean(), "[5, 1] against [5] becomes [5, 5] in mul()"),
        (lambda out: 0.5 * ((out - TARGET) ** 2).mean() + 0.1 * out.mean(), "[5, 1] against [5] becomes [5, 5] in sub"),
    ],
)
def test_watch_finds_a_loss_over_all_pairs(loss: Loss, told: str) -> None:
    """An error with the line and the shapes."""
    (finding,) = watched(loss)

    assert told in finding.message
    assert (finding.code, finding.kind, finding.severity) == ("GG415", "other", "error")
    assert finding.culprit is not None and finding.culprit.function == "<lambda>"


@pytest.mark.parametrize(
    "loss",
    [
        lambda out: F.mse_loss(out[:, 0], TARGET),
        lambda out: (out - TARGET[:, None]).square().mean(),
        lambda out: (out + torch.ones(1)).square().mean(),
        lambda out: (out * torch.ones(N, 4)).square().mean(),
        lambda out: (out - out.T).square().mean(),
        lambda out: (out - TARGET[None]).square().mean(),
        lambda out: (out[:, None] - torch.zeros(1, 7, 1)).square().mean(),
        lambda out: ((out - torch.arange(5.0)).softmax(-1) @ BATCH).square().mean(),
        lambda out: (out[:, 0] * (TARGET > 0.5)).sum(),
        lambda out: (out - 1).square().mean(),
        lambda out: ((out - TARGET).detach() + out).square().mean(),
    ],
)
def test_watch_is_quiet_where_shapes_are_meant(loss: Loss) -> None:
    """Equal shapes, biases, scales, masks, pairs that are written as pairs, scores before a softmax."""
    assert watched(loss) == []


def test_watch_is_quiet_where_no_backward_starts_behind_it() -> None:
    """A number for the log may be what it wants."""
    model = nn.Linear(3, 1)
    with gradgate.watch(model) as watch:
        out = model(BATCH)
        (out - TARGET).square().mean()
        out.mean().backward()
    assert watch.findings == []


@pytest.mark.parametrize(("squeeze", "notes"), [(lambda out: out.squeeze(), 1), (lambda out: out.squeeze(-1), 0)])
def test_watch_notes_a_squeeze_that_drops_a_batch_of_one(squeeze: Loss, notes: int) -> None:
    """A note: whether it does harm depends on what comes behind it."""
    found = watched(lambda out: squeeze(out).square().mean(), BATCH[:1])

    assert [(finding.severity, finding.op) for finding in found] == [("note", "squeeze")] * notes

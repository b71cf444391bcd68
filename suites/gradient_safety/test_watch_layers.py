"""Two training steps of every layer and loss of torch.nn under the recorder: it stays quiet, and changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import gradgate
from fixtures.layers import LAYERS, loss_of


def trained(name: str, *, watched: bool) -> tuple[list[Tensor | None], list[gradgate.Finding]]:
    """Losses, gradients and parameters of two steps; what the recorder found."""
    torch.manual_seed(0)
    model, inputs = LAYERS[name]()
    sparse = "sparse" in name
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.0 if sparse else 0.9)
    losses: list[Tensor | None] = []

    def steps() -> None:
        for _ in range(2):
            optimizer.zero_grad()
            loss = loss_of(model(*inputs))
            loss.backward()
            losses.append(loss.detach().clone())
            optimizer.step()

    if not watched:
        steps()
        found: list[gradgate.Finding] = []
    else:
        with gradgate.watch(model, optimizer) as watch:
            steps()
        found = watch.findings
    parameters = list(model.parameters())
    grads = [None if p.grad is None else p.grad.to_dense() for p in parameters]
    return [*losses, *grads, *(p.detach() for p in parameters)], found


@pytest.mark.filterwarnings("ignore")  # torch's own, on inputs this small
@pytest.mark.parametrize("name", LAYERS)
def test_watch_is_quiet_on_a_layer(name: str):
    """Bit-equal losses, gradients and parameters, and no finding."""
    plain, _ = trained(name, watched=False)
    watched, found = trained(name, watched=True)
    assert [finding.headline() for finding in found] == []
    for before, after in zip(plain, watched, strict=True):
        assert (before is None) == (after is None)
        assert before is None or torch.equal(before, after)

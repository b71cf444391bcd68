"""GG603: what a module holds as a plain attribute is in no `state_dict`, and a resumed run begins it anew."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixtures.check_runs import errors, run_check
from fixtures.plain_loop import CapableRun
from gradgate.subjects.contract import Stage, Subject


class Normalised(nn.Linear):
    """A layer that keeps a running mean of its inputs, as a buffer or as an attribute."""

    mean: Tensor

    def __init__(self, plain: bool, **like: Any) -> None:
        super().__init__(3, 1, **like)
        if plain:
            self.mean = torch.zeros(3, **like)
        else:
            self.register_buffer("mean", torch.zeros(3, **like))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return super().forward(x - self.mean)


@pytest.mark.parametrize(("plain", "found"), [(True, 1), (False, 0)])
def test_running_mean_that_is_no_buffer_is_missing(plain: bool, found: int) -> None:
    """The checkpoint has the module's `state_dict`."""

    class Run(CapableRun):
        def __init__(self, seed: int, **options: Any) -> None:
            super().__init__(seed, **options)
            torch.manual_seed(seed)
            self.modules["model"] = Normalised(plain, **self.like)
            self._optimizer = torch.optim.SGD(self.modules["model"].parameters(), lr=0.1)
            self.optimizers = [self._optimizer]

    stage = Stage("all", Run)
    told = errors(run_check("GG603", Subject("normalised", [stage]), stage))
    assert sum("mean` changes in training" in message for message in told) == found

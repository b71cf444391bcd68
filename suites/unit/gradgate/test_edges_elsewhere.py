"""GG204 where an edge carries nothing at the start: at other parameters it is asked once more."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from fixtures.check_runs import errors, run_check
from gradgate.subjects.contract import Run, Stage, Subject

WIDTH, CLASSES = 4, 5


class Referred(Run):
    """A model with a divergence from its frozen copy, and a value head of zeros on its trunk."""

    detaches, cuts = False, False

    def __init__(self, seed: int, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> None:
        torch.manual_seed(seed)
        trunk, head, value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES), nn.Linear(WIDTH, 1)
        nn.init.zeros_(value.weight)
        self.modules = {"trunk": trunk.to(dtype), "head": head.to(dtype), "value": value.to(dtype)}
        self.reference = copy.deepcopy(nn.Sequential(trunk, head)).requires_grad_(False)
        self.row_BD = torch.randn(3, WIDTH, dtype=dtype)

    def batches(self) -> Iterator[Tensor]:
        while True:
            yield self.row_BD

    def losses(self, batch: Tensor) -> Mapping[str, Tensor]:
        hidden_BD = self.modules["trunk"](batch)
        logp_BV = self.modules["head"](hidden_BD).log_softmax(-1)
        logq_BV = self.reference(batch).log_softmax(-1)
        p_BV = (logp_BV.detach() if self.detaches else logp_BV).exp()
        value_B = self.modules["value"](hidden_BD.detach() if self.cuts else hidden_BD)[:, 0]
        terms = {
            "tokens": -logp_BV[:, 0].mean(),
            "kl": (p_BV * (logp_BV - logq_BV)).sum(-1).mean(),
            "value": (value_B - 1).square().mean(),
        }
        return terms | {"total": sum(terms.values(), torch.zeros(()))}

    def step(self, batch: Tensor) -> Mapping[str, float]:
        return {}


def told_of(code: str, value: tuple[str, ...] = ("trunk", "value"), **faults: bool) -> list[str]:
    """Messages on a run with these faults, whose value loss is declared to train these modules."""
    edges = {"tokens": ("trunk", "head"), "kl": ("trunk", "head"), "value": value}
    stage = Stage("tokens", type("Faulty", (Referred,), faults), edges=edges)
    return errors(run_check(code, Subject("referred", [stage]), stage))


@pytest.mark.parametrize(
    ("faults", "told"),
    [
        ({}, []),
        ({"detaches": True}, ["`kl` gives `trunk` no gradient", "`kl` gives `head` no gradient"]),
        ({"cuts": True}, ["`value` gives `trunk` no gradient"]),
    ],
)
def test_edges_that_carry_nothing_anywhere_are_missing(faults: Mapping[str, bool], told: list[str]) -> None:
    """A divergence from what the model still is, and the trunk below a head of zeros, get theirs later."""
    messages = told_of("GG204", **faults)
    assert [message[: len(text)] for message, text in zip(messages, told, strict=True)] == told


@pytest.mark.parametrize(("cuts", "found"), [(False, 1), (True, 0)])
def test_a_head_of_zeros_hides_no_forbidden_edge(cuts: bool, found: int) -> None:
    """What it will reach as soon as it is not zero."""
    messages = told_of("GG203", ("value",), cuts=cuts)
    assert len(messages) == found and all(message.startswith("`value` reaches `trunk`") for message in messages)

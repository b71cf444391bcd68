"""Which usual faults a formula has, where it has several at once: each by its name.

The formula is asked on a few batches, and so are the formulas of `deviations`, with one fault, with two, and so on. The
smallest set of faults with which all numbers agree is what the formula has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from gradgate.checks import cases, oracles
from gradgate.checks.formula_calls import Call
from gradgate.checks.usual_faults import DEVIATIONS, Deviation, Deviations

MOST = 5  # faults at once
CLOSE = 1e-4  # of the largest number: a fault is much more, roundoff in float32 much less
HORIZON = 3
_ROWS = ("1111111", "1110000", "0011111", "1100000", "0001100")
_PACKED = ((0, 0, 0, 1, 1, 2, 2), (0, 0, 1, 1, 1, 1, 1), (0, 1, 1, 1, 2, 2, 2))
_SETTINGS = {"gamma": 0.9, "gae_lambda": 0.6, "discount_lambda": 0.8, "temperature": 0.7}


@dataclass(frozen=True)
class Told:
    """What a formula's faults are.

    Args:
        subject: the formula's numbers, as messages name them.
        faults: in the order in which they are known.
    """

    subject: str
    faults: tuple[Deviation, ...]

    @property
    def text(self) -> str:
        """All of them in one sentence."""
        return f"{self.subject} {' and '.join(fault.told for fault in self.faults)}"


def told_apart(call: Call, device: str) -> Told | None:
    """The faults of the formula that a call is of; None: it has others, or none that shows.

    Args:
        call: one that fails; its function is asked again.
        device: where.
    """
    known = DEVIATIONS.get(call.name)
    if known is None:
        return None
    asked = [each for each in _calls(call) if not each.is_beyond_the_formula]
    answers = [(each, answer) for each in asked if (answer := _answer(each, device)) is not None]
    if not answers or len(answers) < len(asked):
        return None
    found = next(_explaining(known, answers), None)
    return Told(known.subject, found) if found else None


def _explaining(known: Deviations, answers: Sequence[tuple[Call, Tensor]]) -> Iterator[tuple[Deviation, ...]]:
    """The smallest sets of faults with which all answers agree, without what one of their size leaves open."""
    for number in range(MOST + 1):
        fitting = [
            chosen
            for chosen in combinations(known.known, number)
            if _go_together(chosen) and all(_agrees(known, call, answer, chosen) for call, answer in answers)
        ]
        if fitting:
            yield tuple(fault for fault in fitting[0] if all(fault in other for other in fitting))
            return


def _go_together(chosen: Sequence[Deviation]) -> bool:
    kinds = [fault.kind for fault in chosen if fault.kind]
    return len(kinds) == len(set(kinds))


def _agrees(known: Deviations, call: Call, answer: Tensor, chosen: Sequence[Deviation]) -> bool:
    names = {fault.name for fault in chosen}
    expected = torch.tensor(known.compute(call.arguments, call.options, names), dtype=torch.float64)
    expected = expected.reshape(()) if expected.numel() == 1 and not answer.dim() else expected
    if expected.shape != answer.shape:
        return False
    where = known.places(call.arguments)
    distance = (answer - expected).abs() if where is None else (answer - expected).abs()[where]
    size = expected.abs() if where is None else expected.abs()[where]
    return not distance.numel() or float(distance.max()) <= CLOSE * max(1.0, float(size.max()))


def _answer(call: Call, device: str) -> Tensor | None:
    """What the formula gives, or None where it raises or gives no finite numbers.

    It is given copies: one that writes into its values would be held against what it made of them.
    """
    given = {name: held.clone() if isinstance(held, Tensor) else held for name, held in call.arguments.items()}
    try:
        answer = replace(call, arguments=given)(device).detach().double()
    except Exception:  # told by the check itself
        return None
    return answer if bool(answer.isfinite().all()) else None


def _calls(call: Call) -> Iterator[Call]:
    """Calls of the same function on batches that show every fault: ragged on both sides, and packed."""
    valid_BS = torch.tensor([[mark == "1" for mark in row] for row in _ROWS])
    full_BS = torch.ones(len(_PACKED), valid_BS.shape[1], dtype=torch.bool)
    for seed in range(2):
        yield from _of_case(call, cases.make("rows", valid_BS, HORIZON, seed))
        yield from _of_case(call, cases.make("documents", full_BS, HORIZON, seed, torch.tensor(_PACKED)))


def _of_case(call: Call, case: cases.Case) -> Iterator[Call]:
    options = dict(call.options)
    options |= {name: held for name, held in _SETTINGS.items() if name in options and call.takes(name)}
    if "document_BS" in options:
        options["document_BS"] = case.document_BS
    if case.document_BS is not None and "document_BS" not in call.options and call.name not in ("loss", "value_loss"):
        return
    for arguments in _arguments(call, case):
        yield replace(call, case=case.describe(), arguments=arguments, options=options)


def _arguments(call: Call, case: cases.Case) -> Iterator[Mapping[str, Any]]:
    value_BS, valid_BS, label_BSH = case.value_BS.detach(), case.valid_BS, case.labels
    if call.name == "returns":
        yield {"reward_BS": case.reward_BS, "value_BS": value_BS, "valid_BS": valid_BS}
    elif call.name == "weights":
        yield {"value_BS": value_BS, "label_BSH": label_BSH, "valid_BS": valid_BS}
    elif call.name == "labels":
        yield {"token_BS": case.token_BS, "valid_BS": valid_BS, "horizon": case.horizon}
    elif call.name == "value_loss":
        yield {"value_BS": value_BS, "return_BS": case.reward_BS, "valid_BS": valid_BS}
    elif call.name == "place_rewards":
        for placement in ("terminal", "uniform"):
            yield {"reward_B": case.reward_B, "valid_BS": valid_BS, "placement": placement}
    elif call.name == "loss":
        label_BSH = label_BSH.clone()
        label_BSH[:, :2, 0] = oracles.IGNORED  # a prompt, whose first target no head in front of it may have
        label_BSH[:, 0, 1] = oracles.IGNORED
        legal_BSH = (label_BSH != oracles.IGNORED).double()
        rng = torch.Generator().manual_seed(case.token_BS.numel())
        raw_BSH = (0.1 + torch.rand(label_BSH.shape, generator=rng).double()) * legal_BSH
        weight_BSH = (raw_BSH / raw_BSH.sum(-1, keepdim=True).clamp(min=1e-9)).float()
        logits_BSHV = torch.randn(*label_BSH.shape, case.token_BS.numel(), generator=rng)
        yield {"logits_BSHV": logits_BSHV, "label_BSH": label_BSH, "weight_BSH": weight_BSH}

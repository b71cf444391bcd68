"""A formula with several faults at once is told each of them by its name, and nothing that it does not have."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import combinations
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures.check_runs import run_check
from gradgate.checks import cases, oracles
from gradgate.checks.formula_calls import Call, labels_call, returns_call, weights_call
from gradgate.checks.told_apart import told_apart
from gradgate.checks.usual_faults import DEVIATIONS
from gradgate.subjects.contract import Functions, Subject

CASE = cases.make("rows", torch.ones(2, 4, dtype=torch.bool), 3, 0)
SILENT = {
    "last value of the row", "previous value at padding", "previous document's value", "first is 0"
}  # where no head reads a first token  # fmt: skip


def faulty(name: str, chosen: Collection[str]) -> Callable[..., Tensor]:
    """A formula with some of its usual faults."""
    compute = DEVIATIONS[name].compute

    def returns(reward_BS: Any, value_BS: Any, valid_BS: Any, **options: Any) -> Tensor:
        given = {"reward_BS": reward_BS, "value_BS": value_BS, "valid_BS": valid_BS}
        return torch.tensor(compute(given, options, chosen))

    def weights(value_BS: Any, label_BSH: Any, valid_BS: Any, **options: Any) -> Tensor:
        given = {"value_BS": value_BS, "label_BSH": label_BSH, "valid_BS": valid_BS}
        return torch.tensor(compute(given, options, chosen))

    def labels(token_BS: Any, valid_BS: Any, horizon: int, **options: Any) -> Tensor:
        given = {"token_BS": token_BS, "valid_BS": valid_BS, "horizon": horizon}
        return torch.tensor(compute(given, options, chosen)).long()

    def loss(logits_BSHV: Any, label_BSH: Any, weight_BSH: Any) -> Tensor:
        given = {"logits_BSHV": logits_BSHV, "label_BSH": label_BSH, "weight_BSH": weight_BSH}
        return torch.tensor(compute(given, {}, chosen)[0])

    def value_loss(value_BS: Any, return_BS: Any, valid_BS: Any) -> Tensor:
        given = {"value_BS": value_BS, "return_BS": return_BS, "valid_BS": valid_BS}
        return torch.tensor(compute(given, {}, chosen)[0])

    def place_rewards(reward_B: Any, valid_BS: Any, placement: str, **options: Any) -> Tensor:
        given = {"reward_B": reward_B, "valid_BS": valid_BS, "placement": placement}
        return torch.tensor(compute(given, options, chosen))

    return locals()[name]  # type: ignore[no-any-return]


def call_of(name: str, function: Callable[..., Tensor]) -> Call:
    functions = Functions(**{name: function})
    if name == "returns":
        return returns_call(functions, CASE, gamma=0.99, gae_lambda=0.95)
    if name == "weights":
        return weights_call(functions, CASE, discount_lambda=0.95, temperature=0.7)
    if name == "labels":
        return labels_call(functions, CASE)
    return Call(name, function, "rows", {}, {"document_BS": None} if name == "place_rewards" else {})


def together(name: str, number: int) -> list[tuple[str, ...]]:
    """The sets of so many faults that go together and show."""
    known = [fault for fault in DEVIATIONS[name].known if fault.name not in SILENT]
    several = combinations(known, number)
    kinds = [(chosen, [fault.kind for fault in chosen if fault.kind]) for chosen in several]
    return [tuple(fault.name for fault in chosen) for chosen, kind in kinds if len(kind) == len(set(kind))]


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("name", DEVIATIONS)
def test_faults_are_told_apart(name: str, number: int) -> None:
    """One alone, and two at once, whichever."""
    for chosen in together(name, number):
        told = told_apart(call_of(name, faulty(name, chosen)), "cpu")
        assert told is not None and {fault.name for fault in told.faults} == set(chosen)
        assert all(fault.told in told.text and fault.fix for fault in told.faults)


def test_five_faults_at_once_are_told() -> None:
    """As a trainer by others had them."""
    chosen = (
        "value of padding",
        "value of the next document",
        "advantage of the next document",
        "advantages",
        "swapped",
    )
    told = told_apart(call_of("returns", faulty("returns", chosen)), "cpu")
    assert told is not None and {fault.name for fault in told.faults} == set(chosen)


def test_a_formula_that_writes_into_its_values_is_told_by_what_it_was_given() -> None:
    """Not by what stands there afterwards, from which other faults would follow."""
    right = faulty("weights", ("one token early",))

    def writing(value_BS: Tensor, *given: Any, **options: Any) -> Tensor:
        weights = right(value_BS.clone(), *given, **options)
        value_BS.mul_(0.5)
        return weights

    told = told_apart(call_of("weights", writing), "cpu")
    assert told is not None and [fault.name for fault in told.faults] == ["one token early"]


@pytest.mark.parametrize("name", DEVIATIONS)
def test_no_faults_are_those_of_the_reference(name: str) -> None:
    """Without any the numbers are the oracle's: what is told is a distance from that."""
    own = {
        "returns": oracles.gae_returns, "weights": oracles.head_weights, "labels": oracles.labels,
        "loss": oracles.wmtp_loss, "value_loss": oracles.value_loss, "place_rewards": oracles.place_rewards,
    }  # fmt: skip
    for function in (own[name], faulty(name, ())):
        assert told_apart(call_of(name, function), "cpu") is None


@pytest.mark.parametrize(
    "function",
    [
        lambda reward_BS, value_BS, valid_BS, **_: reward_BS + value_BS,
        lambda reward_BS, value_BS, valid_BS, **_: value_BS / 0,
        lambda reward_BS, value_BS, valid_BS, **_: 1 / 0,
    ],
)
def test_other_faults_are_not_told(function: Callable[..., Tensor]) -> None:
    """Another formula, one that is not finite, one that raises."""
    assert told_apart(call_of("returns", function), "cpu") is None


@pytest.mark.parametrize(("code", "name"), [("GG403", "weights"), ("GG501", "returns"), ("GG404", "place_rewards")])
def test_each_of_several_faults_is_a_finding(code: str, name: str) -> None:
    """By the check that judges the formula, with the fix of its own."""
    chosen = {"weights": ("one token early", "no temperature"), "returns": ("advantages", "swapped"),
              "place_rewards": ("by length", "width")}[name]  # fmt: skip
    subject = Subject("faulty", [], functions=Functions(**{name: faulty(name, chosen)}))
    findings = [finding for finding in run_check(code, subject, None).findings if "fault" in finding.detail]
    assert {finding.detail["fault"] for finding in findings} == set(chosen)
    assert all("2 such faults explain all of its numbers" in finding.message for finding in findings)


def test_one_fault_is_told_in_the_message() -> None:
    """It needs no finding of its own."""
    subject = Subject("faulty", [], functions=Functions(returns=faulty("returns", ("advantages",))))
    outcome = run_check("GG501", subject, None)
    assert all("fault" not in finding.detail for finding in outcome.findings)
    assert any("the returns are the advantages: the values are not added" in f.message for f in outcome.findings)

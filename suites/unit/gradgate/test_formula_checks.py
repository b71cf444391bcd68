"""Every formula check turns red on its own faults and stays green on the clean twin."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import broken_functions, formula_subjects
from fixtures.formula_subjects import corpus, subject_with
from fixtures.pytest_fixtures import rest_at_night
from gradgate.checks import cases, catalogue, formula_calls, formulas, oracles
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Functions, Stage, Subject

GOOD = broken_functions.good_functions()
TELLING = partial(corpus, parting=12)
MOST_BY_DAY = 2  # faults of each check
BROKEN = [
    pytest.param(code, functions, id=f"{code}-{name}", marks=[pytest.mark.nightly] if number >= MOST_BY_DAY else [])
    for code, faults in broken_functions.BROKEN.items()
    for number, (name, functions) in enumerate(faults.items())
]


def outcome(code: str, subject: Subject, **context: Any) -> Outcome:
    """Run one check as the runner does, on the first stage where it is for stages."""
    check = catalogue.load_check(catalogue.rule(code))
    stage: Stage | None = subject.stages[0] if check.per_stage else None
    return check.function(subject, stage, Context(**context))


@pytest.mark.parametrize("code", broken_functions.BROKEN)
def test_clean_twin_passes(code: str) -> None:
    """A right implementation gives no finding, and a number beside the bound it was held against."""
    found = outcome(code, subject_with(GOOD, corpus=TELLING))
    assert (found.findings, found.inconclusive, found.not_applicable) == ((), "", "")
    assert set(found.allowed) <= set(found.measured)


@pytest.mark.nightly
@pytest.mark.parametrize("code", broken_functions.BROKEN)
def test_clean_twin_passes_on_another_seed(code: str) -> None:
    """No seed makes a right implementation fail."""
    assert outcome(code, subject_with(GOOD, corpus=TELLING), seed=7).findings == ()


def test_weights_outside_hands_over_every_kind_of_row() -> None:
    """What the report draws: each weight beside what its place is; of a sound function 0 wherever there is no label."""
    series = outcome("GG402", subject_with(GOOD)).series
    weights, states = series["head_weight"], series["head_label"]
    assert len(weights) == (len(cases.patterns(9, gaps=True)) + 1) * 4  # and packed documents; four heads
    assert {state for points in states.values() for _, state in points} == {-1.0, 0.0, 1.0}
    for line, points in weights.items():
        assert [at for at, _ in points] == list(range(9))
        assert all(weight == 0 for (_, weight), (_, state) in zip(points, states[line], strict=True) if state < 1)


def test_weights_outside_hands_over_faulty_weights_as_they_are() -> None:
    """A weight where there is none to have is what a reader wants to see."""
    broken = next(iter(broken_functions.BROKEN["GG402"].values()))
    series = outcome("GG402", subject_with(broken)).series
    pairs = zip(series["head_weight"].values(), series["head_label"].values(), strict=True)
    assert any(
        weight != 0
        for points, states in pairs
        for (_, weight), (_, state) in zip(points, states, strict=True)
        if state < 1
    )


def test_formula_without_packing_is_not_given_packed_rows() -> None:
    """A trainer that never packs is held against rows that are not packed, and what was left out is counted."""
    functions = Functions(returns=broken_functions.returns_without_documents)
    found = outcome("GG404", subject_with(functions))
    assert found.findings == ()
    assert found.measured["calls"] > 0 and found.measured["calls_left"] > 0


@pytest.mark.parametrize(("code", "functions"), BROKEN)
def test_fault_turns_its_own_check_red(code: str, functions: Functions) -> None:
    """Each planted fault gives an error of the rule's own code, with a fix and numbers that JSON can hold.

    What NaN at padding shows beside it is a warning.
    """
    found = outcome(code, subject_with(functions, corpus=TELLING))
    assert {(finding.code, finding.name) for finding in found.findings} == {(code, catalogue.rule(code).name)}
    assert "error" in {finding.severity for finding in found.findings}
    assert all("nan at padding" in f.message for f in found.findings if f.severity != "error")
    for finding in found.findings:
        assert finding.fix and "\n" not in finding.message
    json.dumps([found.measured, found.allowed, [finding.detail for finding in found.findings]], allow_nan=False)


@pytest.mark.parametrize("code", rest_at_night(["GG412", "GG403", "GG501"], day=1))
def test_check_is_deterministic_in_its_seed(code: str) -> None:
    """The same seed gives the same numbers and the same findings."""
    functions = next(iter(broken_functions.BROKEN[code].values()))
    first, second = (outcome(code, subject_with(functions, corpus=TELLING), seed=3) for _ in range(2))
    assert first == second


def test_message_stands_alone() -> None:
    """What, where, measured, expected, allowed, the input: in one line."""
    found = outcome("GG401", subject_with(broken_functions.BROKEN["GG401"]["clamped to a floor"]))
    assert found.findings[0].message == (
        "sum of the head weights at [b, t] = [0, 0] is 1.01, expected 1: off by 0.01, allowed 1e-06, "
        "on all real, B = 1 [B=1, S=2, H=2]"
    )


def test_reproduction_can_be_pasted() -> None:
    """The detail's Python repeats the failing call."""
    finding = outcome("GG403", subject_with(broken_functions.BROKEN["GG403"]["temperature ignored"])).findings[0]
    index = tuple(finding.detail["index"])
    *lines, call = finding.detail["reproduce"].splitlines()
    scope: dict[str, Any] = {"torch": torch, "weights": broken_functions.BROKEN["GG403"]["temperature ignored"].weights}
    exec("\n".join(lines), scope)  # noqa: S102
    weight_BSH = eval(call, scope)  # noqa: S307
    assert float(weight_BSH[index]) == pytest.approx(finding.detail["actual"])


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_what_float64_alone_shows_and_float32_rounds_away_is_a_warning(factor: float) -> None:
    """A discount times a mask in float32 has seven digits, which float64 beside it does not bring back."""

    def narrowed(reward_BS: Tensor, value_BS: Tensor, valid_BS: Tensor, *, gamma: float, **settings: Any) -> Tensor:
        dtype = torch.promote_types(value_BS.dtype, torch.float32)
        short = float(torch.tensor(gamma * factor))
        return oracles.gae_returns(reward_BS, value_BS, valid_BS, gamma=short, **settings).to(dtype)

    found = outcome("GG501", Subject("narrowed", (), functions=Functions(returns=narrowed))).findings

    assert {finding.severity for finding in found} == {"warning" if factor == 1.0 else "error"}


def test_reproduction_of_a_large_input_is_its_size() -> None:
    """Nobody pastes a whole corpus."""
    call = formula_calls.Call("labels", broken_functions.labels, "the corpus", {"token_BS": torch.zeros(50, 100)})
    assert call.text() == "labels() on the corpus: 5000 numbers, too many to show"


@pytest.mark.parametrize("garbage", [True, False])
def test_nan_at_padding_alone_is_a_warning(garbage: bool) -> None:
    """A mask that is multiplied in holds as long as padding has numbers; what reads numbers there is an error."""

    def multiplied(reward_BS: Tensor, value_BS: Tensor, valid_BS: Tensor, **settings: Any) -> Tensor:
        dtype = torch.promote_types(value_BS.dtype, torch.float32)
        padding_BS = value_BS.detach() * (1.0 if garbage else ~valid_BS) * (1e-3 if garbage else 0.0)
        return (oracles.gae_returns(reward_BS, value_BS, valid_BS, **settings) + padding_BS.sum(1, True)).to(dtype)

    found = outcome("GG501", Subject("multiplied", (), functions=Functions(returns=multiplied))).findings

    assert {finding.severity for finding in found} == {"error" if garbage else "warning"}


def test_exception_of_a_formula_is_a_finding_with_its_line() -> None:
    """What the subject raises is the subject's fault, and the finding names the line."""
    found = outcome("GG404", subject_with(broken_functions.BROKEN["GG404"]["short rows crash"])).findings[0]
    assert found.message.startswith("labels() raised RuntimeError: narrow()")
    assert found.victim is not None and found.victim.function == "labels_for_long_rows"


def test_answer_of_another_shape_is_a_finding() -> None:
    """[B, H, S] in place of [B, S, H] is said as such."""

    def transposed(value_BS: Tensor, label_BSH: Tensor, valid_BS: Tensor, **options: Any) -> Tensor:
        return broken_functions.weights(value_BS, label_BSH, valid_BS, **options).mT

    found = outcome("GG403", subject_with(Functions(weights=transposed)))
    assert "weights() answered with the shape [1, 2, 1], expected [1, 1, 2]" in found.findings[0].message


def test_boundary_grid_does_not_apply_without_formulas() -> None:
    """A subject without any formula is told how to offer them."""
    found = outcome("GG404", subject_with(Functions()))
    assert "functions=gradgate.Functions()" in found.not_applicable


def test_boundary_grid_tries_what_there_is() -> None:
    """One function is enough to walk the grid."""
    found = outcome("GG404", subject_with(Functions(returns=broken_functions.returns)))
    assert (found.findings, found.measured["functions_tried"]) == ((), 1)


@pytest.mark.parametrize("code", ["GG402", "GG403"])
def test_weights_off_the_graph_are_judged_on_their_values(code: str) -> None:
    """A trainer that detaches its weights inside has no gradient to compare; the report says so."""

    def detached(*arguments: Tensor, **options: Any) -> Tensor:
        return broken_functions.weights(*arguments, **options).detach()

    found = outcome(code, subject_with(Functions(weights=detached)))
    assert found.findings == ()
    assert found.measured.get("weights_carry_gradient", False) is False


def refusing_gaps(*arguments: Tensor, **options: Any) -> Tensor:
    """Weights of a trainer whose rows have no padding between real tokens."""
    valid_BS = arguments[2]
    rises_B = (valid_BS[:, 1:] & ~valid_BS[:, :-1]).sum(1) + valid_BS[:, 0]
    if (rises_B > 1).any():
        raise ValueError("a gap")
    return broken_functions.weights(*arguments, **options)


@pytest.mark.parametrize("code", rest_at_night(["GG404", "GG401", "GG402", "GG403", "GG411"], day=1))
def test_masks_have_gaps_where_the_subject_says_that_they_can(code: str) -> None:
    """A formula that no gap ever comes to is not given one."""
    without, gapped = (subject_with(Functions(weights=refusing_gaps, gaps=gaps)) for gaps in (False, True))
    assert outcome(code, without).findings == ()
    assert "a gap" in outcome(code, gapped).findings[0].message


@pytest.mark.parametrize(("discount", "codes"), [(1.0, []), (0.9, ["GG404", "GG411"])])
def test_weights_without_a_discount_are_held_against_none(discount: float, codes: list[str]) -> None:
    """A parameter that the formula has not is 1 in the reference, and is not handed over."""

    def undiscounted(value_BS: Tensor, label_BSH: Tensor, valid_BS: Tensor, *, temperature: float) -> Tensor:
        given = {"discount_lambda": discount, "temperature": temperature}
        return broken_functions.weights(value_BS, label_BSH, valid_BS, **given)

    subject = subject_with(Functions(weights=undiscounted, gaps=True))
    assert [code for code in ("GG401", "GG404", "GG411") if outcome(code, subject).findings] == codes


KEY = "loss.weight_temperature"


def configured_with(accepted: tuple[Any, ...] = (), *, word: str = "temperature", **options: Any) -> Stage:
    """A stage that refuses each temperature of `REFUSED` but these where it starts, and what no key of its is."""
    listed = {KEY: (0.7, 0.1), "learn_temperature": (False, True), **options}
    plain = subject_with(GOOD).stages[0]

    def start(seed: int, *, options: Any = None, **named: Any) -> Any:
        for key, value in (options or {}).items():
            if key == KEY and not any(value is one for one in accepted):
                raise ValueError(f"{word} is {value!r}")
        return plain.start(seed, **named)

    return replace(plain, options=listed, start=start)


LENIENT = replace(GOOD, weights=partial(broken_functions.weights, validate=float))
UNLISTED = replace(configured_with(), options=None)


@pytest.mark.parametrize(
    ("stages", "accepted"),
    [
        ([configured_with()], 0),
        ([configured_with(), UNLISTED], 0),
        ([UNLISTED], 5),
        ([configured_with((-1, math.inf))], 2),
        ([configured_with(word="the rate")], 5),
        ([configured_with(), configured_with((0,))], 1),
        ([configured_with(**{"sampling.temperature": (1.0, 0.5)})], 5),
    ],
)
def test_temperature_may_be_refused_where_the_configuration_is_read(stages: list[Stage], accepted: int) -> None:
    """By its name, by each stage and each of its temperatures; a formula that does not check again is no fault."""
    found = outcome("GG411", replace(subject_with(LENIENT), stages=stages))

    assert len(found.findings) == accepted
    assert (found.measured["temperatures_refused"], found.measured["temperatures_offered"]) == (5 - accepted, 5)


def test_temperature_that_a_stage_starts_with_is_told_with_its_key() -> None:
    """Who accepts it has to be found."""
    (finding,) = outcome("GG411", replace(subject_with(LENIENT), stages=[configured_with((0,))])).findings

    told = "temperature 0 was accepted, and stage train starts with loss.weight_temperature = 0, expected an error that"
    assert finding.message.startswith(told)


def test_temperature_that_the_formula_refuses_starts_no_run() -> None:
    """A start costs more than a call, and could say nothing more."""

    def start(seed: int, **named: Any) -> Any:
        raise AssertionError("started")

    stage = replace(configured_with(), start=start)
    assert outcome("GG411", replace(subject_with(GOOD), stages=[stage])).findings == ()


@pytest.mark.parametrize(("discount", "red"), [(1.0, False), (0.9, True)])
def test_returns_without_discounts_are_held_against_sums(discount: float, red: bool) -> None:
    """Rewards to go, of a trainer that has neither a gamma nor a lambda."""

    def rewards_to_go(reward_BS: Tensor, value_BS: Tensor, valid_BS: Tensor, document_BS: Any = None) -> Tensor:
        given = {"gamma": discount, "gae_lambda": 1.0, "document_BS": document_BS}
        return broken_functions.returns(reward_BS, value_BS, valid_BS, **given)

    assert bool(outcome("GG501", subject_with(Functions(returns=rewards_to_go, gaps=True))).findings) == red


def test_missing_function_is_the_harness_own_fault() -> None:
    """The runner asks for the capability first; a check that runs without it is broken."""
    with pytest.raises(TypeError, match="the runner asks for the capability"):
        outcome("GG401", subject_with(Functions()))


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("shifted twice", "head 0 is trained on another token than t+1 at 33 of 33 places: mostly t+2 (33 of 33"),
        ("not shifted", "head 0 is trained on another token than t+1 at 42 of 51 places: mostly t+0 (51 of 51"),
        ("label wraps around", "head 0 is trained at 3 places where token t+1 is padding, beyond the row or in"),
        ("slot filled with 0", "head 0 is trained at 9 places where token t+1 is padding, beyond the row or in"),
    ],
)
def test_label_shift_is_read_from_the_step_itself(fault: str, said: str) -> None:
    """Without a labels function the step's gradients give the distance away."""
    wrong = broken_functions.BROKEN["GG412"][fault].labels
    assert wrong is not None
    found = outcome("GG412", subject_with(Functions(), labels=wrong))
    assert any(said in finding.message for finding in found.findings), [f.message for f in found.findings]
    assert found.measured["places_with_wrong_target"] > 0


def test_label_shift_sees_the_step_where_the_function_is_right() -> None:
    """A right function that is called wrongly is caught by behaviour alone."""
    wrong = partial(broken_functions.labels_at, extra=1)
    assert {f.code for f in outcome("GG412", subject_with(GOOD, labels=wrong)).findings} == {"GG412"}


def test_label_shift_passes_a_packed_run() -> None:
    """Documents of a packed row are apart in the expectation too."""
    assert outcome("GG412", subject_with(GOOD, packed=True)).findings == ()


def test_label_shift_finds_a_target_in_another_document() -> None:
    """Labels across documents show in the step."""
    found = outcome("GG412", subject_with(GOOD, labels=broken_functions.labels_across_documents, packed=True))
    assert "another document" in found.findings[0].message


def test_a_loss_that_fills_its_labels_in_place_is_held_against_those_it_was_given() -> None:
    """What stands there afterwards is no token of the vocabulary, or another one."""
    right = GOOD.loss
    assert right is not None

    def filling(logits_BSHV: Tensor, label_BSH: Tensor, weight_BSH: Tensor) -> Tensor:
        loss = right(logits_BSHV, label_BSH.clone(), weight_BSH)
        label_BSH[label_BSH < 0] = logits_BSHV.shape[-1]
        return loss

    assert outcome("GG404", subject_with(Functions(loss=filling))).findings == ()


def test_labels_that_are_wrong_for_two_reasons_are_two_findings() -> None:
    """A roll that wraps around, and documents that are not kept apart; one alone is one."""

    def across(token_BS: Tensor, valid_BS: Tensor, horizon: int, document_BS: Tensor | None = None) -> Tensor:
        return broken_functions.labels_wrapped(token_BS, valid_BS, horizon)

    def reasons(labels: Any) -> set[str]:
        found = outcome("GG412", subject_with(Functions(labels=labels, gaps=True)))
        return {f.message.partition(" at [")[0] for f in found.findings if "fault" not in f.detail}

    assert reasons(across) == {"label beyond the row", "label in another document"}
    assert reasons(broken_functions.labels_across_documents) == {"label in another document"}


def test_weights_that_are_wrong_beside_their_sum_are_a_finding_of_their_own() -> None:
    """Heads in a wrong place whose mass is cut off behind the softmax; what is cut off alone is one finding."""

    def shifted(delta_BSH: Tensor, legal_BSH: Tensor, temperature: float) -> Tensor:
        return broken_functions.masked_behind(delta_BSH.roll(1, 2), legal_BSH, temperature)

    def told(normalise: Any) -> set[str]:
        weights = partial(broken_functions.weights, normalise=normalise)
        found = outcome("GG403", subject_with(Functions(weights=weights, gaps=True)))
        return {finding.message.partition(" at [")[0] for finding in found.findings}

    assert "head weight, divided by its position's sum," in told(shifted)
    assert told(broken_functions.masked_behind) == {"head weight"}


@pytest.mark.parametrize(("labels", "red"), [(broken_functions.labels, False), (broken_functions.labels_wrapped, True)])
def test_label_shift_leaves_a_divergence_aside(labels: Any, red: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a gradient at the last position, too, where nothing is predicted."""
    monkeypatch.setattr(formula_subjects.TinyRun, "apart", 0.5)
    found = outcome("GG412", subject_with(Functions(), labels=labels))
    assert bool(found.findings) == red and not found.inconclusive


def test_label_shift_finds_a_head_that_is_never_trained() -> None:
    """A zero gradient may be a prompt or an underflow, but not everywhere."""
    found = outcome("GG412", subject_with(Functions(), mute=(1,)))
    assert [finding.message for finding in found.findings] == [
        "head 1 gets no gradient at any of 33 places with a token at t+2"
    ]


def test_label_shift_finds_a_loss_that_does_not_reach_the_logits() -> None:
    """No head is trained at all: every head is said so."""
    found = outcome("GG412", subject_with(Functions(), mute=(0, 1, 2)))
    assert len(found.findings) == formula_subjects.HORIZON


@pytest.mark.parametrize(("labels", "red"), [(broken_functions.labels, False), (broken_functions.labels_wrapped, True)])
def test_label_shift_takes_logits_without_heads_for_one_head(labels: Any, red: bool) -> None:
    """A model of one head that returns (logits [B, S, V], None), as many do."""
    found = outcome("GG412", subject_with(Functions(), labels=labels, model=formula_subjects.OneHead))
    assert bool(found.findings) is red and found.measured["places_trained"] > 0


def test_label_shift_is_inconclusive_without_logits() -> None:
    """A module that returns no logits, [B, S, (H,) V], decides nothing; hidden states have too few."""
    subject = subject_with(Functions())
    start = subject.stages[0].start

    def elsewhere(seed: int, **options: Any) -> formula_subjects.TinyRun:
        run: formula_subjects.TinyRun = start(seed, **options)
        run.modules = {**run.modules, "embedding": run.model.embedding}
        run.logits_from = "embedding"
        return run

    found = outcome("GG412", Subject("odd", [Stage("train", elsewhere)]))
    assert "no single tensor [B, S, (H,) V]" in found.inconclusive


def test_label_shift_is_inconclusive_without_anything_to_predict() -> None:
    """Rows of one token prove nothing."""
    subject = subject_with(Functions())
    start = subject.stages[0].start

    def lonely(seed: int, **options: Any) -> formula_subjects.TinyRun:
        run: formula_subjects.TinyRun = start(seed, **options)
        first = next(run.batches())
        only = type(first)(first.token_BS, torch.zeros_like(first.valid_BS))
        run.batches = lambda: iter([only] * 3)  # type: ignore[method-assign]
        return run

    found = outcome("GG412", Subject("lonely", [Stage("train", lonely)]))
    assert found.inconclusive == "no head of 3 batches has a token to predict"


def test_label_shift_reports_a_step_that_raises() -> None:
    """What the run raises is a finding, not a crash of the harness."""

    def raising(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("no labels today")

    found = outcome("GG412", subject_with(Functions(), labels=raising))
    assert "no labels today" in found.findings[0].message


@pytest.mark.parametrize(
    ("parting", "placement", "signal"),
    [(12, "terminal", True), (12, "uniform", True), (0, "terminal", False), (0, "uniform", False)],
)
def test_signal_needs_rows_that_part(parting: int, placement: str, signal: bool) -> None:
    """Rewards that a row tells from its first token carry no signal, however they are placed."""
    subject = subject_with(GOOD, corpus=partial(corpus, parting=parting, placement=placement))
    found = outcome("GG504", subject)
    assert (found.findings == ()) is signal
    assert found.measured["largest_weight_deviation"] == pytest.approx(
        {(12, "terminal"): 0.137, (12, "uniform"): 0.072, (0, "terminal"): 3.2e-4, (0, "uniform"): 1.3e-3}[
            parting, placement
        ],
        rel=0.05,
    )


def test_no_signal_in_a_reward_that_is_spread_against_the_settings() -> None:
    """The trainer's own placing counts: spread over rows that tell their reward, it leaves nothing."""
    spread = Functions(weights=broken_functions.weights, place_rewards=broken_functions.rewards_spread)
    found = outcome("GG504", subject_with(spread, corpus=partial(corpus, parting=0)))
    assert [finding.name for finding in found.findings] == ["no-signal"]


def test_no_signal_through_a_hot_softmax() -> None:
    """A temperature far above the rewards makes everything uniform."""
    found = outcome("GG504", subject_with(GOOD, corpus=partial(corpus, parting=12, temperature=100.0)))
    assert found.measured["largest_weight_deviation"] < 0.01
    assert len(found.findings) == 1


def test_signal_is_the_same_with_the_references() -> None:
    """Where the trainer has neither returns nor placing nor labels, the references stand in for them."""
    own = outcome("GG504", subject_with(GOOD, corpus=TELLING)).measured
    references = outcome("GG504", subject_with(Functions(weights=GOOD.weights), corpus=TELLING)).measured
    assert references["largest_weight_deviation"] == pytest.approx(own["largest_weight_deviation"], abs=1e-9)


@pytest.mark.parametrize("broken", ["labels", "returns", "place_rewards", "weights"])
def test_signal_cannot_be_measured_through_a_formula_that_raises(broken: str) -> None:
    """Each formula on the way is the subject's own; what it raises is a finding."""

    def raising(*_: Any, **__: Any) -> Tensor:
        raise RuntimeError("not today")

    parts = {
        "labels": GOOD.labels,
        "weights": GOOD.weights,
        "returns": GOOD.returns,
        "place_rewards": GOOD.place_rewards,
    }
    found = outcome("GG504", subject_with(Functions(**{**parts, broken: raising}), corpus=TELLING))
    assert found.findings[0].message.startswith(f"{broken}() raised RuntimeError: not today")


def test_exact_values_are_means_over_shared_prefixes() -> None:
    """Two rows agree on two tokens, a third on none, padding on the left notwithstanding."""
    from gradgate.checks import gg504_no_signal

    token_NS = torch.tensor([[1, 2, 3], [1, 2, 4], [9, 1, 2]])
    valid_NS = torch.tensor([[True] * 3, [True] * 3, [False, True, True]])
    prefixes = gg504_no_signal.shared_prefixes(token_NS, valid_NS)
    assert prefixes.parting_NS.tolist() == [[False, False, True], [False, False, True], [False, False, False]]
    return_NS = torch.tensor([[1.0, 2.0, 3.0], [3.0, 4.0, 5.0], [7.0, 8.0, 9.0]])
    value_NS = gg504_no_signal.exact_values(return_NS, prefixes.group_NS)
    assert value_NS.tolist() == [[4.0, 5.0, 3.0], [4.0, 5.0, 5.0], [0.0, 4.0, 5.0]]


def test_exact_values_of_an_empty_corpus_are_zero() -> None:
    """Nothing but padding has no value."""
    from gradgate.checks import gg504_no_signal

    assert gg504_no_signal.exact_values(torch.ones(1, 2), torch.full((1, 2), -1)).tolist() == [[0.0, 0.0]]


def test_ledger_keeps_the_smallest_input_and_counts() -> None:
    """Of many failing inputs the smallest is shown, with how many there were."""
    ledger = formulas.Ledger("GG401", "weight-sum")
    for size in (4, 2, 3):
        call = formula_calls.Call(
            "weights", broken_functions.weights, f"{size} numbers", {"value_BS": torch.zeros(size)}
        )
        ledger.note("off", f"wrong with {size}", "fix", call)
    (finding,) = ledger.outcome().findings
    assert (finding.message, finding.count) == ("wrong with 2, on 2 numbers", 3)


def test_ledger_compares_nothing_with_nothing() -> None:
    """An empty comparison holds."""
    ledger = formulas.Ledger("GG401", "weight-sum")
    call = formula_calls.Call("weights", broken_functions.weights, "nothing", {})
    empty = torch.zeros(0)
    assert ledger.compare(call, empty, empty, 0.0, what="weight", axes="b", fix="fix")
    assert ledger.outcome().measured["error_to_bound_ratio"] == 0.0


def test_numbers_that_json_cannot_hold_become_text() -> None:
    """NaN and infinities are written out."""
    assert [formulas.plain(number) for number in (1.5, math.nan, math.inf, 3, "x")] == [1.5, "nan", "inf", 3, "x"]


def test_boundary_grid_holds_what_the_rule_promises() -> None:
    """Every length, one row alone, no real token, strided and packed tensors are among the cases."""
    grid = list(cases.boundary_grid(0, gaps=True))
    lengths = {(case.horizon, case.token_BS.shape[1]) for case in grid}
    assert lengths >= {(4, length) for length in (1, 2, 3, 4, 5)}
    assert any(not case.valid_BS.any() for case in grid)
    assert any(case.token_BS.shape[0] == 1 for case in grid)
    assert any(case.document_BS is not None for case in grid)
    assert any(not case.value_BS.is_contiguous() for case in grid)


def test_extreme_cases_have_the_deltas_they_name() -> None:
    """The values are made backwards from the deltas."""
    from gradgate.checks import oracles

    near = next(case for case in cases.extreme(0, 0.95) if case.name == "deltas near -50")
    delta_BS = oracles.deltas(near.value_BS, near.valid_BS, discount_lambda=0.95)
    assert bool(((delta_BS[0] > -51) & (delta_BS[0] < -48)).all())


@pytest.mark.parametrize("everywhere", [True, False])
@pytest.mark.parametrize(("code", "name"), [("GG403", "weights"), ("GG501", "returns")])
def test_formula_that_writes_into_the_values_it_is_given_is_named(code: str, name: str, everywhere: bool) -> None:
    """`detach` shares them with the model's output, which is another for who reads it next; padding is a warning."""
    formula = getattr(GOOD, name)

    def writing(first: Tensor, second: Tensor, valid_BS: Tensor, **options: Any) -> Tensor:
        answer: Tensor = formula(first, second, valid_BS, **options)
        (first if name == "weights" else second).detach()[~valid_BS | everywhere] = 7.0
        return answer

    found = outcome(code, subject_with(Functions(**{name: writing}, gaps=True))).findings
    written = [finding for finding in found if "writes into its argument: value_BS" in finding.message]

    assert written != []
    assert any(finding.severity == "error" for finding in written) is everywhere

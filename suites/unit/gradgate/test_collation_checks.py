"""GG501 and GG413 on what a collator makes of its rows: rewards on the right tokens, an end token behind each row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fixtures import mini_trainer
from fixtures.check_runs import errors, run_check
from fixtures.collation_faults import (
    CUT_FAULTS,
    END,
    MASK_FAULTS,
    PLACE_FAULTS,
    PROMPT,
    collated,
    cut,
    masked,
    packed,
    whole,
)
from fixtures.mini_trainer import S
from gradgate.checks import oracles
from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Stage, Subject
from gradgate_wmtp.adapter import build_subject


@pytest.mark.parametrize("name", PLACE_FAULTS)
def test_misplaced_reward_is_found(name: str) -> None:
    """With its place, what it is, what it should be and what is allowed."""
    (message,) = errors(run_check("GG501", collated(PLACE_FAULTS[name]), None))

    assert "reward at [b, t] = [" in message and "expected " in message and "allowed: " in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_placed_rewards_pass_in_every_dtype(dtype: torch.dtype) -> None:
    """The clean twin, rounded to what the batch keeps its rewards in."""
    outcome = run_check("GG501", collated(dtype_of_rewards=dtype), None)

    assert (outcome.findings, outcome.measured["batches_with_rewards"]) == ((), 8)


@pytest.mark.nightly
def test_rewards_of_packed_documents_are_held_against_their_own() -> None:
    """Each document has a reward; those of another one are found."""

    def swapped(reward_BD: Tensor, *given: Tensor) -> Tensor:
        return oracles.place_rewards(reward_BD.flip(1), *given)

    assert run_check("GG501", packed(), None).findings == ()
    assert len(errors(run_check("GG501", packed(swapped), None))) == 1


def test_rewards_of_another_shape_are_refused() -> None:
    """The adapter is wrong, and is told the shapes."""
    with pytest.raises(SubjectError, match=r"placed\(\): reward_BS has the shape \[8, 7\], expected \[8, 8\]"):
        run_check("GG501", collated(lambda reward_B, valid_BS: valid_BS[:, :-1].float()), None)


def test_subject_without_returns_or_rewards_is_told_both() -> None:
    """GG501 says which lines of adapter would enable it."""
    reason = run_check("GG501", mini_trainer.subject(), None).not_applicable

    assert "Functions(returns=...)" in reason and "Run.placed(batch)" in reason


def test_missing_end_token_is_found() -> None:
    """Rows that are not cut end with another token; the first is named."""
    subject = collated(ends=False)
    (message,) = errors(run_check("GG413", subject, subject.stages[0]))

    assert f"do not end with the end token {END}: the first ends with 0 at [b, t] = [" in message
    assert message.endswith("; allowed: 0")


@pytest.mark.parametrize("objective", [None, "value"])
def test_an_end_token_is_asked_for_without_logits(objective: Any) -> None:
    """Rows are enough for it; a stage of values has no use for one."""
    (stage,) = collated(ends=False).stages

    def without_logits(seed: int, **given: Any) -> Any:
        run = stage.start(seed, **given)
        run.logits_from = None
        return run

    bare = Stage("bare", without_logits, objective=objective)
    outcome = run_check("GG413", Subject("bare", [bare]), bare)
    assert len(errors(outcome)) == (objective is None) and bool(outcome.not_applicable) is (objective is not None)


def test_rows_that_end_or_are_cut_pass() -> None:
    """The clean twin has both kinds."""
    subject = collated()
    outcome = run_check("GG413", subject, subject.stages[0])

    assert outcome.findings == ()
    assert outcome.measured["documents_without_end"] == 0


@pytest.mark.parametrize("name", CUT_FAULTS)
def test_row_that_is_no_row_of_the_data_is_found(name: str) -> None:
    """With the place at which it leaves the row that is most like it."""
    subject = cut(CUT_FAULTS[name])
    messages = errors(run_check("GG413", subject, subject.stages[0]))

    (message,) = (message for message in messages if "are no row of the data, cut at 8 tokens: row " in message)
    assert ", where the data " in message and message.endswith("; allowed: 0")


@pytest.mark.parametrize("name", CUT_FAULTS)
def test_the_line_that_makes_a_wrong_row_is_named(name: str) -> None:
    """Whatever the row goes through afterwards."""
    subject = cut(CUT_FAULTS[name])
    findings = run_check("GG413", subject, subject.stages[0]).findings

    (culprit,) = {finding.culprit for finding in findings if "are no row of the data" in finding.message}
    assert culprit is not None and culprit.line == CUT_FAULTS[name].__code__.co_firstlineno


@pytest.mark.parametrize("name", MASK_FAULTS)
def test_the_line_that_makes_a_wrong_mask_is_named(name: str) -> None:
    """Of a batch, also where it is written after it was made, and of a mask that is handed to the wrong loss."""
    subject, told = masked(name), MASK_FAULTS[name]
    findings = run_check("GG413", subject, subject.stages[0]).findings

    assert {finding.culprit.source for finding in findings if finding.culprit} == {told}


def test_right_masks_pass() -> None:
    """The clean twin."""
    subject = masked("")

    assert run_check("GG413", subject, subject.stages[0]).findings == ()


def test_rows_of_the_data_pass_cut_or_not() -> None:
    """The clean twin has both kinds."""
    subject = cut()
    outcome = run_check("GG413", subject, subject.stages[0])

    assert (outcome.findings, outcome.measured["rows_not_in_data"]) == ((), 0)


@pytest.mark.parametrize(("cuts", "found"), [(None, 0), ("front", 0), ("end", 1)])
def test_rows_may_lose_their_front_where_nothing_else_is_said(cuts: Any, found: int) -> None:
    """A prompt is cut so that its response survives; what may be cut is what the run says."""
    subject = cut(lambda row: row[-S:])
    stage = replace(subject.stages[0], start=type("Sided", (subject.stages[0].start,), {"cuts": cuts}))
    outcome = run_check("GG413", Subject("sided", [stage]), stage)

    assert len([each for each in outcome.findings if "are no row of the data" in each.message]) == found


def test_rows_are_held_against_the_data_with_keys_moved_too() -> None:
    """What is packed, or cut elsewhere, by default is not all that can be trained on."""

    def start(seed: int, *, options: Any = None, **given: Any) -> Any:
        short = (options or {}).get("max_length") == "short"
        return cut(CUT_FAULTS["a-token-short"] if short else whole).stages[0].start(seed, **given)

    stage = replace(cut().stages[0], start=start, options={"max_length": ("long", "short")})
    subject = Subject("moved", [stage])

    messages = errors(run_check("GG413", subject, stage))

    assert messages and all(message.endswith(" with max_length = 'short'") for message in messages)


@pytest.mark.parametrize(("follows", "found"), [(True, 0), (False, 1)])
def test_tokens_that_a_moved_key_supervises_are_held_too(follows: bool, found: int) -> None:
    """The batches are the same; what is to be trained on is not."""

    def start(seed: int, *, options: Any = None, **given: Any) -> Any:
        said = options["train_on"] if options else PROMPT
        return masked(trains_from=said if follows else PROMPT, supervises_from=said).stages[0].start(seed, **given)

    stage = replace(masked().stages[0], start=start, options={"train_on": (PROMPT, 1)})

    assert len(errors(run_check("GG413", Subject("moved", [stage]), stage))) == found


@pytest.mark.parametrize(("key", "told"), [("long", ""), ("short", " with key = 'short'")])
def test_gg612_finds_rows_of_the_data_that_no_epoch_holds(key: str, told: str) -> None:
    """As the run is, and with a key of the configuration moved."""

    class Whole(cut().stages[0].start):  # type: ignore[misc]
        def __init__(self, seed: int, *, options: Any = None, **given: Any) -> None:
            super().__init__(seed, **given)
            self.loses, self.epoch_size = (options or {"key": "long"})["key"] == key, 8

        def samples(self, batch: Any) -> list[int]:
            return list(range(len(batch.token_BS)))

        def sources(self) -> list[Any]:
            return [*super().sources(), (0, 9, 9, END)] if self.loses else super().sources()

    stage = Stage("tokens", Whole, objective="tokens", options={"key": ("long", "short")})
    messages = errors(run_check("GG612", Subject("lost", [stage]), stage))

    assert f"1 of 9 rows of the data are in no batch of an epoch{told}; allowed: 0" in messages


def test_gg612_finds_rows_that_no_epoch_holds_where_epochs_are_not_as_declared() -> None:
    """Each holds others; what is in none of several is lost."""

    class Other(cut().stages[0].start):  # type: ignore[misc]
        epoch_size = 6

        def samples(self, batch: Any) -> list[tuple[int, ...]]:
            return [tuple(row) for row in batch.token_BS.tolist()]

        def sources(self) -> list[Any]:
            return [*super().sources(), (0, 9, 9, END)]

    stage = Stage("tokens", Other, objective="tokens")
    messages = errors(run_check("GG612", Subject("lost", [stage]), stage))
    assert "1 of 9 rows of the data are in no batch of 3 epochs; allowed: 0" in messages


@pytest.mark.parametrize(
    ("drawn", "heldout", "told"),
    [
        (range(8), [7], []),
        (range(8), [2], ["1 held-out samples are trained on; allowed: 0"]),
        ([2, 1, 2, 3, 4, 5, 6, 7], [7], ["epoch 2 of 8 samples repeats 1 ", "epoch 3 of 8 samples repeats 1 "]),
    ],
)
def test_gg612_takes_one_name_of_several_rows_for_that_of_a_group(drawn: Any, heldout: Any, told: list[str]) -> None:
    """Two rows a prompt: each epoch holds every prompt as often as the first one does, and none that is held out."""

    class Grouped(cut().stages[0].start):  # type: ignore[misc]
        epoch_size, shuffles = 8, False

        def batches(self) -> Any:
            whole = next(super().batches())
            yield whole
            while True:
                yield self.select_rows(whole, list(drawn))

        def samples(self, batch: Any) -> list[int]:
            return [int(row[1]) // 3 for row in batch.token_BS]

        def heldout(self) -> list[int]:
            return heldout

    stage = Stage("tokens", Grouped, objective="tokens")
    messages = errors(run_check("GG612", Subject("grouped", [stage]), stage))

    assert [message.partition("and lacks")[0][:30] for message in messages] == [each[:30] for each in told]


@pytest.mark.parametrize(
    ("key", "moved", "told"),
    [
        ("model.width", [6, 11], ["1 of 2 held-out samples are others with model.width = 2; allowed: 0"]),
        ("model.width", [10, 11], []),
        ("model.width", [6], []),  # fewer are another split
        ("model.width", [20, 21], []),  # names that go by what the key changes
        ("data.split", [6, 11], []),
    ],
)
def test_gg612_finds_a_split_that_goes_by_what_is_none_of_the_data(key: str, moved: list[int], told: list[str]) -> None:
    """Held-out rows that are drawn behind a model of another width are others."""

    class Split(cut().stages[0].start):  # type: ignore[misc]
        epoch_size, shuffles = 8, False

        def __init__(self, seed: int, *, options: Any = None, **made: Any) -> None:
            super().__init__(seed, **made)
            self.width = (options or {}).get(key, 1)

        def batches(self) -> Any:
            whole = next(super().batches())
            while True:
                yield self.select_rows(whole, list(range(8)))

        def samples(self, batch: Any) -> list[int]:
            return list(range(len(batch.token_BS)))

        def heldout(self) -> list[int]:
            return moved if self.width > 1 else [10, 11]

    stage = Stage("tokens", Split, objective="tokens", options={key: (1, 2)})

    assert errors(run_check("GG612", Subject("split", [stage]), stage)) == told


@pytest.mark.parametrize(
    ("heldout", "offset", "told"),
    [
        ([7], 0, ["1 samples that stage 'second' holds out are trained on; allowed: 0"]),
        ([8], 0, []),
        ([7], 1, []),  # what is called 7 is another row there
    ],
)
def test_gg612_finds_what_another_stage_holds_out(heldout: list[int], offset: int, told: list[str]) -> None:
    """A split by the seed of each stage: rows that one evaluates on are those that the other learns."""

    class Numbered(cut().stages[0].start):  # type: ignore[misc]
        epoch_size, shuffles, first = 8, False, 0

        def batches(self) -> Any:
            whole = next(super().batches())
            while True:
                yield self.select_rows(whole, list(range(8)))

        def samples(self, batch: Any) -> list[int]:
            return [self.first + number for number in range(len(batch.token_BS))]

    class Second(Numbered):
        first = offset

        def heldout(self) -> list[int]:
            return heldout

        def batches(self) -> Any:
            while True:
                yield self.select_rows(next(super().batches()), list(range(7)))

        epoch_size = 7

    first, second = (
        Stage(name, run, objective="tokens") for name, run in {"first": Numbered, "second": Second}.items()
    )

    assert errors(run_check("GG612", Subject("apart", [first, second]), first)) == told


def test_bundled_trainer_cuts_rows_and_keeps_them_those_of_its_data() -> None:
    """Its small corpus has rows that are longer than its longest length."""
    run = build_subject().stages[1].start(0)
    cut_rows = [source for source in run.sources() if len(source) > run.max_length]

    assert len(cut_rows) == 2
    assert run_check("GG413", build_subject(), build_subject().stages[1]).measured["rows_not_in_data"] == 0


def test_bundled_trainer_collates_as_its_rows_say() -> None:
    """Rewards as they were computed, and an end token behind each row."""
    subject = build_subject()

    assert run_check("GG501", subject, None).measured["batches_with_rewards"] == 8 * len(subject.stages)
    assert run_check("GG413", subject, subject.stages[1]).measured["documents_without_end"] == 0

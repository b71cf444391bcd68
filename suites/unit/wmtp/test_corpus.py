"""The embedded corpus: right and wrong solutions that part at one byte, and only the prompt tells which is which."""

from __future__ import annotations

from collections import Counter

import pytest

from wmtp.data.corpus import MAX_TASKS, OPERATORS, TEMPLATES, embedded_corpus
from wmtp.data.examples import Example
from wmtp.data.split import split_by_task
from wmtp.errors import DataError
from wmtp.rewards.verifiable import verifiable_rewards

KINDS = len(TEMPLATES) * len(OPERATORS)
SIGN_OF = {word: sign for word, (sign, _) in OPERATORS.items()}


def word_of(example: Example) -> str:
    (word,) = [word for word in OPERATORS if f"{word}:" in example.prompt or f"{word})" in example.prompt]
    return word


def is_right(example: Example) -> bool:
    return example.completion.startswith(SIGN_OF[word_of(example)])


def test_corpus_is_a_function_of_its_seed() -> None:
    """The same seed gives the same rows, another seed others."""
    assert embedded_corpus(3, 40) == embedded_corpus(3, 40)
    assert embedded_corpus(3, 40) != embedded_corpus(4, 40)


def test_tests_pass_for_right_solutions_only() -> None:
    """Of the two rows of every task, the one with the prompt's operator passes its tests and the other fails them."""
    examples = embedded_corpus(0, 2 * KINDS)
    assert verifiable_rewards(examples) == [float(is_right(example)) for example in examples]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_of_a_task_part_at_one_byte(seed: int) -> None:
    """A task's right and wrong row share prompt and length; they part at the completion's first byte."""
    examples = embedded_corpus(seed, 100)
    for one, other in zip(examples[::2], examples[1::2], strict=True):
        assert (one.task_id, one.prompt, one.tests) == (other.task_id, other.prompt, other.tests)
        assert one.completion[0] != other.completion[0]
        assert len(one.completion) == len(other.completion)
        assert {is_right(one), is_right(other)} == {True, False}


def test_prompts_of_different_tasks_differ() -> None:
    """No task is met twice, so none can be in training and held-out rows at once."""
    prompts = [example.prompt for example in embedded_corpus(0, 600)[::2]]
    assert len(set(prompts)) == len(prompts)


def test_solution_alone_gives_nothing_away() -> None:
    """In whole rounds each template uses each operator as often in right as in wrong solutions, in either place."""
    examples = embedded_corpus(1, 2 * KINDS)
    uses = Counter((e.task_id.split("/")[0], e.completion[0], is_right(e)) for e in examples)
    assert set(uses.values()) == {2}


def test_right_rows_are_not_always_first() -> None:
    """The order of a task's two rows is drawn."""
    assert {is_right(example) for example in embedded_corpus(0, 20)[::2]} == {True, False}


def test_rows_fit_the_default_length() -> None:
    """A row has at most 110 bytes, all ASCII, so that it fits a sequence of 128 with its special tokens."""
    texts = [example.text for example in embedded_corpus(5, 400)]
    assert max(map(len, texts)) <= 110
    assert all(text.isascii() for text in texts)


@pytest.mark.parametrize("tasks", [0, MAX_TASKS + 1])
def test_number_of_tasks_is_bounded(tasks: int) -> None:
    """Too few or too many tasks are refused by the key's name."""
    with pytest.raises(DataError, match=rf"data\.tasks must be from 1 to 10000 .* got {tasks}"):
        embedded_corpus(0, tasks)


def test_split_keeps_tasks_whole() -> None:
    """Rows of a task are on one side of the split; every row is on one; the seed decides."""
    examples = embedded_corpus(0, 50)
    train, heldout = split_by_task(examples, 0.2, seed=1)
    assert {e.task_id for e in train} & {e.task_id for e in heldout} == set()
    assert sorted(train + heldout, key=examples.index) == examples
    assert len(heldout) == 20
    assert (train, heldout) == split_by_task(examples, 0.2, seed=1)
    assert (train, heldout) != split_by_task(examples, 0.2, seed=2)


@pytest.mark.parametrize(("fraction", "heldout_tasks"), [(0.001, 1), (0.999, 2)])
def test_split_leaves_a_task_on_each_side(fraction: float, heldout_tasks: int) -> None:
    """However small or large the fraction, both sides have a task."""
    examples = [Example(name, "", "x") for name in "abc"]
    assert len(split_by_task(examples, fraction, seed=0)[1]) == heldout_tasks


def test_split_refuses_what_cannot_be_split() -> None:
    """One task cannot be on both sides; a fraction is above 0 and below 1."""
    examples = [Example("a", "", "x"), Example("a", "", "y")]
    with pytest.raises(DataError, match=r"1 task\(s\) cannot be split"):
        split_by_task(examples, 0.5, seed=0)
    with pytest.raises(DataError, match="above 0 and below 1, got 1"):
        split_by_task(examples, 1, seed=0)

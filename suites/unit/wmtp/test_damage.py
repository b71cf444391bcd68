"""Damaged copies: one token changed, still Python, the same for the same seed."""

from __future__ import annotations

import ast

import pytest

from wmtp.data.damage import damaged_copies
from wmtp.data.examples import Example

SOURCE = "def f(a, b):\n    # a + b\n    return  a + b if a < 10 else max(a, b)  # ü\n"


def differing(one: str, other: str) -> tuple[str, str]:
    """What is left of two texts without their common start and end."""
    start = next((i for i, (x, y) in enumerate(zip(one, other, strict=False)) if x != y), min(len(one), len(other)))
    one, other = one[start:], other[start:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    return one, other


def test_copy_changes_one_token_and_nothing_else() -> None:
    """Each copy differs from the original in one token; comments, spacing and all other fields stay."""
    example = Example("t", "", SOURCE, "import os", ("assert f(1, 2) == 3",), "f")
    copies = damaged_copies(example, seed=0, copies=100)
    assert {differing(SOURCE, copy.completion) for copy in copies} == {
        ("+", "-"), ("", "not "), ("<", ">="), ("0", "1"), ("10", "9"), ("ax", "in"),
    }  # fmt: skip
    assert len(set(copies)) == len(copies) == 6
    for copy in copies:
        ast.parse(copy.completion)
        assert (copy.task_id, copy.prompt, copy.setup, copy.tests, copy.entry_point) == (
            "t", "", "import os", ("assert f(1, 2) == 3",), "f",
        )  # fmt: skip


def test_copies_are_a_function_of_seed_and_task() -> None:
    """The same seed gives the same copies; over seeds they vary."""
    example = Example("t", "", SOURCE)
    assert damaged_copies(example, 1, 3) == damaged_copies(example, 1, 3)
    assert len({damaged_copies(example, seed)[0] for seed in range(20)}) > 1


def test_prompt_is_never_damaged() -> None:
    """Only the completion changes, also where the two are a program only together."""
    example = Example("t", "def f(a, b):\n    c = a + 1\n", "    return a - c\n")
    (copy,) = damaged_copies(example, 0, 9)
    assert (copy.prompt, copy.completion) == (example.prompt, "    return a + c\n")


def test_code_without_operators_gets_a_negated_return() -> None:
    """Where nothing else can change, a return value is negated."""
    (copy,) = damaged_copies(Example("t", "", "def f(a):\n    return a.strip()\n"), 0, 2)
    assert copy.completion == "def f(a):\n    return not a.strip()\n"


def test_zero_is_only_counted_up() -> None:
    """A constant becomes the next and the one before, but no minus sign is invented."""
    copies = damaged_copies(Example("t", "", "x = [0, 0x10, 1.5, 00]\n"), 0, 9)
    assert {copy.completion for copy in copies} == {"x = [1, 0x10, 1.5, 00]\n", "x = [0, 0x10, 1.5, 1]\n"}


def test_swap_that_no_longer_parses_is_dropped() -> None:
    """A star before an argument is no product."""
    assert damaged_copies(Example("t", "", "def f(*a):\n    pass\n"), 0, 9) == []


@pytest.mark.parametrize(
    "text", ["pass\n", "", "print 'x' + 1\n", "plain words, no code (", "x = '''a + b", "if a:\n      b\n   c + 1\n"]
)
def test_what_is_no_program_or_has_nothing_to_change_is_left_alone(text: str) -> None:
    """Text that is no Python, and code without anything to change, has no damaged copies."""
    assert damaged_copies(Example("t", "", text), 0, 3) == []


@pytest.mark.parametrize("separator", ["\x0c", "\u2028", "\r"])
def test_unusual_line_separators_do_not_shift_the_change(separator: str) -> None:
    """Only what Python counts as a line end counts as one here: the changed token is the one that was meant."""
    text = f"x = 'a{separator}b'\ny = 1 + 2\n" if separator != "\r" else "x = 3\ny = 1 + 2\r\n"
    for copy in damaged_copies(Example("t", "", text), 0, 9):
        before, after = differing(text, copy.completion)
        assert (before, after) in {("+", "-"), ("1", "2"), ("1", "0"), ("2", "3"), ("2", "1"), ("3", "4"), ("3", "2")}

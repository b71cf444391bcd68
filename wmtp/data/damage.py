"""Damaged copies of right solutions, so that a reward from running tests has both outcomes."""

from __future__ import annotations

import ast
import io
import itertools
import random
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

from wmtp.data.examples import Example

# One token for another: operators, comparisons, truth values and a few names. Whether the result parses is checked.
SWAPS = {
    "+": "-", "-": "+", "*": "+", "/": "*", "//": "*", "%": "//", "**": "*", "+=": "-=", "-=": "+=", "*=": "+=",
    "/=": "*=", "//=": "*=", "<": ">=", ">": "<=", "<=": ">", ">=": "<", "==": "!=", "!=": "==", "&": "|", "|": "&",
    "^": "&", "<<": ">>", ">>": "<<", "True": "False", "False": "True", "and": "or", "or": "and", "min": "max",
    "max": "min", "any": "all", "all": "any", "in": "not in", "is": "is not", "not": "", "if": "if not",
    "sum": "max", "sorted": "list", "set": "list", "tuple": "list", "list": "tuple", "upper": "lower", "lower": "upper",
}  # fmt: skip
LAST_RESORT = {"return": "return not"}  # plain to see, so only for code with nothing else to change


@dataclass(frozen=True, slots=True)
class Mutation:
    """Characters [start, end) of the text become `replacement`."""

    start: int
    end: int
    replacement: str


def damaged_copies(example: Example, seed: int, copies: int = 1) -> list[Example]:
    """Copies of `example`, each with one token of its completion changed; all else, formatting too, stays.

    Each copy parses and differs from the original and from the other copies. It shares the original's text up to
    the changed token. Whether its tests fail is not known: some changes do not matter.

    Args:
        example: a right solution; prompt and completion together are a Python program.
        seed: decides, with the example's task, which tokens change.
        copies: how many copies to make.

    Returns:
        At most `copies` examples; fewer where the code has less to change, none where it is no Python.
    """
    text = example.text
    tokens = list(_tokens(text, len(example.prompt)))
    rng = random.Random(f"{seed} {example.task_id}")  # noqa: S311 -- reproducible, not secret
    for swaps in (SWAPS, LAST_RESORT):
        mutations = [mutation for token in tokens for mutation in _mutations(token, swaps)]
        rng.shuffle(mutations)
        changed = (text[: each.start] + each.replacement + text[each.end :] for each in mutations)
        if damaged := list(itertools.islice(filter(_parses, changed), copies)):
            return [replace(example, completion=program[len(example.prompt) :]) for program in damaged]
    return []


def _tokens(text: str, start: int) -> Iterator[tuple[int, tokenize.TokenInfo]]:
    """Tokens at or after character `start` of `text`, each with the place where it begins; none in no Python."""
    line_starts = [0, *itertools.accumulate(len(line) + 1 for line in text.split("\n"))]
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    except (tokenize.TokenError, SyntaxError):
        return
    for token in tokens:
        begin = line_starts[token.start[0] - 1] + token.start[1]
        if begin >= start and text.startswith(token.string, begin):
            yield begin, token


def _mutations(place: tuple[int, tokenize.TokenInfo], swaps: dict[str, str]) -> Iterator[Mutation]:
    """What a token may become: its swap; for a whole number the next and the one before."""
    begin, token = place
    end = begin + len(token.string)
    if token.type in (tokenize.OP, tokenize.NAME) and token.string in swaps:
        yield Mutation(begin, end, swaps[token.string])
    elif token.type == tokenize.NUMBER and token.string.isdecimal() and len(token.string) < 20:
        number = int(token.string)
        yield Mutation(begin, end, str(number + 1))
        if number:
            yield Mutation(begin, end, str(number - 1))


def _parses(text: str) -> bool:
    """Whether `text` is Python; warnings about its style are nobody's concern here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True

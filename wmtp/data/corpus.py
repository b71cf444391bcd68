"""The embedded corpus: small programming tasks of our own, generated from a seed; nothing is read or downloaded.

A task asks for a function that applies one of its arguments several times: the argument's name says how (`add`, `sub`,
`mul`), a comment says how often. Each task has a right and a subtly wrong solution:

    def ka(x,add): #4
     return x+add+add+add+add      (right)
     return x-add-add-add-add      (wrong)

The two share a prefix and part at one byte, the first operator. So E[reward | prefix] is one half up to that byte and
jumps there to 1 or 0. A solution alone gives nothing away: each operator is right and wrong equally often, at the same
lengths and positions, and only the prompt's word tells which. Names and counts vary; no two tasks have the same prompt.

The rows are short and their code is dense on purpose. The value head sees a frozen trunk's features, and those of a
tiny model hold what its next few tokens depend on: word and operator recur every few bytes behind the decision, so
both are in the features there, and a small value head can compare them.
"""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from wmtp.data.examples import Example
from wmtp.errors import DataError

Apply = Callable[[int, int, int], int]  # (start, argument, times) -> result

MAX_TASKS = 10_000  # far below the number of different prompts
OPERATORS: Mapping[str, tuple[str, Callable[[int, int], int]]] = {
    "add": ("+", operator.add),
    "sub": ("-", operator.sub),
    "mul": ("*", operator.mul),
}
CONSONANTS, VOWELS, LETTERS = "bdfgklmnprst", "aeiou", "abcdhjkpqxyz"
TIMES = range(4, 8)
STARTS, ARGUMENTS = range(2, 30), range(2, 6)
TESTS = 3


@dataclass(frozen=True, slots=True)
class Template:
    """A family of tasks.

    Args:
        prompt: ends where the solution begins. {f} is the function, {x} and {y} names, {w} the word, {k} how often.
        solution: begins with {steps}, the operator and the word {k} times; {one} is both once.
        parameters: what the function takes before the word's argument: "n" a number, "l" a list of numbers.
        expected: what the right function returns, from `Apply` and the arguments.
    """

    prompt: str
    solution: str
    parameters: str
    expected: Callable[..., Any]


TEMPLATES: Mapping[str, Template] = {
    "plain": Template(
        "def {f}({x},{w}): #{k}\n return {x}", "{steps}\n", "n",
        lambda apply, k, x, w: apply(x, w, k),
    ),
    "lambda": Template(
        "#{k}\n{f}=lambda {x},{w}:{x}", "{steps}\n", "n",
        lambda apply, k, x, w: apply(x, w, k),
    ),
    "negative": Template(
        "def {f}({x},{w}): #{k}\n return -({x}", "{steps})\n", "n",
        lambda apply, k, x, w: -apply(x, w, k),
    ),
    "square": Template(
        "def {f}({x},{w}): #{k}\n return ({x}", "{steps})**2\n", "n",
        lambda apply, k, x, w: apply(x, w, k) ** 2,
    ),
    "pair": Template(
        "def {f}({x},{y},{w}): #{k}\n return {x}", "{steps},{y}{one}\n", "nn",
        lambda apply, k, x, y, w: (apply(x, w, k), apply(y, w, 1)),
    ),
    "each": Template(
        "def {f}({x},{w}): #{k}\n return [{y}", "{steps} for {y} in {x}]\n", "l",
        lambda apply, k, x, w: [apply(y, w, k) for y in x],
    ),
    "local": Template(
        "def {f}({x},{w}): #{k}\n {y}={x}", "{steps}\n return {y}\n", "n",
        lambda apply, k, x, w: apply(x, w, k),
    ),
    "guard": Template(
        "def {f}({x},{w}): #{k}\n if {x}:return {x}", "{steps}\n return {w}\n", "n",
        lambda apply, k, x, w: apply(x, w, k),
    ),
    "test": Template(
        "def {f}({x},{y},{w}): #{k}\n return {x}", "{steps}>{y}\n", "nn",
        lambda apply, k, x, y, w: apply(x, w, k) > y,
    ),
}  # fmt: skip


def embedded_corpus(seed: int, tasks: int = 256) -> list[Example]:
    """Rows of `tasks` tasks, for each a right solution and a wrong one, in a random order.

    Args:
        seed: decides everything.
        tasks: how many tasks, spread evenly over templates and operators.

    Returns:
        Two examples a task, next to each other; the tests pass for one of them.

    Raises:
        DataError: `tasks` is out of range.
    """
    if not 1 <= tasks <= MAX_TASKS:
        raise DataError(f"data.tasks must be from 1 to {MAX_TASKS} for the embedded corpus, got {tasks}")
    rng = random.Random(seed)  # noqa: S311 -- reproducible, not secret
    words = list(OPERATORS)
    kinds = [(kind, word) for kind in TEMPLATES for word in range(len(words))]
    rows: list[Example] = []
    prompts: set[str] = set()
    for number in range(tasks):
        turn, index = divmod(number, len(kinds))
        kind, word = kinds[index]
        other = (word + 1 + turn % (len(words) - 1)) % len(words)  # each wrong operator in turn
        task = _task(f"{kind}/{number}", TEMPLATES[kind], words[word], words[other], rng)
        while task[0].prompt in prompts:
            task = _task(f"{kind}/{number}", TEMPLATES[kind], words[word], words[other], rng)
        prompts.add(task[0].prompt)
        rows.extend(task)
    return rows


def _task(task_id: str, template: Template, word: str, other: str, rng: random.Random) -> list[Example]:
    """The two rows of a task: with the operator of `word`, which is right, and with that of `other`."""
    function = rng.choice(CONSONANTS) + rng.choice(VOWELS)
    x, y = rng.sample(LETTERS, 2)
    times = rng.choice(TIMES)
    names: dict[str, Any] = {"f": function, "x": x, "y": y, "w": word, "k": times}
    tests = _tests(function, template, word, other, times, rng)
    rows = []
    for sign in rng.sample([OPERATORS[word][0], OPERATORS[other][0]], 2):
        solution = template.solution.format(**names, steps=(sign + word) * times, one=sign + word)
        rows.append(Example(task_id, template.prompt.format(**names), solution, tests=tests, entry_point=function))
    return rows


def _tests(function: str, template: Template, word: str, other: str, times: int, rng: random.Random) -> tuple[str, ...]:
    """Calls with what the right solution returns; on the first of them the wrong one returns something else."""
    tests: list[str] = []
    while len(tests) < TESTS:
        arguments = [_argument(kind, rng) for kind in template.parameters] + [rng.choice(ARGUMENTS)]
        expected = template.expected(_apply(word), times, *arguments)
        if tests or expected != template.expected(_apply(other), times, *arguments):
            tests.append(f"assert {function}({', '.join(map(repr, arguments))}) == {expected!r}")
    return tuple(tests)


def _argument(kind: str, rng: random.Random) -> int | list[int]:
    return rng.choice(STARTS) if kind == "n" else rng.sample(STARTS, 3)


def _apply(word: str) -> Apply:
    step = OPERATORS[word][1]
    return lambda start, argument, times: reduce(step, [argument] * times, start)

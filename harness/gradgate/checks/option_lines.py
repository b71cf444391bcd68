"""Which own line keeps a key of the configuration from what it is for, where two of its values do the same.

Where the run declares that they differ, in rates, coefficients or tokens to train on, what holds a run against that
knows the line. Else it is a call whose argument stays as the key moves: of a function that is given the key elsewhere,
or whose parameter is called as the key is. The value, put in there, must tell the two apart. Else it is the operation
at which all that the key changes ends.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from torch import Tensor

from gradgate.checks import batches as trees
from gradgate.checks import gg410_loss_scale, gg413_token_dropped, gg607_schedule_oracle
from gradgate.checks.effect_lines import line_of_end, line_of_lost_gradient
from gradgate.checks.own_lines import Line, OwnLines, arguments_of, put, statement_at
from gradgate.checks.randomness import seeded
from gradgate.core.finding import Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

UPDATES = 20  # for which what is declared is compared
TIMES = 8  # of a call whose arguments are kept
_WORDS = {"null": None, "none": None, "true": True, "false": False}  # how a configuration writes them


@dataclass(frozen=True)
class Alike:
    """Two values of a key that nothing tells apart.

    Args:
        subject: whose lines.
        stage: whose option it is.
        context: of the check.
        key: of the configuration.
        values: the two.
        differ: whether a short run with the second, in a block, differs from one with the first.
    """

    subject: Subject
    stage: Stage
    context: Context
    key: str
    values: tuple[Any, Any]
    differ: Callable[[AbstractContextManager[Any]], bool]

    def start(self, value: Any, stage: Stage | None = None) -> Run:
        """A fresh run with the key moved."""
        given = {"device": self.context.device, "options": {self.key: value}}
        return (stage or self.stage).start(self.context.seed, **given)

    def begun(self, value: Any) -> tuple[Run, Batch, int]:
        """A fresh run with the key moved, its first batch, and the seed of what they are asked for."""
        run = self.start(value)
        return run, next(iter(run.batches())), self.context.seed

    def moved(self, value: Any) -> Stage:
        """The stage with the key moved, and nothing else to move."""
        start = partial(self.stage.start, options={self.key: value})
        return replace(self.stage, start=start, options=None, neutral=None, precisions=None)


def line_of_option(alike: Alike) -> Line | Location | None:
    """The line that keeps the key from its effect; None where nothing shows it."""
    return _declared(alike) or _call(alike) or _end(alike)


def _declared(alike: Alike) -> Location | None:
    """Of what the two are declared to differ in, the line that a check of it names for one of them."""
    one, other = (alike.start(value) for value in alike.values)
    for differ, check in _DECLARED:
        if differ(one, other):
            for value in reversed(alike.values):
                outcome = check(alike.subject, alike.moved(value), alike.context)
                places = (found.culprit for found in outcome.findings if found.severity == "error")
                place = next((place for place in places if place is not None), None)
                if place is not None:
                    return place
    return None


def _rates(one: Run, other: Run) -> bool:
    able = all("hyperparameters" in declared(run) for run in (one, other))
    return able and any(one.hyperparameters(number) != other.hyperparameters(number) for number in range(UPDATES))


def _coefficients(one: Run, other: Run) -> bool:
    return one.coefficients != other.coefficients


def _trained(one: Run, other: Run) -> bool:
    if not all("supervised" in declared(run) for run in (one, other)):
        return False
    asked = [run.supervised(next(iter(run.batches()))) for run in (one, other)]
    return trees.first_difference(*asked) is not None


_DECLARED: tuple[tuple[Callable[[Run, Run], bool], Callable[[Subject, Stage, Context], Outcome]], ...] = (
    (_rates, gg607_schedule_oracle.check),
    (_coefficients, gg410_loss_scale.check_total),
    (_trained, gg413_token_dropped.check),
)


@dataclass(frozen=True)
class _Argument:
    """One argument of one call: at a line of its own, to an own function."""

    line: Line
    code: CodeType
    name: str


_Given = Mapping[_Argument, list[Any]]


class _Arguments(OwnLines):
    """The plain values that own functions are given by own lines, the first few times."""

    within = False

    def __init__(self, source: Path | None) -> None:
        super().__init__(source)
        self.given: dict[_Argument, list[Any]] = {}

    def entering(self, frame: FrameType) -> None:
        """Keep what an own function is given."""
        line = self.now()
        if line is None or not self.is_own(frame.f_code):
            return
        for name in arguments_of(frame.f_code):
            value = frame.f_locals.get(name)
            if value is None or isinstance(value, bool | int | float | str):
                seen = self.given.setdefault(_Argument(line, frame.f_code, name), [])
                if len(seen) < TIMES:
                    seen.append(value)


class _Put(OwnLines):
    """Puts a value in the place of an argument."""

    within = False

    def __init__(self, source: Path | None, argument: _Argument, value: Any) -> None:
        super().__init__(source)
        self.argument, self.value = argument, value

    def entering(self, frame: FrameType) -> None:
        """Put it in where the call is that one."""
        if frame.f_code is self.argument.code and self.now() == self.argument.line:
            put(frame, self.argument.name, self.value)


def _call(alike: Alike) -> Line | None:
    """The call whose argument stays, and tells the two values apart where the second is put in."""
    source = alike.subject.source
    before, after = (_given(alike, value) for value in alike.values)
    for argument, value in _staying(alike, before, after):
        if alike.differ(_Put(source, argument, value).on()):
            return _at_argument(argument)
    return None


def _given(alike: Alike, value: Any, stage: Stage | None = None) -> _Given:
    """What own functions are given while a run is built, and by its first step."""
    lines = _Arguments(alike.subject.source)
    with lines.on():
        run = alike.start(value, stage)
        for batch in islice(run.batches(), 1):
            run.step(batch)
    return lines.given


def _end(alike: Alike) -> Location | None:
    """The operation at which what the key changes ends: its numbers, or else its gradient."""
    source = alike.subject.source
    one, other = (partial(_step, *alike.begun(value)) for value in alike.values)
    found = line_of_end(one, other, source)
    if found is not None or "losses" not in declared(alike.start(alike.values[0])):
        return found
    before, after = (partial(_loss, *alike.begun(value)) for value in alike.values)
    return line_of_lost_gradient(before, after, source)


def _step(run: Run, batch: Batch, seed: int) -> object:
    with seeded(seed):
        return run.step(batch)


def _loss(run: Run, batch: Batch, seed: int) -> Tensor:
    with seeded(seed):
        return run.losses(batch)["total"]


def _staying(alike: Alike, before: _Given, after: _Given) -> Iterator[tuple[_Argument, Any]]:
    """Arguments that the key does not move, with what would stand there: where another stage gives the function the
    key, then where parameter and key have one name and the argument is a value of the key's, or left out.

    What a call of the stage is given the key for, others of it may be given anything for.
    """
    given = {(argument.code, argument.name) for argument in _following(alike, before, after)}
    stay = [argument for argument, seen in after.items() if before.get(argument) == seen]
    stay = [argument for argument in stay if (argument.code, argument.name) not in given]
    moving: dict[tuple[CodeType, str], Any] = {}
    for stage in alike.subject.stages:
        if stage is not alike.stage and alike.key in (stage.options or {}):
            one, other = (_given(alike, value, stage) for value in alike.values)
            moved = _following(alike, one, other)
            mixed = {(each.code, each.name) for each in other if each not in moved}  # helpers of many uses
            moving |= {(each.code, each.name): other[each][0] for each in moved}
            moving = {key: value for key, value in moving.items() if key not in mixed}
    yield from ((each, moving[each.code, each.name]) for each in stay if (each.code, each.name) in moving)
    listed = (alike.stage.options or {}).get(alike.key, alike.values)
    wanted = _read(alike.values[1])
    for argument in stay:
        if (argument.code, argument.name) in moving or not _is_called(argument.name, alike.key):
            continue
        seen = after[argument]
        known = any(_are(seen, each) for each in listed) or _is_left_out(argument)
        if known and (type(wanted) is type(seen[0]) or seen[0] is None):
            yield argument, wanted


def _following(alike: Alike, before: _Given, after: _Given) -> list[_Argument]:
    """Arguments that are the first value in one run, and the second in the other."""
    one, other = alike.values
    return [argument for argument, seen in after.items() if _are(before.get(argument), one) and _are(seen, other)]


def _are(seen: list[Any] | None, option: Any) -> bool:
    """Whether an argument is a value of the key's each time."""
    wanted = _read(option)
    return bool(seen) and all(each == wanted and type(each) is type(wanted) for each in seen or ())


def _read(option: Any) -> Any:
    """A value of a key, which a configuration may give as text, as the program has it."""
    return _WORDS.get(option.lower(), option) if isinstance(option, str) else option


def _is_called(name: str, key: str) -> bool:
    """Whether a parameter has the last name of a key, or the words that it ends with."""
    last = key.rpartition(".")[2].lower()
    return last == name.lower() or last.endswith(f"_{name.lower()}")


def _at_argument(argument: _Argument) -> Line:
    """The line of what is given, where it is given by name; else that of the call."""
    call = _call_of(argument)
    given = [word for word in call.keywords if word.arg == argument.name] if call is not None else []
    return (argument.line[0], given[0].value.lineno) if given else argument.line


def _is_left_out(argument: _Argument) -> bool:
    """Whether a call does not give an argument, which has its default then."""
    call, code = _call_of(argument), argument.code
    if call is None or any(word.arg in (argument.name, None) for word in call.keywords):
        return False
    positional = code.co_varnames[: code.co_argcount]
    if argument.name not in positional:
        return True
    place = positional.index(argument.name) - (positional[0] in ("self", "cls"))
    return place >= len(call.args) and not any(isinstance(each, ast.Starred) for each in call.args)


def _call_of(argument: _Argument) -> ast.Call | None:
    """The call as it is written, where its statement has one of a function, or a class, of that name."""
    statement = statement_at(argument.line)
    calls = [node for node in ast.walk(statement) if isinstance(node, ast.Call)] if statement is not None else []
    names = argument.code.co_qualname.split(".")[-2 if argument.code.co_name == "__init__" else -1]
    found = [call for call in calls if ast.unparse(call.func).rpartition(".")[2] == names]
    return found[0] if len(found) == 1 else None

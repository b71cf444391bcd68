"""Places: which of a trainer's functions a call goes to, and what calls give them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gradgate.checks.source.places import Place, Places, places_in
from gradgate.checks.source.trainer import File

SOURCE = """
def load(path):
    return path

class Base:
    def restore(self):
        pass

class Loop(Base):
    def run(self, files):
        {call}
"""


def _file(text: str) -> File:
    return File(Path("trainer.py"), ast.parse(text), tuple(text.splitlines()))


def _named(places: Places, name: str) -> Place:
    (place,) = (place for place in places.all if place.name == name)
    return place


@pytest.mark.parametrize(
    ("call", "function"),
    [
        ("load('x')", "load"),
        ("files.load('x')", "load"),
        ("torch.load('x')", None),
        ("json.load('x')", None),
        ("self.restore()", "restore"),
        ("self.load('x')", None),
        ("unknown()", None),
    ],
)
def test_a_call_goes_to_an_own_function_of_its_name_and_none_of_a_library(call: str, function: str | None) -> None:
    """`torch.load` is not the trainer's `load`, though there is no other."""
    own = places_in((_file(SOURCE.format(call=call)),))
    (run,) = own.methods("run")
    (made,) = (node for node in run.nodes if isinstance(node, ast.Call))
    found = own.called(made, run)

    assert (found and found.name) == function


GIVING = """
RATE = rate(1, decay=2)

def rate(first, /, second=0, *, decay):
    return first

class Loop:
    def run(self, rows, limit):
        return rate(rows)

    def all(self, rows):
        self.run({given})
"""


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("rows, 3", {"rows": "rows", "limit": "3"}),
        ("rows, limit=3", {"rows": "rows", "limit": "3"}),
        ("*rows, 3", {}),
        ("rows, *limits", {"rows": "rows"}),
        ("*rows, limit=3", {"limit": "3"}),
    ],
)
def test_a_call_gives_arguments_by_their_names_up_to_a_star(given: str, found: dict[str, str]) -> None:
    """`self` is none of them, and behind a star nobody knows which one is which."""
    own = places_in((_file(GIVING.format(given=given)),))
    ((_, call),) = own.calls_of("run")

    assert {name: ast.unparse(value) for name, value in _named(own, "run").given(call).items()} == found


def test_a_parameter_is_given_what_all_calls_give_it() -> None:
    """Those of the top level, too, which no function makes."""
    own = places_in((_file(GIVING.format(given="rows, 3")),))
    given = own.given_to(_named(own, "rate"), "first") or []

    assert [(caller.name, ast.unparse(value)) for caller, value in given] == [("", "1"), ("run", "rows")]
    assert [caller.name for caller, _ in own.calls_of("rate")] == ["run"]


@pytest.mark.parametrize("more", ["TABLE = {'rate': rate}", "rate(*ROWS)", "def rate(first): pass"])
def test_a_parameter_may_be_given_anything_by_calls_that_are_not_seen(more: str) -> None:
    """From a table, by a star, or where two functions have the name."""
    own = places_in((_file(GIVING.format(given="rows, 3") + more + "\n"),))
    rate = next(place for place in own.functions if place.name == "rate")

    assert own.given_to(rate, "first") is None


def test_a_function_of_the_top_level_has_all_parameters_and_no_name_of_a_class() -> None:
    """By position it is given those in front of the star alone."""
    own = places_in((_file(GIVING.format(given="rows, 3")),))

    assert list(_named(own, "rate").parameters) == ["first", "second", "decay"]
    assert _named(own, "rate").positional == ["first", "second"]
    assert list(_named(own, "run").parameters) == ["self", "rows", "limit"]
    assert [place.name for place in own.methods_of(own.classes["Loop"][0])] == ["run", "all"]


def test_functions_are_read_once_for_all_checks_of_the_same_files() -> None:
    """And anew where a file was parsed again."""
    text = SOURCE.format(call="load('x')")
    file = _file(text)

    assert places_in((file,)) is places_in((file,))
    assert places_in((file,)) is not places_in((_file(text),))

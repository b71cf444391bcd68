"""Trial reverts: of a change, the place whose old text makes a failing check pass; and everything is put back."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from fixtures.two_checkouts import commit
from gradgate import cli
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Result, Verdict
from gradgate.faults import locate, revert
from gradgate.faults.revert import Hunk, guilty, hunks, reverted

BASE = '''
"""A module."""

import math

SCALE = 2.0


def area(radius, factor=1.0):
    return factor * math.pi * radius**2


def helper(x):
    return x + 1


class Loss:
    weight = 3.0

    def value(self, x):
        return self.scaled(x) - 1

    def scaled(self, x):
        return x * SCALE

    @property
    def name(self):
        return "loss"

    @name.setter
    def name(self, value):
        self.weight = value
'''
SUBJECT = """\
import pathlib

import gradgate


def value_loss(value_BS, return_BS, valid_BS):
    count = valid_BS.sum().clamp(min=1)
    error_BS = value_BS - return_BS
    kept_BS = error_BS.masked_fill(~valid_BS, 0.0)
    return kept_BS.square().sum() / count


def subject():
    return gradgate.Subject(
        "own", stages=[], functions=gradgate.Functions(value_loss=value_loss), source=pathlib.Path(__file__).parent
    )
"""


@pytest.fixture
def changed(tmp_path: Path) -> Iterator[Callable[..., tuple[ModuleType, list[revert.Hunk]]]]:
    """A module with pieces of the base replaced, loaded, and the places in which it differs."""
    name = "revert_me"

    def load(*pairs: tuple[str, str]) -> tuple[ModuleType, list[revert.Hunk]]:
        text = BASE
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        file = tmp_path / f"{name}.py"
        file.write_text(text, encoding="utf-8")
        sys.path.insert(0, str(tmp_path))
        importlib.invalidate_caches()
        return importlib.import_module(name), hunks({file: BASE})

    path = list(sys.path)
    yield load
    sys.path[:] = path
    sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("radius**2", "radius**3", 10, "with `return factor * math.pi * radius**2` of main"),
        ("factor=1.0", "factor=2.0", 9, "with `def area(radius, factor=1.0):` of main"),
        ("SCALE = 2.0", "SCALE = 3.0", 6, "with `SCALE = 2.0` of main"),
        ("    return x * SCALE\n", "    x = x + 1\n        return x * SCALE\n", 24, "without what is new since main"),
    ],
    ids=["line", "default", "top level", "new line"],
)
def test_place_whose_old_text_makes_the_check_pass_is_named(changed, old: str, new: str, line: int, told: str) -> None:
    """A statement, a default, a constant and a new line; a second change that does no harm is left out."""
    module, found = changed((old, new), ("return x + 1", "return 1 + x"))

    def passes() -> bool:
        return bool(abs(module.area(2.0) - 12.566) < 1e-3 and module.Loss().value(1.0) == 1.0)

    assert not passes()
    suspected = guilty(found, passes, "main")
    assert suspected is not None
    assert (suspected.place.line, suspected.message) == (line, f"the check passes {told} here")
    assert not passes()


def test_two_places_that_only_together_help_are_both_told(changed) -> None:
    """A renamed function and its caller: the smallest part that makes the check pass is two places."""
    module, found = changed(
        ("return self.scaled(x) - 1", "return self.doubled(x)"),
        ("    def scaled(self, x):\n        return x * SCALE", "    def doubled(self, x):\n        return x * 4"),
        ("return x + 1", "return 1 + x"),
    )
    assert len(found) == 3

    def passes() -> bool:
        with contextlib.suppress(AttributeError):
            return bool(module.Loss().value(1.0) == 1.0)
        return False

    suspected = guilty(found, passes, "main")
    assert suspected is not None
    assert (suspected.place.line, suspected.message.endswith(", and 1 more place of it")) == (21, True)
    assert module.Loss().value(1.0) == 4.0
    assert not hasattr(module.Loss, "scaled")


@pytest.mark.parametrize("wrong", [lambda: False, lambda: 1 / 0], ids=["fails", "raises"])
def test_nothing_is_named_where_the_base_fails_too(changed, wrong: Callable[[], bool]) -> None:
    """Then the change is not to blame; whatever the check raises, the module is as it was."""
    module, found = changed(("radius**2", "radius**3"))
    code = module.area.__code__
    with contextlib.suppress(ZeroDivisionError):
        assert guilty(found, wrong, "main") is None
    assert module.area.__code__ is code


def test_nothing_is_named_where_time_runs_out_before_the_place_is_alone(changed) -> None:
    """All places together are no place; one alone is."""
    module, found = changed(("radius**2", "radius**3"), ("return x + 1", "return 1 + x"))
    once = iter([True])

    assert guilty(found, lambda: next(once, None), "main") is None
    assert guilty(found[:1], lambda: True, "main") is not None
    assert module.area(2.0) == pytest.approx(25.133, abs=1e-3)


def test_change_of_nothing_that_runs_is_no_place(changed) -> None:
    """Comments and blank lines are no hunks; a docstring is one that changes no function."""
    _, found = changed(("SCALE = 2.0", "SCALE = 2.0\n\n# a comment"))
    assert found == []
    with reverted(found) as done:
        assert not done


def test_property_is_left_alone(changed) -> None:
    """Its getter and setter have one name: which is which cannot be told from outside."""
    module, found = changed(("self.weight = value", "self.weight = -value"))
    with reverted(found) as done:
        assert not done
        assert module.Loss().name == "loss"


def test_text_that_is_no_python_is_not_tried(changed) -> None:
    """Half of a change may not parse; then it is no trial."""
    module, found = changed(("radius**2", "radius**3"))
    broken = revert.Hunk(found[0].file, found[0].start, found[0].stop, ("    return (",))
    with reverted([broken]) as done:
        assert not done
    assert module.area(2.0) == pytest.approx(25.133, abs=1e-3)


@pytest.mark.parametrize(
    ("line", "outside"), [(3, True), (4, False), (5, False), (6, True), (8, True), (9, False), (10, False), (11, True)]
)
def test_line_that_no_change_holds_is_looked_for_among_the_changes(tmp_path: Path, line: int, outside: bool) -> None:
    """It suffers from one of them; of lines that were taken out the neighbours count."""
    file = tmp_path / "a.py"
    places = {"main": [Hunk(file, 3, 5, ("x = 1",)), Hunk(file, 9, 9, ("y = 1",))]}
    finding = Finding("GG101", "n", "m", culprit=Location(str(file), line))

    assert locate.outside(places)(Result("GG101", "n", "failed", findings=(finding,))) is outside
    assert not locate.outside(places)(Result("GG101", "n", "passed"))
    assert locate.outside(places)(Result("GG101", "n", "failed", findings=(replace(finding, culprit=None),)))


def test_line_that_a_check_named_is_kept_beside_the_change_that_it_suffers_from(tmp_path: Path) -> None:
    """The change is the culprit; what the check saw by itself is told."""
    file, seen = str(tmp_path / "a.py"), Location("b.py", 7)
    finding = Finding("GG101", "n", "m", culprit=seen)
    verdict = Verdict("s", {}, (Result("GG101", "n", "failed", findings=(finding,)),))
    answer = revert.Guilty(Location(file, 4), "the check passes with `x` of main here")

    found = locate.locate(verdict, lambda _: answer, seconds=1.0, jobs=1, wanted=lambda _: True)

    (told,) = found.results[0].findings
    assert told.culprit == Location(file, 4)
    assert told.detail["repair"] == "the check passes with `x` of main here; the check itself names b.py:7"


def test_verify_names_the_changed_line_of_a_check_that_names_none(tmp_path: Path, monkeypatch) -> None:
    """With a base, unasked: where the base's text makes the check pass; an innocent change beside it is not named."""
    project = tmp_path / "project"
    project.mkdir()
    file = project / "own_adapter.py"
    file.write_text(SUBJECT, encoding="utf-8")
    commit(project)
    file.write_text(
        SUBJECT.replace("error_BS.masked_fill(~valid_BS, 0.0)", "error_BS").replace("min=1", "min=1.0"),
        encoding="utf-8",
    )
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ["verify", "own_adapter:subject", "--path", ".", "--select", "GG404", "--jobs", "1", "--base-ref", "main"]
    try:
        ran = CliRunner().invoke(cli.cli, words, prog_name="gradgate")
    finally:
        sys.modules.pop("own_adapter", None)

    assert ran.exit_code == 1, ran.output
    assert "own_adapter.py:9 in value_loss()      kept_BS = error_BS" in ran.stdout
    assert "tried: the check passes with `kept_BS = error_BS.masked_fill(~valid_BS, 0.0)` of main here" in ran.stdout
    assert "looking for the line of GG404, by what main had there" in ran.stderr
    assert "trial repairs" not in ran.stderr


def test_what_a_function_remembers_is_forgotten_with_the_code_that_gave_it(changed) -> None:
    """A remembered answer of the faulty code would make the base's text fail too."""
    old, new = "def helper(x):", "@functools.cache\ndef helper(x):"
    module, found = changed(
        (old, new), ("import math", "import functools\nimport math"), ("return x + 1", "return x + 2")
    )
    assert module.helper(1) == 3

    with reverted(found) as done:
        assert done
        assert module.helper(1) == 2
    assert module.helper(1) == 3

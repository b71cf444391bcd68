"""Options come from the command line, then the ini file, then the table; a project file is read strictly."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradgate.core import options
from gradgate.core.errors import GradgateError
from gradgate.core.options import DEVICE, OPTIONS, PROFILE, SEED
from gradgate.core.project import Project, find_project


@pytest.mark.parametrize(
    ("flag", "ini", "value"), [("pr", "nightly", "pr"), (None, "nightly", "nightly"), (None, "", "quick")]
)
def test_option_prefers_the_command_line_then_the_ini_file(flag: str | None, ini: str, value: str):
    """A flag that was not given leaves the ini key its say."""
    assert PROFILE.resolve(flag, ini) == value


@pytest.mark.parametrize(("given", "value"), [("0", 0), (17, 17), ("4294967295", 4294967295)])
def test_seed_is_read_as_a_number(given: str | int, value: int):
    """Text from an ini file becomes an integer."""
    assert SEED.parse(given, "here") == value


@pytest.mark.parametrize("given", ["-1", "1.5", "4294967296", "seven", ""])
def test_seed_refuses_what_no_generator_takes(given: str):
    """The message names the source and the range."""
    with pytest.raises(GradgateError, match=r"gradgate_seed: expected an integer from 0 to 4294967295, got"):
        SEED.parse(given, SEED.ini)


def test_profile_refuses_an_unknown_word_with_the_nearest():
    """The message names the source, the choices and the nearest."""
    with pytest.raises(GradgateError) as caught:
        PROFILE.resolve("nightli", None)
    expected = "--gradgate-profile: expected one of quick, pr, nightly, got 'nightli'; did you mean 'nightly'?"
    assert str(caught.value) == expected


def test_device_takes_any_word():
    """What a device is, torch knows."""
    assert DEVICE.parse("cuda:1", "here") == "cuda:1"


def test_options_are_documented_from_the_table():
    """The documentation's table has a row for each option."""
    lines = options.as_markdown().splitlines()
    assert len(lines) == 2 + len(OPTIONS)
    assert lines[3] == "| `--seed` | `--gradgate-seed` | `gradgate_seed` | `0` | every random choice derives from it |"


def write(folder: Path, text: str) -> Path:
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_project_is_that_of_the_nearest_folder(tmp_path: Path):
    """A project inside another does not inherit its settings."""
    write(tmp_path, '[tool.gradgate]\ntarget = "a:b"\n')
    inner = tmp_path / "inner"
    inner.mkdir()
    assert find_project(inner).target == "a:b"
    write(inner, "[project]\nname = 'x'\n")
    assert find_project(inner) == Project(inner / "pyproject.toml", baselines=inner / "reports/baselines")


def test_project_is_empty_without_a_file(monkeypatch: pytest.MonkeyPatch):
    """No pyproject.toml is no mistake."""
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    assert find_project(Path("/")) == Project()


def test_project_reads_expected_failures_with_their_reasons(tmp_path: Path):
    """Code = reason."""
    write(tmp_path, '[tool.gradgate]\nfaults = "f"\n[tool.gradgate.expected]\nGG505 = "issue 7"\n')
    found = find_project(tmp_path)
    assert (found.expected, found.faults) == ({"GG505": "issue 7"}, "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool.gradgate", "cannot be read: Expected ']'"),
        ("[tool]\ngradgate = 3", "[tool.gradgate] must be a table"),
        ("[tool.gradgate]\ntargt = 'a:b'", "[tool.gradgate] has no key 'targt'; did you mean 'target'?"),
        ("[tool.gradgate]\ntarget = 3", "[tool.gradgate] target must be a non-empty string, got 3"),
        ("[tool.gradgate]\nexpected = ['GG505']", "[tool.gradgate.expected] must be a table of code = reason"),
        ("[tool.gradgate.expected]\nGG505 = ' '", "[tool.gradgate.expected] GG505 needs a reason"),
    ],
)
def test_project_refuses_what_it_does_not_know(tmp_path: Path, text: str, message: str):
    """A mistake names the file, the key and what was expected."""
    with pytest.raises(GradgateError) as caught:
        find_project(write(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path / 'pyproject.toml'}: {message}")

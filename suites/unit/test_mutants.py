"""`make mutants`: what is mutated exists, and the score is told a group, a module and in all."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks import mutants

GROUPS = tomllib.loads((mutants.ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["mutants"]
FATES = {
    "statistics": {
        "gradgate.gates.stats.x_mean__mutmut_1": "killed",
        "gradgate.gates.stats.x_mean__mutmut_2": "killed",
    },
    "recorder": {
        "gradgate.watch.flow.x_cut__mutmut_1": "survived",
        "gradgate.watch.flow.x_cut__mutmut_2": "timeout",
        "gradgate.watch.freed.x_walk__mutmut_1": "no tests",
        "gradgate.watch.freed.x_walk__mutmut_2": "skipped",
    },
}


@pytest.mark.parametrize("group", GROUPS)
def test_mutants_groups_name_files_that_exist(group: str):
    """A file that moved would leave its group without a word."""
    for source in GROUPS[group]["only_mutate"]:
        assert (mutants.ROOT / "harness" / Path(source).relative_to("src")).is_file(), source
    for test in GROUPS[group]["pytest_add_cli_args_test_selection"]:
        assert (mutants.ROOT / test).is_file(), test


def test_mutants_score_counts_groups_and_modules():
    """A time-out is a kill, what no test reaches is none, what was skipped does not count."""
    assert mutants.scored(FATES) == {
        "schema_version": 1, "killed": 3, "mutants": 5, "score": 0.6,
        "groups": {
            "statistics": {
                "killed": 2, "mutants": 2, "score": 1.0,
                "modules": {"gradgate.gates.stats": {"killed": 2, "mutants": 2, "score": 1.0}},
            },
            "recorder": {
                "killed": 1, "mutants": 3, "score": 1 / 3,
                "modules": {
                    "gradgate.watch.flow": {"killed": 1, "mutants": 2, "score": 0.5},
                    "gradgate.watch.freed": {"killed": 0, "mutants": 1, "score": 0.0},
                },
            },
        },
        "survivors": ["gradgate.watch.flow.x_cut__mutmut_1", "gradgate.watch.freed.x_walk__mutmut_1"],
    }  # fmt: skip


@pytest.mark.parametrize(("least", "code"), [("0.3", 0), ("0.5", 1)])
def test_mutants_fail_where_one_group_is_below_the_least_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], least: str, code: int
):
    """Not the total: the statistics do not make up for the recorder."""
    monkeypatch.setattr(mutants, "run", lambda folder, *_: FATES[folder.name])
    file = tmp_path / "deep" / "mutation.json"
    monkeypatch.setattr(sys, "argv", ["mutants", "--json", str(file), "--least", least])
    assert mutants.main() == code
    assert json.loads(file.read_text("utf-8")) == mutants.scored(FATES)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "statistics: killed 2 of 2 mutants, 100.0%"
    assert "  gradgate.watch.flow: killed 1 of 2 mutants, 50.0%" in said
    assert said[-1].startswith("all: killed 3 of 5 mutants, 60.0%; written: ")


def test_mutants_are_given_one_groups_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As mutmut reads them, beside the project's own; the library lies under `src`."""
    monkeypatch.setattr(mutants.shutil, "copytree", lambda source, target, **_: target.mkdir(exist_ok=True))
    mutants.lay_out(tmp_path, {"only_mutate": ["src/a.py"], "pytest_add_cli_args": ["-k", "not slow"]})
    settings = tomllib.loads((tmp_path / "pyproject.toml").read_text("utf-8"))["tool"]
    assert settings["mutmut"] == {
        **mutants.COMMON, "only_mutate": ["src/a.py"], "pytest_add_cli_args": [*mutants.PYTEST, "-k", "not slow"],
    }  # fmt: skip
    assert settings["pytest"]["ini_options"]["filterwarnings"] == ["error"]
    assert (tmp_path / "src").is_dir()

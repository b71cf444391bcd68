"""`gradgate verify --locate`: a check that names no line gets one, by a change of it that makes the check pass."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fixtures.two_checkouts import commit
from gradgate import cli
from gradgate.checks import formulas
from gradgate.core.verdict import Verdict
from gradgate.faults import locate

SUBJECT = """\
import pathlib

import gradgate


def value_loss(value_BS, return_BS, valid_BS):
    error_BS = value_BS - return_BS
    kept_BS = error_BS.masked_fill(~valid_BS, 0.0)
    return kept_BS.square().sum() / valid_BS.sum().clamp(min=1)


def subject():
    return gradgate.Subject(
        "own", stages=[], functions=gradgate.Functions(value_loss=value_loss), source=pathlib.Path(__file__).parent
    )
"""
MASK = "error_BS.masked_fill(~valid_BS, 0.0)"


@pytest.fixture
def verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Run `gradgate verify` on the subject with one expression replaced; the check names no line by itself."""
    monkeypatch.setattr(formulas, "culprit", lambda *_: None)
    path = list(sys.path)

    def run(wrong: str, *words: str) -> Result:
        (tmp_path / "own_adapter.py").write_text(SUBJECT.replace(MASK, wrong), encoding="utf-8")
        sys.modules.pop("own_adapter", None)
        words = ("own_adapter:subject", "--path", str(tmp_path), "--select", "GG404", "--jobs", "1", *words)
        return CliRunner().invoke(cli.cli, ["verify", *words], prog_name="gradgate")

    yield run
    sys.path[:] = path
    sys.modules.pop("own_adapter", None)


def test_locate_names_the_line_and_the_change_that_makes_the_check_pass(verify, tmp_path: Path) -> None:
    """In text and JSON, beside what the check found; the verdict stays what it was."""
    ran = verify("error_BS", "--locate", "60", "--json", str(tmp_path / "found.json"))

    assert ran.exit_code == 1
    named = "return kept_BS.square().sum() / valid_BS.sum().clamp(min=1)"  # the mask fits there as well as a line above
    assert f"  where: {tmp_path / 'own_adapter.py'}:9 in value_loss()      {named}" in ran.stdout
    assert "  tried: the check passes with `return kept_BS.masked_fill(~valid_BS, 0.0)" in ran.stdout
    assert "looking for the line of GG404" in ran.stderr
    (result,) = json.loads((tmp_path / "found.json").read_text())["results"]
    assert result["findings"][0]["culprit"]["line"] == 9
    assert result["findings"][0]["detail"]["repair"].startswith("the check passes with ")


def test_verify_says_how_to_look_for_the_line_when_a_check_names_none(verify) -> None:
    """It costs time, so it is not done unasked; nothing is said where all is well."""
    ran = verify("error_BS")

    assert ran.exit_code == 1
    assert "no line is named for GG404; to look for it by trial repairs: --select GG404 --locate 20" in ran.stderr
    assert "where:" not in ran.stdout
    assert "trial repairs" not in verify(MASK).stderr


def test_verify_names_the_uncommitted_line_that_a_check_is_about(verify, tmp_path: Path) -> None:
    """What was edited since the last commit gets its old text back unasked, and the check passes."""
    verify(MASK)
    commit(tmp_path)

    ran = verify("error_BS")

    assert f"  where: {tmp_path / 'own_adapter.py'}:8 in value_loss()      kept_BS = error_BS" in ran.stdout
    assert f"the check passes with `kept_BS = {MASK}` of HEAD here" in " ".join(ran.stdout.split())
    assert "looking for the line of GG404, by what HEAD had there" in ran.stderr


def test_verify_names_the_line_of_the_last_commit_when_nothing_is_uncommitted(verify, tmp_path: Path) -> None:
    """A fault is often noticed behind the commit; what was broken before that has no line."""
    verify(MASK)
    commit(tmp_path)
    verify("error_BS")
    commit(tmp_path)

    assert "of HEAD~1 here" in " ".join(verify("error_BS").stdout.split())

    (tmp_path / "other.py").write_text("x = 1\n")
    commit(tmp_path)
    assert "where:" not in verify("error_BS").stdout


def test_locate_leaves_the_verdict_where_no_change_helps(verify) -> None:
    """A line is named on evidence only."""
    ran = verify("error_BS.tanh().sinh()", "--locate", "0.001")

    assert ran.exit_code == 1
    assert "where:" not in ran.stdout


def test_locate_keeps_what_was_found_when_it_is_interrupted(verify, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C during the search loses no finding."""

    def interrupted(*_: object, **__: object) -> Verdict:
        raise KeyboardInterrupt

    monkeypatch.setattr(locate, "locate", interrupted)
    ran = verify("error_BS", "--locate", "20")

    assert ran.exit_code == 1
    assert "GG404 boundary-grid:" in ran.stdout
    assert "the search for lines was interrupted" in ran.stderr

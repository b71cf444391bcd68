"""The tutorial is a program that does what the tutorial says; translations hold the same code; the pages build."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradgate.cli import cli
from suites.unit.test_workflows import option_mistakes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")
BROKEN, FIX = re.findall(r"```python\n(.*?)```", TUTORIAL, re.DOTALL)
FOUND = re.findall(r"```text\n(.*?)```", TUTORIAL, re.DOTALL)[0]
PAGES = [ROOT / "README.md", *(DOCS / "howto").glob("*.md"), *(DOCS / "ko").glob("*.md"), DOCS / "tutorial.md"]


def fixed() -> str:
    """The program with lines 10 and 11 replaced by the tutorial's."""
    lines = BROKEN.splitlines(keepends=True)
    return "".join([*lines[:9], FIX, *lines[11:]])


def test_tutorial_scan_names_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Line 11 in the broken program, nothing in the fixed one."""
    monkeypatch.chdir(tmp_path)
    for text, code in ((BROKEN, 1), (fixed(), 0)):
        Path("train.py").write_text(text, encoding="utf-8")
        done = CliRunner().invoke(cli, ["scan", "train.py", "--no-cache", "--jobs", "1"])
        assert (done.exit_code, "train.py:11 in step()" in done.output) == (code, code == 1)


@pytest.mark.nightly
def test_tutorial_blame_prints_what_the_page_shows(tmp_path: Path):
    """The finding to the letter; the fixed program ends well."""
    for text, code in ((BROKEN, 1), (fixed(), 0)):
        (tmp_path / "train.py").write_text(text, encoding="utf-8")
        words = [sys.executable, "-m", "gradgate.cli", "blame", "train.py"]
        done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
        assert (done.returncode, FOUND in done.stderr) == (code, code == 1)


def test_translation_holds_the_same_code():
    """Programs and outputs are not translated."""
    korean = (DOCS / "ko/tutorial.md").read_text(encoding="utf-8")
    blocks = re.compile(r"```.*?```", re.DOTALL)
    assert blocks.findall(korean) == blocks.findall(TUTORIAL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_page_shows_commands_that_exist(page: Path):
    """Each `gradgate ...` of a code block or a code span has a command and options that there are."""
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```(?:console)?\n(.*?)```", text, re.DOTALL)).splitlines()
    lines = [line.removeprefix("$ ") for line in blocks] + re.findall(r"`(gradgate [^`]+)`", text)
    calls = [line.split("#")[0] for line in lines if line.startswith("gradgate ")]
    assert [found for call in calls if (found := option_mistakes(call.split()[1:]))] == []


@pytest.mark.nightly
def test_pages_build_without_a_warning(tmp_path: Path):
    """Every link leads somewhere."""
    pytest.importorskip("mkdocs", reason="pip install 'gradgate[docs]'")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr

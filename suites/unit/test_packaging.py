"""What is built: one version, extras that hold together, and a wheel that works in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from gradgate import __version__
from gradgate.cli import cli

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINK = "import sysconfig; print(sysconfig.get_path('purelib'))"


def test_version_is_said_in_one_place():
    """pyproject.toml reads it from the package, and the citation agrees."""
    assert "version" in PROJECT["dynamic"]
    assert YAML(typ="safe").load(ROOT / "CITATION.cff")["version"] == __version__


def test_extra_names_only_extras_that_exist():
    """`dev` is made of the others."""
    extras = PROJECT["optional-dependencies"]
    named = {
        name
        for entry in extras["dev"]
        for group in re.findall(r"gradgate\[(.*?)\]", entry)
        for name in group.split(",")
    }
    assert named <= set(extras)
    assert {"report", "hf", "tracking", "lightning"} <= set(extras)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_printed_for_each_shell(shell: str):
    """The help text's line gives a shell something to evaluate."""
    made = CliRunner().invoke(cli, prog_name="gradgate", env={"_GRADGATE_COMPLETE": f"{shell}_source"})
    assert (made.exit_code, "_GRADGATE_COMPLETE" in made.stdout) == (0, True)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel's `gradgate` in a fresh environment, and an empty folder. What the wheel needs is lent by ours."""
    pytest.importorskip("hatchling", reason="pip install 'gradgate[ci]'")
    folder = tmp_path_factory.mktemp("clean")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run(built, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", str(wheel)], check=True)
    own = subprocess.run([python, "-c", LINK], capture_output=True, text=True, check=True).stdout.strip()
    (Path(own) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    (folder / "empty").mkdir()
    return python.with_name("gradgate"), folder / "empty"


def run(clean: tuple[Path, Path], *words: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COVERAGE"))}
    return subprocess.run([clean[0], *words], cwd=clean[1], capture_output=True, text=True, env=environment)


@pytest.mark.nightly
def test_wheel_verifies_in_an_empty_folder(clean):
    """The bundled trainer is found, judged, and the report is built with its templates."""
    done = run(clean, "verify", "--select", "GG201,GG401", "--report", "reports")
    assert (done.returncode, "verdict: passed" in done.stdout) == (0, True), done.stderr
    pytest.importorskip("jinja2", reason="pip install 'gradgate[report]'")
    assert run(clean, "report", "build", "reports").returncode == 0
    assert (clean[1] / "reports/report.html").is_file()


@pytest.mark.nightly
def test_wheel_prints_the_pages_of_its_rules(clean):
    """They are read from the installed sources."""
    assert "How it decides" in run(clean, "rule", "GG401").stdout


@pytest.mark.nightly
def test_sdist_holds_what_builds_and_tests(tmp_path: Path):
    """Sources, tests and fixtures; nothing that is generated."""
    pytest.importorskip("hatchling")
    words = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(tmp_path)]
    subprocess.run(words, check=True, cwd=ROOT, capture_output=True)
    with tarfile.open(next(tmp_path.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "conftest.py", "suites/unit/test_packaging.py"} <= names
    assert not [name for name in names if name.startswith(("runs/", ".venv/", "reports/"))]

"""`gradgate blame`: whole programs, unchanged, and what is said about them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BAD = """
import sys
import torch

def main():
    print("argv", sys.argv[1:], __name__)
    weight = torch.nn.Linear(3, 3)(torch.ones(2, 3)).softmax(-1)
    weight[:, 0] = 0.0
    weight.square().sum().backward()

if __name__ == "__main__":
    main()
"""
GOOD = "import sys, torch\nprint(sys.stdin.read())\nsys.exit(int(sys.argv[1]))\n"


def blame(folder: Path, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    command = [sys.executable, "-m", "gradgate.cli", "blame", *words]
    return subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True, timeout=120, check=False)


def test_blame_names_the_line_of_an_unchanged_program(tmp_path: Path):
    """Output and arguments are the program's; the finding comes at the end on stderr, and in JSON."""
    script = tmp_path / "train.py"
    script.write_text(BAD)
    done = blame(tmp_path, "--json", "out.json", "train.py", "--lr", "3", "--json", "mine")
    answer = json.loads((tmp_path / "out.json").read_text())
    assert (done.returncode, done.stdout) == (1, "argv ['--lr', '3', '--json', 'mine'] __main__\n")
    assert "Traceback" in done.stderr
    assert "  where: train.py:8 in main()      weight[:, 0] = 0.0\n" in done.stderr
    assert {key: answer[key] for key in ("schema_version", "exit")} == {"schema_version": 1, "exit": 1}
    assert [(finding["code"], finding["culprit"]["line"]) for finding in answer["findings"]] == [("GG101", 8)]


def test_blame_runs_a_module(tmp_path: Path):
    """As `python -m` does."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "train.py").write_text(BAD)
    done = blame(tmp_path, "-m", "pack.train", "one")
    assert (done.returncode, done.stdout) == (1, "argv ['one'] __main__\n")
    assert "GG101 inplace-on-saved-tensor" in done.stderr


@pytest.mark.parametrize("code", [0, 7])
def test_blame_leaves_a_quiet_program_its_exit_code(tmp_path: Path, code: int):
    """stdin, stdout and the exit code are the program's own."""
    (tmp_path / "train.py").write_text(GOOD)
    done = blame(tmp_path, "train.py", str(code), stdin="hello")
    assert (done.returncode, done.stdout, done.stderr) == (code, "hello\n", "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing.py",), "Error: cannot read missing.py: No such file or directory"),
        (("-m", "missing.module"), "Error: no module 'missing.module'"),
        (("broken.py",), "Error: broken.py is no Python that can be run"),
    ],
)
def test_blame_exits_2_when_the_program_cannot_be_started(tmp_path: Path, words: tuple[str, ...], message: str):
    """One line says why; no traceback."""
    (tmp_path / "broken.py").write_text("def f(:\n")
    done = blame(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert "Traceback" not in done.stderr


def test_blame_reports_once_when_the_program_forks(tmp_path: Path):
    """A child that comes back from a fork has nothing to report."""
    (tmp_path / "train.py").write_text("import os\nchild = os.fork()\nif child:\n    os.waitpid(child, 0)\n" + BAD)
    done = blame(tmp_path, "--json", "out.json", "train.py")
    assert done.returncode == 1
    assert sum(line.startswith("GG101") for line in done.stderr.splitlines()) == 3  # two notes, one report

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


@pytest.mark.nightly
def test_blame_runs_a_module(tmp_path: Path):
    """As `python -m` does."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "train.py").write_text(BAD)
    done = blame(tmp_path, "-m", "pack.train", "one")
    assert (done.returncode, done.stdout) == (1, "argv ['one'] __main__\n")
    assert "GG101 inplace-on-saved-tensor" in done.stderr


@pytest.mark.nightly
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


@pytest.mark.nightly
def test_blame_reports_once_when_the_program_forks(tmp_path: Path):
    """A child that comes back from a fork has nothing to report."""
    (tmp_path / "train.py").write_text("import os\nchild = os.fork()\nif child:\n    os.waitpid(child, 0)\n" + BAD)
    done = blame(tmp_path, "--json", "out.json", "train.py")
    assert done.returncode == 1
    assert sum(line.startswith("GG101") for line in done.stderr.splitlines()) == 3  # two notes, one report


SILENT = """
import torch

def gate(x):
    y = torch.sigmoid(x)
    y.data.mul_(2)
    return y

x = torch.randn(3, requires_grad=True)
y = gate(x)
print("forward")
y.sum().backward()
print("backward")
"""
# A hook that writes its gradient: its frame runs when it is found.
RUNNING = """
import torch

x = torch.randn(3, requires_grad=True)
h = x * 2
h.register_hook(lambda gradient: gradient.mul_(3))
h.exp().sum().backward()
print("backward")
"""


@pytest.mark.nightly
def test_blame_runs_to_the_end_when_nothing_stops_it(tmp_path: Path):
    """The program's output is whole, the finding comes behind it."""
    (tmp_path / "train.py").write_text(SILENT)
    done = blame(tmp_path, "train.py")
    assert (done.returncode, done.stdout) == (1, "forward\nbackward\n")
    assert done.stderr.count("GG103") >= 1


def test_blame_ends_the_program_at_the_first_finding(tmp_path: Path):
    """Nothing behind it runs; the finding is told once, the exit code is 1."""
    (tmp_path / "train.py").write_text(SILENT)
    done = blame(tmp_path, "--first", "train.py")
    assert (done.returncode, done.stdout) == (1, "forward\n")
    assert done.stderr.count("GG103 data-write") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.nightly
def test_blame_opens_the_debugger_where_the_program_stopped(tmp_path: Path):
    """In the user's innermost frame, with the line to break at where the culprit has run already."""
    (tmp_path / "train.py").write_text(SILENT)
    done = blame(tmp_path, "--pdb", "train.py", stdin="p y.shape\nq\n")
    assert done.returncode == 1
    assert "-> y.sum().backward()" in done.stdout
    assert "torch.Size([3])" in done.stdout
    assert "backward\n(Pdb)" not in done.stdout
    assert "the culprit has run already; to stop on it: break train.py:6" in done.stderr


def test_blame_opens_the_debugger_on_the_culprits_line_when_it_is_running(tmp_path: Path):
    """A hook that writes its gradient is still on the stack."""
    (tmp_path / "train.py").write_text(RUNNING)
    done = blame(tmp_path, "--pdb", "train.py", stdin="p gradient.shape\nq\n")
    assert "torch.Size([3])" in done.stdout
    assert "has run already" not in done.stderr


@pytest.mark.nightly
def test_blame_of_a_quiet_program_stops_nowhere(tmp_path: Path):
    """--first and --pdb change nothing where there is nothing to find."""
    (tmp_path / "train.py").write_text(GOOD)
    done = blame(tmp_path, "--first", "--pdb", "train.py", "3", stdin="hello")
    assert (done.returncode, done.stdout, done.stderr) == (3, "hello\n", "")

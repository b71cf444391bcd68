"""The workflows, the action and the templates are well formed, and each command in them is one that exists."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from ruamel.yaml import YAML

from fixtures.pytest_fixtures import _is_in
from gradgate.cli import cli

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTION, GITLAB, SHELL = ROOT / "action.yml", ROOT / "templates/gitlab-ci.yml", ROOT / "templates/gate.sh"
SCHEMAS = [(file, "vendor.github-workflows") for file in WORKFLOWS]
SCHEMAS += [(ACTION, "vendor.github-actions"), (GITLAB, "vendor.gitlab-ci")]
SCHEMAS += [(ROOT / ".github/dependabot.yml", "vendor.dependabot")]


def scripts(tree: Any) -> list[str]:
    """Every text that a shell runs: `run:` and `script:`."""
    if isinstance(tree, dict):
        own = [tree[key] for key in ("run", "script") if key in tree]
        return [text for value in own for text in ([value] if isinstance(value, str) else value)] + [
            text for key, value in tree.items() if key not in ("run", "script") for text in scripts(value)
        ]
    return [text for value in tree for text in scripts(value)] if isinstance(tree, list) else []


def all_scripts() -> dict[str, list[str]]:
    """File -> its scripts."""
    found = {file.name: scripts(YAML(typ="safe").load(file)) for file in (*WORKFLOWS, ACTION, GITLAB)}
    return found | {SHELL.name: [SHELL.read_text(encoding="utf-8")]}


SCRIPTS = [(name, text) for name, texts in all_scripts().items() for text in texts]


def calls(program: str) -> list[list[str]]:
    """The words of each call of a program; variables are left out."""
    found = []
    for _, text in SCRIPTS:
        for line in text.splitlines():
            match = re.search(rf"(?:^|[\s;(])(?:\.venv/bin/)?{program} (.*)", line)
            if match and not line.lstrip().startswith(("#", "echo")):
                plain = re.sub(r"\$\{\w+:\+(--[\w-]+)? ?\"\$\w+\"\}", r"\1 X", match[1]).replace(" X", " X", 1)
                words = shlex.split(re.split(r"\|\||;|2>&1|\|", plain)[0], comments=True)
                found.append([word for word in words if word])
    return found


def option_mistakes(words: list[str]) -> str:
    """What is wrong with the command and the options of a call of gradgate; empty where nothing is. Nothing runs."""
    command: Any = cli
    rest = list(words)
    while isinstance(command, click.Group):
        name = rest.pop(0) if rest else ""
        command = command.get_command(click.Context(command), name)
        if command is None:
            return f"no command {name!r} in {words}"
    known = {option for parameter in command.params for option in parameter.opts}
    unknown = {word.split("=")[0] for word in rest if word.startswith("-")} - known - {"--help"}
    own = command.name == "blame"  # what follows its script is the script's
    return f"{sorted(unknown)} in {words}" if unknown and not own else ""


def test_every_call_of_gradgate_is_one_that_it_takes():
    """Command and options exist; nothing runs."""
    found = calls("gradgate")
    assert len(found) >= 10
    assert [mistake for words in found if (mistake := option_mistakes(words))] == []


def test_call_of_gradgate_that_it_does_not_take_is_found():
    """A command that is gone and an option that is misspelt."""
    assert "no command 'verfy'" in option_mistakes(["verfy"])
    assert "--basref" in option_mistakes(["verify", "--basref", "main"])


def test_every_target_of_make_exists():
    """`make setup`, `make share` and the rest."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    used = {word for words in calls("make") for word in words}
    assert {"setup", "share", "coverage", "nightly"} <= used <= targets


@pytest.mark.parametrize("of", [1, 2, 3])
def test_shares_of_the_tests_are_all_of_them(of: int):
    """Each file of tests is in one share, and in one only."""
    files = {file.name for file in (ROOT / "suites").rglob("test_*.py")}
    shares = [{name for name in files if _is_in(f"{number}of{of}", name)} for number in range(1, of + 1)]
    assert sum(map(len, shares)) == len(files)
    assert set().union(*shares) == files
    assert all(shares)


@pytest.mark.parametrize("share", ["3of2", "1/2", "0of2", "of"])
def test_share_that_is_none_is_one_clear_error(share: str):
    """It says what is expected."""
    with pytest.raises(pytest.UsageError, match=f"GRADGATE_SHARE={share}: expected one such as 1of2"):
        _is_in(share, "test_x.py")


def test_pull_request_runs_every_share():
    """A share that no job runs would be tests that nobody runs."""
    jobs = YAML(typ="safe").load(ROOT / ".github/workflows/pr.yml")["jobs"]
    shares = jobs["tests"]["strategy"]["matrix"]["share"]
    assert shares == [f"{number}of{len(shares)}" for number in range(1, len(shares) + 1)]
    assert set(jobs) - {"report", "required"} == set(jobs["required"]["needs"])


def test_every_extra_that_is_installed_exists():
    """What pip is asked for beside the package."""
    declared = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE))
    used = {name for _, text in SCRIPTS for group in re.findall(r"\[([a-z,]+)\]", text) for name in group.split(",")}
    assert used
    assert used <= declared


@pytest.mark.parametrize(("name", "text"), SCRIPTS, ids=[f"{name}-{at}" for at, (name, _) in enumerate(SCRIPTS)])
def test_script_is_one_that_a_shell_can_read(name: str, text: str):
    """`bash -n`, with the expressions of the service filled in."""
    done = subprocess.run(["bash", "-n"], input=re.sub(r"\$\{\{.*?\}\}", "x", text), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_script_holds_an_expression_of_the_service():
    """What others write, such as a branch's name, reaches a script by the environment alone."""
    assert [name for name, text in SCRIPTS if "${{" in text] == []


@pytest.mark.parametrize("file", [*WORKFLOWS, ACTION], ids=lambda file: file.name)
def test_file_pins_each_action_by_commit(file: Path):
    """A commit cannot be moved as a tag can; the version it is stands behind it."""
    uses = re.findall(r"uses: (.*)", file.read_text(encoding="utf-8"))
    assert uses
    assert [use for use in uses if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_workflow_may_read_and_no_more(file: Path):
    """Jobs that need more ask for it themselves; each job has a time limit."""
    tree = YAML(typ="safe").load(file)
    assert tree["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in tree["jobs"].values())


@pytest.mark.nightly
@pytest.mark.parametrize(("file", "schema"), SCHEMAS, ids=[file.name for file, _ in SCHEMAS])
def test_file_fits_its_schema(file: Path, schema: str):
    """The service's own schema, as check-jsonschema ships it."""
    pytest.importorskip("check_jsonschema", reason="pip install 'gradgate[ci]'")
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(file)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.nightly
def test_workflows_pass_the_security_linter():
    """zizmor, without a network: injections, permissions, kept credentials."""
    if shutil.which("zizmor") is None:
        pytest.skip("no zizmor: pip install 'gradgate[ci]'")
    words = ["zizmor", "--offline", "--no-progress", "--quiet", str(ROOT / ".github/workflows"), str(ACTION)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_gate_script_passes_on_inconclusive_and_says_so(tmp_path: Path):
    """Exit code 3 becomes 0 with a line on stderr; any other stays."""
    for code, expected in ((0, 0), (1, 1), (3, 0), (4, 4)):
        stand_in = tmp_path / "gradgate"
        stand_in.write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
        stand_in.chmod(0o755)
        done = subprocess.run(
            ["sh", str(SHELL)], capture_output=True, text=True, cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
        )
        assert done.returncode == expected
        assert ("inconclusive" in done.stderr) == (code == 3)

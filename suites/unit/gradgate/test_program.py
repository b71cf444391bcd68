"""gradgate.command: a command line as the launch of a program."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import gradgate

ARGUMENTS = "--config 'my config.yaml' --set out={folder}"


def test_script_gets_the_words_of_a_shell(tmp_path: Path) -> None:
    """A folder with a blank is one word; values are as a configuration file has them."""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, pathlib\npathlib.Path(__file__).with_name('seen').write_text('\\n'.join(sys.argv[1:]))\n"
    )
    launch = gradgate.command(
        str(script), arguments=ARGUMENTS, resume="--resume {folder}", setting="--set {key}={value}"
    )
    before = sys.argv, list(sys.path)
    launch(tmp_path / "run 1", {"lr": 0.1, "pack": True, "patience": None}, True)
    assert (sys.argv, list(sys.path)) == before
    folder = str(tmp_path / "run 1")
    assert (tmp_path / "seen").read_text().splitlines() == [
        *("--config", "my config.yaml", "--set", f"out={folder}", "--resume", folder),
        *("--set", "lr=0.1", "--set", "pack=true", "--set", "patience=null"),
    ]


def test_main_that_takes_words_is_given_them_and_one_that_does_not_reads_argv(tmp_path: Path) -> None:
    """In turn, where there are several."""
    seen: list[list[str]] = []

    def takes(argv: list[str] | None = None) -> None:
        seen.append(list(argv or ()))

    def reads() -> None:
        seen.append(sys.argv[1:])

    gradgate.command(takes, reads, arguments="--out {folder}")(tmp_path, {"lr": 1}, False)
    assert seen == [["--out", str(tmp_path), "--lr=1"]] * 2


def test_entries_have_words_of_their_own_in_front_of_the_others(tmp_path: Path) -> None:
    """For two scripts whose arguments differ."""
    seen: list[list[str]] = []
    first, second = (lambda: seen.append(sys.argv[1:])), (lambda: seen.append(sys.argv[1:]))
    gradgate.command((first, "--out {folder}/a"), (second, "--from {folder}/a"), resume="--resume")(tmp_path, {}, True)
    assert seen == [["--out", f"{tmp_path}/a", "--resume"], ["--from", f"{tmp_path}/a", "--resume"]]


@pytest.mark.parametrize(("resume", "asked"), [(True, ["--resume", "auto"]), (False, [])])
def test_words_of_a_resume_stand_where_they_are_asked_for(tmp_path: Path, resume: bool, asked: list[str]) -> None:
    """In front of a `--set` that takes all words behind it."""
    seen: list[list[str]] = []
    launch = gradgate.command(
        lambda: seen.append(sys.argv[1:]),
        arguments="fit {resume} --set out={folder}",
        resume="--resume auto",
        setting="{key}={value}",
    )
    launch(tmp_path, {"lr": 1}, resume)
    assert seen == [["fit", *asked, "--set", f"out={tmp_path}", "lr=1"]]


def test_module_is_run_as_the_main_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the working directory."""
    (tmp_path / "my_train.py").write_text("import pathlib\npathlib.Path('ran').write_text(__name__)\n")
    monkeypatch.chdir(tmp_path)
    gradgate.command("my_train")(tmp_path, {}, False)
    assert (tmp_path / "ran").read_text() == "__main__"


@pytest.mark.parametrize(
    ("entries", "setting", "said"),
    [((), "--{key}={value}", "a module, a script or a main"), (("train",), "--set {key}", "lacks {key} or {value}")],
)
def test_command_that_cannot_be_run_says_what_is_expected(entries: tuple[str, ...], setting: str, said: str) -> None:
    """Where it is written, and not at the first launch."""
    with pytest.raises(ValueError, match=said):
        gradgate.command(*entries, setting=setting)

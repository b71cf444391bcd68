"""gradgate init shows how the trainer's whole program is launched, from the files that are started."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from gradgate import cli

LOOP = """
def train(model, optimizer, batches):
    for x in batches:
        loss = model(x).mean()
        loss.backward()
        optimizer.step()
"""
PARSED = """
import argparse


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--config")
    parser.add_argument("--out-dir")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--set", action="append")


if __name__ == "__main__":
    main()
"""


def drafted(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **files: str) -> str:
    """The adapter for two stages of a package with these files."""
    package = folder / name
    package.mkdir()
    for file, text in {"__init__": "", "loops": LOOP, **files}.items():
        (package / f"{file}.py").write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(cli.cli, ["init", *[f"{name}.loops:train"] * 2, "--path", str(folder)])
    assert done.exit_code == 0, done.output
    text = (folder / "gradgate_adapter.py").read_text(encoding="utf-8")
    compile(text, "gradgate_adapter.py", "exec")
    return text


def test_command_is_shown_with_the_words_of_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the file that trains, where others are started, too."""
    text = drafted(
        "drafted_trainer", tmp_path, monkeypatch, train=PARSED, make_data=PARSED.replace("--out-dir", "--rows")
    )
    assert 'gradgate.command("drafted_trainer.train", arguments="--config ... --out-dir {folder}"' in text
    assert 'resume="--resume", setting="--set {key}={value}"' in text and "make_data" not in text


def test_nothing_is_shown_where_no_file_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library's command stands elsewhere."""
    assert "gradgate.Program" not in drafted("library_trainer", tmp_path, monkeypatch)

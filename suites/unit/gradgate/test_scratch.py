"""Rule: what a trainer puts among the temporary files is gone behind the command; what torch compiled is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from gradgate.cli import cli
from gradgate.core.scratch import scratch

ADAPTER = """\
import tempfile
from pathlib import Path

import gradgate
from fixtures.plain_loop import PlainRun

BUILT = Path(__file__).with_name("built")


class Littering(PlainRun):
    def __init__(self, seed, **options):
        super().__init__(seed, **options)
        self.folder = tempfile.mkdtemp()
        BUILT.touch()


def subject():
    return gradgate.Subject("littering", [gradgate.Stage("train", Littering)])
"""


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    return tmp_path


def test_what_this_process_and_its_children_make_is_removed(temporary: Path) -> None:
    before = dict(os.environ)
    with scratch():
        ours = Path(tempfile.mkdtemp())
        made = subprocess.run(
            [sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"],
            capture_output=True,
            text=True,
            check=True,
        )
        theirs = Path(made.stdout.strip())
        assert ours.is_dir() and theirs.parent == ours.parent
    assert not list(temporary.iterdir())
    assert tempfile.gettempdir() == str(temporary)
    assert dict(os.environ) == before


def test_what_torch_compiled_stays_where_it_is(temporary: Path) -> None:
    expected = default_cache_dir()
    with scratch():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == expected


def test_a_cache_folder_that_is_given_is_kept(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/given")
    with scratch():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/given"
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/given"


def test_verify_leaves_nothing_of_an_adapter_that_makes_a_folder_for_each_run(
    temporary: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path_factory.mktemp("adapter")
    (folder / "littering_adapter.py").write_text(ADAPTER)
    target = ("littering_adapter:subject", "--path", str(folder), "--select", "GG100,GG001")
    result = CliRunner().invoke(cli, ["verify", *target], prog_name="gradgate")
    assert result.exit_code == 0, result.output
    assert (folder / "built").exists()
    assert not list(temporary.iterdir())

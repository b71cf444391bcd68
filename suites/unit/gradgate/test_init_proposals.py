"""What `gradgate init` reads from a loop: the class of the loader that it makes, and whether a schedule may wait."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent

import pytest
import torch
from click.testing import CliRunner

import gradgate
from fixtures.documented import two_stage
from gradgate import check_trainer, cli
from gradgate.commands.backwards import schedule_question

MODULE = """
import torch
import torch.utils.data as data
from itertools import islice
from torch.utils.data import DataLoader
from tqdm import tqdm


class Packs:
    def __init__(self, rows): ...
    def __iter__(self): ...


class Reader:
    def next_batch(self): ...


def train({parameters}):
    optimizer = torch.optim.AdamW(model.parameters())
{made}
    for batch in {over}:
        loss = model(batch)
        loss.backward()
        optimizer.step()
        scheduler.step()
"""
TORCHS, OWN = "loader_class=torch.utils.data.DataLoader", "loader_class=somebodys_loops.Packs"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("somebodys_loops", "gradgate_adapter"):
        sys.modules.pop(name, None)


def written(folder: Path, *targets: str) -> str:
    """The adapter that init writes."""
    done = CliRunner().invoke(cli.cli, ["init", *targets])
    assert done.exit_code == 0, done.output
    text = (folder / "gradgate_adapter.py").read_text(encoding="utf-8")
    ast.parse(text)
    return text


def adapters(folder: Path, made: str, over: str, parameters: str = "model") -> list[str]:
    """That of the loop alone, and that with a stage for it."""
    text = MODULE.format(parameters=parameters, made=indent(dedent(made), " " * 4), over=over)
    (folder / "somebodys_loops.py").write_text(text, encoding="utf-8")
    alone = written(folder, "somebodys_loops:train")
    (folder / "gradgate_adapter.py").unlink()
    return [alone, written(folder, "somebodys_loops:train", "somebodys_loops:train")]


@pytest.mark.parametrize(
    ("made", "over", "proposed"),
    [
        ("loader = DataLoader(rows())", "loader", TORCHS),
        ("loader = data.DataLoader(rows())", "enumerate(tqdm(loader), 1)", TORCHS),
        ("loader = Packs(rows())", "loader", OWN),
        ("loader = tqdm(Packs(rows()))", "islice(loader, 10)", OWN),
        ("held_out = DataLoader(rows())\nloader = Packs(rows())", "loader", OWN),
        ("loader = DataLoader(rows())\nbar = tqdm(loader)\nheld_out = DataLoader(rows())", "bar", TORCHS),
        ("if model:\n    loader = Packs(1)\nelse:\n    loader = Packs(2)", "loader", OWN),
        ("", "Packs(rows())", OWN),
    ],
)
def test_init_proposes_the_class_of_the_loader_that_the_loop_makes(folder: Path, made: str, over: str, proposed: str):
    """Its first instance is what the loop goes over: the run's batches are that one's, and none are written."""
    alone, staged = adapters(folder, made, over)
    assert f"self.begin(lambda _: train(...), {proposed})" in alone
    assert f"self.begin(lambda _: somebodys_loops.train(model), dtype=dtype, {proposed})" in staged
    assert "def batches" not in staged and "self.seed" not in staged and "loader_in" not in staged


@pytest.mark.parametrize(
    ("made", "over", "parameters"),
    [
        ("", "loader", "model, loader"),
        ("loader = loader or DataLoader(rows())", "loader", "model, loader=None"),
        ("held_out = DataLoader(rows())\nloader = DataLoader(rows())", "loader", "model"),
        ("loader = DataLoader(rows())\nmodel, loader = prepare(model, loader)", "loader", "model"),
        ("loader = prepare(DataLoader(rows()))", "loader", "model"),
        ("loader = make(DataLoader)", "loader", "model"),
        ("loader = Reader()", "loader", "model"),
        ("loader = Packs(1) if model else DataLoader(2)", "loader", "model"),
        ("loader = list(rows())", "loader", "model"),
        ("loader, other = DataLoader(1), DataLoader(2)", "zip(loader, other)", "model"),
        ("loader = torch.stack(rows())", "loader.split(4)", "model"),
    ],
)
def test_init_proposes_no_class_where_the_loop_goes_over_something_else(
    folder: Path, made: str, over: str, parameters: str
):
    """Given, wrapped, second of its class, of two classes or not iterated over: a lent loader, and batches to write."""
    alone, staged = adapters(folder, made, over, parameters)
    assert "loader_class" not in alone + staged
    assert "self.begin(lambda loader: train(...))" in alone
    assert "self.begin(lambda loader: somebodys_loops.train(" in staged
    assert "def batches" in staged and "self.seed = seed" in staged


def test_written_adapter_of_scripts_runs_on_their_own_loaders(folder: Path):
    """Nothing is filled in: what the scripts load lies there."""
    drawn = next(gradgate.toy_rows(0, vocabulary=two_stage.VOCABULARY, rows=8))
    torch.save([(list(tokens), float(reward)) for tokens, reward in drawn], folder / "rows.pt")
    targets = [f"fixtures.documented.{name}:main" for name in ("value_script", "token_script")]
    assert written(folder, *targets).count(TORCHS) == 2
    subject = importlib.import_module("gradgate_adapter").subject()
    verdict = check_trainer(subject, select=["GG001", "GG100", "GG201", "GG207", "GG607"])
    assert {result.status for result in verdict.results} == {"passed"}


@pytest.mark.parametrize(
    ("lines", "asked"),
    [
        ("if norm.isfinite():\n    optimizer.step()\nself.scheduler.step()", True),
        ("scaler.step(optimizer)\nlr_schedule.step()", True),
        ("optimizer.step()\nscheduler.step()", False),
        ("scaler.step(optimizer)", False),
    ],
)
def test_init_asks_what_moves_the_schedule_where_a_step_may_skip_its_update(lines: str, asked: bool):
    """It declares nothing: what the source does is what is to be looked at."""
    node = ast.parse("def step(self, batch):\n    loss.backward()\n" + indent(lines, " " * 4)).body[0]
    assert isinstance(node, ast.FunctionDef)
    assert [line.startswith("# schedule_counts = ") for line in schedule_question(node)] == [True] * asked


def test_init_writes_the_question_into_either_adapter(folder: Path):
    """In that of the loop alone, and in that with a stage for it."""
    for text in adapters(folder, "assert torch.isfinite(rate())", "loader"):
        assert '# schedule_counts = "updates"  # or "steps": ' in text


@pytest.mark.parametrize(("over", "counts"), [("range(100)", True), ("loader", False), ("enumerate(loader)", False)])
def test_init_says_where_a_loop_counts_with_range(folder: Path, over: str, counts: bool):
    """What ramps by that number moves with every turn for the losses, unless begin is told the module."""
    _, staged = adapters(folder, "loader = iter(rows())", over)
    assert ("counts_in" in staged) is counts

"""Faults generated from a source: what is chosen, that each fits, what is written, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gradgate import cli
from gradgate.core.errors import GradgateError
from gradgate.faults import catalogue
from gradgate.faults.generate import dumps, mutants

SOURCE = """\
import torch


class Stage:
    def loss(self, value_BS, return_BS, valid_BS):
        error_BS = (value_BS - return_BS.detach()).masked_fill(~valid_BS, 0.0)
        if not len(error_BS):
            raise ValueError(f"{len(error_BS)} rows")
        return error_BS.square().sum() / valid_BS.sum().clamp(min=1)

    def step(self, batch):
        self.optimizer.zero_grad()
        loss = self.loss(*batch)
        loss.backward()
        self.optimizer.step()
        for metric in self.metrics:
            metric.note(loss)
            metric.show(
                loss,
            )


def batches(rows):
    for row in rows:
        yield row.float()
        yield row.float()
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "trainer").mkdir()
    (tmp_path / "trainer" / "stage.py").write_text(SOURCE, encoding="utf-8")
    return tmp_path.resolve()


def gradgate(*words: str | Path) -> Result:
    return CliRunner().invoke(cli.cli, list(map(str, words)), prog_name="gradgate")


def test_mutants_hold_what_training_suffers(root: Path):
    """A mask, a detach or a call of the optimizer lost, a sum for a mean: each is among the changes, with its place."""
    made = mutants([Path("trainer")], root, 1000, 0)
    whats = [fault.what for fault in made]
    for operator in ("drop-masked-fill", "drop-detach", "skip-statement", "sum-to-mean", "invert-mask", "drop-clamp"):
        assert any(what.startswith(f"{operator} in Stage.") for what in whats), operator
    assert {edit.file for fault in made for edit in fault.edits} == {"trainer/stage.py"}
    assert [fault.id for fault in made[:2]] == ["GN-001", "GN-002"]


def test_mutants_fit_exactly_once_and_leave_messages_alone(root: Path):
    """What stands twice in a function is not changed, since nobody could say which; nor is what people are told."""
    for fault in mutants([Path("trainer/stage.py")], root, 1000, 0):
        assert catalogue.plant(fault, root).files
        (edit,) = fault.edits
        assert edit.find != "yield row.float()"
        assert not edit.find.startswith(("raise", "for"))


def test_mutants_take_each_operator_in_turn_and_repeat_by_seed(root: Path):
    """A small sample has many operators; one seed makes one choice, another one another."""
    made = mutants([Path("trainer")], root, 8, 3)
    assert len({fault.source for fault in made}) == 8
    assert mutants([Path("trainer")], root, 8, 3) == made
    assert mutants([Path("trainer")], root, 8, 4) != made


def test_mutants_are_read_back_from_what_is_written(root: Path):
    """Statements over several lines, quotes and all."""
    made = mutants([Path("trainer")], root, 1000, 0)
    (root / "more.yaml").write_text(dumps(made), encoding="utf-8")
    read = catalogue.read(root / "more.yaml")
    assert [(fault.id, fault.what, fault.codes) for fault in read] == [(f.id, f.what, ()) for f in made]
    for one, other in zip(read, made, strict=True):
        assert catalogue.plant(one, root) == catalogue.plant(other, root)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("trainer/nothing.py", None, "trainer/nothing.py: no such file or folder under"),
        ("..", None, "..: lies outside"),
        ("empty", None, "empty: holds no *.py"),
        ("trainer/bad.py", "def f(:", "trainer/bad.py: cannot be read as Python"),
        ("trainer/plain.py", "X = 1\n", "trainer/plain.py: has no function with anything that an operator changes"),
    ],
)
def test_mutants_refuse_a_source_in_one_line(root: Path, name: str, text: str | None, words: str):
    """What is missing, outside, empty, no Python or without a function is named."""
    (root / "empty").mkdir()
    if text is not None:
        (root / name).write_text(text, encoding="utf-8")
    with pytest.raises(GradgateError) as caught:
        mutants([Path(name)], root, 5, 0)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_generate_writes_a_catalogue_that_list_reads(root: Path):
    """The command says what it wrote and how to run it; a bad source ends with exit code 2."""
    file = root / "more.yaml"
    done = gradgate("faults", "generate", "trainer", "--path", root, "--output", file, "--count", 5)
    assert done.exit_code == 0, done.output
    assert f"written: {file}: 5 faults by 5 operators" in done.output
    assert f"gradgate faults run --faults {file}" in done.output
    listed = gradgate("faults", "list", "--path", root, "--faults", file)
    assert listed.exit_code == 0, listed.output
    assert "GN-005  any " in listed.output
    done = gradgate("faults", "generate", "nowhere", "--path", root, "--output", file)
    assert done.exit_code == 2
    assert "nowhere: no such file or folder" in done.output


def test_catalogue_refuses_codes_of_a_generated_fault(root: Path):
    """Nobody knows which rule should notice it."""
    text = dumps(mutants([Path("trainer")], root, 1, 0)).replace("  source:", "  codes: [GG101]\n  source:")
    (root / "more.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(GradgateError, match="expected no codes: none is known for it"):
        catalogue.read(root / "more.yaml")

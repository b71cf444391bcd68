"""The adapters in docs/adapters.md are programs: clean trainers hold, and a fault planted in each is found."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from click.testing import CliRunner

from gradgate.checks.runner import check_trainer
from gradgate.core.errors import SubjectError
from gradgate.subjects.hugging_face import HuggingFaceRun
from gradgate.subjects.lightning import LightningRun
from gradgate.subjects.moving import to_dtype

DOCS = Path(__file__).parents[3] / "docs" / "adapters.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
(HUGGING_FACE,) = (block for block in BLOCKS if "HuggingFaceRun" in block)
(LIGHTNING,) = (block for block in BLOCKS if "LightningRun" in block)
NEEDS = {HUGGING_FACE: "transformers", LIGHTNING: "lightning"}
PROGRAMS = [
    pytest.param(HUGGING_FACE, id="hugging-face"),
    pytest.param(LIGHTNING, id="lightning"),
]
MASK_IGNORED = """
class Bad(Trainer):
    def compute_loss(self, model, inputs, **options):
        return super().compute_loss(model, inputs | {"labels": inputs["input_ids"]}, **options)
"""


class _Pair(NamedTuple):
    x: torch.Tensor
    count: int


def scope_of(program: str, *changes: tuple[str, str]) -> dict:
    pytest.importorskip(NEEDS[program])
    for old, new in changes:
        assert program.count(old) == 1, old
        program = program.replace(old, new)
    scope: dict = {"__name__": "adapter_of_the_docs"}
    exec(compile(program, str(DOCS), "exec"), scope)  # noqa: S102 - our own text
    return scope


def failures(subject, **options) -> set[str]:
    verdict = check_trainer(subject, **options)
    return {result.code for result in verdict.results if result.status in {"failed", "error", "inconclusive"}}


@pytest.mark.nightly
@pytest.mark.parametrize("program", PROGRAMS)
def test_documented_adapter_passes_every_check_that_applies(program):
    """Nothing is alleged of a clean trainer."""
    assert failures(scope_of(program)["subject"]()) == set()


@pytest.mark.parametrize(
    ("program", "changes", "code"),
    [
        pytest.param(
            HUGGING_FACE,
            [("return Trainer(", "return Bad("), ("\n\ndef rows(", f"{MASK_IGNORED}\n\ndef rows(")],
            "GG406",
            id="padding is trained on",
        ),
        pytest.param(
            HUGGING_FACE,
            [("token_S.masked_fill(~real_S, -100)}", "token_S.roll(-1).masked_fill(~real_S, -100)}")],
            "GG412",
            id="labels are shifted twice",
        ),
        pytest.param(
            LIGHTNING,
            [
                (
                    "    def configure_opt",
                    "    def optimizer_zero_grad(self, *_):\n        pass\n\n    def configure_opt",
                )
            ],
            "GG206",
            id="gradients are never cleared",
            marks=pytest.mark.nightly,
        ),
    ],
)
def test_planted_fault_is_found_through_the_documented_adapter(program, changes, code):
    """A fault in the trainer, not in the adapter, turns its check red."""
    assert failures(scope_of(program, *changes)["subject"](), select=[code]) == {code}


@pytest.mark.parametrize("program", PROGRAMS)
def test_documented_adapter_wraps_a_trainer_in_at_most_forty_lines(program):
    """Where the trainer itself is given, the adapter is short."""
    adapter = program.partition("\nclass Run(")[2]
    assert len([line for line in adapter.splitlines() if line.strip()]) <= 40


@pytest.mark.nightly
def test_documented_adapter_runs_from_the_command_line(tmp_path, monkeypatch):
    """A user who pastes the page into a file has a target."""
    pytest.importorskip("lightning")
    from gradgate.cli import cli

    (tmp_path / "pasted_adapter.py").write_text(LIGHTNING, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    arguments = ["verify", "pasted_adapter:subject", "--path", str(tmp_path), "--select", "GG206"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output


def test_hugging_face_step_accumulates_as_the_trainer_does():
    """With two micro-batches a step, the step still follows the declared loss and resumes bit for bit."""
    changes = [
        ("per_device_train_batch_size=4", "per_device_train_batch_size=4, gradient_accumulation_steps=2"),
        ("class Run(TokenRows, HuggingFaceRun)", "class Run(HuggingFaceRun)"),
    ]
    subject = scope_of(HUGGING_FACE, *changes)["subject"]()
    assert failures(subject, select=["GG001", "GG205", "GG206", "GG602"]) == set()


@pytest.mark.nightly
def test_lightning_manual_optimization_and_schedulers_run():
    """A module that steps by itself is driven, and one whose schedule moves each step resumes bit for bit."""
    manual = """    def training_step(self, batch, batch_idx):
        loss = (self.net(batch[0]) - batch[1]).square().mean()
        self.log_dict({"train_loss": loss})
        self.optimizers().zero_grad()
        self.manual_backward(loss)
        self.optimizers().step()
        return {"loss": loss}
"""
    head, _, rest = LIGHTNING.partition("    def training_step")
    program = head + manual + "\n    def configure" + rest.partition("    def configure")[2]
    program = program.replace(
        "        self.net = nn", "        self.automatic_optimization = False\n        self.net = nn"
    )
    NEEDS[program] = "lightning"
    assert failures(scope_of(program, ("    max_norm = 1.0\n", ""))["subject"](), select=["GG001", "GG206"]) == set()
    optimizer, schedule = "torch.optim.AdamW(self.parameters(), lr=1e-2)", "torch.optim.lr_scheduler.ExponentialLR"
    pair = f"[o := {optimizer}], [{{'scheduler': {schedule}(o, 0.9), 'interval': 'step'}}]"
    scheduled = (f"        return {optimizer}", f"        return {pair}")
    assert failures(scope_of(LIGHTNING, scheduled)["subject"](), select=["GG001", "GG602"]) == set()


def test_adapters_refuse_what_is_no_trainer():
    """A build method that returns something else is one clear error."""
    pytest.importorskip("transformers")

    class NoTrainer(HuggingFaceRun):
        def trainer(self, seed, device):
            return "model"

    class NoModule(LightningRun):
        def build(self, seed):
            return torch.nn.Linear(1, 1), [1]

    with pytest.raises(SubjectError, match=r"trainer\(seed, device\) returned a str, not a transformers.Trainer"):
        NoTrainer(0)
    with pytest.raises(SubjectError, match=r"build\(seed\) returned a Linear first, expected a LightningModule"):
        NoModule(0)


def test_lightning_adapter_names_a_wrong_loss_optimizer_and_loader():
    """Each piece of somebody's module that is not as Lightning asks is named."""
    for change, message in (
        (("        return loss\n", "        return 'loss'\n"), "training_step returned a str"),
        (("return torch.optim.AdamW(self.parameters(), lr=1e-2)", "return None"), "expected optimizers"),
        (("DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=8, shuffle=True)", "[]"), "is empty"),
    ):
        scope = scope_of(LIGHTNING, change)
        with pytest.raises(SubjectError, match=message):
            _one_step(scope["Run"])


def _one_step(start):
    run = start(0)
    run.step(next(run.batches()))


def test_to_dtype_moves_floats_only_and_keeps_the_containers():
    """Ids and masks keep their dtype; tuples, named tuples, lists and mappings stay what they are."""
    batch = {"x": [torch.ones(2)], "ids": (torch.ones(2, dtype=torch.long), "text"), "top": _Pair(torch.ones(1), 3)}
    moved = to_dtype(batch, torch.float64)
    assert moved["x"][0].dtype == torch.float64
    assert moved["ids"][0].dtype == torch.long
    assert moved["ids"][1] == "text"
    assert isinstance(moved["top"], _Pair)
    assert moved["top"].x.dtype == torch.float64

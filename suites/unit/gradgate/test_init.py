"""`gradgate init`: the adapter that it writes is a program, and nothing is written over."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gradgate import check_trainer, cli
from gradgate.subjects.contract import Subject

TRAINERS = '''
class Trainer:
    """Two methods of its own."""

    def __init__(self, config, seed=0): ...
    def train_step(self, batch): ...
    def train_dataloader(self): ...
    def save_checkpoint(self, path): ...


class TwoPhases(Trainer):
    def pretrain_critic(self): ...


def loop(config): ...


class Stepping:
    def __init__(self, model, lr=0.1):
        self.optim = self.make(lr)

    def train_step(self, batch):
        policy = self.policy
        policy.train()
        loss = policy(batch) * 1
        loss.backward()


class Inside:
    def train_step(self, batch):
        main, extra = 0, 0
        main = self.head(batch)
        extra = self.critic(batch)
        loss = main + 0.5 * extra
        self.scaler.scale(loss).backward()
        clip_grad_norm_ = self.nothing
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.max_norm)
        self.optimizer.step()

    def update(self, batch):
        actor_loss = self.actor(batch)
        actor_loss.backward()
        critic_loss = self.critic(batch)
        critic_loss.backward()

    def pretrain(self, loader):
        optim = self.make()
        scheduler = self.make()
        for batch in loader:
            loss = self.value(batch)
            loss.backward()
            optim.step()
            scheduler.step()


def script(config, data):
    for batch in data:
        config.model(batch).mean().backward()
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a module of trainers in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "somebodys_trainers.py").write_text(TRAINERS, encoding="utf-8")
    yield tmp_path
    for name in ("somebodys_trainers", "gradgate_adapter"):
        sys.modules.pop(name, None)


def init(*words: str) -> Result:
    return CliRunner().invoke(cli.cli, ["init", *words], prog_name="gradgate")


@pytest.mark.parametrize("kind", ["loop", "two-stage"])
def test_written_adapter_verifies_at_once(folder: Path, kind: str):
    """On its stand-in, with nothing filled in, nothing fails."""
    done = init("--kind", kind)
    assert done.exit_code == 0, done.output
    assert "next: gradgate verify gradgate_adapter:subject --path ." in done.output
    subject: Subject = importlib.import_module("gradgate_adapter").subject()
    verdict = check_trainer(subject, select=["GG001", "GG100", "GG101", "GG201", "GG207", "GG303", "GG407"])
    assert {result.status for result in verdict.results} == {"passed"}
    assert len(subject.stages) == (2 if kind == "two-stage" else 1)


@pytest.mark.parametrize("kind", ["hugging-face", "lightning"])
def test_written_adapter_says_what_to_build(folder: Path, kind: str):
    """A trainer that cannot be guessed is asked for in one line."""
    assert init("--kind", kind).exit_code == 0
    module = importlib.import_module("gradgate_adapter")
    verdict = check_trainer(module.subject(), select=["GG100"])
    assert "here" in (verdict.results[0].reason + str(verdict.results[0].findings))


@pytest.mark.parametrize(
    ("target", "kind", "hint"),
    [
        ("somebodys_trainers:Trainer", "loop", "# For `step`: Trainer.train_step()."),
        ("somebodys_trainers:Trainer", "loop", "# For `batches`: Trainer.train_dataloader()."),
        ("somebodys_trainers:Trainer", "loop", "# Found Trainer(config, seed=0)."),
        ("somebodys_trainers:TwoPhases", "two-stage", "# For `save`: TwoPhases.save_checkpoint()."),
        ("somebodys_trainers:loop", "loop", "# Found loop(config)."),
        ("somebodys_trainers:script", "loop", "#     self.begin(lambda loader: script(...))"),
    ],
)
def test_init_looks_at_the_target(folder: Path, target: str, kind: str, hint: str):
    """Its kind, its signature, and what of its own is for what."""
    done = init(target)
    assert f"an adapter for a {kind} trainer" in done.output
    text = (folder / "gradgate_adapter.py").read_text(encoding="utf-8")
    assert hint in text
    assert f"from somebodys_trainers import {target.partition(':')[2]}" in text
    assert "backwards = " not in text  # what goes backward in front of the updates is counted without being told
    ast.parse(text)


def test_init_writes_a_stage_for_each_of_several_targets(folder: Path):
    """A script's `main`, a method that loops and one that steps, filled in as far as their source tells."""
    targets = ("fixtures.documented.value_script:main", "somebodys_trainers:Inside.pretrain")
    done = init(
        *targets,
        "somebodys_trainers:Inside.update",
        "somebodys_trainers:script",
        "somebodys_trainers:Stepping.train_step",
    )
    assert done.exit_code == 0 and "an adapter for a staged trainer" in done.output
    text = (folder / "gradgate_adapter.py").read_text(encoding="utf-8")
    ast.parse(text)
    for line in (
        "from fixtures.documented import value_script",
        "self.begin(lambda _: value_script.main(), dtype=dtype, loader_class=torch.utils.data.DataLoader, argv=argv)",
        'self.modules = {"critic": self.local("critic")}',
        'self.optimizers = [self.local("optimizer")]',
        'gradgate.Stage("value_script", Stage1, options={"lr": (0.01, 0.005)})',
        "self.trainer = somebodys_trainers.Inside()  # REPLACE: small",
        "self.begin(lambda loader: self.trainer.pretrain(loader), dtype=dtype)",
        'terms = {"actor_loss": "actor_loss", "critic_loss": "critic_loss"}',
        "metrics = self.trainer.update(batch)",
        "config = ...  # REPLACE: small",
        "model = ...  # REPLACE: what Stepping takes for it, small",
        "self.trainer = somebodys_trainers.Stepping(model=model)",
        'self.modules = {"policy": ...}',
        "self.optimizers = [self.trainer.optim]",
    ):
        assert line in text


@pytest.mark.parametrize(
    ("package", "base", "kind"),
    [("lightning", "LightningModule", "lightning"), ("transformers", "Trainer", "hugging-face")],
)
def test_init_knows_the_kind_by_its_base(folder: Path, package: str, base: str, kind: str):
    """A subclass of Lightning's module or of transformers' Trainer."""
    pytest.importorskip(package)
    (folder / "somebodys_trainers.py").write_text(
        f"import {package}\n\nclass Mine({package}.{base}): ...\n", encoding="utf-8"
    )
    assert f"an adapter for a {kind} trainer" in init("somebodys_trainers:Mine").output


def test_init_writes_a_run_for_each_of_several_trainers(folder: Path):
    """Each is a stage, and the adapter says what its class overrides."""
    pytest.importorskip("transformers")
    (folder / "somebodys_trainers.py").write_text(
        "import transformers\n\nclass CriticTrainer(transformers.Trainer):\n    def compute_loss(self): ...\n"
        "\nclass MTPTrainer(CriticTrainer): ...\n",
        encoding="utf-8",
    )
    assert (
        "an adapter for a hugging-face trainer"
        in init("somebodys_trainers:CriticTrainer", "somebodys_trainers:MTPTrainer").output
    )
    text = (folder / "gradgate_adapter.py").read_text(encoding="utf-8")
    assert text.count("# Found CriticTrainer, which overrides compute_loss().") == 1
    subject = importlib.import_module("gradgate_adapter").subject()
    assert [(stage.name, stage.objective) for stage in subject.stages] == [("critic", "value"), ("mtp", "tokens")]


def test_written_adapter_names_every_capability_that_it_lacks(folder: Path):
    """The list that the report would give, in the file."""
    init()
    text = (folder / "gradgate_adapter.py").read_text(encoding="utf-8")
    for name in set(Subject.CAPABILITIES) - {"losses", "rows", "optimizers", "max_norm"}:
        assert f"#   {name}: " in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["somebodys_trainers"], "TARGET 'somebodys_trainers' is not of the form package.module:Name"),
        (["somebodys_trainers:Trainr"], "somebodys_trainers has no 'Trainr'; did you mean 'Trainer'?"),
        (["no_such_module:Trainer"], "importing no_such_module raised ModuleNotFoundError"),
        (["--output", "adapter.txt"], "--output adapter.txt: expected a name that ends in .py"),
        (["--kind", "lop"], "Invalid value for '--kind'"),
    ],
)
def test_init_exits_with_2_and_one_line_when_misused(folder: Path, words: list[str], message: str):
    """Each mistake names what was given, and nothing is written."""
    done = init(*words)
    assert done.exit_code == 2
    assert message in done.output
    assert not (folder / "gradgate_adapter.py").exists()


def test_init_writes_over_nothing_without_force(folder: Path):
    """What is there stays, until --force."""
    file = folder / "gradgate_adapter.py"
    file.write_text("mine\n", encoding="utf-8")
    done = init()
    assert (done.exit_code, file.read_text(encoding="utf-8")) == (2, "mine\n")
    assert "--force" in done.output
    assert init("--force").exit_code == 0
    assert file.read_text(encoding="utf-8") != "mine\n"

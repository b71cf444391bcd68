"""What `gradgate init` reads from a class that trains: its step, what makes, drives, evaluates and saves it."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gradgate import check_trainer, cli

SETTINGS = """
from dataclasses import dataclass, field


@dataclass
class OptimConfig:
    lr: float = 1e-2
    clip: float = 1.0
    accum_steps: int = 2


@dataclass
class Config:
    width: int = 64
    seed: int = 3
    out_dir: str = "runs"
    rows_path: str = "tokens.txt"
    optim: OptimConfig = field(default_factory=OptimConfig)


def load(path: str | None = None) -> Config:
    return Config()
"""
BASE = """
from pathlib import Path

import torch
from torch import nn

from settings_of import Config


class Order:
    def __init__(self, seed):
        self.seed = seed


class Base:
    def __init__(self, cfg: Config):
        self.sampler = Order(cfg.seed)
        self.cfg = cfg
        self.vocabulary = len(Path(cfg.rows_path).read_text())
        self.model = nn.Sequential(nn.Embedding(self.vocabulary, cfg.width), nn.Linear(cfg.width, 1))
        self.teacher = None
        self.seen, self.epoch = 0, 0

    def setup(self):
        if self.cfg.optim.lr > 1:
            self.teacher.train()

    def fit(self):
        self.setup()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.cfg.optim.lr)
        if self.cfg.out_dir:
            self.resume(self.cfg.out_dir)
        self.model.train()
        print("begins")
        while True:
            for window in self.windows(self.seen):
                metrics = self.train_step(window)
                self.seen += len(window)
                if self.seen > 100:
                    return
            self.epoch += 1

    def windows(self, skip):
        for number in range(skip, 1000):
            generator, parts = torch.Generator().manual_seed(number + self.sampler.seed), []
            for _ in range(self.cfg.optim.accum_steps):
                token_BS = torch.randint(0, self.vocabulary, (4, 6), generator=generator)
                parts.append({"input_ids": token_BS, "attention_mask": torch.ones_like(token_BS)})
            yield parts

    def train_step(self, window):
        self.optimizer.zero_grad()
        for batch in window:
            loss, metrics = self.compute_loss(batch)
            self._backward(loss / len(window))
        nn.utils.clip_grad_norm_(self.model.parameters(), self.cfg.optim.clip)
        self.optimizer.step()
        result = {"value_loss": float(metrics["value_loss"])}
        return result

    def _backward(self, loss):
        loss.backward()

    def evaluate(self):
        return {"loss": 0.0}

    def state_dict(self):
        held = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        return held | {"seen": self.seen, "epoch": self.epoch}

    def save(self): ...

    def resume(self, path):
        state = torch.load(path)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seen, self.epoch = state["seen"], state["epoch"]
"""
VALUES = """
from base_of import Base


class Values(Base):
    def __init__(self, cfg):
        super().__init__(cfg)

    def compute_loss(self, batch):
        value_BS = self.model(batch["input_ids"]).squeeze(-1)
        value_loss = (value_BS - 1).square().mean()
        rank_loss = value_BS.mean().square()
        loss = value_loss + 0.1 * rank_loss
        return loss, {"value_loss": value_loss.detach()}
"""
OTHERS = """
from torch import nn


class Loops:
    def __init__(self, model: nn.Module, train_loader, seed=0):
        self.model, self.train_loader = model, train_loader
        self.optimizers = {}

    def prepare(self): ...

    def run(self):
        self.prepare()
        for epoch in range(3):
            self._epoch(epoch)

    def _epoch(self, epoch):
        for number, batch in enumerate(self.train_loader):
            loss = self.model(batch)
            loss.backward()
            for optimizer in self.optimizers.values():
                optimizer.step()

    def validate(self, loader): ...
    def save_checkpoint(self, path): ...
    def load_checkpoint(self, path, strict): ...


class Both:
    def fit(self, loader):
        for batch in loader:
            loss = self.net(batch)
            loss.backward()
            self.opt.step()

    def training_step(self, x, y):
        loss = self.net(x) - y
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 0.5)
        self.scaler.step(self.opt)
        return loss

    def start(self):
        self.net.train()
        for x, y in self.loader:
            self.training_step(x, y)


class Draws:
    def __init__(self, args):
        self.train_loader = args.loader
        self.optim = args.optim

    def step(self):
        batch = next(self.iterator)
        self.loss(batch).backward()
        self.optim.step()


class Up(Both):
    def training_step(self, x, y):
        self.count = 1
        return super().training_step(x, y)
"""
FILES = {"settings_of": SETTINGS, "base_of": BASE, "values_of": VALUES, "others_of": OTHERS}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """What init writes for a target, in a folder with the modules above."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "tokens.txt").write_text("0123456789", encoding="utf-8")
    (tmp_path / "configs").mkdir()
    for name in ("full.yaml", "small.yaml"):
        (tmp_path / "configs" / name).touch()

    def write(*targets: str) -> str:
        done = CliRunner().invoke(cli.cli, ["init", *targets, "--force"])
        assert done.exit_code == 0, done.output
        assert "an adapter for a staged trainer" in done.output
        text = (tmp_path / "gradgate_adapter.py").read_text(encoding="utf-8")
        ast.parse(text)
        return text

    yield write
    for name in (*FILES, "gradgate_adapter"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("target", ["values_of:Values", "values_of:Values.fit"])
def test_written_adapter_of_a_class_runs_as_it_is(written: Callable[..., str], target: str):
    """Its configuration is loaded, its step driven as its loop does, in bases of another module: nothing to fill in."""
    written(target)
    subject = importlib.import_module("gradgate_adapter").subject()
    verdict = check_trainer(subject, select=["GG001", "GG100", "GG101", "GG203", "GG602"])
    assert {result.code: result.status for result in verdict.results if result.status != "passed"} == {
        "GG203": "not_applicable"  # no edges are declared
    }


@pytest.mark.parametrize(
    "line",
    [
        'CONFIG = load(str(ROOT / "configs/small.yaml"))',
        'SMALL = {\n    "width": 16,\n    "optim.accum_steps": 1,\n}',
        '"rows_path": str(ROOT / CONFIG.rows_path),',
        '"out_dir": mkdtemp(),',
        '"seed": seed,',
        "self.trainer = values_of.Values(self.config)\n        self.trainer.model.to(device, dtype)",
        "self.trainer.optimizer = base_of.torch.optim.AdamW(self.trainer.model.parameters(), lr=",
        "# REPLACE: your loop has `if self.cfg.out_dir:` here; what of it a run needs",
        "# REPLACE: self.trainer.teacher is None at first; add it to modules where it is there",
        "self.trainer.sampler.seed = 0  # the data's own",
        'self.modules = {"model": self.trainer.model}',
        "self.optimizers = [self.trainer.optimizer]",
        "self.max_norm = self.trainer.cfg.optim.clip or None",
        'terms = {"value_loss": "compute_loss:value_loss", "rank_loss": "compute_loss:rank_loss"}',
        "window = [batch] if not isinstance(batch, list) else batch",
        "self.trainer.seen += len(window)\n        return metrics",
        "for window in self.trainer.windows(self.trainer.seen):\n                yield window if len(window) > 1",
        "            self.trainer.epoch += 1",
        "return self.trainer.evaluate()",
        'torch.save(self.trainer.state_dict(), str(path / "saved.pt"))  # REPLACE: as save() does, into this folder',
        'self.trainer.resume(str(path / "saved.pt"))',
        "options=gradgate.options_of(CONFIG)",
        "source=ROOT,",
    ],
)
def test_init_proposes_for_a_class(written: Callable[..., str], line: str):
    """What each part of the adapter is, as the class and its bases have it."""
    assert line in written("values_of:Values")


def test_init_keeps_the_whole_loop_of_a_class_that_has_no_step(written: Callable[..., str]):
    """Its own loader is lent back to it, batch by batch; what the constructor takes is asked for by name."""
    text = written("others_of:Loops")
    for line in (
        "class Stage1(gradgate.TokenRows, gradgate.OwnLoop)",
        "model = ...  # REPLACE: what Loops takes for it, Module, small",
        "self.trainer = others_of.Loops(model=model, train_loader=train_loader, seed=seed)",
        "self.trainer.prepare()",
        "self.own = self.trainer.train_loader\n        self.begin(self.loop, dtype=dtype)",
        "self.trainer.train_loader = loader\n        self.trainer._epoch(0)",
        "yield from self.own",
        "self.optimizers = [*self.trainer.optimizers.values()]",
        "return self.trainer.validate(loader=...)  # REPLACE: held-out data",
        'self.trainer.save_checkpoint(str(path / "saved.pt"))',
        'self.trainer.load_checkpoint(str(path / "saved.pt"), strict=...)',
    ):
        assert line in text


@pytest.mark.parametrize("name", ["Both", "Up", "Up.training_step"])
def test_init_prefers_a_step_to_a_loop(written: Callable[..., str], name: str):
    """Of a class that has both, also where the step is a base's and goes up to it."""
    text = written(f"others_of:{name}")
    assert "OwnLoop" not in text
    for line in (
        "self.trainer.net.train()",
        "for batch in self.trainer.loader:\n                yield batch",
        "metrics = self.trainer.training_step(*batch)",
        'return {"loss": float(metrics)}',
        "self.optimizers = [self.trainer.opt]",
        "self.max_norm = 0.5\n",
    ):
        assert line in text


def test_init_takes_a_method_that_is_asked_for(written: Callable[..., str]):
    """A loop is kept where it is what the target names."""
    text = written("others_of:Both.fit")
    assert "self.begin(lambda loader: self.trainer.fit(loader), dtype=dtype)" in text
    assert "StepLosses" not in text and "def batches(self):  # REPLACE" in text


def test_init_hands_the_batch_to_a_step_that_draws_it(written: Callable[..., str]):
    """By the iterator that it asks; a configuration that nothing tells of is asked for."""
    text = written("others_of:Draws")
    for line in (
        "CONFIG = ...  # REPLACE: a small `args`, as your script makes it for the trainer",
        "self.trainer.iterator = iter([batch])",
        "yield from self.trainer.train_loader",
        "return {}  # REPLACE: the trainer's own metrics by name, where it keeps them",
        "# REPLACE: modules, each under a name of its own",
    ):
        assert line in text


def test_init_gives_each_class_its_configuration(written: Callable[..., str]):
    """Two that take different ones have two, and neither's stage reads the other's."""
    text = written("values_of:Values", "others_of:Draws")
    assert "gradgate.configured(CONFIG, settings)" in text and "gradgate.configured(CONFIG_2, settings)" in text
    assert "options=gradgate.options_of(CONFIG_2)" in text
    importlib.import_module("gradgate_adapter")

"""What `gradgate init` writes for functions that train: it compiles whatever they look like, and runs where it may."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from gradgate import check_trainer, cli

SETTINGS = """
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Net:
    d_model: int = 64


@dataclass
class Config:
    data_path: str = "data/rows.txt"
    out_dir: str = "runs"
    seed: int = 7
    batch_size: int = 16
    net: Net = field(default_factory=Net)


@dataclass
class Recipe:
    critic_epochs: int = 2
    epochs: int = 2
    warmup_steps: int = 1
    lr: float = 1e-2
    clip: float = 1.0
    mode: str = "critic"
    grad_accum: int = 4


def load(args):
    cfg = Config()
    recipe = Recipe(mode=Path(args.recipe).read_text().strip())
    validate(recipe, cfg)
    return cfg, recipe


def validate(known, cfg):
    if known.mode not in ("critic", "uniform"):
        raise ValueError(known.mode)
"""
TRAIN = """
import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from loaded_settings import load


@dataclass
class Batch:
    ids: torch.Tensor
    real: torch.Tensor


def write_rows(cfg):
    os.makedirs(os.path.dirname(cfg.data_path), exist_ok=True)
    with open(cfg.data_path, "w") as file:
        file.write("1 2 3 4 5 6 7 8 " * 8)


def collate(ids):
    batch = Batch(ids, torch.ones_like(ids).bool())
    return batch


def read(cfg):
    return torch.tensor([int(each) for each in Path(cfg.data_path).read_text().split()]).reshape(-1, 4)


def batches_of(rows, size, seed, epoch):
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + epoch))
    for at in range(0, len(rows), size):
        yield collate(rows[order[at : at + size]])


class Model(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embed, self.head, self.value = nn.Embedding(9, width), nn.Linear(width, 9), nn.Linear(width, 1)


def load_value(model, path):
    model.value.load_state_dict(torch.load(path))


def load_all(model, path):
    raise FileNotFoundError(path)


def value_loss(value):
    return (value - 1).square().mean()


def weighted_loss(logits, ids):
    return nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten())


def train_critic(cfg, recipe, resume=False, *, stop_at=0):
    torch.manual_seed(cfg.seed)
    model, rows, seed = Model(cfg.net.d_model), read(cfg), cfg.seed
    model.embed.requires_grad_(False), model.head.requires_grad_(False)
    optimizer = torch.optim.AdamW(model.value.parameters(), lr=recipe.lr)
    if resume:
        load_all(model, cfg.out_dir)
    for epoch in range(recipe.critic_epochs):
        for batch in batches_of(rows, cfg.batch_size, seed, epoch):
            loss = value_loss(model.value(model.embed(batch.ids)))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.value.parameters(), recipe.clip)
            optimizer.step()


def train_main(cfg, recipe, resume=False):
    torch.manual_seed(cfg.seed)
    model, rows, seed = Model(cfg.net.d_model), read(cfg), cfg.seed
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr)
    load_value(model, cfg.out_dir + "/critic.pt")
    for epoch in range(recipe.epochs):
        batches = batches_of(rows, cfg.batch_size, seed, epoch)
        for number, batch in enumerate(batches):
            hidden = model.embed(batch.ids)
            lm = weighted_loss(model.head(hidden), batch.ids)
            loss = lm
            if recipe.mode == "critic":
                aux = value_loss(model.value(hidden))
                loss = lm + 0.5 * aux
            (loss / recipe.grad_accum).backward()
            if (number + 1) % recipe.grad_accum:
                continue
            torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            optimizer.zero_grad()


def parse_args(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("make", "critic", "main"))
    parser.add_argument("--recipe", default="recipe.txt")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-at", type=int, default=0)
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg, recipe = load(args)
    if not os.path.exists(cfg.data_path):
        return
    write_rows(cfg)
    if args.command == "critic":
        train_critic(cfg, recipe, resume=args.resume)
    if args.command == "main":
        train_main(cfg, recipe, resume=args.resume)
"""
LOOP = """
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for batch in {over}:
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
"""
HEAD = """
import argparse

import torch
from dataclasses import dataclass
from torch import nn
import loaded_settings
from loaded_settings import Config


def make_model(cfg):
    return nn.Linear(2, 1)


def rows_of(cfg, *words):
    yield torch.ones(2, 2)


def get_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("-b", "--batch-size", type=int, default=32)
    parser.add_argument("--mode", required=True, choices=["a", "b"])
    parser.add_argument("--max-steps", type=int, default=10)
    parser.add_argument("--rate", type=float, default=0.5)
    parser.add_argument("--bf16", action="store_true")
    return parser.parse_args()
"""
GIVEN = "def train({parameters}):\n" + LOOP
MAKING = "    model = make_model({0})" + LOOP.format(over="rows_of({0})")
# Name -> what stands behind HEAD; `train` is the target.
FORMS = {
    "nothing is known": GIVEN.format(parameters="model, cfg, /, size, *, device, seed, scale", over="rows(cfg)"),
    "a configuration by its annotation": "def train(cfg: Config):\n" + MAKING.format("cfg"),
    "a parsed command line": "def train(args):\n" + MAKING.format("args")
    + "\n\nif __name__ == '__main__':\n    train(get_args())",
    "a command line parsed by its caller": "def train(args):\n" + MAKING.format("args")
    + """

def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--name", default="it's \\"so\\"")
    parser.add_argument("--needed", required=True)
    parser.add_argument(*["--odd"], default=1)
    args = parser.parse_args()
    train(args)
""",
    "one that it parses": "def train():\n    args = get_args()\n" + MAKING.format("args"),
    "what its caller makes": GIVEN.format(parameters="model, loader, cfg", over="loader")
    + """

def main():
    args = get_args()
    cfg = Config(seed=3)
    cfg.batch_size = args.batch_size
    model = make_model(cfg)
    print("made")
    loader = rows_of(cfg)
    train(model, loader=loader, cfg=cfg)
""",
    "a call with starred arguments": GIVEN.format(parameters="model, cfg", over="loaded_settings.rows(cfg)")
    + "\n\ndef main(*all):\n    with torch.no_grad():\n        train(*all)",
    "batches made once": "def train(cfg: Config):\n    model = make_model(cfg)\n    own = rows_of(cfg, *[cfg.seed])"
    + LOOP.format(over="own"),
    "batches in a while": "def train(cfg: Config):\n    model = make_model(cfg)\n    while True:\n"
    + LOOP.format(over="rows_of(cfg, 'a', \"b\\\\\")").replace("\n", "\n    "),
    "a step": "def train(batch):\n    loss = batch.mean()\n    loss.backward()",
    "no step": "def train(): ...",
    "no function": "train = 3",
    "a lambda": "train = lambda batch: batch",
    "a coroutine": "async def train(batch): ...",
    "a generator that trains": GIVEN.format(parameters="model, loader", over="loader") + "        yield loss",
    "an installed function": "from torch import stack as train",
    "positional modules": "def train(self, nets, loader):\n    for batch in loader:\n        nets[0].train()\n"
    "        self.net.train()\n        parts['value'] = nets[0](batch)\n        (parts['value'] + 1).backward()\n",
    "a class": "class train:\n    def __init__(self, cfg: Config, size): ...\n    def step(self, batch):\n"
    "        loss = batch.mean()\n        loss.backward()\n        self.optimizer.step()",
    "a class that loops": "class train:\n    def fit(self, cfg, loader):\n        for batch in zip(loader, loader):\n"
    "            loss = self.model(batch)\n            loss.backward()\n            self.opt.step()",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a trainer of functions in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in (("loaded_settings", SETTINGS), ("trained_by_functions", TRAIN)):
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
    (tmp_path / "recipe.txt").write_text("critic\n", encoding="utf-8")
    yield tmp_path
    for name in ("loaded_settings", "trained_by_functions", "one_form", "gradgate_adapter"):
        sys.modules.pop(name, None)


def written(folder: Path, *targets: str) -> str:
    """The adapter that init writes. Whatever it is, it compiles."""
    done = CliRunner().invoke(cli.cli, ["init", *targets])
    assert done.exit_code == 0, done.output
    text = (folder / "gradgate_adapter.py").read_text(encoding="utf-8")
    compile(text, "gradgate_adapter.py", "exec")
    return text


def of_form(folder: Path, name: str) -> str:
    (folder / "one_form.py").write_text(HEAD + "\n\n" + FORMS[name], encoding="utf-8")
    compile(FORMS[name], name, "exec")
    return written(folder, "one_form:train", "one_form:train")


@pytest.mark.parametrize("name", FORMS)
def test_what_init_writes_compiles(folder: Path, name: str):
    """Of every form, and of each alone as of several; no name in it is one that nothing there gives."""
    text = of_form(folder, name)
    defined = {part.id for part in ast.walk(ast.parse(text)) if isinstance(part, ast.Name) and _is_stored(part)}
    defined |= {part.arg for part in ast.walk(ast.parse(text)) if isinstance(part, ast.arg)}
    assert not {"args", "cfg", "parser", "model", "loader"} & _read(text) - defined
    (folder / "gradgate_adapter.py").unlink()
    written(folder, "one_form:train")


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)


def _read(text: str) -> set[str]:
    return {part.id for part in ast.walk(ast.parse(text)) if isinstance(part, ast.Name) and not _is_stored(part)}


@pytest.mark.parametrize("kind", ["loop", "two-stage", "hugging-face", "lightning"])
@pytest.mark.parametrize("target", [[], ["one_form:train"]])
def test_what_init_writes_of_a_kind_compiles(folder: Path, kind: str, target: list[str]):
    """Also where a target is of none of these kinds."""
    (folder / "one_form.py").write_text(HEAD + FORMS["no function"], encoding="utf-8")
    written(folder, "--kind", kind, *target)


def test_draft_for_functions_of_configurations_runs_as_it_is(folder: Path):
    """Both stages: made small from the trainer's own files, stood still at its own batches; nothing is filled in."""
    text = written(folder, "trained_by_functions:train_critic", "trained_by_functions:train_main")
    assert "loader_in=trained_by_functions" in text and "argv = " not in text
    module = importlib.import_module("gradgate_adapter")
    verdict = check_trainer(module.subject(), select=["GG001", "GG100", "GG101", "GG201", "GG206", "GG207", "GG407"])
    assert {result.status for result in verdict.results} == {"passed"}
    critic, main = module.Stage1(0), module.Stage2(0)
    assert set(critic.losses(next(critic.batches()))) == {"total", "value_loss"}
    assert set(main.losses(next(main.batches()))) == {"total", "value_loss", "wmtp_loss"}
    other = module.Stage2(0, options={"recipe.mode": "uniform"})
    assert set(other.losses(next(other.batches()))) == {"total", "wmtp_loss"}
    with pytest.raises(ValueError, match="unifrom"):
        module.Stage2(0, options={"recipe.mode": "unifrom"})
    assert critic.modules["value"].in_features == 16 and critic.max_norm == 1.0
    assert not (folder / "data").exists() and not (folder / "runs").exists()


def test_batches_of_the_draft_are_those_of_the_loop_epoch_after_epoch(folder: Path):
    """The function that the loop calls is asked again, with the loop's own rows and seed, and the next epoch."""
    written(folder, "trained_by_functions:train_critic", "trained_by_functions:train_main")
    module, trainer = importlib.import_module("gradgate_adapter"), sys.modules["trained_by_functions"]
    run: Any = module.Stage1(5)
    rows, own = run.local("rows"), run.batches()
    for epoch in range(3):
        expected = [batch.ids.tolist() for batch in trainer.batches_of(rows, 4, 5, epoch)]
        assert [next(own).ids.tolist() for _ in expected] == expected


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        (
            "a parsed command line",
            [
                'CONFIG = {"args": parsed(one_form.get_args, ["...", "--mode", "a"])}',
                '"args.max_steps": 1_000_000,',
                '"args.batch_size": 4,',
            ],
        ),
        ("a command line parsed by its caller", ["argparse.Namespace(batch_size=8", "import argparse", "needed=...)"]),
        ("a configuration by its annotation", ['CONFIG = {"cfg": Config()}', 'one_form.rows_of(self.local("cfg"))']),
        ("one that it parses", ['argv = ["...", "--mode", "a", "--max-steps", "1000000"]  # and']),
        (
            "what its caller makes",
            [
                "model = one_form.make_model(cfg)",
                "self.own = loader",
                "one_form.train(model, loader, cfg)",
                "yield from self.own",
            ],
        ),
        ("batches made once", ["own = one_form.rows_of(", "    yield from own"]),
        (
            "nothing is known",
            ["cfg = ...  # REPLACE: small", "train(model, cfg, size, device=device, seed=seed, scale=scale)"],
        ),
    ],
)
def test_draft_has_what_the_source_tells(folder: Path, form: str, lines: list[str]):
    """The command line that is needed, what the caller makes, and who gives the batches."""
    text = of_form(folder, form)
    for line in lines:
        assert line in text

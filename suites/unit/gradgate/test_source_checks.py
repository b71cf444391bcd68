"""Checks of the source: each fault in a trainer's text turns its check red and no other, its clean twin none."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fixtures
from fixtures.check_runs import errors, read_source, run_check
from fixtures.documented import own_loop
from fixtures.metric_faults import SOUND, reporting
from fixtures.source_faults import FAULTS, SOUND_EDITS, TRAINER, reading
from gradgate.checks.source import trainer as trainer_source
from gradgate.checks.source.trainer import files_of, paths_of, runs_in_16_bits
from gradgate.subjects.contract import Run, Stage, Subject

OTHERS = [
    importlib.import_module(f"fixtures.{file.stem}")
    for file in sorted(Path(fixtures.__path__[0]).glob("source_*.py"))
    if file.stem != "source_faults"
]
FAULTY = FAULTS | {name: fault for module in OTHERS for name, fault in module.FAULTS.items()}
CLEAN = SOUND_EDITS | {"clean": ("", "")} | {name: edit for module in OTHERS for name, edit in module.SOUND.items()}
CODES = sorted({"GG427", "GG461", *(fault.code for fault in FAULTY.values())})
BESIDE = {name: set(CODES) for name in (*FAULTS, *SOUND_EDITS)}  # of a text: codes of the faults beside it
for _module in OTHERS:
    for _name in (*_module.FAULTS, *_module.SOUND):
        BESIDE[_name] = BESIDE.get(_name, set()) | {fault.code for fault in _module.FAULTS.values()}
WARNS = {
    "GG211", "GG217", "GG308", "GG425", "GG427", "GG435", "GG437", "GG439", "GG441", "GG445", "GG447", "GG456",
    "GG462", "GG463", "GG473", "GG486", "GG487", "GG490", "GG493", "GG497", "GG498", "GG516", "GG520", "GG521",
    "GG524", "GG526", "GG527", "GG528", "GG634", "GG638", "GG640", "GG644", "GG646", "GG649", "GG652", "GG653",
    "GG663",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_text_is_kept() -> Iterator[None]:
    """Trees of a thousand texts would be walked over by every later collection of garbage."""
    yield
    trainer_source.forget()


def test_no_two_fixtures_have_one_name() -> None:
    """The later would take the place of the earlier."""
    assert len(FAULTY) == len(FAULTS) + sum(len(module.FAULTS) for module in OTHERS)
    assert len(CLEAN) == 1 + len(SOUND_EDITS) + sum(len(module.SOUND) for module in OTHERS)


def codes_for(name: str) -> list[str]:
    """All that read the source, at night; by day those whose faults stand beside the text."""
    return CODES if os.environ.get("GRADGATE_PROFILE") == "nightly" else sorted(BESIDE.get(name, CODES))


@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_in_the_source_turns_its_own_check_red(name: str, tmp_path: Path) -> None:
    """And says what and where."""
    fault = FAULTY[name]
    assert TRAINER.count(fault.old) == 1
    subject = reading(tmp_path, TRAINER.replace(fault.old, fault.new))
    red = {code: outcome for code, outcome in read_source(codes_for(name), subject).items() if outcome.findings}
    assert list(red) == [fault.code]
    assert bool(errors(red[fault.code])) is (fault.code not in WARNS)
    (finding,) = [finding for finding in red[fault.code].findings if fault.told in finding.message]
    assert finding.culprit is not None and finding.culprit.source in TRAINER.replace(fault.old, fault.new)


@pytest.mark.parametrize(
    ("name", "line"),
    [("half", 'self.mean = held["mean"]'), ("half, through a name", 'self.mean, self.count = held["mean"]')],
)
def test_gg613_names_the_line_beside_which_a_part_of_the_state_is_missing(name: str, line: str, tmp_path: Path) -> None:
    """Behind what is saved before it."""
    fault = FAULTS[name]
    outcome = run_check("GG613", reading(tmp_path, TRAINER.replace(fault.old, fault.new)), None)

    (finding,) = [finding for finding in outcome.findings if fault.told in finding.message]
    assert finding.culprit is not None and finding.culprit.source.startswith(line)


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_source_passes(name: str, tmp_path: Path) -> None:
    """Also what looks like a fault and is none."""
    old, new = CLEAN[name]
    text = TRAINER.replace(old, new, 1)
    assert old in TRAINER
    read = read_source(codes_for(name), reading(tmp_path, text))
    found = {code: outcome.findings for code, outcome in read.items()}
    assert {code: findings for code, findings in found.items() if findings} == {}


@pytest.mark.parametrize(
    ("entry", "judged"),
    [
        ("", False),
        ("def main():\n    pass\n", True),
        ("if __name__ == '__main__':\n    order([])\n", True),
        ("def train(rows, model):\n    for _ in rows:\n        torch.save(model, 'x')\n", True),
    ],
)
def test_seeds_are_asked_of_a_trainer_with_an_entry(entry: str, judged: bool, tmp_path: Path) -> None:
    """A library leaves them to its users."""
    text = f"import random, torch\ndef order(rows):\n    random.shuffle(rows)\n    random.choice(rows)\n{entry}"
    outcome = run_check("GG614", reading(tmp_path, text), None)
    assert bool(errors(outcome)) is judged and bool(outcome.not_applicable) is not judged


def test_the_adapter_is_not_read_where_it_lies_in_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does not use is none of the trainer's faults."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "put_trainer.py").write_text("X = 1\n", encoding="utf-8")
    (tmp_path / "put_adapter.py").write_text("from gradgate import Run\nclass Mine(Run): pass\n", encoding="utf-8")
    adapter = __import__("put_adapter")
    try:
        subject = Subject("put", [Stage("train", adapter.Mine)], source=tmp_path)
        assert [path.name for path in paths_of(subject)] == ["put_trainer.py"]
    finally:
        sys.modules.pop("put_adapter", None)


def test_a_key_of_yaml_beside_keys_that_are_read_is_named(tmp_path: Path) -> None:
    """A table of names of its own is no configuration."""
    beside = {"recipe.yaml": "lr: 1\ntau: 1\nhorizn: 2\nnames: {a: 1, b: 2}\n", "broken.yml": "a: [\n"}
    outcome = run_check("GG418", reading(tmp_path, TRAINER, beside), None)
    assert [(f.detail["setting"], f.culprit and f.culprit.line) for f in outcome.findings] == [
        ("horizn", 3),
        ("names", 4),
    ]


def test_a_key_of_many_files_is_named_once_and_arguments_of_libraries_are_left_out(tmp_path: Path) -> None:
    """As is a key that another one is made of."""
    optimizer = "optimizer: {_target_: torch.optim.AdamW, foreach: true}\n"
    text = optimizer + "lr: ${pace}\ntau: 1\npace: 1\nhorizn: 2\n"
    read = '    parser.add_argument("--seed", type=int, default=0)\n    parser.add_argument("--adam.seed")\n'
    read += "    print(args.optimizer)\n"
    trainer = TRAINER.replace('    parser.add_argument("--seed", type=int, default=0)\n', read)
    outcome = run_check("GG418", reading(tmp_path, trainer, {"a.yaml": text, "b.yaml": text}), None)
    assert [f.detail["setting"] for f in outcome.findings if f.culprit and "yaml" in f.culprit.file] == ["horizn"]


@pytest.mark.parametrize(
    ("value", "read", "told"),
    [
        ("pace: 1e-4", "cfg['pace'] * 2", ["`pace: 1e-4` is a text"]),
        ("pace: 3e5", "max(cfg.get('pace'), 0.0)", ["`pace: 3e5` is a text"]),
        ("loss: {pace: -1e-4, rounds: 2}", "c['pace'] + 1", ["`pace: -1e-4` is a text"]),
        ("pace: off  # none", "cfg['pace'] == 'off'", ["`pace: off` is False"]),
        ("pace: yes", "cfg.pace in ('yes', 'never')", ["`pace: yes` is True"]),
        ("pace: 1.0e-4", "cfg['pace'] * 2", []),
        ("pace: 1e-4", "float(cfg['pace']) * 2", []),
        ("pace: 1e-4", "group['pace'] * float(cfg['pace'])", []),
        ("pace: 1e-4", "print(cfg['pace'])", []),
        ("pace: 1e-4", "[float(value) for value in cfg.values()]", []),
        ("pace: 1e-4", "cfg['pace'] * OmegaConf", []),
        ('pace: "off"', "cfg['pace'] == 'off'", []),
        ("pace: off", "cfg['pace'] == 'on'", []),
        ("pace: off", "cfg['pace'] in ('off', False)", []),
    ],
)
def test_what_a_yaml_file_holds_is_what_it_looks_like(value: str, read: str, told: list[str], tmp_path: Path) -> None:
    """To a reader of YAML 1.1, which wants a dot and a sign in a number, and takes four words for truth values."""
    text = (
        "import yaml\n\ndef paces(path, group):\n    cfg = yaml.safe_load(path.read_text())\n    c = cfg['loss']\n"
        f"    return {read}, c\n"
    )
    outcome = run_check("GG461", reading(tmp_path, text, {"recipe.yaml": f"rounds: 3\n{value}\n"}), None)
    assert [each.message[: len(one)] for each, one in zip(outcome.findings, told, strict=True)] == told
    assert all(each.culprit is not None and each.culprit.line == 2 for each in outcome.findings)


ONE_STAGE = """
class Critic:
    def __init__(self, loader, epochs, optimizer):
        self.scheduler = build_scheduler(optimizer, len(loader) * epochs)
        self.optimizer = optimizer

    def update(self, batch):
        self.loss(batch).backward()
        {step}
"""
OTHER_STAGE = """
def fit(model, loader, optimizer, accumulation):
    for i, batch in enumerate(loader):
        model(batch).backward()
        if (i + 1) % accumulation == 0:
            optimizer.step()
"""


@pytest.mark.parametrize(("step", "found"), [("self.optimizer.step()", 0), ("return batch", 1)])
def test_the_length_of_a_stage_that_steps_each_batch_is_its_batches(step: str, found: int, tmp_path: Path) -> None:
    """That another stage's loop accumulates is nothing to it; a file without a loop of its own may be for that one."""
    subject = reading(tmp_path, ONE_STAGE.format(step=step), {"main.py": OTHER_STAGE})
    assert len(run_check("GG623", subject, None).findings) == found


NESTING = """
def parsed(pairs):
    tree = {}
    for key, text in pairs:
        node, parts = tree, key.split(".")
        for part in parts[:-1]:
            node = node.setdefault(part, {})
        node[parts[-1]] = text
    return tree

def main(pairs):
    return CALL
"""
MERGING = "def merged(content, overrides):\n    content.update(overrides)\n    return content\n"


@pytest.mark.parametrize(("call", "found"), [("merged({}, parsed(pairs))", 1), ("parsed(pairs)", 0)])
def test_overrides_to_which_nothing_nested_comes_may_be_flat(call: str, found: int, tmp_path: Path) -> None:
    """What is merged in another file is nested where one that nests calls that."""
    subject = reading(tmp_path, NESTING.replace("CALL", call), {"merging.py": MERGING})
    assert len(run_check("GG432", subject, None).findings) == found


@pytest.mark.parametrize(("metric", "found"), [("held_ce", 1), ("held_acc", 0), ("held_loss", 0)])
def test_a_score_that_a_file_names_is_held_against_the_guess(metric: str, found: int, tmp_path: Path) -> None:
    """A recipe says which one is watched."""
    text = 'def way(metric):\n    return "min" if "loss" in metric else "max"\n'
    subject = reading(tmp_path, text, {"recipe.yaml": f"stage:\n  best_metric: {metric}\n"})
    assert len(run_check("GG627", subject, None).findings) == found


LAYERS = """
import yaml

def read(path):
    return yaml.safe_load(path.read_text())

def loaded(path, recipe):
    return {**read(path), **read(recipe)}
"""


@pytest.mark.parametrize(("recipe", "found"), [("optim: {lr: 2}", 1), ("name: b", 0), ("schedule: {warmup: 2}", 0)])
def test_files_that_share_a_section_are_merged_section_by_section(recipe: str, found: int, tmp_path: Path) -> None:
    """Where none do, nothing is lost."""
    files = {"base.yaml": "name: a\noptim: {lr: 1, momentum: 0}\n", "recipe.yaml": recipe}
    assert len(run_check("GG432", reading(tmp_path, LAYERS, files), None).findings) == found


HANDLED = """
from dataclasses import dataclass, field

@dataclass
class StageOptions:
    lr: float = 1e-3
    floor: float = 0.1

@dataclass
class Arguments:
    HANDLE: StageOptions = field(default_factory=StageOptions)

class CriticTrainer:
    def __init__(self, args):
        self.opt: StageOptions = args.HANDLE

    def rate(self):
        return self.opt.lr

def options(recipe):
    return recipe["critic"], recipe["policy"]
"""


@pytest.mark.parametrize(("handle", "found"), [("stage", 0), ("policy", 1)])
def test_a_field_that_holds_any_stages_section_is_no_other_stages(handle: str, found: int, tmp_path: Path) -> None:
    """The file has two sections with its keys, and none of its name."""
    files = {"recipe.yaml": "critic: {lr: 1, floor: 2}\npolicy: {lr: 2, floor: 1}\n"}
    outcome = run_check("GG458", reading(tmp_path, HANDLED.replace("HANDLE", handle), files), None)
    assert len(outcome.findings) == found


SAVED_BESIDE = """
import torch

class Own(Trainer):
    def _save_checkpoint(self, model, trial):
        CALL
        torch.save({"seen": self.seen, "clock": self.clock.state_dict()}, self.path)

    def loaded(self, path):
        state = torch.load(path, weights_only=True)
        self.seen, optimizer = state["seen"], torch.optim.AdamW(self.model.parameters())
        self.clock.load_state_dict(state["clock"])
        return optimizer
"""


@pytest.mark.parametrize(("call", "found"), [("super()._save_checkpoint(model, trial)", False), ("pass", True)])
def test_what_a_library_saves_is_not_missed(call: str, found: bool, tmp_path: Path) -> None:
    """Its checkpoint has the optimizer, and the trainer adds to it."""
    outcome = run_check("GG613", reading(tmp_path, SAVED_BESIDE.replace("CALL", call)), None)
    assert any("no optimizer's state" in finding.message for finding in outcome.findings) == found


ENDED = """
def ended(tokenizer):
    tokenizer.pad_token = tokenizer.eos_token
    return [tokenizer.eos_token]
"""
MASKING = "def labelled(labels):\n    labels[labels == tokenizer.pad_token_id] = -100\n    return labels\n"


@pytest.mark.parametrize(("loaded", "found"), [("T5Tokenizer.from_pretrained('t5')", 0), ("lent()", 1)])
def test_tokenizers_of_another_folder_have_their_own_padding(loaded: str, found: int, tmp_path: Path) -> None:
    """Where one that is loaded there is given no end token for it."""
    (tmp_path / "t5").mkdir()
    subject = reading(tmp_path, ENDED, {"t5/model.py": f"tokenizer = {loaded}\n\n{MASKING}"})
    assert len(run_check("GG446", subject, None).findings) == found


CALLING = """
from dataclasses import dataclass

@dataclass
class LossConfig:
    gamma: float = 0.99
    discount_lambda: float = 0.95
    lr: float = 1e-3
    critic_lr: float = 1e-4

def deltas(value, discount_lambda):
    return value * discount_lambda

def weights(value, discount_lambda, tau=1.0):
    return deltas(value, discount_lambda) / tau

def optimizer(parameters, lr):
    return parameters, lr

def losses(config, value):
    optimizer(value, config.critic_lr), optimizer(value, lr=config.lr)
    deltas(value, config.discount_lambda)
    return CALL
"""


@pytest.mark.parametrize(
    ("call", "found"),
    [
        ("weights(value, config.discount_lambda, tau=config.gamma)", []),
        ("weights(value, config.gamma)", ["gamma"]),
        ("weights(value, tau=1.0, discount_lambda=config.gamma)", ["gamma"]),
        ("weights(*value, config.gamma)", []),
        ("weights(value, 0.5 * config.gamma)", []),
    ],
)
def test_an_argument_is_given_the_key_of_its_name(call: str, found: list[str], tmp_path: Path) -> None:
    """Or a special case of it; what is no key is given anything."""
    outcome = run_check("GG427", reading(tmp_path, CALLING.replace("CALL", call)), None)
    assert [(each.detail["key"], each.severity) for each in outcome.findings] == [(key, "warning") for key in found]
    assert all(each.culprit is not None and call in each.culprit.source for each in outcome.findings)


def test_a_section_is_given_for_an_argument_that_is_called_after_the_whole(tmp_path: Path) -> None:
    """`recipe` is the file of the command line, too, and each part of a trainer calls its section so."""
    text = """
import argparse
from dataclasses import dataclass

@dataclass
class LossRecipe:
    weighting: str = "critic"

def parse():
    parser = argparse.ArgumentParser()
    parser.add_argument("--recipe")
    return parser.parse_args()

def read(recipe):
    return recipe

def scorer(recipe):
    return recipe

def main(config):
    return read(parse().recipe), read(config.recipe), scorer(config.weighting)
"""
    assert run_check("GG427", reading(tmp_path, text), None).findings == ()


def test_a_file_is_given_for_an_argument_that_is_called_path(tmp_path: Path) -> None:
    """Whatever its setting is called; `path` is a setting, too."""
    text = """
class DataConfig:
    path: str = "rows"
    checkpoint: str = "base"

def read(path):
    return path

def main(config):
    return read(config.path), read(config.checkpoint)
"""
    assert run_check("GG427", reading(tmp_path, text), None).findings == ()


STOPPING = """
from dataclasses import dataclass
import torch

@dataclass
class StopConfig:
    patience: int = 3
    min_delta: float = 0.0

class Stop:
    def __init__(self, patience, min_delta=0.0):
        self.patience, self.min_delta = patience, min_delta
        self.best, self.bad = float("inf"), 0

    def update(self, score):
        self.bad = 0 if score < self.best - self.min_delta else self.bad + 1
        self.best = min(self.best, score)
        return self.bad >= self.patience

def train(cfg, scores):
    stop = MADE
    return [stop.update(score) for score in scores]
"""


@pytest.mark.parametrize(
    ("made", "unread"),
    [
        ("Stop(cfg.patience, cfg.min_delta)", []),
        ("Stop(**vars(cfg))", []),
        ("{'stop': Stop}['stop'](**cfg)", []),
        ("Stop(cfg.patience)", ["min_delta"]),
        ("Stop(3)", ["patience", "min_delta"]),
    ],
)
def test_what_a_class_keeps_of_its_own_arguments_is_no_read_of_the_setting(
    made: str, unread: list[str], tmp_path: Path
) -> None:
    """Whoever makes one has to read it, or hand it the settings as a whole."""
    outcome = run_check("GG418", reading(tmp_path, STOPPING.replace("MADE", made)), None)
    assert [finding.detail["setting"] for finding in outcome.findings] == unread


FAMILY = """
class Uniform(BASE):
    def weights(self, legal, values=None, temperature=1.0):
        total = legal.sum()
        return legal / total

class Critic(BASE):
    def weights(self, legal, values=None, temperature=1.0):
        scores = values / temperature
        return scores * legal
"""


@pytest.mark.parametrize(("base", "unread"), [("Weighting", []), ("nn.Module", ["values", "temperature"])])
def test_methods_of_a_family_take_what_each_of_them_needs(base: str, unread: list[str], tmp_path: Path) -> None:
    """What one of them reads is no setting that the others leave unread; a base that is everybody's makes no family."""
    text = f"class Weighting:\n    pass\n{FAMILY.replace('BASE', base)}"
    outcome = run_check("GG418", reading(tmp_path, text), None)
    assert [finding.detail["setting"] for finding in outcome.findings] == unread


HALVES = """
class Trainer:
    def state_dict(self):
        return {"step": self.step, "KEY": self.told, "model": self.model.state_dict()}

    def load_state_dict(self, state):
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
"""


@pytest.mark.parametrize(("key", "found"), [("config", 0), ("git_hash", 0), ("best", 1)])
def test_what_tells_who_opens_the_file_need_not_be_loaded(key: str, found: int, tmp_path: Path) -> None:
    """The configuration, a date; a state has to be."""
    assert len(run_check("GG613", reading(tmp_path, HALVES.replace("KEY", key)), None).findings) == found


@pytest.mark.parametrize(
    ("holder", "declared", "found"),
    [
        ("args", "type=float", 1),
        ("args", "type=int", 0),
        ("args", "type=float, default=0.0", 0),
        ("section", "type=float", 0),
    ],
)
def test_an_argument_that_another_file_declares_is_not_asked_for_its_truth(
    holder: str, declared: str, found: int, tmp_path: Path
) -> None:
    """Of what is called as arguments are: an attribute of the same name of something else is a setting."""
    parser = f"def parse(parser):\n    parser.add_argument('--decay', {declared})\n    return parser.parse_args()\n"
    text = f"def merged({holder}, config):\n    return {holder}.decay or config.decay\n"
    outcome = run_check("GG429", reading(tmp_path, text, {"options.py": parser}), None)
    assert len(outcome.findings) == found


RESUMING = """
IMPORTS

def fit(path, model, optimizer, scores):
    step, best = 0, float("inf")
    RESUMES
    for score in scores(step):
        if score < best:
            best = score
            save("best.pt", model, optimizer, step)
"""
RUNTIME = TRAINER[TRAINER.index("def save(") :]


@pytest.mark.parametrize(
    ("imports", "resumes", "found"),
    [
        ("from runtime import load", "step = load(path, model, optimizer)", 1),
        ("from .runtime import load as go_on", "step = go_on(path, model, optimizer)", 1),
        ("import runtime as rt", "step = rt.load(path, model, optimizer)", 1),
        ("from . import runtime", "step = runtime.load(path, model, optimizer)", 1),
        ("from runtime import load", "step, best = load(path, model, optimizer)", 0),
        ("from json import load", "step = load(path)", 0),
        ("import json, runtime", "step = json.load(path)", 0),
        ("from runtime import save", "pass", 0),
    ],
)
def test_a_best_score_that_a_resume_by_another_file_forgets_is_named(
    imports: str, resumes: str, found: int, tmp_path: Path
) -> None:
    """At the mapping that lacks it, wherever that stands; a function of the same name of a library resumes nothing."""
    text = RESUMING.replace("IMPORTS", imports).replace("RESUMES", resumes)
    outcome = run_check("GG613", reading(tmp_path, text, {"runtime.py": RUNTIME}), None)
    told = [each for each in outcome.findings if "`best` decides at line 8 of fit() in trainer.py" in each.message]
    assert len(told) == len(outcome.findings) == found
    assert all(each.culprit is not None and each.culprit.source.startswith("state = {") for each in told)


def test_without_a_source_the_modules_that_the_adapter_imports_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that they import; neither the adapter nor what is installed."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lent_helper.py").write_text("import torch\nX = 1\n", encoding="utf-8")
    (tmp_path / "lent_trainer.py").write_text("import lent_helper, torch\n", encoding="utf-8")
    (tmp_path / "lent_adapter.py").write_text(
        "import lent_trainer\nfrom gradgate import Run\nclass Mine(Run): pass\n", encoding="utf-8"
    )
    adapter = __import__("lent_adapter")
    try:
        subject = Subject("lent", [Stage("train", adapter.Mine)])
        assert [path.name for path in paths_of(subject)] == ["lent_helper.py", "lent_trainer.py"]
        assert len(files_of(subject)) == 2 and not runs_in_16_bits(subject)
    finally:
        for name in ("lent_adapter", "lent_trainer", "lent_helper"):
            sys.modules.pop(name, None)


def test_checks_of_the_source_are_not_applicable_without_any() -> None:
    """The line of adapter that enables them is said."""
    subject = Subject("none", [Stage("train", Run)])
    assert files_of(subject) == () and runs_in_16_bits(subject)
    assert all("source=FOLDER" in run_check(code, subject, None).not_applicable for code in CODES)


def test_a_precision_that_is_declared_or_written_is_judged_in_16_bits(tmp_path: Path) -> None:
    """A trainer that names none is not."""
    assert not runs_in_16_bits(reading(tmp_path))
    assert runs_in_16_bits(reading(tmp_path, TRAINER + "\nDTYPE = torch.bfloat16\n"))
    (stage,) = reporting(SOUND["all"]).stages
    declared = Stage("train", stage.start, precisions={"bf16": stage.start})
    assert runs_in_16_bits(Subject("declared", [declared], source=Path(own_loop.__file__)))

"""`gradgate init`: look at a trainer and write a first adapter to fill in."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from gradgate.commands.backwards import proposals
from gradgate.commands.methods import STEPS
from gradgate.commands.stage_text import Target
from gradgate.commands.staged import resolved, text_of
from gradgate.core.errors import GradgateError, TargetError, nearest
from gradgate.core.origin import in_one_line

KINDS = ("loop", "two-stage", "hugging-face", "lightning")
# What a trainer's own names say of what they do, by what of the adapter they are for.
HINTS = {
    "step": STEPS,
    "losses": ("losses", "loss", "compute_loss", "loss_fn", "criterion"),
    "batches": ("train_dataloader", "get_train_dataloader", "dataloader", "train_loader", "batches", "draw", "data"),
    "save": ("save", "save_checkpoint", "_save_checkpoint", "state_dict"),
    "load": ("load", "load_checkpoint", "resume", "load_state_dict"),
    "evaluate": ("evaluate", "evaluation", "validate", "eval_step", "validation_step"),
}
HEAD = '''"""Adapter for `gradgate verify {module}:subject --path {folder}`: a first one, to fill in.

{state} and add what the report asks for;
docs/adapters.md has complete ones.
"""

'''
STAND_IN = "It runs as it is, on a stand-in. Put your trainer where REPLACE stands, run it again,"
READ = "It is as your source tells. Write what each REPLACE and `...` stands for, run it,"
LOOP = '''import torch
from torch import nn

import gradgate
{imports}

class TrainRun(gradgate.Run):
    """One stage of the trainer, small enough for a step to take milliseconds, fresh from its seed."""
{found}
    def __init__(self, seed, *, dtype=torch.float32, device="cpu"):
        torch.manual_seed(seed)
        model = nn.Linear(4, 1)  # REPLACE: your model, small
        self.modules = {{"model": model.to(device, dtype)}}
        self.optimizers = [torch.optim.AdamW(model.parameters(), lr=1e-2)]  # REPLACE: your optimizer
        self.max_norm = 1.0  # the norm at which your step clips; leave it out where it does not
        self.generator, self.make = torch.Generator().manual_seed(seed), {{"dtype": dtype, "device": device}}

    def batches(self):
        while True:  # REPLACE: your own batches, without an end, in an order that the seed decides
            x = torch.randn(8, 4, generator=self.generator).to(**self.make)
            yield {{"x": x, "y": x.sum(1, keepdim=True)}}

    def losses(self, batch):  # REPLACE: your loss terms by name, scalars on the graph, `total` among them
        return {{"total": (self.modules["model"](batch["x"]) - batch["y"]).square().mean()}}

    def step(self, batch):  # REPLACE: call your trainer's own step; do not write it again
        loss = self.losses(batch)["total"]
        self.optimizers[0].zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.modules["model"].parameters(), self.max_norm)
        if not (loss.isfinite() and norm.isfinite()):
            raise FloatingPointError(f"loss {{loss}}, gradient norm {{norm}}: nothing was updated")
        self.optimizers[0].step()
        return {{"loss": loss.item()}}

    def select_rows(self, batch, index):  # the batch of these rows, in this order
        return {{name: column[list(index)] for name, column in batch.items()}}

{more}


def subject():
    return gradgate.Subject(name="{name}", stages=[{stages}])
'''
HUGGING_FACE = """import gradgate
from gradgate.subjects.hugging_face import HuggingFaceRun
from gradgate.subjects.rows import TokenRows
{imports}
{runs}

def subject():
    known = {{"GG303": "the Trainer steps on a gradient that is NaN"}}
    stages = [
{stages}    ]
    return gradgate.Subject(name="{name}", stages=stages, expected=known)
"""
HUGGING_FACE_RUN = '''
class {run}(TokenRows, HuggingFaceRun):  # without TokenRows where batches hold no input_ids and attention_mask
    """One step of a transformers.Trainer."""
{found}
    # updates = 40: what the schedule is made for; terms of its compute_loss by name: gradgate.StepLosses as first base

    def trainer(self, seed, device):  # REPLACE: build your Trainer, its model small, its arguments with this seed
        raise NotImplementedError("build your transformers.Trainer here")  # self.options: keys that are moved

    def parts(self, model):  # name parts of the model here: a head that a loss alone trains, a frozen trunk
        return {{"model": model}}

{more}
'''
LIGHTNING = '''import gradgate
from gradgate.subjects.lightning import LightningRun
{imports}

class TrainRun(LightningRun):
    """One step of a LightningModule."""
{found}
    max_norm = 1.0  # the Trainer's gradient_clip_val; leave it out where there is none

    def build(self, seed):  # REPLACE: your module, small, and its train loader
        raise NotImplementedError("return your LightningModule and its train loader here")

{more}


def subject():
    known = {{"GG303": "Lightning steps on a gradient that is NaN"}}
    return gradgate.Subject(name="{name}", stages=[gradgate.Stage("train", TrainRun)], expected=known)
'''
TEMPLATES = {"loop": LOOP, "two-stage": LOOP, "lightning": LIGHTNING}
STAGES = {
    "two-stage": """
        gradgate.Stage("critic", TrainRun, objective="value"),  # REPLACE: one Run class a stage
        gradgate.Stage("tokens", TrainRun, objective="tokens"),
        # On the second after=gradgate.After(CriticRun, start): start(before, folder) takes what `before` has learnt
    """,
}


@click.command("init")
@click.argument("targets", nargs=-1, metavar="[TARGET]...")
@click.option("--kind", type=click.Choice(KINDS), help="What kind of trainer it is; default: what TARGET looks like.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("gradgate_adapter.py"),
    show_default=True,
    help="The file to write.",
)
@click.option(
    "--path", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Put this folder first on the path."
)
@click.option("--force", is_flag=True, help="Write over a file that is there.")
def init(targets: tuple[str, ...], kind: str | None, output: Path, path: Path | None, force: bool) -> None:
    """Write a first adapter for a trainer, to fill in.

    TARGET is `package.module:Name` of your trainer's class or function; it is imported and looked at, not run. Without
    it the adapter is for a plain loop, or for --kind. Several are one stage each, in order: the functions, classes or
    methods that train, `package.train_value:main`, `package.trainer:Trainer.fit`. Of a class its own step is run.

    \b
      gradgate init
      gradgate init my_project.train:Trainer --path .
      gradgate init my_project.model:LitModel --output checks/adapter.py
      gradgate init my_project.train_value:main my_project.train_tokens:main --path .
      gradgate init --kind two-stage
    """
    from gradgate.report.json import require_writable, write_whole

    if output.exists() and not force:
        raise GradgateError(f"{output} is there already; choose another --output, or --force to write over it")
    if output.suffix != ".py":
        raise GradgateError(f"--output {output}: expected a name that ends in .py")
    require_writable(output)
    loaded = [_load(target, path) for target in targets]
    parts = [target.partition(":") for target in targets]
    stages = [Target(module, name, found) for (module, _, name), found in zip(parts, loaded, strict=True)]
    kinds = {_kind_of(each) for each in loaded}
    if len(targets) > 1 and kinds == {"hugging-face"}:
        kind, text = "hugging-face", _of_hugging_face(stages, output)
    elif len(targets) > 1 or (kind is None and any(map(_trains_itself, stages))):
        kind, text = "staged", _head(output, READ) + text_of(stages, output.stem)
    else:
        target, found = (targets[0], loaded[0]) if targets else (None, None)
        kind = kind or _kind_of(found)
        text = _of_hugging_face(stages, output) if kind == "hugging-face" else _text(target, found, kind, output)
    write_whole(output, text)
    click.echo(f"written: {output}, an adapter for a {kind} trainer")
    click.echo(f"next: gradgate verify {output.stem}:subject --path {output.parent}")


def _load(target: str, path: Path | None) -> Any:
    module, _, name = target.partition(":")
    if not name or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise TargetError(f"TARGET {target!r} is not of the form package.module:Name")
    sys.path.insert(0, str((path or Path.cwd()).resolve()))
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise TargetError(f"TARGET {target}: importing {module} raised {in_one_line(error)}") from error
    finally:
        sys.path.pop(0)
    for part in name.split("."):
        if not hasattr(found, part):
            choices = [choice for choice in dir(found) if not choice.startswith("_")]
            raise TargetError(f"TARGET {target}: {module} has no {name!r}{nearest(part, choices)}")
        found = getattr(found, part)
    return found


def _trains_itself(target: Target) -> bool:
    """Whether a target is a class that trains in a method of its own, or such a method."""
    is_someones = inspect.isclass(target.function) and _kind_of(target.function) in ("hugging-face", "lightning")
    return not is_someones and any(each.owner for each in resolved(target))


def _kind_of(found: Any) -> str:
    bases = inspect.getmro(found) if inspect.isclass(found) else ()
    names = {f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in bases}
    if names & {"lightning.LightningModule", "pytorch_lightning.LightningModule"}:
        return "lightning"
    if "transformers.Trainer" in names:
        return "hugging-face"
    words = " ".join(dir(found)).lower() if inspect.isclass(found) else ""
    return "two-stage" if any(word in words for word in ("stage1", "stage_1", "pretrain", "critic")) else "loop"


def _text(target: str | None, found: Any, kind: str, output: Path) -> str:
    imports = ""
    if target:
        module, _, name = target.partition(":")
        imports = f"from {module} import {name.partition('.')[0]}  # noqa: F401\n"
    return _head(output, STAND_IN) + TEMPLATES[kind].format(
        imports=imports,
        found="".join(f"    # {line}\n" for line in _hints(found)) or "",
        more="\n".join(_missing(kind)),
        name=output.stem,
        stages=STAGES.get(kind, 'gradgate.Stage("train", TrainRun)'),
    )


def _of_hugging_face(targets: list[Target], output: Path) -> str:
    """A run, and a stage, for each Trainer; one to be named where there is none."""
    several = len(targets) > 1
    runs, stages = list[str](), list[str]()
    for target in targets or (None,):
        name = target.name if target is not None and several else "Train"
        objective = "value" if any(word in name.lower() for word in ("value", "critic", "reward")) else "tokens"
        more = "\n".join(_missing("hugging-face")) if not runs else "    # And what else there is to write, as above."
        found = "".join(f"    # {line}\n" for line in _own_of(target.function)) if target is not None else ""
        runs.append(HUGGING_FACE_RUN.format(run=f"{name}Run", found=found, more=more))
        declared = f', objective="{objective}"' if several else ""
        stage = name.removesuffix("Trainer").lower() or name.lower()
        stages.append(f'        gradgate.Stage("{stage}", {name}Run{declared}),\n')
    imports = "".join(f"from {target.module} import {target.name}  # noqa: F401\n" for target in targets)
    text = HUGGING_FACE.format(imports=imports, runs="\n".join(runs), name=output.stem, stages="".join(stages))
    return _head(output, STAND_IN) + text


def _own_of(found: Any) -> Iterator[str]:
    """What a Trainer's class overrides: that is what its run drives."""
    if not inspect.isclass(found):
        yield from _hints(found)
        return
    bases = [base for base in inspect.getmro(found) if not base.__module__.startswith(("transformers.", "builtins"))]
    own = {name for base in bases for name, held in vars(base).items() if inspect.isfunction(held)}
    own = {name for name in own if hasattr(inspect.getmro(found)[len(bases)], name) and not name.startswith("__")}
    yield f"Found {found.__name__}{', which overrides ' * bool(own)}{', '.join(f'{name}()' for name in sorted(own))}."


def _head(output: Path, state: str) -> str:
    return HEAD.format(module=output.stem, folder=output.parent, state=state)


def _hints(found: Any) -> Iterator[str]:
    """What of the trainer's own looks as if it were for what of the adapter."""
    if found is None:
        return
    name = getattr(found, "__name__", "it")
    try:
        yield f"Found {name}{inspect.signature(found)}."
    except (TypeError, ValueError):
        yield f"Found {name}."
    for part, words in HINTS.items():
        own = [word for word in words if callable(getattr(found, word, None))] if inspect.isclass(found) else []
        if own:
            yield f"For `{part}`: {', '.join(f'{name}.{word}()' for word in own)}."
    yield from proposals(found)


def _missing(kind: str) -> Iterator[str]:
    """The capabilities that the template does not have, each with the line that enables it."""
    from gradgate.subjects.contract import Subject

    has = {
        "loop": {"losses", "rows", "optimizers", "max_norm"},
        "hugging-face": {
            *("losses", "optimizers", "max_norm", "save", "saved", "window", "evaluate"),
            *("rows", "tokens", "pad", "crop", "valid"),
        },
        "lightning": {"losses", "optimizers", "max_norm", "save"},
    }
    yield "    # What else there is to write, each line for the checks that the report then runs:"
    for name, line in Subject.CAPABILITIES.items():
        if name not in has.get(kind, has["loop"]):
            yield f"    #   {name}: {line}"

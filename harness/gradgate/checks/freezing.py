"""Keys that are to freeze a module: what they leave in training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from gradgate.subjects.contract import Context, Run, Stage

STEPS = 2
_FREEZES = re.compile(r"^(freeze|freezes|frozen)_|_(freeze|frozen)$")
_TRAINS = re.compile(r"^(train|update|tune|finetune|trainable)_|_(train|trainable)$")


@dataclass(frozen=True)
class Half:
    """A module that a key freezes by halves.

    Args:
        key: of the configuration.
        value: with which it is to be frozen.
        module: its name in `Run.modules`.
        moved: its parameters that a step moves all the same.
        still: how many others there are.
    """

    key: str
    value: bool
    module: str
    moved: Sequence[str]
    still: int


def frozen_by_halves(stage: Stage, context: Context) -> Iterator[Half]:
    """Modules of which a key's name says that it freezes them, and of which some parameters move and others do not.

    `freeze_trunk`, `trunk_frozen` and `train_trunk` are for a module `trunk`. Parameters that the module shares with
    another one may move with that. What moves in no setting says nothing of the key.
    """
    for key, values in (stage.options or {}).items():
        last = key.rpartition(".")[2].lower()
        pattern, value = (_FREEZES, True) if _FREEZES.search(last) else (_TRAINS, False)
        module = pattern.sub("", last)
        if module == last or {True, False} - {each for each in values if isinstance(each, bool)}:
            continue
        moved, parts = _moved(stage, context, key, value, module)
        also, _ = _moved(stage, context, key, not value, module)
        if moved and moved < also and parts:
            yield Half(key, value, module, sorted(moved), len(also - moved))


def _moved(stage: Stage, context: Context, key: str, value: bool, module: str) -> tuple[set[str], int]:
    """The parameters of a module, its own alone, that two steps move with a key set; and how many there are."""
    try:
        run = stage.start(context.seed, device=context.device, options={key: value})
        own = _own(run, module)
        before = {name: parameter.detach().clone() for name, parameter in own.items()}
        for batch in islice(run.batches(), STEPS):
            run.step(batch)
    except Exception:  # told by the check itself
        return set(), 0
    return {name for name, parameter in own.items() if not torch.equal(parameter.detach(), before[name])}, len(own)


def _own(run: Run, module: str) -> dict[str, Any]:
    if module not in run.modules:
        return {}
    own = dict(run.modules[module].named_parameters(module))
    held = {id(parameter) for parameter in own.values()}
    others = [{id(p) for p in other.parameters()} for name, other in run.modules.items() if name != module]
    shared = set[int]().union(*(ids for ids in others if not ids >= held and not ids <= held))
    return {name: parameter for name, parameter in own.items() if id(parameter) not in shared}

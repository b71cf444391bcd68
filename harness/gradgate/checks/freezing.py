"""Keys that are to freeze a module: what they leave in training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from gradgate.checks.moved import runs_of
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


def frozen_by_halves(stage: Stage, options: Mapping[str, Sequence[Any]], context: Context) -> Iterator[Half]:
    """Modules of which a key's name says that it freezes them, and of which some parameters move and others do not.

    `freeze_trunk`, `trunk_frozen` and `train_trunk` are for a module `trunk`. Parameters that the module shares with
    another one may move with that. What moves in no setting says nothing of the key.

    Args:
        stage: of the keys.
        options: those to look at.
        context: seed and device.
    """
    for key, values in options.items():
        last = key.rpartition(".")[2].lower()
        pattern, value = (_FREEZES, True) if _FREEZES.search(last) else (_TRAINS, False)
        module = pattern.sub("", last)
        if module == last or {True, False} - {each for each in values if isinstance(each, bool)}:
            continue
        moved, also = (_moved(stage, context, {key: setting}, module) for setting in (value, not value))
        if moved and moved < also:
            yield Half(key, value, module, sorted(moved), len(also - moved))


def _moved(stage: Stage, context: Context, settings: Mapping[str, bool], module: str) -> set[str]:
    """The parameters of a module, its own alone, that two steps move with these settings."""
    for _, run in runs_of(stage, context, [settings], torch.float32):
        own = _own(run, module)
        before = {name: parameter.detach().clone() for name, parameter in own.items()}
        with suppress(Exception):  # told by the check itself
            for batch in islice(run.batches(), STEPS):
                run.step(batch)
            return {name for name, parameter in own.items() if not torch.equal(parameter.detach(), before[name])}
    return set()


def _own(run: Run, module: str) -> dict[str, Any]:
    if module not in run.modules:
        return {}
    own = dict(run.modules[module].named_parameters(module))
    held = {id(parameter) for parameter in own.values()}
    others = [{id(p) for p in other.parameters()} for name, other in run.modules.items() if name != module]
    shared = set[int]().union(*(ids for ids in others if not ids >= held and not ids <= held))
    return {name: parameter for name, parameter in own.items() if id(parameter) not in shared}

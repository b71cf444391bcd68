"""Faults as the field reports them, one file each: the watch names the kind, the culprit and the victim first."""

from __future__ import annotations

import importlib.util
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import fixtures
import gradgate
from gradgate import Finding

FOLDER = Path(fixtures.__file__).parent / "watch_cases"
CASE = pytest.mark.parametrize("path", sorted(FOLDER.glob("case_*.py")), ids=lambda path: path.stem[5:])


@pytest.fixture(autouse=True)
def torch_warns_and_the_grad_mode_stays():
    """PyTorch warns about some of the faults itself, and some leave the grad mode off."""
    with warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        yield


def loaded(path: Path) -> ModuleType:
    """The case as a module of its own."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)  # so that inspect finds the classes' source
    spec.loader.exec_module(module)
    return module


def watched(build: Any, step: Any) -> tuple[list[Finding], Exception | None]:
    """Run a program under a watch that knows its modules, optimizers and leaves; its findings but for notes."""
    context, raised = build(), None
    subjects = [value for value in vars(context).values() if isinstance(value, nn.Module | torch.optim.Optimizer)]
    watch = gradgate.watch(*subjects, *getattr(context, "leaves", []))
    try:
        with watch:
            step(context)
    except RuntimeError as error:
        raised = error
    return [finding for finding in watch.findings if finding.severity != "note"], raised


def marked(path: Path, word: str) -> set[int]:
    """The numbers of the lines whose mark has a word."""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return {number for number, line in lines if re.search(rf"#[A-Z ]*\b{word}\b[A-Z ]*$", line)}


@CASE
def test_watch_names_kind_culprit_and_victim_of_a_field_case(path: Path):
    """The first finding is the fault, at the marked lines; it raises where plain PyTorch does."""
    case = loaded(path)
    findings, raised = watched(case.build, case.step)
    assert [finding.kind for finding in findings[:1]] == [case.KIND]
    culprit, victim = findings[0].culprit, findings[0].victim
    assert culprit is not None and culprit.line in marked(path, "CULPRIT")
    assert not marked(path, "VICTIM") or (victim is not None and victim.line in marked(path, "VICTIM"))
    assert (raised is not None) == case.LOUD


@CASE
def test_watch_is_quiet_on_the_right_twin_of_a_field_case(path: Path):
    """No finding but notes, and no error."""
    case = loaded(path)
    assert watched(case.build_fixed, case.step_fixed) == ([], None)


def test_watch_words_the_zeroed_head_weights_as_the_house_does():
    """Head weights zeroed after their softmax: the name, the saver, the versions, and the mask before the softmax."""
    case = loaded(FOLDER / "case_saved_zeroed_weights_position_loop.py")
    findings, _ = watched(case.build, case.step)
    lines = findings[0].lines()
    assert lines[0].partition(" (version")[0] == (
        "GG101 inplace-on-saved-tensor: `weights_t` was overwritten after softmax() saved it for backward"
    )
    assert [line.split("      ")[-1].split("  #")[0] for line in lines[1:3]] == [
        "weights_t[:, k] = 0.0",
        "weights_t = F.softmax(delta / tau, dim=1)",
    ]
    assert lines[4] == (
        "  fix:   mask before the softmax: softmax(scores.masked_fill(~valid, -inf)), and leave `weights_t` as it is"
    )

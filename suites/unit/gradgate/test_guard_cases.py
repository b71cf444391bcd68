"""The shared fault cases under the guard, where the folder is there."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import gradgate

FOLDER = Path(__file__).resolve().parents[4] / "shared" / "cases"
KINDS = ("inplace_saved", "optimizer_step_between", "silent_data_write", "silent_alias_write")
STEPS = 8

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="the shared cases are not beside this checkout")


def load(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def guarded(file: Path, score: ModuleType, suffix: str) -> list[tuple[str, int | None]]:
    """Kind and culprit of what is found within some steps."""
    case = load(file)
    context: Any = getattr(case, "build" + suffix)()
    step = gradgate.guard(getattr(case, "step" + suffix), state=score.subjects_of(context))
    for _ in range(STEPS):
        try:
            step(context)
        except RuntimeError:
            break
        if step.findings:
            break
    return [(one.kind, one.culprit.line if one.culprit else None) for one in step.findings]


def test_guard_names_the_faults_of_the_shared_cases_and_no_others(monkeypatch):
    """Kind and line of every write to a saved tensor come first; the fixed programs of all kinds are silent."""
    for name in ("", "bugs"):
        monkeypatch.syspath_prepend(str(FOLDER / name))
    score = load(FOLDER / "score.py")
    missed, false = [], []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for file in sorted((FOLDER / "bugs").glob("case*.py")):
            if guarded(file, score, "_fixed"):
                false.append(file.stem)
            case = load(file)
            if case.KIND in KINDS:
                found = guarded(file, score, "")
                lines = score.marked_lines(file)["CULPRIT"]
                if not found or found[0][0] != case.KIND or found[0][1] not in lines:
                    missed.append((file.stem, found))
    sys.modules.pop("_bench", None)
    assert (missed, false) == ([], [])

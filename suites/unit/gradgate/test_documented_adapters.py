"""The adapters of docs/adapters.md are complete: each verifies its trainer, and finds a fault that is planted in it."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from fixtures.documented import two_stage, value_script
from gradgate import check_trainer
from gradgate.checks import oracles
from gradgate.core.verdict import Verdict
from gradgate.subjects.contract import Subject

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGE = (DOCS / "adapters.md").read_text(encoding="utf-8")
DRAWN = (DOCS / "strategies.md").read_text(encoding="utf-8")
# At night all checks; in a pull request those that cost little.
SELECT = [] if os.environ.get("GRADGATE_PROFILE") == "nightly" else ["GG001", "GG10", "GG20", "GG401", "GG402", "GG407"]


def block(name: str) -> str:
    """The Python block in which a Subject of this name is built."""
    blocks: list[str] = re.findall(r"```python\n(.*?)```", PAGE + DRAWN, flags=re.DOTALL)
    (found,) = [text for text in blocks if f'name="{name}"' in text]
    return found


@pytest.fixture
def adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the import path for modules that are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name, module in sys.modules.items() if _lies_in(module, tmp_path)]:
        del sys.modules[name]


def _lies_in(module: ModuleType, folder: Path) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(str(folder))


def verified(folder: Path, name: str, *select: str) -> Verdict:
    module = f"documented_{name.replace('-', '_')}"
    (folder / f"{module}.py").write_text(block(name), encoding="utf-8")
    subject: Subject = importlib.import_module(module).subject()
    return check_trainer(subject, select=select or SELECT)


def failed(verdict: Verdict) -> dict[str, list[str]]:
    return {
        result.code: [finding.message for finding in result.findings]
        for result in verdict.results
        if result.status in ("failed", "error", "inconclusive")
    }


@pytest.mark.nightly
def test_documented_two_stage_adapter_verifies_its_trainer(adapters: Path):
    """As it stands on the page, against the trainer that the page names."""
    verdict = verified(adapters, "two-stage")

    assert failed(verdict) == {}
    assert sum(result.status == "passed" for result in verdict.results) >= 15


def test_documented_two_stage_adapter_is_short():
    """Wrapping both stages takes at most 50 lines."""
    assert len([line for line in block("two-stage").splitlines() if line.strip()]) <= 50


def test_documented_adapter_of_an_own_loop_verifies_its_trainer(adapters: Path):
    """Losses inside a step and a loop inside a method are enough for most of the catalogue, in at most 60 lines."""
    verdict = verified(adapters, "own-loop")

    assert failed(verdict) == {}
    assert sum(result.status == "passed" for result in verdict.results) >= 13
    assert len([line for line in block("own-loop").splitlines() if line.strip()]) <= 60


def test_documented_adapter_of_two_scripts_verifies_them(adapters: Path):
    """A `main` each is enough, in at most 45 lines."""
    verdict = verified(adapters, "two-scripts", *(SELECT and ["GG100", "GG202", "GG203", "GG418", "GG419", "GG613"]))

    assert failed(verdict) == {}
    assert {"GG203", "GG418", "GG613"} <= {result.code for result in verdict.results if result.status == "passed"}
    assert len([line for line in block("two-scripts").splitlines() if line.strip()]) <= 45


@pytest.mark.parametrize(
    ("shuffle", "found"), [(True, {}), (False, {"GG612": ["two of 3 epochs have the same order; allowed: none"]})]
)
def test_documented_adapter_of_an_own_loader_looks_at_its_order(
    adapters: Path, monkeypatch: pytest.MonkeyPatch, shuffle: bool, found: dict[str, list[str]]
):
    """What the script's DataLoader yields is under test: GG612 passes it, and names one that does not shuffle."""
    make = value_script.DataLoader
    monkeypatch.setattr(
        value_script, "DataLoader", lambda rows, **options: make(rows, **options | {"shuffle": shuffle})
    )
    verdict = verified(adapters, "own-loader", "GG100", "GG202", "GG203", "GG601", "GG612")

    assert failed(verdict) == found
    assert {result.status for result in verdict.results} <= {"passed", "failed"}


def test_documented_adapter_finds_the_fault_that_the_page_names(adapters: Path, monkeypatch: pytest.MonkeyPatch):
    """Weights zeroed behind their softmax: GG101, with the line."""

    def zeroed(value_BS: torch.Tensor, label_BSH: torch.Tensor, valid_BS: torch.Tensor, **options: object):
        weight_BSH = torch.softmax(two_stage_weights(value_BS, label_BSH, valid_BS, **options), -1)
        weight_BSH[label_BSH == -100] = 0.0
        return weight_BSH

    two_stage_weights = two_stage.head_weights
    monkeypatch.setattr(two_stage, "head_weights", zeroed)
    verdict = verified(adapters, "two-stage", "GG101")

    culprits = [finding.culprit for result in verdict.results for finding in result.findings if finding.culprit]
    assert {culprit.source for culprit in culprits} == {"weight_BSH[label_BSH == -100] = 0.0"}


def test_documented_strategy_drives_the_checks_that_draw(adapters: Path):
    """The adapter of docs/strategies.md, which has no batches but those that it draws."""
    verdict = verified(adapters, "drawn-critic", "GG100", "GG404", "GG405")

    assert [(result.code, result.status) for result in verdict.results] == [
        ("GG100", "passed"),
        ("GG404", "passed"),
        ("GG405", "passed"),
    ]
    assert all(result.measured["batches_drawn"] > 0 for result in verdict.results[1:])


@pytest.mark.nightly
def test_documented_property_fails_with_the_batch_that_the_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The test of docs/strategies.md passes right labels, and shows those that wrap around the smallest batch."""
    text = re.findall(r"```python\n(.*?)```", DRAWN, flags=re.DOTALL)[0]
    shown = re.findall(r"^case=(.*), …$", DRAWN, flags=re.MULTILINE)[0]
    mine = ModuleType("my_trainer")
    monkeypatch.setitem(sys.modules, "my_trainer", mine)
    mine.make_labels = oracles.labels
    namespace: dict[str, Any] = {}
    exec(text, namespace)  # noqa: S102 - what the test is about
    namespace["test_labels"]()

    def wrapped(token_BS: torch.Tensor, valid_BS: torch.Tensor, horizon: int, document_BS: torch.Tensor | None):
        return torch.stack([token_BS.roll(-k - 1, 1) for k in range(horizon)], -1)

    namespace["make_labels"] = wrapped
    with pytest.raises(AssertionError) as caught:
        namespace["test_labels"]()
    assert shown in "".join(caught.value.__notes__)


def test_page_names_every_capability():
    """What an adapter can offer stands in the table."""
    missing = [name for name in Subject.CAPABILITIES if f"`{name}`" not in PAGE]
    assert missing == []

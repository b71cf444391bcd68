"""The signatures of docs/adapters.md are the code's: of what adapters make, and of how formulas are called."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gradgate
from gradgate import check_trainer
from gradgate.checks import oracles
from gradgate.subjects.contract import Functions, Subject

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "adapters.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Signatures\n")[2].partition("\n## ")[0]
WRITTEN = ("Tokens", "Placed", "Fit", "Looped", "After", "Schedule", "fit_of", "toy_rows")
MEMBERS = [field.name for field in dataclasses.fields(Functions) if field.name != "gaps"]
ORACLES: dict[str, Callable[..., Tensor]] = {
    "labels": oracles.labels,
    "weights": oracles.head_weights,
    "loss": oracles.wmtp_loss,
    "value_loss": oracles.value_loss,
    "returns": oracles.gae_returns,
    "place_rewards": oracles.place_rewards,
}
AXES = {"BSHV": 4, "BSH": 3, "BS": 2, "B": 1}


def signature(name: str) -> str:
    """As the page has it."""
    given = inspect.signature(getattr(gradgate, name)).parameters.values()
    parts, starred = [], False
    for each in given:
        if each.kind is each.KEYWORD_ONLY and not starred:
            starred = bool(parts.append("*")) or True
        default = "" if each.default is each.empty else f"={each.default!r}".replace("'", '"')
        parts.append(each.name + default)
    return f"gradgate.{name}({', '.join(parts)})"


@pytest.mark.parametrize("name", WRITTEN)
def test_page_has_the_signature_that_the_code_has(name: str):
    """Names, order and defaults; one of another form than this stands nowhere in the tables."""
    assert re.findall(rf"^\| `(gradgate\.{name}\(.*?\))` \|", SECTION, re.MULTILINE) == [signature(name)]


def rows() -> dict[str, tuple[list[str], list[str]]]:
    """Member of Functions -> the names by position and by name that the page's table has."""
    found = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|", SECTION, re.MULTILINE)
    return {member: (re.findall(r"`(\w+)`", first), re.findall(r"`(\w+)`", second)) for member, first, second in found}


def test_page_has_every_formula():
    """One that is added is on it, and none that is not there."""
    assert sorted(rows()) == sorted(MEMBERS)


@pytest.mark.parametrize("member", ORACLES)
def test_formula_has_the_parameters_of_its_reference(member: str):
    """Names in their order; where the reference has them by name alone, the page does, too."""
    given = inspect.signature(ORACLES[member]).parameters
    placed, named = rows()[member]
    assert [*placed, *named] == list(given)
    by_name = [name for name, each in given.items() if each.kind is each.KEYWORD_ONLY or each.default is None]
    assert named == by_name


@pytest.fixture(scope="module")
def calls() -> dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
    """What the checks give to a trainer's formulas: member -> arguments of each call."""
    made: dict[str, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {member: [] for member in MEMBERS}

    def recorded(member: str, formula: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*arguments: Any, **options: Any) -> Tensor:
            made[member].append((arguments, options))
            return formula(*arguments, **options)

        return call

    formulas = {member: recorded(member, formula) for member, formula in ORACLES.items()}
    softmax = recorded("token_weights", lambda score_BS, valid_BS: torch.ones_like(score_BS) * valid_BS)
    subject = Subject("recorded", [], functions=Functions(**formulas, token_weights=softmax))
    check_trainer(subject, select=["GG404", "GG417"])
    return made


@pytest.mark.parametrize("member", MEMBERS)
def test_formula_is_called_as_the_page_says(calls: dict[str, Any], member: str):
    """So many arguments by position, each of the axes and the kind that its name says, and all of those by name."""
    placed, named = rows()[member]
    assert calls[member]
    assert {name for _, options in calls[member] for name in options} == set(named)
    for arguments, _ in calls[member]:
        assert len(arguments) == len(placed)
        for name, given in zip(placed, arguments, strict=True):
            _, _, axes = name.partition("_")
            if axes in AXES:
                kind = torch.bool if name == "valid_BS" else torch.long if name.startswith(("token", "label")) else None
                assert given.dim() == AXES[axes], name
                assert given.dtype == kind if kind else given.dtype in (torch.float32, torch.float64), name
            else:
                assert given in ("terminal", "uniform") if name == "placement" else isinstance(given, int), name

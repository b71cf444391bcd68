"""GG603, GG904 and GG905: what is not saved, losses that fall by themselves, weights that say nothing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fixtures import mini_trainer
from fixtures.mini_trainer import MiniRun
from gradgate.checks import catalogue
from gradgate.checks.gg603_state_missing_from_checkpoint import inventory
from gradgate.checks.gg905_weight_collapse import spread
from gradgate.checks.isolation import isolated
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Fit, Run, Stage, Subject

Update = Callable[..., Mapping[str, float]]


def run_check(code: str, subject: Subject, number: int = 0) -> Outcome:
    """The outcome of one check on one stage, isolated as the runner does it."""
    with isolated(0) as folder:
        return catalogue.load_check(catalogue.rule(code)).function(
            subject, subject.stages[number], Context(folder=folder)
        )


def without(*names: str) -> Callable[[MiniRun], dict[str, Any]]:
    """A save that leaves something out."""
    return lambda run: {name: value for name, value in mini_trainer.saved(run).items() if name not in names}


def counting(run: MiniRun, terms: Mapping[str, Tensor]) -> Mapping[str, float]:
    """An update that keeps a count, and an average, of its own."""
    run.seen = getattr(run, "seen", 0) + 1  # type: ignore[attr-defined]
    run.averages = {"total": 0.9 * getattr(run, "averages", {}).get("total", 0.0) + float(terms["total"].detach())}  # type: ignore[attr-defined]
    return mini_trainer.update(run, terms)


class Tally:
    """A count in an object that is called."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> None:
        self.calls += 1


def calling(run: MiniRun, terms: Mapping[str, Tensor]) -> Mapping[str, float]:
    """An update that calls what counts."""
    run.tally = getattr(run, "tally", Tally())  # type: ignore[attr-defined]
    run.tally()  # type: ignore[attr-defined]
    return mini_trainer.update(run, terms)


def remembering(run: MiniRun, terms: Mapping[str, Tensor]) -> Mapping[str, float]:
    """An update that keeps what every step makes anew."""
    run.last = float(terms["total"].detach())  # type: ignore[attr-defined]
    return mini_trainer.update(run, terms)


def keeping(run: MiniRun, terms: Mapping[str, Tensor]) -> Mapping[str, float]:
    """An update that keeps a number of each step in a mapping."""
    run.kept = {**getattr(run, "kept", {}), run.drawn: 1.0}  # type: ignore[attr-defined]
    return mini_trainer.update(run, terms)


@pytest.mark.parametrize(
    ("parts", "owner"),
    [({"update": keeping}, "run.kept"), ({"saved": without("optimizer")}, "run.optimizers[0]")],
)
def test_each_owner_of_what_is_not_saved_is_told_once(parts: dict[str, Any], owner: str) -> None:
    """A mapping or an optimizer is one finding, with the number of its values."""
    findings = run_check("GG603", mini_trainer.subject(**parts)).findings

    assert [each.detail["values"] > 1 for each in findings if each.detail["owner"] == owner] == [True]


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({"saved": without("scheduler")}, "run.scheduler.state_dict()["),
        ({"saved": without("drawn")}, "run.drawn"),
        ({"saved": without("left")}, "run.left["),
        ({"update": counting}, "run.seen"),
        ({"update": calling}, "run.tally.calls"),
        ({"update": counting}, "run.averages['total']"),
        ({"saved": without("optimizer")}, "run.optimizers[0].state_dict()"),
    ],
)
def test_state_that_is_not_saved_is_named(parts: dict[str, Any], named: str) -> None:
    """By observation: no list says where to look."""
    messages = [finding.message for finding in run_check("GG603", mini_trainer.subject(**parts)).findings]

    assert [message for message in messages if named in message] != []


@pytest.mark.parametrize("parts", [{}, {"update": remembering}], ids=["clean", "last loss"])
@pytest.mark.parametrize("number", [0, 1])
def test_inventory_is_empty_of_faults_on_the_clean_twin(number: int, parts: dict[str, Any]) -> None:
    """What comes back, or is made anew by every step, is no finding."""
    outcome = run_check("GG603", mini_trainer.subject(**parts), number)

    assert (outcome.findings, outcome.inconclusive) == ((), "")
    assert outcome.measured["values_that_change"] > 10


def test_inventory_is_inconclusive_where_nothing_changes() -> None:
    """A run that trains nothing has nothing to save."""

    class Still(Run):
        modules: Mapping[str, nn.Module] = {}

        def batches(self) -> Any:
            return iter(range(100))

        def step(self, batch: Any) -> Mapping[str, float]:
            return {}

        def save(self, path: Any) -> None: ...

        def load(self, path: Any) -> None: ...

    subject = Subject("still", [Stage("only", lambda seed, **_: Still())])
    assert "no value" in run_check("GG603", subject).inconclusive


def test_inventory_reaches_generators_containers_and_cycles() -> None:
    """Each object once; torch's own through their `state_dict`."""

    class Holder:
        def __init__(self) -> None:
            self.me, self.rows = self, [1, (2.0, "x")]
            self.generators = {"torch": torch.Generator(), "python": random.Random(0)}
            self.layer = nn.Linear(1, 1)
            self.call = print

    run: Any = Run()
    run.held = Holder()
    names = inventory(run)

    assert "run.held.rows[1][0]" in names
    assert {"run.held.generators['torch'].state", "run.held.generators['python'].state"} <= names.keys()
    assert "run.held.layer.state_dict()['weight']" in names
    assert not any(".me." in name or "call" in name for name in names)


class Shrinking:
    """A loss that is divided by how often it was asked."""

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        self.loss, self.asked = loss, 0

    def __call__(self, *arguments: Tensor) -> Tensor:
        self.asked += 1
        return self.loss(*arguments) / self.asked


def over_all_heads(logits_BSHV: Tensor, label_BSH: Tensor, weight_BSH: Tensor) -> Tensor:
    """A mean over more than what was summed."""
    return mini_trainer.token_loss(logits_BSHV, label_BSH, weight_BSH) / label_BSH.shape[-1]


@pytest.mark.parametrize(
    ("number", "parts", "told"),
    [
        (0, {"value_loss": Shrinking(mini_trainer.value_loss)}, "no parameter moves"),
        (1, {"token_loss": Shrinking(mini_trainer.token_loss)}, "no parameter moves"),
        (1, {"token_loss": over_all_heads}, "below log V"),
    ],
)
def test_null_model_finds_a_loss_that_falls_by_itself(number: int, parts: dict[str, Any], told: str) -> None:
    """Nothing can have been learnt."""
    messages = [finding.message for finding in run_check("GG904", mini_trainer.subject(**parts), number).findings]

    assert any(told in message for message in messages)


@pytest.mark.parametrize("number", [0, 1])
def test_null_model_passes_on_the_clean_twin(number: int) -> None:
    """Both null models, where the stage has both."""
    outcome = run_check("GG904", mini_trainer.subject(), number)

    assert outcome.findings == ()
    assert len(outcome.measured) == 1 + number


def weights_of(kind: str, seed: int) -> Tensor:
    """Float[64, 4]: weights that say nothing in one way or the other, or that differ."""
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(64, 4, generator=generator)
    return torch.softmax(score * {"collapsed": 1e4, "uniform": 1e-4, "good": 0.5}[kind], -1)


@pytest.mark.parametrize(("kind", "told"), [("collapsed", "collapsed"), ("uniform", "uniform"), ("good", "")])
def test_weight_collapse_tells_collapsed_from_uniform(kind: str, told: str) -> None:
    """Both ends are faults, what is between is none."""

    def fit(seed: int, *, device: str = "cpu") -> Fit:
        return Fit((1.0, 0.5), weight_NH=weights_of(kind, seed))

    stage = replace(mini_trainer.subject().stages[1], fit=fit)
    outcome = run_check("GG905", Subject("own", [stage]))

    assert [told in finding.message for finding in outcome.findings] == ([True] if told else [])
    assert outcome.inconclusive == ""
    drawn = outcome.series["trained_weight"]  # the first seed's, a line a head, for the report
    first = weights_of(kind, 0)
    assert list(drawn) == [f"head {head}" for head in range(first.shape[1])]
    assert drawn["head 1"][0] == (1.0, pytest.approx(float(first[0, 1])))


def test_weight_collapse_is_not_applicable_without_weights() -> None:
    """A fit that gives none, or of one head."""
    for weight_NH in (None, torch.ones(3, 1)):
        stage = replace(
            mini_trainer.subject().stages[1], fit=lambda seed, *, device, w=weight_NH: Fit((1.0,), weight_NH=w)
        )
        assert "weight_NH" in run_check("GG905", Subject("own", [stage])).not_applicable


def test_spread_is_that_of_the_formula() -> None:
    """One head has it all: 0 and 1 - 1/H; uniform: 1 and 0; and a mean of the two."""
    one, uniform = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    assert spread(one) == (0.0, 0.5)
    assert spread(uniform) == pytest.approx((1.0, 0.0))
    assert spread(torch.cat([one, uniform])) == pytest.approx((0.5, 0.25))
    assert math.isnan(spread(torch.empty(0, 2))[0])

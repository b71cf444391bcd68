"""A configuration's keys with values to move them to, and a copy of it in which some are moved."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator

from fixtures import named_settings
from fixtures.check_runs import errors, run_check
from fixtures.option_faults import optioned
from gradgate.core.errors import SubjectError
from gradgate.subjects import named_values
from gradgate.subjects.contract import Stage, Subject
from gradgate.subjects.own_files import own_files
from gradgate.subjects.schedule import Schedule
from gradgate.subjects.settings import configured, options_of

FORMS = ["huber", "squared"]


@pytest.fixture(autouse=True)
def one_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is imported is the trainer, and in a run of many tests that is much else."""
    monkeypatch.setattr(named_values, "own_files", lambda: [Path(named_settings.__file__)])


class Reward(Enum):
    model, rule = "model", "rule"


@dataclass(frozen=True)
class Optim:
    lr: float = 0.5
    weight_decay: float = 0.0
    max_norm: float = 5.0
    kind: Literal["adamw", "sgd"] = "sgd"
    shape: str = "cosine"


@dataclass
class Recipe:
    optim: Optim = field(default_factory=Optim)
    horizon: int = 4
    layers: int = 1
    clip: bool = True
    reward: Reward = Reward.rule
    log_every: int = 10
    accum_steps: int = 4
    output_dir: str = "out"
    seeds: int = 3
    early_stop_min_delta: float = 0.0
    monitor: Literal["nll", "loss"] = "nll"
    note: None = None
    sizes: tuple[int, ...] = (1, 2)


def test_options_of_moves_numbers_switches_and_names() -> None:
    """A half, a hundredth of a ceiling, 0.1 for 0, the opposite, the other names.

    Where and how often are left, and what has no other value.
    """
    assert options_of(Recipe()) == {
        "optim.lr": (0.5, 0.25), "optim.weight_decay": (0.0, 0.1), "optim.max_norm": (5.0, 0.05),
        "optim.kind": ("sgd", "adamw"), "horizon": (4, 2),
        "layers": (1, 2), "accum_steps": (4, 2), "clip": (True, False), "reward": (Reward.rule, Reward.model),
    }  # fmt: skip


@pytest.mark.parametrize(
    "key", ["warmup_steps", "ramp_steps", "policy.tau_steps", "freeze_trunk_steps", "kl_warmup_steps"]
)
def test_steps_that_something_comes_in_over_go_to_none(key: str) -> None:
    """All of it is there at once, which a short run shows; none of them go to two."""
    assert options_of({key: 100}) == {key: (100, 0)}
    assert options_of({key: 0}) == {key: (0, 2)}


@pytest.mark.parametrize(
    "key", ["max_steps", "save_steps", "eval_steps", "total_steps", "n_steps", "steps", "target_steps"]
)
def test_steps_of_a_run_and_of_what_happens_at_times_are_left(key: str) -> None:
    """A short run shows nothing of them."""
    assert options_of({key: 100}) == {}


def test_options_of_takes_what_it_is_told() -> None:
    """Sections are left out by their beginning; keys that it guesses nothing for are added."""
    found = options_of(Recipe(), also={"log_every": (1, 2)}, leave_out=("optim.", "layers", "accum"))
    assert list(found) == ["horizon", "clip", "reward", "log_every"]


def test_a_rank_that_is_no_process_is_moved() -> None:
    """Of a loss or of an adapter; that of a process is the launcher's."""
    config = {"rank": {"coef": 0.0}, "lora": {"rank": 8}, "local_rank": 1, "world_size": 2}

    assert options_of(config) == {"rank.coef": (0.0, 0.1), "lora.rank": (8, 4)}
    assert options_of({"rank": 1}) == {}


@pytest.mark.parametrize("config", [{"a": {"b": 1.0}, "c": 2}, SimpleNamespace(a=SimpleNamespace(b=1.0), c=2)])
def test_configured_sets_dotted_keys_in_a_copy(config: Any) -> None:
    """Mappings and objects alike; the configuration itself stays as it is."""
    changed = configured(config, {"a.b": 3.0, "c": 4})
    assert options_of(changed) == {"a.b": (3.0, 1.5), "c": (4, 2)}
    assert options_of(config) == {"a.b": (1.0, 0.5), "c": (2, 1)}


def test_configured_sets_frozen_sections() -> None:
    """The copy is nobody else's."""
    assert configured(Recipe(), {"optim.lr": 0.1}).optim.lr == 0.1
    assert configured(Recipe(), None) == Recipe()


class Weights(BaseModel):
    """Settings that check themselves."""

    temperature: float = Field(0.5, gt=0)
    low: int = 1
    high: int = 2
    _cache: dict[str, int] = PrivateAttr(default_factory=lambda: {"kept": 1})

    @model_validator(mode="after")
    def in_order(self) -> Weights:
        if self.low >= self.high:
            raise ValueError("low is not below high")
        return self


class Whole(BaseModel):
    """Two sections that go together."""

    model_config = ConfigDict(frozen=True)
    weights: Weights = Weights()
    name: str = Field("critic", alias="kind")

    @model_validator(mode="after")
    def together(self) -> Whole:
        if self.name == "uniform" and self.weights.temperature != 1:
            raise ValueError("a uniform weighting has no temperature")
        return self


@dataclass
class Checked:
    """A dataclass that refuses, and derives a number of another."""

    rate: float = 0.5
    double: float = field(init=False)

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise ValueError("rate is below 0")
        self.double = 2 * self.rate


class Asked:
    """Has a check of its own that somebody has to call."""

    def __init__(self) -> None:
        self.steps = 3

    def validate(self) -> None:
        if self.steps < 1:
            raise ValueError("no steps")


@dataclass
class Raw:
    """Makes sections of dictionaries: not to be made twice."""

    weights: Any

    def __post_init__(self) -> None:
        self.weights = Weights(**self.weights)


@pytest.mark.parametrize(
    ("config", "options", "told"),
    [
        (Whole(), {"weights.temperature": 0.0}, "greater than 0"),
        (Whole(), {"weights.low": 2}, "not below high"),
        (Whole(), {"name": "uniform"}, "has no temperature"),
        (SimpleNamespace(recipe=Whole()), {"recipe.name": "uniform"}, "has no temperature"),
        ({"part": Checked()}, {"part.rate": -1.0}, "below 0"),
        ({"part": Asked()}, {"part.steps": 0}, "no steps"),
    ],
)
def test_configured_refuses_what_the_configuration_refuses(config: Any, options: Any, told: str) -> None:
    """Bounds, checks of a section, of what stands around it, of a dataclass and of a method."""
    with pytest.raises(ValueError, match=told):
        configured(config, options)


def test_configured_sets_all_before_it_asks() -> None:
    """Values that hold together alone, private and unset ones, and what is derived."""
    changed = configured(Whole(), {"name": "uniform", "weights.temperature": 1, "weights.low": 5, "weights.high": 9})
    assert (changed.name, changed.weights.low, changed.weights.high) == ("uniform", 5, 9)
    assert type(changed.weights.temperature) is float
    assert changed.weights._cache == {"kept": 1}
    assert configured(Weights(low=0), {"high": 9}).model_fields_set == {"low", "high"}
    assert configured(Checked(), {"rate": 2.0}).double == 4.0


def test_configured_leaves_alone_what_cannot_be_made_twice() -> None:
    """A `__post_init__` that reads the file's form is no check of values; the sections in it are validated."""
    assert configured(Raw({"low": 0}), {"weights.high": 7}).weights.high == 7
    with pytest.raises(ValueError, match="not below high"):
        configured(Raw({"low": 0}), {"weights.high": 0})


def test_configured_names_the_nearest_key() -> None:
    """A key that is not there is an error."""
    with pytest.raises(SubjectError, match=r"no 'lrr'.*lr"):
        configured(Recipe(), {"optim.lrr": 0.1})


def test_options_of_takes_what_declares_all_values() -> None:
    """`choices` of a command-line argument, and words under the key's name; the commands of a program are none."""
    assert options_of({"mode_of": "deep", "scale_of": "flat"}) == {
        "mode_of": ("deep", "plain"),
        "scale_of": ("flat", "steep"),
    }


def test_options_of_tells_settings_of_one_name_by_what_they_are_looked_up_in() -> None:
    """Two registries, and a section each."""
    assert options_of({"weights": {"method_of": "rho"}, "rewards": {"method_of": "graded"}}) == {
        "weights.method_of": ("rho", "critic"),
        "rewards.method_of": ("graded", "verifier"),
    }


def test_gg414_lets_a_guessed_value_be_refused() -> None:
    """A listed one that raises is a finding."""
    config = {"lr": 0.01, "optimizer": "sgd"}
    start = optioned().stages[0].start

    def refusing(seed: int, *, options: Any = None, **given: Any) -> Any:
        if (options or {}).get("lr") == 0.005:
            raise ValueError("too small")
        return start(seed, options=options, **given)

    guessed, listed = (Stage("value", refusing, options=found) for found in (options_of(config), {"lr": (0.01, 0.005)}))
    assert errors(run_check("GG414", Subject("guessed", [guessed]), guessed)) == []
    (message,) = errors(run_check("GG414", Subject("listed", [listed]), listed))
    assert "ValueError: too small" in message


def test_gg414_leaves_a_misspelt_name_that_the_adapter_itself_cannot_declare() -> None:
    """A Schedule that is made of it knows no such shape: what the trainer does with it is not asked."""
    plain = optioned().stages[0].start
    tried: list[str] = []

    def start(seed: int, *, options: Any = None, **given: Any) -> Any:
        shape = (options or {}).get("shape", "cosine")
        tried.append(shape)
        Schedule(1.0, 10, 2, shape)
        moved = {"lr": 0.01 if shape == "cosine" else 0.02}
        return plain(seed, options=moved, **given)

    stage = Stage("value", start, options={"shape": ("cosine", "linear")})
    assert errors(run_check("GG414", Subject("shaped", [stage]), stage)) == []
    assert "cosine_x" in tried


def test_options_of_takes_the_names_that_the_trainer_holds_a_setting_against() -> None:
    """In comparisons, tables, registries and the functions that it is handed to."""
    loss = SimpleNamespace(form="huber", reduction_of="mean", note_of="free")
    config = SimpleNamespace(loss=loss, estimator_of="gae", weighting_of="rho", side_of="both")

    assert options_of(config) == {
        "loss.form": ("huber", "squared"),
        "loss.reduction_of": ("mean", "sum", "none"),
        "loss.note_of": ("free", "other"),
        "estimator_of": ("gae", "td"),
        "weighting_of": ("rho", "critic"),
        "side_of": ("both", "left", "right"),
    }
    assert options_of({"data": {"side_of": "left", "path": "left", "packs": False, "rows": 4}}) == {
        "data.side_of": ("left", "right", "both"),
        "data.packs": (False, True),
    }


def test_a_name_that_an_else_stands_for_has_the_others_of_its_own_key() -> None:
    """Of a section or a configuration; what other keys of that name are compared with are no names of it."""
    assert options_of({"data": {"order_of": "shuffled", "loss_of": "hard"}, "order_of": "shuffled"}) == {
        "data.order_of": ("shuffled", "longest_first"),
        "data.loss_of": ("hard", "soft"),
    }


def test_a_comment_lists_the_names_of_a_setting() -> None:
    """Between bars; what it says of one is none."""
    assert options_of({"packing_of": "none", "PACKING_OF": "none"}) == {"PACKING_OF": ("none", "greedy", "best")}


def test_words_of_the_adapter_are_not_the_trainers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it compares or lists was written for this check, or for another key."""
    monkeypatch.setattr(named_values, "own_files", lambda: [Path(named_settings.__file__), Path(__file__)])

    assert options_of({"kind_of_adapter": "one"}) == {}
    assert named_values.named_values({"kind_of_adapter": "one"})["kind_of_adapter"] == ["one", "other"]


def is_other(kind_of_adapter: str) -> bool:
    """A word of the adapter's: here of this file."""
    return kind_of_adapter in ("one", "other")


def test_keys_without_a_name_in_the_source_are_left_alone() -> None:
    """As are values that are no text."""
    settings = {"no_such_key_anywhere": "huber", "loss.form": "huber"}

    assert named_values.named_values(settings) == {"no_such_key_anywhere": [], "loss.form": FORMS}


def test_modules_that_are_imported_are_looked_through_and_installed_ones_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trainer's, whatever it is called."""
    monkeypatch.undo()
    files = own_files()

    assert Path(named_settings.__file__) in files
    assert Path(pytest.__file__) not in files
    assert Path(named_values.__file__) not in files

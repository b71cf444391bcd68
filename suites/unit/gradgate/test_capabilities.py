"""A capability is present where the adapter wrote it, and a missing one says which line would enable it."""

from __future__ import annotations

from typing import Any

import pytest

from fixtures.plain_loop import PlainRun, capable, subject
from gradgate.core.errors import SubjectError
from gradgate.subjects.capabilities import Capabilities, declared
from gradgate.subjects.contract import Functions, Run, Stage, Subject
from gradgate.subjects.program import Program

ALL = tuple(Subject.CAPABILITIES)


def test_missing_names_everything_when_the_subject_is_bare():
    """A plain loop lacks every capability, each with its own hint."""
    bare = subject()
    assert Capabilities(bare).missing(bare.stages[0], ALL) == list(Subject.CAPABILITIES.values())


def test_missing_is_empty_when_the_subject_has_it_all():
    """Overridden methods, set attributes and given functions all count."""
    run = type("Full", (PlainRun,), {"losses": lambda *_: {}, "tokens": lambda *_: None, "save": lambda *_: None,
               "load": lambda *_: None, "select_rows": lambda *_: None, "logits_from": "model",
               "optimizers": ("something",), "max_norm": 1.0, "pad": lambda *_: None, "crop": lambda *_: None,
               "evaluate": lambda *_: None, "samples": lambda *_: (),
               "epoch_size": 1, "heldout": lambda *_: (), "hyperparameters": lambda *_: {},
               "window": lambda *_: None, "strategy": lambda *_: None, "placed": lambda *_: None, "end_token": 0,
               "supervised": lambda *_: None, "sources": lambda *_: (), "weights": lambda *_: None,
               "formulas": {"a": 1},
               "rewards": lambda *_: None, "value_targets": lambda *_: None})  # fmt: skip
    given: Any = {"edges": {}, "precisions": {}, "options": {}, "neutral": {}, "scaling": {}}
    given |= {"distributed": {}, "after": 0}
    stage = Stage("all", run, fit=lambda seed: None, loop=lambda *_: None, **given)
    functions = Functions(*[lambda: None] * 7)
    full = Subject("full", [stage], functions, corpus=lambda seed: None, program=Program(print))
    assert Capabilities(full).missing(stage, ALL) == []


def test_missing_asks_for_both_halves_of_a_checkpoint():
    """A run that saves but cannot load has no checkpoint."""
    run = type("Half", (PlainRun,), {"save": lambda *_: None})(0)
    assert "save" not in declared(run)


def test_missing_accepts_one_stage_when_asked_for_the_whole_subject():
    """A check of the subject as a whole looks for the stage that has what it needs."""
    stages = [Stage("bare", PlainRun), capable().stages[0]]
    assert Capabilities(Subject("mixed", stages)).missing(None, ("losses",)) == []


def test_missing_accepts_a_method_set_on_the_instance():
    """An adapter may set a function on the run instead of overriding."""
    run = PlainRun(0)
    run.losses = lambda batch: {}
    assert "losses" in declared(run)


def test_missing_starts_a_stage_once():
    """Starting may be slow: however many checks ask, one start is enough."""
    starts = []

    def start(seed, **options):
        starts.append(seed)
        return PlainRun(seed, **options)

    stage = Stage("counted", start)
    capabilities = Capabilities(Subject("counted", [stage]))
    for _ in range(3):
        capabilities.missing(stage, ("losses", "tokens"))
    assert starts == [0]


def test_missing_does_not_start_a_stage_when_no_need_is_of_its_run():
    """Functions and corpus are known without a run."""
    stage = Stage("never", lambda *_, **__: pytest.fail("was started"))
    assert len(Capabilities(Subject("s", [stage])).missing(stage, ("corpus", "functions.loss", "fit"))) == 3


def test_missing_reports_a_stage_that_does_not_start():
    """Nothing can be said of a run that is not there; the error names the stage and the line."""

    def start(seed, **options):
        raise ValueError("no data")

    stage = Stage("broken", start)
    with pytest.raises(SubjectError, match=r"stage 'broken' does not start: ValueError: no data \(.*test_capabil"):
        Capabilities(Subject("s", [stage])).missing(stage, ("losses",))


def test_missing_refuses_an_unknown_need():
    """A check that asks for what is no capability is wrong, and says what it may have meant."""
    with pytest.raises(ValueError, match="no capability 'loses'; did you mean 'losses'"):
        Capabilities(subject()).missing(None, ("loses",))


def test_an_attribute_that_raises_is_one_clear_error():
    """A property that needs what `start` has not made."""

    class Late(Run):
        def samples(self, batch):
            return []

        @property
        def epoch_size(self):
            return self.rows

    stage = Stage("late", lambda seed, **_: Late())
    with pytest.raises(SubjectError, match=r"stage 'late': an attribute of its run raises: AttributeError: .*'rows'"):
        Capabilities(Subject("s", [stage])).missing(stage, ("samples",))

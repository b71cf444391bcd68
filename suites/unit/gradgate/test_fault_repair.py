"""Operators and trial repairs: what is changed in a source, and which line a failing check is about."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

import gradgate
from gradgate.checks import formulas
from gradgate.checks.first_fault import FirstFaultError, first_fault_only
from gradgate.checks.formula_calls import Call
from gradgate.checks.formulas import Ledger
from gradgate.checks.runner import check_trainer
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Result
from gradgate.faults import exchange, locate, operators, worker
from gradgate.faults.asked import Asked
from gradgate.faults.operators import functions, variants
from gradgate.faults.repair import suspect
from gradgate.faults.trial import status_of

VALUE_LOSS = """\
import torch


def value_loss(value_BS, return_BS, valid_BS):
    error_BS = value_BS - return_BS
    real = valid_BS.sum()
    kept_BS = error_BS.masked_fill(~valid_BS, 0.0)
    total = kept_BS.square().sum()

    def share():
        return total / real.clamp(min=1)

    return share()
"""
Loaded = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Loaded]:
    """Import a module from text."""
    names = []

    def load(text: str) -> ModuleType:
        name = f"repaired_{len(names)}"
        (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, tmp_path / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        names.append(name)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in names:
        del sys.modules[name]


def subject_of(module: ModuleType) -> gradgate.Subject:
    source = Path(str(module.__file__)).parent
    return gradgate.Subject("s", stages=[], functions=gradgate.Functions(value_loss=module.value_loss), source=source)


@pytest.mark.parametrize(
    ("statement", "operator", "after"),
    [
        ("y_BS = x_BS.clamp(min=1)", "drop-clamp", "y_BS = x_BS"),
        ("y_BS = x_BS.clamp(min=1)", "drop-argument", "y_BS = x_BS.clamp()"),
        ("y = x_BS.to(torch.float32)", "wrong-dtype", "y = x_BS.to(torch.bfloat16)"),
        ("y_BS = x_BS.masked_fill(~valid_BS, 0.0)", "drop-masked-fill", "y_BS = x_BS"),
        ("y_BS = x_BS.masked_fill(~valid_BS, 0.0)", "invert-mask", "y_BS = x_BS.masked_fill(valid_BS, 0.0)"),
        ("y_BS = x_BS.softmax(dim=1)", "swap-axis", "y_BS = x_BS.softmax(dim=-1)"),
        ("y = x_BS.sum()", "sum-to-mean", "y = x_BS.mean()"),
        ("y = max(tau, 1)", "max-to-min", "y = min(tau, 1)"),
        ("y = x_BS / n", "swap-operator", "y = x_BS * n"),
        ("y = x_BS / n", "drop-operand", "y = x_BS"),
        ("y = x_BS / n", "guard-divisor", "y = x_BS / n.clamp(min=1)"),
        ("y = x_BS", "use-unused", "y = x_BS / scale"),
        ("y = x_BS / len(x_BS)", "other-divisor", "y = x_BS / n"),
        ("y = x_BS.sum()", "add-divisor", "y = x_BS.sum() / n"),
        ("y = x_BS", "add-detach", "y = x_BS.detach()"),
        ("y = x_BS", "add-mask", "y = x_BS.masked_fill(~valid_BS, 0.0)"),
        ("y = x_BS", "other-name", "y = z_BS"),
        ("y = n if tau else 1", "one-branch", "y = n"),
        ("y = n < tau", "swap-comparison", "y = n <= tau"),
        ("y = x_BS[1:]", "drop-bound", "y = x_BS[:]"),
        ("y = x_BS[1:]", "other-end", "y = x_BS[:-1]"),
        ("y = x_BS[:-1]", "other-end", "y = x_BS[1:]"),
        ("y = x_BS[1:]", "off-by-one", "y = x_BS[2:]"),
        ("y = f(x_BS, flag=True)", "flip-flag", "y = f(x_BS, flag=False)"),
        ("optimizer.step()", "skip-statement", ""),
        ("scheduler.step()", "call-twice", "scheduler.step()\nscheduler.step()"),
        ("y = -n", "drop-sign", "y = n"),
    ],
)
def test_variants_hold_each_class_of_change(statement: str, operator: str, after: str):
    """Every operator makes its change, and names the statement's line."""
    text = f"def f(x_BS, z_BS, valid_BS, n, tau, scale):\n    '''Doc.'''\n    {statement}\n    return x_BS, n, tau\n"
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    before = ast.dump(function)
    found = [(one.operator, one.after, one.line) for one in variants(function)]
    assert (operator, after, 3) in found
    assert len({(line, changed) for _, changed, line in found}) == len(found)
    assert ast.dump(function) == before


@pytest.mark.parametrize(
    ("right", "wrong", "line", "operator"),
    [
        (".square()", ".abs()", 8, "abs-to-square"),
        ("total / real.clamp(min=1)", "total * real.clamp(min=1)", 11, "swap-operator"),
        ("total / real.clamp(min=1)", "total / real", 11, "guard-divisor"),
        ("total / real.clamp(min=1)", "total", 11, ""),
        ("~valid_BS", "valid_BS", 7, "invert-mask"),
        ("error_BS.masked_fill(~valid_BS, 0.0)", "error_BS", 8, "add-mask"),
        ("value_BS - return_BS", "value_BS + return_BS", 5, "swap-operator"),
    ],
)
def test_suspect_names_the_line_whose_change_makes_the_check_pass(
    load: Loaded, right: str, wrong: str, line: int, operator: str
):
    """A formula's fault is found where it was made; what the operators cannot undo is not blamed on another line."""
    assert VALUE_LOSS.count(right) == 1
    module = load(VALUE_LOSS.replace(right, wrong))
    code = module.value_loss.__code__
    found = suspect(subject_of(module), "GG404", None, seconds=60.0)
    assert module.value_loss.__code__ is code
    if not operator:
        assert found is None
        return
    assert found is not None
    assert (found.place.line, found.place.function, found.variant.operator) == (line, "value_loss", operator)
    assert "the check passes with `" in found.message


def test_suspect_gives_up_when_its_time_is_over(load: Loaded):
    """No change is tried beyond the limit."""
    module = load(VALUE_LOSS.replace(".square()", ".abs()"))
    assert suspect(subject_of(module), "GG404", None, seconds=1e-9) is None


def test_changes_that_do_not_fit_are_left_out(load: Loaded):
    """A change that is no Python, or that needs another closure, is not tried."""
    module = load("def value_loss(value_BS, return_BS, valid_BS):\n    return value_BS.sum()\n")
    (node,) = (node for _, node in functions(ast.parse(Path(str(module.__file__)).read_text("utf-8"))))
    for before, after in [
        ("return value_BS.sum()", "return ("),
        ("return nothing", "pass"),
        ("return value_BS.sum()", "return [yield_ for yield_ in (lambda: outer)()] if (yield) else break_"),
    ]:
        variant = operators.Variant("any", 2, before, after)
        trial = exchange.Trial(module.value_loss, variant, node, ("value_loss",))
        with exchange.exchanged(trial) as done:
            assert done is (after.startswith("return ["))


def test_ledger_ends_at_its_first_fault_when_one_is_enough():
    """Trials do not pay for the rest of the inputs."""
    ledger = Ledger("GG404", "boundary-grid")
    call = Call("f", lambda: torch.zeros(2), "a case", {})
    with first_fault_only(), pytest.raises(FirstFaultError, match="expected"):
        ledger.run(call, (3,), "fix")
    assert ledger.run(call, (3,), "fix") is None


def test_trial_looks_for_no_line(load: Loaded, monkeypatch: pytest.MonkeyPatch):
    """It asks whether a check passes; where the fault is, it asks in vain."""
    looked: list[None] = []
    monkeypatch.setattr(formulas, "culprit", lambda *_: looked.append(None))
    subject = subject_of(load(VALUE_LOSS.replace(".square()", ".abs()")))

    assert status_of(subject, "GG404", None, 60.0) == "failed"
    assert looked == []
    check_trainer(subject, select=["GG404"])
    assert looked


def test_worker_names_a_line_by_trial_repair_when_the_check_names_none(load: Loaded, tmp_path: Path):
    """The notice gets place, nearness and the repair; without time for it it stays as it is."""
    module = load(VALUE_LOSS.replace(".square()", ".abs()"))
    file = Path(str(module.__file__)).name
    for seconds, line in ((1e-9, "none"), (60.0, "exact")):
        task = worker.Task("t", tmp_path, tmp_path, tmp_path / "log", locate=seconds, lines=((file, 8, 8),))
        report = worker.Report([worker.Notice("GG404", None, "m", "none")])
        finding = Finding("GG404", "boundary-grid", "m")
        failed = Result("GG404", "boundary-grid", "failed", findings=(finding,))
        worker._locate(task, subject_of(module), report, failed, 0.0)
        assert report.notices[0].line == line
        assert bool(report.notices[0].repair) is (line == "exact")
    assert worker._nearness(Location(str(tmp_path / file), 11), task) == "near"
    assert worker._nearness(Location(str(tmp_path / file), 12), task) == "elsewhere"


LOOPS = """\
import torch
from torch import nn

import gradgate


class Loop(gradgate.Run):
    def __init__(self, seed, *, dtype=torch.float32, device="cpu"):
        torch.manual_seed(seed)
        self.model = nn.Linear(2, 1, dtype=dtype)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.modules, self.optimizers = {"model": self.model}, [self.optimizer]

    def batches(self):
        generator = torch.Generator().manual_seed(0)
        while True:
            yield torch.randn(3, 2, generator=generator).to(self.model.weight.dtype)


class First(Loop):
    def step(self, batch):
        self.optimizer.zero_grad()
        loss = self.model(batch).square().sum()
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss)}


class Second(Loop):
    def step(self, batch):
        loss = self.model(batch).square().sum()
        loss.backward()
        self.optimizer.step()
        return {"loss": float(loss)}
"""


def test_suspect_finds_where_a_call_is_missing_that_another_stage_makes(load: Loaded):
    """Gradients that nobody clears: the call of the first stage, before a statement of the second, helps."""
    module = load(LOOPS)
    stages = [gradgate.Stage("first", start=module.First), gradgate.Stage("second", start=module.Second)]
    subject = gradgate.Subject("s", stages=stages, source=Path(str(module.__file__)).parent)
    found = suspect(subject, "GG206", "second", told="the gradient of the step before is still there", seconds=60.0)
    assert found is not None
    assert (found.place.function, found.variant.operator) == ("step", "insert-call")
    assert LOOPS.splitlines().index("class Second(Loop):") < found.place.line
    assert found.variant.after.startswith("self.optimizer.zero_grad()\n")


@pytest.mark.parametrize(
    ("code", "line", "unsure"), [("GG201", 3, True), ("GG101", 3, False), ("GG101", None, True), ("GG401", None, True)]
)
def test_a_line_that_is_a_guess_is_looked_for(code: str, line: int | None, unsure: bool):
    """Where a gradient ends may be the place that suffers; a write that was seen is the place that did it."""
    place = None if line is None else Location("f.py", line)
    finding = Finding(code, "n", "m", culprit=place)
    assert locate.is_unsure(Result(code, "n", "failed", findings=(finding,))) is unsure
    assert not locate.is_unsure(Result(code, "n", "passed"))


def test_a_change_that_ends_the_training_is_no_repair(load: Loaded):
    """Without a backward no gradient is wrong; what moved before has to move still, and what passed has to pass."""
    module = load(LOOPS)
    stages = [gradgate.Stage("first", start=module.First)]
    asked = Asked(
        gradgate.Subject("s", stages=stages, source=Path(str(module.__file__)).parent), "GG410", "first", 0, None
    )
    before = asked.sound(60.0)
    assert before.trained == {"model.weight", "model.bias"}
    assert ("GG206", "first") in before.checks
    tree = ast.parse(LOOPS)
    path, node = next((path, node) for path, node in functions(tree) if path == ("First", "step"))
    for gone, sound in (("loss.backward()", False), ("self.optimizer.zero_grad()", False), ("return nothing", True)):
        line = 1 + next((i for i, text in enumerate(LOOPS.splitlines()) if text.strip() == gone), 0)
        variant = operators.Variant("skip-statement", line, gone, "")
        with exchange.exchanged(exchange.Trial(inspect.unwrap(module.First.step), variant, node, path)) as done:
            assert done is (not sound)
            assert asked.is_as_sound(before, 60.0) is sound

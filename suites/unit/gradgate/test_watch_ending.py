"""What is said when a backward or a block is over: where NaN began, what was cut, what was thrown away."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgate.core.finding import Finding
from gradgate.watch import ending
from gradgate.watch.catalogue import described, make
from gradgate.watch.flow import cut_finding
from gradgate.watch.gradients import Dropped, Pass
from gradgate.watch.numerics import Birth
from gradgate.watch.places import Place, location
from gradgate.watch.recorder import Recorder
from gradgate.watch.slopes import Sick
from gradgate.watch.updates import STALE

NAN, INF = float("nan"), float("inf")
FIRST, SECOND, THIRD = ((ending.settle.__code__, line) for line in (1, 2, 3))


def birth(what: str, place: Place | None = FIRST, op: str = "log", **more: Any) -> Birth:
    given = {"operands": SECOND, "ranges": "[0, 1]", "cause": None, "dtype": torch.float32, **more}
    return Birth(what, place, op, **given)


def forward(born: Birth | None, root: float = NAN) -> Finding:
    """What is said of a loss whose first birth is known."""
    recorder = Recorder()
    recorder.numerics.first = born
    return ending.not_finite_forward(recorder, torch.tensor(root))


OVERFLOW = birth("overflow", SECOND, "exp", operands=THIRD, ranges="[1, 900]")


@pytest.mark.parametrize(
    ("born", "finding"),
    [
        (birth("nan"),
         make("nan_forward", "the loss is NaN: it was born in log() of operands in [0, 1]", culprit=FIRST,
              victim=SECOND, op="log", confirmed=True)),
        (birth("nan", ranges=""),
         make("nan_forward", "the loss is NaN: it was born in log()", culprit=FIRST, victim=SECOND, op="log",
              confirmed=True)),
        (birth("given", ranges="", operands=None),
         make("nan_forward", "the loss is NaN: it came with the data", culprit=FIRST, op="log", confirmed=True)),
        (OVERFLOW,
         make("dtype_overflow", "the loss is NaN: it was born in exp() of operands in [1, 900]", culprit=SECOND,
              victim=THIRD, op="exp", confirmed=True)),
        (birth("nan", cause=OVERFLOW),
         make("dtype_overflow", "the loss is NaN: it overflowed in exp() of operands in [1, 900]", culprit=SECOND,
              victim=THIRD, op="exp", confirmed=True)),
        (birth("nan", cause=replace(OVERFLOW, op="full_like")),
         make("dtype_overflow", "the loss is NaN: it was born in log() of operands in [0, 1]", culprit=FIRST,
              victim=SECOND, op="log", confirmed=True)),
        (birth("nan", cause=birth("pole", THIRD, "div")),
         make("nan_forward", "the loss is NaN: it was born in log() of operands in [0, 1]", culprit=FIRST,
              victim=THIRD, op="log", confirmed=True)),
        (birth("nan", cause=birth("pole", FIRST, "div")),
         make("nan_forward", "the loss is NaN: it was born in log() of operands in [0, 1]", culprit=FIRST,
              victim=SECOND, op="log", confirmed=True)),
    ],
    ids=["nan", "no ranges", "data", "overflow", "caused by one", "by a constant", "by a pole", "on the same line"],
)  # fmt: skip
def test_loss_that_is_not_finite_is_told_from_its_birth(born: Birth, finding: Finding):
    """A computed number that overflowed is the culprit itself; a constant does harm where it is used."""
    assert forward(born) == finding


def test_loss_is_told_from_its_own_birth_before_any_other():
    """The first birth of the run is not always behind this loss; Inf is not called NaN."""
    recorder = Recorder()
    root = torch.tensor([INF, 1.0])
    recorder.numerics.first = birth("nan", THIRD)
    own = birth("pole", FIRST)
    recorder.numerics._births[root.untyped_storage()._cdata] = (None, own)  # type: ignore[assignment]
    found = ending.not_finite_forward(recorder, root)
    assert (found.culprit, found.message) == (
        location(FIRST), "the loss is Inf: it was born in log() of operands in [0, 1]"
    )  # fmt: skip


def test_loss_without_a_birth_is_told_from_what_the_graph_saved():
    """The first saved tensor with NaN: not one of integers, not an empty one, not a finite one, not an infinite one."""
    recorder = Recorder()
    sick = torch.tensor([[1.0, NAN]])
    others = [torch.tensor([1]), torch.ones(0), torch.ones(1), torch.tensor([INF])]
    kept = [recorder.shelf.keep(tensor, 2 * seq) for seq, tensor in enumerate([*others, sick, sick.clone()])]
    recorder.lines.set(8, FIRST)
    recorder.lines.set(10, SECOND)
    assert ending.not_finite_forward(recorder, torch.tensor(NAN)) == make(
        "nan_forward", "the loss is NaN: the first tensor that the graph saved with NaN is here", culprit=FIRST,
        tensor=described(sick), confirmed=True,
    )  # fmt: skip
    assert len(kept) == 6


def test_loss_that_nothing_explains_is_told_all_the_same():
    """No birth, nothing saved."""
    for root, what in ((NAN, "NaN"), (INF, "Inf")):
        message = f"the loss is {what}, and nothing that the graph holds says why"
        assert forward(None, root) == make("nan_forward", message, confirmed=True)


def test_gradient_that_is_not_finite_is_told_without_a_node():
    """Nobody was looking: the next backward is looked into."""
    recorder = Recorder()
    assert ending.not_finite_backward(recorder, None, FIRST) == make(
        "nan_backward", "the loss is finite, a gradient is NaN or Inf", victim=FIRST, confirmed=True
    )
    assert recorder.numerics.alarmed is True


@pytest.mark.parametrize(("name", "rule"), [("Sqrt", ("GG307", "unsafe-function")), ("Mul", ("", ""))])
def test_gradient_that_is_not_finite_is_told_from_its_node(name: str, rule: tuple[str, str]):
    """The node's line, and the line that made its operand; functions with a steep edge have a rule of their own."""
    recorder = Recorder()
    operand = torch.ones(1, requires_grad=True).exp()
    same = operand * 2
    recorder.lines.set(operand.grad_fn._sequence_nr(), SECOND)
    recorder.lines.set(same.grad_fn._sequence_nr(), FIRST)
    recorder.lines.set(-5, FIRST)
    found = ending.not_finite_backward(recorder, Sick(name, -5, same.grad_fn), THIRD)
    assert found == make(
        "nan_backward", f"the loss is finite, the derivative of {name} is not", culprit=FIRST, victim=SECOND,
        op=name, confirmed=True, code=rule[0], name=rule[1],
    )  # fmt: skip
    assert recorder.numerics.alarmed is False


def test_loss_without_a_graph_is_cut_where_its_value_lost_it():
    """The first cut of the first root that has one; the victim is the line that made the loss."""
    recorder = Recorder()
    plain, root = torch.ones(1), torch.ones(1)
    early = recorder.flow.cut(FIRST, "detach", "detach", None, 1)
    late = recorder.flow.cut(SECOND, "detach", "detach", None, 2)
    recorder.flow.taint(root, (late, early), THIRD)
    assert ending.no_history(recorder, [plain, root], None) == cut_finding(late, "the loss has no graph", THIRD)
    assert ending.no_history(recorder, [root], None).victim == location(THIRD)


@pytest.mark.parametrize(
    ("reasons", "named"),
    [(("number", "number"), 1), (("numpy",), 0), (("numpy", "number"), 1), (("number", "numpy"), 0)],
)
def test_loss_without_a_graph_came_back_from_python(reasons: tuple[str, ...], named: int):
    """The last number that left, else the last array."""
    recorder = Recorder()
    cuts = [recorder.flow.cut((FIRST[0], line), reason, "item", None, 1) for line, reason in enumerate(reasons, 1)]
    found = ending.no_history(recorder, [torch.ones(1)], SECOND)
    assert found == cut_finding(cuts[named], "the loss has no graph", None)


def test_loss_without_a_graph_was_made_with_gradients_switched_off():
    """And never on again; where they are on, the line that switched them off is not to blame."""
    recorder = Recorder()
    root = torch.ones(1)
    recorder.flow.taint(root, (), THIRD)
    recorder.disabled_at = FIRST
    with torch.no_grad():
        found = ending.no_history(recorder, [root], SECOND)
    assert found == make(
        "graph_cut", "the loss has no graph: gradients were switched off and never on again", culprit=FIRST,
        victim=THIRD, confirmed=True,
    )  # fmt: skip
    message = "the loss does not depend on anything that requires grad"
    assert ending.no_history(recorder, [root], None) == make("graph_cut", message, confirmed=True)
    recorder.disabled_at = None
    with torch.no_grad():
        assert ending.no_history(recorder, [root], None).message == message


@pytest.mark.parametrize(("frozen", "culprit", "victim"), [(0, 3, None), (1, 1, 3), (2, 3, None)])
def test_loss_without_a_graph_may_have_been_frozen(tmp_path: Path, frozen: int, culprit: int, victim: int | None):
    """By the only line of the file that takes `requires_grad` away; of several nobody knows which."""
    lines = ["model.requires_grad_(False)"] * frozen + ["pass"] * (2 - frozen) + ["loss.backward()"]
    file = tmp_path / "train.py"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    place = (compile(file.read_text(encoding="utf-8"), str(file), "exec"), 3)
    found = ending.no_history(Recorder(), [torch.ones(1)], place)
    assert (found.kind, found.confirmed) == ("graph_cut", True)
    assert found.message == "the loss does not depend on anything that requires grad"
    assert [place and place.line for place in (found.culprit, found.victim)] == [culprit, victim]


def zeroed(recorder: Recorder, used_at: int, gradient: float | None = 0.0, *, had: bool = True) -> Tensor:
    """A leaf that was used at an operation and got a gradient."""
    leaf = torch.ones(2, requires_grad=True)
    leaf.grad = None if gradient is None else torch.tensor([0.0, gradient])
    recorder.gradients.meet(leaf, used_at)
    recorder.gradients.leaves[id(leaf)].had = had
    return leaf


def test_soft_cut_is_told_where_gradients_are_zero_behind_a_step_function():
    """How many parameters; the first such cut alone."""
    recorder = Recorder()
    recorder.flow.cut(FIRST, "detach", "detach", None, 9)
    cut = recorder.flow.cut(SECOND, "zero slope", "round", None, 5)
    recorder.flow.cut(THIRD, "zero slope", "sign", None, 6)
    kept = [zeroed(recorder, used) for used in (0, 5, 6, -1)] + [zeroed(recorder, 3, 1.0), zeroed(recorder, 3, None)]
    kept += [zeroed(recorder, 3, had=False)]
    ending.soft_cuts(recorder)
    assert recorder.ledger.since(0) == [cut_finding(cut, "2 parameter(s) get exactly zero as gradient", None)]
    assert len(kept) == 7


def test_soft_cut_goes_on_to_one_with_dead_parameters():
    """The first may have none before it."""
    recorder = Recorder()
    recorder.flow.cut(FIRST, "zero slope", "round", None, 1)
    late = recorder.flow.cut(SECOND, "zero slope", "round", None, 5)
    kept = zeroed(recorder, 3)
    gone = zeroed(recorder, 3)
    del gone
    ending.soft_cuts(recorder)
    assert recorder.ledger.since(0) == [cut_finding(late, "1 parameter(s) get exactly zero as gradient", None)]
    assert kept.is_leaf


def test_soft_cut_is_none_where_gradients_come_through():
    """Or where nobody cut."""
    recorder = Recorder()
    kept = [zeroed(recorder, 1)]
    ending.soft_cuts(recorder)
    recorder.flow.cut(SECOND, "zero slope", "round", None, 0)
    kept += [zeroed(recorder, 0, 1.0)]
    ending.soft_cuts(recorder)
    assert (recorder.ledger.since(0), len(kept)) == ([], 2)


def settled(recorder: Recorder, *subjects: Any) -> list[Finding]:
    ending.settle(recorder, subjects)
    return recorder.ledger.since(0)


def test_end_tells_gradients_that_were_thrown_away():
    """A warning, with the line of the clearing and that of the backward."""
    recorder = Recorder()
    recorder.gradients.steps = [{3}]
    recorder.gradients.dropped = [Dropped(3, FIRST, Pass(1, SECOND, 0))]
    assert settled(recorder) == [
        make("stale_grad", "gradients are cleared before any update has used them", culprit=FIRST, victim=SECOND,
             severity="warning")
    ]  # fmt: skip


def test_end_tells_updates_by_hand_with_sums():
    """The backward that added."""
    recorder = Recorder()
    recorder.gradients._by_hand = [(3, Pass(2, FIRST, 0))]
    assert settled(recorder) == [make("stale_grad", STALE, culprit=FIRST)]


def test_end_asks_who_did_not_train_only_after_a_backward():
    """A block that evaluates is no fault."""
    for passes, kinds in ((0, []), (1, ["missing_grad"])):
        recorder = Recorder()
        recorder.gradients.passes = passes
        assert [finding.kind for finding in settled(recorder, nn.Linear(1, 1, bias=False))] == kinds


def test_end_tells_cuts_that_a_loss_went_through():
    """As a warning; none where a graver one is told already, or no loss was reached."""
    recorder = Recorder()
    recorder.flow.cut(FIRST, "torch.tensor", "tensor", None, 1)
    cuts = [recorder.flow.cut(place, "torch.tensor", "tensor", None, 2) for place in (SECOND, THIRD)]
    assert settled(recorder) == []
    for cut in cuts:
        cut.reached = True
    assert settled(recorder) == [cut_finding(cuts[0], "part of the loss trains nothing", None, "warning")]
    recorder = Recorder()
    recorder.flow.cut(FIRST, "torch.tensor", "tensor", None, 1).reached = True
    told = make("graph_cut", "told already", culprit=THIRD)
    recorder.ledger.add(told)
    assert settled(recorder) == [told]


def test_end_tells_graphs_that_outlived_their_step():
    """Whatever the look at them finds."""
    recorder = Recorder()
    kept: list[Tensor] = []
    leaf = torch.ones(2, requires_grad=True)
    for _ in range(8):
        kept.append((leaf * 2).sum())
        recorder.rounds.ran(FIRST)
    assert [finding.kind for finding in settled(recorder)] == ["other"]

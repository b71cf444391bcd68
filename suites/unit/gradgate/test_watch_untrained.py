"""Who should have trained and did not: decided from the books at the end of a block."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgate.core.finding import Finding
from gradgate.watch import untrained
from gradgate.watch.catalogue import described, make
from gradgate.watch.flow import cut_finding
from gradgate.watch.places import Place, location
from gradgate.watch.recorder import Recorder
from gradgate.watch.registered import Made


def lines(number: Any, scale: Any) -> None:
    """Lines to be named; nobody runs them."""
    left = number.item()
    back = scale * left
    del back


CODE = lines.__code__
NUMBER, READER, OTHER = ((CODE, CODE.co_firstlineno + line) for line in (2, 3, 4))


class Net(nn.Module):
    """A trunk of two layers, and a head that may be unused."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.head = nn.Linear(2, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def reset(self) -> None:
        """Make the scale anew."""
        self.scale = nn.Parameter(torch.zeros(1))


class Hidden(nn.Module):
    """A layer whose parameters `parameters()` does not see."""

    def __init__(self, held: Any) -> None:
        super().__init__()
        self.held = held
        self._own = held
        self.seen = nn.Linear(1, 1)

    def again(self, held: Any) -> None:
        """Hold something else."""
        self.held = [held]


def trained(recorder: Recorder, *tensors: Tensor) -> None:
    """Leaves that got a gradient."""
    for tensor in tensors:
        recorder.gradients.meet(tensor, 0)
        recorder.gradients.leaves[id(tensor)].had = True


def stepped(recorder: Recorder, *tensors: Tensor) -> None:
    """An update of leaves."""
    recorder.gradients.steps.append({id(tensor) for tensor in tensors})


def found(recorder: Recorder) -> list[Finding]:
    return recorder.ledger.since(0)


def told(recorder: Recorder, *subjects: Any) -> list[tuple[str, str, str]]:
    """Severity, message and the culprit's source of what is said of dead parameters."""
    untrained.dead_parameters(recorder, subjects)
    return [(one.severity, one.message, one.culprit.source if one.culprit else "") for one in found(recorder)]


def dead(name: str, severity: str = "note", source: str = "") -> tuple[str, str, str]:
    return severity, f"{name} gets no gradient in any backward of the block", source


def test_dead_parameters_are_told_by_the_largest_layer_that_is_dead_as_a_whole():
    """With the line that assigns it; a note where no optimizer has it."""
    recorder, model = Recorder(), Net()
    trained(recorder, *model.head.parameters())
    assert sorted(told(recorder, model)) == [
        dead("`scale`", source="self.scale = nn.Parameter(torch.ones(1))"),
        dead("`trunk`", source="self.trunk = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))"),
    ]


def test_dead_parameters_are_told_by_their_path_where_a_part_of_a_layer_trains():
    """Frozen ones do not count; the line is that of the innermost owner whose source is the user's."""
    recorder, model = Recorder(), Net()
    trained(recorder, *model.trunk[0].parameters(), *model.head.parameters(), model.scale)
    model.trunk[1].bias.requires_grad_(False)
    assert told(recorder, model) == [
        dead("`trunk.1`", source="self.trunk = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))")
    ]
    assert found(recorder)[0].tensor == described(model.trunk[1].weight)
    recorder = Recorder()
    trained(recorder, *model.trunk[0].parameters(), model.head.bias, model.scale)
    assert [message for _, message, _ in told(recorder, model)] == [dead("`trunk.1`")[1], dead("`head.weight`")[1]]


def test_dead_parameters_are_none_where_all_train():
    """Frozen ones are not expected to, results are no leaves, and a hook may have taken the gradient away."""
    recorder, model = Recorder(), Net()
    trained(recorder, *model.trunk.parameters(), *model.head.parameters())
    model.scale.register_post_accumulate_grad_hook(lambda _: None)
    assert told(recorder, model, model.scale * 2) == []


def test_dead_parameters_are_errors_where_somebody_expects_them_to_train():
    """An optimizer steps with one of them, or the tensor itself was handed over."""
    recorder, model = Recorder(), Net()
    trained(recorder, *model.trunk.parameters())
    stepped(recorder, model.head.bias, *model.trunk.parameters())
    assert [severity for severity, _, _ in told(recorder, model)] == ["error", "note"]
    recorder = Recorder()
    assert told(recorder, torch.ones(2, 3, requires_grad=True)) == [dead("a tensor of shape (2, 3)", "error")]


def test_dead_parameters_are_looked_for_among_what_an_optimizer_starved():
    """It was never handed over; where it was registered in the block it has a name and a line."""
    recorder, weight, other = Recorder(), nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    recorder.updates.starved = {id(weight): weight, id(other): other}
    for tensor in (weight, other):
        recorder.registered.made[id(tensor)] = Made(weakref.ref(tensor), NUMBER, "Layer.weight")
    stepped(recorder, other)
    assert told(recorder) == [dead("`Layer.weight`", "error", "left = number.item()")]
    recorder = Recorder()
    recorder.updates.starved = {id(weight): weight}
    recorder.registered.made[id(weight)] = Made(weakref.ref(other), NUMBER, "Layer.weight")
    assert told(recorder) == [dead("`Layer.weight`")]


def test_dead_parameter_of_a_layer_without_source_is_told_by_the_line_that_made_it():
    """A layer of PyTorch's own has no source of the user's."""
    recorder, model = Recorder(), nn.Sequential(nn.Linear(1, 1, bias=False))
    recorder.registered.made[id(model[0].weight)] = Made(weakref.ref(model[0].weight), NUMBER, "Linear.weight")
    assert told(recorder, model) == [dead("`0`", source="left = number.item()")]


class Outer(nn.Module):
    """Holds a network, and makes a layer later than others do."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def build(self) -> None:
        """Make a layer."""
        self.late = nn.Linear(1, 1)

    def rebuild(self) -> None:
        """Make it anew."""
        self.late = nn.Linear(2, 2)


def test_dead_parameter_is_told_by_the_line_of_its_own_module():
    """However deep that lies."""
    recorder, net = Recorder(), Net()
    trained(recorder, *net.trunk.parameters(), *net.head.parameters())
    expected = [dead("`net.net.scale`", source="self.scale = nn.Parameter(torch.ones(1))")]
    assert told(recorder, Outer(Outer(net))) == expected


def test_dead_parameter_made_outside_of_init_is_told_by_the_first_line_that_makes_it():
    """There is none in `__init__`."""
    recorder, model = Recorder(), Outer(nn.Identity())
    model.build()
    assert told(recorder, model) == [dead("`late`", source="self.late = nn.Linear(1, 1)")]


def test_dead_parameter_of_two_layers_is_told_once():
    """Tied weights, by the first."""
    recorder, model = Recorder(), nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    model[1].weight = model[0].weight
    assert told(recorder, model) == [dead("`0`")]


def used(recorder: Recorder, tensor: Tensor, index: int) -> Tensor:
    recorder.gradients.meet(tensor, index)
    return tensor


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize(("reason", "severity"), [("detach", "note"), ("no_grad", "note"), ("number", "error")])
def test_dead_parameter_behind_a_cut_is_told_by_the_cut(reason: str, severity: Any, joined: bool):
    """Written on purpose it is a note, unless an optimizer steps with the parameter."""
    recorder, weight = Recorder(), torch.ones(2, requires_grad=True).detach().requires_grad_()
    model = nn.ParameterList([nn.Parameter(weight)])
    used(recorder, model[0], 5)
    cut = recorder.flow.cut(NUMBER, reason, "op", OTHER, 6)
    cut.joined = joined
    untrained.dead_parameters(recorder, [model])
    if joined:
        assert found(recorder) == [cut_finding(cut, "a parameter gets no gradient", None, severity)]
        stepped(recorder, model[0])
        untrained.dead_parameters(recorder, [model])
        assert found(recorder)[0].severity == "error"
    else:
        assert found(recorder)[0].kind == "missing_grad"


def test_cut_is_the_first_one_after_the_use():
    """One that began before the use counts last, one that ended before it does not count."""
    recorder = Recorder()
    tensor = used(recorder, torch.ones(1, requires_grad=True), 5)
    ended = recorder.flow.cut((CODE, 1), "detach", "a", None, 4)
    began = recorder.flow.cut((CODE, 2), "detach", "b", None, 3)
    began.last = 5
    late, first = (recorder.flow.cut((CODE, 2 + at), "detach", "c", None, at) for at in (9, 5))
    for cut in (ended, began, late, first):
        cut.joined = True
    assert untrained._cut_of(recorder, tensor) is first
    first.joined = False
    assert untrained._cut_of(recorder, tensor) is late
    late.joined = False
    assert untrained._cut_of(recorder, tensor) is began
    began.joined = False
    assert untrained._cut_of(recorder, tensor) is None


def test_cut_is_of_a_parameter_that_an_operation_used():
    """One that was only handed over, or never met, went nowhere; the operation 0 is one."""
    recorder = Recorder()
    recorder.flow.cut(NUMBER, "detach", "a", None, 7).joined = True
    handed, unknown = used(recorder, torch.ones(1, requires_grad=True), -1), torch.ones(1, requires_grad=True)
    assert untrained._cut_of(recorder, handed) is None
    assert untrained._cut_of(recorder, unknown) is None
    assert untrained._cut_of(recorder, used(recorder, torch.ones(1, requires_grad=True), 0)) is not None


@pytest.mark.parametrize(
    ("reason", "place", "maker", "back"),
    [
        ("number", NUMBER, READER, True),
        ("number", NUMBER, NUMBER, True),
        ("number", NUMBER, OTHER, False),
        ("number", NUMBER, (used.__code__, NUMBER[1]), False),
        ("number", NUMBER, None, False),
        ("number", None, READER, False),
        ("numpy", NUMBER, READER, False),
    ],
)
def test_number_came_back_where_a_node_was_made_of_it(reason: str, place: Place | None, maker: Any, back: bool):
    """On a line of the same function that names it, or on the very line that took it out."""
    recorder = Recorder()
    tensor = used(recorder, torch.ones(1, requires_grad=True), 1)
    cut = recorder.flow.cut(place, reason, "item", None, 2)
    recorder.lines.set(3, None)
    recorder.lines.set(4, maker)
    assert untrained._came_back(recorder, cut) is back
    assert (untrained._cut_of(recorder, tensor) is cut) is back


def test_parameter_made_after_the_optimizer_is_told():
    """It gets gradients, what it replaced is updated."""
    recorder, model = Recorder(), Net()
    old = model.scale
    model.reset()
    kept = [*model.trunk.parameters(), *model.head.parameters()]
    trained(recorder, model.scale, *kept)
    recorder.registered.made[id(model.scale)] = Made(weakref.ref(model.scale), NUMBER, "Net.scale")
    recorder.updates.starved = {id(old): old}
    stepped(recorder, old, *kept)
    untrained.dead_parameters(recorder, [model])
    assert found(recorder) == [
        make(
            "missing_grad", "`scale` was made after the optimizer, which still updates what it replaced",
            culprit=NUMBER, tensor=described(model.scale),
            fix="build the optimizer last, from the parameters that the model has then",
        )
    ]  # fmt: skip


@pytest.mark.parametrize("spoil", ["before the block", "another", "stepped", "dead"])
def test_parameter_is_no_replacement_where_it_is_updated_or_idle(spoil: str):
    """Or was there before the block, or only its address was used before."""
    recorder, model = Recorder(), Net()
    trained(recorder, *(() if spoil == "dead" else (model.head.bias, model.scale)))
    for parameter in (model.head.bias, model.scale):
        kept = torch.ones(1) if spoil == "another" else parameter
        if spoil != "before the block":
            recorder.registered.made[id(parameter)] = Made(weakref.ref(kept), NUMBER, "Net.scale")
    stepping = {id(model.head.bias), id(model.scale)} if spoil == "stepped" else set()
    assert untrained._replaced(recorder, [torch.ones(1), model], stepping) is None


def test_replacement_is_found_behind_parameters_that_are_none():
    """Each reason to pass over one leaves the next."""
    recorder, model = Recorder(), Net()
    first, second, third, last = [*model.trunk[0].parameters(), *model.trunk[1].parameters()]
    gone = torch.ones(1)
    for parameter, made in ((second, gone), (third, third), (last, last)):
        recorder.registered.made[id(parameter)] = Made(weakref.ref(made), NUMBER, "Net.x")
    trained(recorder, first, second, last)
    replaced = untrained._replaced(recorder, [model], set())
    assert replaced is not None
    assert replaced.message.startswith("`trunk.1.bias` was made")
    assert untrained._replaced(recorder, [torch.ones(1)], set()) is None


class Loop:
    """Holds a model, as a training loop does."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model


def test_optimizer_of_another_copy_is_told():
    """A module gets gradients, and tensors of the same shapes that belong to no module are updated."""
    recorder, model = Recorder(), Net()
    holder = Loop(model)
    copies = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    trained(recorder, *model.parameters())
    stepped(recorder, *copies)
    recorder.updates.starved = {id(copy): copy for copy in copies}
    untrained.dead_parameters(recorder, [model])
    (one,) = found(recorder)
    assert replace(one, culprit=None) == make(
        "missing_grad", "`Net` gets gradients, and the optimizer updates other tensors of the same shapes",
        tensor=described(next(iter(model.parameters()))),
        fix="build the optimizer from the parameters of the module that is trained",
    )  # fmt: skip
    assert one.culprit is not None
    assert (one.culprit.source, holder.model is model) == ("self.model = model", True)


@pytest.mark.parametrize("spoil", ["shape", "idle", "own", "in a module", "not updated"])
def test_optimizer_is_of_the_module_where_shapes_or_owners_differ(spoil: str):
    """Another shape, a module without gradients, an update of its own, another module's parameters, no update."""
    recorder, model = Recorder(), nn.Linear(2, 2)
    shapes = [(2, 2), (3,)] if spoil == "shape" else [(2, 2), (2,)]
    copies = [torch.ones(shape, requires_grad=True) for shape in shapes]
    subjects: list[Any] = [copies[0], model]
    if spoil == "in a module":
        subjects.append(nn.ParameterList([nn.Parameter(copy) for copy in copies]))
        copies = list(subjects[-1].parameters())
    trained(recorder, *([] if spoil == "idle" else model.parameters()))
    stepped(recorder, *([] if spoil == "not updated" else copies))
    if spoil == "own":
        stepped(recorder, model.bias)
    assert untrained._copied(recorder, subjects, copies) is None


def test_optimizer_of_another_copy_is_found_behind_modules_that_train():
    """The next module is looked at as well; shapes that the optimizer has beyond the module's do not matter."""
    recorder, idle, model = Recorder(), nn.Linear(5, 5), nn.Linear(2, 2)
    copies = [torch.ones(shape, requires_grad=True) for shape in ((2, 2), (2,), (7,))]
    trained(recorder, *model.parameters())
    stepped(recorder, *copies)
    copied = untrained._copied(recorder, [idle, model], copies)
    assert copied is not None
    assert (copied.message.split()[0], copied.tensor) == ("`Linear`", described(model.weight))
    assert copied.fix == "build the optimizer from the parameters of the module that is trained"
    assert copied.message == "`Linear` gets gradients, and the optimizer updates other tensors of the same shapes"


def hidden(recorder: Recorder, *subjects: Any) -> list[Finding]:
    untrained.unregistered(recorder, subjects)
    return found(recorder)


@pytest.mark.parametrize("form", [list, tuple, lambda parts: dict(enumerate(parts))], ids=["list", "tuple", "dict"])
def test_layers_in_a_plain_container_are_told(form: Any):
    """How many parameters they have; the line of `__init__` that assigns the container."""
    layer, weight = nn.Linear(1, 1), nn.Parameter(torch.ones(3))
    recorder, model = Recorder(), Hidden(form([layer, weight, "text"]))
    trained(recorder, layer.bias)
    (one,) = hidden(recorder, nn.Linear(1, 1), model)
    assert one.message == "`Hidden.held` holds 3 parameter(s) hidden from `parameters()`"
    assert one.fix == ("hold `held` in nn.ModuleList, nn.ModuleDict or nn.ParameterList, before the optimizer is built")
    assert (one.kind, one.severity, one.tensor) == ("missing_grad", "error", described(weight))
    assert one.culprit is not None
    assert one.culprit.source == "self.held = held"


def test_layers_in_a_plain_container_are_no_fault_where_they_do_not_train():
    """No gradient, an optimizer of their own, registered elsewhere as well, or frozen."""
    for spoil in ("idle", "stepped", "registered", "frozen"):
        layer = nn.Linear(1, 1)
        recorder, model = Recorder(), Hidden([layer])
        trained(recorder, *(() if spoil == "idle" else layer.parameters()))
        stepped(recorder, *(layer.parameters() if spoil == "stepped" else ()))
        if spoil == "registered":
            model.add_module("also", layer)
        layer.requires_grad_(spoil != "frozen")
        assert hidden(recorder, model) == [], spoil


def test_layers_in_a_container_without_a_line_are_told():
    """A class whose source is not the user's."""
    layer, model, recorder = nn.Linear(1, 1), nn.Module(), Recorder()
    model.held = [layer]
    trained(recorder, layer.bias)
    assert [(one.message.split()[0], one.culprit) for one in hidden(recorder, model)] == [("`Module.held`", None)]


def test_plain_tensor_that_got_a_gradient_is_told():
    """Where an optimizer updates others and nobody has it."""
    recorder, tensor = Recorder(), torch.ones(2, requires_grad=True)
    model = Hidden(tensor)
    trained(recorder, tensor)
    assert hidden(recorder, model) == []
    stepped(recorder, *model.seen.parameters())
    (one,) = hidden(recorder, model)
    assert one.message == "`Hidden.held` holds 1 parameter(s) hidden from `parameters()`"
    assert one.fix == "hold `held` in nn.Parameter, before the optimizer is built"
    assert one.tensor == described(tensor)


@pytest.mark.parametrize("spoil", ["no leaf", "frozen", "stepped", "idle"])
def test_plain_tensor_is_no_fault_where_it_need_not_train(spoil: str):
    """A result, a frozen one, one that is updated, one without a gradient."""
    recorder, tensor = Recorder(), torch.ones(2, requires_grad=spoil != "frozen")
    if spoil == "no leaf":
        tensor = tensor * 2
        tensor.retain_grad()
    if spoil != "idle":
        trained(recorder, tensor)
    model = Hidden(tensor)
    stepped(recorder, *(tensor,) if spoil == "stepped" else model.seen.parameters())
    assert hidden(recorder, model) == []


def test_hidden_layers_of_inner_modules_are_told_by_their_owner():
    """And private attributes are left alone: those of nn.Module itself are among them."""
    layer = nn.Linear(1, 1)
    recorder, model = Recorder(), nn.Sequential(Hidden([layer]))
    trained(recorder, layer.bias)
    assert [one.message.split()[0] for one in hidden(recorder, model)] == ["`Hidden.held`"]


def uncovered(recorder: Recorder, *subjects: Any) -> list[Finding]:
    untrained.uncovered(recorder, subjects)
    return found(recorder)


def test_parameters_that_no_optimizer_has_are_told_beside_those_that_one_updates():
    """A warning at the line that built the optimizer, else at the line that assigns the layer."""
    recorder, model = Recorder(), Net()
    trained(recorder, *model.parameters())
    stepped(recorder, *model.trunk.parameters())
    model.scale.requires_grad_(False)
    recorder.updates.built_at = [({id(model)}, READER)]
    (one,) = uncovered(recorder, nn.Linear(1, 1), model)
    assert (one.message, one.severity) == ("`head` gets gradients, and no optimizer updates it", "warning")
    assert (one.kind, one.tensor) == ("missing_grad", described(model.head.weight))
    assert one.culprit is not None
    assert one.culprit.source == "self.head = nn.Linear(2, 1)"
    recorder.updates.built_at += [({id(model.head.bias)}, NUMBER), ({id(model.trunk[0].bias)}, OTHER)]
    recorder.ledger._found.clear()
    recorder.ledger._log.clear()
    assert [finding.culprit for finding in uncovered(recorder, model)] == [location(OTHER)]


def test_parameters_that_no_optimizer_has_are_told_by_the_line_that_made_them():
    """Where no class of the user's assigns the layer, and nobody saw the optimizer being built."""
    recorder, model = Recorder(), nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    recorder.registered.made[id(model[1].weight)] = Made(weakref.ref(model[1].weight), NUMBER, "Linear.weight")
    trained(recorder, *model.parameters())
    stepped(recorder, model[0].weight)
    assert [finding.culprit for finding in uncovered(recorder, model)] == [location(NUMBER)]


@pytest.mark.parametrize("spoil", ["idle", "handed over", "stepped", "nothing updated"])
def test_parameters_are_covered(spoil: str):
    """No gradient, an optimizer that was handed over has it, or updates it, or none updates any of the module."""
    recorder, model = Recorder(), Net()
    rest = [*model.trunk.parameters(), model.scale]
    trained(recorder, *rest, *(() if spoil == "idle" else model.head.parameters()))
    stepped(recorder, *([] if spoil == "nothing updated" else rest))
    if spoil == "stepped":
        stepped(recorder, *model.head.parameters())
    optimizer = torch.optim.SGD(model.head.parameters() if spoil == "handed over" else rest, lr=0.1)
    assert uncovered(recorder, model, optimizer) == []


def test_end_tells_hidden_layers_before_uncovered_ones():
    """One fault, one finding: the second is not told where the first is."""
    layer = nn.Linear(1, 1)
    for held, messages in (([layer], ["`Hidden.held` holds 2"]), ([], ["`seen.bias` gets gradients,"])):
        recorder, model = Recorder(), Hidden(held)
        trained(recorder, *layer.parameters(), *model.parameters())
        stepped(recorder, model.seen.weight)
        untrained.settle(recorder, [model])
        assert [one.message for one in found(recorder) if one.message.startswith(messages[0])] != []
        assert len(found(recorder)) == 1


def test_end_tells_dead_parameters():
    """Before all else."""
    recorder, model = Recorder(), Net()
    trained(recorder, *model.head.parameters(), *model.trunk.parameters())
    untrained.settle(recorder, [model])
    assert [one.message for one in found(recorder)] == [dead("`scale`")[1]]


def test_updates_of_long_ago_are_forgotten():
    """The last sixty-four are looked at."""
    recorder, weight = Recorder(), torch.ones(1)
    stepped(recorder, weight)
    for count in (64, 65):
        recorder.gradients.steps[1:] = [set()] * (count - 1)
        assert untrained._stepping(recorder) == ({id(weight)} if count == 64 else set())

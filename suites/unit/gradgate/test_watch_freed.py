"""A second backward through a freed graph: where the old graph begins, and who carried it over."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgate.core.finding import Location
from gradgate.watch import freed
from gradgate.watch.catalogue import described, make
from gradgate.watch.places import Place, location

_now = torch._C._autograd._get_sequence_nr


class Cell:
    """Carries its state from step to step, with its history."""

    def __init__(self) -> None:
        self.state = torch.zeros(2)

    def step(self, weight: Tensor) -> Tensor:
        """One step, and its loss."""
        self.state = torch.exp(self.state * weight)
        return self.state.sum()


def features(weight: Tensor) -> Tensor:
    """A value that has a name before it is returned."""
    made = torch.exp(weight)
    return made * weight


def at_once(weight: Tensor) -> Tensor:
    """A value that never had a name."""
    return torch.exp(weight)


def source(place: Location | None) -> str:
    return "" if place is None else place.source


def place_in(function: Any, line: int) -> Place:
    """A line of a function, from its `def`."""
    return function.__code__, function.__code__.co_firstlineno + line


AGAIN = place_in(source, 1)


def old_graph() -> tuple[Tensor, Tensor, int]:
    """A leaf, a result whose graph was freed, and the boundary."""
    weight = torch.ones(2, requires_grad=True)
    old = (weight.exp() * weight).sin()
    old.sum().backward()
    return weight, old, _now()


def test_walk_finds_where_new_nodes_lead_to_old_ones():
    """Each such pair, and the old nodes that lost what they saved; new nodes have lost nothing."""
    weight, old, boundary = old_graph()
    new = old * weight
    root = new.sum()
    bridges, lost = freed._walk([root, torch.ones(1), "text"], boundary)
    assert bridges == [(old.grad_fn, new.grad_fn)]
    product = old.grad_fn.next_functions[0][0]
    exponent = product.next_functions[0][0]
    assert lost == {node._sequence_nr() for node in (old.grad_fn, product, exponent)}


def test_walk_from_an_old_root_has_no_bridge():
    """The same loss, backward twice."""
    _, old, boundary = old_graph()
    bridges, lost = freed._walk([old], boundary)
    assert (bridges, len(lost)) == ([], 3)
    bridges, lost = freed._walk([old], old.grad_fn._sequence_nr())
    assert (len(bridges), len(lost)) == (1, 2)


def test_walk_goes_through_nodes_with_an_input_that_needs_no_gradient():
    """In any order of them."""
    _, old, boundary = old_graph()
    root = torch.ones(2) * (torch.ones(2) * old)
    bridges, lost = freed._walk([root], boundary)
    assert ([node for node, _ in bridges], len(lost)) == ([old.grad_fn], 3)


def test_node_is_freed_where_what_it_saved_is_gone():
    """Of PyTorch's own and of a custom Function; a node that saved nothing, or has it still, is not."""
    weight = torch.ones(2, requires_grad=True)
    for run in (torch.exp, Twice.apply):
        result = run(weight)
        assert not freed._is_freed(result.grad_fn)
        result.sum().backward()
        assert freed._is_freed(result.grad_fn)
    total = (weight + weight).sum()
    total.backward()
    assert not freed._is_freed(total.grad_fn.next_functions[0][0])


class Twice(torch.autograd.Function):
    """Saves its input."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        ctx.save_for_backward(value)
        return value * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * ctx.saved_tensors[0]


class Odd:
    """A node whose attributes cannot all be shown."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = dict(zip(("_saved_a", "_saved_b", "other"), errors, strict=False))

    def __dir__(self) -> list[str]:
        return list(self._errors)

    def __getattr__(self, name: str) -> Any:
        raise self._errors[name]


def test_node_is_not_freed_where_an_attribute_fails_otherwise():
    """It tells nothing, and the next may; an attribute that is not about saving is not asked."""
    gone = RuntimeError("they have already been freed")
    assert freed._is_freed(Odd(RuntimeError("no"), gone))
    assert freed._is_freed(Odd(ValueError("freed"), gone))
    assert not freed._is_freed(Odd(RuntimeError("no"), ValueError("freed"), gone))


def test_tensors_of_a_node_are_its_results_that_live():
    """Those that a program can hold."""
    weight = torch.ones(2, requires_grad=True)
    result = weight.exp()
    assert [tensor is result for tensor in freed._tensors_of(result.grad_fn)] == [True]
    node = torch.exp(result).sum().grad_fn
    assert freed._tensors_of(node) == []


def test_carrier_is_named_by_the_attribute_that_holds_it():
    """Where a step assigns it, before where it was made."""
    cell, weight = Cell(), torch.ones(2, requires_grad=True)
    cell.step(weight)
    assert source(freed._held_at(cell.state, None)) == "self.state = torch.exp(self.state * weight)"


def test_carrier_is_named_by_the_loop_that_hands_it_on():
    """A local name, of the tensor or of a container with it."""
    weight, state, places = torch.ones(2, requires_grad=True), torch.ones(2), []
    for _ in range(2):
        state = state * weight
        places.append(freed._held_at(state, None))
    assert [source(place) for place in places] == ["state = state * weight"] * 2
    kept: list[Tensor] = []
    for _ in range(1):
        kept.append(weight * 2)
        place = freed._held_at(kept[0], None)
    assert source(place) == "kept.append(weight * 2)"


def test_carrier_is_named_by_the_return_of_a_value_that_had_a_name():
    """It could have been detached there; a value returned at once, or made in the holding function, could not."""
    weight = torch.ones(2, requires_grad=True)
    held = features(weight)
    assert source(freed._held_at(held, place_in(features, 2))) == "return made * weight"
    assert freed._held_at(held, place_in(features, 3)) is None
    assert freed._held_at(held, place_in(at_once, 2)) is None
    assert freed._held_at(held, place_in(test_carrier_is_named_by_the_return_of_a_value_that_had_a_name, 2)) is None
    assert freed._held_at(held, place_in(features, 9)) is None
    assert freed._held_at(held, None) is None


def test_carrier_that_nobody_names_has_no_line():
    """A stranger's."""
    weight = torch.ones(2, requires_grad=True)
    place = freed._held_at(weight.exp(), place_in(features, 2))
    assert place is None


def outer_loop(weight: Tensor, ask: Any) -> Any:
    """A caller whose loop carries a state."""
    found, state = None, torch.ones(2)
    for _ in range(1):
        state = state * weight
        found = ask(state)
    return found


def test_carrier_is_looked_for_in_all_callers():
    """The innermost first."""
    weight = torch.ones(2, requires_grad=True)
    assert source(outer_loop(weight, lambda held: freed._held_at(held, None))) == "state = state * weight"
    assert source(outer_loop(weight, lambda _: freed._carried_by_loop())) == "state = state * weight"


def test_loop_carries_what_has_a_history():
    """A tensor or a list of them; not a constant, not a leaf, not outside of a loop."""
    weight = torch.ones(2, requires_grad=True)
    assert freed._carried_by_loop() is None
    count, constant, parts = 0, torch.ones(2), (weight, weight)
    for _ in range(2):
        count, constant = count + 1, constant * 2
        place = freed._carried_by_loop()
        assert source(place) == ("" if count == 1 else "parts = (constant, parts[1] * weight)")
        parts = (constant, parts[1] * weight)


@pytest.mark.parametrize(
    ("form", "holds"),
    [
        (lambda part: part, True),
        (lambda part: [1, part], True),
        (lambda part: (1, part), True),
        (lambda part: deque([1, part]), True),
        (lambda part: {"a": 1, "b": part}, True),
        (lambda part: [1, [2, part]], True),
        (lambda part: {"a": (part,)}, True),
        (lambda part: [[[part]]], False),
        (lambda part: {part}, False),
        (lambda part: [1, {"a": part}], False),
        (lambda part: 3, False),
        (lambda part: [], False),
    ],
)
def test_container_holds_a_tensor_two_levels_deep(form: Any, holds: bool):
    """By identity."""
    part = nn.Parameter(torch.ones(1))
    assert freed._holds(form(part), part) is holds
    assert not freed._holds(form(nn.Parameter(torch.ones(1))), part)


def test_frames_are_the_users_from_the_inside_out():
    """PyTorch's own between them are left out."""
    names: list[str] = []

    class Layer(nn.Module):
        def forward(self, value: Tensor) -> Tensor:
            names.extend(frame.f_code.co_name for frame in freed._frames())
            return value

    Layer()(torch.ones(1))
    assert names[:2] == ["forward", "test_frames_are_the_users_from_the_inside_out"]


MESSAGE = "backward runs a second time through a freed graph: "


def test_second_backward_is_told_with_the_line_that_keeps_the_old_graph():
    """And the oldest line whose saved tensors are gone, the tensor that carried it over, the second backward."""
    cell, weight = Cell(), torch.ones(2, requires_grad=True)
    cell.step(weight).backward()
    boundary = _now()
    old = cell.state.grad_fn
    root = cell.step(weight)
    product = old.next_functions[0][0]
    lines = {product._sequence_nr(): None, old._sequence_nr(): AGAIN, root.grad_fn._sequence_nr(): AGAIN}
    found = freed.explain([root], boundary, lines, None)
    assert found.victim == location(AGAIN)
    assert (found.kind, found.confirmed, found.detail) == ("freed_graph", True, {"second backward": "None"})


def test_second_backward_names_the_carrier():
    """The tensor at the bridge that somebody holds still."""
    weight, old, boundary = old_graph()
    cell = Cell()
    cell.state = old
    root = (old * 2).sum()
    product = old.grad_fn.next_functions[0][0]
    lines = {old.grad_fn._sequence_nr(): place_in(features, 3), product._sequence_nr(): place_in(features, 2)}
    found = freed.explain([root], boundary, lines, AGAIN)
    held = "self.state = torch.exp(self.state * weight)"
    assert found.culprit is not None
    assert found.culprit.source == held
    assert replace(found, culprit=None) == make(
        "freed_graph", f"{MESSAGE}the graph behind `{held}` was freed by an earlier backward",
        victim=place_in(features, 2), tensor=described(old), confirmed=True,
        detail={"second backward": str(location(AGAIN))},
    )  # fmt: skip
    assert (cell.state is old, weight.numel()) == (True, 2)


def test_second_backward_of_the_same_loss_is_its_own_culprit():
    """Nothing was carried over."""
    _, old, boundary = old_graph()
    found = freed.explain([old], boundary, {}, AGAIN)
    assert found == make(
        "freed_graph", f"{MESSAGE}the graph is freed", culprit=AGAIN, confirmed=True,
        detail={"second backward": str(location(AGAIN))},
    )  # fmt: skip


class Memory:
    """Reads on one line what another puts away."""

    def put(self, value: Any) -> None:
        """Keep something."""
        self.kept = value

    def get(self, bank: Any) -> Any:
        """Read it."""
        return bank(self.kept)


def test_second_backward_is_told_by_the_line_that_reads_the_old_value():
    """Where nobody holds the carrier itself: where the line's attribute is put; a line that is not known is passed."""
    weight = torch.ones(2, requires_grad=True)
    made = [weight.exp(), weight.exp()]
    sum(one.sum() for one in made).backward()
    boundary = _now()
    new = [one * 2 for one in made]
    root = new[0].sum() + new[1].sum()
    made.clear()
    readers = [one.grad_fn._sequence_nr() for one in new]
    for seq in readers:
        found = freed.explain([root], boundary, {seq: place_in(Memory.get, 2)}, AGAIN)
        assert source(found.culprit) == "self.kept = value"
        assert found.tensor is None
        assert found.message == f"{MESSAGE}the graph behind `self.kept = value` was freed by an earlier backward"


def test_second_backward_is_told_by_a_running_loop():
    """Where no line is known: whoever hands tensors with a history to the next round."""
    weight = torch.ones(2, requires_grad=True)
    total = weight * 1
    for _ in range(1):
        total = total + weight.exp()
        total.sum().backward()
        boundary = _now()
        root = total.sum()
        found = freed.explain([root], boundary, {}, AGAIN)
        alone = freed.explain([root], 0, {}, AGAIN)
    assert source(found.culprit) == "total = total + weight.exp()"
    assert alone.culprit == location(AGAIN)


def test_second_backward_is_told_by_the_return_that_handed_the_value_out():
    """Of the function that made it, where its line is known."""
    weight = torch.ones(2, requires_grad=True)
    held = features(weight)
    held.sum().backward()
    boundary = _now()
    root = (held * 2).sum()
    found = freed.explain([root], boundary, {held.grad_fn._sequence_nr(): place_in(features, 2)}, AGAIN)
    assert source(found.culprit) == "return made * weight"


def test_second_backward_is_told_by_a_running_loop_where_the_carrier_is_gone():
    """Some tensor with a history goes from round to round."""
    weight = torch.ones(2, requires_grad=True)
    made = [weight.exp()]
    made[0].sum().backward()
    boundary = _now()
    root = (made.pop() * 2).sum()
    state = torch.ones(2)
    for _ in range(1):
        state = state * weight
        found = freed.explain([root], boundary, {}, AGAIN)
    assert source(found.culprit) == "state = state * weight"

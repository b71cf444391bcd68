"""Values that lost their gradient: which cut is behind a value, and whether it met the graph again."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor

from gradgate.watch.catalogue import make
from gradgate.watch.flow import Cut, Flow, cut_finding, indices_in, loses_gradient, sequence_numbers
from gradgate.watch.ops import facts_of

FIRST, SECOND, THIRD = ((make.__code__, line) for line in (1, 2, 3))


def cut_at(flow: Flow, place: Any = FIRST, reason: str = "detach", index: int = 1, victim: Any = None) -> Cut:
    return flow.cut(place, reason, "op", victim, index)


def test_cut_is_one_for_its_line_and_reason():
    """Where it was first and last seen, and the first victim that is known."""
    flow = Flow()
    cut = cut_at(flow, index=3)
    assert (cut.place, cut.reason, cut.op, cut.victim, cut.first, cut.last) == (FIRST, "detach", "op", None, 3, 3)
    assert (cut.joined, cut.nodes, cut.reached) == (False, [], False)
    assert cut_at(flow, index=7, victim=SECOND) is cut
    assert cut_at(flow, index=8, victim=THIRD) is cut
    assert (cut.first, cut.last, cut.victim) == (3, 8, SECOND)
    others = [cut_at(flow, SECOND), cut_at(flow, reason="number")]
    assert flow.cuts == [cut, *others]


def test_taint_is_behind_every_view_of_a_value():
    """With the line that made it; a value that nobody tainted has none."""
    flow = Flow()
    value, other = torch.ones(4), torch.ones(4)
    assert not flow.active
    cuts = (cut_at(flow),)
    flow.taint([value, "text"], cuts, SECOND)
    assert flow.active
    assert (flow.of(value[1:]), flow.place_of(value[1:])) == (cuts, SECOND)
    assert (flow.of(other), flow.place_of(other)) == ((), None)


def test_taint_spares_the_leaf_whose_memory_it_shares():
    """`weight.detach()` has lost its history, `weight` has not."""
    flow, leaf = Flow(), torch.ones(2, requires_grad=True)
    cuts = (cut_at(flow),)
    flow.taint(leaf.detach(), cuts, FIRST, leaf)
    assert (flow.of(leaf), flow.of(leaf.detach())) == ((), cuts)


def test_taint_spares_parameters_written_without_gradients():
    """A parameter stays a parameter, unless it was made of the value; what comes after it is tainted all the same."""
    flow, leaf, plain = Flow(), torch.ones(2, requires_grad=True), torch.ones(2)
    cuts = (cut_at(flow),)
    flow.taint([leaf, plain], cuts, FIRST)
    assert (flow.of(leaf), flow.of(plain)) == ((), cuts)
    flow.taint(leaf, cuts, FIRST, new=True)
    assert flow.of(leaf) == cuts
    result = leaf * 2
    flow.taint(result, cuts, FIRST)
    assert flow.of(result) == cuts


def test_taint_passes_over_values_without_memory():
    """Sparse ones."""
    flow, plain = Flow(), torch.ones(2)
    flow.taint([torch.ones(2).to_sparse(), plain], (cut_at(flow),), FIRST)
    assert len(flow.of(plain)) == 1


def test_taints_of_dead_values_are_dropped_once_there_are_many():
    """The limit follows what lives."""
    flow = Flow()
    cuts = (cut_at(flow),)
    kept = [torch.ones(1) for _ in range(300)]
    flow.taint(kept, cuts, FIRST)
    dead = [torch.ones(1) for _ in range(212)]
    flow.taint(dead, cuts, FIRST)
    del dead
    gc.collect()
    assert (len(flow._taints), flow._limit) == (512, 512)
    last = torch.ones(1)
    flow._taints.update({-number: flow._taints[next(iter(flow._taints))] for number in range(1, 2)})
    flow.taint(last, cuts, FIRST)
    assert len(flow._taints) == 302
    assert flow._limit == 604
    assert flow.of(kept[0]) == cuts
    flow._limit = 1
    flow._taints = dict(list(flow._taints.items())[:5])
    flow.taint(last, cuts, FIRST)
    assert flow._limit == 512


def test_cuts_among_arguments_are_those_of_values_without_gradient():
    """Each once, in order; a leaf made of such a value counts, a result on the graph does not."""
    flow = Flow()
    first, second = cut_at(flow), cut_at(flow, SECOND)
    value, leaf = torch.ones(2), torch.ones(2, requires_grad=True)
    result = leaf * 2
    flow.taint(value, (second, first), FIRST)
    flow.taint(leaf, (first,), FIRST, new=True)
    flow.taint(result, (cut_at(flow, THIRD),), FIRST)
    assert flow.among([result, [value, 3], leaf]) == (second, first)
    assert flow.among([leaf]) == (first,)
    assert flow.among([torch.ones(2)]) == ()


def test_cuts_among_arguments_are_eight_at_most():
    """More tell nothing new."""
    flow, value = Flow(), torch.ones(2)
    cuts = tuple(cut_at(flow, (FIRST[0], line)) for line in range(9))
    flow.taint(value, cuts, FIRST)
    assert flow.among([value]) == cuts[:8]


def test_cuts_whose_values_are_in_python_are_the_last_eight():
    """Of one reason."""
    flow = Flow()
    cuts = [cut_at(flow, (FIRST[0], line), "number") for line in range(9)]
    cut_at(flow, reason="numpy")
    assert flow.numbers("number") == tuple(cuts[1:])


def test_cut_is_joined_where_its_value_met_the_graph():
    """The first sixty-four nodes are known."""
    flow = Flow()
    cuts = (cut_at(flow), cut_at(flow, SECOND))
    for node in range(65):
        flow.join(cuts, node)
    assert [(cut.joined, cut.nodes) for cut in cuts] == [(True, list(range(64)))] * 2


def test_cut_by_accident_is_reached_by_a_loss_with_one_of_its_nodes():
    """Once it is, it stays; what it met otherwise is forgotten. One written on purpose is not asked."""
    flow = Flow()
    leaf = torch.ones(2, requires_grad=True)
    root, other = (leaf * 2).sum(), (leaf * 3).sum()
    node = root.grad_fn.next_functions[0][0]._sequence_nr()
    near, far = cut_at(flow, FIRST, "torch.tensor"), cut_at(flow, SECOND, "autograd.grad")
    meant = cut_at(flow, THIRD, "detach")
    flow.join((near, meant), node)
    flow.join((far,), other.grad_fn._sequence_nr())
    flow.reach(root)
    assert [(cut.reached, len(cut.nodes)) for cut in (near, far, meant)] == [(True, 0), (False, 0), (False, 1)]
    flow.join((near, far), other.grad_fn._sequence_nr())
    flow.reach(root)
    assert [cut.reached for cut in (near, far)] == [True, False]


def test_cut_by_accident_is_reached_where_it_is_the_loss_itself():
    """A loss without a graph, made of such a value."""
    flow = Flow()
    cut = cut_at(flow, FIRST, "torch.tensor")
    flow.join((cut,), -1)
    flow.reach(torch.ones(1))
    assert cut.reached
    flow.reach(torch.ones(1))
    assert cut.reached


def test_sequence_numbers_are_those_of_all_nodes():
    """Each node once; of no graph there are none."""
    leaf = torch.ones(2, requires_grad=True)
    inner = leaf * 2
    root = (inner + inner.exp()).sum()
    nodes = [root.grad_fn, root.grad_fn.next_functions[0][0], inner.grad_fn]
    nodes += [nodes[1].next_functions[1][0], inner.grad_fn.next_functions[0][0]]
    assert sequence_numbers(root.grad_fn) == {node._sequence_nr() for node in nodes}
    assert sequence_numbers(None) == set()


@pytest.mark.parametrize(
    ("name", "overload", "out", "reason"),
    [
        ("detach", "default", torch.ones(1), "detach"),
        ("_local_scalar_dense", "default", 1.0, "number"),
        ("argmax", "default", torch.tensor([1]), "not differentiable"),
        ("copy_", "default", torch.tensor([1]), ""),
        ("exp", "default", torch.ones(1), ""),
        ("exp", "default", torch.ones(1, dtype=torch.complex64), ""),
        ("topk", "default", (torch.ones(1), torch.tensor([1])), ""),
    ],
)
def test_gradient_is_lost_by_what_has_none(name: str, overload: str, out: Any, reason: str):
    """A detach, a number for Python, a new result of whole numbers."""
    assert loses_gradient(facts_of(getattr(getattr(torch.ops.aten, name), overload)), out) == reason


def test_indices_are_the_whole_numbers_among_several_results():
    """Of one result there are none."""
    values, found = torch.ones(1), torch.tensor([1])
    for several in ((values, found, None), [values.to(torch.complex64), found]):
        assert [part is found for part in indices_in(several)] == [True]
    assert indices_in(found) == []


@pytest.mark.parametrize(("own", "victim"), [(SECOND, SECOND), (None, THIRD)])
def test_cut_is_told_with_what_it_passes(own: Any, victim: Any):
    """Its own victim before another, an error where nothing else is said."""
    cut = Cut(FIRST, "detach", "detach", own, 1, 1)
    message = "lost: the value passes detach (detach), which lets no gradient back"
    assert cut_finding(cut, "lost", THIRD) == make("graph_cut", message, culprit=FIRST, victim=victim, op="detach")
    assert cut_finding(cut, "lost", THIRD, "note").severity == "note"


def test_flow_of_a_dead_leaf_is_its_values():
    """The memory lives on in what was detached."""
    flow, leaf = Flow(), torch.ones(2, requires_grad=True)
    value: Tensor = leaf.detach()
    flow.taint(value, (cut_at(flow),), FIRST, leaf)
    del leaf
    assert len(flow.of(value)) == 1

"""Whose gradients an update uses, and who threw some away: the books of leaves, backwards and updates."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradgate
from gradgate.watch.gradients import Dropped, Gradients, Pass
from gradgate.watch.handed import handed, meet, owned
from gradgate.watch.saved import storage_key

HERE: Any = ("code", 7)
THERE: Any = ("code", 9)


def leaf(value: float = 1.0) -> Tensor:
    return torch.full((2,), value, requires_grad=True)


def backward(books: Gradients, *leaves: Tensor, place: Any = HERE, scale: float = 1.0) -> None:
    """One backward to some leaves, all of which are met."""
    books.before_backward()
    for tensor in leaves:
        books.meet(tensor, 5)
        (tensor * scale).sum().backward()
    books.after_backward(place)


def test_leaf_is_met_once_with_the_operation_that_used_it_first():
    """Handed over it has no operation yet; whoever asked is told before its gradient is touched."""
    books, tensor, told = Gradients(), leaf(), []
    books.before_use = told.append
    for index in (-1, 0, 4):
        books.meet(tensor, index)
    assert (books.leaves[id(tensor)].used_at, len(told), told[0] is tensor) == (0, 1, True)


def test_leaf_is_another_where_only_the_identity_is_the_same():
    """An address that Python used again."""
    books, tensor, old = Gradients(), leaf(), leaf()
    books.meet(old, 1)
    books.leaves[id(tensor)] = books.leaves.pop(id(old))
    books.leaves[id(tensor)].had = True
    books.meet(tensor, 2)
    assert (books.leaves[id(tensor)].used_at, books.had(tensor)) == (2, False)


def test_leaf_had_a_gradient_once_a_backward_reached_it():
    """Cleared since, there before the block, or returned by `autograd.grad`: it trained."""
    books, reached, other, before, returned = Gradients(), leaf(), leaf(), leaf(), leaf()
    before.grad = torch.ones(2)
    for tensor in (other, returned):
        books.meet(tensor, 1)
    backward(books, reached)
    books.returned([returned, leaf()])
    reached.grad = None
    assert [books.had(tensor) for tensor in (reached, other, before, returned)] == [True, False, True, True]


def test_gradient_that_was_there_is_not_the_backwards():
    """Only what changed since the leaf was met."""
    books, tensor = Gradients(), leaf()
    tensor.grad = torch.ones(2)
    books.meet(tensor, 1)
    books.after_backward(HERE)
    tensor.grad = None
    assert (books.had(tensor), books.leaves[id(tensor)].pending) == (False, [])


def test_backward_is_numbered_and_knows_the_updates_before_it():
    """From 1; its line; how many updates were made."""
    books, tensor = Gradients(), leaf()
    backward(books, tensor)
    books.after_step([tensor])
    backward(books, tensor, place=THERE)
    (last,) = books.leaves[id(tensor)].pending
    assert (last.number, last.place, last.steps, last.used, books.passes) == (2, THERE, 1, False, 2)


def test_stale_is_the_backward_that_added_to_what_an_update_used():
    """Said once, to the update that is about to use the sum."""
    books, tensor = Gradients(), leaf()
    backward(books, tensor)
    assert books.stale([tensor]) is None
    books.after_step([tensor])
    backward(books, tensor, place=THERE)
    found = books.stale([leaf(), tensor])
    assert found is not None
    assert (found.place, found.number) == (THERE, 2)
    assert books.stale([tensor]) is None


def test_stale_is_nothing_where_gradients_were_cleared_or_edited_between():
    """Set to None, zeroed in place, or edited after the backward that added."""
    clears = (
        lambda tensor: setattr(tensor, "grad", None),
        lambda tensor: setattr(tensor, "grad", torch.zeros(2)),
        lambda tensor: tensor.grad.zero_(),
    )
    for clear in clears:
        books, tensor = Gradients(), leaf()
        backward(books, tensor)
        books.after_step([tensor])
        used = tensor.grad
        clear(tensor)
        backward(books, tensor)
        assert (books.stale([tensor]), used is None) == (None, False)
    books, tensor = Gradients(), leaf()
    backward(books, tensor)
    books.after_step([tensor])
    backward(books, tensor)
    tensor.grad.mul_(0.5)
    assert books.stale([tensor]) is None


def test_stale_looks_at_every_leaf_of_the_update():
    """One that was edited since does not hide the next."""
    books, edited, kept = Gradients(), leaf(), leaf()
    backward(books, edited, kept)
    books.after_step([edited, kept])
    backward(books, edited, kept)
    edited.grad.mul_(0.5)
    assert books.stale([edited, kept]) is not None


def test_update_without_gradients_consumes_none():
    """A leaf that an optimizer has and that never got a gradient: its first one is its own."""
    books, tensor = Gradients(), leaf()
    books.after_step([tensor])
    assert books.leaves[id(tensor)].used_at == -1
    backward(books, tensor)
    assert books.stale([tensor]) is None


def test_mixed_update_uses_two_backwards_with_another_update_between():
    """The first backward's gradients were used by somebody else before the last came."""
    books, shared, other = Gradients(), leaf(), leaf()
    backward(books, shared, other)
    books.after_step([other])
    backward(books, shared, place=THERE)
    found = books.before_step([leaf(), other, shared])
    assert found is not None
    assert (found[0].place, found[1].place) == (HERE, THERE)


def test_mixed_update_knows_the_first_and_the_last_backward():
    """Of three."""
    books, shared, other = Gradients(), leaf(), leaf()
    backward(books, shared, other)
    backward(books, shared, place=("code", 8))
    books.after_step([other])
    backward(books, shared, place=THERE)
    found = books.before_step([shared])
    assert found is not None
    assert [one.number for one in found] == [1, 3]


def test_accumulated_gradients_are_not_mixed():
    """No update between, or none that used the first backward, or the update between was its own."""
    books, shared, other = Gradients(), leaf(), leaf()
    backward(books, shared)
    backward(books, shared)
    assert books.before_step([shared]) is None
    books.after_step([other])
    backward(books, shared)
    assert books.before_step([shared]) is None
    books, shared = Gradients(), leaf()
    backward(books, shared)
    books.read(shared, by_user=True)
    backward(books, shared)
    assert books.before_step([shared]) is None
    books, shared, other = Gradients(), leaf(), leaf()
    backward(books, shared, other)
    books.after_step([other])
    assert books.before_step([shared]) is None


def test_updates_of_one_optimizer_share_one_set():
    """The last four are looked through, not a set a step."""
    books = Gradients()
    first, second = [leaf()], [leaf(), leaf()]
    for leaves in (first, second, first, second, first):
        books.after_step(leaves)
    assert len({id(step) for step in books.steps}) == 2
    assert books.steps[1] == {id(tensor) for tensor in second}


def test_gradient_read_by_an_optimizer_is_used():
    """Its backward is used, and what is added to it later is stale; a reading by the user only uses it."""
    for by_user in (False, True):
        books, tensor = Gradients(), leaf()
        backward(books, tensor)
        books.read(tensor, by_user=by_user)
        assert books.leaves[id(tensor)].pending[0].used
        assert (storage_key(tensor) in books.read_by_user) is by_user
        backward(books, tensor)
        assert (books.stale([tensor]) is not None) is not by_user
        assert books.read_by_user == {}
    books.read(leaf(), by_user=False)  # one that was never met


def test_gradient_read_where_none_is_consumes_nothing():
    """An optimizer looks at leaves without a gradient as well."""
    books, tensor = Gradients(), leaf()
    books.meet(tensor, 1)
    books.read(tensor, by_user=False)
    backward(books, tensor)
    assert books.stale([tensor]) is None


def by_hand(books: Gradients, *leaves: Tensor, op: str = "sub_") -> None:
    """An update written by hand, as the recorder sees it."""
    for tensor in leaves:
        books.read(tensor, by_user=True)
    books.updated_by_hand([leaf(), *(tensor.data for tensor in leaves)], op)


def test_update_by_hand_with_sums_is_stale():
    """The backward that added to gradients which such an update had used, of a leaf that no optimizer has."""
    books, tensor = Gradients(), leaf()
    backward(books, tensor)
    by_hand(books, tensor)
    assert books.stale_by_hand() is None
    backward(books, tensor, place=THERE)
    by_hand(books, tensor)
    found = books.stale_by_hand()
    assert found is not None
    assert found.place == THERE
    books.after_step([tensor])
    assert books.stale_by_hand() is None


@pytest.mark.parametrize("op", ["add_", "addcdiv_", "addcmul_", "_foreach_add_", "_foreach_sub_", "data ="])
def test_update_by_hand_is_an_operation_that_adds(op: str):
    """In place or by `.data`; a scaling or a copy is none."""
    for name, stale in ((op, True), ("mul_", False)):
        books, tensor = Gradients(), leaf()
        for _ in range(2):
            backward(books, tensor)
            by_hand(books, tensor, op=name)
        assert (books.stale_by_hand() is not None) is stale


def test_update_by_hand_is_fresh_where_gradients_were_cleared_or_edited():
    """Between the two updates, or after the backward that added."""
    books, tensor = Gradients(), leaf()
    backward(books, tensor)
    by_hand(books, tensor)
    tensor.grad = None
    backward(books, tensor)
    by_hand(books, tensor)
    assert books.stale_by_hand() is None
    backward(books, tensor)
    tensor.grad.mul_(0.5)
    by_hand(books, tensor)
    assert books.stale_by_hand() is None


def test_update_by_hand_goes_on_to_the_next_leaf():
    """One whose gradient was cleared meanwhile does not hide the next; each stale sum is said once."""
    books, cleared, kept = Gradients(), leaf(), leaf()
    backward(books, cleared, kept)
    by_hand(books, cleared, kept)
    backward(books, cleared, kept)
    for tensor in (cleared, kept):
        books.read(tensor, by_user=True)
    cleared.grad = None
    books.updated_by_hand([cleared, kept], "sub_")
    books.updated_by_hand([kept], "sub_")
    assert [number for number, _ in books._by_hand] == [id(kept)]
    assert not books.leaves[id(cleared)].consumed
    assert books.leaves[id(kept)].consumed


def test_update_by_hand_of_a_dead_leaf_is_none():
    """Its memory may live on."""
    books, tensor = Gradients(), leaf()
    backward(books, tensor)
    books.read(tensor, by_user=True)
    memory = tensor.data
    del tensor
    gc.collect()
    books.updated_by_hand([memory], "sub_")
    assert books.stale_by_hand() is None


def test_backward_passes_over_dead_leaves():
    """One of them does not hide the next."""
    books, dead, tensor = Gradients(), leaf(), leaf()
    books.meet(dead, 1)
    del dead
    backward(books, tensor)
    assert books.leaves[id(tensor)].had


def test_cleared_gradients_are_lost_where_nothing_used_them():
    """Of a leaf that is updated elsewhere; with the line of the clearing and the last backward."""
    books, tensor = Gradients(), leaf()
    backward(books, tensor)
    backward(books, tensor, place=THERE)
    books.cleared(tensor, HERE)
    tensor.grad = None
    assert books.lost() is None  # nobody trains it
    books.after_step([tensor])
    lost = books.lost()
    assert lost is not None
    assert (lost.leaf, lost.place, lost.backward.place) == (id(tensor), HERE, THERE)
    lost.backward.used = True
    assert books.lost() is None


def test_cleared_gradients_are_not_lost_where_there_is_nothing_to_lose():
    """Used, zero, not finite, absent, or of a leaf that was never met."""
    for spoil in ("used", "zero", "nan", "absent"):
        books, tensor = Gradients(), leaf()
        backward(books, tensor, scale={"zero": 0.0, "nan": float("nan")}.get(spoil, 1.0))
        if spoil == "used":
            books.after_step([tensor])
        if spoil == "absent":
            tensor.grad = None
        books.cleared(tensor, HERE)
        assert books.dropped == [], spoil
    books.cleared(leaf(), HERE)
    assert books.dropped == []


def test_cleared_gradients_start_anew():
    """What comes next was added to nothing."""
    books, tensor = Gradients(), leaf()
    backward(books, tensor)
    books.after_step([tensor])
    backward(books, tensor)
    books.cleared(tensor, HERE)
    state = books.leaves[id(tensor)]
    assert (state.pending, state.consumed, state.state, state.stale) == ([], False, None, None)


def test_dropped_gradients_are_kept_up_to_a_number():
    """A loop of a thousand clearings says all there is to say."""
    books, tensor = Gradients(), leaf()
    books.dropped = [Dropped(0, None, Pass(1, None, 0))] * 999
    for _ in range(2):
        backward(books, tensor)
        books.cleared(tensor, HERE)
    assert len(books.dropped) == 1000


def test_gradients_that_are_there_and_whose_they_are():
    """Of leaves that live; a leaf without one does not hide the next."""
    books, without, with_one, dead = Gradients(), leaf(), leaf(), leaf()
    for tensor in (dead, without, with_one):
        books.meet(tensor, 1)
    with_one.grad = torch.ones(2)
    del dead
    tensor = without
    gc.collect()
    assert [gradient is with_one.grad for gradient in books.present()] == [True]
    owners = books.owners()
    assert list(owners) == [storage_key(with_one.grad)]
    assert owners[storage_key(with_one.grad)] is with_one
    backward(books, with_one)
    assert books.had(with_one)


def test_books_forget_dead_leaves_once_there_are_many():
    """At a backward; the limit follows what lives."""
    books, kept = Gradients(), [leaf() for _ in range(3)]
    for tensor in kept:
        books.meet(tensor, 1)
    dead = [leaf(), leaf()]
    for tensor in dead:
        books.meet(tensor, 1)
    del dead, tensor
    books._limit = 5
    books.after_backward(HERE)
    assert len(books.leaves) == 5
    books._limit = 4
    books.after_backward(HERE)
    assert (len(books.leaves), books._limit) == (3, 1024)
    books.leaves.update({-number: books.leaves[id(kept[0])] for number in range(1, 1022)})
    books._limit = 4
    books.after_backward(HERE)
    assert books._limit == 2 * 1024


def test_sparse_gradients_with_nan_do_not_end_the_program():
    """A sparse NaN has no comparison of its own."""
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    with gradgate.watch(table, optimizer) as watch:
        (table(torch.tensor([1, 2])) * float("nan")).sum().backward()
        optimizer.zero_grad()
    assert [finding.kind for finding in watch.findings if finding.severity == "error"] == ["nan_forward"]


def test_handed_is_what_is_to_train():
    """Parameters of modules and optimizers and tensors, each once, in order; frozen ones are not."""
    model, tensor, frozen = nn.Linear(2, 2), leaf(), torch.ones(2)
    model.bias.requires_grad_(False)
    optimizer = torch.optim.SGD([{"params": [tensor]}, {"params": [model.weight]}], lr=0.1)
    assert [id(one) for one in handed([model, optimizer, frozen, tensor])] == [id(model.weight), id(tensor)]
    assert [id(one) for one in owned(optimizer)] == [id(tensor), id(model.weight)]


class Books:
    """What of a recorder is told of the subjects."""

    def __init__(self) -> None:
        self.gradients = Gradients()
        self.python_in_backward = False


@pytest.mark.parametrize("hook", [None, "register_hook", "register_post_accumulate_grad_hook"])
def test_subjects_are_met_before_the_block(hook: str | None):
    """Leaves alone, as used by no operation yet; a hook on one runs Python in backward."""
    recorder: Any = Books()
    tensor, history = leaf(), leaf() * 2
    if hook:
        getattr(tensor, hook)(lambda *_: None)
        history.register_hook(lambda *_: None)
    meet(recorder, [history, tensor])
    assert {key: one.used_at for key, one in recorder.gradients.leaves.items()} == {id(tensor): -1}
    assert recorder.python_in_backward is (hook is not None)

"""Saved tensors: which write damaged one, what PyTorch would say, and what is looked at before a write."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradgate.watch.fingerprints import fingerprint
from gradgate.watch.saved import (
    NO_STORAGE,
    Saved,
    Shelf,
    Write,
    is_output,
    kept_as,
    mismatch_text,
    mismatch_words,
    readable,
    storage_key,
)


class Told:
    """A shelf, and what it told."""

    def __init__(self) -> None:
        self.unpacked: list[Saved] = []
        self.exposed = 0
        self.shelf = Shelf(self.unpacked.append, self._expose)

    def _expose(self) -> None:
        self.exposed += 1


def write(before: int, op: str = "mul_", *, changed: bool = True) -> Write:
    return Write(None, op, before, changed=changed)


def test_loud_write_is_the_first_that_moved_the_version():
    """What a write did to it shows in the next one's `before`, or in the tensor."""
    saved = Told().shelf.keep(torch.ones(2), 1)
    saved.tensor.add_(1).add_(1)
    saved.writes = [write(0, "a"), write(0, "b"), write(1, "c")]
    assert saved.loud_write() == write(0, "b")
    saved.writes = [write(2, "a")]
    assert saved.loud_write() is None
    saved.writes = [write(1, "a")]
    assert saved.loud_write() == write(1, "a")
    saved.writes = []
    assert saved.loud_write() is None


def test_silent_write_is_the_last_without_an_operation():
    """Else the first that changed the numbers."""
    saved = Told().shelf.keep(torch.ones(2), 1)
    saved.writes = [write(0, "a", changed=False), write(0, "b"), write(0, "c")]
    assert saved.silent_write() == write(0, "b")
    saved.writes += [write(0, ""), write(0, ""), write(0, "", changed=False)]
    assert saved.silent_write() is saved.writes[4]
    saved.writes = []
    assert saved.silent_write() is None


def test_saved_is_open_until_a_write_has_moved_its_version():
    """Or until eight are known."""
    saved = Told().shelf.keep(torch.ones(2), 1)
    assert saved.open()
    saved.writes = [write(0)] * 7
    assert saved.open()
    saved.writes = [write(0)] * 8
    assert not saved.open()
    saved.tensor.add_(1)
    saved.writes = [write(0)]
    assert not saved.open()
    saved.writes = []
    assert saved.open()  # whoever wrote was not seen


def test_saved_has_changed_only_where_a_print_was_taken():
    """And the numbers are others now."""
    saved = Told().shelf.keep(torch.ones(2), 1)
    saved.tensor.add_(1)
    assert not saved.changed()
    saved.print = fingerprint(saved.tensor)
    assert not saved.changed()
    saved.tensor.add_(1)
    assert saved.changed()


def plain_words(result: Tensor) -> str:
    """What PyTorch itself says."""
    with pytest.raises(RuntimeError) as raised:
        result.sum().backward()
    return str(raised.value)


@pytest.mark.parametrize("anomaly", [False, True])
def test_mismatch_is_told_in_pytorchs_words(anomaly: bool):
    """Of an output of the node, of another's output, and of a leaf; with the hint that fits anomaly mode."""
    with torch.autograd.set_detect_anomaly(anomaly, check_nan=False):
        own = torch.ones(2, 3, requires_grad=True).exp()
        kept, output_of = kept_as(own, own.grad_fn._sequence_nr())
        other = torch.ones(2, requires_grad=True).mul(2)
        root = other.sin()
        leaf, weight = torch.ones(3), torch.ones(3, requires_grad=True)
        product = weight * leaf
        for tensor in (own, other, leaf):
            tensor.add_(1)
        words = [
            mismatch_text(kept, 0, output_of),
            mismatch_text(other, 0, ""),
            mismatch_text(leaf, 0, ""),
        ]
        with pytest.warns(UserWarning, match="Error detected") if anomaly else contextlib.nullcontext():
            assert words == [plain_words(result) for result in (own, root, product)]


def test_mismatch_words_are_asked_of_this_pytorch():
    """Whether a node's name is short, and the hint after the versions."""
    short, hint = mismatch_words.__wrapped__()
    assert isinstance(short, bool)
    assert hint.startswith(" Hint: enable anomaly detection")
    with torch.no_grad():
        assert mismatch_words.__wrapped__() == (short, hint)


def test_saved_tells_its_own_mismatch():
    """Its tensor, its version."""
    saved = Told().shelf.keep(torch.ones(2), 1)
    saved.tensor.add_(1)
    assert saved.mismatch() == mismatch_text(saved.tensor, 0, "")
    assert "[torch.FloatTensor [2]] is at version 1; expected version 0 instead." in saved.mismatch()


def test_output_of_a_node_is_kept_without_its_history():
    """Else the graph would hold itself; what another node made is kept as it is."""
    result = torch.ones(2, requires_grad=True).exp()
    seq = result.grad_fn._sequence_nr()
    kept, output_of = kept_as(result, seq)
    assert (kept.grad_fn, kept.data_ptr()) == (None, result.data_ptr())
    assert output_of == ", which is output 0 of ExpBackward0,"
    assert kept_as(result, seq + 1) == (result, "")
    leaf = torch.ones(2)
    assert kept_as(leaf, seq)[0] is leaf
    assert is_output(result.grad_fn, seq)
    assert not is_output(result.grad_fn, seq + 1)


class Double(torch.autograd.Function):
    """A custom Function: its own number is not known when its outputs are saved."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def test_output_of_a_custom_function_is_always_its_own():
    """Whatever the number."""
    assert is_output(Double.apply(torch.ones(1, requires_grad=True)).grad_fn, -1)


def saving(told: Told, tensor: Tensor) -> Tensor:
    """A result whose node saves a tensor on a shelf."""
    with torch.autograd.graph.saved_tensors_hooks(told.shelf.pack, told.shelf.unpack):
        return tensor * torch.ones(tensor.shape, requires_grad=True)


def test_shelf_knows_what_the_graph_saves_and_forgets_it_with_the_graph():
    """By its memory, in the order of the nodes, with the node's number and a count."""
    told = Told()
    first, second = torch.ones(2), torch.ones(2)
    results = [saving(told, second), saving(told, first), saving(told, second.view(2, 1))]
    assert [saved.tensor.data_ptr() for saved in told.shelf.everything()] == [
        tensor.data_ptr() for tensor in (second, first, second)
    ]
    assert [saved.seq for saved in told.shelf.everything()] == [one.grad_fn._sequence_nr() for one in results]
    assert [saved.ordinal for saved in told.shelf.everything()] == [0, 1, 2]
    assert [saved.ordinal for saved in told.shelf.live(storage_key(second))] == [0, 2]
    assert told.shelf.holds([torch.ones(1), first])
    assert not told.shelf.holds([torch.ones(1)])
    del results[0]
    assert [saved.ordinal for saved in told.shelf.live(storage_key(second))] == [2]
    results.clear()
    assert (told.shelf.by_storage, told.shelf.holds([first]), told.shelf.hit([first])) == ({}, False, [])


def test_shelf_keeps_a_nodes_own_output_without_its_history():
    """`exp` saves what it returns; whose output it was is remembered for the words."""
    told = Told()
    with torch.autograd.graph.saved_tensors_hooks(told.shelf.pack, told.shelf.unpack):
        result = torch.ones(2, requires_grad=True).exp()
    (saved,) = told.shelf.everything()
    assert (saved.tensor.grad_fn, saved.output_of) == (None, ", which is output 0 of ExpBackward0,")
    assert (saved.print, saved.seen, result.grad_fn is None) == (None, None, False)


def test_shelf_is_asked_only_where_a_tensor_may_not_be_what_was_saved():
    """A version that moved, or a print taken before a write."""
    told = Told()
    value = torch.ones(2)
    saving(told, value).sum().backward()
    assert told.unpacked == []
    result = saving(told, value)
    (saved,) = told.shelf.hit([value])
    value.data.mul_(2)
    result.sum().backward()
    assert told.unpacked.pop() is saved
    del saved
    result = saving(told, value)
    value.add_(1)
    (saved,) = told.shelf.everything()
    result.sum().backward()
    assert told.unpacked == [saved]


def test_shelf_takes_prints_before_a_write():
    """Of what is open, and no newer than the writing operation; a print once taken stays."""
    told = Told()
    value = torch.ones(2)
    results = [saving(told, value), saving(told, value)]
    first, second = told.shelf.everything()
    assert told.shelf.hit([value], newest=first.seq) == [first]
    assert (first.print, first.seen, second.print) == (fingerprint(value), fingerprint(value), None)
    value.data.mul_(2)
    assert told.shelf.hit([torch.ones(1), value]) == [first, second]
    assert (first.print != fingerprint(value), second.print) == (True, fingerprint(value))
    assert told.shelf.traced() == [first, second]
    second.writes = [write(0)] * 8
    assert told.shelf.hit([value]) == [first]
    assert len(results) == 2


def test_shelf_watches_memory_that_somebody_outside_holds():
    """Memory handed out, before or after it is saved, and memory that came from outside, but for parameters."""
    told = Told()
    value, unsaved = torch.ones(2), torch.ones(2)
    result = saving(told, value)
    told.shelf.expose(unsaved)
    assert told.exposed == 0
    told.shelf.expose(value)
    assert not told.shelf._exposed[storage_key(value)].expired()
    assert (told.exposed, [saved.print for saved in told.shelf.traced()]) == (1, [fingerprint(value)])
    results = [result, saving(told, unsaved)]
    assert (told.exposed, len(told.shelf.traced())) == (2, 2)
    foreign = torch.from_numpy(torch.ones(2).numpy().copy())
    results.append(saving(told, foreign))
    assert told.exposed == 3
    results.append(saving(told, nn.Parameter(foreign)))
    assert told.exposed == 3
    results.append(saving(told, torch.ones(3)))
    assert (told.exposed, len(results)) == (3, 5)


def test_shelf_exposes_nothing_where_there_is_no_memory():
    """A sparse tensor has none that can be named; a subclass's is not its own."""
    told = Told()
    told.shelf.expose(torch.ones(2).to_sparse())
    told.shelf.expose(torch.ones(2).as_subclass(Other))
    assert (told.exposed, told.shelf._exposed) == (0, {})


def test_shelf_keeps_a_print_that_was_taken():
    """What it was before the first write."""
    told = Told()
    value = torch.ones(2)
    result = saving(told, value)
    told.shelf.hit([value])
    value.data.mul_(2)
    told.shelf.expose(value)
    (saved,) = told.shelf.everything()
    assert (saved.print != fingerprint(value), result.numel()) == (True, 2)


def test_shelf_traces_what_is_suspected():
    """By the count at which it was saved."""
    told = Told()
    told.shelf.suspects = frozenset({1})
    results = [saving(told, torch.ones(2)) for _ in range(3)]
    assert [saved.ordinal for saved in told.shelf.traced()] == [1]
    assert (told.exposed, len(results)) == (1, 3)


class Other(Tensor):
    """A subclass with code of its own."""


def test_shelf_leaves_subclasses_alone():
    """They go back as they came, detached where they have a history."""
    told = Told()
    plain = torch.ones(2).as_subclass(Other)
    assert told.shelf.pack(plain) is plain
    made = torch.ones(2, requires_grad=True).as_subclass(Other)
    assert told.shelf.pack(made).grad_fn is None
    assert told.shelf.unpack(plain) is plain
    assert told.shelf._count == 0


def test_shelf_takes_a_tensor_without_memory():
    """A sparse one: its version is compared, nothing else."""
    told = Told()
    kept = told.shelf.pack(torch.ones(2).to_sparse())
    assert (kept.key, kept.version, kept.ordinal, told.shelf.by_storage) == (NO_STORAGE, 0, -1, {})
    assert (kept.tensor.is_sparse, kept.output_of) == (True, "")
    assert kept.seq == torch._C._autograd._get_sequence_nr() - 1
    assert told.shelf.unpack(kept) is kept.tensor


def test_shelf_keeps_what_a_function_keeps_on_its_own():
    """Without its history, under its memory and the node's number."""
    told = Told()
    value = torch.ones(2, requires_grad=True).exp()
    saved = told.shelf.keep(value, 7)
    assert (saved.tensor.grad_fn, saved.tensor.data_ptr(), saved.seq) == (None, value.data_ptr(), 7)
    assert (saved.version, saved.key, saved.output_of, saved.ordinal) == (0, storage_key(value), "", -1)
    assert list(told.shelf.live(storage_key(value))) == [saved]
    leaf = torch.ones(2)
    assert told.shelf.keep(leaf, 7).tensor is leaf


class Absent(Saved):
    """One that cannot be looked at."""

    __slots__ = ()

    def is_there(self) -> bool:
        return False


def test_shelf_passes_over_what_is_not_there():
    """Its memory may have been given back."""
    shelf = Told().shelf
    value = torch.ones(2)
    absent = shelf.put(Absent(shelf, value, 0, 1, storage_key(value), ""))
    here = shelf.keep(value, 2)
    assert list(shelf.live(storage_key(value))) == [here]
    shelf.drop(absent)
    assert len(shelf.by_storage[storage_key(value)]) == 1
    stranger = Saved(shelf, value, 0, 1, -5, "")
    shelf.drop(stranger)  # never put there


class Wrapper(Tensor):
    """A subclass that holds its numbers elsewhere."""

    @staticmethod
    def __new__(cls, local: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, (2,))  # type: ignore[attr-defined]

    def __init__(self, local: Any) -> None:
        self._local_tensor = local

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("somebody's code ran")


def test_readable_is_what_this_process_holds():
    """A tensor itself, a subclass without a dispatch of its own, the local part of a wrapper; else nothing."""
    plain, parameter, other = torch.ones(2), nn.Parameter(torch.ones(2)), torch.ones(2).as_subclass(Other)
    for tensor in (plain, parameter, other):
        assert readable(tensor) is tensor
    local = torch.ones(2)
    assert readable(Wrapper(local)) is local
    assert readable(Wrapper("text")) is None
    assert readable(Wrapper(Wrapper(local))) is None


def test_storage_key_is_one_for_all_views():
    """`.data`, `detach()`, a slice; sparse tensors have none."""
    value = torch.ones(4, requires_grad=True)
    keys = {storage_key(one) for one in (value, value.data, value.detach(), value[1:])}
    assert len(keys) == 1
    assert storage_key(torch.ones(4)) not in keys
    assert storage_key(torch.ones(2).to_sparse()) == NO_STORAGE

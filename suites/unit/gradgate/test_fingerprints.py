"""Fingerprints: any change of a tensor's own elements shows, and no change of others does."""

from __future__ import annotations

import pytest
import torch

from gradgate.watch.fingerprints import fingerprint, folded

SIZES = (1, 7, 1000, 509 * 16, 40_003)
EDITS = {
    "one": lambda tensor: tensor.view(-1)[-1:].add_(1),
    "sign": lambda tensor: tensor.neg_(),
    "double": lambda tensor: tensor.mul_(2),
    "zero": lambda tensor: tensor.zero_(),
    "half": lambda tensor: tensor.view(-1)[: (tensor.numel() + 1) // 2].neg_(),
    "order": lambda tensor: tensor.copy_(tensor.flip(0) if tensor.numel() > 1 else tensor + 1),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex128, torch.int8])
@pytest.mark.parametrize("take", [fingerprint, lambda tensor: folded(tensor).tolist()], ids=["host", "device"])
def test_fingerprint_changes_with_the_numbers(edit, size, dtype, take):
    """One element, all signs, a factor of two, an order: on the host, and as a device does it."""
    tensor = (torch.arange(size) % 97 + 1).to(dtype)
    before = take(tensor)
    assert take(tensor.clone()) == before
    edit(tensor)
    assert take(tensor) != before


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base[:, :3],
        lambda base: base.t(),
        lambda base: base[1:2].expand(5, 60),
        lambda base: base[::2, 1::2],
        lambda base: base[2],
    ],
    ids=["columns", "transposed", "expanded", "strided", "row"],
)
def test_fingerprint_covers_a_view_and_nothing_beside_it(view):
    """The elements of the view count, those between them do not."""
    base = torch.randn(40, 60)
    own = torch.zeros_like(base, dtype=torch.bool)
    place = view(torch.arange(base.numel()).view_as(base)).flatten()
    own.view(-1)[place] = True
    before = fingerprint(view(base))
    base[~own] += 1
    assert fingerprint(view(base)) == before
    base.view(-1)[place[-1]] += 1
    assert fingerprint(view(base)) != before


def test_fingerprint_of_nothing_is_zero():
    """An empty tensor has no memory to look at."""
    assert fingerprint(torch.empty(0, 3)) == 0

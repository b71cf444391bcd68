"""The model: who sees whom, what padding may change (nothing), and where gradients may go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fixtures.small_runs import batch_of, row, small_trainer, token_stage
from wmtp.model import CriticWmtp, Heads, Trunk, ValueHead, rotation_of
from wmtp.stages import Stage2

VOCAB, WIDTH, HORIZON = 30, 16, 3


def build_model(
    *, recompute: bool = False, tied: bool = False, dropout: float = 0.0, to_trunk: bool = False
) -> CriticWmtp:
    """A model of two blocks from seed 0."""
    torch.manual_seed(0)
    trunk = Trunk(VOCAB, width=WIDTH, layers=2, attention_heads=2, dropout=dropout, recompute=recompute)
    heads = Heads(WIDTH, HORIZON, VOCAB, trunk.embedding if tied else None)
    return CriticWmtp(trunk, heads, ValueHead(WIDTH), value_gradient_to_trunk=to_trunk)


def tokens(length: int, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randint(0, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def all_real(token_BS: Tensor) -> Tensor:
    return torch.ones_like(token_BS, dtype=torch.bool)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def trained(module: nn.Module) -> set[str]:
    """Which of the model's parts a backward reached with anything but 0."""
    return {name.split(".")[0] for name, grad in gradients(module).items() if bool(grad.count_nonzero())}


def test_output_has_the_shapes_of_the_design() -> None:
    """Hidden [B, S, D], logits [B, S, H, V], values [B, S]."""
    token_BS = tokens(5)
    output = build_model()(token_BS, all_real(token_BS))
    assert (output.hidden_BSD.shape, output.logits_BSHV.shape) == ((2, 5, WIDTH), (2, 5, HORIZON, VOCAB))
    assert output.value_BS.shape == (2, 5)


def test_value_head_is_two_linears_around_a_relu() -> None:
    """Linear(D, D/2), ReLU, Linear(D/2, 1)."""
    head = ValueHead(WIDTH)
    hidden_BSD = torch.randn(2, 3, WIDTH)
    expected = (torch.relu(hidden_BSD @ head.inner.weight.T + head.inner.bias) @ head.outer.weight.T)[..., 0]
    torch.testing.assert_close(head(hidden_BSD), expected + head.outer.bias)
    assert [tuple(p.shape) for p in head.parameters()] == [(8, 16), (8,), (1, 8), (1,)]


def test_trunk_is_causal() -> None:
    """What comes later changes nothing before it, bit for bit."""
    model, token_BS = build_model(), tokens(8)
    changed_BS = token_BS.clone()
    changed_BS[:, 5:] = (changed_BS[:, 5:] + 1) % VOCAB
    for plain in (True, False):
        before, after = (model(t, all_real(t), plain=plain).hidden_BSD for t in (token_BS, changed_BS))
        assert torch.equal(before[:, :5], after[:, :5])
        assert not torch.equal(before[:, 5:], after[:, 5:])


def test_plain_attention_equals_masked_attention_when_padding_is_on_the_right() -> None:
    """Leaving the mask out is a matter of speed only."""
    model, token_BS = build_model(), tokens(8)
    valid_BS = torch.arange(8) < torch.tensor([[8], [5]])
    plain, masked = (model(token_BS, valid_BS, plain=plain).logits_BSHV[valid_BS] for plain in (True, False))
    torch.testing.assert_close(plain, masked)


@pytest.mark.parametrize("left", [1, 3, 7])
def test_padding_on_the_left_changes_nothing(left: int) -> None:
    """A row says the same behind padding, whatever token stands there: positions count from the first real token."""
    model, token_BS = build_model(), tokens(6)
    padded_BS = torch.cat((tokens(left, seed=9), token_BS), dim=1)
    valid_BS = (torch.arange(left + 6) >= left).expand(2, -1)
    bare, padded = model(token_BS, all_real(token_BS)), model(padded_BS, valid_BS)
    torch.testing.assert_close(padded.logits_BSHV[:, left:], bare.logits_BSHV, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded.value_BS[:, left:], bare.value_BS, rtol=1e-5, atol=1e-6)


def test_positions_count_from_the_first_real_token_of_a_document() -> None:
    """Bit for bit the same angles behind padding, or behind another document."""
    valid_BS = torch.tensor([[True] * 3 + [False] * 4, [False] * 4 + [True] * 3, [True] * 7])
    document_BS = torch.tensor([[0] * 7, [0] * 7, [0] * 4 + [1] * 3])
    for angle in rotation_of(valid_BS, document_BS, 8, torch.float32):
        bare, padded, packed = angle[0, 0, :3], angle[1, 0, 4:], angle[2, 0, 4:]
        assert (torch.equal(bare, padded), torch.equal(bare, packed)) == (True, True)


def test_tokens_in_a_gap_are_never_seen() -> None:
    """A position that the mask excludes may hold any token."""
    model, token_BS = build_model(), tokens(6)
    valid_BS = all_real(token_BS)
    valid_BS[:, 2] = False
    other_BS = token_BS.clone()
    other_BS[:, 2] = (other_BS[:, 2] + 1) % VOCAB
    one, other = (model(t, valid_BS).logits_BSHV[valid_BS] for t in (token_BS, other_BS))
    assert torch.equal(one, other)


def test_output_is_finite_when_a_row_is_all_padding() -> None:
    """An all-masked row neither gives NaN nor sends one back."""
    model, token_BS = build_model(), tokens(4)
    output = model(token_BS, torch.zeros_like(token_BS, dtype=torch.bool))
    (output.logits_BSHV.sum() + output.value_BS.sum()).backward()
    assert all(bool(grad.isfinite().all()) for grad in gradients(model).values())


def test_packed_documents_give_what_separate_rows_give() -> None:
    """Documents of a pack are apart in attention, and each counts its positions from its own start."""
    model = token_stage("data.packing=true").model
    rows = [row(5, 1), row(7, 2), row(4, 3)]
    packed = batch_of([tuple(rows)])
    together = model(packed.token_BS, packed.valid_BS, packed.document_BS)
    start = 0
    for one in rows:
        alone = batch_of([(one,)])
        apart = model(alone.token_BS, alone.valid_BS, alone.document_BS, plain=alone.plain)
        span = slice(start, start + len(one.token))
        torch.testing.assert_close(together.logits_BSHV[:, span], apart.logits_BSHV, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together.value_BS[:, span], apart.value_BS, rtol=1e-5, atol=1e-6)
        start = span.stop


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_recompute_changes_neither_output_nor_gradients(dropout: float) -> None:
    """Activation checkpointing trades time for memory, nothing else; dropout draws the same masks again."""
    token_BS = tokens(6)
    results = []
    for recompute in (False, True):
        model = build_model(recompute=recompute, dropout=dropout)
        torch.manual_seed(3)
        output = model(token_BS, all_real(token_BS))
        (output.logits_BSHV.logsumexp(-1).sum() + output.value_BS.sum()).backward()
        results.append({"logits": output.logits_BSHV.detach(), **gradients(model)})
    kept, again = results
    assert kept.keys() == again.keys()
    assert [name for name in kept if not torch.equal(kept[name], again[name])] == []


def test_recompute_saves_activations() -> None:
    """With it backward's graph holds fewer bytes."""
    token_BS = tokens(16)
    held = []
    for recompute in (False, True):
        saved: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: (s.append(t.nbytes), t)[1], lambda t: t):
            build_model(recompute=recompute)(token_BS, all_real(token_BS))
        held.append(sum(saved))
    assert held[1] < held[0]


def test_dropout_acts_in_training_only() -> None:
    """In eval mode two forwards are equal."""
    model, token_BS = build_model(dropout=0.5), tokens(6)
    apart = [model(token_BS, all_real(token_BS)).hidden_BSD for _ in range(2)]
    model.eval()
    same = [model(token_BS, all_real(token_BS)).hidden_BSD for _ in range(2)]
    assert (torch.equal(*apart), torch.equal(*same)) == (False, True)


@pytest.mark.parametrize(("to_trunk", "expected"), [(False, {"value_head"}), (True, {"value_head", "trunk"})])
def test_values_train_the_trunk_when_asked_only(to_trunk: bool, expected: set[str]) -> None:
    """The value head's input is detached unless `value_gradient_to_trunk` says otherwise."""
    model, token_BS = build_model(to_trunk=to_trunk), tokens(5)
    model(token_BS, all_real(token_BS)).value_BS.square().sum().backward()
    assert trained(model) == expected


def test_tied_embeddings_are_one_parameter() -> None:
    """The unembedding is the embedding, and gets the gradients of both."""
    model = build_model(tied=True)
    names = [name for name, p in model.named_parameters() if p is model.trunk.embedding.weight]
    assert model.heads.unembedding.weight is model.trunk.embedding.weight
    assert names == ["trunk.embedding.weight"]


def test_value_head_is_not_asked_when_nobody_wants_values() -> None:
    """`with_value=False` gives None and runs nothing."""
    model, token_BS = build_model(), tokens(5)
    calls = []
    model.value_head.register_forward_hook(lambda *_: calls.append(1))
    output = model(token_BS, all_real(token_BS), with_value=False)
    assert (output.value_BS, calls) == (None, [])


def test_model_runs_in_float64() -> None:
    """Double parameters give double outputs throughout."""
    model, token_BS = build_model().double(), tokens(5)
    output = model(token_BS, all_real(token_BS))
    assert {t.dtype for t in output} == {torch.float64}


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, while its compiler is imported
def test_compiled_step_agrees_with_the_eager_one() -> None:
    """torch.compile changes rounding at most."""
    losses = []
    for compile_it in ("false", "true"):
        trainer = small_trainer(f"compile={compile_it}")
        work, position, seen = Stage2(trainer), 0, []
        for _ in range(3):
            measured, position = work.advance(position)
            seen.append(measured["loss"])
        losses.append(seen)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)

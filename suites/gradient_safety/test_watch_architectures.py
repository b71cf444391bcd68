"""Two training steps of many architectures under the recorder: nothing is found that is not true, nothing changes."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradgate
from fixtures.architectures import ARCHITECTURES, loss_of

pytest.importorskip("transformers", reason="the architectures are those of the extra [hf]")

# Parameters that truly get no gradient: the library builds them, and this task's loss does not use them.
UNTRAINED = {
    "big-bird": "bert.pooler",  # only the next-sentence head reads it
    "fnet": "fnet.pooler",  # likewise
    "squeezebert": "transformer.pooler",  # only classification reads it
    "led": "led.encoder.layers.0.self_attn.longformer_self_attn.query_global",  # no token has global attention
    "dinov2": "dinov2.embeddings.mask_token",  # only masked-image training uses it
    "xlnet": "transformer.mask_emb",  # only with a target mapping; segment embeddings likewise
}
FAST = ("gpt2", "qwen3-moe", "bert", "t5", "resnet")
# The modes in which each is run: how attention is computed, the dtype, checkpointing.
MODES = ("plain", "eager attention and bfloat16", "checkpointing", "reentrant checkpointing")
PLAIN_BREAKS = {("deberta", MODES[1])}  # its mask constant does not fit bfloat16: a true GG304, not watch's doing


def prepared(name: str, mode: str) -> tuple[nn.Module, dict[str, object]]:
    """A tiny model in a mode; skips where it does not know the mode."""
    torch.manual_seed(0)
    model, batch = ARCHITECTURES[name]()
    if mode == MODES[1]:
        model.set_attn_implementation("eager")
    elif mode != "plain":
        if not model.supports_gradient_checkpointing:
            pytest.skip("no gradient checkpointing in this architecture")
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": "reentrant" in mode})
    return model.train(), batch


def trained(name: str, mode: str, *, watched: bool) -> tuple[list[Tensor | None], list[gradgate.Finding]]:
    """Losses, gradients and parameters of two steps; what the recorder found."""
    model, batch = prepared(name, mode)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses: list[Tensor | None] = []

    def steps() -> None:
        for step in range(2):
            optimizer.zero_grad()
            torch.manual_seed(step)
            np.random.seed(step)  # wav2vec2 and its kin draw their masks from the global generator
            random.seed(step)
            with torch.autocast("cpu", torch.bfloat16, enabled="bfloat16" in mode):
                loss = loss_of(model(**batch))
            loss.backward()
            losses.append(loss.detach().clone())
            optimizer.step()

    if not watched:
        steps()
        found: list[gradgate.Finding] = []
    else:
        with gradgate.watch(model, optimizer) as watch:
            steps()
        found = watch.findings
    parameters = list(model.parameters())
    return [*losses, *(parameter.grad for parameter in parameters), *(p.detach() for p in parameters)], found


def require_quiet(name: str, mode: str) -> None:
    """Bit-equal to the unwatched run, and no finding but the true ones."""
    if (name, mode) in PLAIN_BREAKS:
        with pytest.raises(RuntimeError, match="without overflow"):
            trained(name, mode, watched=False)
        return
    plain, _ = trained(name, mode, watched=False)
    watched, found = trained(name, mode, watched=True)
    assert [loud.headline() for loud in found if not _is_true(name, loud)] == []
    assert bool(found) == (name in UNTRAINED)
    for before, after in zip(plain, watched, strict=True):
        assert (before is None) == (after is None)
        assert before is None or torch.equal(before, after)


def _is_true(name: str, finding: gradgate.Finding) -> bool:
    return finding.kind == "missing_grad" and f"`{UNTRAINED.get(name)}` gets no gradient" in finding.message


@pytest.mark.filterwarnings("ignore")  # the library's own, on configurations this small
@pytest.mark.parametrize("name", FAST)
def test_watch_is_quiet_on_an_architecture(name: str):
    """A decoder, a mixture of experts, an encoder, an encoder-decoder, a convolutional network."""
    require_quiet(name, "plain")


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_watch_is_quiet_on_every_architecture(name: str, mode: str):
    """All of them, in each mode that they know."""
    require_quiet(name, mode)


def test_architectures_are_enough():
    """The promise is about forty at least."""
    assert len(ARCHITECTURES) >= 60

"""Hugging Face models in the places of our own: tiny ones with random weights, from a local folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fixtures.small_runs import batch_of, row, settings, small_trainer, train_small, wmtp_train
from wmtp import hf
from wmtp.errors import ConfigError
from wmtp.hf import HuggingFaceTrunk, load_causal_trunk, load_sequence_classifier
from wmtp.progress import quiet
from wmtp.train import dry_run
from wmtp.trainer import build

transformers = pytest.importorskip("transformers", reason="needs the extra gradgate[hf]")
VOCAB = 259
COMMON = {"vocab_size": VOCAB, "bos_token_id": 257, "eos_token_id": 258, "pad_token_id": 258}
SHAPES: dict[str, dict[str, Any]] = {
    "GPT2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64},
    "Llama": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 1, "max_position_embeddings": 64},
    "Qwen2": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "num_key_value_heads": 1, "max_position_embeddings": 64},
    "Bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
}  # fmt: skip


def save(folder: Path, family: str, kind: str = "ForCausalLM", **changes: Any) -> Path:
    """A tiny model of a family with random weights, as its folder."""
    kind = "LMHeadModel" if (family, kind) == ("GPT2", "ForCausalLM") else kind
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**(COMMON | SHAPES[family] | changes))
    getattr(transformers, f"{family}{kind}")(config).save_pretrained(folder)
    return folder


@pytest.fixture
def causal(tmp_path: Path) -> Path:
    return save(tmp_path / "llama", "Llama")


@pytest.mark.parametrize("family", SHAPES)
def test_causal_model_becomes_the_trunk(family: str, tmp_path: Path) -> None:
    """Both stages run on it, and the loss falls."""
    folder = save(tmp_path / "model", family)
    lines = train_small(tmp_path / "run", f"model.hf={folder}", "optim.lr=0.01", "train.max_steps=6")
    heldout = [line["heldout_cross_entropy"] for line in lines if "heldout_cross_entropy" in line]
    assert heldout[-1] < heldout[0]


@pytest.mark.parametrize("family", SHAPES)
def test_trunk_gives_what_the_model_gives(family: str, tmp_path: Path) -> None:
    """Its hidden states are the library's own, padding on the right or not."""
    folder = save(tmp_path / "model", family)
    trunk = load_causal_trunk(folder).eval()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    batch = batch_of([(row(7, 1),), (row(4, 2),)])
    with torch.no_grad():
        hidden_BSD = trunk(batch.token_BS, batch.valid_BS, None, True)
        for b, length in enumerate((7, 4)):
            expected = model(batch.token_BS[b : b + 1, :length], output_hidden_states=True).hidden_states[-1]
            torch.testing.assert_close(hidden_BSD[b, :length], expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_padding_on_the_left_changes_nothing(family: str, tmp_path: Path) -> None:
    """Positions count from the first real token, also where they are learned."""
    trunk = load_causal_trunk(save(tmp_path / "model", family)).eval()
    token_BS = torch.tensor([row(6, 1).token])
    padded_BS = torch.cat((torch.full((1, 3), 258), token_BS), dim=1)
    valid_BS = torch.arange(9)[None] >= 3
    with torch.no_grad():
        bare = trunk(token_BS, torch.ones(1, 6, dtype=torch.bool), None, True)
        padded = trunk(padded_BS, valid_BS, None, False)
    torch.testing.assert_close(padded[:, 3:], bare, rtol=1e-4, atol=1e-5)


def test_recompute_changes_no_gradient(causal: Path) -> None:
    """Activation checkpointing by the library's own means."""
    grads = []
    for recompute in (False, True):
        trunk = load_causal_trunk(causal, recompute=recompute).train()
        batch = batch_of([(row(7, 1),)])
        trunk(batch.token_BS, batch.valid_BS, None, True).square().sum().backward()
        grads.append({name: p.grad for name, p in trunk.named_parameters() if p.grad is not None})
    assert grads[0]
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-6)


def test_weights_are_trained_in_float32_whatever_the_file_holds(causal: Path, tmp_path: Path) -> None:
    """Half-precision files are widened: parameters stay float32, autocast narrows the forward."""
    transformers.AutoModelForCausalLM.from_pretrained(causal).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert {p.dtype for p in load_causal_trunk(tmp_path / "half").parameters()} == {torch.float32}


def test_recompute_is_refused_where_the_model_cannot(causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is named."""
    monkeypatch.setattr(transformers.LlamaPreTrainedModel, "supports_gradient_checkpointing", False)
    with pytest.raises(ConfigError, match=r"^recompute: this model.hf cannot: "):
        load_causal_trunk(causal, recompute=True)


def test_recompute_knows_the_switch_of_older_versions() -> None:
    """Before version 5 it had another name, and another default."""
    given: list[Any] = []

    class Old:
        def gradient_checkpointing_enable(self, **arguments: Any) -> None:
            given.append(arguments)

    hf._recompute(Old())
    assert given == [{"gradient_checkpointing_kwargs": {"use_reentrant": False}}]


def test_embedding_can_be_tied_to_the_heads(causal: Path) -> None:
    """One parameter, in one group of the optimizer."""
    trainer = small_trainer(f"model.hf={causal}", "model.tie_embeddings=true")
    assert isinstance(trainer.model.trunk, HuggingFaceTrunk)
    assert trainer.model.heads.unembedding.weight is trainer.model.trunk.embedding.weight


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"vocab_size": 200, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}, (),
         "knows 200 tokens, data.tokenizer 259"),
        ({"max_position_embeddings": 20}, (), "knows 20 positions, data.max_length is 64"),
        ({}, ("data.packing=true",), "packed rows need our own trunk; set data.packing: false with model.hf"),
    ],
)  # fmt: skip
def test_trunk_is_refused_when_it_does_not_fit_the_data(
    changes: dict[str, Any], overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    """Too few tokens, too few positions, packed rows: before anything is trained or written."""
    folder = save(tmp_path / "model", "Llama", **changes)
    ended = wmtp_train(tmp_path / "run", *(x for o in (f"model.hf={folder}", *overrides) for x in ("--set", o)))
    assert (ended.code, message in ended.err, (tmp_path / "run").exists()) == (2, True, False)


def test_trunk_refuses_documents(causal: Path) -> None:
    """Nobody sees across documents unawares."""
    batch = batch_of([(row(3, 1), row(3, 2))])
    with pytest.raises(ValueError, match=r"^document_BS is given; a Hugging Face trunk does not keep documents apart"):
        load_causal_trunk(causal)(batch.token_BS, batch.valid_BS, batch.document_BS, False)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "is no folder with a Hugging Face model"),
        (lambda folder: folder.mkdir(), "holds no model that loads as AutoModelForCausalLM: "),
        (lambda folder: (folder.mkdir(), (folder / "config.json").write_text("{")), "holds no model that loads as"),
    ],
)
def test_folder_is_refused_when_it_holds_no_model(make: Any, message: str, tmp_path: Path) -> None:
    """One line with the first of the library's reasons."""
    make(tmp_path / "model")
    with pytest.raises(ConfigError) as caught:
        load_causal_trunk(tmp_path / "model")
    assert str(caught.value).startswith(f"model.hf: '{tmp_path}/model' {message}")
    assert "\n" not in str(caught.value)


def test_model_is_refused_when_the_extra_is_missing(causal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what to install."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"^model.hf: needs the extra 'hf': pip install 'gradgate\[hf\]' \("):
        load_causal_trunk(causal)


def test_classifier_scores_rows_whatever_their_tokens_are(tmp_path: Path) -> None:
    """A row that ends with the model's pad id, or is padded with anything, gets the score it gets alone."""
    folder = save(tmp_path / "model", "Llama", "ForSequenceClassification", num_labels=1)
    model = load_sequence_classifier(folder, VOCAB).eval()
    bare = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    bare.config.pad_token_id = None
    token_BS = torch.tensor([[1, 2, 258, 258], [3, 4, 5, 6], [7, 0, 0, 0]])
    valid_BS = torch.tensor([[True] * 4, [True] * 4, [True] + [False] * 3])
    with torch.no_grad():
        expected = torch.cat([bare(row[real][None]).logits[:, 0] for row, real in zip(token_BS, valid_BS, strict=True)])
        torch.testing.assert_close(model(token_BS, valid_BS), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_labels": 3}, "has 3 outputs, expected one"),
        ({"num_labels": 1, "vocab_size": 200, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2},
         "knows 200 tokens, data.tokenizer has 259"),
    ],
)  # fmt: skip
def test_classifier_is_refused_when_it_does_not_fit(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    """One output, and as many tokens as the tokenizer has."""
    folder = save(tmp_path / "model", "Llama", "ForSequenceClassification", **changes)
    with pytest.raises(ConfigError, match=f"^paths.reward_model: .* {message}$"):
        load_sequence_classifier(folder, VOCAB)


def test_classifier_rewards_a_run(tmp_path: Path) -> None:
    """`critic.reward: model` takes its folder."""
    folder = save(tmp_path / "model", "Llama", "ForSequenceClassification", num_labels=1)
    lines = train_small(tmp_path / "run", "critic.reward=model", f"paths.reward_model={folder}")
    assert lines[-1]["step"] == 4


def test_tokenizer_and_trunk_come_from_one_folder(tmp_path: Path) -> None:
    """A Hugging Face tokenizer beside its model: a run on plain text."""
    tokenizers = pytest.importorskip("tokenizers")
    folder, data = tmp_path / "model", tmp_path / "rows.txt"
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "a": 1, "b": 2, "end": 3}, unk_token="?"))  # noqa: S106
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = {"unk_token": "?", "eos_token": "end"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **special).save_pretrained(folder)
    save(folder, "Qwen2", vocab_size=8, bos_token_id=3, eos_token_id=3, pad_token_id=3)
    data.write_text("a b a b\nb a b a\na a b b\n")
    config, recipe = settings("run", f"model.hf={folder}", f"data.tokenizer={folder}", f"data.path={data}")
    assert dry_run(config, recipe, quiet())["training_rows"] == 2
    assert build(config, recipe, quiet()).model.heads.unembedding.out_features == 8

"""Tokenizers: bytes round-trip; a Hugging Face folder loads, or one message says why not."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.data.tokenizer import ByteTokenizer, load_tokenizer
from wmtp.errors import ConfigError


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bytes_round_trip(text: str) -> None:
    """Any text comes back from its bytes, and no id is a special one."""
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= token < 256 for token in ids)


def test_bytes_leave_special_tokens_out_of_text() -> None:
    """Pad, begin and end lie above the bytes, inside the vocabulary, and are not decoded."""
    tokenizer = load_tokenizer("bytes")
    special = [tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id]
    assert (special, tokenizer.vocab_size) == ([256, 257, 258], 259)
    assert tokenizer.decode([257, 104, 105, 258, 256]) == "hi"


def test_bytes_decode_what_is_no_text() -> None:
    """Half a character decodes to the replacement character, not to an error."""
    assert ByteTokenizer().decode([0xC3]) == "�"


def save_word_tokenizer(folder: Path, **special: str) -> str:
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "b": 2, "[E]": 3}, unk_token="[UNK]")  # noqa: S106 -- no password
    inner = tokenizers.Tokenizer(words)
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **{"unk_token": "[UNK]"} | special)
    fast.save_pretrained(folder)
    return str(folder)


def test_hugging_face_folder_loads(tmp_path: Path) -> None:
    """A local folder becomes a tokenizer; without a pad token the end token pads, since masks say what padding is."""
    tokenizer = load_tokenizer(save_word_tokenizer(tmp_path / "tok", eos_token="[E]"))  # noqa: S106 -- no password
    assert (tokenizer.vocab_size, tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (4, 3, None, 3)
    assert (tokenizer.encode("a b"), tokenizer.decode([1, 3])) == ([1, 2], "a")


def test_hugging_face_tokenizer_pads_with_0_without_special_tokens(tmp_path: Path) -> None:
    """With neither a pad nor an end token, any id will do."""
    assert load_tokenizer(save_word_tokenizer(tmp_path / "tok")).pad_id == 0


def test_missing_folder_is_a_config_error(tmp_path: Path) -> None:
    """A name that is neither 'bytes' nor a folder is refused with the key and the nearest choice."""
    with pytest.raises(ConfigError) as caught:
        load_tokenizer("byte")
    expected = (
        "data.tokenizer: 'byte' is neither 'bytes' nor a folder with a Hugging Face tokenizer; did you mean 'bytes'?"
    )
    assert str(caught.value) == expected
    (tmp_path / "gpt2").mkdir()
    with pytest.raises(ConfigError, match=r"did you mean '.*gpt2'\?"):
        load_tokenizer(str(tmp_path / "gtp2"))
    with pytest.raises(ConfigError, match=r"data\.tokenizer"):
        load_tokenizer(str(tmp_path / "no" / "such"))


def test_folder_without_tokenizer_is_a_config_error(tmp_path: Path) -> None:
    """A folder that holds no tokenizer ends in one line that names the key and the folder."""
    pytest.importorskip("transformers")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        load_tokenizer(str(tmp_path))
    assert str(caught.value).startswith(
        f"data.tokenizer: {str(tmp_path)!r} holds no Hugging Face tokenizer that loads: "
    )
    assert "\n" not in str(caught.value)


def test_missing_extra_is_a_config_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without transformers the message says which extra to install."""
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match=r"data\.tokenizer: .* needs the extra 'hf': pip install 'gradgate\[hf\]'"):
        load_tokenizer(str(tmp_path))

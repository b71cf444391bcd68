"""Tokenizers: bytes by default, a local Hugging Face tokenizer as an extra.

Masks, never ids, say what is padding: a pad id may be any id, one that also occurs in text included.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from wmtp.errors import ConfigError, nearest


class Tokenizer(Protocol):
    """What the trainer needs of a tokenizer. `encode` adds no special tokens; `decode` leaves them out."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, special tokens included."""

    @property
    def pad_id(self) -> int:
        """What fills padding; carries no meaning, the mask does."""

    @property
    def bos_id(self) -> int | None:
        """Begin of sequence, where the tokenizer has one."""

    @property
    def eos_id(self) -> int | None:
        """End of sequence, where the tokenizer has one."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, in [0, vocab_size)."""

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`."""


class ByteTokenizer:
    """UTF-8 bytes 0 to 255, then pad, begin and end."""

    vocab_size: int = 259
    pad_id: int = 256
    bos_id: int | None = 257
    eos_id: int | None = 258

    def encode(self, text: str) -> list[int]:
        """The UTF-8 bytes of `text`."""
        return list(text.encode("utf-8"))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of the ids below 256; bytes that are not UTF-8 become U+FFFD."""
        return bytes(token for token in ids if token < 256).decode("utf-8", errors="replace")


class HuggingFaceTokenizer:
    """A Hugging Face tokenizer behind the names the trainer uses.

    Args:
        inner: what `transformers.AutoTokenizer` loaded.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.vocab_size: int = len(inner)
        self.bos_id: int | None = inner.bos_token_id
        self.eos_id: int | None = inner.eos_token_id
        pad = next((token for token in (inner.pad_token_id, self.eos_id) if token is not None), 0)
        self.pad_id: int = pad

    def encode(self, text: str) -> list[int]:
        """Ids of `text` without special tokens."""
        return list(self.inner.encode(text, add_special_tokens=False))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids` without special tokens."""
        return str(self.inner.decode(list(ids), skip_special_tokens=True))


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that `data.tokenizer` names. Reads local files only; nothing is downloaded.

    Args:
        name: "bytes", or the folder of a Hugging Face tokenizer.

    Returns:
        A tokenizer.

    Raises:
        ConfigError: there is no such folder, it holds no tokenizer, or the extra `hf` is not installed.
    """
    if name == "bytes":
        return ByteTokenizer()
    folder = Path(name)
    if not folder.is_dir():
        raise ConfigError(
            f"data.tokenizer: {name!r} is neither 'bytes' nor a folder with a Hugging Face tokenizer"
            f"{nearest(name, ['bytes', *_neighbours(folder)])}"
        )
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise ConfigError(
            f"data.tokenizer: the tokenizer in {name!r} needs the extra 'hf': pip install 'gradgate[hf]' ({error})"
        ) from error
    try:
        return HuggingFaceTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except Exception as error:  # the library raises OSError, ValueError, KeyError, TypeError and its own
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"data.tokenizer: {name!r} holds no Hugging Face tokenizer that loads: {reason}") from error


def _neighbours(folder: Path) -> list[str]:
    """Folders beside `folder`, named as the user would have named them."""
    try:
        return [str(folder.parent / entry.name) for entry in folder.parent.iterdir() if entry.is_dir()]
    except OSError:
        return []

"""Data: examples, readers of files, the embedded corpus, damaged copies, the split, tokenizers. None of it needs torch;
`wmtp.data.batches`, which makes batches of it, does.
"""

from wmtp.data.corpus import embedded_corpus
from wmtp.data.damage import damaged_copies
from wmtp.data.examples import Example
from wmtp.data.readers import read_examples
from wmtp.data.split import split_by_task
from wmtp.data.tokenizer import ByteTokenizer, Tokenizer, load_tokenizer

__all__ = [
    "ByteTokenizer",
    "Example",
    "Tokenizer",
    "damaged_copies",
    "embedded_corpus",
    "load_tokenizer",
    "read_examples",
    "split_by_task",
]

"""A stage of the adapter that `gradgate init` writes: its text with gaps, what it is of, and what it comes to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from gradgate.commands.rewriting import alias_of

STAGE = '''

class {title}({rows}gradgate.{base}):{note}
    """{target}"""

    # Call a critic's loss value_loss, that of weighted heads wmtp_loss: the name, then where it is.
    terms = {{{terms}}}
{attributes}
    def __init__(self, seed, *, dtype=torch.float32, device="cpu", options=None):
        torch.manual_seed(seed)
{build}
        self.modules = {{{modules}}}
        self.optimizers = [{optimizers}]
{behind}{step}{batches}{more}'''
BY_TOKENS = "gradgate.TokenRows, "
OWN_ROWS = "  # without TokenRows: select_rows, tokens, pad of your own"
BATCHES = """
    def batches(self):  # REPLACE: rows of tokens with a reward each to what your loop takes for a batch
        for rows in gradgate.toy_rows(self.seed):
            yield collate(rows)
"""
LOSS = re.compile(r"loss|kl|entropy|nll|(^|_)(ce|mse|main|extra|aux)")


@dataclass(frozen=True)
class Target:
    """One of the functions or methods that train.

    Args:
        module: where it is.
        name: its name there: `main`, `Trainer.fit`.
        function: what was loaded.
    """

    module: str
    name: str
    function: Any

    @property
    def alias(self) -> str:
        """What the adapter calls the module."""
        return alias_of(self.module)

    @property
    def owner(self) -> str:
        """The class whose method it is; empty: a function."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Part:
    """What one target gives to the adapter.

    Args:
        text: of its class.
        stage: the line of the subject.
        paths: lines that import from the standard library.
        imports: lines that import from the trainer.
        constants: lines in front of the classes.
    """

    text: str
    stage: str
    paths: tuple[str, ...] = ()
    imports: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()

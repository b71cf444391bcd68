"""Builds what a run needs from its settings: device, data, model; and writes and loads the model's files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wmtp import checkpoint
from wmtp.data.batches import Batch, Order, Pack, Row, collate, pack_rows, tokenise, uncounted
from wmtp.data.corpus import embedded_corpus
from wmtp.data.damage import damaged_copies
from wmtp.data.examples import Example
from wmtp.data.readers import read_examples
from wmtp.data.split import split_by_task
from wmtp.data.tokenizer import Tokenizer, load_tokenizer
from wmtp.errors import ConfigError
from wmtp.model import CriticWmtp, Heads, Trunk, ValueHead
from wmtp.parallel import whole_state
from wmtp.processes import ALONE, Processes
from wmtp.settings import DataSection, Recipe

if TYPE_CHECKING:
    from wmtp.hf import HuggingFaceTrunk

MODEL_KIND = "model"
VALUE_HEAD_KIND = "value head"


@dataclass(frozen=True)
class Data:
    """The rows of a run.

    Attributes:
        tokenizer: what made the tokens.
        examples: all rows; `Row.index` points here.
        train: packs to train on.
        heldout: rows to evaluate on, of other tasks.
        cut: how many rows were longer than `data.max_length`.
    """

    tokenizer: Tokenizer
    examples: tuple[Example, ...]
    train: tuple[Pack, ...]
    heldout: tuple[Row, ...]
    cut: int

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all rows' tasks and texts: a resumed run goes on with the same."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(repr((example.task_id, example.prompt, example.completion)).encode())
        return digest.hexdigest()


class Collator:
    """Makes batches of a run's rows.

    Args:
        data: the rows.
        recipe: data, train and critic sections.
        reward_N: Float[N], the reward of each row.
        seed: of the order of training.
        processes: those that share each batch's rows.
    """

    def __init__(self, data: Data, recipe: Recipe, reward_N: Tensor, seed: int, processes: Processes = ALONE) -> None:
        self.data, self.recipe, self.reward_N, self.processes = data, recipe, reward_N, processes
        self.order = Order(len(data.train), recipe.data.batch_size, seed)

    def batch(self, packs: Sequence[Pack]) -> Batch:
        """A batch of these packs, on the CPU."""
        return collate(
            packs,
            self.reward_N,
            horizon=self.recipe.train.horizon,
            reward_placement=self.recipe.critic.reward_placement,
            train_on=self.recipe.data.train_on,
            pad_id=self.data.tokenizer.pad_id,
        )

    def share(self, packs: Sequence[Pack]) -> Batch:
        """This process's rows of a batch. Without any it still joins the others, with a row that counts nothing."""
        own = self.processes.share(packs)
        return self.batch(own) if own else uncounted(self.batch(packs[:1]))

    def train_batches(self, position: int) -> Iterator[tuple[Batch, int]]:
        """Training batches in order, without an end, each with the position behind it."""
        for indices, behind in self.order.from_position(position):
            yield self.share([self.data.train[i] for i in indices]), behind

    def in_turn(self, packs: Sequence[Pack]) -> list[Batch]:
        """Packs in their own order, as batches, this process's rows of each."""
        size = self.recipe.data.batch_size
        return [self.share(packs[i : i + size]) for i in range(0, len(packs), size)]

    def own_rows(self, count: int) -> list[int]:
        """Which of so many packs, in turn, are this process's, in the order of `in_turn`."""
        size = self.recipe.data.batch_size
        return [i for start in range(0, count, size) for i in self.processes.share(range(count)[start : start + size])]

    def heldout(self) -> list[Batch]:
        """The held-out rows, in order."""
        return self.in_turn([(row,) for row in self.data.heldout])


def choose_device(name: str) -> torch.device:
    """The device that the config asks for.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda"):
        number = int(name.partition(":")[2] or 0)
        if not torch.cuda.is_available() or number >= torch.cuda.device_count():
            raise ConfigError(
                f"device is {name!r}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu or auto"
            )
    return torch.device(name)


def prepare_data(recipe: Recipe, seed: int) -> Data:
    """Read, damage, tokenise, split and pack the rows.

    Raises:
        DataError: names file and line of what cannot be read.
        ConfigError: the tokenizer cannot be loaded.
    """
    section = recipe.data
    tokenizer = load_tokenizer(section.tokenizer)
    if section.path is None:
        examples = embedded_corpus(seed, section.tasks)
    else:
        examples = read_examples(Path(section.path), section.format)
    examples = examples[: section.rows]
    if section.damaged_copies:
        examples = [row for e in examples for row in (e, *damaged_copies(e, seed, section.damaged_copies))]
    _, heldout_examples = split_by_task(examples, section.heldout_fraction, seed)
    heldout_tasks = {example.task_id for example in heldout_examples}
    rows, cut = tokenise(examples, tokenizer, section.max_length)
    train = [row for row in rows if row.task_id not in heldout_tasks]
    return Data(
        tokenizer=tokenizer,
        examples=tuple(examples),
        train=tuple(pack_rows(train, section.max_length, section.packing)),
        heldout=tuple(row for row in rows if row.task_id in heldout_tasks),
        cut=cut,
    )


def build_model(recipe: Recipe, tokenizer: Tokenizer, *, recompute: bool = False) -> CriticWmtp:
    """The model of a recipe, on the CPU, from the current random state.

    Raises:
        ConfigError: the Hugging Face trunk cannot be loaded, or does not fit the data.
    """
    section = recipe.model
    if section.hf is not None:
        trunk: Trunk | HuggingFaceTrunk = _causal_trunk(section.hf, recipe.data, tokenizer, recompute)
    else:
        trunk = Trunk(
            tokenizer.vocab_size,
            width=section.width,
            layers=section.layers,
            attention_heads=section.attention_heads,
            dropout=section.dropout,
            recompute=recompute,
        )
    tied = trunk.embedding if section.tie_embeddings else None
    heads = Heads(trunk.width, recipe.train.horizon, trunk.vocab_size, tied)
    value_head = ValueHead(trunk.width)
    return CriticWmtp(trunk, heads, value_head, value_gradient_to_trunk=recipe.critic.value_gradient_to_trunk)


def _causal_trunk(folder: str, data: DataSection, tokenizer: Tokenizer, recompute: bool) -> HuggingFaceTrunk:
    from wmtp.hf import load_causal_trunk

    if data.packing:
        raise ConfigError("data.packing: packed rows need our own trunk; set data.packing: false with model.hf")
    trunk = load_causal_trunk(Path(folder), recompute=recompute)
    if trunk.vocab_size < tokenizer.vocab_size:
        raise ConfigError(f"model.hf: {folder} knows {trunk.vocab_size} tokens, data.tokenizer {tokenizer.vocab_size}")
    if trunk.positions is not None and trunk.positions < data.max_length:
        raise ConfigError(f"model.hf: {folder} knows {trunk.positions} positions, data.max_length is {data.max_length}")
    return trunk


def save_model(
    path: Path, model: CriticWmtp, recipe: Recipe, metrics: dict[str, float], processes: Processes = ALONE
) -> None:
    """Write a model's weights with the recipe that made them and how well it does; the leader does. Collective."""
    state = {"model": whole_state(model, processes), "recipe": recipe.model_dump_json(), "metrics": metrics}
    processes.led(lambda: checkpoint.save(path, {"kind": MODEL_KIND} | state))


def load_model(model: CriticWmtp, path: Path) -> None:
    """Load weights that `save_model` wrote, all or none."""
    state = checkpoint.load(path)
    checkpoint.require_kind(path, state, MODEL_KIND, ("model",))
    checkpoint.load_module(model, state["model"], path, "model")


def save_value_head(path: Path, model: CriticWmtp, processes: Processes = ALONE) -> None:
    """Write the value head, for Stage 2 or another run's `paths.value_head`; the leader does. Collective."""
    state = {"kind": VALUE_HEAD_KIND, "value_head": whole_state(model.value_head, processes)}
    processes.led(lambda: checkpoint.save(path, state))


def load_value_head(model: CriticWmtp, path: Path) -> None:
    """Load Stage 1's value head, all or none.

    Raises:
        CheckpointError: the file is no value head, is damaged, or has another shape.
    """
    state = checkpoint.load(path)
    checkpoint.require_kind(path, state, VALUE_HEAD_KIND, ("value_head",))
    checkpoint.load_module(model.value_head, state["value_head"], path, "value head")

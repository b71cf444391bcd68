"""Which heads' logits reach what lies below all of them: the token embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.subjects.contract import Context, Stage
from gradgate.subjects.outputs import HEADED, logits_of


@dataclass(frozen=True, slots=True)
class Unreached:
    """Heads of a stage whose logits give a module no gradient, though others do.

    Args:
        term: the loss term that is declared to train the module.
        module: its name in `Run.modules`.
        heads: their numbers, from 0.
        count: how many heads there are.
    """

    term: str
    module: str
    heads: tuple[int, ...]
    count: int


def unreached_heads(stage: Stage, context: Context) -> list[Unreached]:
    """Modules with embeddings that are declared to be trained, each with the heads that do not reach its embeddings.

    One batch is looked at, in float64. What is asked is the gradient at what an embedding gives, not at its weight: a
    head that is tied to it reaches the weight by itself. Modules that no head reaches are left out.
    """
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    if run.logits_from is None:
        return []
    trained: dict[str, str] = {}  # by the first term that is declared to: that of the heads, mostly
    for term, modules in (stage.edges or {}).items():
        for module in modules:
            if module in run.modules:
                trained.setdefault(module, term)
    embedded: dict[str, list[Tensor]] = {name: [] for name in trained}
    with ExitStack() as stack, seeded(context.seed):
        for name, kept in embedded.items():
            for part in _embeddings(run.modules[name]):
                stack.callback(part.register_forward_hook(_keeping(kept)).remove)
        outputs = stack.enter_context(logits_of(run.modules[run.logits_from]))
        for batch in islice(run.batches(), 1):
            with calling("losses()"):
                terms = run.losses(batch)
    found = []
    for name, term in trained.items():
        heads = _lacking(outputs, embedded[name], context.seed) if term in terms else []
        if heads and len(heads) < outputs[0].shape[-2]:
            found.append(Unreached(term, name, tuple(heads), outputs[0].shape[-2]))
    return found


def _embeddings(module: nn.Module) -> Iterator[nn.Module]:
    return (part for part in module.modules() if isinstance(part, nn.Embedding))


def _keeping(kept: list[Tensor]) -> Any:
    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            kept.append(output)

    return keep


def _lacking(outputs: Sequence[Tensor], embedded: Sequence[Tensor], seed: int) -> list[int]:
    """The heads whose logits have no gradient at any embedding; none where it is not known which logits are whose."""
    if len(outputs) != 1 or outputs[0].dim() != HEADED or not embedded:
        return []
    logits = outputs[0]
    weight = torch.rand(logits.shape[-1], generator=torch.Generator().manual_seed(seed)).to(
        logits
    )  # no sum is constant
    lacking = []
    for head in range(logits.shape[-2]):
        gradients = torch.autograd.grad(
            (logits[..., head, :] * weight).sum(), list(embedded), retain_graph=True, allow_unused=True
        )
        if not any(gradient is not None and gradient.any() for gradient in gradients):
            lacking.append(head)
    return lacking

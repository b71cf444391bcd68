"""Numbers that are not finite, put into one place of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gradgate.checks import batches as trees
from gradgate.checks.snapshot import named_parameters
from gradgate.subjects.contract import Batch, Run


def _plainly(run: Run) -> AbstractContextManager[None]:  # noqa: ARG001
    return nullcontext()


@dataclass(frozen=True)
class Injection:
    """One place for a NaN or Inf.

    Args:
        where: the place, in words.
        value: nan or inf.
        batch: batch -> the batch to step on.
        installed: run -> a context in which the step is taken.
    """

    where: str
    value: float
    batch: Callable[[Batch], Batch] = lambda batch: batch
    installed: Callable[[Run], AbstractContextManager[None]] = _plainly


def in_field(path: trees.Path, value: float) -> Injection:
    """Into all of a floating field of the batch."""

    def poisoned(batch: Batch) -> Batch:
        leaf = next(leaf for at, leaf in trees.floating_leaves(batch) if at == path)
        return trees.replaced(batch, path, trees.filled(leaf, value))

    return Injection(f"`{trees.named(path)}`", value, batch=poisoned)


def in_gradient(name: str, value: float) -> Injection:
    """Into all of a parameter's gradient, as backward makes it."""

    @contextmanager
    def hooked(run: Run) -> Iterator[None]:
        parameter = next(p for p, known in named_parameters(run).items() if known == name)
        handle = parameter.register_hook(lambda grad: torch.full_like(grad, value))
        try:
            yield
        finally:
            handle.remove()

    return Injection(f"the gradient of `{name}`", value, installed=hooked)


def in_output(name: str) -> Injection:
    """NaN into all floating tensors that a module of the run returns."""

    def poison(module: nn.Module, args: Any, output: Any) -> Any:  # noqa: ARG001
        return tree_map(lambda x: x * nan if isinstance(x, Tensor) and x.is_floating_point() else x, output)

    @contextmanager
    def hooked(run: Run) -> Iterator[None]:
        handle = run.modules[name].register_forward_hook(poison)
        try:
            yield
        finally:
            handle.remove()

    return Injection(f"the output of module `{name}`", nan, installed=hooked)

"""Numbers that are not finite, or an error, put into one place of a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from gradgate.checks import batches as trees
from gradgate.checks.snapshot import named_parameters
from gradgate.subjects.contract import Batch, Run


class InjectedError(Exception):
    """Raised on purpose inside the subject."""


def _plainly(run: Run) -> AbstractContextManager[None]:  # noqa: ARG001
    return nullcontext()


@dataclass(frozen=True)
class Injection:
    """One place for a NaN or Inf.

    Args:
        where: the place, in words.
        value: nan or inf; of an error it says nothing.
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

    return Injection(f"the output of module `{name}`", nan, installed=partial(_behind_forward, name, poison))


def error_in_forward(name: str) -> Injection:
    """An error behind the forward of a module of the run."""
    return Injection(f"the forward of `{name}`", nan, installed=partial(_behind_forward, name, _raise))


def error_in_backward() -> Injection:
    """An error where the first gradient of a parameter is made."""

    @contextmanager
    def hooked(run: Run) -> Iterator[None]:
        parameters = [each for module in run.modules.values() for each in module.parameters() if each.requires_grad]
        with ExitStack() as stack:
            for parameter in parameters:
                stack.callback(parameter.register_hook(_raise).remove)
            yield

    return Injection("the backward", nan, installed=hooked)


@contextmanager
def _behind_forward(name: str, hook: Callable[..., Any], run: Run) -> Iterator[None]:
    handle = run.modules[name].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _raise(*_: Any) -> None:
    raise InjectedError("injected on purpose")

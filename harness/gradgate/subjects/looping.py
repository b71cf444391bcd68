"""Looping: a trainer's own loop on given scores, counted, for `Stage.loop`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from gradgate.core.errors import SubjectError
from gradgate.subjects.contract import Looped


def looped(
    run: Callable[[], Any],
    owner: Any,
    evaluate: str,
    scores: Iterable[float],
    *,
    told: Callable[[float], Any] = lambda score: score,
) -> Looped:
    """Run a trainer's loop to its end with its evaluation replaced, and count.

    Args:
        run: the loop: `lambda: trainer.fit(loader)`, on a loader that ends its epochs and can begin anew.
        owner: the trainer, or the module, that has the evaluation.
        evaluate: its name there.
        scores: what it is to find, in order; smaller is better.
        told: a score as the evaluation returns it: `lambda score: {"eval_loss": score}`.

    Returns:
        Steps of the optimizer that steps first, and evaluations.

    Raises:
        SubjectError: the owner has no such evaluation, or the loop asked for more scores than there are.
    """
    if not hasattr(owner, evaluate):
        raise SubjectError(f"looped(): {type(owner).__name__} has no {evaluate!r}")
    given, steps, evaluated = iter(scores), dict[int, int](), list[int]()

    def made() -> int:
        return next(iter(steps.values()), 0)

    def count(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        steps[id(optimizer)] = steps.get(id(optimizer), 0) + 1

    def answer(*_: Any, **__: Any) -> Any:
        score = next(given, None)
        if score is None:
            raise SubjectError(f"looped(): the loop evaluated more than {len(evaluated)} times and does not end")
        evaluated.append(made())
        return told(score)

    handle = register_optimizer_step_pre_hook(count)
    try:
        with patch.object(owner, evaluate, answer):
            run()
    finally:
        handle.remove()
    return Looped(made(), len(evaluated), evaluated[-1] if evaluated else 0)

"""A whole fit out of a stage's own run: for stages whose trainer has no small corpus and no evaluation to call."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks import oracles
from gradgate.core.errors import SubjectError
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Fit, Run
from gradgate.subjects.outputs import by_head, logits_in

NOTHING = (None, None, None)
UNIFORM = 1e-3  # mean distance of the largest weight from 1/H, as in GG905
OTHER_SEED = 1_000_003  # added to the seed of the run that held-out batches come from


class FitOf:
    """`fit` of a Stage: steps of its run, and what the modules then say on batches of another seed.

    A token stage with `logits` and `tokens` is held by the unweighted cross-entropy of its first head, over the tokens
    that `Run.supervised` names, where there is that; a stage with `rewards` and a module that returns one number a
    position by that number against the row's reward; anything else by its own `total`.

    Args:
        start: the stage's `start`.
        steps: in all; the losses are looked at eight times on the way.
        batches: held out.
    """

    LOOKS = 8

    def __init__(self, start: Callable[..., Run], *, steps: int = 240, batches: int = 16) -> None:
        if steps < self.LOOKS:
            raise SubjectError(f"fit_of: {steps} steps, expected at least {self.LOOKS}")
        self._start, self._steps, self._batches = start, steps, batches

    def __call__(self, seed: int, *, device: str = "cpu") -> Fit:
        """Train and look."""
        run = self._start(seed, device=device)
        held = list(islice(self._start(seed + OTHER_SEED, device=device).batches(), self._batches))
        look = self._look(run, held)
        curve, numbers = [look()], []
        for number, batch in enumerate(islice(run.batches(), self._steps), 1):
            numbers.append(dict(run.step(batch)))
            if number % (self._steps // self.LOOKS) == 0:
                curve.append(look())
        prediction_N, target_N, position_N = _values_of(run, held)
        return Fit(
            tuple(curve),
            prediction_N=prediction_N,
            target_N=target_N,
            position_N=position_N,
            weight_NH=_weights_of(run, held),
            steps=_series(numbers),
        )

    def _look(self, run: Run, held: Sequence[Batch]) -> Callable[[], float]:
        has = declared(run)

        def look() -> float:
            with evaluating(run.modules.values()):
                if {"logits", "tokens"} <= has:
                    losses = [loss for batch in held if (loss := _cross_entropy(run, batch)) is not None]
                    if not losses:
                        raise SubjectError("fit_of: no held-out batch has a label; see `supervised` and `tokens`")
                    return float(torch.stack(losses).mean())
                return float(torch.stack([run.losses(batch)["total"].detach() for batch in held]).mean())

        return look


def fit_of(start: Callable[..., Run], *, steps: int = 240, batches: int = 16) -> FitOf:
    """A `fit` for a Stage, made of the stage's own `start`: for GG506, GG901, GG902, GG903 and, of a run with
    `weights`, GG905.

    Args:
        start: the stage's `start`; its batches must be ones that can be learnt (`gradgate.toy_rows`).
        steps: in all.
        batches: of another seed, that the modules are judged on.
    """
    return FitOf(start, steps=steps, batches=batches)


@contextmanager
def evaluating(modules: Any) -> Iterator[None]:
    """Modules in eval mode inside the block."""
    every = [module for top in modules for module in top.modules()]
    modes = [module.training for module in every]
    try:
        for module in every:
            module.training = False
        yield
    finally:
        for module, mode in zip(every, modes, strict=True):
            module.training = mode


def _weights_of(run: Run, held: Sequence[Batch]) -> Tensor | None:
    """The step's own head weights at held-out positions at which all heads have one.

    None where there are none, and where all are uniform: a stage that starts without the one before it may have a
    critic that has learnt nothing yet.
    """
    if "weights" not in declared(run):
        return None
    with evaluating(run.modules.values()):
        found = [run.weights(batch).detach().double().cpu().flatten(0, -2) for batch in held]
    weight_NH = torch.cat([weight_NH[(weight_NH > 0).all(-1)] for weight_NH in found])
    heads = weight_NH.shape[1]
    is_told = len(weight_NH) > 0 and heads > 1 and float((weight_NH.amax(-1) - 1 / heads).mean()) > UNIFORM
    return weight_NH if is_told else None


def _cross_entropy(run: Run, batch: Batch) -> Tensor | None:
    """Mean of the first head's, in nats, over its labels, those that the run says are trained on; None: it has none."""
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        found = logits_in(output)
        if found is not None:
            seen.append(found.detach())

    with ExitStack() as stack:
        stack.callback(run.modules[str(run.logits_from)].register_forward_hook(keep).remove)
        run.losses(batch)
    if not seen:
        raise SubjectError(f"fit_of: `{run.logits_from}` returned no logits while losses() ran")
    tokens = run.tokens(batch)
    token_BS = tokens.data.cpu()
    logits_BSV = by_head(_whole(seen, len(token_BS)))[:, :, 0]
    if "supervised" in declared(run):
        token_BS = token_BS.masked_fill(~run.supervised(batch).cpu().bool(), oracles.IGNORED)
    label_BS = oracles.labels(token_BS, tokens.valid_BS.cpu(), 1, tokens.document_BS)[..., 0]
    if not bool((label_BS != oracles.IGNORED).any()):
        return None
    return nn.functional.cross_entropy(
        logits_BSV.double().cpu().flatten(0, 1), label_BS.flatten(), ignore_index=oracles.IGNORED
    )


def _whole(seen: Sequence[Tensor], rows: int) -> Tensor:
    """The last of what a module returned, or the parts of the batch in a row where the step splits it."""
    is_split = len(seen[-1]) != rows == sum(map(len, seen))
    return torch.cat(list(seen)) if is_split else seen[-1]


def _values_of(run: Run, held: Sequence[Batch]) -> tuple[Tensor | None, ...]:
    """Predictions, targets and positions at the held-out tokens whose values the loss trains, prompts left out.

    None where no module returns one number at each position.
    """
    if not {"rewards", "valid", "losses"} <= declared(run):
        return NOTHING
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for batch in held:
        valid_BS = run.valid(batch).cpu().bool()
        found = _value(run, batch, valid_BS)
        if found is None:
            return NOTHING
        value_BS, trained_BS = found
        valid_BS = valid_BS & trained_BS if bool((valid_BS & trained_BS).any()) else valid_BS
        reward_B = next(iter(run.rewards(batch).values())).detach().double().cpu()
        position_BS = torch.arange(valid_BS.shape[1]).expand(valid_BS.shape)
        columns.append((value_BS[valid_BS], reward_B[:, None].expand(valid_BS.shape)[valid_BS], position_BS[valid_BS]))
    return tuple(torch.cat(column) for column in zip(*columns, strict=True))


def _value(run: Run, batch: Batch, valid_BS: Tensor) -> tuple[Tensor, Tensor] | None:
    """What a module of the run returned that is one number a position, and where the loss has a gradient at it.

    Returns:
        Double[B, S] and Bool[B, S]; None: no module did.
    """
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel() == valid_BS.numel():
            seen.append(output)

    with ExitStack() as stack, evaluating(run.modules.values()):
        for module in run.modules.values():
            stack.callback(module.register_forward_hook(keep).remove)
        total = run.losses(batch)["total"]
    if not seen:
        return None
    on_graph = [value for value in seen if value.requires_grad] if total.requires_grad else []
    gradients = torch.autograd.grad(total, on_graph, allow_unused=True) if on_graph else ()
    trained_BS = torch.zeros_like(valid_BS)
    for gradient in gradients:
        if gradient is not None:
            trained_BS |= gradient.reshape(valid_BS.shape).cpu() != 0
    return seen[-1].detach().double().cpu().reshape(valid_BS.shape), trained_BS


def _series(numbers: list[dict[str, float]]) -> dict[str, list[float]] | None:
    """Losses and gradient norms of every step, where the steps report both."""
    names = ("loss", "grad_norm")
    if not all(name in each for each in numbers for name in names):
        return None
    return {name: [float(each[name]) for each in numbers] for name in names}

"""A combination of parameter dtype and autocast dtype crashes, gives NaN, or trains fp16 without loss scaling.

## What it detects

A mask constant or an epsilon that float16 cannot hold, an operation that autocast does not have, two dtypes that meet
in a matrix product, a step in float16 whose small gradients become 0 since nothing scales the loss.

## Why it matters

Precision is a switch that users turn. Where it was never run, it fails on their machine, or trains worse in silence.

## How it decides

The stage says which precisions it has (`Stage.precisions`): "fp32", "bf16" and "fp16" for parameters, with "+bf16" or
"+fp16" behind it for autocast. For each, a fresh run is stepped 3 times, and afterwards no parameter and no loss term
may hold a number that is not finite. Trained parameters must have the declared dtype, and behind a "+" some operation
of the last step must compute in that one. Statistic: the combinations that fail; allowed: 0.

Loss scaling: where float16 takes part, the gradient that the first backward leaves in the parameters is held against
that of the loss itself, from the same random state. Statistic: the ratio of their norms; at least 2 is a scaled loss.
Without scaling both are the same numbers and the ratio is 1; scalers start at thousands. A gradient that is 0 or not
finite leaves the question open: the scaler will find its scale.

False-alarm rate: 0.

## Example

Bad:

```python
with torch.autocast("cuda", dtype=torch.float16):
    loss = model(batch)
loss.backward()                                                          # gradients below 6e-8 are 0
```

Good:

```python
scaler.scale(loss).backward()
scaler.unscale_(optimizer)
scaler.step(optimizer)
```

## How to fix

Take mask values from `torch.finfo`, keep sums and softmaxes in float32, scale the loss for float16.

## Known limits

Only the precisions that the stage declares are tried, on its small run. How far results are from float32's is GG305's
question. Scaling is judged by the first backward of the first step.

## Sources

Faults PR-01, PR-02 and PR-13 of the fault catalogue; Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gradgate.checks.own_lines import Line, named
from gradgate.checks.precision_lines import line_of_autocast, line_of_backward, line_of_cast, line_of_refusal
from gradgate.checks.raised import SubjectRaisedError, calling
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.core.errors import SubjectError
from gradgate.core.finding import Finding, Location
from gradgate.core.origin import origin
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG306", "dtype-grid"
NEEDS: tuple[str, ...] = ("precisions", "losses")
PER_STAGE = True
PARAMETERS, AUTOCAST = ("fp32", "bf16", "fp16"), ("", "bf16", "fp16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
STEPS = 3
SCALED = 2.0  # ratio of gradient norms from which on a loss is scaled


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step a run in each precision."""
    precisions: Mapping[str, Callable[..., Run]] = stage.precisions or {}
    _require_names(precisions)
    findings, scales = [], {}
    for name, start in precisions.items():
        try:
            fault, scales[name], line = _try(name, start, stage, context, subject.source)
        except SubjectRaisedError as raised:
            told = _finding(name, str(raised), victim=origin(raised.error))
            find = partial(line_of_refusal, raised.error, partial(start, context.seed, device=context.device))
            findings.append(named(told, partial(find, subject.source), context.seed))
            continue
        if fault:
            findings.append(named(_finding(name, fault), line, context.seed))
    measured = {"failing": len(findings), "precisions": list(precisions), "loss_scale": scales}
    return Outcome(tuple(findings), measured, {"failing": 0})


def _require_names(precisions: Mapping[str, Callable[..., Run]]) -> None:
    for name in precisions:
        parameters, _, autocast = name.partition("+")
        if parameters not in PARAMETERS or autocast not in AUTOCAST:
            raise SubjectError(
                f"precisions: {name!r} is none of fp32, bf16, fp16, alone or with +bf16 or +fp16 behind it"
            )


def _try(
    name: str, start: Callable[..., Run], stage: Stage, context: Context, source: Path | None
) -> tuple[str, float | None, Callable[[], Line | None]]:
    """What is wrong with a precision, empty where nothing is; the ratio by which its loss is scaled; what finds the
    line."""
    anew = partial(start, context.seed, device=context.device)
    with calling("start()"):
        run = anew()
    scale: float | None = None
    for number, batch in enumerate(islice(run.batches(), STEPS), 1):
        if number == 1 and "fp16" in name:
            scale = _scale(run, batch, context.seed, partial(stage.start, context.seed, device=context.device))
        else:
            with calling(f"step {number}"), _Made() as made:
                run.step(batch)
    kept, _, cast = name.partition("+")
    if wrong := _undeclared(DTYPES[kept], run):
        parameter, key = wrong
        find = partial(line_of_cast, anew, source, parameter.dtype, partial(_of_name, key=key))
        return f"parameter `{key}` is {_short(parameter.dtype)}, declared {kept}", scale, find
    if cast and DTYPES[cast] not in made.dtypes:
        find = partial(line_of_autocast, anew, source, partial(_computes, dtype=DTYPES[cast]))
        return f"no operation of a step computes in {cast}", scale, find
    if bad := _not_finite(run, batch):
        return f"after {STEPS} steps {bad} is not finite", scale, lambda: None
    if scale is not None and scale < SCALED:
        told = f"the loss is not scaled: its gradient arrives times {scale:.3g}, allowed: at least {SCALED:g}"
        return told, scale, partial(line_of_backward, anew, source)
    return "", scale, lambda: None


class _Made(TorchDispatchMode):
    """Collects the dtypes in which operations compute."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation and look at what it gives."""
        out = func(*args, **(kwargs or {}))
        self.dtypes |= {leaf.dtype for leaf in tree_leaves(out) if isinstance(leaf, Tensor)}
        return out


def _undeclared(declared: torch.dtype, run: Run) -> tuple[nn.Parameter, str] | None:
    """The first trained parameter of another dtype than the precision's name says, with its name."""
    for parameter, key in named_parameters(run).items():
        if parameter.requires_grad and parameter.is_floating_point() and parameter.dtype != declared:
            return parameter, key
    return None


def _of_name(run: Run, key: str) -> nn.Parameter:
    return next(parameter for parameter, name in named_parameters(run).items() if name == key)


def _computes(run: Run, dtype: torch.dtype) -> bool:
    """Whether some operation of a step computes in a dtype."""
    (batch,) = islice(run.batches(), 1)
    with _Made() as made:
        run.step(batch)
    return dtype in made.dtypes


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _scale(run: Run, batch: Batch, seed: int, plain_start: Callable[[], Run]) -> float | None:
    """How many times the loss's gradient the first backward of a step leaves; None where that cannot be told.

    Args:
        run: in 16 bits.
        batch: its first.
        seed: of the random state.
        plain_start: starts the run without them: where `losses` are read inside the step, `total` is scaled already.
    """
    with seeded(seed), calling("losses()"):
        total = run.losses(batch)["total"]
        trained = [each for each in named_parameters(run) if each.requires_grad]  # a step may have frozen some
        wanted = torch.autograd.grad(total, trained, allow_unused=True)
    with seeded(seed), _first_gradients(trained) as first, calling("step 1"):
        run.step(batch)
    plain, made = _norm(wanted), _norm(list(first.values()))
    if not (isfinite(made) and isfinite(plain) and made and plain):
        return None
    ratio = made / plain
    return ratio if ratio >= SCALED else ratio * _within(float(total.detach()), seed, plain_start)


def _within(total: float, seed: int, plain_start: Callable[[], Run]) -> float:
    """How many times the loss without 16 bits this one is, on a run's first batch; 1 where that is no scale."""
    with seeded(seed), calling("losses() in the stage's own precision"):
        run = plain_start()
        unscaled = float(run.losses(next(iter(run.batches())))["total"].detach())
    factor = abs(total / unscaled) if unscaled else 1.0
    return factor if SCALED <= factor < inf else 1.0


@contextmanager
def _first_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[dict[nn.Parameter, Tensor]]:
    """The gradient that the first backward of the block leaves in each parameter."""
    first: dict[nn.Parameter, Tensor] = {}

    def note(parameter: Tensor) -> None:
        if parameter.grad is not None and parameter not in first:
            first[parameter] = parameter.grad.detach().clone()  # type: ignore[index]

    with ExitStack() as stack:
        for parameter in parameters:
            stack.callback(parameter.register_post_accumulate_grad_hook(note).remove)
        yield first


def _norm(gradients: Sequence[Tensor | None]) -> float:
    return float(sum(float(grad.double().square().sum()) for grad in gradients if grad is not None) ** 0.5)


def _not_finite(run: Run, batch: Batch) -> str:
    """The first parameter or loss term that holds a NaN or an infinity."""
    for parameter, name in named_parameters(run).items():
        if not bool(parameter.isfinite().all()):
            return f"parameter `{name}`"
    with calling("losses()"):
        terms = run.losses(batch)
    return next((f"loss term `{name}`" for name, term in terms.items() if not bool(term.isfinite())), "")


def _finding(precision: str, message: str, victim: Location | None = None) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"in {precision} {message}",
        kind="dtype_overflow" if "finite" in message else "other",
        victim=victim,
        fix="mask values from torch.finfo, sums and softmaxes in float32, a GradScaler for float16",
        detail={"precision": precision},
    )

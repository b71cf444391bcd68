"""A function clips gradients and unscales them behind that: the bound is held against gradients times the loss scale.

## What it detects

`norm = self._clip()` above `self.scaler.unscale_(self.optimizer)`.

## Why it matters

With a scale of 65536 the gradients are thousands of times too large where they are clipped, so that each is cut to the
bound, and divided by the scale afterwards: the update is next to nothing. In float32, where tests run, nothing shows.
A norm that is logged is that of scaled gradients.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports. A finding is a call of
`clip_grad_norm_`, `clip_grad_value_` or `clip_grads_with_norm_`, or of a function of the trainer's that makes one and
unscales nothing, in front of an `unscale_` in the same function, which clips nothing behind that. Statistic: such
calls; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
norm = clip_grad_norm_(parameters, cfg.grad_clip)
scaler.unscale_(optimizer)
```

Good:

```python
scaler.unscale_(optimizer)
norm = clip_grad_norm_(parameters, cfg.grad_clip)
```

## How to fix

Unscale first.

## Known limits

An `unscale_` in another function than the clipping's caller is not followed. GG207 drives the step, in float16 where
the adapter declares it, and looks at the norm.

## Sources

PyTorch, Automatic Mixed Precision examples, "Working with unscaled gradients"; faults of three trainers of the
catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_place_by_place
from gradgate.checks.source.trainer import called_name
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG218", "clipped-ahead-of-unscaling"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
CLIPS = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_", "clip_grad_norm")
UNSCALES = "unscale_"


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for clipping in front of the unscaling."""
    return read_place_by_place(subject, lambda file: file.has(f"{UNSCALES}("), _of_place, "calls")


def _of_place(place: Place, own: Places) -> Iterator[Finding]:
    calls = [node for node in place.nodes if isinstance(node, ast.Call)]
    unscaled = [call.lineno for call in calls if called_name(call) == UNSCALES]
    clips = [call for call in calls if unscaled and _clips(call, place, own)]
    if not clips or any(call.lineno > min(unscaled) for call in clips):
        return
    call = clips[0]
    if call.lineno < min(unscaled):
        yield Finding(
            code=CODE,
            name=NAME,
            message=f"{place.name}() clips by `{called_name(call)}` in front of `{UNSCALES}`: gradients are still "
            "scaled there; allowed: behind it",
            culprit=place.file.at(call, place.name),
            fix="call `unscale_` first",
        )


def _clips(call: ast.Call, place: Place, own: Places) -> bool:
    """Whether a call clips, itself or in a function of the trainer's that unscales nothing."""
    if called_name(call) in CLIPS:
        return True
    made = own.called(call, place)
    within = {called_name(node) for node in made.nodes} if made is not None and made is not place else set()
    return bool(within & {*CLIPS}) and UNSCALES not in within

"""In the whole program some optimizer steps on gradients whose norm is above the configured one.

## What it detects

A clip over the parameters of another stage, or over a list that was made before a freeze or a release changed it; one
part of the model that is left out; a stage that does not clip; a clip in front of the unscaling, or behind the step.
Or a norm of 0, by which clipping is turned off elsewhere, and which here takes every gradient.

## Why it matters

What bounds a step in one stage, or when the stage is started alone, does not in a whole run, and a spike moves what
nobody clipped.

## How it decides

The program is launched with the keys of `Program.options` that say the norm by their names (`grad_clip`, `max_norm`,
`max_grad_norm`, `clip_norm`; `clip` where a stage declares its value as `Run.max_norm`) at 1e-3. Statistic: the norm of
all gradients that a step of an optimizer takes, over all its parameters; allowed: 1e-3, with 1e-3 of it for rounding,
and of an optimizer with n groups the root of n times as much: each may be clipped on its own.

Where the key's values have 0 among them, as where the documentation says that it turns clipping off, it is launched
with that, too. Parameters that had gradients at 1e-3 and never have one then, in a program that comes to its end, are
a finding.

False-alarm rate: 0 for a norm over all that an optimizer holds, or over each of its groups.

## Example

Bad:

```python
params = [p for p in model.parameters() if p.requires_grad]      # heads are released later
...
clip_grad_norm_(params, cfg.grad_clip)
```

Good:

```python
clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], cfg.grad_clip)
```

## How to fix

Clip what the optimizer steps, where it steps, behind the unscaling.

## Known limits

A clip by value, or an adaptive one, is not known. GG207 looks at one stage that is started alone.

## Sources

Pascanu et al., On the difficulty of training recurrent neural networks (2013); a fault of a trainer of the catalogue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from gradgate.checks.moved import in_words
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Whole, equal_runs, program_of, whole
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG681", "program-does-not-clip"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
NORM = re.compile(
    r"(^|[._])(grad_?clip|clip_?grad|gradient_clip|max_(grad_|gradient_)?norm|(grad_)?clip_norm|grad_norm)"
)
SMALL = 1e-3
NONE = 0.0
OFF = "take 0 for no clipping, or refuse it"
CLIP = re.compile(r"(^|[._])clip(ping)?$")
FIX = "clip what the optimizer steps, where it steps, behind the unscaling"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Launch with a small norm."""
    options = program_of(subject).options
    keys = [
        key for key, values in options.items() if NORM.search(key.lower()) or _is_norm(key, values, subject, context)
    ]
    if not keys:
        return Outcome(
            not_applicable="`options=` of the program has no norm to clip at, such as {'grad_clip': (1.0, 0.1)}"
        )
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    settings = dict.fromkeys(keys, SMALL)
    found = whole(subject, context, settings)
    if found.launched.end != "ended" or not found.updates:
        return Outcome(inconclusive=f"the program {found.launched.in_words}{in_words(settings)}")
    worst: dict[int, float] = {}
    for update in found.updates:
        groups = max(1, len(update.rates))
        norm = math.sqrt(sum(norm**2 for norm in update.gradients)) / math.sqrt(groups)
        worst[update.optimizer] = max(worst.get(update.optimizer, 0.0), norm)
    findings = []
    for number, norm in worst.items():
        if not norm <= SMALL * (1 + 1e-3):
            text = f"optimizer {number + 1} of {len(worst)} steps on gradients of norm {norm:.3g}{in_words(settings)}"
            findings.append(Finding(CODE, NAME, f"{text}; allowed: {SMALL:g}", fix=FIX, detail={"norm": norm}))
    moved, off = _with_gradients(found), [key for key in keys if NONE in options[key]]
    still = _clipped_to_nothing(found, subject, context, off) if off else 0
    if still:
        text = f"{still} of {len(moved)} parameters never have a gradient{in_words(dict.fromkeys(off, NONE))}, and the "
        text += "program comes to its end; allowed: no clipping, or a refusal"
        findings.append(Finding(CODE, NAME, text, fix=OFF))
    return Outcome(tuple(findings), {"norm": max(worst.values())}, {"norm": SMALL})


def _clipped_to_nothing(clipped: Whole, subject: Subject, context: Context, keys: Sequence[str]) -> int:
    """How many parameters a norm of 0 takes every gradient, of a program that goes on as if they trained."""
    found = whole(subject, context, dict.fromkeys(keys, NONE))
    return len(_with_gradients(clipped) - _with_gradients(found)) if found.launched.end == "ended" else 0


def _with_gradients(found: Whole) -> set[tuple[int, int]]:
    """The parameters that some update has a gradient of, by their optimizer."""
    return {(each.optimizer, i) for each in found.updates for i, norm in enumerate(each.gradients) if norm}


def _is_norm(key: str, values: Sequence[Any], subject: Subject, context: Context) -> bool:
    """Whether a key of another name has the norm that a stage's run declares."""
    if not CLIP.search(key.lower()):
        return False
    for stage in subject.stages:
        with suppress(Exception):
            if stage.start(context.seed, device=context.device).max_norm == values[0]:
                return True
    return False

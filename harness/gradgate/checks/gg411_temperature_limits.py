"""A small temperature is not argmax, a large one not uniform, or one that is no positive number is accepted.

## What it detects

A temperature that is ignored, applied twice or in the wrong place shows at its limits: towards 0 the head weights must
become one-hot at the largest delta, towards infinity uniform over the valid heads. And a temperature that makes no
sense (0, a negative number, NaN, infinity, `False`) must be refused, not repaired.

## Why it matters

A temperature that is silently replaced by a default makes a sweep over it report noise as a result. A tiny
temperature that overflows the scores gives NaN weights in the middle of a run.

## How it decides

On random batches, with the deltas of the reference: at temperature 1e-3 and 1e-30 (here also: finite weights) the
distance from one-hot, without unit, at positions whose largest delta leads by a gap g >= 0.05 value units must be
within (H - 1) exp(-g / tau); at 1e6 the distance from 1 / valid heads within (largest - smallest delta) / (4 tau). Both
are exact properties of the softmax; 2 (H + 6) u of float32 is added for rounding. At temperature 2 (an integer) the
weights must be there. Each of 0, -1, NaN, infinity and False must raise an error whose text says "temperature", "temp"
or "tau".

What the formula accepts may be refused where the configuration is read: each stage is started with the value for each
key of its `options` whose last dotted part holds `temperature`, `temp` or `tau` and whose listed values are numbers.
Where there is such a key and every start raises an error that names it so, the value counts as refused.

False-alarm rate: 0.

## Example

Bad:

```python
tau = temperature if temperature > 0 else 0.7
weight_BSH = torch.softmax(delta_BSH / tau, dim=-1)
```

Good:

```python
if isinstance(temperature, bool) or not (0 < temperature < math.inf):
    raise ValueError(f"temperature is {temperature!r}, expected a finite number > 0")
peak_BS1 = delta_BSH.detach().amax(-1, keepdim=True)
weight_BSH = torch.softmax((delta_BSH - peak_BS1) / temperature, dim=-1)
```

## How to fix

Refuse what is not a finite positive number, by its name. Subtract the largest delta before dividing, so that no
temperature overflows.

## Known limits

Gradients at extreme temperatures are not judged: at a tie they grow as 1 / tau, rightly. Which key is the formula's is
not known: one of another temperature, of sampling, must refuse the value as well.

## Sources

Fault LW-31 of the fault catalogue; the specification of the head weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from gradgate.checks import cases, oracles, tolerances
from gradgate.checks.formula_calls import weights_call
from gradgate.checks.formulas import Ledger
from gradgate.checks.moved import as_given, in_words
from gradgate.checks.raised import SubjectRaisedError, calling
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Functions, Stage, Subject

CODE, NAME = "GG411", "temperature-limits"
NEEDS: tuple[str, ...] = ("functions.weights",)
PER_STAGE = False
COLD, HOT = (1e-3, 1e-30), (1e6,)
GAP = 0.05  # value units; far above float32's rounding of values around 1, and 50 times the cold temperature
REFUSED = (0, -1, math.nan, math.inf, False)
DISCOUNT_LAMBDA = 0.95
IS_TEMPERATURE = re.compile(r"temperature|(^|[^a-z])(temp|tau)([^a-z]|$)|\u03c4")
FIX = "divide the deltas by the temperature, once, before the softmax; subtract the largest delta first"
FIX_REFUSAL = 'raise ValueError(f"temperature is {temperature!r}, expected a finite number > 0")'


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Go to both limits, then offer what must be refused."""
    ledger = Ledger(CODE, NAME, context.device, subject.source)
    for case in cases.ragged(context.seed, cases.random_count(context), gaps=subject.functions.gaps):
        for temperature in (*COLD, *HOT, 2):
            _limit(ledger, subject.functions, case, temperature)
    refused = [_refuses(ledger, subject, context, temperature) for temperature in REFUSED]
    return ledger.outcome(temperatures_refused=sum(refused), temperatures_offered=len(REFUSED))


def _limit(ledger: Ledger, functions: Functions, case: cases.Case, temperature: float) -> None:
    """Hold one batch's weights against the limit of a softmax."""
    call = weights_call(functions, case, discount_lambda=DISCOUNT_LAMBDA, temperature=temperature)
    label_BSH = case.labels
    weight_BSH = ledger.run(call, label_BSH.shape, FIX)
    if weight_BSH is None:
        return
    what = f"head weight with temperature {temperature:g}"
    if not ledger.finite(call, weight_BSH, what=what, axes="b, t, k", fix=FIX):
        return
    if temperature in (*COLD, *HOT):
        expected_BSH, allowed_BS1, where_BS = _expected(case, call.options["discount_lambda"], temperature)
        where_BSH = where_BS[..., None].expand(weight_BSH.shape)
        ledger.compare(call, weight_BSH, expected_BSH, allowed_BS1, what=what, axes="b, t, k", where=where_BSH, fix=FIX)


def _expected(case: cases.Case, discount_lambda: float, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """The limit of every position's weights, the distance that a softmax may have from it, and where it is known."""
    label_BSH = case.labels
    delta_BS = oracles.deltas(
        case.value_BS, case.valid_BS, discount_lambda=discount_lambda, document_BS=case.document_BS
    )
    limit_BSH = torch.zeros(label_BSH.shape, dtype=torch.float64)
    allowed_BS1 = torch.zeros(*delta_BS.shape, 1, dtype=torch.float64)
    known_BS = torch.zeros(delta_BS.shape, dtype=torch.bool)
    rounding = 2 * (case.horizon + 6) * tolerances.roundoff(torch.float32)
    for b, t in (label_BSH != oracles.IGNORED).any(-1).nonzero().tolist():
        legal = [k for k in range(case.horizon) if label_BSH[b, t, k] != oracles.IGNORED]
        delta_K = torch.stack([delta_BS[b, t + k + 1] for k in legal])
        ranked = delta_K.sort(descending=True).values.tolist()
        gap = ranked[0] - ranked[1] if len(ranked) > 1 else math.inf
        if temperature in HOT:
            limit_BSH[b, t, legal] = 1 / len(legal)
            allowed_BS1[b, t] = tolerances.uniform_limit(ranked[0] - ranked[-1], temperature) + rounding
        else:
            limit_BSH[b, t, legal[int(delta_K.argmax())]] = 1.0
            allowed_BS1[b, t] = tolerances.argmax_limit(gap, temperature, case.horizon) + rounding
        known_BS[b, t] = temperature in HOT or gap >= GAP
    return limit_BSH, allowed_BS1, known_BS


def _refuses(ledger: Ledger, subject: Subject, context: Context, temperature: float) -> bool:
    """Whether a temperature that makes no sense is refused by its name, by the formula or wherever a run starts."""
    case = cases.make("two real tokens", torch.ones(1, 2, dtype=torch.bool), 1, context.seed)
    call = weights_call(subject.functions, case, discount_lambda=DISCOUNT_LAMBDA, temperature=temperature)
    ledger.tried += 1
    try:
        call(context.device)
    except Exception as error:
        if _says_temperature(error):
            return True
        ledger.note("refusal without a name", _unnamed(temperature, error), FIX_REFUSAL, call, temperature=temperature)
        return False
    keys = [(each, key) for each in subject.stages for key in _temperatures(each)]
    accepting = (pair for pair in keys if not _refuses_at_start(*pair, context, temperature))
    stage, key = next(accepting, (None, ""))
    if keys and stage is None:
        return True
    by_stage = f", and stage {stage.name} starts{in_words({key: temperature})}" if stage else ""
    message = f"temperature {temperature!r} was accepted{by_stage}, expected an error that names the temperature"
    ledger.note(f"accepts {temperature!r}", message, FIX_REFUSAL, call, temperature=temperature)
    return False


def _temperatures(stage: Stage) -> Iterator[str]:
    """The keys of a stage's options that are temperatures."""
    for key, values in (stage.options or {}).items():
        numbers = [isinstance(value, float | int) and not isinstance(value, bool) for value in values]
        if IS_TEMPERATURE.search(key.rpartition(".")[2].lower()) and all(numbers):
            yield key


def _refuses_at_start(stage: Stage, key: str, context: Context, temperature: float) -> bool:
    """Whether a stage does not start with this temperature, and says so."""
    try:
        with calling("start()"):
            stage.start(context.seed, device=context.device, **as_given({key: temperature}))
    except SubjectRaisedError as raised:
        return _says_temperature(raised.error)
    return False


def _says_temperature(error: BaseException) -> bool:
    return IS_TEMPERATURE.search(str(error).lower()) is not None


def _unnamed(temperature: float, error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return f"temperature {temperature!r} was refused with {text!r}, which does not name the temperature"

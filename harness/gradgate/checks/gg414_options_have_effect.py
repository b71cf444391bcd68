"""A configuration key changes nothing that can be observed, or two of its values are the same code.

## What it detects

A key that is read and not passed on, a mode whose name falls through to the default, a 0 that is taken for "not given"
(`given or default`), a temperature that a later normalisation cancels, weight decay of a group that has none, a
coefficient of a term that is not added.

## Why it matters

A sweep over a dead key is an experiment that was never made. Its result (no difference) is believed.

## How it decides

The stage says which keys can be moved, and to which values (`Stage.options`; `gradgate.options_of` lists those of a
configuration, and what it guesses may be refused). For each value a fresh run is started
with that one key moved, the same seed, and stepped 5 times. What can be observed is compared bit for bit: the batches,
the metrics that are not about time, and parameters, optimizer state and settings at the end. What is alike is stepped
20 times from another seed, for keys that act late or on few batches, and once with NaN in a gradient and in what each
module returns, for keys that say what becomes of such a step. Statistic: pairs of values of one key that nothing tells
apart in any of these; allowed: 0.

Where all values of a key give the same batches, parameters and states in both runs and other metrics, a warning names
these metrics: a bound that is in the report and not in the formula.

One value that the adapter does not list is tried beside them: 0 where all listed ones are other numbers, a misspelt
name where they are names. The name must be refused. The 0 may be, and it may do something of its own; what it may not
do is what a listed value does, unless numbers near 0, or far above all of them, do that as well: a limit that nothing
reaches. So is a listed number that does what a listed 0 or None does, where a thousandth of it does something else.

A key that is called after a module (`freeze_trunk`, `trunk_frozen`, `train_trunk: false`) freezes all of it or nothing:
a parameter that two steps move all the same, beside others that they no longer move, is a finding.

The line is looked for where two listed values are alike. What the run declares of them (`hyperparameters`,
`coefficients`, `supervised`) is held against what it does; else an argument that another stage gives the key, or that
is called like it, is given the value, which must tell the two apart; else it is where the last number that the key
changes ends, or its gradient.

A key that `options_of` found, and nobody listed, may belong to another choice (the threshold of a loss that is not the
configured one): it is no finding where it acts in another stage, on what `Run.evaluate` returns, or in settings in
which other switches are flipped, or numbers of its section on that are 0 (the coefficient of a term that is off).

False-alarm rate: 0 for keys that act within 20 steps of the small run. A difference may also come from another random
number that a key happens to draw: a key that does no more than that passes.

## Example

Bad:

```python
loss = weighted_loss(logits, labels, weights)                            # `loss.reduction` is never passed on
```

Good:

```python
loss = weighted_loss(logits, labels, weights, reduction=recipe.loss.reduction)
```

In the adapter:

```python
Stage("train", start=Loop, options={"optim.weight_decay": (0.01, 0.1), "loss.temperature": (0.7, 0.1)})
# and Loop.__init__(self, seed, *, dtype, device, options=None) sets what `options` names, over its own settings
```

All keys of a configuration at once, where it is one object:

```python
Stage("train", start=Loop, options=gradgate.options_of(CONFIG, leave_out=("model",)))
# and in Loop.__init__: config = gradgate.configured(CONFIG, options)
```

## How to fix

Pass the key on, or take it out of the configuration; refuse values that are not known instead of falling back.

## Known limits

Keys that the adapter does not list are not looked at; nor is what shows only later, such as patience or the interval of
checkpoints (GG608 moves the first).

## Sources

Faults LW-14 and LW-31 and the killer "config-effect" of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations, islice
from math import isfinite, nan
from typing import Any

from gradgate.checks import batches as trees
from gradgate.checks.first_fault import wanted
from gradgate.checks.freezing import Half, frozen_by_halves
from gradgate.checks.gg601_nondeterminism import MEASURED
from gradgate.checks.injections import Injection, in_gradient, in_output
from gradgate.checks.option_lines import Alike, line_of_option
from gradgate.checks.own_lines import named
from gradgate.checks.raised import SubjectRaisedError, as_finding, calling
from gradgate.checks.snapshot import Snapshot, but_rates, first_difference, named_parameters, take
from gradgate.checks.switches import in_settings, is_word, looked_at
from gradgate.core.errors import SubjectError
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject
from gradgate.subjects.global_state import GlobalState
from gradgate.subjects.settings import Guessed, is_of_accumulation, is_of_evaluation

CODE, NAME = "GG414", "options-have-effect"
NEEDS: tuple[str, ...] = ("options",)
PER_STAGE = True
STEPS, LONGER = 5, 20
FIX = "pass the key on to the code that it is for, or take it out of the configuration"
FIX_REPLACED = "refuse what is no value of this key; where 0 is one, write `default if x is None else x`"
MISSPELT = "_x"
SMALL = 1e-3  # of the smallest listed number
FAR = 1e6  # times the largest
_NO_NAMES = ("true", "false", "null", "none", "yes", "no", "on", "off")


@dataclass(frozen=True)
class Observed:
    """All that a short run shows.

    Args:
        batches: in order.
        metrics: of every step, those about time left out.
        state: at the end.
    """

    batches: tuple[Batch, ...]
    metrics: tuple[Mapping[str, Any], ...]
    state: Snapshot

    def is_like(self, other: Observed) -> bool:
        """Whether nothing tells the two apart."""
        return self.trains_like(other) and trees.first_difference(self.metrics, other.metrics) is None

    def trains_like(self, other: Observed) -> bool:
        """Whether nothing but what they report tells the two apart."""
        return (
            self.state.keys() == other.state.keys()
            and first_difference(self.state, other.state) is None
            and trees.first_difference(self.batches, other.batches) is None
        )

    def reported_otherwise(self, other: Observed) -> list[str]:
        """The metrics that tell the two apart."""
        pairs = [(one, two) for one, two in zip(self.metrics, other.metrics, strict=True) if one.keys() == two.keys()]
        return sorted({name for one, two in pairs for name in one if trees.first_difference(one[name], two[name])})


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Move one key at a time, and look for a difference between any two of its values."""
    options = stage.options or {}
    first = wanted()
    if first is not None and first.detail.get("key") in options:
        options = {first.detail["key"]: options[first.detail["key"]]}
    at_start = GlobalState.now()
    findings: list[Finding] = []
    reported: list[Finding] = []
    pairs = 0
    for key, values in options.items():
        if is_of_evaluation(key):
            continue  # GG428's: no step shows it
        if isinstance(values, Guessed) and key in (stage.neutral or {}):
            continue  # GG424's: it is to change nothing
        if len(values) < 2:
            raise SubjectError(f"options[{key!r}] has {len(values)} value(s): give two or more")
        try:
            seen = [_observe(stage, context, at_start, key, value) for value in values]
        except SubjectRaisedError as raised:
            if isinstance(values, Guessed):
                continue  # it may refuse what nobody listed
            findings.append(replace(as_finding(raised, CODE, NAME), message=f"option `{key}`: {raised}"))
            continue
        alike, elsewhere = 0, False
        for (one, ours), (other, theirs) in combinations(zip(values, seen, strict=True), 2):
            pairs += 1
            if not ours.is_like(theirs) or not _stay_alike(stage, context, at_start, key, (one, other)):
                continue
            if not _break_alike(stage, context, at_start, key, (one, other)):
                continue
            if _is_limit(stage, context, at_start, key, (one, other)):
                continue
            if isinstance(values, Guessed) and _acts_elsewhere(subject, stage, context, at_start, key, (one, other)):
                elsewhere = True
                break
            found = _finding(key, f"{one!r} and {other!r} give the same {LONGER} steps, bit for bit")
            differ = partial(_differ, stage, context, at_start, key, (one, other))
            pair = Alike(subject, stage, context, key, (one, other), differ)
            findings.append(found if alike else named(found, partial(line_of_option, pair), context.seed))
            alike += 1
        if elsewhere:
            continue
        reported += [] if alike else _only_reported(stage, context, at_start, key, dict(zip(values, seen, strict=True)))
        acts = alike < len(values) * (len(values) - 1) // 2  # else there is nothing that an unlisted value could do
        for odd in _unlisted(values) if acts and not is_of_accumulation(key) else ():
            pairs += len(values)
            findings += _taken_for_another(stage, context, at_start, key, odd, dict(zip(values, seen, strict=True)))
    measured = {"pairs_alike": len(findings), "pairs": pairs, "keys": len(options)}
    findings += [_half(half) for half in frozen_by_halves(stage, options, context)]
    return Outcome((*findings, *reported), measured, {"pairs_alike": 0})


def _only_reported(
    stage: Stage, context: Context, at_start: GlobalState, key: str, seen: Mapping[Any, Observed]
) -> list[Finding]:
    """A warning where all values of a key train alike, and metrics alone tell them apart."""
    (first, ours), *others = seen.items()
    names = sorted({name for _, theirs in others for name in ours.reported_otherwise(theirs)})
    if not names or not all(ours.trains_like(theirs) for _, theirs in others):
        return []
    value = others[0][0]
    try:
        longer = [
            _observe(stage, replace(context, seed=context.seed + 1), at_start, key, v, LONGER) for v in (first, value)
        ]
    except SubjectRaisedError:
        return []
    if not longer[0].trains_like(longer[1]):
        return []
    told = f"{first!r} and {value!r} give the same {LONGER} steps, bit for bit, but for what is reported"
    return [replace(_finding(key, f"{told}: {', '.join(names)}"), severity="warning")]


def _unlisted(values: Sequence[Any]) -> list[Any]:
    """A value that must not be taken for one of these."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) and value != 0 for value in values):
        return [type(values[0])(0)]
    if all(isinstance(value, str) and value.isidentifier() and value not in _NO_NAMES for value in values):
        return [f"{values[0]}{MISSPELT}"]
    return []


def _taken_for_another(
    stage: Stage, context: Context, at_start: GlobalState, key: str, odd: Any, seen: Mapping[Any, Observed]
) -> list[Finding]:
    """A finding where the unlisted value is accepted and does what a listed one does, or is a name and is accepted."""
    try:
        found = _observe(stage, context, at_start, key, odd)
    except (SubjectRaisedError, SubjectError):  # a Schedule that the adapter makes of it knows no such name either
        return []
    text = f"{{!r}} gives the same {LONGER} steps as {{!r}}, bit for bit: it is replaced without a word"
    taken = [
        _finding(key, text.format(odd, value), FIX_REPLACED)
        for value, ours in seen.items()
        if ours.is_like(found)
        and _stay_alike(stage, context, at_start, key, (odd, value))
        and not any(_stay_alike(stage, context, at_start, key, (near, value)) for near in _near(odd, seen))
        and not any(
            _stay_alike(stage, context, at_start, key, (far, value), where_it_ends=False) for far in _far(odd, seen)
        )
    ]
    if isinstance(odd, str) and not taken:
        told = f"{odd!r} is accepted, which is none of its values: a name that is misspelt trains something else"
        return [_finding(key, told, "refuse names that are not known")]
    return taken[:1]


def _near(odd: Any, values: Iterable[Any]) -> list[Any]:
    """A number beside 0. A limit that nothing reaches is alike there too, a default that 0 is replaced by is not."""
    if isinstance(odd, str):
        return []
    return [near for near in (1,) if near not in values] if isinstance(odd, int) else [min(map(abs, values)) * SMALL]


def _far(odd: Any, values: Iterable[Any]) -> list[Any]:
    """A number far above all: a limit that nothing reaches is alike there, and 0 may be what switches it off.

    No whole number: it may say how large something is.
    """
    return [max(map(abs, values)) * FAR] if isinstance(odd, float) else []


def _stay_alike(
    stage: Stage,
    context: Context,
    at_start: GlobalState,
    key: str,
    values: tuple[Any, Any],
    steps: int = LONGER,
    *,
    where_it_ends: bool = True,
) -> bool:
    """Whether nothing tells two values apart in a longer run on other data; as it is said where that ends early."""
    other = replace(context, seed=context.seed + 1)
    try:
        one, two = (_observe(stage, other, at_start, key, value, steps) for value in values)
    except SubjectRaisedError:
        return where_it_ends
    return one.is_like(two)


def _is_limit(stage: Stage, context: Context, at_start: GlobalState, key: str, values: tuple[Any, Any]) -> bool:
    """Whether a number that acts like none at all is a limit that nothing reaches: one far below it does act."""
    limits = [value for value in values if isinstance(value, float) and value > 0]
    if len(limits) != 1 or not any(value is None or value == 0 for value in values):
        return False
    return not _stay_alike(stage, context, at_start, key, (limits[0], limits[0] * SMALL), where_it_ends=True)


def _break_alike(stage: Stage, context: Context, at_start: GlobalState, key: str, values: tuple[Any, Any]) -> bool:
    """Whether the same becomes of a step with NaN in a gradient, or in what a module returns.

    That is: what it raises, whether it changes anything but rates, and which of its metrics are finite. No more: a NaN
    goes through what a factor of 0 takes out of every other step.
    """

    def started(value: Any) -> Run:
        at_start.restore()
        return stage.start(context.seed, device=context.device, options={key: value})

    def becomes(injection: Injection, value: Any) -> Any:
        run = started(value)
        (batch,), before = islice(run.batches(), 1), but_rates(take(run))
        with injection.installed(run):
            try:
                told: Any = {name: isfinite(number) for name, number in _lasting(run.step(batch)).items()}
            except (Exception, SystemExit) as error:
                told = type(error)
        return told, first_difference(before, but_rates(take(run))) is None

    run = started(values[0])
    trained = [name for parameter, name in named_parameters(run).items() if parameter.requires_grad]
    injections = [*(in_gradient(name, nan) for name in trained[:1]), *map(in_output, run.modules)]
    return all(becomes(each, values[0]) == becomes(each, values[1]) for each in injections)


def _acts_elsewhere(
    subject: Subject, stage: Stage, context: Context, at_start: GlobalState, key: str, values: tuple[Any, Any]
) -> bool:
    """Whether two values that nobody listed differ in another stage, in what an evaluation tells, or in other settings.

    They may belong to another choice than the configured one.
    """
    others = [other for other in subject.stages if other is not stage and key in (other.options or {})]
    flipped = [
        in_settings(each, words).stage
        for each in (stage, *others)
        for flipped in looked_at(each, context)
        if (words := {key: value for key, value in flipped.settings.items() if is_word(value)})
    ]
    if on := _zeros_beside(stage, key):
        flipped += [in_settings(each, on).stage for each in (stage, *flipped)]
    return not _evaluate_alike(stage, context, at_start, key, values) or any(
        not _stay_alike(each, context, at_start, key, values, STEPS) for each in chain(others, flipped)
    )


def _zeros_beside(stage: Stage, key: str) -> dict[str, Any]:
    """The numbers of a key's section that are 0, with their next value: coefficients of what is off."""
    section = key.rpartition(".")[0]
    numbers = {
        other: values
        for other, values in (stage.options or {}).items()
        if section and other.rpartition(".")[0] == section and type(values[0]) in (int, float)
    }
    return {other: values[1] for other, values in numbers.items() if other != key and values[0] == 0}


def _evaluate_alike(stage: Stage, context: Context, at_start: GlobalState, key: str, values: tuple[Any, Any]) -> bool:
    """Whether nothing tells two values apart in what an evaluation behind a few steps returns."""
    told = []
    for value in values:
        at_start.restore()
        try:
            run: Run = stage.start(context.seed, device=context.device, options={key: value})
            for batch in islice(run.batches(), STEPS):
                run.step(batch)
            told.append(run.evaluate())
        except Exception:
            return True  # without an evaluation, or one that cannot be made: steps decide
    return trees.first_difference(*told) is None


def _differ(
    stage: Stage,
    context: Context,
    at_start: GlobalState,
    key: str,
    values: tuple[Any, Any],
    around: AbstractContextManager[Any],
) -> bool:
    """Whether a short run with the second value, in a block, differs from one with the first."""
    one, other = values
    before = _observe(stage, context, at_start, key, one)
    with around:
        return not before.is_like(_observe(stage, context, at_start, key, other))


def _observe(
    stage: Stage, context: Context, at_start: GlobalState, key: str, value: Any, steps: int = STEPS
) -> Observed:
    at_start.restore()
    with calling(f"start(options={{{key!r}: {value!r}}})"):
        run: Run = stage.start(context.seed, device=context.device, options={key: value})
    with calling(f"{steps} steps with {value!r}"):
        drawn, metrics = [], []
        for batch in islice(run.batches(), steps):
            drawn.append(batch)
            metrics.append(_lasting(run.step(batch)))
    return Observed(tuple(drawn), tuple(metrics), take(run))


def _lasting(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics that are not about time."""
    return {name: number for name, number in metrics.items() if not MEASURED.search(name.lower())}


def _half(half: Half) -> Finding:
    more = f" and {len(half.moved) - 1} more" if half.moved[1:] else ""
    left = f"{half.value!r} leaves `{half.moved[0]}`{more} of `{half.module}` in training"
    told = f"{left}, and freezes {half.still} others; allowed: none"
    return _finding(half.key, told, f"freeze all of `{half.module}`: its embedding and its last norm, too")


def _finding(key: str, told: str, fix: str = FIX) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"option `{key}`: {told}",
        fix=fix,
        detail={"key": key},
    )

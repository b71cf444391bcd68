"""What the program keeps as the best is not of its best evaluation.

## What it detects

A best score that is the worst one (a direction taken for the other: a loss that is kept where it is largest, an
explained variance where it is smallest); best weights that are those of another update, because what was kept refers to
weights that go on training, or is written later than it was judged.

## Why it matters

The best checkpoint is what is evaluated, published and handed to the next stage.

## How it decides

In the folder of a whole run. Scores: a number in a file that torch can load whose name says that it is a best one, and
equals the smallest or the largest value that some metric of the log takes (three records at least). It is a finding
where the metric's name says that it is better the other way round. Weights: a file whose name says that it is a best
one, whose tensors have the norms of the parameters of one update of the run. With the step that the log has for the
best value of a metric that such a score equals, the update must be that step, or a neighbour of it, for some count one
more. Where the norms fit no update (an average, other values), nothing is said.

False-alarm rate: 0 for names that say what they are.

## Example

Bad:

```python
best = {"model": model.state_dict(), "score": score}            # tensors that the next update writes
```

Good:

```python
best = {"model": copy.deepcopy(model.state_dict()), "score": score}
```

## How to fix

Copy what is kept, or write it where it is judged, and say the direction with the metric.

## Known limits

Scores of words that say no direction are left alone. Files of another format than torch's are not read.

## Sources

PyTorch, Saving and loading models (a `state_dict` refers to the parameters); faults of trainers of the catalogue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from torch import Tensor

from gradgate.checks.left_behind import numbers_in
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Whole, alike, equal_runs, starts
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG682", "best-is-not-the-best"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
BEST = re.compile(r"(^|[^a-z])best|best([^a-z]|$)")
LOWER = re.compile(r"(^|[^a-z])(loss|nll|ce|cross_entropy|ppl|perplexity|mse|mae|rmse|error|kl|bpb)([^a-z]|$)")
HIGHER = re.compile(
    r"(^|[^a-z])(ev|explained(_variance)?|acc|accuracy|reward|pass|f1|r2|auc|bleu|exact|correct|corr|correlation)([^a-z]|$)"
)
RECORDS = 3  # of a metric, at least


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold what is kept as the best against the log."""
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    run = runs[0]
    kept = {file: values for file, values in run.contents.items() if values}
    if not run.records or not any(BEST.search(name.lower()) for values in kept.values() for name in (*kept, *values)):
        why = "the program leaves no log that is read, or no file that has a best score or best weights"
        return Outcome(not_applicable=why)
    series = list(_series(run))
    findings: dict[tuple[str, str], Finding] = {}
    compared = 0
    for file, values in kept.items():
        for name, value in values.items():
            if isinstance(value, float) and math.isfinite(value) and BEST.search(f"{file}.{name}".lower()):
                for metric, records in series:
                    said = _wrong_way(value, metric, [score for _, score in records])
                    compared += 1
                    if said:
                        text = f"`{name}` of {file} is {value:.6g}, {said} of the {len(records)} values of `{metric}`"
                        findings.setdefault((metric, said), _finding(text))
        for finding in _weights(file, values, run, series):
            findings.setdefault((file, "weights"), finding)
    return Outcome(tuple(findings.values()), {"compared": compared})


def _series(run: Whole) -> Iterator[tuple[str, Sequence[tuple[int | None, float]]]]:
    """Each metric of the log in each stage that it tells apart, with its steps."""
    for (name, *_), scores in numbers_in(run.records).items():
        if len(scores) >= RECORDS and len({score for _, score in scores}) == len(scores):
            yield name, scores


def _wrong_way(value: float, metric: str, scores: Sequence[float]) -> str:
    """`the largest` or `the smallest`, where a best score is that and ought to be the other; else empty."""
    name = metric.lower()
    lower, higher = LOWER.search(name) is not None, HIGHER.search(name) is not None
    if lower == higher:
        return ""
    if lower and alike(value, max(scores)):
        return "the largest"
    return "the smallest" if higher and alike(value, min(scores)) else ""


def _weights(
    file: str, values: Mapping[str, Any], run: Whole, series: Sequence[tuple[str, Sequence[tuple[int | None, float]]]]
) -> Iterator[Finding]:
    """Best weights that are those of another update than the log says."""
    if not BEST.search(PurePath(file).name.lower()):
        return
    at = _update_of(values, run)
    if at is None:
        return
    begins = max(start for start in starts(run.updates) if start <= at)
    said = next(
        (
            (metric, step, float(value))
            for name, value in values.items()
            if isinstance(value, float)
            for metric, records in series
            for step, score in records
            if step is not None and alike(score, value)
        ),
        None,
    )
    if said is None:
        return
    metric, step, value = said
    if not any(abs(at + 1 - offset - step) <= 1 for offset in (begins, 0)):
        text = (
            f"the weights of {file} are those of update {at + 1 - begins} of their stage, and its score {value:.6g} is"
        )
        yield _finding(f"{text} that of `{metric}` at step {step}")


def _update_of(values: Mapping[str, Any], run: Whole) -> int | None:
    """The update behind which the parameters had the norms of a file's tensors; None: none, or several."""
    norms = {
        f"{float(value.double().norm()):.12g}"
        for value in values.values()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    fitting = [i for i, update in enumerate(run.updates) if all(f"{norm:.12g}" in norms for norm in update.norms)]
    return fitting[0] if len(fitting) == 1 else None


def _finding(message: str) -> Finding:
    fix = "copy what is kept, or write it where it is judged, and say the direction with the metric"
    return Finding(CODE, NAME, message, fix=fix)

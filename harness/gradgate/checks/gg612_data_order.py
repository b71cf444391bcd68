"""Samples are repeated, skipped or re-read across epochs.

## What it detects

A sampler that draws with replacement, fills the last batch with rows that came before, drops it, or walks every epoch
in the same order; training rows that are among the held-out ones; a step that writes into a sample that is kept.

## Why it matters

Some rows are never learnt and some twice; a held-out loss on rows that were trained on says nothing.

## How it decides

A run says which samples a batch holds (`Run.samples`) and how many an epoch has (`Run.epoch_size`). Without any step,
three epochs of batches are drawn. Each must hold as many different samples as it has places, and all epochs the same
ones. With more than 8 samples two epochs in the same order are a fault, unless the run says `shuffles = False`: by
chance that happens once in 40,000 runs. Where the run says what the data have (`Run.sources`), an epoch must hold each
row of them, also with a key of `Stage.options` moved: packed, for one. No held-out sample (`Run.heldout`) may be among
them.

Statistic: samples that are repeated or missing. Allowed: 0. False-alarm rate: 0 but for that chance.

## Example

Bad:

```python
order = torch.randint(len(rows), (len(rows),))          # with replacement
```

Good:

```python
order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed + epoch))
```

## How to fix

Draw a new permutation for each epoch, from the seed and the epoch's number, and let the last batch be smaller.

## Known limits

Order across processes is for GG610, and behind a resume for GG602. A trainer that drops the last, smaller batch of an
epoch fails; where that is meant, name it as an expected failure.

## Sources

Faults DC-02, DC-04, DC-07 and DC-17 of the fault catalogue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from functools import partial

from gradgate.checks.moved import in_words, plain_and_moved
from gradgate.checks.order_lines import line_of_order
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.row_lines import Row
from gradgate.checks.row_sources import rows_of
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG612", "data-order"
NEEDS: tuple[str, ...] = ("samples",)
PER_STAGE = True
EPOCHS = 3
ENOUGH = 8  # samples, above which two equal orders are no chance
FIX = "draw a new permutation for each epoch, from the seed and the epoch's number; let the last batch be smaller"


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Draw three epochs and count."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    epochs = _epochs(run)
    whole = set().union(*epochs)
    messages = [message for number, epoch in enumerate(epochs, 1) for message in _uneven(number, epoch, whole)]
    orders = [tuple(epoch) for epoch in epochs]
    if run.shuffles and len(whole) > ENOUGH and len(set(orders)) < EPOCHS:
        messages.append(f"two of {EPOCHS} epochs have the same order; allowed: none")
    if "heldout" in declared(run):
        with calling("heldout()"):
            shared = whole & set(run.heldout())
        if shared:
            messages.append(f"{len(shared)} held-out samples are trained on; allowed: 0")
    if not messages:
        messages += _never_drawn(run, stage, context)
    findings = tuple(_with_line(message, subject, stage, context) for message in messages)
    measured = {"uneven_samples": len(findings), "samples": len(whole), "epochs": EPOCHS}
    return Outcome(findings, measured, {"uneven_samples": 0})


def _never_drawn(run: Run, stage: Stage, context: Context) -> list[str]:
    """Rows of the data that no batch of an epoch holds, as the run is or with a key of its options moved."""
    if not {"sources", "tokens"} <= declared(run):
        return []
    with calling("start()"):
        plain = stage.start(context.seed, device=context.device)
    for options, one in plain_and_moved(plain, stage, context):
        told = in_words(options)
        with calling("sources()"):
            wanted = {tuple(source)[: one.max_length] for source in one.sources()}
        with calling(f"drawing an epoch{told}"):
            drawn = _documents(one)
        lost = 0 if drawn is None else len(wanted - drawn)
        if lost:
            return [f"{lost} of {len(wanted)} rows of the data are in no batch of an epoch{told}; allowed: 0"]
    return []


def _documents(run: Run) -> set[Row] | None:
    """The rows and documents of an epoch; None where `tokens` does not tell all that a batch holds."""
    found: set[Row] = set()
    samples = 0
    for batch in run.batches():
        tokens, names = run.tokens(batch), run.samples(batch)
        if len(names) != len(tokens.token_BS):
            return None
        found |= {row for _, row in rows_of(tokens)}
        samples += len(names)
        if samples >= run.epoch_size:
            break
    return found


def _with_line(message: str, subject: Subject, stage: Stage, context: Context) -> Finding:
    """With the line that gives the indices; of held-out samples none is looked for."""
    finding = Finding(CODE, NAME, message, fix=FIX)
    if "held-out" in message or "rows of the data" in message:
        return finding
    return named(finding, partial(_line, message, subject, stage, context), context.seed)


def _line(message: str, subject: Subject, stage: Stage, context: Context) -> Line | None:
    run = stage.start(context.seed + 1, device=context.device)  # what is cached was made of the other seed
    return line_of_order(subject.source, run, EPOCHS, repeats="repeats" in message)


def _epochs(run: Run) -> list[list[Hashable]]:
    """The samples of three epochs, in order."""
    batches = iter(run.batches())
    drawn: list[Hashable] = []
    while len(drawn) < EPOCHS * run.epoch_size:
        with calling("drawing a batch"):
            batch = next(batches)
        with calling("samples()"):
            drawn += run.samples(batch)
    return [drawn[i * run.epoch_size : (i + 1) * run.epoch_size] for i in range(EPOCHS)]


def _uneven(number: int, epoch: Sequence[Hashable], whole: set[Hashable]) -> list[str]:
    repeated = sum(count - 1 for count in Counter(epoch).values())
    missing = len(whole - set(epoch))
    if not repeated and not missing:
        return []
    told = f"repeats {repeated} and lacks {missing} of those that other epochs hold"
    return [f"epoch {number} of {len(epoch)} samples {told}; allowed: 0 and 0"]

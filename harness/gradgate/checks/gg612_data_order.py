"""Samples are repeated, skipped or re-read across epochs.

## What it detects

A sampler that draws with replacement, fills the last batch with rows that came before, drops it, or walks every epoch
in the same order; training rows that are among the held-out ones, of this stage or of another that splits the same data
by another seed; a step that writes into a sample that is kept.

## Why it matters

Some rows are never learnt and some twice; a held-out loss on rows that were trained on says nothing.

## How it decides

A run says which samples a batch holds (`Run.samples`) and how many an epoch has (`Run.epoch_size`). Without any step,
three epochs of batches are drawn. Each must hold as many different samples as it has places, and all epochs the same
ones; where each repeats the same few as often, they are drawn more often on purpose for all that is known: a warning.
With more than 8 samples two epochs in the same order are a fault, or an order that comes again before an epoch is over,
unless the run says `shuffles = False`: by chance that happens once in 40,000 runs. Where the run says what the data
have (`Run.sources`), an epoch must hold each row of them, also with a key of `Stage.options` moved: packed, for one. No
held-out sample (`Run.heldout`) may be among them, nor one that another stage holds out, where names that both stages
draw are those of the same rows. Where rows that are not the same have one name, that of their prompt or task, each
epoch must hold every name as often as the first, and no held-out prompt may be trained on. With a key of
`Stage.options` moved that is none of the data (its name has no word of data, rows, splits, evaluation or seeds), as
many held-out samples must be the same ones: a split that draws from the global generator is another where a model of
another size, or an algorithm that draws, stands in front of it.

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

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any

from gradgate.checks.moved import as_given, in_words, plain_and_moved, runs_of
from gradgate.checks.order_lines import line_of_order
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.row_lines import Row
from gradgate.checks.row_sources import cut_rows, rows_of
from gradgate.checks.sample_lines import line_of_lost, line_of_repeats, line_of_shared
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG612", "data-order"
NEEDS: tuple[str, ...] = ("samples",)
PER_STAGE = True
EPOCHS = 3
_OF_DATA = re.compile(
    r"data|row|sample|corpus|split|fold|held|eval|val(id\w*)?([._]|$)|seed|fraction|task|prompt|file|path"
)
ENOUGH = 8  # samples, above which two equal orders are no chance
FIX = "draw a new permutation for each epoch, from the seed and the epoch's number; let the last batch be smaller"


Find = Callable[[], Line | Location | None]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Draw three epochs and count."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    epochs = _epochs(run)
    whole = set().union(*epochs)
    uneven = cache(partial(_line_of_repeats, subject, stage, context, whole))
    repeats = len(set(epochs[0])) < len(epochs[0])
    usual = Counter(epochs[0]) if repeats and _name_groups(stage, context) else None
    found: list[tuple[str, Find]] = []  # what is trained on and evaluated comes first
    if "heldout" in declared(run):
        with calling("heldout()"):
            heldout = set(run.heldout())
        if shared := whole & heldout:
            text = f"{len(shared)} held-out samples are trained on; allowed: 0"
            found.append((text, partial(_line_of_shared, subject, stage, context, whole, heldout)))
        found += _moved_split(stage, context, heldout, whole)
    found += _held_out_elsewhere(subject, stage, context, whole)
    even = all(len(set(epoch)) == len(whole) for epoch in epochs)  # else some are missing in one that others hold
    found += _never_drawn(run, subject, stage, context, 1 if even else EPOCHS)
    more = _oversampled(epochs) if usual is None else 0
    for number, epoch in enumerate([] if more else epochs, 1):
        found += [(message, uneven) for message in _uneven(number, epoch, whole, usual)]
    found += [
        (message, partial(_line, subject, stage, context, repeats=False)) for message in _same_orders(run, epochs)
    ]
    findings = tuple(named(Finding(CODE, NAME, message, fix=FIX), find, context.seed) for message, find in found)
    if more:
        text = (
            f"each epoch of {len(epochs[0])} samples repeats the same {more}; allowed: 0, but for rows drawn more often"
        )
        findings += (named(Finding(CODE, NAME, text, severity="warning", fix=FIX), uneven, context.seed),)
    measured = {"uneven_samples": len(findings), "samples": len(whole), "epochs": EPOCHS}
    return Outcome(findings, measured, {"uneven_samples": 0})


def _same_orders(run: Run, epochs: Sequence[Sequence[Hashable]]) -> Iterator[str]:
    """What is wrong with the orders of epochs, or of shorter ones that the declared ones are not."""
    if not run.shuffles or len(set().union(*epochs)) <= ENOUGH:
        return
    if len(set(map(tuple, epochs))) < EPOCHS:
        yield f"two of {EPOCHS} epochs have the same order; allowed: none"
        return
    drawn = [name for epoch in epochs for name in epoch]
    for period in range(ENOUGH + 1, len(epochs[0])):
        if drawn[period:] == drawn[:-period]:
            text = f"the same order comes again after {period} samples, where an epoch has {len(epochs[0])}"
            yield f"{text}; allowed: an order of its own for each"
            return


def _moved_split(
    stage: Stage, context: Context, heldout: set[Hashable], whole: set[Hashable]
) -> Iterator[tuple[str, Find]]:
    """Held-out samples that are others, as many of them, where a key is moved that says nothing of the data.

    The others are among those that were known: a name that goes by what a sample holds may change with a key.
    """
    options = stage.options or {}
    keys = [key for key in options if not _OF_DATA.search(key.lower())]
    for one, run in runs_of(stage, context, ({key: value} for key in keys for value in options[key][1:2])):
        with calling(f"heldout(){in_words(one)}"):
            moved = set(run.heldout())
        if len(moved) == len(heldout) and moved != heldout and moved <= whole | heldout:
            text = f"{len(heldout - moved)} of {len(heldout)} held-out samples are others{in_words(one)}; allowed: 0"
            yield text, lambda: None
            return


def _held_out_elsewhere(
    subject: Subject, stage: Stage, context: Context, whole: set[Hashable]
) -> Iterator[tuple[str, Find]]:
    """Samples that another stage evaluates on, where a name is the same row in both."""
    for other in subject.stages:
        if other is stage:
            continue
        with calling(f"start() of {other.name!r}"):
            run = other.start(context.seed, device=context.device)
        if not {"samples", "heldout"} <= declared(run):
            continue
        with calling(f"heldout() of {other.name!r}"):
            shared = whole & set(run.heldout())
        if shared and _names_agree(_rows_by_name(stage, context), _rows_by_name(other, context)):
            yield f"{len(shared)} samples that stage {other.name!r} holds out are trained on; allowed: 0", lambda: None


def _names_agree(ours: Mapping[Hashable, set[Row]], theirs: Mapping[Hashable, set[Row]]) -> bool:
    """Whether names that two stages have in common stand for the same rows in both, and there are some.

    Where several rows have one name, that of a prompt, each stage may draw others of them.
    """
    common = ours.keys() & theirs.keys()
    several = any(len(rows) > 1 for rows in (*ours.values(), *theirs.values()))
    same = sum(bool(ours[name] & theirs[name]) for name in common)
    return 2 * same > len(common) if several else same == len(common) > 0


def _never_drawn(run: Run, subject: Subject, stage: Stage, context: Context, epochs: int = 1) -> list[tuple[str, Find]]:
    """Rows of the data that no batch of an epoch holds, as the run is or with a key of its options moved; of several
    epochs, as it is."""
    if not {"sources", "tokens"} <= declared(run):
        return []
    with calling("start()"):
        plain = stage.start(context.seed, device=context.device)
    for options, one in plain_and_moved(plain, stage, context) if epochs == 1 else [({}, plain)]:
        told = in_words(options)
        with calling("sources()"):
            ways = cut_rows(one, one.sources())
        with calling(f"drawing an epoch{told}"):
            drawn = _documents(one, epochs)
        wanted, *_ = ways
        if drawn is not None and all(way - drawn for way in ways):
            lost = wanted - drawn
            in_epochs = "an epoch" if epochs == 1 else f"{epochs} epochs"
            text = f"{len(lost)} of {len(wanted)} rows of the data are in no batch of {in_epochs}{told}; allowed: 0"
            return [(text, partial(_line_of_lost, subject, stage, context, options, wanted, lost))]
    return []


def _documents(run: Run, epochs: int) -> set[Row] | None:
    """The rows and documents of epochs; None where `tokens` does not tell all that a batch holds."""
    found: set[Row] = set()
    samples = 0
    for batch in run.batches():
        tokens, names = run.tokens(batch), run.samples(batch)
        rows = [row for _, row in rows_of(tokens)]
        if len(names) not in (len(tokens.token_BS), len(rows)):
            return None
        found.update(rows)
        samples += len(names)
        if samples >= epochs * run.epoch_size:
            break
    return found


def _line(subject: Subject, stage: Stage, context: Context, *, repeats: bool) -> Line | None:
    """The line that gives the indices of samples."""
    run = stage.start(context.seed + 1, device=context.device)  # what is cached was made of the other seed
    return line_of_order(subject.source, run, EPOCHS, repeats=repeats)


def _line_of_repeats(subject: Subject, stage: Stage, context: Context, whole: set[Hashable]) -> Line | Location | None:
    """The line that gives the indices of samples, or whose list has samples twice."""

    def is_right(drawn: tuple[Run, list[Hashable]]) -> bool:
        return len(drawn[1]) == len(set(drawn[1])) and set(drawn[1]) == whole

    found = _line(subject, stage, context, repeats=True)
    return found or line_of_repeats(subject.source, partial(_drawn, stage, context), is_right)


def _line_of_shared(
    subject: Subject, stage: Stage, context: Context, whole: set[Hashable], heldout: set[Hashable]
) -> Location | None:
    """The line whose list has what is held out; none where either side could be the wrong one."""
    if not (whole <= heldout or heldout <= whole):
        return None

    def is_right(drawn: tuple[Run, list[Hashable]]) -> bool:
        trained, kept = set(drawn[1]), set(drawn[0].heldout())
        return bool(trained and kept) and not trained & kept and trained | kept == whole | heldout

    return line_of_shared(subject.source, partial(_drawn, stage, context), is_right, len(whole & heldout))


def _line_of_lost(
    subject: Subject, stage: Stage, context: Context, options: Mapping[str, Any], wanted: set[Row], lost: set[Row]
) -> Location | None:
    """The line that drops rows."""

    def course() -> set[Row] | None:
        return _documents(stage.start(context.seed, device=context.device, **as_given(options)), 1)

    def is_right(drawn: set[Row] | None) -> bool:
        return drawn is not None and wanted <= drawn

    return line_of_lost(subject.source, course, is_right, list(lost))


def _drawn(stage: Stage, context: Context) -> tuple[Run, list[Hashable]]:
    """A run, and the samples of its first epoch."""
    run = stage.start(context.seed, device=context.device)
    return run, _epochs(run, 1)[0]


def _epochs(run: Run, count: int = EPOCHS) -> list[list[Hashable]]:
    """The samples of so many epochs, in order."""
    batches = iter(run.batches())
    drawn: list[Hashable] = []
    while len(drawn) < count * run.epoch_size:
        with calling("drawing a batch"):
            batch = next(batches)
        with calling("samples()"):
            drawn += run.samples(batch)
    return [drawn[i * run.epoch_size : (i + 1) * run.epoch_size] for i in range(count)]


def _name_groups(stage: Stage, context: Context) -> bool:
    """Whether rows that are not the same have one name: that of their prompt, or task."""
    return any(len(several) > 1 for several in _rows_by_name(stage, context).values())


def _rows_by_name(stage: Stage, context: Context) -> dict[Hashable, set[Row]]:
    """The rows of an epoch by the names of their samples; empty where the run has no `tokens`."""
    run = stage.start(context.seed, device=context.device)
    if "tokens" not in declared(run):
        return {}
    rows: dict[Hashable, set[Row]] = {}
    drawn = 0
    for batch in run.batches():
        with calling("samples()"):
            tokens, names = run.tokens(batch), run.samples(batch)
        found = list(rows_of(tokens))
        if len(found) != len(names) or drawn >= run.epoch_size:
            break
        for name, (_, row) in zip(names, found, strict=True):
            rows.setdefault(name, set()).add(tuple(map(int, row)))
        drawn += len(names)
    return rows


def _oversampled(epochs: Sequence[Sequence[Hashable]]) -> int:
    """How many places hold a sample once more, where each epoch repeats the same ones as often, and others never."""
    counts = [Counter(epoch) for epoch in epochs]
    alike = all(count == counts[0] for count in counts)
    return len(epochs[0]) - len(counts[0]) if alike and min(counts[0].values()) == 1 else 0


def _uneven(number: int, epoch: Sequence[Hashable], whole: set[Hashable], usual: Counter[Hashable] | None) -> list[str]:
    counts = Counter(epoch)
    once = Counter(dict.fromkeys(counts, 1)) if usual is None else usual
    repeated = (counts - once).total()
    missing = len(whole - set(epoch))
    if not repeated and not missing:
        return []
    told = f"repeats {repeated} and lacks {missing} of those that other epochs hold"
    return [f"epoch {number} of {len(epoch)} samples {told}; allowed: 0 and 0"]

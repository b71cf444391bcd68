"""The program, stopped at an update and resumed, does not go on as it would have without the stop.

## What it detects

Whatever a resume lacks or takes wrongly, wherever the fault stands: state that no checkpoint has, or that is read in
front of what overwrites it; a checkpoint that is not the newest; a place in the data, a schedule or an interval that is
one off; a stage that begins anew, that is left out, or that gets the end of an earlier stage otherwise than in one run;
a resume that needs files which an interrupted run does not have; a best score, an average or a count that the last
files show.

## Why it matters

Runs are stopped: by a queue, a crash, a full disk. Where the rest is another training, nobody can say what the model
was trained with, and the loss curve seldom shows it.

## How it decides

The program is stopped behind an update, as by an error that nothing catches, and started again in a new process with
`resume`. The updates that it makes then must be the last ones of the run that was not stopped, with the same
parameters to the bit, and what its files hold in the end must be the same. Where it is stopped: in the middle between
two checkpoints of each stage, at the first update of a later stage, before the last update, and before there is a
checkpoint. Profile quick: 2 places, pr: 6, nightly: 16, as long as the check's time lasts. Where the first update is
another one, what it finds is named: parameters, rates, the optimizer's state, a generator that training draws from,
gradients of the same parameters, rows that are those of another update to the bit.

Where nothing is found so, it is done with what `Program.options` can switch (words, on and off, a number and 0,
accumulation) the other way: all at once, and one by one where that is refused or shows something.

Values of the last files that two equal runs do not have alike are left out; so is a resume that refuses where there is
no checkpoint yet.

False-alarm rate: 0 for a program that promises to go on bit for bit. One that promises less (it begins an interrupted
epoch anew) names the finding as expected, with that reason.

## Example

Bad:

```python
if args.resume:
    load(model, optimizer)
optimizer = build_optimizer(model)          # behind the load: moments and steps are new
```

Good:

```python
optimizer = build_optimizer(model)
if args.resume:
    load(model, optimizer, scheduler, generators, sampler)
```

## How to fix

Compare what the checkpoint has with what the loop reads: GG603 lists what is not there. Load last, and save behind the
update that the count says.

## Known limits

The line is not named: the checks of one stage (GG602, GG603) and those of the source do that. Work that is done twice,
because an older checkpoint was taken, is seen only where the resume begins from the very start.

## Sources

Faults of resume of the trainers that the catalogue was tried on; PyTorch, Saving and loading a general checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from gradgate.checks.held_rows import update_of_rows
from gradgate.checks.launches import Update, first_parting
from gradgate.checks.moved import in_words
from gradgate.checks.snapshot import compare
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import (
    Point,
    Turns,
    Whole,
    equal_runs,
    parted,
    program_of,
    stops,
    switched,
    unstable_values,
    whole,
)
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG671", "stopped-program-differs"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
GENERATORS = {"torch": "torch's generator", "random": "Python's `random`", "numpy": "numpy's global generator"}
BEHIND_SWITCHES = 4  # updates at which it is stopped with other settings
FIX = "save all that the loop goes on from, load it last, and count the checkpoint by the updates that it holds"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Stop and resume at one update after the other."""
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    first, _ = runs
    found: dict[str, Finding] = {}
    made = 0
    for point, resumed in stops(subject, context, first):
        made += 1
        for finding in _updates(point, first, resumed) or _files(point, runs, resumed):
            found.setdefault(finding.detail["what"], finding)
    if not made:
        return Outcome(not_applicable="the program makes one update, and none can be made behind a stop")
    measured = {"places": made, "updates": len(first.updates)}
    return Outcome(tuple(found.values()) or _behind_switches(subject, context), measured)


def _behind_switches(subject: Subject, context: Context) -> tuple[Finding, ...]:
    """A finding in settings in which all switches are flipped, or, where that is refused or wrong, a single one."""
    turns = Turns(context)
    several: Finding | None = None
    for settings in turns.of(switched(program_of(subject))):
        first = whole(subject, context, settings)
        if first.launched.end != "ended":
            continue
        finding = _with_settings(subject, context, first, settings)
        if len(settings) > 1 and finding is None:
            return ()
        if len(settings) == 1 and finding is not None:
            return (finding,)
        several = several or finding
    return () if several is None else (several,)


def _with_settings(subject: Subject, context: Context, first: Whole, settings: Mapping[str, Any]) -> Finding | None:
    """What stops show with other settings, where two runs with them are alike."""
    for point, resumed in stops(subject, context, first, settings, BEHIND_SWITCHES):
        for finding in _updates(point, first, resumed):
            second = whole(subject, context, settings, turn=1)
            alike = first_parting(first.updates, second.updates) is None
            return replace(finding, message=f"{finding.message}{in_words(settings)}") if alike else None
    return None


def _updates(point: Point, first: Whole, resumed: Whole) -> list[Finding]:
    """What the updates behind a resume are otherwise, each of it once."""
    launched, whole_run = resumed.launched, first.updates
    where = point.stopped(len(whole_run))
    made = len(resumed.updates)
    if launched.end != "ended":
        if launched.end == "slow" or (launched.end == "refused" and point.saved is None):
            return []
        return [_finding("end", f"{where}, the program {launched.in_words}", point, victim=launched.place)]
    if not made:
        return [
            _finding(
                "none", f"{where}, the program makes none of the {len(whole_run) - point.update} updates left", point
            )
        ]
    start = len(whole_run) - made
    at = 0 if start < 0 else first_parting(resumed.updates, whole_run[start:])
    if at is None:
        return _place(where, point, start)
    from_here = _behind(resumed.updates[0], whole_run)
    told = [] if from_here is None else list(_count(where, point, made, from_here, len(whole_run)))
    told += _state(where, point, resumed, first, start if from_here is None else from_here)
    if not told:
        far = parted(resumed.updates, whole_run[start:], at)
        text = f"{where}, the program makes {made} updates, and the {_nth(at + 1)} of them is another than without it"
        told = [_finding("later", f"{text}: {far}; allowed: none", point)]
    return told


def _place(where: str, point: Point, start: int) -> list[Finding]:
    """A resumed run whose updates are the last ones of the whole run: whether it has them all, and no more."""
    if start == 0 and point.saved:
        text = f"{where}, the program begins anew: a checkpoint had been written behind update {point.saved}"
        return [_finding("anew", text, point)]
    if start > point.update:
        return [
            _finding(
                "left out", f"{where}, the program goes on behind update {start}: those between are not made", point
            )
        ]
    return []


def _behind(update: Update, whole_run: Sequence[Update]) -> int | None:
    """How many updates a resumed run goes on behind, by the parameters that it begins with."""
    return next((i for i, one in enumerate(whole_run) if one.before == update.before), None)


def _count(where: str, point: Point, made: int, start: int, length: int) -> Iterator[Finding]:
    """Whether as many updates are made as are left."""
    if made != length - start:
        text = f"{where}, the program goes on from update {start} and makes {made} updates to its end"
        yield _finding("count", f"{text} instead of {length - start}", point)


def _state(where: str, point: Point, resumed: Whole, first: Whole, start: int) -> Iterator[Finding]:
    """What the first update behind a resume finds otherwise than the same one of the whole run."""
    update, whole_run = resumed.updates[0], first.updates
    if not 0 <= start < len(whole_run):
        return
    same = whole_run[start]
    text = f"{where}, the first update finds other"
    if update.before != same.before:
        yield _finding("parameters", f"{text} parameters than any update of a run without the stop", point)
        return
    if update.rates != same.rates:
        rates = f"learning rates: {_numbers(update.rates)}, and {_numbers(same.rates)} without the stop"
        yield _finding("rates", f"{text} {rates}", point)
    if update.moments != same.moments:
        yield _finding("moments", f"{text} moments: the optimizer's state is not that of update {start + 1}", point)
    if update.gradients == same.gradients:
        return
    then, drawn = same.generators, whole_run[min(start + 1, len(whole_run) - 1)].generators
    moving = [name for name in GENERATORS if name in then and drawn[name] != then[name]]  # that training draws from
    others = [name for name in moving if update.generators.get(name) != then[name]]
    for name in others:
        said = f"random numbers: the state of {GENERATORS[name]} is another one"
        yield _finding(f"generator {name}", f"{text} {said}", point)
    stage = {i: held for i, held in first.launched.held.items() if whole_run[i].optimizer == same.optimizer}
    rows = update_of_rows(stage, resumed.launched.held.get(0, {}), start)
    whose = "" if rows is None else f"those of update {rows + 1}, and not of update {start + 1}"
    if not others:
        why = f"other rows, {whose or 'or other state of what computes the loss'}"
        yield _finding("gradients", f"{text} gradients of the same parameters and random numbers: {why}", point)
    elif whose:
        yield _finding("rows", f"{text} rows, too: {whose}", point)


def _numbers(rates: Sequence[float]) -> str:
    return ", ".join(f"{rate:.4g}" for rate in dict.fromkeys(rates))


def _files(point: Point, runs: tuple[Whole, Whole], resumed: Whole) -> list[Finding]:
    """What the last files have otherwise."""
    first, second = runs
    if resumed.launched.end != "ended":
        return []
    unstable, where = unstable_values(first, second), point.stopped(len(first.updates))
    for file, values in first.contents.items():
        theirs = resumed.contents.get(file)
        if file not in second.contents:
            continue
        if theirs is None:
            return [_finding("file", f"{where}, the program leaves no {file}, which a run without a stop does", point)]
        stable = {name: value for name, value in values.items() if (file, name) not in unstable}
        if differing := _first_difference(stable, theirs):
            return [_finding("content", f"{where}, the updates are the same, and {file} is not: {differing}", point)]
    return []


def _first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    for name, value in ours.items():
        if name not in theirs:
            return f"`{name}` is not in it"
        difference = compare(name, value, theirs[name])
        if difference is not None:
            return f"`{name}`: {difference.text}"
    return ""


def _nth(number: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(number, f"{number}th")


def _finding(what: str, message: str, point: Point, **places: Any) -> Finding:
    return Finding(CODE, NAME, message, fix=FIX, detail={"what": what, "update": point.update}, **places)

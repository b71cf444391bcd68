"""What the program logged is lost, wrong or written twice where it was stopped and resumed.

## What it detects

A log that is opened anew by the resume; a mean since the last line whose sum is not in the checkpoint, so that the
first line behind a resume is of fewer steps; a best score, a patience or a count that is logged and begins anew;
evaluations that are left out or measured otherwise; lines behind the checkpoint that are written a second time.

## Why it matters

Curves and the choice of the best checkpoint come from the log. A line that is wrong once a restart is a spike that
somebody explains; lines that are there twice are counted twice.

## How it decides

The runs of GG671, those whose updates are the same as without the stop. Every record of a log (JSON lines, CSV, a JSON
list) of the run that was not stopped must be among those of the resumed one, numbers equal to 1e-6. Left out are names
in which two equal runs differ, those of clocks and speeds, and `Program.volatile`. A record that is there oftener, with
the same whole numbers and texts, is a warning: a reader may take the last one.

False-alarm rate: 0 for a log that says the same of equal updates.

## Example

Bad:

```python
running, count = 0.0, 0                       # behind the load
...
log(step=step, loss=running / count)
```

Good:

```python
running, count = state["running"], state["count"]
log_file.truncate_behind(state["step"])
```

## How to fix

Save what a line is made of, or write a line wherever a checkpoint is written; cut the log to the checkpoint's step.

## Known limits

Logs of other forms (TensorBoard, plain texts) are not read. Where the resumed updates differ, that is GG671's, and of
the log no more is asked than that its first record is still there.

## Sources

Faults of two reviewed trainers.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradgate.checks.launches import first_parting
from gradgate.checks.whole_runs import GROUP as GROUP
from gradgate.checks.whole_runs import Logged, Point, Whole, equal_runs, lacking, program_of, repeated, stops, unstable
from gradgate.core.finding import Finding, Severity
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG672", "log-differs-behind-a-stop"
NEEDS: tuple[str, ...] = ("program",)
PER_STAGE = False
FIX = "save what a line is made of, and cut the log to the checkpoint's step when it is resumed"


def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Hold the logs of resumed runs against that of a run without a stop."""
    runs = equal_runs(subject, context)
    if isinstance(runs, Outcome):
        return runs
    first, second = runs
    if not first.records:
        return Outcome(not_applicable="the program leaves no log of JSON lines, CSV or a JSON list in its folder")
    without = unstable(first, second, program_of(subject))
    found: dict[str, Finding] = {}
    compared = 0
    for point, resumed in stops(subject, context, first):
        if resumed.launched.end != "ended":
            continue
        for finding in _begun_anew(point, first, resumed):
            found.setdefault("lost", finding)
        ending = first.updates[len(first.updates) - len(resumed.updates) :]
        if first_parting(resumed.updates, ending) is not None:
            continue
        compared += 1
        for finding in _findings(point, first, resumed, without):
            found.setdefault(finding.detail["what"], finding)
    if not compared and not found:
        return Outcome(inconclusive="no resumed run trains as the one without a stop: see GG671")
    return Outcome(tuple(found.values()), {"places": compared, "records": sum(map(len, first.records.values()))})


def _begun_anew(point: Point, first: Whole, resumed: Whole) -> Iterator[Finding]:
    """A log whose first record was there at the stop, and is not behind the resume."""
    for file, records in resumed.left.items():
        if records[0] not in resumed.records.get(file, ()):
            where = point.stopped(len(first.updates))
            text = f"{where}, {file} has lost its first record, {_told(Logged(file, records[0]))}: it was begun anew"
            yield _finding("lost", text)


def _findings(point: Point, first: Whole, resumed: Whole, without: frozenset[str]) -> Iterator[Finding]:
    where = point.stopped(len(first.updates))
    missing = list(lacking(first, resumed, without))
    for one in missing[:1] if missing and not missing[0].key else ():
        lost = sum(not each.key for each in missing)
        yield _finding("lost", f"{where}, {lost} records of {one.file} are not there, among them {_told(one)}")
    for key in dict.fromkeys(one.key for one in missing if one.key):
        one = next(each for each in missing if each.key == key)
        text = f"{where}, {one.file} says `{key}` = {one.other!r} where a run without a stop says {one.record[key]!r}"
        yield _finding(key, f"{text}: {_told(one)}")
    if not missing:
        for file, record, count in list(repeated(first, resumed, without))[:1]:
            text = f"{where}, a record of {file} is there {count} times: {_told(Logged(file, record))}"
            yield _finding("twice", text, "warning")


def _told(one: Logged) -> str:
    """A record, shortened: what tells it apart first."""
    pairs = sorted(one.record.items(), key=lambda pair: isinstance(pair[1], float))
    return ", ".join(
        f"{key}={value if not isinstance(value, float) else format(value, '.4g')}" for key, value in pairs[:4]
    )


def _finding(what: str, message: str, severity: Severity = "error") -> Finding:
    return Finding(CODE, NAME, message, severity=severity, fix=FIX, detail={"what": what})

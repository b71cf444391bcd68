"""A full disk or a failing writer leaves no checkpoint that loads, or the save reports success.

## What it detects

A save that writes straight into the file that the last save left, so that a full disk, a kill or an error in the middle
destroys both; one that removes the old checkpoint before the new one is whole; one that swallows the error.

## Why it matters

Disks fill up and jobs are killed while they save, since that is when they write most. What is lost is the whole run.

## How it decides

A run takes two steps and saves into a folder, takes two more and saves there again, but may now write no file beyond a
limit (`RLIMIT_FSIZE`): nothing, a half, and all but one byte of the largest file that the first save left. Once the
writer gets an error, as on a full disk; and once, in a forked process, the kernel kills it there, in the middle of the
write. Where a save writes beyond the limit:

1. it must raise,
2. a load of the folder into a fresh run must succeed, and
3. bring back the state of the first save or that of the second, bit for bit.

Statistic: saves that do otherwise. Allowed: 0. False-alarm rate: 0. A save that stays below every limit, because it
writes several small files or to another place, is not judged at that limit.

## Example

Bad:

```python
torch.save(state, path)
```

Good:

```python
temporary = path.with_name(f".{path.name}.tmp")
with temporary.open("wb") as file:
    torch.save(state, file)
    file.flush()
    os.fsync(file.fileno())
temporary.replace(path)
```

## How to fix

Write to a temporary file in the same folder, flush, fsync, and rename it; remove old checkpoints behind that; let the
error out.

## Known limits

A kill between two writes is not tried, and neither is a power cut: whether `fsync` was called is not asked. Kills are
tried on the CPU alone. Where the platform has no file limits the check does not apply.

## Sources

setrlimit(2).
"""

from __future__ import annotations

import gc
import os
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gradgate.checks.checkpoints import Loaded, copied, files_of, fresh, load, stepped
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, first_line, reports_raises
from gradgate.checks.save_lines import line_of_write
from gradgate.checks.snapshot import Snapshot, first_difference, take
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG604", "save-not-atomic"
NEEDS: tuple[str, ...] = ("save",)
PER_STAGE = True
LONGEST = 60  # seconds that a save in a process of its own may take
FIX = "write to a temporary file in the same folder, flush, fsync, and rename it; let the error out"


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Save, save again where the disk is full, and load what is there."""
    try:
        import resource  # noqa: F401
    except ImportError:
        return Outcome(not_applicable="this platform cannot limit the size of a file")
    first = context.folder / "first"
    first.mkdir()
    run = stepped(fresh(stage, context, context.seed))
    with calling("save()"):
        run.save(first)
    known = load(stage, context, first)
    if known.error is not None:
        with calling("load()"):
            raise known.error
    sizes = [(first / file).stat().st_size for file in files_of(first)]
    stepped(run)
    findings, stopped = [], 0
    for limit in sorted({0, max(sizes) // 2, max(sizes) - 1}) if sizes else ():
        for save in (_refused, _killed) if context.device == "cpu" else (_refused,):
            folder = copied(first, context.folder / f"limit-{limit}")
            end = save(run, folder, limit)
            outcome = load(stage, context, folder)
            message = _judge(end, outcome, known.state, take(run))
            findings += [_finding(f"a save {end.doing} {message}")] if message else []
            stopped += end.stopped
    findings = [named(finding, partial(_line, subject, stage, context, first), context.seed) for finding in findings]
    measured = {"saves_that_lose": len(findings), "saves_on_a_full_disk": stopped}
    if not stopped:
        return Outcome(measured=measured, not_applicable="no save wrote beyond a limit: nothing to look at")
    return Outcome(tuple(findings), measured, {"saves_that_lose": 0})


def _line(subject: Subject, stage: Stage, context: Context, first: Path) -> Line | None:
    """The line that opens or removes the largest file of the checkpoint that is there."""
    folder = copied(first, context.folder / "line")
    run = stepped(fresh(stage, context, context.seed))
    largest = max(files_of(first), key=lambda file: (first / file).stat().st_size)
    return line_of_write(subject.source, lambda: run.save(folder), {largest.name})


@dataclass(frozen=True)
class _End:
    """How a save under a limit ended.

    Args:
        doing: the save, in words.
        stopped: whether the limit stopped it.
        said: whether it may be known to have failed: it raised, or was killed.
    """

    doing: str
    stopped: bool
    said: str


def _refused(run: Run, folder: Path, limit: int) -> _End:
    """Beyond the limit a write raises."""
    said = ""
    with _largest_file(limit):
        try:
            run.save(folder)
        except (Exception, SystemExit) as error:
            said = f"raised {type(error).__name__}"
    with warnings.catch_warnings():  # a file that the failed save left open is closed here, and not told
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    return _End(f"that may write {limit} bytes a file", bool(said), said)


def _killed(run: Run, folder: Path, limit: int) -> _End:
    """Beyond the limit the process ends, in the middle of the write."""
    child = os.fork()
    if not child:
        with suppress(BaseException), _largest_file(limit):
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            signal.alarm(LONGEST)
            run.save(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return _End(f"killed after {limit} bytes of a file", os.WIFSIGNALED(status), "was killed")


def _judge(end: _End, outcome: Loaded, old: Snapshot, new: Snapshot) -> str:
    """What is wrong; empty where nothing is."""
    said = end.said or "raised nothing"
    if outcome.error is not None:
        text = f"{type(outcome.error).__name__}: {first_line(outcome.error)}"
        return f"{said} and left no checkpoint that loads ({text}); allowed: the old one"
    behind, ahead = first_difference(old, outcome.state), first_difference(new, outcome.state)
    if behind is not None and ahead is not None:
        return f"{said} and left neither the old state nor the new: `{behind.name}`: {behind.text}"
    if ahead is not None and not end.said:
        return "reported success, and what loads is the old state; allowed: to raise"
    return ""


@contextmanager
def _largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond a size; a writer gets `OSError: File too large`."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _finding(message: str) -> Finding:
    return Finding(CODE, NAME, message, fix=FIX)

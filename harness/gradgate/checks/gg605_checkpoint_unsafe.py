"""Loading executes code, accepts a damaged file, or loads half of one that does not fit.

## What it detects

`torch.load(..., weights_only=False)` and `pickle.load` on a checkpoint; a truncated or altered file that is loaded as
if nothing had happened; a load that fails and leaves the run half changed; missing weights that stay at their start
because a mismatch is not an error (`strict=False`).

## Why it matters

A checkpoint is copied between machines, downloaded and resumed for months. A flipped bit or a copy that was cut short
then trains on, silently, from other weights; and a pickle runs whatever its author wrote.

## How it decides

Two steps, a save, and loads into fresh runs of another seed.

1. While the undamaged checkpoint is loaded, `torch.load`, `pickle.load` and `pickle.loads` are watched: a call from the
   trainer's own code that may execute what it reads is an error, and its line is named.
2. Of each file that a load needs (without it the load fails or brings back something else): cut to a half, to nothing,
   and with one bit changed at a quarter, a half and three quarters of its length. A load must raise, or bring back
   exactly what was saved.
3. A load that raises must have changed no bit of the run.

A changed bit alone is a warning where the trainer's source has no checksum: most trainers have none.

Statistic: loads that do otherwise. Allowed: 0. False-alarm rate: 0: what is compared is compared bit for bit, and a
change that is not read cannot count.

## Example

Bad:

```python
model.load_state_dict(torch.load(path, weights_only=False), strict=False)
```

Good:

```python
content = path.read_bytes()
if hashlib.sha256(content[64:]).hexdigest().encode() != content[:64]:
    raise ValueError(f"{path}: damaged: its content does not match its checksum")
model.load_state_dict(torch.load(BytesIO(content[64:]), weights_only=True))
```

## How to fix

Keep tensors and plain values alone, load with `weights_only=True`, store a checksum beside or before the content and
compare it first, and check all of a file before any of it is loaded.

## Known limits

Files are damaged, not forged: a checksum that an attacker can write again protects against accidents alone. What a
trainer keeps outside parameters, persistent buffers and optimizers is not compared. Formats of other libraries are
watched only where they go through pickle.

## Sources

Fault classes CR-10 and CR-11 of the fault catalogue; PyTorch documentation of `torch.load`.
"""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from gradgate.checks.checkpoints import copied, files_read, fresh, load, stepped
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.save_lines import line_of_load
from gradgate.checks.snapshot import Snapshot, first_difference
from gradgate.checks.source.trainer import files_of
from gradgate.core.finding import Finding, Location, Severity
from gradgate.core.origin import at_line, is_own_code
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG605", "checkpoint-unsafe"
NEEDS: tuple[str, ...] = ("save",)
PER_STAGE = True
MOST_FILES = 4  # of one checkpoint, the largest
CHECKSUMS = ("hashlib", "crc32", "adler32", "xxhash", "blake3", "checksum")
FIX_CODE = "load tensors and plain values alone: torch.load(..., weights_only=True)"
FIX_DAMAGE = "store a checksum with the content and compare it before anything is loaded"
FIX_HALF = "check all of a file before any of it is loaded"

Damage = Callable[[bytes], bytes]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Save, load under watch, then load damaged copies."""
    saved = context.folder / "saved"
    saved.mkdir()
    run = stepped(fresh(stage, context, context.seed))
    with calling("save()"):
        run.save(saved)
    findings: list[Finding] = []
    with _watched(findings, subject.source):
        whole = load(stage, context, saved)
    if findings:
        of_data: list[Finding] = []  # a corpus of its own, read where a run starts
        with _watched(of_data, subject.source):
            fresh(stage, context, context.seed)
        findings = [finding for finding in findings if all(finding.culprit != each.culprit for each in of_data)]
    if whole.error is not None:
        with calling("load()"):
            raise whole.error
    files = sorted(
        files_read(stage, context, saved, context.folder, whole.state), key=lambda file: -(saved / file).stat().st_size
    )
    severity: Severity = "error" if any(file.has(*CHECKSUMS) for file in files_of(subject)) else "warning"
    damaged = 0
    for file in files[:MOST_FILES]:
        found = list(_damaged(stage, context, saved, file, whole.state, severity))
        damaged += len(DAMAGES)
        found = [named(finding, partial(_line, subject, stage, context, saved), context.seed) for finding in found]
        findings += found
    measured = {"unsafe_loads": len(findings), "files": len(files), "damaged_loads": damaged}
    return Outcome(tuple(findings), measured, {"unsafe_loads": 0})


def _line(subject: Subject, stage: Stage, context: Context, saved: Path) -> Line | None:
    """The line that reads what nobody has compared with a checksum."""
    run = fresh(stage, context, context.seed)
    return line_of_load(subject.source, lambda: run.load(saved))


def _damaged(
    stage: Stage, context: Context, saved: Path, file: Path, whole: Snapshot, of_a_bit: Severity
) -> Iterator[Finding]:
    """One finding a file and kind of fault; of the severity `of_a_bit` where what is loaded has a changed bit."""
    told: set[str] = set()
    for name, damage in DAMAGES.items():
        copy = copied(saved, context.folder / "damaged")
        (copy / file).write_bytes(damage((saved / file).read_bytes()))
        outcome = load(stage, context, copy)
        if outcome.error is not None:
            change, fix = outcome.changed, FIX_HALF
            message = f"a load of `{file}` {name} raised {type(outcome.error).__name__} and had changed the run already"
        else:
            change, fix = first_difference(whole, outcome.state), FIX_DAMAGE
            message = f"`{file}` {name} was loaded without an error"
        if change is not None and fix not in told:
            told.add(fix)
            found = _finding(f"{message}: `{change.name}`: {change.text}; allowed: no bit", fix)
            yield replace(found, severity=of_a_bit) if fix == FIX_DAMAGE and "a bit" in name else found


def _half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _emptied(_content: bytes) -> bytes:
    return b""


def _flipped(content: bytes, *, at: float) -> bytes:
    place = int(at * len(content))
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :] if content else content


DAMAGES: dict[str, Damage] = {
    "cut to a half": _half,
    "cut to nothing": _emptied,
    "with a bit changed at a quarter": partial(_flipped, at=0.25),
    "with a bit changed in the middle": partial(_flipped, at=0.5),
    "with a bit changed at three quarters": partial(_flipped, at=0.75),
}


@contextmanager
def _watched(findings: list[Finding], source: Path | None) -> Iterator[None]:
    """Note calls from the trainer's own code that may execute what they read."""
    original: dict[str, Callable[..., Any]] = {
        "torch.load": torch.load,
        "pickle.load": pickle.load,
        "pickle.loads": pickle.loads,
    }

    def watching(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if name != "torch.load" or kwargs.get("weights_only") is False:
                _note(name, findings, source)
            return original[name](*args, **kwargs)

        return call

    with (
        patch.object(torch, "load", watching("torch.load")),
        patch.object(pickle, "load", watching("pickle.load")),
        patch.object(pickle, "loads", watching("pickle.loads")),
    ):
        yield


def _note(name: str, findings: list[Finding], source: Path | None) -> None:
    frame = sys._getframe(2)
    if not is_own_code(frame.f_code.co_filename, source):
        return  # torch reads its own files in its own way
    place = at_line(frame.f_code, frame.f_lineno)
    if all(finding.culprit != place for finding in findings):
        with_what = " with weights_only=False" if name == "torch.load" else ""
        findings.append(_finding(f"load() calls {name}{with_what}, which executes what it reads", FIX_CODE, place))


def _finding(message: str, fix: str, culprit: Location | None = None) -> Finding:
    return Finding(CODE, NAME, message, culprit=culprit, fix=fix)

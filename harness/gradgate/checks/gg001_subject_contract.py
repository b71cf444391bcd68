"""The subject does not keep the contract that every other check relies on.

## What it detects

Each stage is started and stepped a few times. The check fails where

* the subject has no stages, two stages of one name, or something that is no function where one is due;
* importing or building the subject, starting a run, drawing a batch or stepping leaves a process-wide setting changed:
  default dtype or device, grad mode, anomaly detection, autocast, deterministic flags, thread count, working folder;
* a run has no modules, nothing to train, or fewer batches than steps;
* one seed gives two sets of parameters or two first batches, whatever the global generators hold at the time;
* a step changes the batch it was given, or returns no metrics by name;
* a capability is declared but raises or lies: `losses` without a scalar `total` on the graph, or changing parameters;
  `tokens` or `valid` of the wrong dtype or shape; `select_rows` or `pad` that give other rows or positions than asked
  for; `edges` that name no loss term or module; `save` that writes nothing; `logits_from` naming no module, or one
  whose output is not [B, S, (H,) V]; `optimizers` with something else in it; a `corpus` whose columns disagree;
* the stage does not start and step in float64.

## Why it matters

A check compares runs that ought to be equal, in float64 where it measures gradients. A subject that is not
deterministic in its seed, or that changes what the process holds in common, makes other checks fail for a reason that
is not theirs.

## How it decides

Exactly: bit equality, types and shapes; no statistic, no threshold, no false alarms by chance. Mean seconds a step are
measured; above 1 s a step there is a warning, which fails nothing.

## Example

Bad:

```python
def step(self, batch):
    batch["token_BS"][~batch["valid_BS"]] = 0      # the next reader of this batch sees another one
    torch.set_default_dtype(torch.float64)         # and so does the rest of the process
```

Good:

```python
def step(self, batch):
    token_BS = batch["token_BS"].masked_fill(~batch["valid_BS"], 0)
```

## How to fix

Build everything inside `start(seed, dtype=..., device=...)` from generators seeded there, pass dtype and device to the
tensors instead of setting defaults, and leave out capabilities that the trainer does not have: a missing one makes
checks not applicable, a wrong one breaks them.

## Known limits

`fit` is too long to be tried here, and `functions` are tried by the checks that use them. Environment variables and
settings of libraries other than torch are not compared. Whether `total` is what the step minimises is for
wrong-gradient (GG205), whether `load` brings everything back for resume-differs (GG602).

## Sources

The docstrings of `gradgate.Subject`, `Stage` and `Run`; PyTorch notes, "Reproducibility".
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, get_args

import torch
from torch import nn

from gradgate.checks import batches, snapshot
from gradgate.checks.contract_clauses import (
    LIES,
    Fault,
    Start,
    batch_of,
    of_batches,
    of_double,
    of_edges,
    of_logits,
    of_losses,
    of_save,
    of_tokens,
)
from gradgate.checks.raised import SubjectRaisedError, calling
from gradgate.checks.run_parts import is_on_the_way, parts_of
from gradgate.core.errors import nearest
from gradgate.core.finding import Finding
from gradgate.core.origin import origin
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Corpus, Objective, Run, Stage, Subject
from gradgate.subjects.global_state import GlobalState, seed_everything

CODE, NAME = "GG001", "subject-contract"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
STEPS = 3
SLOW_S = 1.0
_WORDS = {"cuts": ("end", "front"), "schedule_counts": ("updates", "steps")}
SETTINGS = "pass dtype and device to the tensors; put a setting that must change back in `finally`"
SEEDED = "draw everything from generators that start() seeds with its `seed`"

Clause = Callable[[], Iterator[Fault]]


def check(subject: Subject, stage: Stage | None, context: Context) -> Outcome:
    """Hold the subject and each of its stages against the contract."""
    findings = [_finding(message, fix) for message, fix in _of_subject(subject, context)]
    step_s: dict[str, float] = {}
    for each in subject.stages:
        if callable(each.start):
            findings += _of_stage(each, context, step_s)
    measured = {"broken_clauses": sum(finding.severity == "error" for finding in findings), "step_s": step_s}
    return Outcome(findings=tuple(findings), measured=measured, allowed={"broken_clauses": 0})


def _of_subject(subject: Subject, context: Context) -> Iterator[Fault]:
    for effect in subject.import_effects:
        yield f"importing or building the subject left {effect}", SETTINGS
    if not subject.stages:
        yield "the subject has no stages", "give it `stages=[gradgate.Stage(...)]`"
    names = [stage.name for stage in subject.stages]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield f"{names.count(name)} stages are named {name!r}", "give each stage a name of its own"
    for stage in subject.stages:
        yield from _of_declaration(stage)
    if subject.corpus is not None:
        yield from _faults_of(partial(_of_corpus, subject.corpus, context.seed))


def _of_declaration(stage: Any) -> Iterator[Fault]:
    if not callable(stage.start) or not (stage.fit is None or callable(stage.fit)):
        yield f"stage {stage.name!r}: `start` or `fit` is no function", "pass the function itself, not its result"
    if stage.objective not in (None, *get_args(Objective)):
        yield f"stage {stage.name!r}: objective {stage.objective!r}", 'make it "value", "tokens" or None'


def _of_corpus(build: Callable[[int], Any], seed: int) -> Iterator[Fault]:
    with calling("corpus(seed)"):
        corpus = build(seed)
    if not isinstance(corpus, Corpus):
        yield f"corpus(seed) returned a {type(corpus).__name__}, expected a gradgate.Corpus", LIES
        return
    rows = len(corpus.token_NS)
    if corpus.token_NS.shape != corpus.valid_NS.shape or corpus.reward_N.shape != (rows,):
        shapes = [list(column.shape) for column in (corpus.token_NS, corpus.valid_NS, corpus.reward_N)]
        yield f"corpus columns disagree: token_NS, valid_NS, reward_N have shapes {shapes}", LIES


def _of_stage(stage: Stage, context: Context, step_s: dict[str, float]) -> list[Finding]:
    """Each clause once, on fresh runs; the same fault met by several clauses is one finding."""

    def start(**options: Any) -> Any:
        with calling("start()" if not options else "start(dtype=torch.float64)"):
            return stage.start(context.seed, device=context.device, **options)

    def timed() -> Iterator[Fault]:
        return _of_steps(start, lambda seconds: step_s.update({stage.name: seconds}))

    def saved() -> Iterator[Fault]:
        return of_save(start, Path(mkdtemp(dir=context.folder)))

    clauses: list[Clause] = [
        partial(clause, start) for clause in (_of_seed, of_losses, of_tokens, of_batches, of_logits, of_double)
    ]
    clauses.append(partial(of_edges, start, stage.edges or {}))
    faults = _faults_of(partial(_of_pieces, start))
    for clause in () if faults else (timed, *clauses, saved):  # without its pieces a run cannot be driven
        faults |= _faults_of(clause)
    findings = [_finding(f"stage {stage.name!r}: {message}", fix) for message, fix in faults]
    if step_s.get(stage.name, 0) > SLOW_S:
        findings.append(_slow(stage.name, step_s[stage.name]))
    return findings


def _faults_of(clause: Clause) -> dict[Fault, None]:
    """The faults of a clause, in order; what the subject raises and what it leaves changed are among them."""
    faults: list[Fault] = []
    before = GlobalState.now()
    try:
        faults.extend(clause())
    except SubjectRaisedError as raised:
        place = origin(raised.error)
        faults.append((f"{raised} ({place})" if place else str(raised), LIES))
    faults += [(f"a run left {change}", SETTINGS) for change in before.changes()]
    before.restore()
    return dict.fromkeys(faults)


def _of_pieces(start: Start) -> Iterator[Fault]:
    run = start()
    if not isinstance(run, Run):
        yield f"start() returned a {type(run).__name__}, expected a gradgate.Run", "subclass gradgate.Run"
        return
    modules = getattr(run, "modules", None)
    if not isinstance(modules, Mapping) or not modules:
        yield "`Run.modules` is no mapping with a module in it", "set it to {name: module} in the run's __init__"
        return
    for name, module in modules.items():
        if not isinstance(module, nn.Module):
            yield f"modules[{name!r}] is a {type(module).__name__}, expected an nn.Module", LIES
    trained = (p for m in modules.values() if isinstance(m, nn.Module) for p in m.parameters() if p.requires_grad)
    if next(trained, None) is None:
        yield "no parameter of `Run.modules` requires grad", "put the modules that the stage trains into `modules`"
    optimizers = run.optimizers if isinstance(run.optimizers, Sequence) else [None]
    if not all(isinstance(optimizer, torch.optim.Optimizer) for optimizer in optimizers):
        yield "`Run.optimizers` is no sequence of optimizers", LIES
    if run.logits_from is not None and run.logits_from not in modules:
        yield f"`logits_from` names {run.logits_from!r}, which is not in `modules` ({', '.join(modules)})", LIES
    if run.statistics:
        reached = list(parts_of(run))
        for name in run.statistics:
            if not any(is_on_the_way(name, path) for path in reached):
                last = {path.rpartition(".")[2] for path in reached}
                yield f"`statistics` names {name!r}, which is not reached from the run{nearest(name, last)}", LIES
    for attribute, words in _WORDS.items():
        said = getattr(run, attribute)
        if said is not None and said not in words:
            known = " or ".join(map(repr, words))
            yield f"`{attribute}` is {said!r}, expected {known}{nearest(str(said), words)}", LIES


def _of_seed(start: Start) -> Iterator[Fault]:
    runs = []
    for salt in (1, 2):  # whatever the global generators hold must not matter
        seed_everything(salt)
        run = start()
        runs.append((snapshot.take(run), batch_of(run)))
    (state, batch), (other_state, other_batch) = runs
    for difference in (snapshot.first_difference(state, other_state), batches.first_difference(batch, other_batch)):
        if difference is not None:
            yield f"two runs from one seed differ: {difference.name}: {difference.text}", SEEDED


def _of_steps(start: Start, took: Callable[[float], None]) -> Iterator[Fault]:
    run = start()
    with calling("batches()"):
        source = iter(run.batches())
    seconds = 0.0
    for number in range(1, STEPS + 1):
        with calling("drawing a batch"):
            batch = next(source, None)
        if batch is None:
            yield f"batches() ended after {number - 1}, expected no end", "start over when the data is used up"
            return
        with calling("copying a batch"):
            kept = copy.deepcopy(batch)
        begin = time.perf_counter()
        with calling(f"step {number}"):
            metrics = run.step(batch)
        seconds += time.perf_counter() - begin
        faults = list(_of_step(batches.first_difference(kept, batch), metrics))
        if faults:  # the next step would tell the same again
            yield from faults
            return
    took(seconds / STEPS)


def _of_step(difference: snapshot.Difference | None, metrics: Any) -> Iterator[Fault]:
    if difference is not None:
        yield f"a step changed its batch: {difference.name}: {difference.text}", "clone before writing"
    if not isinstance(metrics, Mapping):
        yield f"step() returned a {type(metrics).__name__}", "return metrics by name, an empty dict if there are none"


def _finding(message: str, fix: str) -> Finding:
    return Finding(CODE, NAME, message, fix=fix)


def _slow(stage: str, seconds: float) -> Finding:
    message = f"stage {stage!r}: a step takes {seconds:.1f} s (up to {SLOW_S:.0f} s keeps the catalogue quick)"
    return Finding(CODE, NAME, message, severity="warning", fix="start() a smaller model on smaller batches")

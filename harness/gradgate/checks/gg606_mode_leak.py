"""A call or an exception leaves modes, random numbers or flags changed.

## What it detects

An evaluation in train mode, or with gradients; a reference that makes a graph; a module that stays in eval mode after a
metric, a frozen one that a step puts back into train mode, dropout that is switched off for good, grad mode, autocast,
default dtype, anomaly or deterministic flags that outlive the call, and all of that after an exception that skipped the
line which would have put it back; a step that seeds the global generators and so draws the same numbers every time; a
save that draws numbers or changes the run.

## Why it matters

Nothing crashes. The run goes on without dropout, with other numerics, or with one dropout mask for ever, and what it is
depends on how often somebody evaluated, saved, or caught an error.

## How it decides

Before and after two steps, `losses`, `evaluate`, `save`, and a step and a `losses` that fail, compared are: grad mode,
autocast, default dtype and device, anomaly and deterministic flags, cuDNN and matmul flags, threads, working folder,
the probability of every dropout; for all but steps also train or eval mode of every module and `requires_grad` of
every parameter. A mode that `evaluate` leaves is passed where the next step runs all modules as the step before did.
Statistic: sets of changes that were left. Allowed: 0.

A step may set modes as it likes, so what counts there is what they lead to: in the step behind it the forward of each
module must run at least once in the mode in which it first ran in the first step. A module without anything to train
that starts in eval mode must run in eval mode in the first step too. One that rests (no parameter requires grad, or no
edge trains it and no optimizer holds it) and runs a dropout or batch norm in train mode alone is a warning: some mean
it. So is a model that the run does not name and no optimizer holds, as a reference, with such a layer in train mode;
and a module that no optimizer holds, whose parameters begin a graph in the step that no backward comes to, as of a
reference without `no_grad`: its activations are kept for nothing. In `evaluate` each dropout and batch norm must run in
eval mode at least once, whatever its probability in this run, and no module's output may have a graph: all activations
of a batch would be kept for a backward that never comes.

Failing means, one place a run: an error raised in the forward of each module, one raised in the backward, and a NaN in
the output of each module.

`evaluate` and `save` must leave parameters, persistent buffers, optimizer state and the global generators as they were,
bit for bit; and the two steps behind an evaluation must be those that come without one (running statistics that it
moves, wherever they are kept). A step and `losses` may draw random numbers; each is called twice on one batch with the
generators in two states, and where a generator then stands in the same state both times, it was seeded on the way.

False-alarm rate: 0.

## Example

Bad:

```python
model.eval()
accuracy = evaluate(model)          # raises, and the model stays in eval mode
model.train()
```

Good:

```python
was_training = model.training
model.eval()
try:
    accuracy = evaluate(model)
finally:
    model.train(was_training)
```

## How to fix

Change modes in a context manager, or put them back in `finally`; put back what was found, not what is usual. Draw from
a generator of the run's own instead of seeding the global ones.

## Known limits

Behind a step, modes of modules that are not called as modules (`module(x)`) are not seen. Evaluation is seen only where
the run has `evaluate`, or where it is a part of `step`, `losses` or `save`. Generators that are seeded from the step
number are not told from generators that are used. Flags of libraries other than torch are not compared.

## Sources

Faults GF-16, OS-25, OS-26 and DI-17 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice, starmap
from typing import Any

from gradgate.checks.checkpoints import fresh
from gradgate.checks.edges import untrained
from gradgate.checks.injections import Injection, error_in_backward, error_in_forward, in_output
from gradgate.checks.mode_lines import (
    fingerprint,
    line_of_call,
    line_of_change,
    line_of_draw,
    line_of_graph,
    line_of_left_mode,
    line_of_parts,
    line_of_stranger,
    lines_of,
)
from gradgate.checks.modes import (
    Leaks,
    Modes,
    at_rest,
    awake_at_rest,
    drawing_modules,
    frozen_in_eval,
    graphs_in_forward,
    mode_changes,
    modes_in_forward,
    reset_generators,
)
from gradgate.checks.own_lines import Line, named
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import Snapshot, first_difference, take
from gradgate.checks.switches import Again
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG606", "mode-leak"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
SEEDS = (17, 18)  # two states of the global generators; any two
RUNS = "in train mode while it runs"
KEEPS = "makes a graph while it runs"
AWAKE = "in train mode in a module that rests"
STRANGER = "runs dropout or batch norm in train mode, and no optimizer holds it"
GRAPH = "makes a graph in the step that no backward comes to, and no optimizer holds it"
SHOWN = 3  # changes that a message lists

Call = Callable[[Run, Batch], Any]


@dataclass(frozen=True)
class _Resting:
    """What a step shows of modules that nothing trains: those awake, of the run and others, and those with a graph."""

    awake: list[str]
    strangers: list[str]
    graphs: list[str]


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Call everything once, in order, then with errors in all places."""
    start = partial(fresh, stage, context, context.seed)
    leaks = Leaks()
    resting = _look_at_calls(start, context, stage, leaks)
    _look_at_generators(start, leaks)
    _look_at_failures(start, leaks)
    _look_at_cadence(start, leaks, context.seed)
    return _outcome(subject, start, context, leaks, resting)


def calls_alone(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """What is left where nothing fails: in other settings that is enough."""
    start = partial(fresh, stage, context, context.seed)
    leaks = Leaks()
    resting = _look_at_calls(start, context, stage, leaks)
    return _outcome(subject, start, context, leaks, resting)


AGAIN = Again(quick=1, check=calls_alone)


def _outcome(subject: Subject, start: Callable[[], Run], context: Context, leaks: Leaks, resting: _Resting) -> Outcome:
    findings = tuple(
        named(finding, partial(_line, subject, start, finding, context), context.seed)
        for finding in starmap(_finding, leaks.by_change.items())
    )
    measured = {"leaks": len(findings), "calls": leaks.looked_at}
    for names, what, fix, find in (
        (resting.awake, AWAKE, "put what is frozen into eval mode, behind each `train()` of the whole", line_of_parts),
        (resting.strangers, STRANGER, "put it into eval mode where it is made", line_of_stranger),
        (resting.graphs, GRAPH, "call it under `torch.no_grad()`, or freeze its parameters", line_of_graph),
    ):
        if names:
            findings += (named(_warning(names, what, fix), partial(find, subject.source, start, names), context.seed),)
    return Outcome(findings, measured, {"leaks": 0})


def _line(subject: Subject, start: Callable[[], Run], finding: Finding, context: Context) -> Line | None:
    """The line that leaves it, from the same call once more."""
    doing, source = finding.detail["calls"][0], subject.source
    run = start()
    first, second = islice(run.batches(), 2)
    calls: dict[str, Callable[[], Any]] = {
        "step 1": partial(run.step, second),
        "step()": partial(run.step, second),
        "losses()": lambda: run.losses(second),
        "evaluate()": run.evaluate,
        "save()": partial(run.save, context.folder),
    }
    if doing not in calls:
        return None  # with an error put into it
    usual = lines_of(source, partial(run.step, first))
    if "generator" in finding.message:
        return line_of_draw(source, calls[doing])
    if "while it runs" in finding.message:
        awake = [module for top in run.modules.values() for module in top.modules() if not list(module.children())]
        return line_of_call(source, awake, calls[doing], outermost=True)
    modules = [module for top in run.modules.values() for module in top.modules()]
    if "eval mode" in finding.message or "train mode" in finding.message:
        find = line_of_left_mode if doing == "evaluate()" else line_of_change
        return find(source, lambda: [module.training for module in modules], calls[doing])
    tensors = [x for module in modules for x in (*module.parameters(False), *module.buffers(False))]
    state = lambda: (fingerprint(tensors), [getattr(module, "p", None) for module in modules])  # noqa: E731
    return line_of_change(source, state, calls[doing], usual)


def _look_at_calls(start: Callable[[], Run], context: Context, stage: Stage, leaks: Leaks) -> _Resting:
    """Two steps, `losses`, `evaluate` and `save`, one after the other on one run; what is there of modules at rest."""
    run = start()
    first, second = islice(run.batches(), 2)
    asleep = frozen_in_eval(run)
    with _looking(run, "step 1", leaks, modules=False), modes_in_forward(run) as seen, at_rest(run) as rest:
        run.step(first)
    leaks.note("step 1", mode_changes(asleep, seen))
    awake = [name for name in awake_at_rest(run, seen, untrained(stage, run)) if name not in asleep]
    expected = _first(seen)
    with _looking(run, "step 2", leaks, modules=False), modes_in_forward(run) as seen:
        run.step(second)
    leaks.note("step 1", mode_changes(expected, seen))
    if "losses" in declared(run):
        with _looking(run, "losses()", leaks):
            run.losses(second)
    if "evaluate" in declared(run):
        before = Modes.now(run)
        with modes_in_forward(run) as seen, graphs_in_forward(run) as kept:
            _look_at_reader(run, "evaluate()", run.evaluate, leaks, left=False)
        if left := before.left_modes(run):
            leaks.note("evaluate()", left if _goes_on_otherwise(run, second, expected) else [])
        leaks.note("evaluate()", [f"`{name}` {KEEPS}" for name in kept])
        drawing = [name for name in drawing_modules(run) if seen.get(name) and all(seen[name])]
        leaks.note("evaluate()", [f"`{name}` {RUNS}" for name in drawing])
    if "save" in declared(run):
        _look_at_reader(run, "save()", partial(run.save, context.folder), leaks)
    return _Resting(awake, list(rest.strangers), list(rest.graphs))


def _goes_on_otherwise(run: Run, batch: Batch, expected: Mapping[str, bool]) -> bool:
    """Whether the next step runs a module in another mode than is expected: it does not set the modes itself."""
    with calling("step()"), modes_in_forward(run) as seen:
        run.step(batch)
    return bool(mode_changes(expected, seen))


def _first(seen: Mapping[str, list[bool]]) -> dict[str, bool]:
    return {name: modes[0] for name, modes in seen.items()}


def _look_at_reader(run: Run, doing: str, call: Callable[[], Any], leaks: Leaks, *, left: bool = True) -> None:
    """A call that is to leave the run's state and the generators as they are, bit for bit."""
    state, modes = take(run), Modes.now(run)
    with _looking(run, doing, leaks, modes=left, back=False):
        call()
    change = first_difference(state, take(run))
    leaks.note(doing, [] if change is None else [f"`{change.name}`: {change.text}"])
    leaks.note(doing, [f"{name} global generator in another state" for name in modes.moved_generators()])
    modes.process.restore()


def _look_at_cadence(start: Callable[[], Run], leaks: Leaks, seed: int) -> None:
    """Whether two steps behind an evaluation are the steps that come without one; what it is known to leave aside."""
    told = [changes for changes, doing in leaks.by_change.items() if "evaluate()" in doing]
    if "evaluate" not in declared(start()) or not all("generator" in changes or RUNS in changes for changes in told):
        return
    plain, again = (_behind(start, seed, evaluates=False) for _ in range(2))
    if first_difference(plain, again) is not None:
        return  # GG601's
    change = first_difference(plain, _behind(start, seed, evaluates=True))
    leaks.note("evaluate()", [] if change is None else [f"what the next steps read: `{change.name}`: {change.text}"])


def _behind(start: Callable[[], Run], seed: int, *, evaluates: bool) -> Snapshot:
    """The state after three steps, with an evaluation behind the first or without; generators as if without."""
    with seeded(seed):
        run = start()
        first, *others = islice(run.batches(), 3)
        with calling("step()"):
            run.step(first)
        before = Modes.now(run).process
        if evaluates:
            with calling("evaluate()"):
                run.evaluate()
        before.restore()
        with calling("step()"):
            for batch in others:
                run.step(batch)
        return take(run)


def _look_at_generators(start: Callable[[], Run], leaks: Leaks) -> None:
    run = start()
    (batch,) = islice(run.batches(), 1)
    before = Modes.now(run).process
    for name in ("step", "losses") if "losses" in declared(run) else ("step",):
        with calling(f"{name}()"):
            reset = reset_generators(partial(getattr(run, name), batch), SEEDS)
        leaks.note(
            f"{name}()", [f"{which} global generator in the same state each time: it seeds it" for which in reset]
        )
    before.restore()


def _look_at_failures(start: Callable[[], Run], leaks: Leaks) -> None:
    """One failure a run, behind a clean step."""
    run = start()
    calls: dict[str, Call] = {"step()": lambda run, batch: run.step(batch)}
    if "losses" in declared(run):
        calls["losses()"] = lambda run, batch: run.losses(batch)
    for doing, call in calls.items():
        for what, injection in _failures(run, backward=doing == "step()"):
            _look_at_failure(start(), f"{doing} with {what}", call, injection, leaks)


def _look_at_failure(run: Run, doing: str, call: Call, injection: Injection, leaks: Leaks) -> None:
    """A clean step, the call that fails, and a step that shows in which modes it left the modules."""
    first, second, third = islice(run.batches(), 3)
    with calling("step 1"), modes_in_forward(run) as seen:
        run.step(first)
    expected = _first(seen)
    with _looking(run, doing, leaks, modules=False), injection.installed(run), suppress(Exception, SystemExit):
        call(run, second)
    with modes_in_forward(run) as seen, suppress(Exception, SystemExit):
        run.step(third)
    leaks.note(doing, mode_changes(expected, seen))


def _failures(run: Run, *, backward: bool) -> Iterator[tuple[str, Injection]]:
    for name in run.modules:
        for what, injection in (("an error", error_in_forward(name)), ("a NaN", in_output(name))):
            yield f"{what} in {injection.where}", injection
    if backward:
        yield "an error in the backward", error_in_backward()


@contextmanager
def _looking(
    run: Run, doing: str, leaks: Leaks, *, modules: bool = True, modes: bool = True, back: bool = True
) -> Iterator[None]:
    """Note what a call of the subject leaves changed, and put the process's settings back.

    Args:
        run: whose modules to compare.
        doing: the call, in words.
        leaks: gets the changes.
        modules: whether the modules' own modes count, or only those of the process and of dropouts.
        modes: whether train or eval mode counts, where those of modules do.
        back: whether to put settings and generators back behind the call.
    """
    before = Modes.now(run)
    with calling(doing):
        yield
    leaks.note(doing, before.changes(run, modules=modules, modes=modes))
    if back:
        before.process.restore()


def _finding(changes: str, doing: list[str]) -> Finding:
    others = f" (and in {len(doing) - 1} more places)" if len(doing) > 1 else ""
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{doing[0]} left behind {changes}{others}; allowed: nothing",
        fix="change modes in a context manager, or put them back in `finally`; seed generators in start() alone",
        count=len(doing),
        detail={"calls": doing},
    )


def _warning(names: list[str], what: str, fix: str) -> Finding:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return Finding(
        code=CODE,
        name=NAME,
        message=f"{', '.join(f'`{name}`' for name in names[:SHOWN])}{more} {what}",
        severity="warning",
        fix=fix,
        count=len(names),
        detail={"modules": names},
    )

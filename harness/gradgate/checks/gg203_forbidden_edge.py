"""A loss term reaches a module that the subject declares out of its reach.

## What it detects

A value loss that trains the trunk though its input was to be detached, a token loss that trains the value head through
the weights, a target that was not detached.

## Why it matters

Two parts that were meant to learn apart pull at each other. Nothing raises; the shared part serves the louder loss.

## How it decides

The stage declares for a loss term which modules it trains; all others are out of its reach. In float64, on 3 batches,
the gradient of each declared term is taken with respect to each module of the run. Statistic: the largest magnitude of
a gradient in a module that the term does not declare. Allowed: 0: where there is no path there is no gradient, and a
path whose gradient is exactly zero, also with all parameters moved by 1 %, does nothing. Less than 2**-40 of the
total's gradient in that module is 0, too: an adapter may give a term as the difference of two losses, which leaves some
roundoff. Terms that are not declared, frozen modules and modules outside `Run.modules` are not looked at.

The guilty line: the losses of one batch are computed once more under the recorder, and the term's graph is followed to
the first operation that reads what the module made and is neither the module's own nor part of a term that may reach
it. Where another module of the run does that, it is the line which calls that module.

False-alarm rate: 0, if the declaration is right.

## Example

Bad:

```python
value_BS = self.value_head(hidden_BSD)                   # the value loss trains the trunk
```

Good:

```python
value_BS = self.value_head(hidden_BSD.detach())          # edges={"value_loss": ["value_head"]}
```

## How to fix

Detach the input where the part ends that the term may train; or declare the edge.

## Known limits

A parameter that two modules of the run share counts in both. Of several lines the first is named, the
others stand in the finding's `detail["lines"]`; inside compiled code there is none. A term that is not reported by
`losses` is not seen.

## Sources

Faults GF-07, GF-08 and GF-19 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from gradgate.checks.crossings import Forward, forward_of
from gradgate.checks.edges import BATCHES, Reach, reaches, reaches_of
from gradgate.checks.given_lines import line_of_given
from gradgate.checks.own_lines import Line, place, searched
from gradgate.checks.raised import reports_raises
from gradgate.checks.randomness import seeded
from gradgate.checks.switches import Again
from gradgate.core.finding import Finding, Location
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG203", "forbidden-edge"
NEEDS: tuple[str, ...] = ("losses", "edges")
PER_STAGE = True
AGAIN = Again("warning", edges=True)


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Look for gradients where none are declared."""
    found = [reach for reach in reaches(stage, context) if not reach.is_declared]
    measured = {"undeclared_gradient": max((reach.largest for reach in found), default=0.0), "pairs": len(found)}
    reached = [reach for reach in found if reach.largest > 0]
    forward = forward_of(stage, context) if reached else None
    findings = []
    for reach in reached:
        if _is_for_none(reach, reached, stage.edges or {}):
            findings.append(_finding(reach, []))
            continue
        given = place(searched(partial(_given, subject, stage, context, reach), context.seed))
        lines = _lines(forward, reach, stage.edges or {})
        findings.append(_finding(reach, lines if given is None else [given, *(x for x in lines if x != given)]))
    return Outcome(tuple(findings), measured, {"undeclared_gradient": 0.0})


def _is_for_none(wrong: Reach, reached: Sequence[Reach], edges: Mapping[str, Sequence[str]]) -> bool:
    """Whether all of several terms reach a module that none trains: it had to be frozen, or is another one's alias."""
    terms = {reach.term for reach in reached if reach.module == wrong.module}
    return len(edges) > 1 and terms >= set(edges)


def _given(subject: Subject, stage: Stage, context: Context, wrong: Reach) -> Line | None:
    """The line that gives on what the term must not read, with its graph."""
    edges = stage.edges or {}
    run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    batch = next(iter(run.batches()))

    def reached() -> set[tuple[str, str]]:
        with seeded(context.seed):
            return {(one.term, one.module) for one in reaches_of(run, batch, edges) if one.largest > 0}

    granted = {edge for edge in reached() if edge[1] in edges.get(edge[0], ())}
    return line_of_given(
        subject.source, reached, lambda found: granted <= found and (wrong.term, wrong.module) not in found
    )


def _lines(forward: Forward | None, reach: Reach, edges: Mapping[str, Sequence[str]]) -> list[Location]:
    granted = [term for term, modules in edges.items() if reach.module in modules]
    return [] if forward is None else forward.entries(reach.term, reach.module, granted)


def _finding(reach: Reach, lines: list[Location]) -> Finding:
    return Finding(
        code=CODE,
        name=NAME,
        message=f"`{reach.term}` reaches `{reach.module}`, which it does not declare: a gradient of "
        f"{reach.largest:.3g} at `{reach.module}.{reach.parameter}` in {BATCHES} batches; allowed: 0",
        fix=f"detach what `{reach.term}` takes from `{reach.module}`, or declare the edge",
        culprit=lines[0] if lines else None,
        detail={
            "term": reach.term,
            "module": reach.module,
            "gradient": reach.largest,
            "lines": [str(line) for line in lines],
        },
    )

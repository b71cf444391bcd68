"""Something keeps a step's graph alive after the step.

## What it detects

A list of losses or outputs with a history, a running total that is a tensor (`total += loss`), a meter, a closure or a
cache that keeps what a step computed, a state carried along with `retain_graph=True`.

## Why it matters

Memory grows with every step: each graph keeps its nodes, and all activations that no backward has freed. The run ends
hours later, on a step that has nothing to do with it.

## How it decides

One run of the stage takes 5 steps under the recorder, `gradgate.watch`; it is the same recording that GG101 and the
others read. A step ends where its optimizer steps again (without one: where the line of a backward comes again). After
the last, every tensor that Python still holds is followed through its graph. Statistic: steps whose nodes one holder
keeps alive though the next step was over as well, that is, of the first 3. Allowed: fewer than 2. What a variable or a
dictionary of metrics holds when a step is over is normal, and so is one thing that was made once; more of it with each
step is not. In `gradgate.watch` it is a warning, here a failure. Garbage that only a cycle keeps is collected first.

The holder is looked for among the variables of running functions, attributes, globals, closures and generators, up to 4
containers deep; the culprit is the line that puts something into it, the victim the one that made the tensor. What has
no name there is not reported. False-alarm rate: 0 for steps that keep nothing; a trainer that collects losses over more
than 3 steps on purpose fails, and says so under `expected`.

## Example

Bad:

```python
self.history.append(loss)
```

Good:

```python
self.history.append(loss.item())
```

## How to fix

Keep numbers: `loss.item()`, or `loss.detach()`. A state that is carried is detached at the end of each step.

## Known limits

What is kept on C++'s side alone, or in a list that is emptied within 3 steps, is not seen. Growth that is no graph is
GG802's.

## Sources

Faults ME-01, ME-02 and ME-05 of the fault catalogue; PyTorch FAQ, "My model reports cuda runtime error(2): out of
memory".
"""

from __future__ import annotations

from dataclasses import replace

from gradgate.checks.raised import reports_raises
from gradgate.checks.recording import recorded
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Stage, Subject

CODE, NAME = "GG210", "graph-retained"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
FEWER_THAN = 2  # steps; watch/retained.py applies it


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Read the stage's recording; what grows there is a fault here."""
    recording = recorded(stage, context)
    grown = (replace(found, severity="error") for found in recording.findings if found.code == CODE)
    outcome = replace(recording, findings=tuple(grown)).outcome(CODE)
    steps = max((finding.detail["steps"] for finding in outcome.findings), default=0)
    measured = {"steps_kept_alive": steps, "steps": recording.steps}
    return replace(outcome, measured=measured, allowed={"steps_kept_alive": FEWER_THAN - 1})

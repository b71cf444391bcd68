"""The state of a random generator is saved, and no line of the trainer puts it back.

## What it detects

A checkpoint that holds the states of Python's, numpy's and torch's generators, of which a resume restores all but one.

## Why it matters

What draws from that generator (an order, noise on rewards, an augmentation) goes on otherwise behind a resume, while
the checkpoint says that its state is there.

## How it decides

By reading the files of `Subject.source`, or those of the modules that the adapter imports, as a whole. A state that is
asked for (`random.getstate()`, `numpy.random.get_state()`, `torch.get_rng_state()`, `torch.cuda.get_rng_state_all()`)
in a function that returns it, or puts it into a mapping, needs a line that sets one of the same library
(`random.setstate`, `numpy.random.set_state`, `torch.set_rng_state`, `torch.random.set_rng_state`, `fork_rng` for torch)
anywhere. Only where the trainer sets the state of some generator at all: one that restores none is GG613's and GG652's.
Statistic: such libraries; allowed: 0.

False-alarm rate: 0 on the bundled trainer and on the documented ones.

## Example

Bad:

```python
state = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}
...
random.setstate(state["python"])
torch.set_rng_state(state["torch"])
```

Good:

```python
np.random.set_state(state["numpy"])
```

## How to fix

Put back each state that is saved.

## Known limits

Generators that are objects (`torch.Generator`, `numpy.random.Generator`) are left to GG603.

## Sources

PyTorch, Reproducibility; a fault of a trainer of the catalogue.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradgate.checks.source.places import Place, Places, read_as_one
from gradgate.checks.source.trainer import dotted
from gradgate.core.finding import Finding
from gradgate.core.verdict import Outcome
from gradgate.subjects.contract import Context, Subject

CODE, NAME = "GG664", "generator-not-restored"
NEEDS: tuple[str, ...] = ()
PER_STAGE = False
GETS = {
    "random.getstate": "Python's `random`",
    "numpy.random.get_state": "numpy's global generator",
    "np.random.get_state": "numpy's global generator",
    "torch.get_rng_state": "torch's generator",
    "torch.random.get_rng_state": "torch's generator",
}
SETS = {
    "random.setstate": "Python's `random`",
    "numpy.random.set_state": "numpy's global generator",
    "np.random.set_state": "numpy's global generator",
    "torch.set_rng_state": "torch's generator",
    "torch.random.set_rng_state": "torch's generator",
    "torch.random.fork_rng": "torch's generator",
}


def check(subject: Subject, _stage: None, _context: Context) -> Outcome:
    """Look for states that are saved alone."""
    asks = [("getstate(", "get_state(", "get_rng_state("), ("setstate(", "set_state(", "set_rng_state(")]
    return read_as_one(subject, asks, _find, "generators")


def _find(own: Places) -> Iterator[Finding]:
    calls = [(node, place) for place in own.all for node in place.nodes if isinstance(node, ast.Call)]
    named = [(dotted(call.func), call, place) for call, place in calls]
    put_back = {SETS[name] for name, _, _ in named if name in SETS}
    others = any(name.rpartition(".")[2] in ("set_rng_state_all", "set_state", "setstate") for name, _, _ in named)
    if not put_back and not others:
        return
    told: set[str] = set()
    for name, call, place in named:
        library = GETS.get(name, "")
        if library and library not in put_back | told and _is_kept(call, place):
            told.add(library)
            yield _finding(call, place, library)


def _is_kept(call: ast.Call, place: Place) -> bool:
    """Whether a state goes into a mapping, as what is saved does."""
    mappings = [node for node in place.nodes if isinstance(node, ast.Dict)]
    in_mapping = any(call in _values(node) for node in mappings)
    by_key = any(
        isinstance(node, ast.Assign) and node.value is call and isinstance(node.targets[0], ast.Subscript)
        for node in place.nodes
    )
    return in_mapping or by_key


def _values(node: ast.Dict) -> list[ast.expr]:
    return [part for value in node.values for part in ast.walk(value) if isinstance(part, ast.expr)]


def _finding(call: ast.Call, place: Place, library: str) -> Finding:
    return Finding(
        CODE,
        NAME,
        f"{place.name}() keeps the state of {library}, and no line of the trainer puts it back; allowed: none",
        culprit=place.file.at(call, place.name),
        fix="put back each state that is saved",
    )

"""A parameter that should move does not, one that should not does, or one moves uphill.

## What it detects

A group whose learning rate is 0, a parameter that is put back behind the update, a frozen part or its buffers that move
all the same, weight decay on what is frozen, `maximize=True` or a sign that is wrong in an optimizer of one's own.

## Why it matters

The gradients are right, and every check of them says so; what is done with them is not. A part that stands still or
climbs is hidden by the rest, which goes on learning around it.

## How it decides

A run in float64 takes 6 steps, with the parameters noted before and after each `Optimizer.step`.

1. A parameter with a gradient that is not zero at some update must differ, in at least one bit, after some step. The
   learning rate may be 0 in some of the 6 steps, not in all.
2. What is frozen must not: a parameter that requires no grad, or that no optimizer holds; one whose gradient is None
   at each update; the persistent buffers of a module whose parameters are all frozen. A parameter that follows another
   one (an average, a target network, a tied copy: every change is along the line to it) is not taken for frozen. In a
   module that is trained, floating buffers that change outside norm layers are a warning: running statistics may be
   meant.
3. The first update that moves a parameter must go downhill. Statistic: the cosine between the update, without its
   weight decay, and the gradient. Allowed: below 1e-6. Where the first learning rates were 0, one gradient of those so
   far that it descends is enough: each optimizer's update is minus a mixture of them.

4. Where the stage declares edges, a module that a single loss term trains, and no other reaches, must not have that
   term's gradient reversed: the cosine between the term's own gradient, from the same random state, and the gradient
   that the first update used must not be below -0.5. Clipping and a positive coefficient scale and keep the direction;
   with a negative one the term is maximised, and the cosine -1. What is between them are other random numbers; of a
   parameter of less than 4 elements all that the term alone trains must be reversed as well.

From zero state SGD, momentum, Adam, AdamW, RMSprop, Adagrad, Lion and Muon multiply the gradient
by a matrix without negative eigenvalues, so the cosine is at most 0: for Adam the update is -lr*sign(g), and the cosine
-|g|_1/(sqrt(n)*|g|_2). Weight decay w of rate lr is taken out exactly, beside the update (+lr*w*p) or as part of the
gradient (g+w*p); the reading that is better for the trainer counts. LBFGS is left out of 3.

False-alarm rate: 0, the roundoff of float64 is about 1e-16.

## Example

Bad:

```python
optimizer = AdamW([{"params": trunk.parameters()}, {"params": value_head.parameters(), "lr": 0.0}], lr=1e-3)
```

Good:

```python
optimizer = AdamW([{"params": trunk.parameters()}, {"params": value_head.parameters(), "lr": 1e-2}], lr=1e-3)
```

## How to fix

Look at the group that holds the named parameter: its rate, its schedule, `maximize`. For what moves though it is
frozen, look for `.data`, `copy_` or a decay loop over all parameters. What is meant to stand still says so:
`requires_grad_(False)`.

## Known limits

Whether the gradient itself is that of the loss is for GG205; so is a loss of the wrong sign where no edges are
declared. A learning rate that stays 0 for more than 6 steps on purpose fails. Where no torch optimizer steps the check
does not apply; parameters that are updated by hand beside one count as frozen unless their `.grad` is set. That the
update has the right *size* is not checked.

## Sources

Faults GF-16, GF-28, LW-16 and OS-02 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks.moves import Move, moves_at_updates
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.snapshot import Difference, compare, named_parameters
from gradgate.checks.switches import Again
from gradgate.checks.updates import parameters_of
from gradgate.core.finding import Finding, Severity
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Context, Run, Stage, Subject

CODE, NAME = "GG208", "update-does-not-follow-gradient"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
AGAIN = Again()
STEPS = 6
FEW = 4  # elements of which a parameter alone tells a direction; the sign of one is that of its noise
REVERSED = -0.5  # a cosine below which a gradient is another one's reverse
FLAT = 1e-6  # a cosine up to which an update is not uphill
ON_THE_LINE = 1e-9  # share of a change that may point off the line to another parameter, in float64


@dataclass
class _History:
    """What happened to the tensors of a run.

    Args:
        names: all parameters.
        states: copies of parameters and buffers by name, as the run starts and after each step.
        moves: of each parameter, in order.
        held: parameters that some optimizer holds.
        updates: how many optimizer steps there were.
        terms: of each parameter that one loss term alone trains, that term's name and gradient before the first step.
    """

    names: dict[nn.Parameter, str]
    states: list[dict[str, Tensor]] = field(default_factory=list)
    moves: dict[nn.Parameter, list[Move]] = field(default_factory=dict)
    held: set[nn.Parameter] = field(default_factory=set)
    updates: int = 0
    terms: dict[nn.Parameter, tuple[str, Tensor]] = field(default_factory=dict)

    def change(self, name: str) -> tuple[int, Difference] | None:
        """The first step, from 1, after which a tensor is another one than at the start."""
        for number, state in enumerate(self.states[1:], 1):
            found = compare(name, self.states[0][name], state[name]) if name in state else None
            if found is not None:
                return number, found
        return None


@dataclass(frozen=True)
class _Buffer:
    """A persistent buffer: its name, the module that owns it, and the one of the run's modules that holds both."""

    name: str
    tensor: Tensor
    owner: nn.Module
    module: nn.Module


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step, and look at what moved, and where to."""
    terms = _first_terms(stage, context)
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    history = _history(run, terms)
    if not history.updates and not run.optimizers:
        return Outcome(not_applicable=f"no torch optimizer stepped in {STEPS} steps: what should move is not known")
    found = {
        "parameters_that_stand_still": list(_still(history)),
        "frozen_tensors_that_move": list(_frozen(run, history)),
        "parameters_that_move_uphill": [*_uphill(history), *_reversed(history)],
    }
    if not history.updates:
        found["parameters_that_stand_still"].append(_never(history))
    findings = [finding for group in found.values() for finding in group]
    measured = {name: sum(finding.severity == "error" for finding in group) for name, group in found.items()}
    return Outcome(tuple(findings), measured, dict.fromkeys(found, 0))


def _first_terms(stage: Stage, context: Context) -> dict[str, tuple[str, Tensor]]:
    """Of each parameter that one loss term alone trains, by its name, that term's name and gradient at the start.

    Of a run of its own: a loss may move what the step goes by, such as a running scale of its targets.
    """
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    if "losses" not in declared(run):
        return {}
    names = named_parameters(run)
    found = _terms(run, next(iter(run.batches())), stage.edges or {})
    return {names[parameter]: term for parameter, term in found.items() if parameter in names}


def _history(run: Run, terms: Mapping[str, tuple[str, Tensor]]) -> _History:
    history = _History(named_parameters(run), [_tensors(run)])
    history.terms = {parameter: terms[name] for parameter, name in history.names.items() if name in terms}
    history.held = {parameter for optimizer in run.optimizers for parameter in parameters_of(optimizer)}
    for number, batch in enumerate(islice(run.batches(), STEPS), 1):
        with moves_at_updates(history.names) as moves, calling(f"step {number} of {STEPS}"):
            run.step(batch)
        history.states.append(_tensors(run))
        history.updates += len(moves)
        for update in moves:
            history.held |= update.keys()
            for parameter, move in update.items():
                history.moves.setdefault(parameter, []).append(move)
    return history


def _tensors(run: Run) -> dict[str, Tensor]:
    tensors = {name: parameter.detach().clone() for parameter, name in named_parameters(run).items()}
    return tensors | {buffer.name: buffer.tensor.detach().clone() for buffer in _buffers(run)}


def _buffers(run: Run) -> Iterator[_Buffer]:
    for name, module in run.modules.items():
        for key, owner in module.named_modules(prefix=name):
            for own, tensor in owner.named_buffers(recurse=False):
                if own not in owner._non_persistent_buffers_set:
                    yield _Buffer(f"{key}.{own}", tensor, owner, module)


def _still(history: _History) -> Iterator[Finding]:
    for parameter, moves in history.moves.items():
        graded = [move for move in moves if move.gradient is not None and bool(move.gradient.any())]
        name = history.names[parameter]
        if graded and history.change(name) is None:
            rates = {move.lr for move in graded}
            why = "the learning rate is 0 at each" if rates == {0.0} else f"the learning rate is up to {max(rates):.3g}"
            yield _finding(
                f"`{name}` has a gradient at {len(graded)} of {len(moves)} updates and never moved: {why}; "
                f"allowed: to stand still in at most {STEPS - 1} of {STEPS} steps",
                "look at its group's rate and schedule, and for code that puts it back; freeze it if that is meant",
                name,
            )


def _never(history: _History) -> Finding:
    return _finding(
        f"no optimizer stepped in {STEPS} steps", "call optimizer.step() in each step", *history.names.values()
    )


def _frozen(run: Run, history: _History) -> Iterator[Finding]:
    for parameter, name in history.names.items():
        reason = _frozen_because(parameter, history)
        change = history.change(name) if reason else None
        if change is not None and not _follows(name, history):
            yield _moved(name, reason, change)
    for buffer in _buffers(run):
        change = history.change(buffer.name)
        if change is not None:
            yield from _of_buffer(buffer, history, change)


def _frozen_because(parameter: nn.Parameter, history: _History) -> str:
    """Why a parameter must not move; empty where it may."""
    moves = history.moves.get(parameter, [])
    if not parameter.requires_grad and parameter not in history.held:
        return "it requires no grad"
    if parameter not in history.held:
        return "" if parameter.grad is not None else "no optimizer holds it"
    if moves and all(move.gradient is None for move in moves):
        return "its gradient is None at each update"
    return ""


def _is_frozen(module: nn.Module, history: _History) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not history.held.intersection(p for p in parameters if p.requires_grad)


def _follows(name: str, history: _History) -> bool:
    """Whether each change is along the line to one and the same other parameter, held by an optimizer."""
    others = [history.names[parameter] for parameter in history.held]
    shape = history.states[0][name].shape
    return any(_is_led(name, other, history) for other in others if history.states[0][other].shape == shape)


def _is_led(name: str, leader: str, history: _History) -> bool:
    for before, after in zip(history.states, history.states[1:], strict=False):
        change = after[name].double() - before[name].double()
        lines = [state[leader].double() - before[name].double() for state in (before, after)]
        if bool(change.any()) and not any(_along(change, line) for line in lines):
            return False
    return True


def _along(change: Tensor, line: Tensor) -> bool:
    share = float((change * line).sum() / line.square().sum()) if bool(line.any()) else 0.0
    return share > 0 and float((change - share * line).norm()) <= ON_THE_LINE * float(line.norm())


def _of_buffer(buffer: _Buffer, history: _History, change: tuple[int, Difference]) -> Iterator[Finding]:
    if _is_frozen(buffer.module, history):
        yield _moved(buffer.name, "its module is frozen", change)
    elif buffer.tensor.is_floating_point() and not _is_norm(buffer.owner):
        yield _moved(buffer.name, "it is a buffer outside norm layers", change, "warning")


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() or hasattr(module, "running_mean")


def _uphill(history: _History) -> Iterator[Finding]:
    for parameter, moves in history.moves.items():
        for optimizer in {id(move.optimizer): move.optimizer for move in moves}.values():
            cosine = _first_cosine([move for move in moves if move.optimizer is optimizer])
            if cosine > FLAT and not isinstance(optimizer, torch.optim.LBFGS):
                name = history.names[parameter]
                yield _finding(
                    f"the first update of `{name}` goes uphill: its cosine with the gradient is {cosine:.3g}, "
                    f"allowed: at most {FLAT:.0e}",
                    "look for `maximize`, a negative rate, or the sign in the optimizer's own update",
                    name,
                    cosine=cosine,
                )


def _terms(run: Run, batch: Any, edges: Mapping[str, Sequence[str]]) -> dict[nn.Parameter, tuple[str, Tensor]]:
    """The gradient of each term in the modules that it alone is declared to train."""
    trained = [name for names in edges.values() for name in names]
    with calling("losses()"):
        terms = run.losses(batch)
    found: dict[nn.Parameter, tuple[str, Tensor]] = {}
    for term, names in edges.items():
        parameters = [
            parameter
            for name in names
            if trained.count(name) == 1 and name in run.modules
            for parameter in run.modules[name].parameters()
            if parameter.requires_grad
        ]
        others = [loss for other, loss in terms.items() if other not in (term, "total") and loss.requires_grad]
        parameters = [parameter for parameter in parameters if not _is_reached(parameter, others)]
        if parameters and term in terms and terms[term].requires_grad:
            gradients = torch.autograd.grad(terms[term], parameters, retain_graph=True, allow_unused=True)
            pairs = zip(parameters, gradients, strict=True)
            found |= {parameter: (term, gradient) for parameter, gradient in pairs if gradient is not None}
    return found


def _is_reached(parameter: nn.Parameter, losses: Sequence[Tensor]) -> bool:
    """Whether a loss that is not declared to train it does: that is GG203's, and the update is no one term's."""
    gradients = (torch.autograd.grad(loss, parameter, retain_graph=True, allow_unused=True)[0] for loss in losses)
    return any(gradient is not None and bool(gradient.any()) for gradient in gradients)


def _reversed(history: _History) -> Iterator[Finding]:
    pairs: dict[nn.Parameter, tuple[str, Tensor, Tensor]] = {}
    for parameter, (term, gradient) in history.terms.items():
        used = next((move.gradient for move in history.moves.get(parameter, []) if move.gradient is not None), None)
        if used is not None and bool(used.any()) and bool(gradient.any()):
            pairs[parameter] = term, used, gradient
    for parameter, (term, used, gradient) in pairs.items():
        cosine = _cosine([(used, gradient)])
        whole = [(one, other) for name, one, other in pairs.values() if name == term]
        if cosine < REVERSED and (used.numel() >= FEW or _cosine(whole) < REVERSED):
            name = history.names[parameter]
            yield _finding(
                f"the first update of `{name}` uses the reverse of the gradient of {term}, which alone trains it: "
                f"their cosine is {cosine:.3g}, allowed: at least {REVERSED}",
                f"add {term} to the loss with a positive sign",
                name,
                cosine=cosine,
            )


def _cosine(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Between the gradients of several parameters, taken together."""
    one, other = (torch.cat([pair[i].flatten() for pair in pairs]) for i in (0, 1))
    return float((one * other).sum() / (one.norm() * other.norm()))


def _first_cosine(moves: Sequence[Move]) -> float:
    """Of the first update that moves the parameter, with the gradient so far that it descends most; -1 without any."""
    gradients: list[Tensor] = []
    for move in moves:
        if move.gradient is not None and bool(move.gradient.any()):
            gradients.append(move.gradient)
        if gradients and not torch.equal(move.before, move.after):
            return min(move.cosine(gradient) for gradient in gradients)
    return -1.0


def _moved(name: str, reason: str, change: tuple[int, Difference], severity: Severity = "error") -> Finding:
    number, difference = change
    return _finding(
        f"`{name}` moved in step {number} though {reason}: {difference.text}; allowed: no bit",
        "look for a write to it outside the optimizer: `.data`, `copy_`, decay over all parameters, train mode",
        name,
        severity=severity,
    )


def _finding(message: str, fix: str, *names: str, severity: Severity = "error", **numbers: float) -> Finding:
    detail = {"parameters": list(names), **numbers}
    return Finding(CODE, NAME, message, severity=severity, fix=fix, detail=detail)

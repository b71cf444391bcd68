"""A trainable parameter gets no gradient, or exactly zero, over several batches.

## What it detects

A head that is in no loss, a part of the model behind a `detach()`, a value head fed from Python floats, a parameter
that no optimizer holds, an optimizer that holds another module's parameters, a plain tensor that was to be one.

## Why it matters

The loss goes on falling, the other parameters learn. Only this one stays at its initial value for ever.

## How it decides

Statistic: for each parameter, the number of its gradient's non-zero elements at the moment the optimizer steps, over
6 batches of one run. Allowed: at least 1. The gradient is the one that the real step uses: it is read in a hook on
`Optimizer.step`. Where no optimizer steps it is that of `losses(batch)["total"]`.

A parameter counts as trainable where it requires grad and an optimizer holds it. One that requires grad in a module
of the run and that *no* optimizer holds is a finding too. A module of which no optimizer holds a part and that gets no
gradient is taken for frozen where it is in eval mode, or where the stage declares edges and none of them trains it: a
note, since `requires_grad_(False)` would say so. So is a tensor that a module keeps as an attribute and that requires
grad, and is no `nn.Parameter`, unless an optimizer was given it.

The same holds of a parameter that an optimizer does hold, where the stage declares edges and no module that one of them
trains contains it, but another of `Run.modules` does: it is a note where its gradient is None at every update, so that
the optimizer leaves it alone (GG208 sees to that). With a gradient of zeros momentum and weight decay would move it,
and it is an error.

A bias whose gradients are there and add up to 0 is no dead one: the loss does not change where all outputs move by the
same amount, as that of a pair of scores does not.

Each finding carries the line that the recorder names for it: the one that cuts the graph, or that makes the parameter.

False-alarm rate: a live gradient is exactly zero in every element and batch only where every path is off (all units
of a ReLU dead, all rows of an embedding unused); for parameters of a few elements that is a fault of its own.

## Example

Bad:

```python
loss = cross_entropy(logits.detach().requires_grad_(), label)   # trunk and heads never move
```

Good:

```python
loss = cross_entropy(logits, label)
```

## How to fix

Follow the named parameter from its use in forward to the loss and remove what cuts the graph. What is meant to stay
frozen says so: `parameter.requires_grad_(False)`. What is meant to train goes to an optimizer.

## Known limits

A gradient that is tiny but not zero passes. A parameter that is used once in more than 6 batches (a rare expert)
fails. What an undeclared loss term alone trains is taken for frozen where edges are declared.

## Sources

Faults GF-04, GF-05, GF-23 and GF-26 of the fault catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks.cut_lines import line_of_cut, line_of_numbers
from gradgate.checks.edges import may_be_frozen, untrained
from gradgate.checks.group_lines import line_of_group
from gradgate.checks.lost_gradients import line_of_lost_gradient
from gradgate.checks.mode_lines import ChangeLines
from gradgate.checks.naming import are_named
from gradgate.checks.own_lines import Line, place, searched
from gradgate.checks.raised import calling, reports_raises
from gradgate.checks.recording import with_guilty_line
from gradgate.checks.run_parts import attributes_of
from gradgate.checks.snapshot import named_parameters
from gradgate.checks.updates import gradient_of, gradients_at_updates, held_by, parameters_of
from gradgate.core.finding import Finding, Location, Severity
from gradgate.core.verdict import Outcome
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run, Stage, Subject

CODE, NAME = "GG201", "dead-parameter"
NEEDS: tuple[str, ...] = ()
PER_STAGE = True
BATCHES = 6
TRIED = 2  # batches of a trial

_Parameters = set[nn.Parameter]


@dataclass
class _Seen:
    """Parameters over several batches.

    Args:
        alive: with a gradient that is not 0.
        given: with a gradient, be it 0.
        held: by an optimizer that stepped.
        norms: of gradients, by name, at each update of their optimizer.
    """

    alive: _Parameters = field(default_factory=set)
    given: _Parameters = field(default_factory=set)
    held: _Parameters = field(default_factory=set)
    norms: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, gradients: Mapping[nn.Parameter, Tensor | None]) -> None:
        """Gradients of one update."""
        self.given |= {parameter for parameter, grad in gradients.items() if grad is not None}
        self.alive |= {parameter for parameter, grad in gradients.items() if grad is not None and bool(grad.any())}


@reports_raises(CODE, NAME)
def check(subject: Subject, stage: Stage, context: Context) -> Outcome:
    """Step on several batches and look at every gradient."""
    with calling("start()"):
        run = stage.start(context.seed, device=context.device)
    batches = list(islice(run.batches(), BATCHES))
    names = named_parameters(run)
    seen = _at_updates(run, batches, names)
    if seen is None and "losses" not in declared(run):
        return Outcome(inconclusive=f"no optimizer stepped in {BATCHES} steps, and the run has no `losses` to look at")
    seen = seen or _from_losses(run, batches, names)
    seen.held |= held_by(run.optimizers)
    dead, resting = _still(run, stage, batches[-1], names, seen)
    unheld = _unheld(run, stage, names, seen) if seen.held else []
    measured = {
        "dead_parameters": len(dead),
        "parameters_no_optimizer_holds": sum(finding.severity == "error" for finding in unheld),
        "parameters": len(names),
    }
    allowed = {"dead_parameters": 0, "parameters_no_optimizer_holds": 0}
    findings = [
        with_guilty_line(finding, subject, stage, context, ("graph_cut", "missing_grad"), finding.detail["parameter"])
        for finding in dead + unheld
    ]
    of_group = None
    if measured["parameters_no_optimizer_holds"]:
        of_group = place(searched(partial(_line_of_group, subject, stage, context), context.seed))
    if of_group is not None:
        findings = [replace(finding, culprit=of_group) for finding in findings]
    elif dead and are_named():
        names_of_dead = {finding.detail["parameter"] for finding in dead}
        findings = [*_by_trials(subject, stage, context, names_of_dead, findings[: len(dead)]), *findings[len(dead) :]]
    series = {"gradient_norm": seen.norms} if seen.norms else {}
    return Outcome(findings=(*findings, *resting), measured=measured, allowed=allowed, series=series)


def _still(
    run: Run, stage: Stage, batch: Batch, names: dict[nn.Parameter, str], seen: _Seen
) -> tuple[list[Finding], list[Finding]]:
    """Held parameters that stand still: the dead ones, and those that are declared to rest."""
    still = [parameter for parameter in names if parameter.requires_grad and parameter in seen.held - seen.alive]
    at_rest = untrained(stage, run) - seen.given
    lacking = [parameter for parameter in still if parameter not in at_rest]
    cancelled = _cancelled(run, batch, lacking) if lacking else set()
    owned = {parameter for module in run.modules.values() for parameter in module.parameters()}
    dead = [_dead(names[each], is_named=each in owned) for each in lacking if each not in cancelled]
    return dead, [_resting(names[parameter]) for parameter in still if parameter in at_rest]


def _by_trials(
    subject: Subject, stage: Stage, context: Context, dead: set[str], findings: list[Finding]
) -> list[Finding]:
    """Findings with the line that all dead parameters lack a gradient for; without one that was tried in vain."""

    def revives() -> bool:
        run = stage.start(context.seed, device=context.device)
        names = named_parameters(run)
        seen = _at_updates(run, list(islice(run.batches(), TRIED)), names)
        return seen is not None and dead <= {names[parameter] for parameter in seen.alive}

    found, cuts = searched(partial(line_of_cut, subject.source, revives), context.seed) or (None, ())
    for find in (_line_of_clearing, _line_of_numbers):
        found = found or searched(partial(find, subject, stage, context, dead), context.seed)
    lost = partial(_line_of_lost_gradient, subject, stage, context, dead)
    at = place(found) or searched(lost, context.seed)
    if at is not None:
        return [replace(finding, culprit=at) for finding in findings]
    tried = {(code.co_filename, line) for code, line in cuts}
    return [
        replace(finding, culprit=None) if finding.culprit and (finding.culprit.file, finding.culprit.line) in tried
        else finding
        for finding in findings
    ]  # fmt: skip


def _line_of_clearing(subject: Subject, stage: Stage, context: Context, dead: set[str]) -> Line | None:
    """The line that takes gradients away between backward and step."""
    run = stage.start(context.seed, device=context.device)
    watched = [parameter for parameter, name in named_parameters(run).items() if name in dead]
    batch = next(iter(run.batches()))
    trace = ChangeLines(subject.source, lambda: any(p.grad is not None and bool(p.grad.any()) for p in watched))
    trace.during(lambda: run.step(batch))
    return trace.changes[1][-1] if len(trace.changes) == 2 else None


def _line_of_numbers(subject: Subject, stage: Stage, context: Context, dead: set[str]) -> Line | None:
    """The line behind which what they give goes on as numbers of Python."""
    return line_of_numbers(subject.source, lambda: _stepped(stage, context, dead))


def _line_of_lost_gradient(subject: Subject, stage: Stage, context: Context, dead: set[str]) -> Location | None:
    """The line at which their gradient becomes 0."""
    run = stage.start(context.seed, device=context.device)
    watched = [parameter for parameter, name in named_parameters(run).items() if name in dead]
    batch = next(iter(run.batches()))
    return line_of_lost_gradient(subject.source, lambda: run.step(batch), watched)


def _stepped(stage: Stage, context: Context, dead: set[str]) -> list[nn.Parameter]:
    """Those of a fresh run that has stepped once."""
    run = stage.start(context.seed, device=context.device)
    run.step(next(iter(run.batches())))
    return [parameter for parameter, name in named_parameters(run).items() if name in dead]


def _line_of_group(subject: Subject, stage: Stage, context: Context) -> Line | None:
    """The line that gives an optimizer another module, or leaves one out."""

    def alive(run: Run) -> _Parameters:
        seen = _at_updates(run, list(islice(run.batches(), TRIED)), named_parameters(run))
        return seen.alive if seen else set()

    def unheld(run: Run) -> _Parameters:
        held = held_by(run.optimizers)
        return {parameter for parameter in named_parameters(run) if parameter.requires_grad} - held

    start = partial(stage.start, context.seed, device=context.device)
    return line_of_group(subject.source, start, alive, unheld)


def _at_updates(run: Run, batches: list[Batch], names: dict[nn.Parameter, str]) -> _Seen | None:
    """What is seen at the updates; None where there are none."""
    seen, at = _Seen(), 0
    for number, batch in enumerate(batches, 1):
        with gradients_at_updates(names) as updates, calling(f"step {number} of {len(batches)}"):
            run.step(batch)
        for update in updates:
            at += 1
            seen.held |= parameters_of(update.optimizer)
            seen.add(update.gradients)
            for parameter in [own for own in names if own in parameters_of(update.optimizer)]:
                seen.norms.setdefault(names[parameter], []).append((float(at), _norm(update.gradients[parameter])))
    return seen if at else None


def _cancelled(run: Run, batch: Batch, parameters: list[nn.Parameter]) -> _Parameters:
    """Biases among these that each output gives a gradient, all of which add up to 0: the loss does not see them."""
    gradients: dict[nn.Parameter, list[Tensor]] = {}

    def watched(parameter: nn.Parameter) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _given: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.requires_grad:
                output.register_hook(gradients.setdefault(parameter, []).append)

        return hook

    owners = {owner for module in run.modules.values() for owner in module.modules()}
    with ExitStack() as stack:
        for owner in owners:
            bias = getattr(owner, "bias", None)
            if isinstance(bias, nn.Parameter) and any(bias is parameter for parameter in parameters):
                stack.callback(owner.register_forward_hook(watched(bias)).remove)
        with calling("one more step()"):
            run.step(batch)
    return {parameter for parameter, seen in gradients.items() if _add_up_to_zero(parameter, seen)}


def _add_up_to_zero(bias: nn.Parameter, gradients: list[Tensor]) -> bool:
    flat = [gradient.reshape(-1, bias.numel()) for gradient in gradients if gradient.shape[-1:] == bias.shape]
    if not flat:
        return False
    each = torch.cat(flat).double()
    size = float(each.abs().sum())
    return size > 0 and float(each.sum(0).abs().max()) <= torch.finfo(bias.dtype).eps * size


def _norm(gradient: Tensor | None) -> float:
    return 0.0 if gradient is None else float(gradient.norm())


def _from_losses(run: Run, batches: list[Batch], names: dict[nn.Parameter, str]) -> _Seen:
    """The same from `losses`, for a step that uses no torch optimizer: everything that requires grad is trained."""
    seen = _Seen(held={parameter for parameter in names if parameter.requires_grad})
    for number, batch in enumerate(batches, 1):
        for parameter in names:
            parameter.grad = None
        with calling(f"losses() of batch {number}"):
            run.losses(batch)["total"].backward()
        seen.add({parameter: gradient_of(parameter) for parameter in names})
    return seen


def _unheld(run: Run, stage: Stage, names: dict[nn.Parameter, str], seen: _Seen) -> list[Finding]:
    findings: dict[nn.Parameter, Finding] = {}
    for name, module in run.modules.items():
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        missing = [parameter for parameter in parameters if parameter not in seen.held]
        unused = len(missing) == len(parameters) and not seen.alive.intersection(missing)
        frozen = unused and may_be_frozen(stage, name, module)
        for parameter in missing:
            findings.setdefault(parameter, _not_held(names[parameter], frozen))
    return [*findings.values(), *_no_parameters(run, seen)]


def _no_parameters(run: Run, seen: _Seen) -> list[Finding]:
    """Tensors of modules that are to learn, and that no `parameters()` gives: they were never made a parameter."""
    found: dict[int, Finding] = {}
    for name, module in run.modules.items():
        for path, _, value in attributes_of(module):
            learns = isinstance(value, Tensor) and value.is_leaf and value.requires_grad
            if learns and not isinstance(value, nn.Parameter) and value not in seen.held:
                full = ".".join((name, *path))
                said = f"`{full}` requires grad and is no parameter of its module, so that no optimizer has it"
                found.setdefault(id(value), _finding(full, said, "make it one: `nn.Parameter(...)`"))
    return list(found.values())


def _dead(name: str, *, is_named: bool) -> Finding:
    return _finding(
        name,
        f"`{name}` got no gradient, or zero, in {BATCHES} of {BATCHES} steps; allowed: at most {BATCHES - 1}",
        f"find what cuts the graph between `{name}` and the loss, or freeze it: requires_grad_(False)"
        + ("" if is_named else "; a module that is meant to rest is named in `modules` and left out of `edges`"),
    )


def _resting(name: str) -> Finding:
    return _finding(
        name,
        f"`{name}` is held by an optimizer and has no gradient at any update: no edge trains its module, so that it is "
        "taken for frozen",
        f"leave `{name}` out of the optimizer, or freeze it: requires_grad_(False)",
        "note",
    )


def _not_held(name: str, frozen: bool) -> Finding:
    why = " (no edge trains its module, or it is in eval mode, and it gets no gradient: taken for frozen)"
    return _finding(
        name,
        f"`{name}` requires grad but no optimizer holds it: it never moves" + (why if frozen else ""),
        f"give `{name}` to an optimizer, or freeze it: requires_grad_(False)",
        "note" if frozen else "error",
    )


def _finding(name: str, message: str, fix: str, severity: Severity = "error") -> Finding:
    return Finding(CODE, NAME, message, "missing_grad", severity, fix=fix, detail={"parameter": name})

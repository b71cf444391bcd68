"""Which loss term reaches which module: the gradient of each declared term, module by module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from gradgate.checks.loss_gradient import move_to_a_generic_point
from gradgate.checks.raised import calling
from gradgate.checks.randomness import seeded
from gradgate.checks.snapshot import named_parameters
from gradgate.core.errors import SubjectError, nearest
from gradgate.subjects.contract import Batch, Context, Run, Stage
from gradgate.subjects.inside import TOTAL

BATCHES = 3
ROUNDING = 2.0**-40  # of the total's gradient in a module: what is left in a term that is a difference of two


@dataclass(frozen=True, slots=True)
class Reach:
    """How far one loss term reaches into one module, over several batches.

    Args:
        term: of the loss.
        module: its name in `Run.modules`.
        is_declared: the stage says that the term trains it.
        largest: the largest magnitude of any gradient in it; NaN counts as infinite.
        parameter: where that is; empty where nothing is reached.
        is_frozen: no parameter of the module requires grad.
        is_rounding: the largest is what rounding leaves, held against the total's.
    """

    term: str
    module: str
    is_declared: bool
    largest: float
    parameter: str
    is_frozen: bool = False
    is_rounding: bool = False

    @property
    def is_nothing(self) -> bool:
        """Whether what should train the module does not, as far as this batch tells."""
        return not self.is_frozen and (not self.largest or self.is_rounding)


def may_be_frozen(stage: Stage, name: str, module: nn.Module) -> bool:
    """Whether a module is in eval mode, or declared edges train others and not this one."""
    trained = _trained(stage)
    return not module.training or (bool(trained) and name not in trained)


def untrained(stage: Stage, run: Run) -> set[nn.Parameter]:
    """Parameters of a run's modules that are in none of those that declared edges train; none without an edge."""
    trained = _trained(stage)
    reached = {each for name in trained & run.modules.keys() for each in run.modules[name].parameters()}
    there = {each for module in run.modules.values() for each in module.parameters()}
    return there - reached if trained else set()


def _trained(stage: Stage) -> set[str]:
    return {each for modules in (stage.edges or {}).values() for each in modules}


def reaches(stage: Stage, context: Context) -> list[Reach]:
    """Each term that the stage declares against each module of its run that requires grad, or is to be trained by it,
    over 3 batches, in float64.

    Raises:
        SubjectError: the declaration names a term or a module that there is not.
        SubjectRaisedError: the subject raised.
    """
    with calling("start()"):
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
    edges = stage.edges or {}
    _require_modules(edges, run)
    found: dict[tuple[str, str], Reach] = {}
    for number, batch in enumerate(islice(run.batches(), BATCHES)):
        with seeded(context.seed + number):
            for reach in reaches_of(run, batch, edges):
                key = (reach.term, reach.module)
                if key not in found or reach.largest > found[key].largest:
                    found[key] = reach
    return list({**found, **_elsewhere(run, list(found.values()), edges, context.seed)}.values())


def _elsewhere(
    run: Run, found: Sequence[Reach], edges: Mapping[str, Sequence[str]], seed: int
) -> dict[tuple[str, str], Reach]:
    """Edges that carry nothing, or rounding, at the start, as they are at other parameters.

    A divergence from a reference has no gradient where the two are one, and what stands in front of a head of zeros has
    none, declared or not; a divergence whose probabilities are detached has none anywhere.
    """
    doubtful = {(each.term, each.module) for each in found if each.is_nothing}
    if not doubtful:
        return {}
    trained = [parameter for parameter in named_parameters(run) if parameter.requires_grad]
    move_to_a_generic_point(trained, torch.Generator().manual_seed(seed))
    with seeded(seed):
        again = reaches_of(run, next(iter(run.batches())), edges)
    there = {(each.term, each.module): each for each in again}
    return {
        key: replace(each, largest=0.0, parameter="") if each.is_nothing else each
        for key, each in there.items()
        if key in doubtful
    }


def reaches_of(run: Run, batch: Batch, edges: Mapping[str, Sequence[str]]) -> list[Reach]:
    """The same of one batch of a live run."""
    with calling("losses()"):
        terms = run.losses(batch)
    found = []
    for term, declared in edges.items():
        if term not in terms:
            raise SubjectError(f"edges: losses() has no term {term!r}, only {', '.join(terms)}{nearest(term, terms)}")
        for name, module in run.modules.items():
            parameters = {key: p for key, p in module.named_parameters() if p.requires_grad}
            if not parameters:
                if name in declared and any(True for _ in module.parameters()):
                    found.append(Reach(term, name, is_declared=True, largest=0.0, parameter="", is_frozen=True))
                continue
            largest, parameter = _largest(terms[term], parameters)
            is_rounding = 0 < largest < ROUNDING * _largest(terms.get(TOTAL), parameters)[0]
            if is_rounding and name not in declared:
                largest, parameter, is_rounding = 0.0, "", False
            found.append(Reach(term, name, name in declared, largest, parameter, is_rounding=is_rounding))
    return found


def _largest(term: Tensor | None, parameters: Mapping[str, Tensor]) -> tuple[float, str]:
    if term is None or not term.requires_grad:
        return 0.0, ""
    gradients = torch.autograd.grad(term, list(parameters.values()), retain_graph=True, allow_unused=True)
    sizes = {
        name: float(gradient.detach().abs().nan_to_num(nan=torch.inf).max())
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None and gradient.numel()
    }
    largest = max(sizes.values(), default=0.0)
    return largest, next((name for name, size in sizes.items() if size == largest and size), "")


def _require_modules(edges: Mapping[str, Sequence[str]], run: Run) -> None:
    for term, names in edges.items():
        for name in names:
            if name not in run.modules:
                known = ", ".join(run.modules)
                raise SubjectError(f"edges[{term!r}]: no module {name!r}, only {known}{nearest(name, run.modules)}")

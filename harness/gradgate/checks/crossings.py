"""Where a loss term takes up what a module made, and where it lets go of it: lines of one recorded forward."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gradgate.checks.raised import SubjectRaisedError
from gradgate.checks.randomness import seeded
from gradgate.core.finding import Location
from gradgate.subjects.contract import Context, Run, Stage
from gradgate.watch.block import watch
from gradgate.watch.places import Place, here, location
from gradgate.watch.recorder import Recorder

_sequence = torch._C._autograd._get_sequence_nr
MOST = 8  # lines that a finding shows


@dataclass
class _Call:
    """One forward of a module: the numbers of the nodes made in it, where it was called, what it gave."""

    place: Place | None
    first: int
    end: int = 0
    output: Any = None

    def holds(self, number: int) -> bool:
        return self.first <= number < self.end


@dataclass
class Forward:
    """One recorded forward of a run's losses.

    Args:
        run: whose.
        terms: loss terms by name, on the graph.
        recorder: what recorded it.
        calls: of the run's modules, by name.
    """

    run: Run
    terms: Mapping[str, Tensor]
    recorder: Recorder
    calls: dict[str, list[_Call]] = field(default_factory=dict)

    def entries(self, term: str, module: str, granted: Iterable[str]) -> list[Location]:
        """The lines at which a term takes up what a module made, or what others have made of it, in the order they ran.

        Args:
            term: the one that is not to reach the module.
            module: which it reaches.
            granted: terms that may: what they read as well is no fault, and the line behind it is named.
        """
        root = self.terms[term].grad_fn
        if root is None:
            return []
        nodes, own = ordered(root), set(map(id, self.run.modules[module].parameters()))
        leading: set[Any] = set()
        for node in reversed(nodes):  # what a node reads comes behind it
            if id(getattr(node, "variable", None)) in own or leading.intersection(_read_by(node)):
                leading.add(node)
        free = {node for other in granted if other in self.terms for node in ordered(self.terms[other].grad_fn)}
        free = leading & (free | {node for node in leading if self._is_inside(node, module)})
        crossing = [node for node in leading - free if free.intersection(_read_by(node))]
        places = [self._place(node, module) for node in sorted(crossing, key=lambda node: node._sequence_nr())]
        return _shown(places)

    def cuts(self, term: str, module: str) -> list[Location]:
        """The lines at which a value lost its history and then met a term, or at least came from a module.

        Those that do both come first, and none where there is neither.
        """
        numbers = {node._sequence_nr() for node in ordered(self.terms[term].grad_fn)}
        met = [cut for cut in self.recorder.flow.cuts if not numbers.isdisjoint(cut.nodes)]
        outputs = [part for call in self.calls.get(module, ()) for part in _tensors(call.output)]
        given = [cut for output in outputs for cut in self.recorder.flow.of(output)]
        both = [cut for cut in met if cut in given]
        return _shown(cut.place for cut in (*both, *met, *given))

    def _is_inside(self, node: Any, module: str) -> bool:
        if hasattr(node, "variable"):
            return True  # one that leads nowhere else
        return any(call.holds(node._sequence_nr()) for call in self.calls.get(module, ()))

    def _place(self, node: Any, module: str) -> Place | None:
        """The line that called the other module which made a node; else the line that made it."""
        number = node._sequence_nr()
        others = (call for name, calls in self.calls.items() if name != module for call in calls)
        around = next((call.place for call in others if call.holds(number)), None)
        return around or self.recorder.line_of(number)


def forward_of(stage: Stage, context: Context) -> Forward | None:
    """The losses of a stage's first batch in float64, recorded; None where they raise."""
    try:
        run = stage.start(context.seed, dtype=torch.float64, device=context.device)
        with seeded(context.seed), watch() as block, _called(run.modules) as calls:
            terms = run.losses(next(islice(run.batches(), 1)))
            recorder = block.recorder
    except (Exception, SubjectRaisedError):  # the check has its finding already, and only the line is missing
        return None
    return Forward(run, terms, recorder, calls)


@contextmanager
def _called(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, list[_Call]]]:
    """Note each forward of the modules."""
    calls: dict[str, list[_Call]] = {name: [] for name in modules}
    handles = []
    for name, module in modules.items():

        def begin(_module: nn.Module, _args: Any, name: str = name) -> None:
            calls[name].append(_Call(here(), _sequence()))

        def end(_module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
            calls[name][-1].end, calls[name][-1].output = _sequence(), output

        handles += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def _shown(places: Iterable[Place | None]) -> list[Location]:
    """Each line once, as findings carry it."""
    return [spot for place in dict.fromkeys(places) if (spot := location(place)) is not None][:MOST]


def _read_by(node: Any) -> Iterator[Any]:
    """The nodes whose results a node reads."""
    return (behind for behind, _ in node.next_functions)


def ordered(root: Any) -> list[Any]:
    """All nodes of a graph, each before those it reads."""
    done: set[Any] = set()
    order: list[Any] = []
    waiting: list[tuple[Any, bool]] = [(root, False)]
    while waiting:
        node, is_finished = waiting.pop()
        if is_finished:
            order.append(node)
        elif node is not None and node not in done:
            done.add(node)
            waiting.append((node, True))
            waiting += [(behind, False) for behind in _read_by(node)]
    return order[::-1]


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)

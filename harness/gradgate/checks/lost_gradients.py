"""Which own line takes a gradient away without cutting the graph: a clamp that is saturated, a rounding.

Each node of a step's backward is looked at while it runs. Where a gradient comes in, and what goes on towards the dead
parameters is 0 in every element, there it ends. A line is named where it is the only one, and no dead parameter is left
without.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gradgate.checks.crossings import ordered
from gradgate.core.finding import Location
from gradgate.core.origin import is_trainers_code
from gradgate.watch.block import watch
from gradgate.watch.places import location


@dataclass
class _Ends:
    """Where gradients end: by sequence number of the node, the parameters that lie behind."""

    parameters: Collection[Tensor]
    found: dict[int, set[int]] = field(default_factory=dict)

    def look(self, loss: Tensor) -> list[Any]:
        """Look at each node on the way to the parameters; what to remove behind the backward."""
        wanted = set(map(id, self.parameters))
        leads: dict[Any, set[int]] = {}
        nodes = ordered(loss.grad_fn)
        for node in reversed(nodes):  # what a node reads comes behind it
            leads[node] = {id(getattr(node, "variable", None))} & wanted
            for behind, _ in node.next_functions:
                leads[node] |= leads.get(behind, set())
        on_way = [node for node in nodes if leads[node] and not hasattr(node, "variable")]
        return [node.register_hook(self._looking(node, leads)) for node in on_way]

    def _looking(self, node: Any, leads: Mapping[Any, set[int]]) -> Callable[[Any, Any], None]:
        following = [behind for behind, _ in node.next_functions]

        def look(results: Any, given: Any) -> None:
            if not any(_is_something(gradient) for gradient in given):
                return
            for behind, result in zip(following, results, strict=False):
                if leads.get(behind) and not _is_something(result):
                    self.found.setdefault(node._sequence_nr(), set()).update(leads[behind])

        return look


def line_of_lost_gradient(source: Path | None, step: Callable[[], Any], dead: Collection[Tensor]) -> Location | None:
    """The line at which the gradients of parameters end; None where none does, or several do.

    Args:
        source: of the subject.
        step: that gives them none.
        dead: the parameters.
    """
    ends = _Ends(dead)
    with watch() as block, _before_backward(ends.look):
        step()
        places = {block.recorder.line_of(number) for number in ends.found}
    if set().union(*ends.found.values()) != set(map(id, dead)) or len(places) != 1:
        return None
    (place,) = places
    return location(place) if place is not None and is_trainers_code(place[0].co_filename, source) else None


@contextmanager
def _before_backward(look: Callable[[Tensor], list[Any]]) -> Iterator[None]:
    """Call a function with what each backward of the block begins at."""
    before = torch.Tensor.backward

    def backward(loss: Tensor, *args: Any, **named: Any) -> None:
        handles = look(loss) if loss.grad_fn is not None else []
        try:
            before(loss, *args, **named)
        finally:
            for handle in handles:
                handle.remove()

    torch.Tensor.backward = backward  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.Tensor.backward = before  # type: ignore[method-assign]


def _is_something(gradient: Any) -> bool:
    return isinstance(gradient, Tensor) and bool((gradient != 0).any())

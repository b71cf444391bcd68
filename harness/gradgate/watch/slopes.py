"""Which node of a backward was the first to turn finite gradients into others: hooks on its nodes, while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from gradgate.watch.numerics import is_finite
from gradgate.watch.ops import tensors

_MOST_NODES = 100_000
# Where it is the second operand that makes the slope infinite.
_SECOND = ("DivBackward",)


@dataclass(frozen=True, slots=True)
class Sick:
    """The first node whose result was not finite though what came in was.

    Args:
        name: the node's, without `Backward0`.
        seq: its sequence number.
        operand: the node that made the operand with the infinite slope.
    """

    name: str
    seq: int
    operand: Any


class Slopes:
    """Watches the nodes of one backward.

    Args:
        roots: what it starts from.
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self.first: Sick | None = None
        self._handles = [node.register_hook(self._looking(node)) for node in _nodes(roots)]

    def remove(self) -> None:
        """Leave no hook behind."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _looking(self, node: Any) -> Callable[[Any, Any], None]:
        def look(results: Any, given: Any) -> None:
            if self.first is None and not _all_finite(results) and _all_finite(given):
                self.first = Sick(node.name().rstrip("0123456789").removesuffix("Backward"), *_origin(node))

        return look


def _origin(node: Any) -> tuple[int, Any]:
    following = [part for part, _ in node.next_functions]
    second = len(following) > 1 and following[1] is not None and node.name().startswith(_SECOND)
    return node._sequence_nr(), following[1] if second else next((part for part in following if part is not None), None)


def _nodes(roots: Iterable[Any]) -> list[Any]:
    """The nodes of a graph that were made by operations."""
    waiting = [root.grad_fn for root in roots if isinstance(root, Tensor) and root.grad_fn is not None]
    seen = set(waiting)
    while waiting and len(seen) < _MOST_NODES:
        for following, _ in waiting.pop().next_functions:
            if (
                following is not None
                and following not in seen
                and following.name() != "torch::autograd::AccumulateGrad"
            ):
                seen.add(following)
                waiting.append(following)
    return list(seen)


def _all_finite(gradients: Any) -> bool:
    return all(is_finite(part) for part in tensors(gradients))

"""Counts: what one step does, as a record that travels between processes. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

from gradgate.gates.lines import Line


@dataclass(frozen=True, slots=True)
class Operation:
    """One dispatched operation: its name with its tensors' dtypes, shapes and strides, and the line it belongs to."""

    signature: str
    line: Line


@dataclass(frozen=True, slots=True)
class Counts:
    """What one step does.

    Args:
        values: one a metric; those that do not apply are missing.
        by_line: how much of a metric each line accounts for.
        operations: in their order.
        inputs: class and input shapes of the outermost modules, in the order of their calls.
    """

    values: Mapping[str, int | str]
    by_line: Mapping[str, Mapping[Line, int]] = field(default_factory=dict)
    operations: tuple[Operation, ...] = ()
    inputs: tuple[str, ...] = ()

    def tree(self) -> dict[str, Any]:
        """As JSON; each line is written once."""
        lines: dict[Line, int] = {}
        for line in (
            *(one.line for one in self.operations),
            *(line for shares in self.by_line.values() for line in shares),
        ):
            lines.setdefault(line, len(lines))
        return {
            "values": dict(self.values),
            "lines": [astuple(line) for line in lines],
            "by_line": {
                name: [[lines[line], share] for line, share in shares.items()] for name, shares in self.by_line.items()
            },
            "operations": [[operation.signature, lines[operation.line]] for operation in self.operations],
            "inputs": list(self.inputs),
        }

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Counts:
        """From JSON."""
        lines = [Line(*fields) for fields in tree["lines"]]
        return cls(
            tree["values"],
            {name: {lines[i]: share for i, share in shares} for name, shares in tree["by_line"].items()},
            tuple(Operation(signature, lines[i]) for signature, i in tree["operations"]),
            tuple(tree["inputs"]),
        )

"""All rules of the scanner by code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from gradgate.core.finding import Finding, Location
from gradgate.scan.frame import Report
from gradgate.scan.modules import Module
from gradgate.scan.rules import (
    gg101_inplace_on_saved_tensor,
    gg102_parameter_changed_before_backward,
    gg103_data_write,
    gg104_foreign_write,
    gg105_inplace_on_leaf_or_view,
    gg106_gradient_written_in_place,
    gg107_function_breaks_contract,
    gg201_dead_parameter,
    gg202_graph_cut,
    gg206_stale_gradient,
    gg207_clipping_not_applied,
    gg209_freed_graph,
    gg210_graph_retained,
    gg301_nonfinite_forward,
    gg304_mask_value_overflows,
    gg307_unsafe_function,
    gg415_shape_broadcast,
    gg605_checkpoint_unsafe,
    gg611_collective_behind_guard,
)
from gradgate.scan.rules.text import Text
from gradgate.scan.values import Line

_MODULES = (
    gg101_inplace_on_saved_tensor, gg102_parameter_changed_before_backward, gg103_data_write, gg104_foreign_write,
    gg105_inplace_on_leaf_or_view, gg106_gradient_written_in_place, gg107_function_breaks_contract,
    gg201_dead_parameter, gg202_graph_cut, gg206_stale_gradient, gg207_clipping_not_applied, gg209_freed_graph,
    gg210_graph_retained, gg301_nonfinite_forward, gg304_mask_value_overflows, gg307_unsafe_function,
    gg415_shape_broadcast, gg605_checkpoint_unsafe, gg611_collective_behind_guard,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScanRule:
    """A rule as the scanner has it."""

    code: str
    name: str
    texts: dict[str, Text]
    look: Callable[[Module], Iterable[Report]] | None
    page: str


RULES: dict[str, ScanRule] = {
    module.CODE: ScanRule(
        module.CODE, module.NAME, module.TEXTS, getattr(module, "look", None), (module.__doc__ or "").strip()
    )
    for module in _MODULES
}


def look(module: Module) -> Iterator[Report]:
    """What the rules that need no flow find in a file."""
    for entry in RULES.values():
        if entry.look is not None:
            yield from entry.look(module)


def finding(report: Report, source: Callable[[str, int], str]) -> Finding:
    """A report as a Finding, in the rule's words.

    Args:
        report: what was seen.
        source: the text of a line of a file.
    """
    entry = RULES[report.code]
    text = entry.texts[report.what]
    victim = report.victim.number if report.victim else "?"
    words = {"victim": str(victim), "module": "the model", "name": "the tensor", "op": "the write"} | dict(report.words)
    return Finding(
        code=entry.code,
        name=entry.name,
        message=text.message.format(**words),
        kind=report.kind,  # type: ignore[arg-type]
        severity=text.severity if report.sure else text.unsure,
        culprit=_location(report.culprit, source),
        victim=_location(report.victim, source) if report.victim else None,
        op=dict(report.words).get("op"),
        fix=text.fix.format(**words),
        why=text.why,
    )


def _location(line: Line, source: Callable[[str, int], str]) -> Location:
    name = "" if line.function.startswith("<") else line.function
    return Location(line.file, line.number, name, source(line.file, line.number))

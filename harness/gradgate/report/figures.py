"""Figures of the HTML report: what checks recorded as series, drawn, and beside each picture its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradgate.report import plots
from gradgate.report.records import History, Metric, Result, Run

MOST_ENTRIES = 365  # of a history
MOST_PANELS, MOST_HEADS, MOST_CELLS = 12, 16, 1000
CURVES = {"heldout_squared_error": "held-out squared error", "heldout_loss_nats": "held-out loss, nats"}


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture and what it says in numbers, for who cannot see it.

    Args:
        title: its caption.
        svg: inline, or empty where there was nothing finite to draw.
        head: the table's column titles.
        rows: the table.
    """

    title: str
    svg: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def weights(run: Run) -> list[Plot]:
    """Head weights over positions: at each kind of boundary with drawn values, and what training led to."""
    found = []
    for at, (_, lines) in enumerate(_series(run, "head_weight")):
        states = next((found for _, found in _series(run, "head_label")), {})
        panels = _panels(lines, states)
        svg = plots.heat(f"weights{at}", panels, "position")
        rows = tuple((label, *_cells(cells)) for label, cells in _labelled(panels))
        found.append(Plot("Head weights at each kind of boundary, from values that are drawn", svg, _head(rows), rows))
    for at, (result, lines) in enumerate(_series(run, "trained_weight")):
        panels = _panels(lines, {})
        svg = plots.heat(f"trained{at}", panels, "held-out position at which all heads have a label")
        rows = tuple((label, *_cells(cells)) for label, cells in _labelled(panels))
        title = f"Head weights after training {result.stage or run.subject}, first seed"
        found.append(Plot(title, svg, _head(rows), rows))
    return found


def flow(run: Run) -> list[Plot]:
    """The gradient norm of each module over the updates, in the order in which the model has them."""
    found = []
    for at, (result, lines) in enumerate(_series(run, "gradient_norm")):
        spans = {name: span for name, points in by_module(lines).items() if (span := _span(points))}
        svg = plots.bars(f"flow{at}", {name: span[1] for name, span in spans.items()}, "L2 norm", spans)
        own = {name: span for name, points in lines.items() if (span := _span(points))}
        rows = tuple((name, *map(number, span)) for name, span in own.items())
        title = f"Gradient norm of each module, {result.stage or run.subject}; bar: median, line: lowest to highest"
        found.append(Plot(title, svg, ("parameter", "lowest", "median", "highest"), rows))
    return found


def by_module(lines: Mapping[str, plots.Points]) -> dict[str, plots.Points]:
    """The norms of parameters joined to those of the modules that hold them.

    Args:
        lines: `module.parameter` -> (update, L2 norm).
    """
    squares: dict[str, dict[float, float]] = {}
    for name, points in lines.items():
        own = squares.setdefault(name.rpartition(".")[0] or name, {})
        for x, norm in plots.finite(points):
            own[x] = own.get(x, 0.0) + norm * norm
    return {name: [(x, square**0.5) for x, square in sums.items()] for name, sums in squares.items()}


def convergence(run: Run) -> list[Plot]:
    """Held-out curves of each stage that has any, a line a seed."""
    found = []
    for name, y in CURVES.items():
        for at, (result, lines) in enumerate(_series(run, name)):
            svg = plots.curves(f"{name.replace('_', '-')}{at}", lines, "evaluation", y)
            rows = tuple(_ends(label, points) for label, points in lines.items())
            title = f"{y.split(',')[0].capitalize()} of {result.stage or run.subject}, {len(lines)} seeds"
            title += "; band: lowest to highest" if len(lines) > 1 else ""
            found.append(Plot(title, svg, ("seed", "evaluations", "first", "last"), rows))
    return found


def memory(run: Run) -> list[Plot]:
    """Bytes alive within a step and between steps, and the lines that save most for backward."""
    found = []
    for at, (result, lines) in enumerate(_series(run, "step_bytes")):
        svg = plots.curves(f"step{at}", lines, "allocation or release", "bytes alive", band=False)
        rows = tuple(_highest(label, points) for label, points in lines.items())
        title = f"Bytes alive during one step, {result.stage or run.subject}"
        found.append(Plot(title, svg, ("line", "looks", "first", "highest"), rows))
    for at, (result, lines) in enumerate(_series(run, "saved_bytes")):
        sizes = {label: points[0][1] for label, found in lines.items() if (points := plots.finite(found))}
        svg = plots.bars(f"saved{at}", {label.split(": ")[0]: size for label, size in sizes.items()}, "bytes a step")
        rows = tuple((label, number(int(size))) for label, size in sizes.items())
        found.append(Plot(f"Lines that save most for backward, {result.stage or run.subject}", svg, _SAVED, rows))
    for at, (result, lines) in enumerate(_series(run, "live_bytes")):
        svg = plots.curves(f"live{at}", lines, "steps done", "bytes", band=False)
        rows = tuple(_ends(label, points) for label, points in lines.items())
        title = f"Bytes alive between steps, {result.stage or run.subject}"
        found.append(Plot(title, svg, ("line", "looks", "first", "last"), rows))
    return found


_SAVED = ("line", "bytes a step")


def speed(metrics: Sequence[Metric]) -> Plot | None:
    """Ratios of time with their intervals."""
    timed = [metric for metric in metrics if metric.ratio is not None and metric.interval is not None]
    if not timed:
        return None
    drawn = [(each.metric, float(each.ratio or 0), *each.interval) for each in timed if each.interval]
    rows = tuple(
        (each.metric, each.verdict, f"{each.ratio or 0:.3f}", f"{each.interval[0]:.3f} to {each.interval[1]:.3f}",
         number(each.tolerance), number(each.blocks))
        for each in timed if each.interval
    )  # fmt: skip
    tolerance = next((each.tolerance for each in timed if each.tolerance), None)
    head = ("quantity", "verdict", "ratio", "interval", "tolerance", "blocks")
    return Plot("Head over base, with intervals", plots.intervals("speed", drawn, tolerance), head, rows)


def history(found: History) -> list[Plot]:
    """The time of a step over the checks of the past, a figure for each stage, and where its level changed."""
    drawn: list[Plot] = []
    for subject in dict.fromkeys(entry.subject for entry in found.history):
        own = [entry for entry in found.history if entry.subject == subject][-MOST_ENTRIES:]
        numbered = {entry.time: float(x) for x, entry in enumerate(own, 1)}
        for name in dict.fromkeys(name for entry in own for name in entry.numbers if name.endswith("step_ms")):
            points = [(float(x), entry.numbers[name]) for x, entry in enumerate(own, 1) if name in entry.numbers]
            ours = [one for one in found.changes if (one.subject, one.number) == (subject, name)]
            breaks = [numbered[one.time] for one in ours if one.time in numbered]
            svg = plots.curves(f"history{len(drawn)}", {name: points}, "check", "CPU time of a step, ms", breaks=breaks)
            title = f"{subject} {name} on {found.machine}, {len(points)} checks; upright: a change"
            drawn.append(Plot(title, svg, ("number", "checks", "first", "last"), (_ends(name, points),)))
    return drawn[:MOST_PANELS]


def _series(run: Run, name: str) -> list[tuple[Result, Mapping[str, plots.Points]]]:
    return [(result, result.series[name]) for result in run.results if result.series.get(name)]


def _panels(lines: Mapping[str, plots.Points], states: Mapping[str, plots.Points]) -> dict[str, plots.Panel]:
    """Lines `row, head k` as one panel a row, its cells `[head][position]`."""
    panels: dict[str, plots.Panel] = {}
    for label, points in lines.items():
        row = label.rpartition(", ")[0]
        if (row not in panels and len(panels) == MOST_PANELS) or len(panels.get(row, ())) == MOST_HEADS:
            continue
        state = [int(y) for _, y in plots.finite(states.get(label, ()))] or [1] * len(points)
        weight = [plots.as_float(y) for _, y in points]
        panels.setdefault(row, []).append(list(zip(weight, state, strict=False)))
    most = MOST_CELLS // max(1, sum(map(len, panels.values())))
    return {row: [cells[:most] for cells in panel] for row, panel in panels.items()}


def _labelled(panels: Mapping[str, plots.Panel]) -> list[tuple[str, Sequence[plots.Cell]]]:
    return [
        (f"{row}, head {head}" if row else f"head {head}", cells)
        for row, panel in panels.items()
        for head, cells in enumerate(panel)
    ]


def _cells(cells: Sequence[plots.Cell]) -> list[str]:
    """Numbers as text; what is not to have any weight says why, unless it has some."""
    nothing = {0: "no label", -1: "padding"}
    return [nothing[state] if state in nothing and weight == 0 else f"{weight:.3g}" for weight, state in cells]


def _head(rows: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    return ("row", *(str(at) for at in range(max((len(row) for row in rows), default=1) - 1)))


def _ends(label: str, points: plots.Points) -> tuple[str, ...]:
    first, last = (points[0][1], points[-1][1]) if points else (None, None)
    return (label, str(len(points)), number(first), number(last))


def _highest(label: str, points: plots.Points) -> tuple[str, ...]:
    sizes = [int(y) for _, y in plots.finite(points)]
    first, highest = (sizes[0], max(sizes)) if sizes else (None, None)
    return (label, str(len(points)), number(first), number(highest))


def _span(points: plots.Points) -> tuple[float, float, float] | None:
    """Lowest, median and highest; None where none is finite."""
    ordered = sorted(y for _, y in plots.finite(points))
    return (ordered[0], ordered[len(ordered) // 2], ordered[-1]) if ordered else None


def number(value: Any) -> str:
    """A number as tables show it: four digits, or all of a whole one in groups; nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

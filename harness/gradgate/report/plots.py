"""Plots as inline SVG: drawn by matplotlib, coloured by the page, the same bytes for the same numbers."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Points = Sequence[tuple[Any, Any]]
Cell = tuple[float, int]  # a weight, and its place: 1 has something to predict, 0 has not, -1 is padding
Panel = list[list[Cell]]  # [head][position]

# Colours that nobody else draws with; the page's own variables take their place, so that a plot follows the theme.
INK, MUTED, LINE, RED = "#000001", "#000002", "#000003", "#000004"
LINES = tuple(f"#0000{digit}0" for digit in "123456")
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", RED: "red"} | {
    colour: f"plot-{at}" for at, colour in enumerate(LINES, 1)
}
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text: small, searchable, and in the page's own font
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "grid.color": LINE,
    "axes.grid": True,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
}
_WIDTH = 5.6  # inches, 403 points: still legible where a page is 360 px wide
MOST_BARS = 40


def curves(
    name: str, lines: Mapping[str, Points], x: str, y: str, *, band: bool = True, breaks: Sequence[float] = ()
) -> str:
    """Curves over steps; several get their mean and the band between the lowest and the highest.

    Args:
        name: what the identifiers in the SVG begin with; unique on the page.
        lines: label -> (x, y) pairs; those that are not finite are left out.
        x: the x axis' label.
        y: the y axis' label, with its unit.
        band: whether several lines are repetitions of one, so that a band says something.
        breaks: where on the x axis something became another.

    Returns:
        An `<svg>` element; empty where no number is finite. An axis of bytes begins at 0.
    """
    kept = {label: points for label, found in lines.items() if (points := finite(found))}
    if not kept:
        return ""

    def draw(axes: Any) -> None:
        for at, (label, points) in enumerate(kept.items()):
            colour = LINES[at % len(LINES)]
            marker = "o" if len(points) < 20 else ""
            axes.plot(*zip(*points, strict=True), color=colour, label=label, marker=marker, markersize=3, linewidth=1.4)
        if band and len(kept) > 1:
            _band(axes, list(kept.values()))
        for edge in breaks:
            axes.axvline(edge - 0.5, color=RED, linewidth=1, linestyle="--")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if y.startswith("bytes"):
            axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(lambda value, _: in_bytes(value))
        if 1 < len(kept) <= len(LINES):
            axes.legend(loc="best")

    return _svg(name, lambda figure: draw(figure.add_subplot()), 3.0)


def heat(name: str, panels: Mapping[str, Panel], x: str) -> str:
    """Weights as cells, rows are heads and columns positions: the stronger the colour, the more.

    Padding is hatched, and a place that has nothing to predict has a dot. Red: weight in either, or no number.

    Args:
        name: what the identifiers in the SVG begin with.
        panels: title -> cells.
        x: the position's axis.
    """
    shown = {title: panel for title, panel in panels.items() if panel and panel[0]}
    if not shown:
        return ""
    columns = min(2, len(shown))
    rows = -(-len(shown) // columns)

    def draw(figure: Any) -> None:
        figure.set_layout_engine(None)  # the labels are as wide everywhere, and finding that out takes a second
        room = {"left": 0.08, "right": 0.99, "top": 1 - 0.2 / height, "bottom": 0.4 / height}
        grid = figure.subplots(rows, columns, squeeze=False, gridspec_kw={**room, "hspace": 0.9}).flatten()
        for at, (axes, (title, panel)) in enumerate(zip(grid, shown.items(), strict=False)):
            _cells(axes, panel)
            axes.set_title(_short(title), fontsize=9, loc="left")
            axes.set_xlabel(x if at >= len(shown) - columns else "")
            axes.set_ylabel("head" if at % columns == 0 else "")
        for axes in grid[len(shown) :]:
            axes.set_axis_off()

    height = 0.4 + rows * (0.4 + 0.13 * max(len(panel) for panel in shown.values()))
    return _svg(name, draw, height)


def _cells(axes: Any, panel: Panel) -> None:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    for position in range(len(panel[0])):
        if all(cells[position][1] < 0 for cells in panel if position < len(cells)):
            at: Any = (position - 0.5, -0.5)
            axes.add_patch(Rectangle(at, 1, len(panel), fill=False, edgecolor=LINE, hatch="//////", linewidth=0))
    squares, colours = [], []
    for head, cells in enumerate(panel):
        for position, (weight, state) in enumerate(cells):
            colour = _colour(weight, state)
            if colour is not None:
                squares.append([(position + x, head + y) for x, y in _CORNERS])
                colours.append(to_rgba(*colour))
    axes.add_collection(PolyCollection(squares, facecolors=colours, linewidths=0))
    dots = [
        (t, k) for k, cells in enumerate(panel) for t, (weight, state) in enumerate(cells) if (weight, state) == (0, 0)
    ]
    axes.plot(*(zip(*dots, strict=True) if dots else ((), ())), linestyle="", marker=".", markersize=2.5, color=MUTED)
    axes.set_xlim(-0.5, max(map(len, panel)) - 0.5)
    axes.set_ylim(len(panel) - 0.5, -0.5)
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.set_yticks(range(len(panel)))
    axes.tick_params(labelsize=8, length=2)


def _colour(weight: float, state: int) -> tuple[str, float] | None:
    """Of a cell, with its opacity; None where nothing is to be seen."""
    if not math.isfinite(weight) or (state < 1 and weight != 0):
        return RED, 1.0
    alpha = round(min(1.0, max(0.0, weight)), 2)
    return (LINES[0], alpha) if alpha else None


_CORNERS = ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))


def bars(
    name: str, values: Mapping[str, float], x: str, spans: Mapping[str, tuple[float, float, float]] | None = None
) -> str:
    """Horizontal bars, on a logarithmic axis but for bytes; a zero has no bar and is marked by its label.

    Args:
        name: what the identifiers in the SVG begin with.
        values: label -> number, at most `MOST_BARS` are drawn.
        x: the axis' label.
        spans: label -> its lowest, middle and highest number, where a line from the one to the last is to be drawn.
    """
    shown = {label: float(value) for label, value in list(values.items())[:MOST_BARS] if math.isfinite(value)}
    if not shown:
        return ""

    def draw(axes: Any) -> None:
        labels = [_short(label) + (" (zero)" if value == 0 else "") for label, value in shown.items()]
        axes.barh(range(len(shown)), list(shown.values()), color=LINES[0], height=0.65)
        for at, (low, _, high) in enumerate((spans or {})[label] for label in shown if spans):
            axes.plot([low, high], [at, at], color=INK, linewidth=1.2)
        axes.set_yticks(range(len(shown)), labels)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        if x.startswith("bytes"):
            axes.xaxis.set_major_formatter(lambda value, _: in_bytes(value))
        elif any(shown.values()):
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")  # powers come as mathematics, which is off
            axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.set_xlabel(x)

    return _svg(name, lambda figure: draw(figure.add_subplot()), 0.9 + 0.2 * len(shown))


def intervals(name: str, rows: Sequence[tuple[str, float, float, float]], tolerance: float | None) -> str:
    """Ratios with their intervals against 1, and the tolerance as a band.

    Args:
        name: what the identifiers in the SVG begin with.
        rows: (label, ratio, low, high).
        tolerance: by how much a ratio may exceed 1.
    """
    kept = [row for row in rows if all(math.isfinite(number) for number in row[1:])]
    if not kept:
        return ""

    def draw(axes: Any) -> None:
        axes.axvline(1.0, color=MUTED, linewidth=1)
        if tolerance:
            axes.axvspan(1.0, 1.0 + tolerance, color=LINES[1], alpha=0.18, linewidth=0)
        for at, (_, ratio, low, high) in enumerate(kept):
            axes.plot([low, high], [at, at], color=LINES[0], linewidth=2)
            axes.plot([ratio], [at], color=LINES[0], marker="o", markersize=6)
        axes.set_yticks(range(len(kept)), [_short(label) for label, *_ in kept])
        axes.set_ylim(len(kept) - 0.5, -0.5)
        axes.set_xlabel("head / base (1 = the same)")

    return _svg(name, lambda figure: draw(figure.add_subplot()), 0.9 + 0.35 * len(kept))


def finite(points: Points) -> list[tuple[float, float]]:
    """The pairs of which both numbers are finite; "nan" and "inf" are how JSON spells the others."""
    pairs = [(float(x), float(y)) for x, y in points if _is_number(x) and _is_number(y)]
    return [(x, y) for x, y in pairs if math.isfinite(x) and math.isfinite(y)]


def in_bytes(size: float) -> str:
    """A number of bytes with its unit, in powers of ten."""
    for unit in ("B", "kB", "MB"):
        if abs(size) < 1000:
            return f"{size:g} {unit}"
        size /= 1000
    return f"{size:g} GB"


def as_float(value: Any) -> float:
    """A number of a result; NaN for what is none, as JSON spells it or not at all."""
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < 1e300


def _band(axes: Any, lines: Sequence[Sequence[tuple[float, float]]]) -> None:
    by_x: dict[float, list[float]] = {}
    for points in lines:
        for x, y in points:
            by_x.setdefault(x, []).append(y)
    shared = sorted((x, values) for x, values in by_x.items() if len(values) == len(lines))
    if shared:
        xs = [x for x, _ in shared]
        low, high = [min(values) for _, values in shared], [max(values) for _, values in shared]
        axes.fill_between(xs, low, high, color=LINES[0], alpha=0.15, linewidth=0)


def _short(label: str) -> str:
    return label if len(label) <= 34 else f"{label[:16]}…{label[-17:]}"


def _svg(name: str, draw: Callable[[Any], None], height: float) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**_SETTINGS, "svg.hashsalt": f"gradgate {name}"}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        draw(figure)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(name, file.getvalue())


def _inline(name: str, text: str) -> str:
    """The `<svg>` alone, hidden from screen readers (the table beside it says the same), in the page's colours."""
    body = text[text.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 aria-hidden="true" focusable="false"', body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r'(href="#|url\(#)', rf"\1{name}-", body)
    body = re.sub(r" ?font-family: [^;\"]*;?", "", body)  # that of the page
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var(--{variable})")
    return re.sub(r"\s*\n\s*", "\n", body).strip()

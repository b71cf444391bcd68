"""Figures of the report: each says in numbers what it shows, marks what must not be, and stays small."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the HTML report's plots: pip install 'gradgate[report]'")

from fixtures.report_inputs import SERIES, verify_run
from gradgate.report import figures, plots
from gradgate.report.records import History, Run


def run_of(**series: Any) -> Run:
    """A run whose only check recorded these series."""
    tree = verify_run(series=False)
    tree["results"] = [{**tree["results"][1], "series": series}]
    return Run.model_validate(tree)


def weights_of(weight: float | str, state: int) -> figures.Plot:
    """The picture of one head at two positions: a sound one, and this."""
    lines = {"a row, head 0": [(0, 1.0), (1, weight)]}
    (plot,) = figures.weights(run_of(head_weight=lines, head_label={"a row, head 0": [(0, 1), (1, state)]}))
    return plot


@pytest.mark.parametrize(("weight", "state"), [(0.5, -1), (1e-9, 0), ("nan", 1), ("inf", 0)])
def test_weights_are_red_where_there_must_be_none(weight: float | str, state: int):
    """Weight at padding or without a label, and what is no number, however small."""
    assert "var(--red)" in weights_of(weight, state).svg


@pytest.mark.parametrize(("weight", "state", "told"), [(0.0, -1, "padding"), (0.0, 0, "no label"), (0.5, 1, "0.5")])
def test_weights_that_are_sound_are_not_red(weight: float, state: int, told: str):
    """The table says why a place weighs nothing."""
    plot = weights_of(weight, state)
    assert "var(--red)" not in plot.svg
    assert plot.rows == (("a row, head 0", "1", told),)


def test_weights_of_many_rows_and_positions_are_cut():
    """The page stays small whatever a subject's horizon and length."""
    points = [(t, 0.5) for t in range(200)]
    (plot,) = figures.weights(run_of(head_weight={f"a row, head {head}": points for head in range(30)}))
    assert (len(plot.rows), len(plot.rows[0])) == (16, 1 + 1000 // 16)
    assert len(plot.svg) < 500_000
    many = {f"row {row}, head {head}": points for row in range(20) for head in range(30)}
    assert [len(panel) for panel in figures._panels(many, {}).values()] == [16] * 12


def test_trained_weights_are_a_row_a_head():
    """Without a label's state all places count."""
    (plot,) = figures.weights(run_of(trained_weight=SERIES["trained_weight"]))
    assert plot.rows == (("head 0", "0.5", "0.1"), ("head 1", "0.5", "0.9"))
    assert plot.svg


def test_flow_joins_parameters_to_their_module():
    """The norm of a module is that of its parameters together; the table keeps each."""
    lines = {"head.weight": [(1, 3.0), (2, 6.0)], "head.bias": [(1, 4.0), (2, 8.0)], "scale": [(1, 1.0), (2, "nan")]}
    assert figures.by_module(lines) == {"head": [(1.0, 5.0), (2.0, 10.0)], "scale": [(1.0, 1.0)]}
    (plot,) = figures.flow(run_of(gradient_norm=lines))
    assert [row[0] for row in plot.rows] == list(lines)


def test_convergence_has_a_figure_for_each_stage():
    """Squared errors of the value stage, nats of the token stage; the band where there are several seeds."""
    found = figures.convergence(run_of(**{name: SERIES[name] for name in figures.CURVES}))
    assert [plot.title for plot in found] == [
        "Held-out squared error of main, 1 seeds",
        "Held-out loss of main, 2 seeds; band: lowest to highest",
    ]


def test_memory_has_the_step_its_lines_and_the_time_between():
    """Bytes with their unit, from 0; a line's source stands in the table."""
    found = figures.memory(run_of(**{name: SERIES[name] for name in ("step_bytes", "saved_bytes", "live_bytes")}))
    assert found[0].rows == (("alive", "3", "0", "4,000,000"),)
    assert found[1].rows[0] == ("model.py:7 in forward(): return relu(x)", "2,500,000")
    assert "4 MB" in found[0].svg and "model.py:7 in forward()" in found[1].svg
    assert len(found) == 3


def test_memory_without_a_number_has_no_picture():
    """NaN alone draws nothing and raises nothing."""
    (plot,) = figures.memory(run_of(step_bytes={"alive": [(1, "nan")]}))
    assert (plot.svg, plot.rows) == ("", (("alive", "1", "", ""),))


def test_history_has_a_figure_for_each_stage_with_its_changes():
    """An upright where its own level changed, none where another's did."""
    entries = [{"time": f"t{at}", "subject": "m", "numbers": {"a/step_ms": 1.0, "b/step_ms": 2.0}} for at in range(4)]
    change = {"subject": "m", "number": "a/step_ms", "time": "t2", "before": 1.0, "after": 1.1, "entries": [2, 2]}
    found = figures.history(History.model_validate({"machine": "x", "history": entries, "changes": [change]}))
    assert [("var(--red)" in plot.svg, plot.rows[0][:2]) for plot in found] == [
        (True, ("a/step_ms", "4")),
        (False, ("b/step_ms", "4")),
    ]


def test_bytes_have_a_unit():
    """Powers of ten, as the axis shows them."""
    assert [plots.in_bytes(size) for size in (0, 999, 2500, 3e6, 4e9)] == ["0 B", "999 B", "2.5 kB", "3 MB", "4 GB"]

"""Innocent edits: they compute the same, stay out of the fault's function, and are chosen by a seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradgate.faults.catalogue import Fault, plant
from gradgate.faults.edit import Edit
from gradgate.faults.innocent import beside

LOSS = '''\
def half(x):
    """Half of it."""
    return x / 2


def twice(x):
    answer = [x]
    return sum(answer) * 2


def same(x):
    return x


class Term:
    def value(self, x):
        if x > 0:
            return x + 1
        return x - 1
'''
FAULT = Edit("pack/loss.py", "x / 2", "x / 3", "half")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A package of two files."""
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "loss.py").write_text(LOSS, encoding="utf-8")
    (tmp_path / "pack" / "other.py").write_text("def less(x):\n    return x - 2\n", encoding="utf-8")
    return tmp_path


def values(text: str) -> list[object]:
    names: dict[str, object] = {}
    exec(text, names)  # noqa: S102 - the text above
    return [names["half"](3.0), names["twice"](3.0), names["Term"]().value(1), names["Term"]().value(-1)]  # type: ignore[operator,attr-defined]


def test_innocent_edits_compute_the_same_and_leave_the_faults_function_alone(root: Path):
    """As many as there are places; what has nothing to name stays, and a name that is taken is not used."""
    texts = beside([FAULT], root, 9, "LW-01")

    assert set(texts) == {"pack/loss.py", "pack/other.py"}
    assert values(texts["pack/loss.py"]) == values(LOSS)
    assert "    return x / 2\n" in texts["pack/loss.py"]
    assert "    outcome = sum(answer) * 2\n    return outcome\n" in texts["pack/loss.py"]
    assert texts["pack/loss.py"].count("answer = x ") == 2
    assert texts["pack/other.py"] == "def less(x):\n    answer = x - 2\n    return answer\n"


def test_innocent_edits_are_as_many_as_asked_and_the_same_for_a_seed(root: Path):
    """So that a run of the catalogue can be repeated."""
    for count in (1, 2, 3):
        texts = beside([FAULT], root, count, "LW-01")
        before = {file: (root / file).read_text() for file in texts}
        changed = sum(texts[file].count("\n") - before[file].count("\n") for file in texts)
        assert changed == count  # each adds a line
        assert texts == beside([FAULT], root, count, "LW-01")
    assert beside([FAULT], root, 0, "LW-01") == {}
    assert len({str(beside([FAULT], root, 2, f"LW-{number}")) for number in range(20)}) > 1


def test_fault_is_planted_into_what_the_innocent_edits_left(root: Path):
    """Its lines are those of the text that is run."""
    texts = beside([Edit("pack/loss.py", "x - 1", "x - 2", "Term.value")], root, 9, "LW-02")
    fault = Fault("LW-02", "what", "here", ("GG401",), (Edit("pack/loss.py", "x - 1", "x - 2", "Term.value"),))

    planted = plant(fault, root, texts)

    ((file, first, last),) = planted.lines
    lines = planted.files[file].splitlines()
    assert (first, last, lines[first - 1].strip()) == (first, first, "return (x - 2)")
    assert first > LOSS.splitlines().index("        return x - 1") + 1

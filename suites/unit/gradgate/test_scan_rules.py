"""Each rule of the scanner against programs that have its fault, and twins that do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.scan_programs import HEAD, PROGRAMS, Program
from fixtures.scan_scripts import NET, SCRIPTS
from gradgate.checks.catalogue import reads_source
from gradgate.checks.rules import RULES as CATALOGUE
from gradgate.core.finding import Finding
from gradgate.scan import tree as tree_module
from gradgate.scan.interpreter import _roots
from gradgate.scan.rules.catalogue import RULES
from gradgate.scan.scanner import scan, scan_source
from gradgate.scan.sources import Source
from gradgate.scan.tree import Tree, parse

BY_NAME = [pytest.param(entry, id=f"{entry.code}-{entry.name.replace(' ', '-')}") for entry in (*PROGRAMS, *SCRIPTS)]


def findings(text: str) -> tuple[Finding, ...]:
    return scan_source("program.py", Source(text, {}), Tree(()), frozenset()).findings


@pytest.mark.parametrize("program", BY_NAME)
def test_scan_names_the_culprit_line(program: Program):
    """The fault is found by its own rule, at the line that commits it, and by no other rule elsewhere."""
    marked = [(program.code, at) for at, line in enumerate(program.bad.split("\n"), 1) if line.endswith("# BAD")]

    found = [(finding.code, finding.culprit.line) for finding in findings(program.bad)]

    assert [place for place in found if place[1] in {line for _, line in marked}] == marked
    assert [place for place in found if place not in marked and place[0] != "GG107"] == []


@pytest.mark.parametrize("program", BY_NAME)
def test_scan_is_quiet_on_the_repaired_program(program: Program):
    """The twin without the fault has no finding at all."""
    assert [finding.headline() for finding in findings(program.good)] == []


@pytest.mark.parametrize("code", sorted(RULES))
def test_rule_has_a_program(code: str):
    """No rule without a program that proves it."""
    assert code in {entry.code for entry in PROGRAMS}


READING = {entry.code for entry in CATALOGUE if reads_source(entry)}  # as checks


def test_rules_have_the_catalogue_s_names():
    """The scanner's rules are the catalogue's, under the same names, and it says that scan looks for them."""
    known = {entry.code: entry for entry in CATALOGUE}

    assert {code: entry.name for code, entry in RULES.items()} == {code: known[code].name for code in RULES}
    assert {code for code, entry in known.items() if "scan" in entry.looks} - READING == set(RULES)


LIBRARY = """
try:
    import numpy as np
except ImportError:
    np = None
from torch import nn

VERSION = (2, 1)
NAMES = {"relu": "ReLU", "tanh": "Tanh"}
__all__ = ["Net", "build"]


class Net(nn.Module):
    def forward(self, x):
        w = x.softmax(-1)
        w[0] = 0.0
        return w


def build(name):
    return Net()


if __name__ == "__main__":
    build("relu")
"""


def roots(text: str) -> list[str]:
    module = parse("program.py", text)
    return [function.name for function in _roots(module, Tree(()).resolve)]


def test_top_level_of_imports_and_constants_is_not_run():
    """A library's top level touches nothing of interest and costs nothing; a script's is run, before its functions."""
    assert roots(LIBRARY) == ["forward"]
    assert roots(HEAD + NET + "def show(x):\n    x.data.add_(1)\n") == ["<module>", "forward", "show"]


def test_import_that_may_fail_stays_an_import():
    """`torch = None` behind an except is no binding: what follows is still torch's."""
    text = "try:\n    import torch\nexcept ImportError:\n    torch = None\n"
    text += "x = torch.ones(2, requires_grad=True)\ny = torch.exp(x)\ny.mul_(2)\ny.sum().backward()\n"

    assert [(finding.code, finding.culprit.line) for finding in findings(text)] == [("GG101", 7)]


def test_names_of_a_script_mean_what_was_bound_last():
    """A function or class that is defined again, as in a notebook, is the second one from there on."""
    first = "def cut(w):\n    w.mul_(2)\n    return w\n"
    second = "def cut(w):\n    return w * 2\n"
    use = "x = torch.ones(2, requires_grad=True)\ncut(torch.exp(x)).sum().backward()\n"

    assert [finding.code for finding in findings("import torch\n" + first + use)] == ["GG101"]
    assert findings("import torch\n" + first + second + use) == ()
    assert [finding.code for finding in findings("import torch\n" + second + first + use)] == ["GG101"]


def test_script_that_switches_gradient_off_is_left_alone():
    """`torch.set_grad_enabled(False)` at the top level holds in the functions of the file, too."""
    text = "import torch\n{}\ndef f(x):\n    w = torch.exp(x)\n    w.mul_(2)\n    return w\n"

    assert [finding.code for finding in findings(text.format("torch.set_grad_enabled(True)"))] == ["GG101"]
    assert findings(text.format("torch.set_grad_enabled(False)")) == ()


def test_long_script_is_looked_at_as_far_as_the_budget_goes():
    """What a script did before it became too long is still reported."""
    fault = "x = torch.ones(2, requires_grad=True)\ny = torch.exp(x)\ny.mul_(2)\ny.sum().backward()\n"
    text = "import torch\n" + fault + "x = x + 1\n" * 9000

    assert [(finding.code, finding.culprit.line) for finding in findings(text)] == [("GG101", 4)]


@pytest.mark.parametrize(
    ("line", "is_run"),
    [
        ("x[0] = 1", True),
        ("x['a'] = 1", False),
        ("found = {}\n    found[x] = 1", False),
        ("x += 1.0", True),
        ("count = 0\n    count += 1", False),
        ("x += 'text'", False),
        ("x.names += [1]", False),
        ("x.weight[0] += 1", True),
        ("x.mul_(2)", True),
        ("torch.exp(x, out=y)", True),
        ("return x * 2", False),
    ],
)
def test_function_is_run_where_it_may_write_a_tensor(line: str, is_run: bool):
    """Counters, tables by name and containers that the function makes itself are no tensors."""
    text = f"import torch\n\n\ndef f(x: torch.Tensor, y):\n    {line}\n"

    assert roots(text) == (["f"] if is_run else [])


CALLERS = """
import torch


class A:
    def cut(self, w):
        w.mul_(2)
        return w

    def go(self, x):
        return self.cut(self.made(x))

    def made(self, x):
        return torch.exp(x)


class B(A):
    def run(self, x):
        return self.cut(self.made(x))


class Other:
    def lay(self, x):
        return self.cut(self.made(x))
"""


def test_function_is_run_where_two_that_it_may_call_make_a_fault_together():
    """A method is called by its class's family, or by anybody where the file mentions the class."""
    assert roots(CALLERS) == ["cut", "go", "run"]
    assert roots(CALLERS + "\n\ndef build():\n    return A()\n") == ["cut", "go", "run", "lay"]
    assert [finding.culprit.line for finding in findings(CALLERS)] == [7]


def test_long_way_to_a_fault_is_followed_where_something_happens_on_it():
    """What is idle for long enters no further call, but its own lines are run; what happens on the way ends it."""
    idle = "    y = x.size(0)\n" * 400
    head = "import torch\n\n\ndef cut(w):\n    w.mul_(2)\n\n\ndef f(x: torch.Tensor):\n"
    own = "    w = torch.exp(x)\n    w.mul_(2)\n    return w\n"
    other = "    w = torch.exp(x)\n    cut(w)\n    return w\n"

    assert [finding.culprit.line for finding in findings(head + idle + own)] == [410]
    assert [finding.culprit.line for finding in findings(head + idle + other)] == [5]


def test_files_that_are_let_go_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Parsed files are kept up to a number; one that is needed again is parsed again."""
    monkeypatch.setattr(tree_module, "MOST_MODULES", 2)
    (tmp_path / "helper.py").write_text("import torch\n\n\ndef cut(w):\n    w.mul_(2)\n    return w\n")
    for at in range(6):
        (tmp_path / f"a{at}.py").write_text(
            "import torch\nfrom helper import cut\n\n\ndef f(x):\n    return cut(torch.exp(x))\n"
        )

    result = scan([tmp_path], known=frozenset(), jobs=1)

    assert [(finding.code, Path(finding.culprit.file).name) for finding in result.findings] == [("GG101", "helper.py")]
    assert result.problems == {}

"""Each rule of the scanner against programs that have its fault, and twins that do not."""

from __future__ import annotations

import pytest

from fixtures.scan_programs import PROGRAMS, Program
from gradgate.checks.rules import RULES as CATALOGUE
from gradgate.core.finding import Finding
from gradgate.scan.rules.catalogue import RULES
from gradgate.scan.scanner import scan_source
from gradgate.scan.sources import Source
from gradgate.scan.tree import Tree

BY_NAME = [pytest.param(entry, id=f"{entry.code}-{entry.name.replace(' ', '-')}") for entry in PROGRAMS]


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


def test_rules_have_the_catalogue_s_names():
    """The scanner's rules are the catalogue's, under the same names, and it says that scan looks for them."""
    known = {entry.code: entry for entry in CATALOGUE}

    assert {code: entry.name for code, entry in RULES.items()} == {code: known[code].name for code in RULES}
    assert {code for code, entry in known.items() if "scan" in entry.looks} - {"GG004"} == set(RULES)

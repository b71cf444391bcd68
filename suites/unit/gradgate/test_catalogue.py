"""The catalogue knows every rule, finds it by any of its names, and shows its page without importing it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import gradgate.checks
from gradgate.checks import catalogue
from gradgate.checks.rules import RULES
from gradgate.core.errors import UnknownCodeError
from gradgate.subjects.contract import Subject

FOLDER = Path(gradgate.checks.__path__[0])
FILES = sorted(FOLDER.glob("gg[0-9]*.py"))
SOURCE = sorted((FOLDER / "source").glob("*.py"))
PAGE = ["What it detects", "Why it matters", "How it decides", "Example", "How to fix", "Known limits", "Sources"]


def codes(*select: str, ignore: tuple[str, ...] = ()) -> list[str]:
    return [rule.code for rule in catalogue.select(select, ignore)]


def test_rules_are_in_order_and_unique():
    """Codes ascend, so that families come in order; no code and no name is used twice."""
    listed = [rule.code for rule in RULES]
    assert listed == sorted(set(listed))
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_rules_have_well_formed_rows():
    """A code is GG and three digits, a name kebab-case, and `looks` has only the four known places."""
    for rule in RULES:
        assert re.fullmatch(r"GG\d{3}", rule.code)
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name)
        assert set(rule.looks) <= {"watch", "scan", "run", "count"}
        assert not rule.fails_when.endswith(".")


def test_rule_is_found_by_code_and_by_name_in_any_case():
    """A user may write either."""
    found = {catalogue.rule(word).code for word in ("GG401", "gg401", "weight-sum", "Weight-Sum")}
    assert found == {"GG401"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("weight-som", "no rule 'weight-som'; did you mean 'weight-sum'?"),
        ("GG412x", "no rule 'GG412x'; did you mean 'GG412'?"),
        ("xyzzy", "no rule 'xyzzy'"),
    ],
)
def test_rule_names_the_nearest_when_unknown(word: str, message: str):
    """An unknown word is an error that helps."""
    with pytest.raises(UnknownCodeError) as caught:
        catalogue.rule(word)
    assert str(caught.value) == message


def test_select_takes_codes_prefixes_and_names_in_catalogue_order():
    """Whatever the order of selectors, results come in catalogue order and once."""
    assert codes("GG402", "weight-sum", "gg401", "GG90") == ["GG401", "GG402", *[f"GG90{n}" for n in range(1, 6)]]


def test_select_takes_everything_when_nothing_is_named():
    """No selector means the whole catalogue."""
    assert codes() == [rule.code for rule in RULES]


def test_select_leaves_out_what_is_ignored():
    """Ignore wins over select."""
    assert codes("GG10", ignore=("GG100", "data-write")) == [
        "GG101",
        "GG102",
        "GG104",
        "GG105",
        "GG106",
        "GG107",
        "GG108",
        "GG109",
    ]


@pytest.mark.parametrize("word", ["GG", "", "GG99", "weights"])
def test_select_refuses_a_selector_that_fits_nothing(word: str):
    """A typing error never selects an empty catalogue."""
    with pytest.raises(UnknownCodeError, match=f"no rule fits {word!r}"):
        catalogue.select([word])


def test_page_shows_the_docstring_without_importing(stub_checks):
    """The page is read from the source: a module that would break on import still has one."""
    stub_checks("GG401")
    file = Path(gradgate.checks.__path__[0]) / "gg401_weight_sum.py"
    file.write_text(file.read_text() + "\nraise RuntimeError('imported')\n")
    page = catalogue.page(catalogue.rule("GG401"))
    assert page.startswith("# GG401 weight-sum\n\n*Family:* weights, masks, boundaries, loss")
    assert "## How to fix" in page


def test_page_says_so_when_a_rule_is_not_built(stub_checks):
    """A rule without a check has a page that says it plainly."""
    rule = catalogue.rule("GG002")
    assert not catalogue.is_built(rule)
    assert catalogue.page(rule).endswith("\n\n**Not built yet.**\n")


def test_load_check_reads_what_the_module_declares(stub_checks):
    """NEEDS, OBJECTIVE and PER_STAGE become the check's fields."""
    stub_checks("GG901", needs=("fit",), per_stage=True, objective="value")
    check = catalogue.load_check(catalogue.rule("GG901"))
    assert (check.needs, check.objective, check.per_stage) == (("fit",), "value", True)


def test_by_family_groups_in_order_and_leaves_out_empty_families():
    """Families without a rule do not appear."""
    groups = catalogue.by_family(catalogue.select(["GG8", "GG001"]))
    assert list(groups) == ["the harness and its inputs", "memory"]


@pytest.mark.parametrize("file", SOURCE, ids=lambda file: file.stem)
def test_what_reads_a_source_stands_apart_from_what_runs(file: Path):
    """It needs neither torch nor anything of the checks outside its own package."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            assert name.split(".")[0] != "torch"
            assert not f"{name}.".startswith("gradgate.checks.") or f"{name}.".startswith("gradgate.checks.source.")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_check_file_belongs_to_a_rule(file: Path):
    """A check's file is named after its rule; any other name would never be found."""
    rule = catalogue.rule(file.stem[:5])
    assert file.stem == f"{rule.code.lower()}_{rule.name.replace('-', '_')}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_check_file_has_a_whole_page(file: Path):
    """A page has every section of house style, in order, behind a summary of one sentence."""
    page = ast.get_docstring(ast.parse(file.read_text())) or ""
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == PAGE
    assert page.splitlines()[0].endswith(".")
    assert page.splitlines()[1] == ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_check_file_declares_known_capabilities(file: Path):
    """NEEDS is a literal of capability names, PER_STAGE a literal truth value."""
    literals = {}
    for node in ast.parse(file.read_text()).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            if isinstance(target, ast.Name) and target.id in ("NEEDS", "PER_STAGE", "OBJECTIVE"):
                literals[target.id] = ast.literal_eval(node.value)
    assert set(literals["NEEDS"]) <= set(Subject.CAPABILITIES)
    assert isinstance(literals["PER_STAGE"], bool)
    assert literals.get("OBJECTIVE") in (None, "value", "tokens")

"""Edits by syntax tree, and the fault catalogue's files: what fits, what is refused, and with which words."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gradgate.core.errors import GradgateError
from gradgate.faults import catalogue
from gradgate.faults.edit import Edit, EditError, apply

SOURCE = """\
def first(x):
    y = x . detach( )
    return y * 2


class Net:
    def forward(self, x):
        if x:
            self.count += 1
            self.step()
        return x.detach()
"""


def edit(find: str, replace: str = "", within: str = "") -> Edit:
    return Edit("net.py", find, replace, within)


def test_edit_matches_however_the_source_is_formatted():
    """Blanks and line breaks of the source do not matter, its syntax tree does."""
    done = apply(SOURCE, edit("x.detach()", "x", within="first"))
    assert "y = x\n" in done.text
    assert (done.first, done.last) == (2, 2)


def test_edit_keeps_every_line_that_it_does_not_change():
    """All else stays byte for byte, and new lines take the indentation of the old."""
    done = apply(SOURCE, edit("self.count += 1\nself.step()", "self.step()\nself.count += 2\nself.step()"))
    before, after = SOURCE.splitlines(), done.text.splitlines()
    assert after[:8] == before[:8]
    assert after[8:11] == [" " * 12 + line for line in ("self.step()", "self.count += 2", "self.step()")]
    assert after[11:] == before[10:]
    assert (done.first, done.last) == (9, 11)


def test_edit_puts_an_expression_into_parentheses_when_it_needs_them():
    """`a + b` in the place of a factor is still a sum."""
    done = apply(SOURCE, edit("y * 2", "y + 1 or y", within="first"))
    assert "return (y + 1 or y)" in done.text


def test_edit_replaces_a_call_by_statements_when_it_stands_alone():
    """An expression that is a statement may become several."""
    done = apply(SOURCE, edit("self.step()", "self.step()\nself.step()"))
    assert done.text.count("self.step()") == 2


def test_edit_leaves_pass_when_nothing_replaces_the_only_statement():
    """A removed body is still a body."""
    done = apply("if x:\n    x.sum()\n", edit("x.sum()"))
    assert ast.dump(ast.parse(done.text)) == ast.dump(ast.parse("if x:\n    pass\n"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (edit("x.clone()", "x"), "'x.clone()' matches nothing; expected exactly one place"),
        (edit("x.detach()", "x"), "'x.detach()' matches 2 places, lines 2, 11; expected exactly one place"),
        (edit("x.detach(", "x"), "find: 'x.detach(' is no Python"),
        (edit("y * 2", "y *", within="first"), "replace: 'y *' is no Python"),
        (edit("y * 2", "y*2", within="first"), "is replaced by itself"),
        (edit("x", "y", within="second"), "0 functions or classes are called 'second', of 'second'; expected one"),
    ],
)
def test_edit_is_refused_when_it_does_not_fit(change: Edit, words: str):
    """A stale edit says what it looked for and what it found."""
    with pytest.raises(EditError) as caught:
        apply(SOURCE, change)
    assert words in str(caught.value)


GOOD = """
- id: LW-01
  what: a factor is lost
  source: here
  codes: [GG401]
  file: net.py
  find: y * 2
  replace: y
"""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace("what:", "waht:"), "LW-01: no key 'waht', only id, what"),
        (GOOD.replace("  what: a factor is lost\n", ""), "LW-01: lacks 'what'"),
        (GOOD.replace("LW-01", "XX-01"), "id must be a class and a number such as LW-01; classes: LW, MB"),
        (GOOD.replace("GG401", "GG999"), "LW-01: no rule 'GG999'"),
        (GOOD.replace("codes: [GG401]", "codes: []"), "codes is []; expected a list of at least one code"),
        (GOOD.replace("LW-01", "OK-01"), "codes is ['GG401']; expected no codes"),
        (GOOD.replace("find: y * 2", "find: 2"), "find must be text, got 2"),
        (GOOD + "  also: {file: net.py}\n", "also must be a list of edits, got a dict"),
        (GOOD + "  also: [{file: net.py}]\n", "LW-01, also: lacks 'find'"),
        (GOOD + "  also: [net.py]\n", "also: expected a mapping, got a str"),
        (GOOD + GOOD, "the id LW-01 is taken"),
        ("a: 1", "expected a list of faults, got a dict"),
        (GOOD + "  subject: 1\n", "subject must be text, got 1"),
        ("- 1", "entry 1: expected a mapping, got a int"),
        ("- {", "cannot be read"),
    ],
)
def test_catalogue_names_file_entry_and_key_when_an_entry_is_wrong(tmp_path: Path, text: str, words: str):
    """One clear error for each mistake."""
    (tmp_path / "lw.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(GradgateError) as caught:
        catalogue.read(tmp_path)
    assert words in str(caught.value)
    assert "lw.yaml" in str(caught.value)


def test_catalogue_refuses_a_folder_without_faults(tmp_path: Path):
    """An empty catalogue would be a score of nothing out of nothing."""
    with pytest.raises(GradgateError, match=r"holds no \*\.yaml with faults"):
        catalogue.read(tmp_path)
    with pytest.raises(GradgateError, match="no such folder of faults"):
        catalogue.read(tmp_path / "no")


def test_catalogue_selects_by_class_and_id(tmp_path: Path):
    """Classes and ids, each fault once; what fits nothing names the nearest."""
    (tmp_path / "lw.yaml").write_text(GOOD + GOOD.replace("LW-01", "LW-02"), encoding="utf-8")
    faults = catalogue.read(tmp_path)
    assert [fault.id for fault in catalogue.select(faults, [])] == ["LW-01", "LW-02"]
    assert [fault.id for fault in catalogue.select(faults, ["lw-02", "LW"])] == ["LW-02", "LW-01"]
    with pytest.raises(GradgateError, match="no fault 'LW-03'; did you mean"):
        catalogue.select(faults, ["LW-03"])


def test_catalogue_plants_into_text_alone(tmp_path: Path):
    """Planting reads the source and never writes it; a stale entry is named."""
    (tmp_path / "lw.yaml").write_text(GOOD, encoding="utf-8")
    (tmp_path / "net.py").write_text(SOURCE, encoding="utf-8")
    (fault,) = catalogue.read(tmp_path)
    planted = catalogue.plant(fault, tmp_path)
    assert planted.files["net.py"].count("return y\n") == 1
    assert planted.lines == (("net.py", 3, 3),)
    assert (tmp_path / "net.py").read_text(encoding="utf-8") == SOURCE
    (tmp_path / "net.py").write_text("z = 1\n", encoding="utf-8")
    with pytest.raises(EditError, match=r"lw\.yaml LW-01: net\.py: 'y \* 2' matches nothing"):
        catalogue.plant(fault, tmp_path)
    (tmp_path / "net.py").unlink()
    with pytest.raises(EditError, match=r"LW-01: net\.py: No such file"):
        catalogue.plant(fault, tmp_path)


def test_every_fault_of_the_house_fits_the_trainer(pytestconfig: pytest.Config):
    """A change of the trainer that outdates a planted fault is noticed at once."""
    root = pytestconfig.rootpath
    faults = catalogue.read(root / "fixtures" / "faults")
    assert sum(not fault.clean and not fault.subject for fault in faults) >= 150
    assert sum(fault.clean for fault in faults) >= 32
    for fault in faults:
        assert catalogue.plant(fault, root).files

"""Every kind of fault: the bad program is named, line by line, and its right twin stays quiet."""

from __future__ import annotations

import warnings

import pytest

from fixtures.watch_programs import PROGRAMS, Program, watched

PROGRAM = pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)


@pytest.fixture(autouse=True)
def torch_warns_once():
    """PyTorch warns about some of the faults itself, the reentrant checkpoint among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@PROGRAM
def test_watch_names_kind_and_code_first(program: Program):
    """The worst finding is the fault."""
    findings, _ = watched(program.bad)
    assert [(finding.kind, finding.code) for finding in findings[:1]] == [(program.kind, program.code)]


@PROGRAM
def test_watch_names_the_culprit_and_the_victim(program: Program):
    """Both are lines of the program itself."""
    findings, _ = watched(program.bad)
    for word, place in (("CULPRIT", findings[0].culprit), ("VICTIM", findings[0].victim)):
        marked = program.lines(word) | program.lines("CULPRIT VICTIM")
        if marked:
            assert place is not None and place.line in marked


@PROGRAM
def test_watch_is_quiet_on_the_right_twin(program: Program):
    """No finding but notes, and no error."""
    assert watched(program.good) == ([], None)


@PROGRAM
def test_watch_raises_what_plain_torch_raises(program: Program):
    """The same error with the finding as a note; nothing where PyTorch is silent."""
    plain = None
    try:
        program.bad()
    except RuntimeError as error:
        plain = str(error)
    findings, raised = watched(program.bad)
    assert (plain is not None, None if raised is None else str(raised)) == (program.raises, plain)
    if raised is not None:
        assert raised.__notes__ == ["\n".join(findings[0].lines())]

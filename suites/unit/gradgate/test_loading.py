"""A TARGET is found and built, or one line says what is wrong with it and what would be near."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from gradgate.core.errors import GradgateError, TargetError
from gradgate.core.origin import is_trainers_code
from gradgate.subjects import loading
from gradgate.subjects.loading import load_target

ADAPTER = """
from gradgate.subjects.contract import Stage, Subject

def subject():
    return Subject({name!r}, [])

def wants(argument):
    return subject()

def breaks():
    raise ValueError("no data")

def leaves():
    raise SystemExit(3)

def other():
    return "a string"

constant = 3

class Holder:
    subject = staticmethod(subject)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the package `somebody` on the import path, and no registered subjects."""
    package = tmp_path / "somebody"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "adapter.py").write_text(ADAPTER.format(name="somebody's"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loading, "entry_points", lambda group: [])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "somebody"]:
        del sys.modules[name]


def register(monkeypatch: pytest.MonkeyPatch, **targets: str) -> None:
    points = [EntryPoint(name, value, loading.GROUP) for name, value in targets.items()]
    monkeypatch.setattr(loading, "entry_points", lambda group: points)


def error(*arguments) -> str:
    with pytest.raises(GradgateError) as caught:
        load_target(*arguments)
    return str(caught.value)


@pytest.mark.parametrize("target", ["somebody.adapter:subject", "somebody.adapter:Holder.subject"])
def test_target_is_imported_and_built(project: Path, target: str):
    """The factory may lie inside a class."""
    assert load_target(target).name == "somebody's"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("somebody.adaptor:subject", "no module 'somebody.adaptor'; did you mean 'adapter'?"),
        ("some_body.adapter:subject", "no module 'some_body'; did you mean 'somebody'?"),
        ("somebody.adapter:subjects", "somebody.adapter has no 'subjects'; did you mean 'subject'?"),
        ("somebody.adapter:Holder.sub", "somebody.adapter has no 'Holder.sub'; did you mean 'subject'?"),
        ("somebody.adapter:constant", "expected a function that returns a gradgate.Subject, got a int"),
        ("somebody.adapter:wants", "must be callable without arguments: missing a required argument: 'argument'"),
        ("somebody.adapter:leaves", "building the subject raised SystemExit: 3"),
        ("somebody.adapter:other", "returned a str, expected a gradgate.Subject"),
    ],
)
def test_target_error_names_what_is_wrong_and_what_is_near(project: Path, target: str, message: str):
    """Every mistake in TARGET has its own line."""
    assert error(target).startswith(f"TARGET {target}: {message}")


def test_target_error_gives_the_line_when_the_factory_raises(project: Path):
    """The user's own error comes through with its file and line."""
    place = f"{project / 'somebody' / 'adapter.py'}:11 in breaks()"
    assert error("somebody.adapter:breaks").endswith(f"building the subject raised ValueError: no data ({place})")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name' ({file}:1)"),
        ("x = 1\nraise OSError('gone\\nfor ever')", "OSError: gone ({file}:2)"),
        ("def f(:\n  pass", "SyntaxError: invalid syntax ({file}:1)"),
        ("raise SystemExit('bye')", "SystemExit: bye ({file}:1)"),
    ],
)
def test_target_error_gives_the_line_when_the_import_raises(project: Path, text: str, said: str):
    """An error inside the user's module is told from a module that is not there."""
    file = project / "somebody" / "broken.py"
    file.write_text(text)
    expected = f"TARGET somebody.broken:f: importing somebody.broken raised {said.format(file=file)}"
    assert error("somebody.broken:f") == expected


@pytest.mark.parametrize("target", ["some-body:subject", "somebody:", ":subject", "a.b:c:d"])
def test_target_error_shows_the_form_when_it_is_malformed(project: Path, target: str):
    """A TARGET that cannot be a name is not imported."""
    assert error(target) == f"TARGET {target!r} is not of the form package.module:factory"


def test_target_may_be_the_name_of_a_registered_subject(project: Path, monkeypatch: pytest.MonkeyPatch):
    """An entry point's name is enough."""
    register(monkeypatch, mine="somebody.adapter:subject", other="somebody.adapter:breaks")
    assert load_target("mine").name == "somebody's"


def test_target_error_lists_the_registered_when_a_name_is_unknown(project: Path, monkeypatch: pytest.MonkeyPatch):
    """What is registered is said, and what is near."""
    register(monkeypatch, mine="somebody.adapter:subject")
    expected = "TARGET 'mime' is neither package.module:factory nor a registered subject (registered: mine); "
    assert error("mime") == expected + "did you mean 'mine'?"


def test_target_is_the_one_registered_when_none_is_given(project: Path, monkeypatch: pytest.MonkeyPatch):
    """With one subject installed there is nothing to choose."""
    register(monkeypatch, mine="somebody.adapter:subject")
    assert load_target().name == "somebody's"


def test_target_error_lists_them_when_several_are_registered(project: Path, monkeypatch: pytest.MonkeyPatch):
    """With several, the user chooses."""
    register(monkeypatch, mine="somebody.adapter:subject", a="b:c")
    assert error() == "several subjects are registered, name one of them: a, mine"


def test_target_error_says_how_to_name_one_when_there_is_none(project: Path):
    """Nothing given, configured or registered."""
    assert error().startswith("no TARGET: give package.module:factory, set `target` under [tool.gradgate]")


def test_target_of_the_project_wins_over_the_registered(project: Path, monkeypatch: pytest.MonkeyPatch):
    """pyproject.toml of the current folder, or of a folder above, decides first."""
    register(monkeypatch, mine="nothing:there")
    (project / "pyproject.toml").write_text('[tool.gradgate]\ntarget = "somebody.adapter:subject"\n')
    below = project / "below"
    below.mkdir()
    monkeypatch.chdir(below)
    assert load_target().name == "somebody's"


def test_path_goes_first_and_its_project_decides(project: Path):
    """A checkout is driven where it lies, in place of what is installed under the same name."""
    checkout = project / "checkout"
    (checkout / "somebody").mkdir(parents=True)
    (checkout / "somebody" / "__init__.py").write_text(ADAPTER.format(name="the checkout's"))
    (checkout / "pyproject.toml").write_text('[tool.gradgate]\ntarget = "somebody:subject"\n')
    assert load_target(None, checkout).name == "the checkout's"
    assert sys.path[0] == str(checkout)


def test_path_error_when_its_package_is_already_imported_from_elsewhere(project: Path):
    """A second copy of an imported package would silently be the first one."""
    load_target("somebody.adapter:subject")
    checkout = project / "checkout"
    (checkout / "somebody").mkdir(parents=True)
    (checkout / "somebody" / "__init__.py").write_text("")
    imported = project / "somebody" / "__init__.py"
    expected = f"--path {checkout}: its package 'somebody' is already imported from {imported}; start a new process"
    assert error("somebody.adapter:subject", checkout) == expected


def test_path_error_when_there_is_no_such_folder(project: Path):
    """A misspelt folder is not silently left out."""
    assert error("somebody.adapter:subject", project / "nowhere") == f"--path {project / 'nowhere'}: no such folder"


def test_target_error_proposes_path_when_the_module_lies_here(project: Path, monkeypatch: pytest.MonkeyPatch):
    """The current folder is not on the import path of a command; the message says how to put it there."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(project)])
    expected = "TARGET somebody.adapter:subject: no module 'somebody'; it lies in the current folder: add --path ."
    assert error("somebody.adapter:subject") == expected


def test_import_effects_are_recorded_and_undone(project: Path):
    """What a module changes in the process on import is known to the subject, and changed back."""
    (project / "somebody" / "loud.py").write_text(
        "import torch\ntorch.set_default_dtype(torch.float64)\ntorch.manual_seed(1)\n" + ADAPTER.format(name="loud")
    )
    before = torch.get_rng_state()
    assert load_target("somebody.loud:subject").import_effects == ("default dtype: torch.float32 -> torch.float64",)
    assert torch.get_default_dtype() == torch.float32
    assert torch.equal(torch.get_rng_state(), before)


def test_target_error_is_an_error_of_use():
    """The command line turns it into exit code 2."""
    assert issubclass(TargetError, GradgateError)


@pytest.mark.parametrize("is_known", [True, False])
@pytest.mark.parametrize(
    ("text", "is_alone"),
    [
        ("from somebody import trainer", False),
        ("", True),
        ("from somebody import trainer\ndef step(loss): loss.backward()", True),
    ],
)
def test_no_line_of_an_adapter_beside_the_trainer_is_the_trainers(
    project: Path, text: str, is_alone: bool, is_known: bool
) -> None:
    """With the trainer's folder named or not. An adapter that imports nothing from it, or trains, is the trainer."""
    folder = project / "somebody"
    sourced = ADAPTER.format(name="beside").replace("[])", "[], source=SOURCE)", 1)
    (folder / "beside.py").write_text(f"{text}\nSOURCE = {str(folder) if is_known else None!r}{sourced}")
    (folder / "trainer.py").write_text("")
    load_target("somebody.beside:subject")

    assert is_trainers_code(str(folder / "trainer.py"), folder)
    assert is_trainers_code(str(folder / "beside.py"), folder if is_known else None) is is_alone

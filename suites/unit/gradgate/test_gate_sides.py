"""Two revisions in one process: each import finds its own side, and the process is as before afterwards."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from gradgate.gates.sides import Side, Sides, clashes, import_fresh

PACKAGE = {
    "pack/__init__.py": "from pack.core import NAME\n",
    "pack/core.py": "NAME = '{side}'\n",
    "pack/late.py": "NAME = '{side} late'\n",
    "pack/uses.py": (
        "import importlib, pickle\n"
        "from . import core\n"
        "class Thing:\n    name = '{side}'\n"
        "def lazy():\n    import pack.late\n    return pack.late.NAME\n"
        "def relative():\n    from .late import NAME\n    return NAME\n"
        "def by_importlib():\n    return importlib.import_module('pack.late').NAME\n"
        "def pickled():\n    return pickle.loads(pickle.dumps(Thing())).__class__ is Thing\n"
    ),
}


def write(root: Path, files: dict[str, str]) -> Path:
    """A checkout with these files; `{side}` stands for its name."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.replace("{side}", root.name))
    return root


def two_sides(folder: Path, files: dict[str, str]) -> tuple[Side, Side]:
    base, head = (write(folder / name, files) for name in ("base", "head"))
    return Side("base", base, [base]), Side("head", head, [head])


def load(sides: Sides, side: Side, module: str) -> ModuleType:
    with sides.turn(side):
        return import_fresh(module)


@pytest.mark.parametrize("way", ["lazy", "relative", "by_importlib"])
def test_imports_inside_a_step_find_their_own_side(tmp_path: Path, way: str):
    """Lazy, relative and importlib imports, taken in turns long after both sides were loaded."""
    base, head = two_sides(tmp_path, PACKAGE)
    with Sides([base, head]) as sides:
        modules = {side: load(sides, side, "pack.uses") for side in (base, head)}
        found = []
        for side in (base, head, head, base):
            with sides.turn(side):
                found.append(getattr(modules[side], way)())
    assert found == ["base late", "head late", "head late", "base late"]


def test_pickle_finds_the_class_of_its_own_side(tmp_path: Path):
    """Pickle looks classes up by name in the module table."""
    base, head = two_sides(tmp_path, PACKAGE)
    with Sides([base, head]) as sides:
        modules = {side: load(sides, side, "pack.uses") for side in (base, head)}
        for side in (base, head):
            with sides.turn(side):
                assert modules[side].pickled()


def test_third_party_modules_are_shared(tmp_path: Path):
    """Only the checkouts' own packages exist twice."""
    base, head = two_sides(tmp_path, {"mine.py": "import colorsys, torch\n"})
    with Sides([base, head]) as sides:
        one, other = (load(sides, side, "mine") for side in (base, head))
    assert one is not other
    assert one.colorsys is other.colorsys
    assert one.torch is other.torch


def test_the_process_is_as_before_afterwards(tmp_path: Path):
    """Path, folder, module table and import hooks."""
    base, head = two_sides(tmp_path, PACKAGE)
    before = (list(sys.path), Path.cwd(), list(sys.meta_path))
    with Sides([base, head]) as sides:
        load(sides, base, "pack")
        with sides.turn(head):
            assert (Path.cwd(), sys.path[0]) == (head.root, str(head.root))
    assert (list(sys.path), Path.cwd(), list(sys.meta_path)) == before
    assert not [name for name in sys.modules if name.split(".")[0] == "pack"]


def test_a_module_imported_before_is_not_a_sides_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What started the process may have imported head's package; base must not get it."""
    base, head = two_sides(tmp_path, PACKAGE)
    monkeypatch.syspath_prepend(str(head.root))
    import_fresh("pack")
    try:
        with Sides([base, head]) as sides:
            assert [load(sides, side, "pack").NAME for side in (base, head)] == ["base", "head"]
        assert sys.modules["pack"].NAME == "head"
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "pack"]:
            del sys.modules[name]


def test_a_side_does_not_get_the_other_sides_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A package that is new on head is missing on base, even where head is what is installed."""
    base, head = two_sides(tmp_path, PACKAGE)
    write(head.root, {"extra.py": ""})
    monkeypatch.syspath_prepend(str(head.root))
    with Sides([base, head]) as sides:
        load(sides, head, "extra")
        with pytest.raises(ModuleNotFoundError, match="extra"):
            load(sides, base, "extra")


def test_a_hook_that_serves_the_other_side_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Editable installs come through import hooks: what they find in the other checkout is named, not used."""
    from importlib.machinery import PathFinder

    base, head = two_sides(tmp_path, {"mine.py": ""})
    write(head.root, {"elsewhere/extra.py": ""})

    class Editable:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return PathFinder.find_spec(name, [str(head.root / "elsewhere")]) if name == "extra" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Editable])
    with Sides([base, head]) as sides, pytest.raises(ModuleNotFoundError, match="the installed one is head's"):
        load(sides, base, "extra")


def test_a_side_inside_the_other_owns_its_files(tmp_path: Path):
    """`--base ./old --head .`: the deepest checkout owns a file."""
    head = write(tmp_path / "head", PACKAGE)
    base = write(head / "old", PACKAGE)
    outer, inner = Side("head", head, [head]), Side("base", base, [base])
    with Sides([outer, inner]) as sides:
        assert sides.owner(str(base / "pack" / "core.py")) is inner
        assert [load(sides, side, "pack").NAME for side in (inner, outer)] == ["old", "head"]


def test_a_checkout_can_be_compared_with_itself(tmp_path: Path):
    """Both sides then load their own copies of the same files."""
    root = write(tmp_path / "same", PACKAGE)
    base, head = Side("base", root, [root]), Side("head", root, [root])
    with Sides([base, head]) as sides:
        one, other = (load(sides, side, "pack.core") for side in (base, head))
    assert one is not other
    assert (one.NAME, other.NAME) == ("same", "same")


OPERATOR = """
import torch
@torch.library.custom_op("gatetest::twice", mutates_args=())
def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2
"""


def test_an_operator_that_both_sides_register_is_a_clash(tmp_path: Path):
    """Torch has one table of operators: base would silently run head's kernel."""
    base, head = two_sides(tmp_path, {"ops.py": OPERATOR})
    with Sides([base, head]) as sides:
        load(sides, base, "ops")
        assert clashes(base, head) == []
        load(sides, head, "ops")
    assert "gatetest::twice" in clashes(base, head)


def test_relative_leaves_out_what_is_installed_or_elsewhere(tmp_path: Path):
    """Lines are named relative to the checkout; torch's are nobody's."""
    side, _ = two_sides(tmp_path, PACKAGE)
    assert side.relative(str(side.root / "pack" / "core.py")) == str(Path("pack") / "core.py")
    assert side.relative(str(side.root / "venv" / "site-packages" / "x.py")) is None
    assert side.relative(__file__) is None

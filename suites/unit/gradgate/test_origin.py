"""An error's origin is the innermost line of the user's own code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gradgate.core.origin import in_one_line, is_own_code, origin


def raised(function) -> BaseException:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def test_origin_is_the_users_line_when_a_library_raises():
    """Frames of torch below it are not the user's."""
    place = origin(raised(lambda: torch.nn.Linear(2, 2)(torch.zeros(3))))
    assert Path(place.file).name == "test_origin.py"
    assert "Linear" in place.source


def test_origin_is_nothing_without_a_users_frame():
    """An error that never went through the user's code has no place."""
    assert origin(ValueError("never raised")) is None
    assert in_one_line(ValueError()) == "ValueError"


def test_origin_is_the_faulty_line_of_a_syntax_error():
    """A module that does not parse has no frame of its own."""
    assert str(origin(raised(lambda: compile("x =", "mine.py", "exec")))) == "mine.py:1"


def test_own_code_excludes_the_library_unless_it_is_the_source(tmp_path: Path):
    """A subject that is installed is the user's own where its folder is named."""
    package = Path(torch.__file__).parent
    assert not is_own_code(torch.__file__)
    assert is_own_code(torch.__file__, source=package)
    assert not is_own_code(str(tmp_path / "site-packages" / "x.py"), source=tmp_path)
    assert is_own_code(str(tmp_path / "x.py"))
    assert not is_own_code("<frozen importlib._bootstrap>")

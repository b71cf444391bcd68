"""Nothing that a user types for help, or that pytest loads unasked, imports torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gradgate

PROBE = "import sys; {code}; sys.exit('torch' in sys.modules)"
HELP = "import click.testing, gradgate.cli; click.testing.CliRunner().invoke(gradgate.cli.cli, {words!r})"
PYTEST = "import pytest; pytest.main(['--help', '-p', 'no:cacheprovider'])"


@pytest.mark.parametrize(
    "code",
    [
        "import gradgate; gradgate.Subject, gradgate.Finding, gradgate.parametrize",
        "import gradgate.plugin",
        HELP.format(words=["--help"]),
        HELP.format(words=["verify", "--help"]),
        HELP.format(words=["rule", "GG401"]),
        HELP.format(words=["rule", "--list"]),
        PYTEST,
    ],
    ids=["import", "plugin", "help", "verify-help", "rule", "list", "pytest-help"],
)
def test_torch_is_not_imported(code: str):
    """Torch costs seconds: only what drives a trainer pays them."""
    done = subprocess.run([sys.executable, "-c", PROBE.format(code=code)], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_command_does_not_import_the_others():
    """All together take longer than the command's own start."""
    code = HELP.format(words=["compare", "--help"]) + "; sys.exit('gradgate.commands.scan' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", "import sys; " + code], check=False).returncode == 0


@pytest.mark.parametrize("name", gradgate.__all__)
def test_every_exported_name_is_there(name: str):
    """What `__all__` promises can be had."""
    assert getattr(gradgate, name) is not None
    assert name in dir(gradgate)


def test_an_unknown_name_is_an_attribute_error():
    """A lazy package fails like any other."""
    with pytest.raises(AttributeError, match="module 'gradgate' has no attribute 'chek_trainer'"):
        gradgate.chek_trainer  # noqa: B018 - the access is the test

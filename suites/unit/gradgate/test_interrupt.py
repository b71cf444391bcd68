"""Ctrl-C at any moment of a command: one line and exit code 130, whatever was being imported."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from gradgate.core import interrupt

PROBE = """
import builtins, os, signal
real = builtins.__import__
def importing(name, *arguments, **options):
    if name == {module!r}:
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *arguments, **options)
builtins.__import__ = importing
import sys
sys.argv = ["gradgate", "verify", "fixtures.plain_loop:capable", "--select", "GG206"]
from gradgate.entrance import main
main()
"""


@pytest.mark.parametrize("module", ["gradgate.cli", "click", "torch", "numpy", "torch._C"])
def test_ctrl_c_while_something_is_imported_is_one_line_and_130(module):
    """No traceback, no "bug in gradgate", also where torch turns the interrupt into an error of its own."""
    command = [sys.executable, "-c", PROBE.format(module=module)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_ctrl_c_is_python_s_again_once_checks_run(monkeypatch):
    """What is known is printed then, so the interrupt must come as an exception; a handler of somebody's own stays."""
    handlers = [signal.default_int_handler]
    monkeypatch.setattr(signal, "getsignal", lambda _: handlers[-1])
    monkeypatch.setattr(signal, "signal", lambda _, handler: handlers.append(handler))
    interrupt.ends_at_once()
    assert handlers[-1] is interrupt._end
    interrupt.is_raised()
    assert handlers[-1] is signal.default_int_handler
    handlers[:] = [print]
    interrupt.ends_at_once()
    interrupt.is_raised()
    assert handlers == [print]

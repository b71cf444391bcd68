"""Ctrl-C at any moment of a command: one line and exit code 130, whatever was being imported."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from fixtures.pytest_fixtures import rest_at_night
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_termination_and_ctrl_c_unwind(number: signal.Signals):
    """So that processes and temporary checkouts are gone afterwards, also from where Ctrl-C used to end at once."""
    interrupt.ends_at_once()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupt.unwinding():
        os.kill(os.getpid(), number)
    assert signal.getsignal(signal.SIGTERM) == before


def test_what_is_ignored_stays_ignored_and_a_fork_ends_as_usual():
    """As under nohup; and a process that is started within has nothing to tell."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt.unwinding():
            os.kill(os.getpid(), signal.SIGHUP)
            context = multiprocessing.get_context("fork")
            ours, theirs = context.Pipe()
            child = context.Process(target=lambda: (theirs.send("runs"), time.sleep(60)))
            child.start()
            ours.recv()
            child.terminate()
            child.join()
        assert child.exitcode == -signal.SIGTERM
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("jobs", rest_at_night([2, 0], day=1))
def test_a_termination_of_verify_writes_what_is_known(tmp_path, jobs):
    """The JSON of the checks that ended, and 130: `timeout 600 gradgate verify` loses nothing."""
    written = tmp_path / "v.json"
    words = ["verify", "fixtures.plain_loop:capable", "--select", "GG20,GG4", "-j", f"{jobs}", "--json", f"{written}"]
    command = [sys.executable, "-c", "from gradgate.entrance import main; main()", *words]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in started.stderr:
        if line.startswith("[4/"):
            started.terminate()
            break
    started.communicate()
    tree = json.loads(written.read_text())
    assert (started.returncode, tree["interrupted"]) == (130, True)
    assert 1 <= len(tree["results"]) < 8

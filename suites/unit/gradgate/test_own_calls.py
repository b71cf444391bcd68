"""Own calls: which of a trainer's functions a call goes to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from gradgate.checks.own_calls import OwnCalls
from gradgate.checks.trainer_source import File

SOURCE = """
def load(path):
    return path

class Base:
    def restore(self):
        pass

class Loop(Base):
    def run(self, files):
        {call}
"""


@pytest.mark.parametrize(
    ("call", "function"),
    [
        ("load('x')", "load"),
        ("files.load('x')", "load"),
        ("torch.load('x')", None),
        ("json.load('x')", None),
        ("self.restore()", "restore"),
        ("self.load('x')", None),
        ("unknown()", None),
    ],
)
def test_a_call_goes_to_an_own_function_of_its_name_and_none_of_a_library(call: str, function: str | None) -> None:
    """`torch.load` is not the trainer's `load`, though there is no other."""
    text = SOURCE.format(call=call)
    own = OwnCalls((File(Path("trainer.py"), ast.parse(text), tuple(text.splitlines())),))
    (run,) = own.methods("run")
    (made,) = (node for node in ast.walk(run.function) if isinstance(node, ast.Call))
    found = own.called(made, run)

    assert (found and found.function.name) == function

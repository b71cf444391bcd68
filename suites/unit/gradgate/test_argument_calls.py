"""Rule: an argument read from the source has the name that argparse gives it."""

from __future__ import annotations

import argparse
import ast

import pytest

from gradgate.subjects.argument_calls import argument_call, is_argument_call

DECLARED = (
    "parser.add_argument('--lr')",
    "parser.add_argument('-l', '--learning-rate', '--lr', type=float)",
    "parser.add_argument('--lr', '--the-longest-of-its-names')",
    "parser.add_argument('-l', '-longer')",
    "parser.add_argument('stage', choices=('critic', 'main'))",
    "parser.add_argument('-x', '--from', dest='source')",
    "parser.add_argument('--no-decay', action='store_false')",
)
UNNAMED = ("parser.add_argument(*flags)", "parser.add_argument(f'--{key}')", "parser.add_argument('--a', dest=key)")


@pytest.mark.parametrize("call", DECLARED)
def test_the_name_is_that_of_argparse(call: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    dest = eval(call, {"parser": parser}).dest  # noqa: S307  # the lines above
    found = argument_call(ast.parse(call, mode="eval").body)
    assert found is not None
    assert found.name == dest
    assert found.is_setting


@pytest.mark.parametrize("call", UNNAMED)
def test_one_whose_name_is_not_written_down_is_none(call: str) -> None:
    node = ast.parse(call, mode="eval").body
    assert argument_call(node) is None
    assert is_argument_call(node)


def test_help_and_the_version_are_no_settings() -> None:
    found = argument_call(ast.parse("p.add_argument('--version', action='version')", mode="eval").body)
    assert found is not None
    assert not found.is_setting

"""The stored table of operations against the installed PyTorch."""

from __future__ import annotations

import json

import pytest
import torch

from gradgate.scan import table


@pytest.mark.nightly
def test_stored_table_is_what_this_torch_saves():
    """Asking the installed PyTorch again gives the stored table, to the letter."""
    stored = table.FILE.read_text(encoding="utf-8")
    version = json.loads(stored)["torch"]
    if torch.__version__.split("+")[0] != version:
        pytest.skip(f"the table is of torch {version}; regenerate it by python -m gradgate.scan.table")

    assert table.as_text(table.build()) == stored

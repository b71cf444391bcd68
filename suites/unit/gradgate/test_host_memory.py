"""The host's peak without memray; with it, see suites/memory."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gradgate.core.errors import GradgateError
from gradgate.gates.host_memory import host_peak


def test_host_peak_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """memray is an extra."""
    monkeypatch.setitem(sys.modules, "memray", None)
    with pytest.raises(GradgateError, match=r"needs memray: pip install 'gradgate\[memory\]'"):
        host_peak(lambda: None, tmp_path / "peak.bin", lambda file: True)

"""The exit codes that the documentation promises."""

from __future__ import annotations

from gradgate.core.interrupt import INTERRUPTED as INTERRUPTED

HOLDS, FAILED, USAGE, BROKEN = 0, 1, 2, 4
EXIT_CODES = {"passed": 0, "failed": 1, "inconclusive": 3, "error": BROKEN}

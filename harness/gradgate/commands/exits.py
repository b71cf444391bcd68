"""The exit codes that the documentation promises."""

from __future__ import annotations

HOLDS, FAILED, USAGE, BROKEN, INTERRUPTED = 0, 1, 2, 4, 130
EXIT_CODES = {"passed": 0, "failed": 1, "inconclusive": 3, "error": BROKEN}

"""The console script. It takes Ctrl-C in hand before it imports anything that takes time."""

from __future__ import annotations

from gradgate.core import interrupt


def main() -> None:
    """Run the command line."""
    interrupt.ends_at_once()
    from gradgate.cli import main as run

    run()

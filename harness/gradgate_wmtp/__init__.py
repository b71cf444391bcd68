"""The adapter that binds the bundled trainer to the harness: it imports both, and nothing imports it.

It is registered under the entry-point group `gradgate.subjects`, which is where `gradgate verify` without TARGET looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradgate.subjects.contract import Subject


def subject() -> Subject:
    """The bundled Critic-WMTP, both stages."""
    from gradgate_wmtp.adapter import build_subject

    return build_subject()

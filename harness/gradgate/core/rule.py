"""Rule: a catalogue entry. A rule names a fault; a check looks for it."""

from __future__ import annotations

from dataclasses import dataclass

FAMILIES = {
    "0": "the harness and its inputs",
    "1": "in-place and aliasing",
    "2": "gradient flow",
    "3": "numerics",
    "4": "weights, masks, boundaries, loss",
    "5": "values, returns, rewards",
    "6": "state: determinism, resume, distributed",
    "7": "speed",
    "8": "memory",
    "9": "convergence",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One fault that the catalogue knows.

    Args:
        code: `GGnnn`, never reused.
        name: kebab-case, names the fault.
        looks: where it is looked for: watch, scan, run, count.
        fails_when: one sentence.
    """

    code: str
    name: str
    looks: tuple[str, ...]
    fails_when: str

    @property
    def family(self) -> str:
        """The family's title, from the code's first digit."""
        return FAMILIES[self.code[2]]

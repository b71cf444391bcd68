"""Job: what a worker process is asked to do, as JSON on its standard input, and how it answers."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

ONE_PROCESS, TWO_WORKERS = "one-process", "two-workers"


@dataclass(frozen=True, slots=True)
class Checkout:
    """One side, as a worker loads it.

    Args:
        root: absolute folder.
        roots: absolute folders under it that packages are imported from.
    """

    root: str
    roots: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Job:
    """One worker's task.

    Args:
        target: `module:factory`.
        base: the base checkout.
        head: the head checkout.
        stage: the stage of a Subject; None where the factory returns a step, or the subject has one stage.
        tolerance: T of the CPU time, as a share.
        budget_s: seconds of stepping.
        count: whether to count too, not only to time.
        attempt: 0 for the first process, higher for a repeat; the order within blocks derives from it.
        lone: the side that this worker serves alone; empty for both.
        base_target: base's own `module:factory`, where it is another than head's; else empty.
    """

    target: str
    base: Checkout
    head: Checkout
    stage: str | None = None
    tolerance: float = 0.03
    budget_s: float = 30.0
    count: bool = True
    attempt: int = 0
    lone: str = ""
    base_target: str = ""

    def target_of(self, side: str) -> str:
        """The factory of a side."""
        return self.base_target if side == "base" and self.base_target else self.target

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Job:
        """From JSON."""
        tree: dict[str, Any] = json.loads(text)
        sides = {name: Checkout(tree[name]["root"], tuple(tree[name]["roots"])) for name in ("base", "head")}
        return cls(**{**tree, **sides})

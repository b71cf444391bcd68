"""Checks on batches that a run's own strategy draws: the smallest that fails becomes the finding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gradgate.checks.raised import calling
from gradgate.core.finding import Finding, Location
from gradgate.pasteable import expression, pasteable, size
from gradgate.subjects.capabilities import declared
from gradgate.subjects.contract import Batch, Context, Run

if TYPE_CHECKING:
    from gradgate.subjects.drawn import Failing

EXAMPLES = {"quick": 40, "pr": 120, "nightly": 600}
SHRINKS = 100  # batches to try while one that fails is made smaller
LINE = 400  # characters of a batch that a message shows


@dataclass(frozen=True)
class Fault:
    """What is wrong with a drawn batch.

    Args:
        message: with measured and allowed numbers.
        victim: the line that raised, where one did.
        detail: for the finding.
    """

    message: str
    victim: Location | None = None
    detail: dict[str, Any] = field(default_factory=dict)


def can_draw(run: Run) -> bool:
    """Whether a run offers losses and a strategy of batches for them, and hypothesis is there to draw."""
    return {"strategy", "losses"} <= declared(run) and find_spec("hypothesis") is not None


def smallest(
    run: Run, judge: Callable[[Batch], Fault | None], context: Context, share: float = 1.0
) -> tuple[Failing[Fault] | None, int]:
    """The smallest batch of a run's strategy that fails, and how many were judged.

    Args:
        run: one that can draw.
        judge: what is wrong with a batch; None: nothing.
        context: seed and profile.
        share: of the tries, for judges that take long.
    """
    from gradgate.subjects.drawn import smallest_failing  # imports hypothesis, which few runs need

    examples = max(1, int(share * EXAMPLES[context.profile]))
    with calling("strategy()"):
        strategy = run.strategy()
    return smallest_failing(
        strategy, judge, number=context.seed, examples=examples, most=examples + int(share * SHRINKS)
    )


def as_finding(found: Failing[Fault], code: str, name: str, stage: str, fix: str) -> Finding:
    """The finding of a failing batch: what is wrong, and the batch to be pasted."""
    fault, numbers = found.fault, size(found.batch)
    line = expression(found.batch)
    shown = f": {line}" if len(line) <= LINE else ""
    return Finding(
        code=code,
        name=name,
        message=f"{fault.message}, in stage {stage!r} on a drawn batch of {numbers} numbers, the smallest that fails "
        f"of {found.tried} tried{shown}",
        victim=fault.victim,
        fix=fix,
        detail={**fault.detail, "reproduce": pasteable(found.batch)},
    )

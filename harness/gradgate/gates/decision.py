"""The sequential rule: what a look at the blocks so far decides, and what several processes decide together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradgate.core.comparison import GateVerdict
from gradgate.gates.stats import Interval, paired_ratio

# After so many blocks one may look, and that error may be spent on each side: eight signed ranks can bear 1/256. The
# looks overlap, and a fail has to repeat; what they come to together was found by replaying recorded noise
# (docs/decisions/0010).
LOOKS: tuple[int, ...] = (8, 10, 12, 15, 18, 22, 27, 33, 40, 48, 58, 70, 85, 100)
ALPHA = 0.01
PASSED, FAILED = 0.6, 0.25  # shares of T that the upper bound must stay below, and the lower one exceed


@dataclass(frozen=True, slots=True)
class Decision:
    """What one process says of one quantity.

    Args:
        verdict: pass, fail, improved or noisy; None: look again later.
        ratio: head over base with its interval.
        blocks: how many it rests on.
    """

    verdict: GateVerdict | None
    ratio: Interval
    blocks: int


def look(ratios: Sequence[float], tolerance: float, *, last: bool = False) -> Decision:
    """Decide from the blocks so far.

    Args:
        ratios: head over base, one a block; at least as many as the first look has.
        tolerance: T. A slowdown of T has to be found, so that the estimate is held against T/2: a bound that had to
            clear T itself would find it half the time.
        last: no more blocks will come although the cap is not reached.

    Returns:
        Fail where the estimate exceeds T/2 and the lower bound T/4, pass where the upper bound stays below 0.6 T; at
        the last look the estimate decides, unless the interval is wider than 2T. Improved mirrors fail.
    """
    found = paired_ratio(ratios, ALPHA)
    estimate, low, high = found.estimate - 1, found.low - 1, found.high - 1
    verdict: GateVerdict | None = None
    if estimate > tolerance / 2 and low > FAILED * tolerance:
        verdict = "fail"
    elif estimate < -tolerance / 2 and high < -FAILED * tolerance:
        verdict = "improved"
    elif high < PASSED * tolerance and abs(estimate) <= tolerance / 2:
        verdict = "pass"
    elif last or len(ratios) >= LOOKS[-1]:
        verdict = _at_the_cap(estimate, high - low, tolerance)
    return Decision(verdict, found, len(ratios))


def _at_the_cap(estimate: float, width: float, tolerance: float) -> GateVerdict:
    if width > 2 * tolerance:
        return "noisy"
    if abs(estimate) > tolerance / 2:
        return "fail" if estimate > 0 else "improved"
    return "pass"


@dataclass(frozen=True, slots=True)
class Said:
    """What one process has to say of one quantity.

    Args:
        decision: its own.
        ratios: head over base, one a block.
        same: the A/A pair's ratios of the same blocks.
    """

    decision: Decision
    ratios: tuple[float, ...]
    same: tuple[float, ...]


def at_rest(same: Sequence[float], tolerance: float) -> bool:
    """Whether an A/A pair stays within T/2: the rule that judges head does not call it slower or faster."""
    return look(same, tolerance).verdict not in ("fail", "improved")


def together(said: Sequence[Said], tolerance: float, most: int = 3) -> Decision:
    """What fresh processes decide together; a verdict of None: ask another.

    A first process that is at rest and says pass or improved is enough. A fail has to repeat in a fresh process, since
    the layout of one process's memory can cost a percent or two; a noisy process is not thrown away but added to.

    Args:
        said: one a process, in order.
        tolerance: T.
        most: how many processes may be asked.

    Returns:
        The first process's decision, or from the second on one over the blocks of all: fail only where two processes by
        themselves estimate more than T/2; noisy where the last process leaves it open.
    """
    first = said[0]
    if first.decision.verdict in ("pass", "improved") and at_rest(first.same, tolerance):
        return first.decision
    pooled = look([ratio for one in said for ratio in one.ratios], tolerance, last=True)
    slower = sum(one.decision.ratio.estimate - 1 > tolerance / 2 for one in said)
    sure = (
        len(said) > 1
        and pooled.verdict != "noisy"
        and (pooled.verdict != "fail" or slower > 1)
        and at_rest([ratio for one in said for ratio in one.same], tolerance)
    )
    open_end: GateVerdict | None = "noisy" if len(said) >= most else None
    return pooled if sure else Decision(open_end, pooled.ratio, pooled.blocks)

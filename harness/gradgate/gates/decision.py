"""The sequential rule: what a look at the blocks so far decides, and what several processes decide together. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradgate.core.comparison import GateVerdict
from gradgate.gates.stats import Interval, paired_ratio

# After so many blocks one may look, with the error that each look may spend on each side. Six signed ranks cannot
# bear less than 1/64; the sum over the looks is 5 %.
LOOKS: tuple[int, ...] = (6, 9, 12, 16)
SPENT: tuple[float, ...] = (1 / 64, 0.011, 0.011, 0.011)


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
        ratios: head over base, one a block; as many as one of `LOOKS`.
        tolerance: T. A slowdown of T has to be found, so that the estimate is held against T/2: a bound that had to
            clear T itself would find it half the time.
        last: no more blocks will come although the cap is not reached.

    Returns:
        Fail where the estimate exceeds T/2 and the lower bound T/4, pass where the upper bound stays below T/2; at the
        last look the estimate decides, unless the interval is wider than 2T. Improved mirrors fail.
    """
    step = max(i for i, blocks in enumerate(LOOKS) if blocks <= len(ratios))
    found = paired_ratio(ratios, SPENT[step])
    estimate, low, high = found.estimate - 1, found.low - 1, found.high - 1
    verdict: GateVerdict | None = None
    if estimate > tolerance / 2 and low > tolerance / 4:
        verdict = "fail"
    elif estimate < -tolerance / 2 and high < -tolerance / 4:
        verdict = "improved"
    elif high < tolerance / 2 and estimate >= -tolerance / 2:
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


def settle(votes: Sequence[GateVerdict], most: int = 3) -> GateVerdict | None:
    """What fresh processes decide together; None: ask another.

    A pass or an improvement that comes first stands. A fail has to repeat in a fresh process, since the layout of one
    process's memory can cost a percent or two; a noisy process is asked again.

    Args:
        votes: one a process, in order.
        most: how many processes may be asked.

    Returns:
        Fail where two of them fail, another vote where it is the first or comes twice, noisy where nothing repeats.
    """
    for asked in range(1, len(votes) + 1):
        verdict = _settled(votes[:asked], most)
        if verdict is not None:
            return verdict
    return None


def _settled(votes: Sequence[GateVerdict], most: int) -> GateVerdict | None:
    clear = [vote for vote in votes if vote != "noisy"]
    twice = next((vote for vote in clear if clear.count(vote) >= 2), None)
    if twice is not None:
        return twice
    if clear and "fail" not in clear:
        return clear[0]
    return "noisy" if len(votes) >= most or votes.count("noisy") >= 2 else None

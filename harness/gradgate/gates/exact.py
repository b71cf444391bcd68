"""Counters of base against counters of head, at tolerance 0. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gradgate.core.comparison import COUNTED, GateVerdict, Metric
from gradgate.gates.counts import Counts
from gradgate.gates.lines import Line


def compare_counts(base: Counts, head: Counts, again: Counts | None = None) -> list[Metric]:
    """Judge every counter that either side has.

    Args:
        base: counted on base.
        head: counted on head.
        again: base counted once more from a fresh build; a counter that is not the same twice cannot be compared.

    Returns:
        Fail where head's is larger, improved where it is smaller, changed for another sequence of operations.
    """
    mismatch = different_inputs(base, head)
    names = [name for name in COUNTED if name in base.values or name in head.values]
    return [_judge(name, base, head, again, mismatch) for name in names]


def different_inputs(base: Counts, head: Counts) -> str:
    """How the batches of the two sides differ; empty where they do not, or the models are too different to say."""
    if [call.split("(")[0] for call in base.inputs] != [call.split("(")[0] for call in head.inputs]:
        return ""
    for one, other in zip(base.inputs, head.inputs, strict=True):
        if one != other and one.count("[") == other.count("["):
            return f"the batches differ: base feeds {one}, head {other}"
    return ""


def _judge(name: str, base: Counts, head: Counts, again: Counts | None, mismatch: str) -> Metric:
    before, after = base.values.get(name, 0), head.values.get(name, 0)
    if before == after:
        return Metric(name, "pass", base=before, head=after)
    line, reason = _first_difference(base, head) if name == "op_signature" else line_of_growth(name, base, head)
    verdict: GateVerdict = "changed"
    if again is not None and again.values.get(name, 0) != before:
        verdict, reason = "incomparable", f"base itself counts {before}, then {again.values.get(name, 0)}"
    elif mismatch:
        verdict, reason = "incomparable", mismatch
    elif name != "op_signature":
        verdict = "fail" if int(after) > int(before) else "improved"
    return Metric(name, verdict, base=before, head=after, where=str(line), source=line.source, reason=reason)


def line_of_growth(name: str, base: Counts, head: Counts) -> tuple[Line, str]:
    """The line whose share moved most in the direction of the whole."""
    sign = 1 if int(head.values.get(name, 0)) > int(base.values.get(name, 0)) else -1
    moved = _moved(base.by_line.get(name, {}), head.by_line.get(name, {}))
    line = max(moved, key=lambda line: (sign * moved[line], str(line)), default=Line())
    by, within = moved.get(line, 0), f", in {line.module}" if line.module else ""
    if not by:
        return line, ""
    if name == "leak":
        return line, f"bytes over 3 steps, made here and not freed{within}"
    return line, f"{by:+d}{' bytes' if name.endswith('_bytes') else ''} here{within}"


def _moved(base: Mapping[Line, int], head: Mapping[Line, int]) -> dict[Line, int]:
    """Head's share of each line minus base's; lines carry head's numbers where head has them."""
    lines = {**{line: line for line in base}, **{line: line for line in head}}
    shares: dict[Line, Any] = {line: head.get(line, 0) - base.get(line, 0) for line in lines.values()}
    return {line: share for line, share in shares.items() if share}


def _first_difference(base: Counts, head: Counts) -> tuple[Line, str]:
    """The first operation that differs: where it is on head, or on base where head has come to its end."""
    if not base.operations:
        return Line(), "another sequence of operations; gradgate compare names the first that differs"
    pairs = zip(base.operations, head.operations, strict=False)
    at = next((i for i, (one, other) in enumerate(pairs) if one.signature != other.signature), None)
    if at is None:
        at = min(len(base.operations), len(head.operations))
    one = base.operations[at] if at < len(base.operations) else None
    other = head.operations[at] if at < len(head.operations) else None
    line = (other or one).line  # type: ignore[union-attr]  # one of the two goes on
    texts = [operation.signature if operation else "nothing" for operation in (one, other)]
    within = f", in {line.module}" if line.module else ""
    return line, f"operation {at + 1}{within}: base runs {texts[0]}, head {texts[1]}"

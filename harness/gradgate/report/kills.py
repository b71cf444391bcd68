"""The kill matrix as text and JSON: which check noticed which planted fault."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from gradgate.faults.planting import Outcome, by_class, counts
from gradgate.report.model import plain


def line(outcome: Outcome) -> str:
    """One outcome in a line."""
    fault = outcome.fault
    head = f"{fault.id:<7} {outcome.status:<10} {outcome.seconds:5.1f} s  {fault.what}"
    if outcome.by:
        first = outcome.by[0]
        named = f", {outcome.line} line {first.place}" if first.place else ""
        repair = f"; {first.repair}" if first.repair else ""
        change = f", {first.change} among the changes {first.change_place}".rstrip() if first.change else ""
        return f"{head}: {first.code}{named}{repair}{change}"
    return f"{head}: {outcome.reason}" if outcome.reason else head


def summary(outcomes: Sequence[Outcome]) -> str:
    """Counts by class, and the score; faults of small subjects with mechanisms of their own are counted apart."""
    rows = [f"\n{'class':<6} {'faults':>6} {'killed':>7} {'family':>7} {'line':>5} {'change':>6}   rest"]
    faults = [outcome for outcome in outcomes if not outcome.fault.clean]
    clean = [outcome for outcome in outcomes if outcome.fault.clean]
    own = [outcome for outcome in faults if not outcome.fault.subject]
    rows += [f"{name:<6} {_numbers(group)}" for name, group in by_class(own)]
    rows.append(f"{'all':<6} {_numbers(own)}")
    if len(own) < len(faults):
        rows.append(f"{'small':<6} {_numbers([outcome for outcome in faults if outcome.fault.subject])}")
    if clean:
        loud = [outcome.fault.id for outcome in clean if outcome.status != "quiet"]
        rows.append(f"clean edits: {len(clean)}, with an alarm: {len(loud)}{' ' + ', '.join(loud) if loud else ''}")
    left = [outcome for outcome in faults if outcome.status not in ("killed", "equivalent")]
    rows += [line(outcome) for outcome in left]
    return "\n".join(rows) + "\n"


def dumps(outcomes: Sequence[Outcome]) -> str:
    """The text of the JSON file."""
    tree = {"schema_version": 1, "counts": counts(outcomes), "outcomes": [_plain(outcome) for outcome in outcomes]}
    return json.dumps(tree, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _plain(outcome: Outcome) -> Any:
    fault = outcome.fault
    tree: dict[str, Any] = {"id": fault.id, "what": fault.what, "source": fault.source, "codes": list(fault.codes)}
    tree["subject"] = fault.subject
    for name in ("status", "by", "right_family", "line", "change", "seconds", "reason"):
        tree[name] = plain(getattr(outcome, name))
    return tree


def _numbers(group: Sequence[Outcome]) -> str:
    counted = [outcome for outcome in group if outcome.status != "equivalent"]
    killed = [outcome for outcome in counted if outcome.status == "killed"]
    right = sum(outcome.right_family for outcome in killed)
    named, changed = (
        sum(at in ("exact", "near") for at in lines) for lines in ([o.line for o in killed], [o.change for o in killed])
    )
    rest = ", ".join(f"{count} {status}" for status, count in counts(group).items() if status != "killed")
    return f"{len(counted):>6} {len(killed):>7} {right:>7} {named:>5} {changed:>6}   {rest}".rstrip()

"""A saved tensor that is not what was saved: who wrote it, and what to call that."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gradgate.core.finding import Finding, Kind
from gradgate.watch import sources
from gradgate.watch.catalogue import described, make
from gradgate.watch.fingerprints import fingerprint
from gradgate.watch.gradients import _grad_of
from gradgate.watch.ops import Facts
from gradgate.watch.places import Place
from gradgate.watch.saved import Saved, Write

_STEPS = frozenset({"add_", "sub_", "addcdiv_", "addcmul_", "copy_", "_foreach_add_", "_foreach_sub_", "lerp_"})


def is_manual_step(targets: Iterable[Tensor], facts: Facts) -> bool:
    """Whether a write to parameters looks like an update written by hand."""
    if facts.name not in _STEPS:
        return False
    return any(target.is_leaf and target.requires_grad and _grad_of(target) is not None for target in targets)


def recheck(saved: Saved, place: Place, *, by_backward: bool) -> None:
    """Compare a saved tensor with what it was one line ago."""
    now = fingerprint(saved.tensor)
    if now != saved.seen:
        saved.seen = now
        saved.writes = [write for write in saved.writes if write.op]
        saved.writes.append(Write(place, "", saved.tensor._version, by_backward=by_backward))


def explain(saved: Saved, victim: Place | None) -> Finding:
    """The finding for a saved tensor that backward has just used, damaged."""
    silent = saved.tensor._version == saved.version
    write = (saved.silent_write() if silent else saved.loud_write()) or Write(None, "", saved.version)
    kind = _kind(write, silent)
    by = f" by {write.op}()" if write.op else " with no torch operation" if silent else " by an unseen operation"
    versions = f"version {saved.version} -> {saved.tensor._version}"
    if silent:
        versions = f"its version stayed {saved.version}"
    name = sources.written_name(write.place) if write.place else ""
    what = f"`{name}`" if name else "a parameter" if kind == "optimizer_step_between" else "a tensor"
    by = "" if kind == "inplace_saved" and name else by
    saver = _saver()
    more: dict[str, Any] = {"fix": fix} if (fix := _fix(kind, write.op, name, saver)) else {}
    return make(
        kind,
        f"{what} was overwritten{by} after {saver or 'the graph'} saved it for backward ({versions})",
        culprit=write.place,
        victim=victim,
        op=write.op or None,
        tensor=described(saved.tensor),
        confirmed=True,
        detail={"version saved": saved.version, "version found": saved.tensor._version},
        **more,
    )


def _saver() -> str:
    """The operation whose backward asks for the tensor: `softmax()`."""
    node: Any = torch._C._current_autograd_node()
    if node is None:
        return ""
    name = node.name().split("::")[-1].rstrip("0123456789").removesuffix("Backward")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower() + "()"


def _fix(kind: Kind, op: str, name: str, saver: str) -> str:
    """What to write instead, where the operations say more than the kind."""
    if kind == "inplace_saved" and saver in ("softmax()", "log_softmax()"):
        given = f"`{name}`" if name else "its result"
        call = saver[:-2]
        return f"mask before the {call}: {call}(scores.masked_fill(~valid, -inf)), and leave {given} as it is"
    if kind == "inplace_saved" and name and op.endswith("_") and not op.startswith("_"):
        return f"write to a new tensor: `{op.rstrip('_')}` without underscore, or clone `{name}` before the write"
    if kind == "silent_data_write" and name:
        return f"write to a new tensor instead of `{name}`'s memory, or do it after backward; never through `.data`"
    return ""


def _kind(write: Write, silent: bool) -> Kind:
    if write.by_backward:
        return "custom_function"
    if write.by_optimizer:
        return "optimizer_step_between"
    if not silent:
        return "inplace_saved"
    return "silent_data_write" if write.op else "silent_alias_write"

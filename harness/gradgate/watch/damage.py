"""A saved tensor that is not what was saved: who wrote it, and what to call that."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from gradgate.core.finding import Finding, Kind
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
    by = f"by {write.op}()" if write.op else "with no torch operation" if silent else "by an unseen operation"
    versions = f"version {saved.version} -> {saved.tensor._version}"
    if silent:
        versions = f"its version stayed {saved.version}"
    name = {"optimizer_step_between": "a parameter"}.get(kind, "a tensor")
    return make(
        kind,
        f"{name} was overwritten {by} after the graph saved it for backward ({versions})",
        culprit=write.place,
        victim=victim,
        op=write.op or None,
        tensor=described(saved.tensor),
        confirmed=True,
        detail={"version saved": saved.version, "version found": saved.tensor._version},
    )


def _kind(write: Write, silent: bool) -> Kind:
    if write.by_backward:
        return "custom_function"
    if write.by_optimizer:
        return "optimizer_step_between"
    if not silent:
        return "inplace_saved"
    return "silent_data_write" if write.op else "silent_alias_write"

"""Machine: what stored numbers depend on. Times and counters depend on different things."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

EXACT = ("torch", "isa", "threads")  # what counters depend on; times depend on everything


@dataclass(frozen=True, slots=True)
class Machine:
    """A class of machine: two machines are of one class where every fact is the same. Clock speed is none of them.

    Args:
        facts: name -> value, as text.
    """

    facts: Mapping[str, str]

    @property
    def name(self) -> str:
        """A file's name for the class: readable, and no other class has it."""
        text = "\n".join(f"{key}={self.facts[key]}" for key in sorted(self.facts))
        model = re.sub(r"[^a-z0-9]+", "-", self.facts.get("cpu", "").lower()).strip("-")[:32]
        return f"{model or 'unknown'}-{self.facts.get('cores', '0')}c-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def differences(self, other: Machine, keys: tuple[str, ...] = ()) -> list[str]:
        """`kernel: 6.1 there, 6.8 here`, one a fact that is not the same; `other` is here."""
        names = keys or tuple(dict.fromkeys([*self.facts, *other.facts]))
        pairs = [(name, self.facts.get(name, "unknown"), other.facts.get(name, "unknown")) for name in names]
        return [f"{name}: {there} there, {here} here" for name, there, here in pairs if there != here]


def this_machine() -> Machine:
    """The class of this machine, for this process with its present number of threads."""
    import torch

    model, flags = _processor(_read("/proc/cpuinfo"))
    return Machine(
        {
            "cpu": model or platform.processor() or platform.machine(),
            "flags": _short(flags),
            "cores": str(os.cpu_count() or 0),
            "affinity": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0),
            "quota": _read("/sys/fs/cgroup/cpu.max").strip() or "none",
            "kernel": f"{platform.system()} {platform.release()}",
            "python": ".".join(map(str, sys.version_info[:3])),
            "torch": torch.__version__,
            "build": _short(torch.__config__.show()),
            "isa": torch.backends.cpu.get_cpu_capability(),
            "threads": str(torch.get_num_threads()),
        }
    )


def _processor(text: str) -> tuple[str, str]:
    """Model and flags from /proc/cpuinfo; empty where it does not say."""
    rows: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        rows.setdefault(name.strip(), value.strip())  # the first processor speaks for all
    return rows.get("model name", ""), rows.get("flags") or rows.get("Features", "")


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

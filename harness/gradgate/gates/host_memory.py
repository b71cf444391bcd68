"""Host memory through memray: what torch takes for tensors, exactly, and a flame graph of it.

torch takes a CPU tensor's memory by posix_memalign, and Python takes none that way: filtered on it, a peak is the same
to the byte from run to run, where the whole peak also holds the interpreter's heap. memray tells the allocators apart
only with native traces; without, every byte is labelled malloc.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gradgate.core.errors import GradgateError

INSTALL = "pip install 'gradgate[memory]'"


@dataclass(frozen=True, slots=True)
class HostPeak:
    """The moment of a step at which most host memory was taken.

    Args:
        tensor_bytes: of tensors.
        other_bytes: of all else that was allocated in the step: the interpreter's heap, libraries.
        by_line: tensor bytes by `file:line` of the innermost line that `is_own` knows.
    """

    tensor_bytes: int
    other_bytes: int
    by_line: Mapping[str, int]


def host_peak(step: Callable[[], Any], file: Path, is_own: Callable[[str], bool]) -> HostPeak:
    """Run a step once under memray.

    Args:
        step: runs one step; one that has run before, so that what is made once is not counted.
        file: where memray's recording goes; an old one is replaced.
        is_own: whether a file is the user's own.

    Raises:
        GradgateError: memray is not installed, or another tracker is active.
    """
    try:
        import memray
    except ImportError:
        raise GradgateError(f"the host's peak needs memray: {INSTALL}") from None
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    try:
        with memray.Tracker(file, native_traces=True):
            step()
    except RuntimeError as error:
        if "Tracker" not in str(error):
            raise
        raise GradgateError(f"the host's peak cannot be recorded: {error}") from error
    with memray.FileReader(file) as reader:
        records = list(reader.get_high_watermark_allocation_records(merge_threads=True))
    tensors = [one for one in records if one.allocator == memray.AllocatorType.POSIX_MEMALIGN]
    by_line: Counter[str] = Counter()
    for one in tensors:
        by_line[_own_line(one.stack_trace(), is_own)] += one.size
    total = sum(by_line.values())
    return HostPeak(total, sum(one.size for one in records) - total, by_line)


def flame_graph(recording: Path, page: Path) -> None:
    """Write memray's flame graph of a recording's peak as an HTML page.

    Raises:
        GradgateError: memray cannot write it.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-m", "memray", "flamegraph", "--force", "--output", str(page), str(recording)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603 - this very interpreter
    if done.returncode:
        raise GradgateError(f"no flame graph of {recording}: {done.stderr.strip() or done.stdout.strip()}")


def _own_line(stack: list[tuple[str, str, int]], is_own: Callable[[str], bool]) -> str:
    return next((f"{file}:{number}" for _, file, number in stack if is_own(file)), "outside")

"""`python -m benchmarks.scan_fuzz FOLDER...`: the scanner on real files and on damaged copies of them.

Every file is scanned as it is, whether or not it says torch, and then in damaged forms: cut off anywhere, lines
dropped, doubled or swapped, indentation moved, words exchanged, bytes flipped. What is printed and counted: an
internal error, an exception that leaves the scanner, a file that takes longer than the limit.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

from gradgate.scan.scanner import INTERNAL, scan_file
from gradgate.scan.sources import discover
from gradgate.scan.tree import Tree

LIMIT_S = 60.0  # of processor time, for one file


class HangError(BaseException):
    """A file took longer than the limit."""


def main() -> int:
    """Print what broke, then the counts; 1 where anything broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--copies", type=int, default=1, help="damaged copies of each file")
    parser.add_argument("--most-bytes", type=int, default=4_000_000, help="of a file that is taken")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after this")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)  # noqa: S311 - damage is to be repeatable, not secret
    files = [path for path in discover(options.folders, {}) if path.stat().st_size <= options.most_bytes]
    rng.shuffle(files)
    signal.signal(signal.SIGVTALRM, _over)
    began, counts, broken = time.perf_counter(), {"as they are": 0, "damaged": 0, "refused": 0, "with findings": 0}, 0
    tree = Tree(())
    with tempfile.TemporaryDirectory(prefix="gradgate-fuzz-") as folder:
        for kind, path in _all(files, options.copies, Path(folder), rng):
            broken += _scan(path, tree, counts)
            counts[kind] += 1
            if time.perf_counter() - began > options.seconds:
                break
    for name, count in counts.items():
        print(f"{name}: {count}")
    print(f"files: {counts['as they are'] + counts['damaged']}, broken: {broken}, seed {options.seed}")
    return 1 if broken else 0


def _over(_number: int, _frame: FrameType | None) -> None:
    raise HangError


def _all(files: list[Path], copies: int, folder: Path, rng: random.Random) -> Iterator[tuple[str, Path]]:
    for number, file in enumerate(files):
        yield "as they are", file
        for copy in range(copies):
            with suppress(OSError):
                damaged = folder / f"{number % 50}_{copy}{file.suffix}"
                damaged.write_bytes(_damaged(file.read_bytes(), rng))
                yield "damaged", damaged


def _damaged(data: bytes, rng: random.Random) -> bytes:
    for _ in range(rng.randint(1, 3)):
        data = rng.choice(_DAMAGES)(data, rng)
    return data


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randint(0, len(data))]


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4) if data else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _lines(change: Callable[[list[bytes], int, random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def damage(data: bytes, rng: random.Random) -> bytes:
        lines = data.split(b"\n")
        for _ in range(rng.randint(1, 8)):
            if lines:
                change(lines, rng.randrange(len(lines)), rng)
        return b"\n".join(lines)

    return damage


def _drop(lines: list[bytes], at: int, _rng: random.Random) -> None:
    del lines[at]


def _double(lines: list[bytes], at: int, _rng: random.Random) -> None:
    lines.insert(at, lines[at])


def _swap(lines: list[bytes], at: int, rng: random.Random) -> None:
    other = rng.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _indent(lines: list[bytes], at: int, rng: random.Random) -> None:
    lines[at] = rng.choice([b"    " + lines[at], lines[at].lstrip(), b"\t" + lines[at]])


def _word(lines: list[bytes], at: int, rng: random.Random) -> None:
    """One word of the line becomes one of another line: what is left is mostly valid Python."""
    here, there = lines[at].split(b" "), rng.choice(lines).split()
    if there:
        here[rng.randrange(len(here))] = rng.choice(there)
        lines[at] = b" ".join(here)


_DAMAGES = [_cut, _flip, _lines(_drop), _lines(_double), _lines(_swap), _lines(_indent), _lines(_word), _lines(_word)]


def _scan(path: Path, tree: Tree, counts: dict[str, int]) -> int:
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
    try:
        result = scan_file(str(path), tree, frozenset())
    except (Exception, HangError) as error:
        print(f"{path}: {type(error).__name__}: {error}", flush=True)
        return 1
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    counts["refused"] += bool(result.problem)
    counts["with findings"] += bool(result.findings)
    if result.problem.startswith(INTERNAL):
        print(f"{path}: {result.problem}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Scanning: one file, then many, over the cores and through the cache."""

from __future__ import annotations

import contextlib
import functools
import gc
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradgate.core.finding import Finding, Location
from gradgate.scan.cache import Cache, Entry
from gradgate.scan.frame import Report
from gradgate.scan.interpreter import analyse
from gradgate.scan.modules import Module
from gradgate.scan.rules import catalogue
from gradgate.scan.sources import Source, UnreadableError, decode, discover, is_relevant, read_bytes
from gradgate.scan.suppressions import complaints, suppressions
from gradgate.scan.tree import Tree, digest

PARALLEL_BYTES = 400_000  # below this a second process costs more than it brings (0.15 s to start)
CHUNK_BYTES = 150_000
COLLECT_AFTER = 1_000_000  # new objects
_RARELY = (COLLECT_AFTER, 10, 10)
INTERNAL = "internal error, a bug in the scanner, please report it"


@dataclass(frozen=True, slots=True)
class FileResult:
    """What scanning one file gave."""

    path: str
    findings: tuple[Finding, ...] = ()
    hidden: int = 0  # findings that a suppression covers
    problem: str = ""  # why it could not be scanned
    used: tuple[tuple[str, str], ...] = ()  # other files that were looked into: (path, digest)


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What scanning gave."""

    findings: tuple[Finding, ...]
    problems: dict[str, str]
    files: int
    lines: int
    hidden: int = 0
    cached: int = 0
    unchanged: int = field(default=0)  # findings that a baseline or a diff leaves out


def scan_source(path: str, source: Source, tree: Tree, known: frozenset[str]) -> FileResult:
    """Scan one program text.

    Args:
        path: the file's name, as findings will have it.
        source: its text.
        tree: where imports are looked up.
        known: names and codes that a suppression may name.

    Returns:
        Its findings, sorted by line; a problem where it is no Python 3.
    """
    try:
        module = tree.parsed(path, source.text)
    except SyntaxError as error:
        return FileResult(path, problem=f"is no Python 3: line {error.lineno}: {error.msg}")
    except (ValueError, RecursionError, MemoryError) as error:
        return FileResult(path, problem=f"cannot be parsed: {str(error) or 'nested too deeply'}")
    tree.used = set()
    try:
        reports = [*catalogue.look(module), *analyse(module, tree.resolve)]
    except (RecursionError, MemoryError):
        return FileResult(path, problem="cannot be scanned: nested too deeply")
    return _result(path, source, module, reports, tree, known)


def _result(
    path: str, source: Source, module: Module, reports: Iterable[Report], tree: Tree, known: frozenset[str]
) -> FileResult:
    @functools.cache
    def lines_of(file: str) -> list[str]:
        if file == path:
            return module.lines
        try:
            return decode(Path(file), read_bytes(Path(file))).text.split("\n")
        except UnreadableError:
            return []

    def text(file: str, number: int) -> str:
        lines = lines_of(file)
        return lines[number - 1].strip() if 0 < number <= len(lines) else ""

    findings = [catalogue.finding(report, text) for report in reports]
    kept, hidden = [], 0
    for finding in sorted(_distinct(findings), key=_place):
        place = finding.culprit
        comments = suppressions(lines_of(place.file)) if place is not None else []
        if place is not None and any(entry.covers == place.line and entry.hides(finding) for entry in comments):
            hidden += 1
        else:
            kept.append(finding)
    kept += complaints(path, module.lines, known)
    used = tuple((file, tree.digests[file]) for file in sorted(tree.used) if file in tree.digests and file != path)
    return FileResult(path, tuple(_in_cell(source, finding) for finding in kept), hidden, source.problem, used)


def _place(finding: Finding) -> tuple[str, int, str]:
    place = finding.culprit
    return (place.file, place.line, finding.code) if place else ("", 0, finding.code)


def _distinct(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for each line and code; where a line is an error of one kind, milder readings of it go."""
    found: dict[tuple[str, int, str], Finding] = {}
    for finding in findings:
        found.setdefault(_place(finding), finding)
    lines = {(place[0], place[1]) for place, finding in found.items() if finding.code == "GG107"}
    return [finding for place, finding in found.items() if finding.code != "GG101" or (place[0], place[1]) not in lines]


def _in_cell(source: Source, finding: Finding) -> Finding:
    """A finding in a notebook, at the line of the file; cell and line of the cell are its detail."""
    if not source.places or finding.culprit is None:
        return finding
    line, cell, number = source.places.get(finding.culprit.line, (1, 0, 0))
    victim = finding.victim
    if victim is not None and victim.file == finding.culprit.file:
        victim = replace(victim, line=source.places.get(victim.line, (1, 0, 0))[0])
    return replace(
        finding, culprit=replace(finding.culprit, line=line), victim=victim, detail={"cell": cell, "cell_line": number}
    )


def scan(
    paths: Sequence[Path], *, known: frozenset[str], cache: Cache | None = None, jobs: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> ScanResult:  # fmt: skip
    """Scan files and folders.

    Args:
        paths: what to scan.
        known: names and codes that a suppression may name.
        cache: results of earlier runs; None: none are read or kept.
        jobs: processes; None: one a core.
        progress: called with the number of files done.

    Returns:
        All findings by file and line, and what could not be read.
    """
    problems: dict[str, str] = {}
    results: list[FileResult] = []
    waiting: list[tuple[str, int]] = []
    keys: dict[str, str] = {}
    files = lines = cached = 0
    for path in discover(paths, problems):
        try:
            data = read_bytes(path)
        except UnreadableError as error:
            problems[str(path)] = str(error)
            continue
        files += 1
        lines += data.count(b"\n")
        if not is_relevant(path, data):
            continue
        keys[str(path)] = digest(data)
        held = cache.get(str(path), keys[str(path)]) if cache is not None else None
        if held is not None:
            cached += 1
            results.append(FileResult(str(path), held.findings, held.hidden, held.problem))
        else:
            waiting.append((str(path), len(data)))
    roots = tuple(str(path if path.is_dir() else path.parent) for path in paths)
    with _rare_collections():
        for result in _all(waiting, roots, known, jobs or os.cpu_count() or 1, progress):
            results.append(result)
            if cache is not None:
                cache.put(
                    result.path, keys[result.path], Entry(result.findings, result.hidden, result.problem, result.used)
                )
    for result in results:
        if result.problem:
            problems[result.path] = result.problem
    found = {(*_place(finding), finding.message): finding for result in results for finding in result.findings}
    ordered = tuple(sorted(_distinct(found.values()), key=_place))
    return ScanResult(
        ordered, dict(sorted(problems.items())), files, lines, sum(result.hidden for result in results), cached
    )


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Let the collector of reference cycles run seldom: syntax trees are many objects, and it walked them all again
    and again (parsing was 3.4 times slower)."""
    before = gc.get_threshold()
    gc.set_threshold(*_RARELY)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _all(
    waiting: list[tuple[str, int]], roots: tuple[str, ...], known: frozenset[str], jobs: int,
    progress: Callable[[int], None] | None,
) -> Iterable[FileResult]:  # fmt: skip
    done = 0
    if jobs < 2 or sum(size for _, size in waiting) < PARALLEL_BYTES:
        tree = Tree(roots)
        for path, _ in waiting:
            yield scan_file(path, tree, known)
            done += 1
            if progress:
                progress(done)
        return
    left = {path for path, _ in waiting}
    context = multiprocessing.get_context(
        "spawn"
    )  # a forked torch, where one is loaded, would share its threads' locks
    try:
        with ProcessPoolExecutor(min(jobs, 16), context, gc.set_threshold, _RARELY) as pool:
            chunks = _chunks(waiting)
            for results in pool.map(_chunk, chunks, [roots] * len(chunks), [known] * len(chunks)):
                for result in results:
                    left.discard(result.path)
                    yield result
                done += len(results)
                if progress:
                    progress(done)
    except BrokenProcessPool:  # a worker died, of memory for one; the rest goes on here
        tree = Tree(roots)
        for path in sorted(left):
            yield scan_file(path, tree, known)


def _chunks(waiting: list[tuple[str, int]]) -> list[list[str]]:
    chunks: list[list[str]] = [[]]
    size = 0
    for path, count in waiting:
        if size + count > CHUNK_BYTES and chunks[-1]:
            chunks.append([])
            size = 0
        chunks[-1].append(path)
        size += count
    return sorted(chunks, key=len)  # first those of few, large files, so that no core is left with one at the end


_TREES: dict[tuple[str, ...], Tree] = {}


def _chunk(paths: list[str], roots: tuple[str, ...], known: frozenset[str]) -> list[FileResult]:
    tree = _TREES.setdefault(roots, Tree(roots))
    return [scan_file(path, tree, known) for path in paths]


def scan_file(path: str, tree: Tree, known: frozenset[str]) -> FileResult:
    """Scan one file; whatever is wrong with it is its result's `problem`."""
    try:
        data = read_bytes(Path(path))
        source = decode(Path(path), data)
    except UnreadableError as error:
        return FileResult(path, problem=str(error))
    tree.digests[path] = digest(data)
    try:
        return scan_source(path, source, tree, known)
    except Exception as error:  # a bug of the scanner's; it must not cost the other files theirs, nor pass unseen
        return FileResult(path, problem=f"{INTERNAL}: {type(error).__name__}: {error}{_raised_at(error)}")
    finally:
        tree.trim()


def _raised_at(error: BaseException) -> str:
    """Where in the scanner it was raised, for the report of the bug."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})" if trace is not None else ""


__all__ = ["FileResult", "Location", "ScanResult", "scan", "scan_file", "scan_source"]

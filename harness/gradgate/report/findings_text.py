"""Findings of the scanner as text: the headline, then the source with what is wrong under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from gradgate.core.finding import Finding, Location

Excerpt = Callable[[str, int], str]


def to_text(findings: Sequence[Finding], excerpt: Excerpt) -> str:
    """All findings, one block each.

    Args:
        findings: in the order to show them.
        excerpt: a line of a file, as it stands, with its indentation.
    """
    return "\n".join("\n".join(block(finding, excerpt)) + "\n" for finding in findings)


def block(finding: Finding, excerpt: Excerpt) -> Iterator[str]:
    """One finding, in the manner of a compiler."""
    yield f"{finding.severity}[{finding.code}] {finding.name}: {finding.message}"
    culprit, victim = finding.culprit, finding.victim
    places = [(culprit, "this write" if finding.code in ("GG101", "GG103", "GG104", "GG105", "GG106") else "here")]
    if victim is not None and culprit is not None and (victim.file, victim.line) != (culprit.file, culprit.line):
        places.append(
            (victim, "concerns this line" if finding.kind in ("graph_cut", "nan_backward", "other") else "saved here")
        )
    width = max(len(str(place.line)) for place, _ in places if place is not None) if culprit else 1
    if culprit is not None:
        yield f"{' ' * width}--> {_address(finding, culprit)}"
    for place, label in _in_order(places):
        if place is not None:
            yield from _source(place, label, width, excerpt, culprit)
    for label, text in (("why", finding.why), ("fix", finding.fix), ("more", f"gradgate rule {finding.code}")):
        if text:
            yield f"{' ' * width} = {label}: {text}"


def _address(finding: Finding, place: Location) -> str:
    cell = finding.detail.get("cell")
    where = f"{place.file}:{place.line}" + (f" (cell {cell}, line {finding.detail['cell_line']})" if cell else "")
    return where + (f" in {place.function}()" if place.function else "")


def _in_order(places: Iterable[tuple[Location | None, str]]) -> list[tuple[Location | None, str]]:
    """As the file has them; a place in another file comes last."""
    known = list(places)
    first = known[0][0]
    return sorted(
        known,
        key=lambda entry: (
            entry[0] is None or first is None or entry[0].file != first.file,
            entry[0].line if entry[0] else 0,
        ),
    )


def _source(place: Location, label: str, width: int, excerpt: Excerpt, culprit: Location | None) -> Iterator[str]:
    if culprit is not None and place.file != culprit.file:
        yield f"{' ' * width}::: {place}"
    line = excerpt(place.file, place.line) or place.source
    text = line.rstrip().expandtabs(4)
    indent = len(text) - len(text.lstrip())
    mark = ("^" if place is culprit else "-") * max(1, len(text.strip()))
    yield f"{' ' * width} |"
    yield f"{place.line:>{width}} | {text}"
    yield f"{' ' * width} | {' ' * indent}{mark} {label}"


def summary(findings: Sequence[Finding], files: int, lines: int, hidden: int, unchanged: int, seconds: float) -> str:
    """`2 findings (1 error, 1 warning) in 10 files, 1,234 lines, 0.1 s; 1 suppressed`."""
    counts = [(sum(finding.severity == name for finding in findings), name) for name in ("error", "warning", "note")]
    kinds = ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for count, name in counts if count)
    head = f"{len(findings)} finding{'s' if len(findings) != 1 else ''}" + (f" ({kinds})" if kinds else "")
    tail = "".join(
        f"; {count} {what}"
        for count, what in ((hidden, "suppressed"), (unchanged, "left out by the baseline or the diff"))
        if count
    )
    return f"{head} in {files} file{'s' if files != 1 else ''}, {lines:,} lines, {seconds:.1f} s{tail}"

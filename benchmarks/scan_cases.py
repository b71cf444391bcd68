"""`python -m benchmarks.scan_cases FOLDER`: the scanner, and a plain grep, on fault cases and on their fixed programs.

The grep is the pattern that the project's plan proposed: an in-place write to what a softmax or a sigmoid gave, found
in the text: a name assigned from such a call, and a line that writes to the name in place.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

from benchmarks.fixed_twins import fixed_source
from gradgate.scan.scanner import scan_source
from gradgate.scan.sources import Source
from gradgate.scan.tree import Tree

_SAVER = re.compile(r"^\s*(\w+)\s*=\s.*\b(?:softmax|sigmoid)\b")


def main() -> int:
    """Print the score, and each case that is missed or whose fixed program has a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="case files, whose faulty line ends in `# CULPRIT`")
    folder = parser.parse_args().folder
    tree = Tree((str(folder),))
    files = sorted(folder.glob("case*.py"))
    counts: Counter[str] = Counter()
    for file in files:
        text = file.read_text(encoding="utf-8")
        culprits = {at for at, line in enumerate(text.split("\n"), 1) if "# CULPRIT" in line}
        found, fixed = _lines(file, text, tree), fixed_source(text)
        left = _lines(file, fixed, Tree((str(folder),)))
        counts["scan, culprit line"] += bool(found & culprits)
        counts["grep, culprit line"] += bool(_grep(text) & culprits)
        counts["scan, fixed programs with a finding"] += bool(left)
        counts["grep, fixed programs with a finding"] += bool(_grep(fixed))
        if not found & culprits:
            print(f"missed: {file.stem}")
        for line in sorted(left):
            print(f"false alarm: {file.stem}: {fixed.splitlines()[line - 1].strip()}")
    for name in sorted(counts):
        print(f"{name}: {counts[name]} of {len(files)}")
    return 0


def _lines(file: Path, text: str, tree: Tree) -> set[int]:
    result = scan_source(str(file), Source(text, {}), tree, frozenset())
    return {finding.culprit.line for finding in result.findings if finding.culprit is not None}


def _grep(text: str) -> set[int]:
    lines = text.split("\n")
    names = {match.group(1) for line in lines if (match := _SAVER.search(line))}
    if not names:
        return set()
    name = rf"\b(?:{'|'.join(sorted(names))})"
    write = re.compile(rf"{name}\[[^=]*\]\s*[-+*/|&]?=(?!=)|{name}\s*[-+*/|&]=|{name}(?:\.data)?\.[a-z]\w*[a-z]_\(")
    return {at for at, line in enumerate(lines, 1) if write.search(line)}


if __name__ == "__main__":
    sys.exit(main())

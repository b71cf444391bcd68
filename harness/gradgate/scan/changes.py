"""Changed lines: what git says differs from a commit."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from gradgate.core.errors import GradgateError
from gradgate.core.finding import Finding, Location

_FILE = re.compile(r"^\+\+\+ (?:b/(?P<name>.*)|/dev/null)$")
_HUNK = re.compile(r"^@@ -\S+ \+(?P<start>\d+)(?:,(?P<count>\d+))? @@")


def changed_lines(ref: str, folder: Path) -> dict[Path, set[int] | None]:
    """Lines that differ from a commit, by resolved path; None: the whole file is new to git.

    Args:
        ref: a commit, branch or tag.
        folder: a folder in the repository.

    Raises:
        GradgateError: there is no git, no repository, or no such commit.
    """
    top = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    _git(folder, "rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}", what=f"--diff {ref}: no such commit")
    found: dict[Path, set[int] | None] = {}
    current: set[int] = set()
    diff = _git(
        top,
        "-c",
        "core.quotepath=off",
        "diff",
        "--unified=0",
        "--no-color",
        "--no-ext-diff",
        "--src-prefix=a/",
        "--dst-prefix=b/",
        ref,
        "--",
    )
    for line in diff.splitlines():
        if match := _FILE.match(line):
            current = set()
            if match["name"] is not None:
                found[(top / match["name"]).resolve()] = current
        elif match := _HUNK.match(line):
            start, count = int(match["start"]), int(match["count"] or 1)
            current.update(range(start, start + count))
    for name in _git(top, "ls-files", "--others", "--exclude-standard", "-z").split("\0"):
        if name:
            found[(top / name).resolve()] = None
    return found


def touches(finding: Finding, changed: dict[Path, set[int] | None]) -> bool:
    """Whether a finding's culprit, or the line whose tensor it damages, was changed."""
    return any(_is_in(place, changed) for place in (finding.culprit, finding.victim))


def _is_in(place: Location | None, changed: dict[Path, set[int] | None]) -> bool:
    if place is None:
        return False
    path = Path(place.file).resolve()
    if path not in changed:
        return False
    lines = changed[path]
    return lines is None or place.line in lines


def _git(folder: Path, *arguments: str, what: str = "") -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace")  # noqa: S603, S607
    except OSError as error:
        raise GradgateError(f"--diff needs git: {error}") from error
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["git said nothing"])[-1]
        raise GradgateError(what or f"--diff: {said}")
    return done.stdout

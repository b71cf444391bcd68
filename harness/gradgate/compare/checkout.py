"""Checkout: a revision's files in a folder of their own, without a trace in the repository.

`git worktree add` would write to the repository, need permission for it, and stay registered after a kill that nobody
can catch. With an index of our own the repository is only read, and what a kill leaves behind is a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gradgate.core.errors import GradgateError, nearest

PREFIX = "gradgate-base-"


@dataclass(frozen=True, slots=True)
class Revision:
    """A revision, checked out.

    Args:
        folder: of the same place within the repository as the folder that was asked about.
        commit: full hash.
        dirty: tracked files of that other folder's checkout that differ from its own commit.
    """

    folder: Path
    commit: str
    dirty: tuple[str, ...]


@contextmanager
def checked_out(ref: str, here: Path) -> Iterator[Revision]:
    """Check a revision out for the block.

    Args:
        ref: branch, tag or commit.
        here: a folder of the repository.

    Yields:
        The checkout; it is removed afterwards.

    Raises:
        GradgateError: there is no git, no repository, no such revision, or the folder does not exist in it.
    """
    top = Path(_git(here, "rev-parse", "--show-toplevel", wrong=f"--base-ref {ref}: {here} is in no git repository"))
    commit = _commit(ref, top)
    dirty = tuple(_git(top, "diff", "--name-only", "HEAD").splitlines())
    _remove_orphans()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{os.getpid()}-", ignore_cleanup_errors=True) as name:
        folder = Path(name) / "checkout"
        folder.mkdir()
        index = {"GIT_INDEX_FILE": str(Path(name) / "index")}
        _git(top, "read-tree", commit, environment=index)
        _git(top, "checkout-index", "--all", f"--prefix={folder}{os.sep}", environment=index)
        same = folder / here.resolve().relative_to(top.resolve())
        if not same.is_dir():
            raise GradgateError(f"--base-ref {ref}: there is no folder {same.relative_to(folder)} in {commit[:12]}")
        yield Revision(same, commit, dirty)


def head_of(here: Path, but: Path) -> tuple[str, tuple[str, ...]]:
    """The commit that a folder's checkout is at, and what in it differs from that commit.

    Args:
        here: a folder of the repository.
        but: a folder whose files do not count.

    Returns:
        The full hash, and the changed and the new files, those aside that git ignores.

    Raises:
        GradgateError: there is no git, no repository or no commit yet.
    """
    top = Path(_git(here, "rev-parse", "--show-toplevel", wrong=f"{here} is in no git repository"))
    commit = _git(top, "rev-parse", "--verify", "--quiet", "HEAD", wrong=f"{top} has no commit yet")
    rows = _git(top, "status", "--porcelain", "--untracked-files=all", "--no-renames", "-z").split("\0")
    files = [row[3:] if row[2:3] == " " else row[2:] for row in rows if row]  # the first row has lost its blank
    return commit, tuple(file for file in files if not (top / file).resolve().is_relative_to(but.resolve()))


def changed_sources(ref: str, here: Path) -> dict[Path, str]:
    """The Python files below a folder that differ from a revision, as they were there.

    Args:
        ref: branch, tag or commit.
        here: a folder of the repository; the working tree counts.

    Returns:
        File of the working tree -> its text in the revision. Files that one of the two sides lacks are not among them.

    Raises:
        GradgateError: there is no git, no repository or no such revision.
    """
    top = Path(_git(here, "rev-parse", "--show-toplevel", wrong=f"--base-ref {ref}: {here} is in no git repository"))
    commit = _commit(ref, top)
    pattern = str(here.resolve().relative_to(top.resolve()) / "*.py")
    names = _git(top, "diff", "--name-only", "--diff-filter=M", "-z", commit, "--", pattern).split("\0")
    return {top / name: _git(top, "show", f"{commit}:{name}") for name in names if name}


def bases_of(here: Path) -> list[str]:
    """The revisions that the sources below a folder have changed since, the nearest first, where nobody named one.

    Args:
        here: a folder of a repository; of none, or where git cannot be asked, nothing is found.

    Returns:
        HEAD where a Python file below differs from it. Then where the branch left its remote's default branch, by its
        hash; on that branch itself, and without a remote, the commit before.
    """

    def asked(*words: str) -> str:
        with suppress(GradgateError):
            return _git(here, *words)
        return ""

    dirty = ["HEAD"] if asked("diff", "--name-only", "--relative", "HEAD", "--", "*.py") else []
    head, left = asked("rev-parse", "HEAD"), asked("merge-base", "HEAD", "origin/HEAD")
    if left and left != head:
        return [*dirty, left[:12]]
    return [*dirty, *(["HEAD~1"] if asked("rev-parse", "--verify", "--quiet", "HEAD~1") else [])]


def _remove_orphans() -> None:
    """Remove checkouts whose process was killed before it could."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, PermissionError):
            continue  # not ours


def import_roots(root: Path, other: Path, named: Sequence[str] = ()) -> list[Path]:
    """The folders of a checkout that packages are imported from.

    Args:
        root: the checkout.
        other: the other one; what the present path names inside it is mirrored, so that `harness/` counts on both.
        named: subfolders given by the user.

    Returns:
        The checkout itself, what was named, `src` where there is one, and what the path names inside either checkout.
    """
    mirrored = [
        Path(entry).resolve().relative_to(checkout.resolve())
        for checkout in (root, other)
        for entry in sys.path
        if entry and Path(entry).resolve().is_relative_to(checkout.resolve()) and "site-packages" not in entry
    ]
    relative = dict.fromkeys([Path(), *map(Path, named), Path("src"), *mirrored])
    return [root / folder for folder in relative if (root / folder).is_dir()]


def _commit(ref: str, top: Path) -> str:
    try:
        return _git(top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    except GradgateError:
        known = _git(top, "for-each-ref", "--format=%(refname:short)").split()
        raise GradgateError(f"--base-ref {ref}: no such revision in {top}{nearest(ref, known)}") from None


def _git(folder: Path, *words: str, wrong: str = "", environment: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - git with words of ours, no shell
            ["git", "-C", str(folder), *words],  # noqa: S607 - the user's git
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", **(environment or {})},
        )
    except FileNotFoundError:
        raise GradgateError("--base-ref needs git, which is not installed; give --base DIR instead") from None
    if done.returncode:
        reason = done.stderr.strip().partition("\n")[0].removeprefix("fatal: ")
        if not wrong:
            raise GradgateError(f"git {words[0]} failed: {reason or 'no reason given'}")
        raise GradgateError(
            wrong if not reason or "not a git repository" in reason else f"{wrong} that git would read: {reason}"
        )
    return done.stdout.strip()

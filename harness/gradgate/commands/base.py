"""A base for `gradgate verify --base-ref`: each stage compared with a revision once, for every check that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

from gradgate.core import interrupt
from gradgate.core.comparison import Comparison
from gradgate.core.errors import GradgateError


@contextmanager
def against(
    ref: str | None, target: str, here: Path, accept: Mapping[str, str]
) -> Iterator[Callable[[str], Comparison] | None]:
    """A revision checked out for the block.

    Args:
        ref: branch, tag or commit; None: there is no base.
        target: `module:factory`, in both checkouts.
        here: a folder of head's checkout, of the same place within the repository as base's.
        accept: metric -> reason of growths that are meant.

    Yields:
        A stage's name to its comparison, made when it is first asked for; a mistake of use within it is a broken one.
        None without a base.

    Raises:
        GradgateError: there is no git, no repository or no such revision.
    """
    if ref is None:
        yield None
        return
    from gradgate.compare.checkout import checked_out
    from gradgate.compare.session import Question, compare

    with interrupt.unwinding(), checked_out(ref, here) as revision:
        question = Question(target, revision.folder, here, f"{ref} ({revision.commit[:12]})", str(here), accept=accept)

        @cache
        def compared(stage: str) -> Comparison:
            try:
                return compare(replace(question, stage=stage), lambda _: None)
            except GradgateError as error:
                broken = {"side": "the comparison", "doing": "loading", "error": str(error)}
                return Comparison(target, question.base_text, question.head_text, broken=broken)

        yield compared

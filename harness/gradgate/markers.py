"""The markers that give a user's own test the gates: a budget against a base, a limit on tensor memory.

A marker is read into a frozen record before any test runs, so that a mistake is an error of use; what it finds is a
text.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradgate.core.comparison import METRICS
from gradgate.core.errors import GradgateError, nearest
from gradgate.core.sizes import as_bytes, as_text

if TYPE_CHECKING:
    from gradgate.core.comparison import Comparison
    from gradgate.gates.allocations import Peak

MOST_LINES = 3  # lines that a broken limit names


@dataclass(frozen=True)
class Budget:
    """`@pytest.mark.gradgate_budget(make, base_ref="main")`: `make` may cost no more than its base.

    Args:
        head: a function of a module that returns a step, or its `module:factory`.
        base_ref: the revision whose `make` is the base.
        base: or another such function of this checkout.
        tolerance: slowdown that must be found, as a share.
        budget: seconds after which no further process is begun.
        only: names of the metrics that count; empty: all.
        accept: metric -> reason of growths that are meant.
    """

    head: Callable[[], Any] | str
    base_ref: str | None = None
    base: Callable[[], Any] | str | None = None
    tolerance: float = 0.03
    budget: float = 60.0
    only: Sequence[str] = ()
    accept: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Budget:
        """From a marker's arguments.

        Raises:
            GradgateError: they are not a budget's.
        """
        try:
            made = cls(*args, **kwargs)
        except TypeError as error:
            raise GradgateError(f"gradgate_budget: {str(error).removeprefix('Budget.__init__() ')}") from None
        if (made.base is None) == (made.base_ref is None):
            raise GradgateError("gradgate_budget: give one of base=FUNCTION and base_ref='REVISION'")
        if not 0 < made.tolerance < 1:
            raise GradgateError(f"gradgate_budget: tolerance={made.tolerance!r} is no share between 0 and 1")
        for name in (*made.only, *made.accept):
            if name not in METRICS:
                raise GradgateError(f"gradgate_budget: no metric {name!r}{nearest(name, METRICS)}")
        return made

    def compared(self, root: Path) -> Comparison:
        """Compare, in fresh processes, like `gradgate compare`.

        Args:
            root: pytest's root folder, which is the checkout.

        Raises:
            GradgateError: a function cannot be found by its name, or the revision does not exist.
        """
        from gradgate.compare.checkout import checked_out
        from gradgate.compare.session import Question, compare
        from gradgate.core.project import find_project

        head = _named(self.head, root)
        accept = {**find_project(root).accept, **self.accept}
        question = Question(
            head, root, root, head_text=head, tolerance=self.tolerance, budget_s=self.budget, accept=accept
        )
        if self.base_ref is None:
            base = _named(self.base, root)
            return self._counting(compare(replace(question, base_target=base, base_text=base), _quiet))
        with checked_out(self.base_ref, root) as revision:
            text = f"{self.base_ref} ({revision.commit[:12]})"
            return self._counting(compare(replace(question, base=revision.folder, base_text=text), _quiet))

    def _counting(self, found: Comparison) -> Comparison:
        if not self.only:
            return found
        return replace(found, metrics=tuple(metric for metric in found.metrics if metric.metric in self.only))


def _named(factory: Callable[[], Any] | str | None, root: Path) -> str:
    """`module:factory`, the module's name as it is imported from the root."""
    if isinstance(factory, str):
        return factory
    try:
        file = Path(inspect.getfile(factory)).resolve()  # type: ignore[arg-type]
        name = factory.__qualname__  # type: ignore[union-attr]
        parts = file.relative_to(root.resolve()).with_suffix("").parts
    except (TypeError, AttributeError, ValueError):
        raise GradgateError(
            f"gradgate_budget: {factory!r} is no function of a file under {root}: a fresh process has to import it"
        ) from None
    if not all(part.isidentifier() for part in (*parts, *name.split("."))):
        raise GradgateError(
            f"gradgate_budget: {name} in {'/'.join(parts)} cannot be imported by name in a fresh process: "
            "it has to be a function at the top of a module"
        )
    return f"{'.'.join(parts)}:{name}"


def _quiet(text: str) -> None:
    """A test shows no progress."""


@dataclass(frozen=True)
class MemoryLimit:
    """`@pytest.mark.gradgate_limit_memory("24 MiB")`: the test's tensors never take more at once.

    Args:
        most: bytes.
    """

    most: int

    @classmethod
    def of(cls, args: Sequence[Any], kwargs: Mapping[str, Any]) -> MemoryLimit:
        """From a marker's arguments.

        Raises:
            GradgateError: they are not one size.
        """
        if len(args) != 1 or kwargs:
            raise GradgateError("gradgate_limit_memory: expected one size, such as '24 MiB'")
        try:
            return cls(as_bytes(args[0]))
        except GradgateError as error:
            raise GradgateError(f"gradgate_limit_memory: {error}") from None

    @contextmanager
    def watched(self, root: Path) -> Iterator[Callable[[], str]]:
        """Follow the tensors that operations make in the block.

        Args:
            root: pytest's root folder; lines are relative to it.

        Yields:
            A function that says, after the block, what broke the limit; empty where nothing did.
        """
        from gradgate.gates.counters import Recorder

        recorder = Recorder(partial(_relative, root.resolve()))
        found: list[Peak] = []
        with recorder:
            recorder.begin()
            try:
                yield lambda: self._told(found[0]) if found[0].live_bytes > self.most else ""
            finally:
                found.append(recorder.end())

    def _told(self, peak: Peak) -> str:
        took = f"tensors took {as_text(peak.live_bytes)} ({peak.live_bytes:,} bytes) at once"
        most = sorted(peak.by_line.items(), key=lambda item: (-item[1], str(item[0])))[:MOST_LINES]
        lines = [f"  {as_text(size):>9}  {line}      {line.source}".rstrip() for line, size in most if size]
        return "\n".join([f"{took}, allowed: {as_text(self.most)}; most of it was made at", *lines])


def _relative(root: Path, file: str) -> str | None:
    from gradgate.core.origin import is_own_code

    path = Path(file).resolve()
    return str(path.relative_to(root)) if is_own_code(file) and path.is_relative_to(root) else None

"""Lines for checks that failed without one: how `gradgate verify` looks for them, and what it says meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gradgate.core.verdict import Result, Verdict

REVERTING = 180.0  # seconds for each check, to look for its line among those that differ from the base
UNASKED = 60.0  # where no base was given


@dataclass(frozen=True, slots=True)
class LineSearch:
    """Looks for the lines of checks that failed without one, and tells what it does.

    Args:
        subject: the trainer, loaded.
        jobs: processes at a time.
        seed: of the checks.
        baselines: the folder of stored baselines, as the checks had it.
    """

    subject: Any
    jobs: int
    seed: int
    baselines: Path | None

    def by_reverts(self, verdict: Verdict, base_ref: str | None, seconds: float) -> Verdict:
        """Among the lines that differ from the base; where none was given, from the last commits."""
        from gradgate.compare.checkout import bases_of
        from gradgate.faults.locate import RUNS, by_reverts, outside, places_since

        source = self.subject.source
        if source is None or all(result.status != "failed" for result in verdict.results):
            return verdict
        places = places_since([base_ref] if base_ref else bases_of(source), source)
        if not places:
            return verdict
        slowest = max(result.seconds for result in verdict.results if result.status == "failed")
        seconds = seconds or max(REVERTING if base_ref else UNASKED, RUNS * slowest)
        search = by_reverts(self.subject, places, seed=self.seed, baselines=self.baselines, seconds=seconds)
        return self._located(verdict, search, seconds, f"what {' and '.join(places)} had there", outside(places))

    def by_repairs(self, verdict: Verdict, seconds: float) -> Verdict:
        """Among all lines, where that is asked for; else how to ask."""
        from gradgate.faults.locate import by_repairs, is_unsure, nameless

        lost = nameless(verdict)
        if lost and not seconds and not verdict.interrupted:
            codes = ",".join(dict.fromkeys(result.code for result in lost))
            told = f"no line is named for {codes}; to look for it by trial repairs: --select {codes} --locate 20"
            click.echo(told, err=True)
        if not seconds or not any(map(is_unsure, verdict.results)):
            return verdict
        search = by_repairs(self.subject, seed=self.seed, baselines=self.baselines, seconds=seconds)
        return self._located(verdict, search, seconds, "trial repairs", is_unsure)

    def _located(
        self,
        verdict: Verdict,
        search: Callable[[Result], Any],
        seconds: float,
        how: str,
        wanted: Callable[[Result], bool],
    ) -> Verdict:
        from gradgate.faults.locate import locate

        def tell(result: Result) -> None:
            place = f"{result.code} on {result.stage}" if result.stage else result.code
            click.echo(f"looking for the line of {place}, by {how}", err=True)

        if verdict.interrupted:
            return verdict
        try:
            return locate(verdict, search, seconds=seconds, jobs=self.jobs, wanted=wanted, on_start=tell)
        except KeyboardInterrupt:
            click.echo("the search for lines was interrupted; what the checks found follows", err=True)
            return verdict

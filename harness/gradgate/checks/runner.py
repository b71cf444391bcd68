"""check_trainer: runs the catalogue on a subject and decides."""

from __future__ import annotations

import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

import gradgate
from gradgate.checks import catalogue
from gradgate.checks.catalogue import Check
from gradgate.checks.consequences import traced
from gradgate.checks.isolation import THREADS, isolated, unheard
from gradgate.checks.parallel import answers
from gradgate.checks.raised import SubjectRaisedError, as_finding, is_raised
from gradgate.checks.results import as_expected, as_unexpected, broken, hung, status_of, told
from gradgate.checks.reuse import Reuse
from gradgate.checks.switches import again
from gradgate.checks.tally import BAD, Plan, Tally, Unit
from gradgate.checks.time_limit import LIMITS, TimeOverError, time_limit
from gradgate.core.comparison import Comparison
from gradgate.core.errors import GradgateError, SubjectError, UnknownCodeError, nearest
from gradgate.core.options import DEVICE, PROFILE, SEED, as_profile
from gradgate.core.origin import in_stack, origin
from gradgate.core.rule import Rule
from gradgate.core.verdict import Outcome, Result, Status, Verdict
from gradgate.core.workers import Lost
from gradgate.subjects.capabilities import Capabilities
from gradgate.subjects.contract import Context, Functions, Stage, Subject

PLAIN = "GG100"  # tells of each stage whether its plain step raises, before any other check steps
TAIL = 3  # frames of a crash that a reason shows


@dataclass(frozen=True, slots=True)
class Step:
    """What is about to run, for a progress display.

    Args:
        rule: the rule.
        stage: the stage's name; None: the subject as a whole.
        number: from 1 to `total`.
        total: how many steps the run has.
    """

    rule: Rule
    stage: str | None
    number: int
    total: int


def check_trainer(
    subject: Subject,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    profile: str = "quick",
    device: str = "cpu",
    seed: int = 0,
    exit_first: bool = False,
    stages: Sequence[str] | None = None,
    expected: Mapping[str, str] | None = None,
    timeout: float | None = None,
    command: Sequence[str] = ("gradgate", "verify"),
    baselines: Path | None = None,
    compare: Callable[[str], Comparison] | None = None,
    jobs: int = 0,
    reuse: Reuse | None = None,
    switches: bool = True,
    on_start: Callable[[Step], None] | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> Verdict:
    """Run the catalogue, or the chosen part of it, on a subject.

    Args:
        subject: the trainer.
        select: codes, prefixes of codes, or names; empty: the whole catalogue.
        ignore: what to leave out, in the same words.
        profile: quick, pr or nightly.
        device: where runs are started.
        seed: every random choice derives from it.
        exit_first: stop after the first check that fails or breaks.
        stages: names of the stages to look at; None: all.
        expected: code or name -> reason of checks known to fail, beside the subject's own.
        timeout: seconds that a check may take on a stage; None: 180, 600 or 3600 by the profile.
        command: what a result's `reproduce` line starts with.
        baselines: the folder of stored baselines; None: there are none.
        compare: a stage's name to its comparison with a base; None: there is no base.
        jobs: processes that run checks side by side, forked from this one, in which prints are dropped; 0: all run in
            this one.
        reuse: results of earlier runs, which stand in for those of checks that would read the same; None: all run.
        switches: whether checks that find nothing are made again with switches of the configuration flipped.
        on_start: called before each check and stage that runs.
        on_result: called with each result, in catalogue order.

    Returns:
        One result a rule and stage, in catalogue order. Ctrl-C gives what is known so far.

    Raises:
        GradgateError: a selector, stage, profile or expected code is unknown.
        SubjectError: `subject` is no Subject, or holds something else than stages and functions.
    """
    _require_subject(subject)
    context = Context(
        seed=seed, profile=as_profile(profile), device=device, baselines=baselines, compare=compare, jobs=jobs
    )
    session = _Session(with_stages(subject, stages), context, expected or {}, command, timeout, reuse, switches)
    plans = [session.plan(rule) for rule in catalogue.select(select, ignore)]
    tally = Tally(plans, session.settle, on_result)
    interrupted, start = False, time.perf_counter()
    try:
        with closing(session.run_all(tally.units, jobs, on_start)) as ended:
            for number, result in ended:
                tally.add(number, result)
                if exit_first and (tally.is_bad() or session.stops(result)):
                    break
    except KeyboardInterrupt:
        interrupted = True
    not_run = tally.close()
    seconds = time.perf_counter() - start
    environment = _environment(profile, device, seed)
    return Verdict(subject.name, environment, tuple(traced(tally.results)), interrupted, not_run, seconds)


class _Session:
    """What is the same for every check of one run."""

    def __init__(
        self,
        subject: Subject,
        context: Context,
        expected: Mapping[str, str],
        command: Sequence[str],
        timeout: float | None,
        reuse: Reuse | None,
        switches: bool,
    ) -> None:
        self._reuse = reuse
        self._switches = switches
        self._subject = subject
        self._capabilities = Capabilities(subject, context.device)
        self._context = context
        known = {**subject.expected, **expected}
        self._expected = _by_code(known)
        self._command = command
        self._plain_step_raises: set[str | None] = set()
        self._timeout = LIMITS[self._context.profile] if timeout is None else timeout

    def plan(self, rule: Rule) -> Plan:
        """Decide where a rule's check runs."""
        if not catalogue.is_built(rule):
            return Plan(rule, settled=Result(rule.code, rule.name, "not_built", reason="not built yet"))
        try:
            check = catalogue.load_check(rule)
        except (Exception, SystemExit) as error:
            reason = f"the check does not load: {_tail(error)}"
            return Plan(rule, settled=Result(rule.code, rule.name, "error", reason=reason))
        fitting = [stage for stage in self._subject.stages if check.objective in (None, stage.objective)]
        if not fitting and (check.per_stage or check.objective):
            wanted = f" learns {check.objective}: give it `objective={check.objective!r}`" if check.objective else ""
            reason = f"no stage{wanted or ': give the subject one'}"
            return Plan(rule, settled=Result(rule.code, rule.name, "not_applicable", reason=reason))
        stages = fitting if check.per_stage else [None]
        return Plan(rule, tuple(Unit(check, stage) for stage in stages))

    def run_all(
        self, units: Sequence[Unit], jobs: int, on_start: Callable[[Step], None] | None
    ) -> Generator[tuple[int, Result], None, None]:
        """Give the number and the result of every unit as it ends, of those that need not run first; expected
        failures are not considered yet."""
        started = count(1)
        known = {number: result for number, unit in enumerate(units) if (result := self._known(unit))}
        yield from known.items()
        left = [number for number in range(len(units)) if number not in known]

        def begins(place: int) -> None:
            unit, step = units[left[place]], next(started)
            if on_start:
                on_start(Step(unit.check.rule, _name(unit.stage), step, len(left)))

        ended = answers(
            [units[number] for number in left],
            lambda place: self.run(units[left[place]]),
            lambda place: self._run_apart(units[left[place]]),
            lambda place, lost: self._lost(units[left[place]], lost),
            jobs=jobs,
            limit=self._timeout,
            on_start=begins,
        )
        with closing(ended):
            for place, result in ended:
                yield left[place], result

    def _known(self, unit: Unit) -> Result | None:
        if self._reuse is None:
            return None
        known = self._reuse.known(self._subject, unit.check, _name(unit.stage), self._context)
        return known and replace(known, reproduce=self._reproduce(unit.check.rule, unit.stage))

    def run(self, unit: Unit) -> Result:
        """Run one check on one stage, isolated, and give its result."""
        rule, stage = unit.check.rule, unit.stage
        start = time.perf_counter()
        reason = ""
        if self._reuse is not None:
            self._reuse.begin()
        with isolated(self._context.seed, rule.code) as folder:
            try:
                with time_limit(self._timeout):
                    outcome = self._outcome(unit.check, stage, replace(self._context, folder=folder))
                status = status_of(outcome)
                reason = outcome.not_applicable or outcome.inconclusive
            except SubjectRaisedError as raised:
                finding = as_finding(raised, rule.code, rule.name)
                status, outcome = "failed", Outcome(findings=(finding,))
            except SubjectError as error:
                status, outcome = "failed", broken(rule, error)
            except TimeOverError as over:
                status, outcome = "failed", hung(rule, str(over), origin(over, self._subject.source))
            except (Exception, SystemExit) as error:
                status, outcome, reason = "error", Outcome(), _tail(error)
        result = self._result(unit, status, outcome, reason, time.perf_counter() - start)
        if self._reuse is not None:
            self._reuse.keep(self._subject, unit.check, self._context, result)
        return result

    def stops(self, result: Result) -> bool:
        """Whether exit-first stops here, within the stages of one rule."""
        return result.status in BAD and result.code not in self._expected

    def settle(self, plan: Plan, results: Sequence[Result]) -> list[Result]:
        """Apply the expected failures, strictly: one failing stage is enough, no failing stage is a failure."""
        if plan.rule.code == PLAIN:
            self._plain_step_raises = {result.stage for result in results if result.status == "failed"}
        elif self._plain_step_raises:
            results = [self._follows(result) for result in results]
        reason = self._expected.get(plan.rule.code)
        if reason is None:
            return list(results)
        if any(result.status == "failed" for result in results):
            return [as_expected(result, reason) for result in results]
        if len(results) < len(plan.units):  # the stage that has not run may be the one that fails
            return list(results)
        return [as_unexpected(result, plan.rule, reason) for result in results]

    def _follows(self, result: Result) -> Result:
        """Nothing is said by a check that got no further than the plain step: that is one fault, and GG100's."""
        failing = [finding for finding in result.findings if finding.severity == "error"]
        if result.status != "failed" or result.stage not in self._plain_step_raises or not all(map(is_raised, failing)):
            return result
        reason = f"{failing[0].message}: nothing more was looked at (see {PLAIN})"
        return replace(result, status="inconclusive", findings=(), reason=reason)

    def _run_apart(self, unit: Unit) -> Result:
        """Run in a process of its own, where a KeyboardInterrupt can only be the subject's, and prints are dropped."""
        start = time.perf_counter()
        try:
            with unheard():
                return self.run(unit)
        except KeyboardInterrupt as error:
            return self._result(unit, "error", Outcome(), _tail(error), time.perf_counter() - start)

    def _lost(self, unit: Unit, lost: Lost) -> Result:
        """The result of a unit whose process did not come back."""
        place = in_stack(lost.stack, self._subject.source)
        if lost.reason != "hung":
            at = f", in {place}" if place else ""
            return self._result(unit, "error", Outcome(), f"the process that ran it {lost.reason}{at}")
        said = f"took longer than {self._timeout:g} s and did not come back from a call into C"
        return self._result(unit, "failed", hung(unit.check.rule, said, place), seconds=self._timeout)

    def _result(self, unit: Unit, status: Status, outcome: Outcome, reason: str = "", seconds: float = 0.0) -> Result:
        rule = unit.check.rule
        return Result(
            code=rule.code,
            name=rule.name,
            status=status,
            stage=_name(unit.stage),
            seconds=seconds,
            findings=told(outcome, rule),
            measured=outcome.measured,
            allowed=outcome.allowed,
            reason=reason,
            reproduce=self._reproduce(rule, unit.stage),
            series=outcome.series,
        )

    def _outcome(self, check: Check, stage: Stage | None, context: Context) -> Outcome:
        try:
            missing = self._capabilities.missing(stage, check.needs)
        except SubjectError as error:
            return Outcome(inconclusive=f"{error}; see GG001")
        if missing:
            return Outcome(not_applicable="; ".join(missing))
        outcome = check.function(self._subject, stage, context)
        if not isinstance(outcome, Outcome):
            raise TypeError(f"{check.rule.code} returned a {type(outcome).__name__}, expected an Outcome")
        if check.again is None or stage is None or not self._switches:
            return outcome
        return again(check.function, check.again, self._subject, stage, context, outcome, self._timeout)

    def _reproduce(self, rule: Rule, stage: Stage | None) -> str:
        words = [*self._command, "--select", rule.code]
        if stage is not None and len(self._subject.stages) > 1:
            words += ["--stage", stage.name]
        for option, value in ((PROFILE, self._context.profile), (DEVICE, self._context.device)):
            words += [f"--{option.name}", value] if value != option.default else []
        return shlex.join([*words, f"--{SEED.name}", str(self._context.seed)])


def _require_subject(subject: Any) -> None:
    if not isinstance(subject, Subject):
        raise SubjectError(f"expected a gradgate.Subject, got a {type(subject).__name__}")
    if not isinstance(subject.stages, Sequence) or not all(isinstance(stage, Stage) for stage in subject.stages):
        raise SubjectError(f"{subject.name}: `stages` must be a list of gradgate.Stage, got {subject.stages!r}")
    if not isinstance(subject.functions, Functions):
        raise SubjectError(f"{subject.name}: `functions` must be gradgate.Functions, got {subject.functions!r}")


def _name(stage: Stage | None) -> str | None:
    return None if stage is None else stage.name


def _by_code(expected: Mapping[str, str]) -> dict[str, str]:
    try:
        return {catalogue.rule(code).code: reason for code, reason in expected.items()}
    except UnknownCodeError as error:
        raise UnknownCodeError(f"expected failures: {error}") from error


def with_stages(subject: Subject, names: Sequence[str] | None) -> Subject:
    """The subject with these of its stages; None or empty: all.

    Raises:
        GradgateError: it has no such stage.
    """
    if not names:
        return subject
    known = [stage.name for stage in subject.stages]
    for name in names:
        if name not in known:
            hint = nearest(name, known)
            raise GradgateError(f"{subject.name} has no stage {name!r}, only {', '.join(known) or 'none'}{hint}")
    return replace(subject, stages=[stage for stage in subject.stages if stage.name in names])


def _tail(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-TAIL:]
    lines = [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
    return "\n".join([f"{type(error).__name__}: {error}", *lines])


def _environment(profile: str, device: str, seed: int) -> dict[str, Any]:
    return {
        "gradgate": gradgate.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": sys.platform,
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": THREADS,
        "device": device,
        "seed": seed,
        "profile": profile,
    }

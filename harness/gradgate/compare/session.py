"""Session: one comparison from its question to its verdict, over as many fresh processes as it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gradgate.compare.alone import measure_alone
from gradgate.compare.checkout import import_roots
from gradgate.compare.job import Checkout, Job
from gradgate.compare.processes import DiedError, Zygote, zygote
from gradgate.compare.two_workers import BrokenTurnError, compare_apart
from gradgate.core.comparison import COUNTED, Comparison, Metric
from gradgate.core.errors import GradgateError
from gradgate.gates.decision import Decision, Said, at_rest, look, together
from gradgate.gates.self_checks import log_folder, observed, record
from gradgate.gates.stats import Interval
from gradgate.gates.timing import HEAD

MOST_PROCESSES = 3


class NewBenchmarkError(GradgateError):
    """Base does not have the target: it may be younger than base."""


@dataclass(frozen=True)
class Question:
    """What is compared, and how.

    Args:
        target: `module:factory`.
        base: its folder.
        head: its folder.
        base_text: what to call base: the folder, or the ref with its commit.
        head_text: what to call head.
        sources: subfolders that packages are imported from, beside the usual ones.
        stage: of a Subject.
        tolerance: T of the CPU time.
        budget_s: seconds after which no further process is begun.
        accept: metric -> reason of growths that are meant.
        notes: for the reader.
        base_target: base's own `module:factory`, where it is another than head's; else empty.
    """

    target: str
    base: Path
    head: Path
    base_text: str = ""
    head_text: str = ""
    sources: Sequence[str] = ()
    stage: str | None = None
    tolerance: float = 0.03
    budget_s: float = 60.0
    accept: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    base_target: str = ""


def compare(question: Question, on_progress: Callable[[str], None]) -> Comparison:
    """Compare base and head.

    Args:
        question: what and how.
        on_progress: told what is being done.

    Returns:
        Every metric, the A/A pair, notes.

    Raises:
        GradgateError: the target is missing on a side, or is no factory.
    """
    with zygote() as fresh:
        return _compared(question, fresh, on_progress)


def _compared(question: Question, fresh: Zygote, on_progress: Callable[[str], None]) -> Comparison:
    began = time.monotonic()
    job = _job(question)
    found = Comparison(question.target, question.base_text, question.head_text, notes=question.notes)
    doing = ["starting"]

    def progress(text: str) -> None:
        doing.append(text)
        on_progress(text)

    answers: list[dict[str, Any]] = []
    clash: list[str] = []
    while True:
        try:
            answers.append(_ask(fresh, replace(job, count=not answers, attempt=len(answers)), clash, progress))
        except DiedError as error:
            broken = {"side": "the worker", "doing": doing[-1], "error": ": ".join(filter(None, error.args))}
            return replace(found, broken=broken, seconds=time.monotonic() - began)
        if "clash" in answers[-1]:
            clash = answers.pop()["clash"]
            on_progress(f"both sides register {clash[0]}: a process for each")
            continue
        if "missing" in answers[-1]:
            raise _missing(*answers[-1]["missing"])
        if "broken" in answers[-1]:
            return replace(found, broken=answers[-1]["broken"], seconds=time.monotonic() - began)
        if "timing" not in answers[-1]:
            break
        spent = time.monotonic() - began
        undecided = _undecided(answers)
        if not undecided or spent * (1 + 1 / len(answers)) > question.budget_s:
            break
        on_progress(f"once more in a fresh process: {', '.join(undecided)}")
    if clash:
        found = replace(found, notes=(*found.notes, _weaker(clash)))
    return _concluded(found, question, answers, time.monotonic() - began)


def count_new(question: Question, on_progress: Callable[[str], None]) -> Comparison:
    """Count head alone: a benchmark that base does not have yet.

    Args:
        question: as for `compare`; base is not looked at.
        on_progress: told what is being done.

    Returns:
        Head's counters, all passing, since there is nothing to hold them against.

    Raises:
        GradgateError: head does not have the target either, or it does not run.
    """
    began = time.monotonic()
    alone = measure_alone(_job(question), HEAD, 0, on_progress)
    metrics = tuple(
        Metric(name, "pass", head=alone.counts.values[name]) for name in COUNTED if name in alone.counts.values
    )
    notes = (*question.notes, "a new benchmark: counted on head alone, nothing was compared", *alone.notes)
    found = Comparison(question.target, question.base_text, question.head_text, metrics, notes=notes)
    return replace(found, environment=alone.environment, seconds=time.monotonic() - began)


def _job(question: Question) -> Job:
    base, head = (
        Checkout(str(one.resolve()), tuple(str(root.resolve()) for root in import_roots(one, other, question.sources)))
        for one, other in ((question.base, question.head), (question.head, question.base))
    )
    return Job(
        question.target,
        base,
        head,
        question.stage,
        question.tolerance,
        question.budget_s,
        base_target=question.base_target,
    )


def _ask(fresh: Zygote, job: Job, clash: Sequence[str], on_progress: Callable[[str], None]) -> dict[str, Any]:
    """One fresh process, or where the sides clash one for each copy."""
    if clash:
        try:
            return compare_apart(fresh, job, on_progress)
        except BrokenTurnError as error:
            return {"broken": error.args[0]}
    with fresh.started(job) as worker:
        return worker.answer(on_progress)


def _weaker(clash: Sequence[str]) -> str:
    return (
        f"both sides register {', '.join(clash[:3])} with torch, which has one table of operators: each side ran in "
        "processes of its own, which is weaker: only a slowdown of 5 % is found"
    )


def _missing(side: str, what: str) -> GradgateError:
    if side == HEAD:
        return GradgateError(f"{side} has {what}")
    return NewBenchmarkError(f"{side} has {what}; a new benchmark? --new-benchmark counts head alone")


def _said(answers: Sequence[Mapping[str, Any]], quantity: str) -> list[Said]:
    """What each process has to say of a quantity."""
    found = []
    for timing in (answer["timing"] for answer in answers):
        made = timing["decisions"][quantity]
        ratio = Interval(made["low"], made["estimate"], made["high"])
        decision = Decision(made["verdict"], ratio, made["blocks"])
        found.append(Said(decision, tuple(timing["ratios"][quantity]), tuple(timing["same"])))
    return found


def _decisions(answers: Sequence[Mapping[str, Any]]) -> dict[str, Decision]:
    """What the processes together say. A noisy wall clock is a note, not worth another process."""
    made = {}
    for name, first in answers[0]["timing"]["decisions"].items():
        noisy_wall = name == "wall_time" and first["verdict"] == "noisy"
        made[name] = together(_said(answers, name), first["tolerance"], 1 if noisy_wall else MOST_PROCESSES)
    return made


def _undecided(answers: Sequence[Mapping[str, Any]]) -> list[str]:
    """What another process would be asked for: nothing, once there is a regression."""
    made = _decisions(answers)
    if any(decision.verdict == "fail" for decision in made.values()):
        return []
    return [name for name, decision in made.items() if decision.verdict is None]


def _concluded(found: Comparison, question: Question, answers: Sequence[dict[str, Any]], seconds: float) -> Comparison:
    counted = [Metric(**metric) for metric in answers[0].get("metrics", ())]
    timed = [answer for answer in answers if "timing" in answer]
    notes = [*found.notes, *answers[0].get("notes", ())]
    metrics = [*_timed_metrics(timed), *counted]
    if "untimed" in answers[0]:
        metrics.insert(0, Metric("cpu_time", "noisy", tolerance=question.tolerance, reason=answers[0]["untimed"]))
    if "mismatch" in answers[0]:
        notes.append(f"{answers[0]['mismatch']}; nothing was timed")
    self_check, problem = _self_check(question.target, timed)
    notes += [problem] if problem else []
    metrics = [_accepted(metric, question.accept) for metric in metrics]
    notes += [
        f"{name} is accepted ({reason}) but did not grow: take it out"
        for name, reason in question.accept.items()
        if not any(metric.metric == name and metric.accepted for metric in metrics)
    ]
    return replace(
        found,
        metrics=tuple(metrics),
        self_check=self_check,
        notes=tuple(notes),
        environment=answers[0].get("environment", {}),
        seconds=seconds,
    )


def _timed_metrics(answers: Sequence[Mapping[str, Any]]) -> list[Metric]:
    if not answers:
        return []
    metrics = []
    for name, made in _decisions(answers).items():
        verdict, each = made.verdict or "noisy", _said(answers, name)
        metrics.append(
            Metric(
                name,
                verdict,
                ratio=round(made.ratio.estimate, 4),
                interval=(round(made.ratio.low, 4), round(made.ratio.high, 4)),
                tolerance=answers[0]["timing"]["decisions"][name]["tolerance"],
                blocks=made.blocks,
                seconds=round(sum(answer["timing"]["seconds"] for answer in answers), 2),
                mode=answers[0]["timing"]["mode"],
                processes=tuple(f"{one.decision.ratio.estimate - 1:+.1%}" for one in each),
                reason=_why_noisy(each) if verdict == "noisy" else "",
            )
        )
    return metrics


def _why_noisy(each: Sequence[Said]) -> str:
    if any(one.decision.verdict == "fail" for one in each):
        return "a slowdown was seen, but it did not repeat in fresh processes"
    return "the interval is too wide to decide, or identical code differed as much in the A/A pair"


def _self_check(target: str, answers: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], str]:
    """The A/A pair over all processes, and the log of every single one; of the log alone where nothing was timed."""
    folder, problem = log_folder(), ""
    for answer in answers:
        check = answer["timing"]["self_check"]
        problem = record(folder, target, {key: check[key] for key in ("estimate", "blocks", "verdict")})
    alarms, pairs, rate = observed(folder)
    rates = {
        "false_alarms": alarms,
        "pairs": pairs,
        "false_alarm_rate": round(rate.estimate, 4),
        "false_alarm_rate_interval": [round(rate.low, 4), round(rate.high, 4)],
    }
    if not answers:
        return rates, ""
    same = [ratio for answer in answers for ratio in answer["timing"]["same"]]
    tolerance = next(iter(answers[0]["timing"]["decisions"].values()))["tolerance"]
    found = look(same, tolerance, last=True).ratio
    return {
        "ratio": round(found.estimate, 4),
        "interval": [round(found.low, 4), round(found.high, 4)],
        "verdict": "pass" if at_rest(same, tolerance) else "noisy",
        **rates,
    }, problem


def _accepted(metric: Metric, accept: Mapping[str, str]) -> Metric:
    reason = accept.get(metric.metric)
    if reason is None or metric.verdict != "fail":
        return metric
    return replace(metric, verdict="changed", accepted=reason)

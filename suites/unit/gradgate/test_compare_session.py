"""One comparison over several processes: canned answers in, verdict, notes and log out."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.two_checkouts import checkout
from gradgate.compare import session, two_workers
from gradgate.compare.processes import DiedError
from gradgate.compare.session import Question, compare, count_new
from gradgate.core.errors import GradgateError
from gradgate.gates import self_checks
from gradgate.gates.counts import Counts, Operation
from gradgate.gates.decision import look
from gradgate.gates.lines import Line
from gradgate.report.comparison import to_text

COUNTER = {"metric": "saved_bytes", "verdict": "fail", "base": 10, "head": 74, "where": "step.py:4 in f()"}


def spread(effect: float, scatter: float, n: int) -> list[float]:
    return [math.exp(effect + scatter * (2 * i / (n - 1) - 1)) for i in range(n)]


def timing(
    cpu: float = 0.0, wall: float = 0.0, same: float = 0.0, scatter: float = 0.004, n: int = 8
) -> dict[str, Any]:
    """What a worker says of time."""
    decisions, ratios = {}, {}
    for name, effect, tolerance in (("cpu_time", cpu, 0.03), ("wall_time", wall, 0.10)):
        ratios[name] = spread(effect, scatter, n)
        made = look(ratios[name], tolerance, last=True)
        bounds = {"low": made.ratio.low, "estimate": made.ratio.estimate, "high": made.ratio.high}
        decisions[name] = {**bounds, "verdict": made.verdict, "blocks": n, "tolerance": tolerance}
    pair = spread(same, scatter, n)
    check = {"low": min(pair), "estimate": math.exp(same), "high": max(pair), "verdict": "pass", "blocks": n}
    said = {"decisions": decisions, "ratios": ratios, "same": pair, "self_check": check}
    return {"mode": "one-process", "seconds": 1.0, **said}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Canned answers for the processes, in order; the jobs that were asked."""
    monkeypatch.setenv("GRADGATE_CACHE", str(tmp_path / "cache"))
    jobs: list[Any] = []

    def use(*answers: Any) -> list[Any]:
        left = list(answers)

        def ask(fresh, job, clash, on_progress):
            jobs.append((job, list(clash)))
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(session, "_ask", ask)
        monkeypatch.setattr(session, "zygote", lambda: nullcontext())
        return jobs

    return use


def question(folder: Path, **options: Any) -> Question:
    return Question("plain:make", checkout(folder / "base"), checkout(folder / "head"), "base", "head", **options)


def ask(folder: Path, **options: Any) -> Any:
    return compare(question(folder, **options), lambda text: None)


def test_a_pass_takes_one_process(asked, tmp_path: Path):
    """The usual case is the cheap one."""
    jobs = asked({"timing": timing(), "metrics": [], "environment": {"torch": "2"}})
    found = ask(tmp_path)
    assert (found.verdict, len(jobs)) == ("pass", 1)
    assert found.environment == {"torch": "2"}


def test_a_slowdown_repeats_in_a_fresh_process_that_does_not_count_again(asked, tmp_path: Path):
    """Two processes say so: fail, with both estimates."""
    jobs = asked({"timing": timing(0.03)}, {"timing": timing(0.03)})
    found = ask(tmp_path)
    assert found.verdict == "fail"
    assert found.metrics[0].processes == ("+3.0%", "+3.0%")
    assert [(job.count, job.attempt) for job, _ in jobs] == [(True, 0), (False, 1)]


def test_no_further_process_is_asked_once_there_is_a_regression(asked, tmp_path: Path):
    """The wall clock at its own limit could go on asking; whatever it said, the verdict would be the same."""
    jobs = asked({"timing": timing(0.04, wall=0.055)}, {"timing": timing(0.04, wall=0.045)})
    found = ask(tmp_path)
    assert ([metric.verdict for metric in found.metrics], len(jobs)) == (["fail", "noisy"], 2)


def test_a_slowdown_that_does_not_repeat_is_noisy(asked, tmp_path: Path):
    """Never blamed on the code."""
    asked({"timing": timing(0.09)}, {"timing": timing()}, {"timing": timing()})
    found = ask(tmp_path)
    assert (found.verdict, found.metrics[0].verdict) == ("noisy", "noisy")
    assert found.metrics[0].reason == "a slowdown was seen, but it did not repeat in fresh processes"


def test_an_unsteady_self_check_is_noisy(asked, tmp_path: Path):
    """Identical code that differs by more than T/2 says that the machine is at fault."""
    asked(*[{"timing": timing(same=0.03)}] * 3)
    found = ask(tmp_path)
    assert (found.verdict, found.self_check["verdict"]) == ("noisy", "noisy")
    assert "A/A" in found.metrics[0].reason


def test_no_process_is_begun_that_the_budget_does_not_cover(asked, tmp_path: Path):
    """A slowdown seen once is noisy when there is no time to repeat it."""
    jobs = asked({"timing": timing(0.03)})
    assert ask(tmp_path, budget_s=0.0).verdict == "noisy"
    assert len(jobs) == 1


def test_a_noisy_wall_clock_alone_is_a_note(asked, tmp_path: Path):
    """It neither decides nor asks for another process."""
    noisy = timing()
    noisy["decisions"]["wall_time"]["verdict"] = "noisy"
    noisy["ratios"]["wall_time"] = spread(0.0, 0.5, 8)
    jobs = asked({"timing": noisy})
    found = ask(tmp_path)
    assert ([metric.verdict for metric in found.metrics], found.verdict) == (["pass", "noisy"], "pass")
    assert len(jobs) == 1


def test_all_metrics_are_reported_when_one_fails(asked, tmp_path: Path):
    """A failing exact layer does not stop the timing."""
    asked({"timing": timing(), "metrics": [COUNTER]})
    found = ask(tmp_path)
    assert [(metric.metric, metric.verdict) for metric in found.metrics] == [
        ("cpu_time", "pass"),
        ("wall_time", "pass"),
        ("saved_bytes", "fail"),
    ]
    assert found.verdict == "fail"


def test_an_accepted_growth_is_changed_and_shown(asked, tmp_path: Path):
    """With its reason; a reason that is no longer needed is said so."""
    asked({"timing": timing(), "metrics": [COUNTER]})
    found = ask(tmp_path, accept={"saved_bytes": "keeps the mask", "leak": "old"})
    assert (found.verdict, found.metrics[2].accepted) == ("changed", "keeps the mask")
    assert "leak is accepted (old) but did not grow: take it out" in found.notes
    assert "accepted: keeps the mask" in to_text(found)


def test_batches_that_differ_are_incomparable_and_untimed(asked, tmp_path: Path):
    """One process, no timing."""
    asked({"metrics": [{**COUNTER, "verdict": "incomparable"}], "mismatch": "the batches differ"})
    found = ask(tmp_path)
    assert (found.verdict, found.notes) == ("incomparable", ("the batches differ; nothing was timed",))
    assert "identical code not timed; false alarms of single processes on this machine so far: 0 of 0" in to_text(found)


def test_a_step_too_slow_for_the_budget_is_noisy(asked, tmp_path: Path):
    """It says what would be needed."""
    asked({"metrics": [], "untimed": "needs 90 s"})
    found = ask(tmp_path)
    assert (found.verdict, found.metrics[0].reason) == ("noisy", "needs 90 s")


@pytest.mark.parametrize("side", ["base", "head"])
def test_a_missing_factory_names_the_side_and_offers_a_new_benchmark_on_base(asked, tmp_path: Path, side: str):
    """Only a benchmark that base lacks can be new."""
    asked({"missing": [side, "no 'make' in bench.py"]})
    with pytest.raises(GradgateError, match=f"^{side} has no 'make' in bench.py") as raised:
        ask(tmp_path)
    assert ("--new-benchmark" in str(raised.value)) == (side == "base")


def test_a_side_that_raises_is_broken(asked, tmp_path: Path):
    """Its own thing, no verdict on speed."""
    asked({"broken": {"side": "head", "doing": "stepping", "error": "ValueError: x"}})
    found = ask(tmp_path)
    assert found.verdict == "broken"
    assert "head, while stepping: ValueError: x" in to_text(found)


def test_a_worker_that_dies_is_broken_with_its_last_words(asked, tmp_path: Path):
    """Killed by the kernel, for one."""
    asked(DiedError("was killed by SIGKILL", "out of memory"))
    found = ask(tmp_path)
    assert (found.verdict, found.broken["error"]) == ("broken", "was killed by SIGKILL: out of memory")


def test_a_clash_is_answered_by_two_workers_and_said_to_be_weaker(asked, tmp_path: Path):
    """The first answer is thrown away: base had run head's kernel."""
    jobs = asked({"clash": ["my::op"]}, {"timing": timing()})
    found = ask(tmp_path)
    assert (found.verdict, jobs[1][1], jobs[1][0].count) == ("pass", ["my::op"], True)
    assert "weaker" in found.notes[0]


def test_every_process_leaves_its_pair_in_the_log_and_the_rate_is_reported(asked, tmp_path: Path):
    """The observed false-alarm rate stands in every report."""
    asked({"timing": timing(0.03)}, {"timing": timing(0.03)})
    found = ask(tmp_path)
    log = (tmp_path / "cache" / self_checks.NAME).read_text().splitlines()
    assert [json.loads(line)["target"] for line in log] == ["plain:make"] * 2
    assert (found.self_check["false_alarms"], found.self_check["pairs"]) == (0, 2)
    assert "0 of 2 A/A pairs" in to_text(found)


def test_a_log_that_cannot_be_written_is_a_note(asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """No write permission is no reason to refuse a verdict."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GRADGATE_CACHE", str(tmp_path / "file"))
    asked({"timing": timing()})
    found = ask(tmp_path)
    assert found.verdict == "pass"
    assert "cannot be written" in found.notes[0]


def test_half_written_log_lines_are_left_out(tmp_path: Path):
    """A killed run does not spoil the rate."""
    (tmp_path / self_checks.NAME).write_text('{"verdict": "fail"}\n{"verdict": "pass"}\n{"verd\n[]\n')
    alarms, pairs, rate = self_checks.observed(tmp_path)
    assert (alarms, pairs, rate.estimate) == (1, 2, 0.5)


def test_counts_survive_json():
    """Two workers send them."""
    line = Line("step.py", "f", "x = 1", "Net", 4)
    counts = Counts({"op_count": 1}, {"op_count": {line: 1}}, (Operation("aten.mm", line),), ("Net(a)",))
    back = Counts.from_tree(json.loads(json.dumps(counts.tree())))
    assert back == counts
    assert back.operations[0].line.number == 4


class Fake:
    """A worker that serves from memory."""

    def __init__(self, job: Any, answers: list[dict[str, Any]], cost: float = 0.01) -> None:
        self.job, self.answers, self.sent = job, answers, []
        self.cost = cost

    def send(self, text: str) -> None:
        self.sent.append(int(text))
        seconds = int(text) * self.cost
        self.answers.append({"sample": [{"cpu_time": seconds, "wall_time": seconds}, 0.0, 0]})

    def answer(self, on_progress) -> dict[str, Any]:
        return self.answers.pop(0)


READY = {"ready": {"step_s": 0.02, "quantities": ["cpu_time", "wall_time"], "environment": {}, "notes": []}}
COUNTED = Counts({"op_count": 3}).tree()


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch):
    """Workers as they are started."""
    made: list[Fake] = []

    def use(head: dict[str, Any] | None = None, first: dict[str, Any] | None = None) -> list[Fake]:
        @contextmanager
        def started(job, core=None):
            answers = [READY]
            if job.count:
                values = head if job.lone == "head" and head else COUNTED
                answers.insert(0, {"counts": values})
            made.append(Fake(job, [first] if first else answers, 0.0106 if job.lone == "head" else 0.01))
            yield made[-1]

        use.fresh = SimpleNamespace(started=started)
        return made

    return use


def apart(fakes: Any, folder: Path, **options: Any) -> dict[str, Any]:
    job = replace(session._job(question(folder)), **options)
    return two_workers.compare_apart(fakes.fresh, job, lambda text: None)


def test_two_workers_answer_like_one_process_at_five_percent(fakes, tmp_path: Path):
    """Four processes in mirrored order, turns of at least two counted steps, T = 5 %."""
    made = fakes()
    answer = apart(fakes, tmp_path)
    assert [fake.job.lone for fake in made] == ["base", "head", "head", "base"]
    assert min(min(fake.sent) for fake in made) >= two_workers.LEAST_STEPS
    assert answer["timing"]["mode"] == "two-workers"
    assert answer["timing"]["decisions"]["cpu_time"]["tolerance"] == 0.05
    assert answer["timing"]["decisions"]["cpu_time"]["verdict"] == "fail"
    assert answer["metrics"][0]["verdict"] == "pass"


def test_two_workers_stop_at_batches_that_differ_or_a_step_too_slow(fakes, tmp_path: Path):
    """As one process does."""
    fakes(head=Counts({"op_count": 4}, inputs=("Net(a[2])",)).tree())
    assert "untimed" in apart(fakes, tmp_path, budget_s=0.01)
    assert "metrics" not in apart(fakes, tmp_path, count=False)


def test_two_workers_hand_on_what_a_side_lacks(fakes, tmp_path: Path):
    """The first side that says so."""
    fakes(first={"missing": ["base", "no module"]})
    assert apart(fakes, tmp_path) == {"missing": ["base", "no module"]}


def test_a_side_that_breaks_during_its_turn_is_named(fakes, tmp_path: Path):
    """In the middle of the measurement."""
    fakes()
    broken = {"broken": {"side": "head", "doing": "stepping", "error": "x"}}
    remote = two_workers._Remote(Fake(None, [broken]), lambda text: None)
    with pytest.raises(two_workers.BrokenTurnError):
        remote(2)


def test_a_new_benchmark_is_counted_on_head_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """There is nothing to compare with, and it says so."""
    from gradgate.compare import alone

    @contextmanager
    def started(job):
        yield Fake(job, [{"counts": COUNTED}, READY])

    monkeypatch.setattr(alone, "zygote", lambda: nullcontext(SimpleNamespace(started=started)))
    found = count_new(question(tmp_path), lambda text: None)
    assert (found.verdict, found.metrics[0].head) == ("pass", 3)
    assert "nothing to compare with" in to_text(found)

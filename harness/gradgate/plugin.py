"""The pytest plugin: one test a check, ids are the codes. Holds no rule, and imports torch only when a check runs."""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gradgate.checks import catalogue
from gradgate.checks.rules import RULES
from gradgate.core.errors import GradgateError
from gradgate.core.options import OPTIONS
from gradgate.core.project import Project, find_project

if TYPE_CHECKING:
    from gradgate.core.comparison import Comparison
    from gradgate.core.verdict import Result, Verdict
    from gradgate.markers import Budget, MemoryLimit
    from gradgate.subjects.contract import Subject
    from gradgate.watch.block import Watch

PROPERTY = "gradgate"  # the user property under which results travel, as JSON
SETTINGS = pytest.StashKey[dict[str, Any]]()
PROJECT = pytest.StashKey[Project]()
WATCH = pytest.StashKey["Watch"]()


class CheckFailed(AssertionError):  # noqa: N818 - the summary line of a failing test shows this name
    """A check of the catalogue failed; the text is its findings."""


CheckFailed.__module__ = "builtins"  # tracebacks then show the bare name, and the finding right behind it


class OverBudget(AssertionError):  # noqa: N818 - likewise
    """A test's step costs more than its base, or its tensors take more than its limit; the text is the report."""


OverBudget.__module__ = "builtins"


class GradientFault(AssertionError):  # noqa: N818 - likewise
    """A watched test broke a gradient; the text is the findings."""


GradientFault.__module__ = "builtins"


@dataclass(frozen=True)
class TrainerCheck:
    """What a parametrized test gets as `check`: a call runs one check of the catalogue on every stage.

    Args:
        code: the rule.
        load: gives the subject.
        settings: profile, seed and device where the decorator gave them.
        item: the test that runs it; None while it is collected.
    """

    code: str
    load: Callable[[], Subject]
    settings: Mapping[str, Any]
    item: pytest.Item | None = None

    def __repr__(self) -> str:
        """Short: pytest shows it above the failing line."""
        return self.code

    def __call__(self) -> None:
        """Run it.

        Raises:
            CheckFailed: it failed, broke, or passed though it was expected to fail.
            pytest.skip.Exception: it does not apply, or its numbers do not decide.
            pytest.xfail.Exception: it failed as expected.
        """
        __tracebackhide__ = True
        try:
            verdict = self._run()
        except GradgateError as error:
            failure = str(error)
        else:
            if verdict.interrupted:
                raise KeyboardInterrupt
            failure = self._decide(verdict.results)
        if failure:
            raise CheckFailed(failure)

    def _run(self) -> Verdict:
        from gradgate.checks.runner import check_trainer

        if self.item is None:
            return check_trainer(self.load(), select=[self.code], **self.settings)
        configured, project = self.item.config.stash[SETTINGS], self.item.config.stash[PROJECT]
        settings = {**configured, **self.settings}
        verdict = check_trainer(self.load(), select=[self.code], expected=project.expected, **settings)
        self.item.user_properties.append((PROPERTY, _travelling(verdict)))
        return verdict

    def _decide(self, results: Sequence[Result]) -> str:
        """The failing results' text; empty where there are none. Skips and expected failures leave by exception."""
        __tracebackhide__ = True
        bad = [result for result in results if result.status in ("failed", "error")]
        if bad:
            return "\n\n".join(map(self._text, bad))
        expected, open_ = _reasons(results, "expected"), _reasons(results, "inconclusive")
        if expected:
            pytest.xfail(expected)
        if open_:
            pytest.skip(f"inconclusive: {open_}")
        if not any(result.status == "passed" for result in results):
            pytest.skip(f"not applicable: {_reasons(results, 'not_applicable')}")
        return ""

    def _text(self, result: Result) -> str:
        from gradgate.report.text import result_lines

        again = result.reproduce if self.item is None else _again(self.item)
        return "\n".join(result_lines(result, again))


def parametrize(
    subject: Subject | Callable[[], Subject] | str,
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    profile: str | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> pytest.MarkDecorator:
    """One test a check: decorate `def test_trainer(check): check()`.

    Args:
        subject: a Subject; better a function without arguments that builds one, or its `package.module:factory`,
            called once when the first check runs, so that collecting the tests costs nothing.
        select: codes, prefixes or names; empty: every rule that is built.
        ignore: what to leave out, in the same words.
        profile: quick, pr or nightly; None: `--gradgate-profile`, then the ini key.
        seed: likewise.
        device: likewise.

    Returns:
        A decorator; the ids are the codes. Rules that are not built are not parametrized.

    Raises:
        pytest.UsageError: a selector fits no rule.
    """
    given = {"profile": profile, "seed": seed, "device": device}
    settings = {name: value for name, value in given.items() if value is not None}
    load = functools.cache(functools.partial(_load, subject))
    try:
        rules = [rule for rule in catalogue.select(select, ignore) if catalogue.is_built(rule)]
    except GradgateError as error:
        raise pytest.UsageError(f"gradgate.parametrize: {error}") from None
    return pytest.mark.parametrize(
        "check", [pytest.param(TrainerCheck(rule.code, load, settings), id=rule.code) for rule in rules]
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add a flag and an ini key for each row of the table of options."""
    group = parser.getgroup("gradgate", "gradgate: checks of a trainer")
    for option in OPTIONS:
        group.addoption(option.flag, default=None, help=f"{option.help} (default: {option.default})")
        parser.addini(option.ini, f"{option.help} (default: {option.default})")
    words = "run every test under the recorder; a broken gradient fails it (default: off)"
    group.addoption("--gradient-watch", action="store_const", const=True, default=None, help=words)
    parser.addini("gradient_watch", words, type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    """Read the settings, so that a mistake stops the session before it starts."""
    config.addinivalue_line(
        "markers", "gradient_watch(on=True): run under the recorder; a broken gradient fails the test"
    )
    config.addinivalue_line(
        "markers",
        "gradgate_budget(make, base_ref=None, base=None, tolerance=0.03, budget=60, only=(), accept={}): the step that "
        "make() returns may cost no more than base's, by the rule of gradgate compare",
    )
    config.addinivalue_line(
        "markers", "gradgate_limit_memory(size): tensors made in the test never take more than size at once"
    )
    try:
        config.stash[SETTINGS] = {
            option.name: option.resolve(config.getoption(option.flag), config.getini(option.ini)) for option in OPTIONS
        }
        config.stash[PROJECT] = find_project(Path(config.rootpath))
    except GradgateError as error:
        raise pytest.UsageError(str(error)) from error


@pytest.fixture
def gradient_watch(request: pytest.FixtureRequest) -> Watch:
    """The recorder of this test: the test runs inside it and fails with its findings. `findings` is live."""
    from gradgate.watch.block import Watch

    stash: pytest.Stash = request.node.stash
    return stash.setdefault(WATCH, Watch())


def pytest_itemcollected(item: pytest.Item) -> None:
    """Read the markers that set a budget or a limit, so that a mistake stops the session before it starts."""
    _marked(item)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[Any]:
    """Run a test within the limit and the budget that its markers set: the limit around it, the budget after it.

    Each check is told which test runs it: its settings and its node id come from there.
    """
    __tracebackhide__ = True
    for name, value in pyfuncitem.funcargs.items():
        if isinstance(value, TrainerCheck):
            pyfuncitem.funcargs[name] = TrainerCheck(value.code, value.load, value.settings, pyfuncitem)
    budget, limit = _marked(pyfuncitem)
    root = Path(pyfuncitem.config.rootpath)
    if limit is None:
        result = yield
    else:
        with limit.watched(root) as over:
            result = yield
        if over():
            raise OverBudget(over())
    if budget is not None:
        _keep(pyfuncitem, budget, root)
    return result


def _marked(item: pytest.Item) -> tuple[Budget | None, MemoryLimit | None]:
    """What a test's markers ask for."""
    names = ("gradgate_budget", "gradgate_limit_memory")
    budget, limit = (item.get_closest_marker(name) for name in names)
    if budget is None and limit is None:
        return None, None
    from gradgate.markers import Budget, MemoryLimit

    try:
        return budget and Budget.of(budget.args, budget.kwargs), limit and MemoryLimit.of(limit.args, limit.kwargs)
    except GradgateError as error:
        raise pytest.UsageError(str(error)) from None


def _keep(item: pytest.Item, budget: Budget, root: Path) -> None:
    """Compare with the base. Noisy and incomparable are skipped with the reason: never green in silence.

    Raises:
        OverBudget: a regression, or a side that does not run.
        pytest.skip.Exception: nothing can be said, or base does not have the function yet.
    """
    __tracebackhide__ = True
    from gradgate.compare.session import NewBenchmarkError
    from gradgate.report.comparison import to_text

    try:
        found = budget.compared(root)
    except NewBenchmarkError as error:
        pytest.skip(f"nothing to compare with: {str(error).partition(';')[0]}")
    except GradgateError as error:
        raise OverBudget(str(error)) from None
    text = to_text(found)
    item.add_report_section("call", "gradgate", text)
    if found.verdict in ("fail", "broken"):
        raise OverBudget(f"{_grown(found)}\n\n{text}")
    if found.verdict in ("noisy", "incomparable"):
        pytest.skip(f"inconclusive: {found.verdict}: {_why(found)}")


def _grown(found: Comparison) -> str:
    """In one line, since pytest's summary shows only that."""
    if found.broken:
        return "{side} broke, while {doing}: {error}".format(**found.broken)
    names = ", ".join(metric.metric for metric in found.metrics if metric.verdict == "fail")
    return f"{names} of {found.target} grew against {found.base}"


def _why(found: Comparison) -> str:
    return "; ".join(metric.reason for metric in found.metrics if metric.verdict == found.verdict and metric.reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run a test under the recorder where the fixture, the marker, the flag or the ini key asks for it."""
    __tracebackhide__ = True
    if not _is_watched(item):
        return (yield)
    from gradgate.watch.block import Watch

    with item.stash.setdefault(WATCH, Watch()) as watch:
        result = yield
    grave = [finding for finding in watch.findings if finding.severity != "note"]
    if grave:
        raise GradientFault("\n\n".join("\n".join(finding.lines()) for finding in grave))
    return result


def _is_watched(item: pytest.Item) -> bool:
    marker = item.get_closest_marker("gradient_watch")
    if marker is not None:
        return marker.args != (False,)
    if "gradient_watch" in getattr(item, "fixturenames", ()):
        return True
    flag = item.config.getoption("--gradient-watch")
    return bool(item.config.getini("gradient_watch") if flag is None else flag)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what did not run, so that green tests do not pass for a whole catalogue."""
    records = list(_records(terminalreporter.stats))
    if not records:
        return
    from gradgate.report.text import codes_in_short

    terminalreporter.section("gradgate")
    for status, words in (("not_applicable", "not applicable"), ("inconclusive", "inconclusive")):
        for reason, codes in _by_reason(records, status).items():
            terminalreporter.write_line(f"{words}: {', '.join(codes)}: {reason}")
    idle = [rule.code for rule in RULES if not catalogue.is_built(rule)]
    if idle:
        terminalreporter.write_line(f"not built yet ({len(idle)}): {codes_in_short(idle)}")


def _load(subject: Subject | Callable[[], Subject] | str) -> Subject:
    from gradgate.subjects.loading import load_target

    if isinstance(subject, str):
        return load_target(subject)
    return subject() if callable(subject) else subject


def _again(item: pytest.Item) -> str:
    given = [(option.flag, item.config.getoption(option.flag)) for option in OPTIONS]
    return shlex.join(["pytest", item.nodeid, *(str(word) for pair in given if pair[1] is not None for word in pair)])


def _travelling(verdict: Verdict) -> str:
    from gradgate.report.json import to_json

    return json.dumps(to_json(verdict)["results"])


def _reasons(results: Iterable[Result], status: str) -> str:
    return "; ".join(dict.fromkeys(result.reason for result in results if result.status == status))


def _records(stats: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for reports in stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == PROPERTY and report.when == "call":
                    yield from json.loads(value)


def _by_reason(records: Iterable[Mapping[str, Any]], status: str) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for record in records:
        if record["status"] == status:
            stage = f" ({record['stage']})" if record["stage"] else ""
            groups.setdefault(record["reason"], []).append(record["code"] + stage)
    return groups

"""Records: what the results' JSON files hold, as far as a report reads it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gradgate.core.comparison import GateVerdict
from gradgate.core.verdict import Conclusion, Status

Code = Annotated[str, Field(pattern=r"^GG\d{3}$")]
Number = float | int


class Record(BaseModel):
    """Reads what it names and lets the rest be: a newer minor version may say more."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Place(Record):
    """A line of the user's code."""

    file: str
    line: int
    function: str = ""
    source: str = ""


class Excerpt(Record):
    """Lines of a file, as they were when the result was written."""

    file: str
    first: int
    lines: list[str]


class Finding(Record):
    """One fault at one place, as `gradgate.Finding` writes it."""

    code: Code
    name: str
    message: str
    severity: Literal["error", "warning", "note"] = "error"
    culprit: Place | None = None
    victim: Place | None = None
    op: str | None = None
    tensor: dict[str, Any] | None = None
    confirmed: bool | None = None
    fix: str = ""
    count: int = 1
    detail: dict[str, Any] = {}
    why: str = ""
    excerpt: list[Excerpt] = []


class Marked(Record):
    """A finding of the scanner in the subject's source, and what a recorded run says of it."""

    finding: Finding
    mark: str
    reason: str = ""


class Result(Record):
    """One check on one stage."""

    code: Code
    name: str
    status: Status
    stage: str | None = None
    seconds: float = 0.0
    findings: list[Finding] = []
    measured: dict[str, Any] = {}
    allowed: dict[str, Any] = {}
    reason: str = ""
    reproduce: str = ""
    series: dict[str, dict[str, list[tuple[Number | str, Number | str]]]] = {}


class Run(Record):
    """What `gradgate verify --json` wrote."""

    verdict: Conclusion
    subject: str
    environment: dict[str, Any] = {}
    interrupted: bool = False
    not_run: list[str] = []
    results: list[Result]
    source: list[Marked] = []


class Metric(Record):
    """One quantity of a comparison."""

    metric: str
    verdict: GateVerdict
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    tolerance: float | None = None
    blocks: int | None = None
    base: int | float | str | None = None
    head: int | float | str | None = None
    where: str = ""
    source: str = ""
    reason: str = ""
    accepted: str = ""


class Comparison(Record):
    """What `gradgate compare --json` wrote."""

    verdict: str
    target: str
    base: str
    head: str
    metrics: list[Metric]
    self_check: dict[str, Any] = {}
    broken: dict[str, str] = {}
    notes: list[str] = []
    environment: dict[str, Any] = {}


class Kill(Record):
    """One planted fault and what noticed it."""

    id: str
    what: str
    status: str
    codes: list[str] = []
    by: list[dict[str, Any]] = []
    line: str | None = None
    reason: str = ""


class Kills(Record):
    """What `gradgate faults run --json` wrote."""

    outcomes: list[Kill]


class MutationScore(Record):
    """How many mutants the tests kill."""

    killed: int
    mutants: int


class Mutation(MutationScore):
    """What `make mutants` wrote: the harness's own tests under mutation."""

    survivors: list[str]
    groups: dict[str, MutationScore] = {}


class CoveredFile(Record):
    """One file of coverage.json."""

    summary: dict[str, Any]
    missing_lines: list[int] = []


class Coverage(Record):
    """What `coverage json` wrote."""

    totals: dict[str, Any]
    files: dict[str, CoveredFile] = {}


class DiffFile(Record):
    """One file of a diff, its changed lines alone."""

    percent_covered: float
    violation_lines: list[int] = []


class Diff(Record):
    """What `diff-cover --format json:FILE` wrote."""

    diff_name: str = ""
    src_stats: dict[str, DiffFile]
    total_num_lines: int
    total_num_violations: int
    total_percent_covered: float


class Entry(Record):
    """One check of the past."""

    time: str
    subject: str
    numbers: dict[str, Any]
    commit: str = ""


class Changed(Record):
    """A level of the history that became another one."""

    subject: str
    number: str
    time: str
    commit: str = ""
    last: str = ""
    before: Number | str
    after: Number | str
    entries: tuple[int, int]


class History(Record):
    """What `gradgate baseline show --json` wrote."""

    machine: str
    history: list[Entry]
    changes: list[Changed] = []
    not_looked_for: str = ""


class Scan(Record):
    """What `gradgate scan --format json` wrote."""

    findings: list[Finding]
    problems: list[dict[str, str]] = []

"""`gradgate report`: one page from JSON alone, inert whatever the JSON holds, and one clear error for bad input."""

from __future__ import annotations

import http.client
import json
import re
import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

pytest.importorskip("jinja2", reason="the HTML report's templates: pip install 'gradgate[report]'")
pytest.importorskip("matplotlib", reason="the HTML report's plots: pip install 'gradgate[report]'")

from fixtures.report_inputs import COVERAGE, FAULTS, HOSTILE, INPUTS, hostile_run, verify_run
from gradgate.cli import cli
from gradgate.report import page as views
from gradgate.report.serve import server


def gradgate(*words: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, words)], prog_name="gradgate")


def written(folder: Path, **trees: Any) -> Path:
    for name, tree in trees.items():
        (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")
    return folder


def page(folder: Path, **trees: Any) -> str:
    done = gradgate("build", written(folder, **trees), "-o", folder / "report.html")
    assert done.exit_code == 0, done.output
    return (folder / "report.html").read_text(encoding="utf-8")


class _Tags(HTMLParser):
    """Tags with their attributes, and ids."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def tags(text: str) -> list[tuple[str, dict[str, str | None]]]:
    parser = _Tags()
    parser.feed(text)
    return parser.tags


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of every input."""
    folder = tmp_path_factory.mktemp("full")
    return page(folder, verify=verify_run(), **INPUTS)


def test_report_shows_every_input(full: str):
    """Verdict, finding with culprit, victim and fix, plots, ratio, counters, coverage and kills are all on the page."""
    text = full
    for part in (
        "mine: failed", "x.mul_(2)", "y = softmax(x)", "multiply out of place", "1.020 to 1.060", "saved_bytes",
        "91.5 %", "LW-01", "1 of 40 A/A pairs", "GG603", "60 %", "7–8", "3333333333..4444444444", "+11.1%", "confirmed",
        "kill <b>97</b> of 100 mutants (97.0 %): ", "statistics <b>38</b> of 40 (95.0 %), ",
        "recorder <b>59</b> of 60 (98.3 %).",
        "stats.x_wilson__mutmut_3",
    ):  # fmt: skip
        assert part in text, part
    assert text.count("<svg") == 10  # weights, trained ones, flow, two curves, speed, history, and three of memory
    assert text.count("Not given") == 1  # flame graphs, which are no JSON
    assert "mathdefault" not in text  # labels are text


def test_report_of_the_same_json_is_the_same_bytes(full: str, tmp_path: Path):
    """No clock, no random identifier, no name of the folder."""
    assert page(tmp_path, verify=verify_run(), **INPUTS) == full


def test_report_says_what_is_missing(tmp_path: Path):
    """A section without its input names the command that fills it."""
    text = page(tmp_path, verify=verify_run(series=False))
    assert text.count("Not given") == 10
    assert "speed and memory against a base; planted faults; coverage; coverage of the diff; history" in text


def test_report_is_built_without_a_verdict(tmp_path: Path):
    """Kills and coverage alone make a page that claims nothing about the catalogue."""
    text = page(tmp_path, faults=FAULTS, coverage=COVERAGE)
    assert "<h1>No verdict</h1>" in text


def test_report_asks_for_nothing_from_outside(full: str):
    """No element loads anything, and the policy forbids it to what might."""
    for tag, attributes in tags(full):
        for name in ("src", "data", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)


def test_report_identifiers_are_unique_when_there_are_several_plots(full: str):
    """Plots come with their own identifiers, which must not meet."""
    ids = [found["id"] for _, found in tags(full) if found.get("id")]
    assert len(ids) == len(set(ids))


def test_report_is_inert_when_every_text_is_hostile(tmp_path: Path):
    """Markup, quotes, direction marks and NaN end as text: one script, ours, and no image."""
    text = page(
        tmp_path,
        verify=hostile_run(30),
        **{name: _hostile(INPUTS[name]) for name in ("faults", "coverage", "diff", "history")},
    )
    names = [tag for tag, _ in tags(text)]
    assert (names.count("script"), names.count("img")) == (1, 0)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u0000]", text)
    assert not [name for _, found in tags(text) for name in found if name.startswith("on")]


def test_report_says_how_many_findings_it_leaves_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Some in full, some in a row, the rest a number: nothing is dropped in silence."""
    monkeypatch.setattr(views, "IN_FULL", 2)
    monkeypatch.setattr(views, "IN_SHORT", 3)
    text = page(tmp_path, verify=hostile_run(12))
    assert text.count('<div class="finding">') == 2 + 1  # the scanner's
    assert "<h3>3 more in short</h3>" in text
    assert "<b>7 further findings</b>" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ('{"schema_version": 1, "results": [', "is not JSON"),
        ("[1]", "expected a JSON object, got list"),
        ('{"a": 1}', "no result that a report can be built from"),
        ('{"results": []}', "schema_version none is older"),
        ('{"schema_version": 9, "results": []}', "schema_version 9 is newer"),
        ('{"schema_version": 1, "verdict": "passed", "subject": 3, "results": []}', "subject: input should be a valid"),
        ('{"schema_version": 1, "verdict": "good", "subject": "m", "results": []}', "verdict: input should be"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_report_refuses_bad_json_with_one_line(tmp_path: Path, text: str, message: str):
    """File and expectation are named, exit code 2."""
    (tmp_path / "verify.json").write_text(text, encoding="utf-8")
    done = gradgate("build", tmp_path / "verify.json", "-o", tmp_path / "report.html")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr
    assert not (tmp_path / "report.html").exists()


def test_report_refuses_bytes_that_are_no_text(tmp_path: Path):
    """A binary file is told as one."""
    (tmp_path / "verify.json").write_bytes(b'{"a": "\xff"}')
    done = gradgate("build", tmp_path / "verify.json", "-o", tmp_path / "report.html")
    assert (done.exit_code, "is not UTF-8" in done.stderr) == (2, True)


def test_report_refuses_a_missing_file_and_a_folder_without_results(tmp_path: Path):
    """Both are named."""
    (tmp_path / "theirs.json").write_text("{}", encoding="utf-8")
    assert "cannot be read" in gradgate("build", tmp_path / "no.json", "-o", tmp_path / "r.html").stderr
    assert "no results of gradgate" in gradgate("build", tmp_path, "-o", tmp_path / "r.html").stderr


def test_report_refuses_results_of_two_subjects(tmp_path: Path):
    """A page that mixes two trainers would lie."""
    written(tmp_path, verify=verify_run(), other=verify_run() | {"subject": "another"})
    done = gradgate("build", tmp_path, "-o", tmp_path / "report.html")
    assert (done.exit_code, "results of two subjects" in done.stderr) == (2, True)


def test_report_refuses_two_runs_of_one_subject(tmp_path: Path):
    """Two runs are compared, not merged."""
    done = gradgate("build", written(tmp_path, a=verify_run(), b=verify_run()), "-o", tmp_path / "r.html")
    assert (done.exit_code, "gradgate report compare" in done.stderr) == (2, True)


def test_report_leaves_a_page_alone_that_is_not_ours(tmp_path: Path):
    """Somebody's index.html is not overwritten; our own is."""
    written(tmp_path, verify=verify_run())
    (tmp_path / "index.html").write_text("<h1>mine</h1>", encoding="utf-8")
    done = gradgate("build", tmp_path, "-o", tmp_path / "index.html")
    assert (done.exit_code, "not overwritten" in done.stderr) == (2, True)
    assert (tmp_path / "index.html").read_text(encoding="utf-8") == "<h1>mine</h1>"


def test_report_links_the_pages_of_coverage(tmp_path: Path):
    """Relative to the page; a folder without them is refused."""
    written(tmp_path, coverage=COVERAGE)
    (tmp_path / "cov").mkdir()
    words = ("build", tmp_path, "-o", tmp_path / "report.html", "--coverage-html", tmp_path / "cov")
    assert "no index.html in it" in gradgate(*words).stderr
    (tmp_path / "cov" / "index.html").write_text("", encoding="utf-8")
    assert gradgate(*words).exit_code == 0
    assert 'href="cov/index.html"' in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_report_marks_culprit_and_victim_in_the_excerpt(full: str):
    """The lines around, and the role of a line as text, for who sees no colour."""
    lines = re.findall(r'<div( class="\w+")?><span class="no">(\d+)</span><code>(.*?)</code>(.*?)</div>', full)[:3]
    assert [(number, re.sub("<.*?>", "", role)) for _, number, _, role in lines] == [
        ("10", ""),
        ("11", "victim"),
        ("12", "culprit"),
    ]


def test_report_shows_the_lines_alone_when_there_is_no_excerpt(tmp_path: Path):
    """Results of an older version, and files that changed meanwhile."""
    tree = verify_run(series=False)
    for each in (tree["results"][0]["findings"][0], tree["source"][0]["finding"]):
        each |= {"excerpt": []}
    text = page(tmp_path, verify=tree)
    assert 'class="culprit"><span class="role">culprit</span>' in text


def test_report_links_flame_graphs(tmp_path: Path):
    """Those beside it by themselves, those given by name; one that is not there is refused."""
    written(tmp_path, coverage=COVERAGE)
    (tmp_path / "memory").mkdir()
    for name in ("memory/stage1.html", "other.html"):
        (tmp_path / name).write_text("", encoding="utf-8")
    words = ("build", tmp_path, "-o", tmp_path / "report.html")
    for more, link in (((), "memory/stage1.html"), (("--flame-graph", tmp_path / "other.html"), "other.html")):
        assert gradgate(*words, *more).exit_code == 0
        assert f'href="{link}"' in (tmp_path / "report.html").read_text(encoding="utf-8")
    done = gradgate(*words, "--flame-graph", tmp_path / "no.html")
    assert (done.exit_code, "no such file" in done.stderr) == (2, True)


def test_report_compare_names_what_changed(tmp_path: Path):
    """A status that got worse, a new finding and a number that moved; the same run twice has none."""
    after = verify_run()
    before = json.loads(json.dumps(after))
    before["results"][0] |= {"status": "passed", "findings": []}
    before["results"][1]["measured"]["distance"] = 0.5
    before["environment"]["torch"] = "2.0"
    written(tmp_path, before=before, after=after)
    done = gradgate("compare", tmp_path / "before.json", tmp_path / "after.json", "-o", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert done.exit_code == 0
    assert "1 status changes, 1 new findings, 0 gone" in text
    assert "s-worse" in text.split("</style>")[1]
    assert "<td>distance</td>" in text
    assert "2.0 → 2.13" in text


def test_report_compare_knows_a_finding_from_another_checkout(tmp_path: Path):
    """Files are named below the project's folder, so the same line in two checkouts is one finding."""
    tree = json.dumps(verify_run())
    for name in ("one", "two"):
        moved = json.loads(tree.replace('"train.py"', f'"/home/{name}/train.py"'))
        moved["environment"]["root"] = f"/home/{name}"
        written(tmp_path, **{name: moved})
    done = gradgate("compare", tmp_path / "one.json", tmp_path / "two.json", "-o", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert (done.exit_code, "0 new findings, 0 gone" in text, "/home/" in text) == (0, True, False)


def test_report_compare_refuses_other_results_and_other_subjects(tmp_path: Path):
    """Two runs of one subject, nothing else."""
    written(tmp_path, run=verify_run(), other=verify_run() | {"subject": "another"}, faults=FAULTS)
    for name, message in (("faults", "expected one of `gradgate verify"), ("other", "results of two subjects")):
        done = gradgate("compare", tmp_path / "run.json", tmp_path / f"{name}.json", "-o", tmp_path / "r.html")
        assert (done.exit_code, message in done.stderr) == (2, True)


def test_report_serve_answers_with_the_page_alone(tmp_path: Path):
    """The page at /, and no other file of the folder."""
    page_file = tmp_path / "report.html"
    page_file.write_text("<h1>é</h1>", encoding="utf-8")
    with server(page_file, 0) as running:
        worker = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        worker.start()
        try:
            found = []
            for path in ("/", "/report.html"):
                connection = http.client.HTTPConnection("127.0.0.1", running.server_port)
                connection.request("GET", path)
                answer = connection.getresponse()
                found.append((answer.status, answer.read().decode() if path == "/" else ""))
                connection.close()
        finally:
            running.shutdown()
            worker.join()
    assert found == [(200, "<h1>é</h1>"), (404, "")]


def test_report_serve_refuses_a_missing_page_and_a_taken_port(tmp_path: Path):
    """One line each, exit code 2."""
    assert "gradgate report build" in gradgate("serve", tmp_path / "no.html").stderr
    (tmp_path / "r.html").write_text("", encoding="utf-8")
    with server(tmp_path / "r.html", 0) as running:
        done = gradgate("serve", tmp_path / "r.html", "--port", running.server_port)
    assert (done.exit_code, "cannot listen there" in done.stderr) == (2, True)


def _hostile(tree: Any) -> Any:
    """The tree with every text that is free to choose replaced."""
    if isinstance(tree, dict):
        return {key: _hostile(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_hostile(value) for value in tree]
    return HOSTILE if isinstance(tree, str) else tree

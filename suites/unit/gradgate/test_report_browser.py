"""The report in a real Chromium: nothing leaves the page, nothing overflows, and axe-core finds no fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

pytestmark = pytest.mark.nightly
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("no chromium on this machine: apt-get install chromium", allow_module_level=True)
playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'gradgate[browser]'")
axe = pytest.importorskip("axe_playwright_python", reason="pip install 'gradgate[browser]'")
pytest.importorskip("jinja2", reason="pip install 'gradgate[report]'")
pytest.importorskip("matplotlib", reason="pip install 'gradgate[report]'")

from fixtures.report_inputs import INPUTS, hostile_run, verify_run  # noqa: E402
from gradgate.report.differences import differences  # noqa: E402
from gradgate.report.inputs import read_all, read_run  # noqa: E402
from gradgate.report.page import render, render_differences  # noqa: E402

AXE = (Path(axe.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
PAGES = ("full", "hostile", "compare")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of every input, one of hostile texts, one of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    trees: dict[str, Any] = {"verify": verify_run(), **INPUTS}
    for name, tree in (*trees.items(), ("hostile", hostile_run(10_000))):
        (folder / f"{name}.json").write_text(json.dumps(tree), encoding="utf-8")
    runs = [read_run(folder / name) for name in ("hostile.json", "verify.json")]
    mixed = differences(runs[0].model_copy(update={"subject": runs[1].subject}), runs[1])
    texts = {
        "full": render(read_all([folder / f"{name}.json" for name in trees])),
        "hostile": render(read_all([folder / "hostile.json"])),
        "compare": render_differences(mixed),
    }
    for name, text in texts.items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return {name: folder / f"{name}.html" for name in texts}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One headless Chromium."""
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visit:
    """An open page, what it said on the console and what it asked for."""

    def __init__(
        self, browser: Any, file: Path, *, width: int = 1440, theme: str = "light", script: bool = True
    ) -> None:
        self.context = browser.new_context(
            color_scheme=theme, viewport={"width": width, "height": 900}, bypass_csp=True, java_script_enabled=script
        )
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(file.as_uri())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("name", PAGES)
def test_page_is_accessible_and_fits(browser: Any, pages: dict[str, Path], name: str, width: int, theme: str):
    """No violation of axe-core, nothing wider than the window, no message and no request but for the page itself."""
    with Visit(browser, pages[name], width=width, theme=theme) as visit:
        assert [url for url in visit.asked if not url.startswith(("file:", "data:"))] == []
        assert visit.said == []
        root = "document.documentElement"
        assert visit.page.evaluate(f"{root}.scrollWidth - {root}.clientWidth") == 0
        if name != "hostile":  # axe takes minutes for 2,000 rows; the same templates are audited with less in them
            visit.page.evaluate(AXE)
            found = visit.page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
            assert [(each["id"], each["nodes"][0]["html"]) for each in found] == []


def test_page_filters_by_word_and_status(browser: Any, pages: dict[str, Path]):
    """What is typed stays, the rest is hidden and counted; reset shows all again; the slash leads to the field."""
    with Visit(browser, pages["full"]) as visit:
        page = visit.page
        page.keyboard.press("/")
        page.keyboard.type("perturb")
        assert page.locator("[data-status]:visible").count() == 1
        assert page.locator("#told").inner_text() == "1 of 4 entries shown"
        page.get_by_role("button", name="Reset").click()
        page.wait_for_function("document.getElementById('told').textContent.startsWith('4 of')")
        page.get_by_label("passed").uncheck()
        assert page.locator("[data-status=passed]:visible").count() == 0
        assert visit.said == []


def test_page_is_readable_without_a_script(browser: Any, pages: dict[str, Path]):
    """Everything but the filter is there."""
    with Visit(browser, pages["full"], script=False) as visit:
        assert visit.page.locator("#filter").is_hidden()
        assert visit.page.locator("[data-status]:visible").count() == 4


def test_page_answers_to_the_keyboard(browser: Any, pages: dict[str, Path]):
    """The first stop skips to the content, and the numbers behind a plot open with Enter."""
    with Visit(browser, pages["full"]) as visit:
        visit.page.keyboard.press("Tab")
        assert visit.page.evaluate("document.activeElement.className") == "skip"
        summary = visit.page.locator("figure summary").first
        summary.focus()
        visit.page.keyboard.press("Enter")
        assert visit.page.locator("figure details[open]").count() == 1


def test_page_runs_no_script_but_ours(browser: Any, pages: dict[str, Path]):
    """The page's own policy stops a script that somebody got into it."""
    text = (
        pages["full"].read_text(encoding="utf-8").replace("</main>", "<script>document.title = 'taken'</script></main>")
    )
    broken = pages["full"].with_name("broken.html")
    broken.write_text(text, encoding="utf-8")
    context = browser.new_context()
    page = context.new_page()
    page.goto(broken.as_uri())
    assert page.title() == "failed: mine"
    context.close()

"""The report in a real browser: nothing that a model wrote runs, nothing is asked for, and rollouts can be found and read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("jinja2", reason="jinja2 is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")
pytest.importorskip("playwright", reason="playwright is not installed")

from launch.report import write_comparison, write_report
from launch.report_page import visible
from rl.config import TrackingSection
from rl.metrics import MetricsLog
from rl.rollout_log import write_rollouts
from rl.run_folder import Evaluation, WindowAccuracy, write_config, write_evaluation
from tests.launch.test_report import CONFIG, XSS, rollout_group, write_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
SWITCHES = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
JSON_BREAKERS = (
    '"}]}</script><script>alert(1)</script>',
    "\\u003cscript\\u003e",
    "\u2028alert(1)\u2029",
    '\\";alert(1);//',
)
ATTACKS = (*XSS, *JSON_BREAKERS)


class Opened:
    """A page, and all that it did."""

    def __init__(self, browser: Browser, file: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.page.goto(file.as_uri())
        assert self.requests.pop(0) == file.as_uri()

    def texts(self, selector: str) -> list[str]:
        return self.page.locator(selector).all_text_contents()

    def choose(self, **filters: str) -> list[str]:
        """Set filters by their ids after clearing all; returns the found rows' scores."""
        self.page.get_by_role("button", name="Clear").click()
        self.page.wait_for_function("document.getElementById('words').value === ''")
        for name, value in filters.items():
            field = self.page.locator(f"#{name}")
            if field.evaluate("node => node.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        return self.texts("#list .score")

    @property
    def is_as_wide_as_the_window(self) -> bool:
        return bool(self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "made"
    write_run(folder)
    return folder


@pytest.fixture(scope="module")
def report(run_dir: Path) -> Path:
    return write_report(run_dir)


@pytest.fixture(scope="module")
def opened(browser: Browser, report: Path) -> Iterator[Opened]:
    opened = Opened(browser, report, viewport={"width": 1280, "height": 900})
    yield opened
    opened.context.close()


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs in which every text is an attack, and a page about both."""
    folders = [tmp_path_factory.mktemp("hostile") / name for name in ("one", "two")]
    for number, folder in enumerate(folders):
        folder.mkdir()
        write_config(
            folder, {**CONFIG.model_dump(), "run": {"name": ATTACKS[number]}}, {"versions": {ATTACKS[2]: ATTACKS[3]}}
        )
        metrics = MetricsLog(folder, TrackingSection(), CONFIG.model_dump(), None)
        metrics.log(1, {"reward/mean": 0.5, f"reward/{ATTACKS[4]}/mean": 0.5, "reward/lookup/mean": 0.5})
        metrics.close()
        groups = [
            rollout_group(
                1, [(attack, 1.0), (f"{attack} {attack}", None)], problem_id=f"{i}{attack}", task=attack, context=attack * 300,
                question=attack, answers=(attack, attack), answer_type="text",
            )
            for i, attack in enumerate(ATTACKS)
        ]  # fmt: skip
        write_rollouts(folder, 1, [(group, (1.0, -1.0)) for group in groups])
        (folder / "alarms.jsonl").write_text(
            '{"step": 1, "name": "<img onerror=alert(1) src=x>", "message": "</script>"}\n'
        )
        (folder / "result.json").write_text(
            '{"config": {"model": "<script>alert(1)</script>"}, "items": [{"problem_id": "<b>", "value": 1}]}'
        )
        write_evaluation(
            folder, Evaluation(checkpoint="final", step=1, windows={"160": WindowAccuracy(num=8, greedy=0.5)})
        )
    return write_comparison(folders)


def test_no_text_of_a_model_runs_and_nothing_is_asked_for(browser: Browser, hostile: Path) -> None:
    opened = Opened(browser, hostile)
    while opened.page.locator("#more").is_visible():
        opened.page.locator("#more").click()
    # Of each run, every attack once with a score and once without.
    assert opened.page.locator("#list details").count() == 2 * 2 * len(ATTACKS)
    opened.page.evaluate("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    opened.page.wait_for_function(
        "document.querySelectorAll('#list pre').length === 3 * document.querySelectorAll('#list details').length"
    )
    shown = set(opened.texts("#list pre"))
    assert all(visible(attack) in shown for attack in ATTACKS), "each attack must be shown, as text"
    opened.page.locator("#words").fill("</script><script>")  # what is found is marked, still as text
    assert opened.page.locator("#list details").count() > 0
    assert opened.page.locator("#list :is(script, img, iframe, svg, a, object, form, style, base)").count() == 0
    assert (opened.requests, opened.complaints) == ([], [])
    opened.context.close()


def test_a_script_in_the_page_would_not_run_and_markup_cannot_be_made_of_text(opened: Opened) -> None:
    made = opened.page.evaluate(
        """() => {
            const script = document.createElement("script");
            try { script.textContent = "window.ran = true"; document.body.append(script); } catch { return "refused"; }
            return window.ran ? "ran" : "did not run";
        }"""
    )
    assert made in ("refused", "did not run")
    refused = (
        "() => { try { document.createElement('p').innerHTML = '<b>x</b>'; return false; } catch { return true; } }"
    )
    assert opened.page.evaluate(refused)
    opened.complaints.clear()  # Chromium reports both


def test_rollouts_are_found_by_words_step_task_outcome_and_problem(opened: Opened) -> None:
    # 6 steps: one group of right, wrong, cut off (wrong) and unknown, and a dead one of two right answers.
    assert len(opened.choose()) == 36
    assert opened.choose(words="answer is 48231") == ["0", "timeout"] * 6
    assert opened.choose(words="answer 48231", step="11") == ["0", "timeout"]
    assert opened.choose(step="51") == ["1", "0", "0", "timeout", "1", "1"]
    assert opened.choose(task="lookup", outcome="right") == ["1"] * 18
    assert opened.choose(outcome="unknown") == ["timeout"] * 6
    assert opened.choose(outcome="cut") == ["0"] * 6
    assert opened.choose(outcome="untrained", step="1") == ["timeout", "1", "1"]
    assert opened.choose(problem="lookup-1") == ["1", "0", "0", "timeout"]  # an id, though others begin with it
    assert len(opened.choose(problem="lookup-5")) == 6  # none: those that hold it, 51 and 52
    assert opened.choose(words="no such word") == []
    assert opened.texts("#found") == ["0 of 36 rollouts"]


def test_rollouts_are_ordered_and_the_unknown_comes_last(opened: Opened) -> None:
    assert opened.choose(step="1", order="worst") == ["0", "0", "1", "1", "1", "timeout"]
    assert opened.choose(step="1", order="best") == ["1", "1", "1", "0", "0", "timeout"]
    assert opened.choose(order="late")[:6] == ["1", "0", "0", "timeout", "1", "1"]
    assert opened.texts("#list .step")[0] == "step 51"


def test_an_opened_rollout_shows_what_was_asked_answered_accepted_and_why(opened: Opened) -> None:
    opened.choose(words="48231", outcome="wrong", step="1")
    row = opened.page.locator("#list details").first
    row.locator("summary").focus()
    opened.page.keyboard.press("Enter")  # as the keyboard does it
    row.locator("pre").first.wait_for()
    facts = dict(zip(row.locator("dt").all_text_contents(), row.locator("dd").all_text_contents(), strict=True))
    assert facts["read as the answer"] == "48231"
    assert facts["accepted"] == "48213"
    assert facts["verdict"] == "rule, ok: number differs"
    assert (facts["reward"], facts["advantage"]) == ("0", "-0.580")
    question, response, document = row.locator("pre").all_text_contents()
    assert question.startswith("Which special number")
    assert response.endswith("Therefore, the answer is 48231")
    assert document.startswith("The register") and document.endswith("continued. ")
    assert set(row.locator("mark").all_text_contents()) == {"48231"}
    row.get_by_role("button", name="all answers to it").click()
    assert opened.texts("#list .score") == ["1", "0", "0", "timeout"]
    assert (opened.requests, opened.complaints) == ([], [])


def test_a_narrow_window_needs_no_sideways_scrolling(browser: Browser, report: Path, hostile: Path) -> None:
    for file in (report, hostile):
        for width in (320, 390, 800):
            opened = Opened(browser, file, viewport={"width": width, "height": 800})
            opened.page.locator("#list summary").first.click()
            assert opened.is_as_wide_as_the_window, (file.name, width)
            opened.context.close()


def test_dark_is_dark_and_print_is_light(browser: Browser, report: Path) -> None:
    def brightness() -> int:
        color: str = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in color.removeprefix("rgb(").removesuffix(")").split(","))

    opened = Opened(browser, report, color_scheme="dark")
    assert brightness() < 3 * 60
    opened.page.emulate_media(media="print")
    assert brightness() > 3 * 200
    assert not opened.page.locator("#filters").is_visible()
    opened.context.close()


def test_without_javascript_everything_else_is_there(browser: Browser, report: Path) -> None:
    opened = Opened(browser, report, java_script_enabled=False)
    assert not opened.page.locator("#browser").is_visible()
    # The first, a middle and the last step: a right answer, a wrong one that was cut off, one with an unknown score.
    assert opened.page.locator("noscript details").count() == 3 * 3
    assert opened.page.locator("svg").count() > 8
    assert opened.requests == []
    opened.context.close()


def test_a_page_about_two_runs_tells_them_apart(browser: Browser, run_dir: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run_dir, other)
    opened = Opened(browser, write_comparison([run_dir, other], tmp_path / "page.html"))
    assert opened.page.locator("h1").text_content() == "other against made"
    assert len(opened.choose(run="1", step="1")) == 6
    assert set(opened.texts("#list .key")) == {"other"}
    assert len(opened.choose(step="1")) == 12
    assert (opened.requests, opened.complaints) == ([], [])
    opened.context.close()

"""The report in a real browser: what a reader clicks, types, downloads and prints, on screens of several sizes."""

import json
import shutil
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from pypdf import PdfReader
from synthetic_bench import TASKS, write_bench
from synthetic_history import SUITE, nights, past

from reports.build import build
from reports.pages.trend_page import write
from reports.record.names import AXES
from reports.trend.history import history

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium here (Debian: apt-get install chromium)")

HOSTILE = "<script>window.hurt = 1</script></svg></pre><img src=x onerror='window.hurt = 1'>\0\u202e\u2067evil\u200f"
WIDTHS = (375, 1440)


def report(folder: Path, **options) -> Path:
    write_bench(folder, **{"steps": 12, "questions": 40, "tasks": TASKS[:1]} | options)
    build(folder)
    return folder / "report.html"


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> Path:
    return report(tmp_path_factory.mktemp("usual"), steps=60, questions=200, tasks=TASKS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser):
    """Opens a report; at the end nothing may have gone wrong in it, and nothing may have been asked of the network."""

    @contextmanager
    def opened(path: Path, **context) -> Iterator[Page]:
        faults: list[str] = []
        with browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | context) as own:
            page = own.new_page()
            page.set_default_timeout(5_000)
            page.on("console", lambda message: faults.append(message.text))
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on("dialog", lambda dialog: faults.append(dialog.message))
            own.on("request", lambda request: faults.append(request.url) if outside(request.url) else None)
            page.goto(path.as_uri())
            yield page
        assert faults == []

    return opened


def outside(address: str) -> bool:
    return not address.startswith(("file:", "data:", "blob:"))


def shown_axes(page: Page, section: str) -> list[str]:
    figures = page.locator(f"#{section} [data-axis]").all()
    return [figure.get_attribute("data-axis") for figure in figures if figure.is_visible()]


def overflows(page: Page) -> list[int]:
    """By how many pixels the page is wider than the window, on each of the WIDTHS."""
    found = []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        found.append(max(0, page.evaluate("document.documentElement.scrollWidth - window.innerWidth")))
    return found


def test_choosing_an_axis_shows_it_in_every_curve(usual, visit):
    with visit(usual) as page:
        assert shown_axes(page, "reward") == ["samples"]  # the budget's currency
        page.locator("#reward").get_by_role("radio", name="device seconds").check()
        assert [shown_axes(page, id_) for id_ in ("reward", "curve-1", "curve-2")] == [["device_seconds"]] * 3


def test_the_axis_is_chosen_with_the_keyboard_too(usual, visit):
    with visit(usual) as page:
        page.locator("#reward .switch input:checked").focus()
        page.keyboard.press("ArrowRight")
        assert shown_axes(page, "reward") == shown_axes(page, "curve-1") == ["generated_tokens"]


def test_every_axis_is_reached_without_javascript(usual, visit):
    with visit(usual, java_script_enabled=False) as page:
        for axis in ("steps", "samples", "generated_tokens", "device_seconds", "flops"):
            page.locator(f"#curve-1 input[value={axis}]").check()
            assert shown_axes(page, "curve-1") == [axis]


def test_the_audit_shows_the_differences_and_on_demand_what_is_equal(usual, visit):
    with visit(usual) as page:
        rows = page.locator(".audit tbody tr")
        kinds = [row.get_attribute("data-kind") for row in rows.all()]
        assert [row.is_visible() for row in rows.all()] == [kind != "shared" for kind in kinds]
        page.get_by_role("checkbox", name="Differences only").uncheck()
        assert all(row.is_visible() for row in rows.all())


def test_completions_are_filtered_opened_and_closed(usual, visit):
    with visit(usual) as page:
        examples = page.locator(".example")
        assert "only PPO right" in examples.first.inner_text()
        assert examples.count() == 40
        page.get_by_role("radio", name="both wrong").check()
        shown = [example for example in examples.all() if example.is_visible()]
        assert len(shown) == 8
        answer = shown[0].locator("pre").nth(1)
        assert not answer.is_visible()
        shown[0].locator("summary").click()
        assert answer.is_visible()
        page.get_by_role("radio", name="only flips").check()
        shown = [example for example in examples.all() if example.is_visible()]
        assert len(shown) == 24
        assert all("only" in example.locator(".tag").inner_text() for example in shown)
        page.get_by_role("button", name="Open all").click()
        assert all(example.locator("pre").first.is_visible() for example in shown)
        page.get_by_role("button", name="Close all").click()
        assert not any(example.locator("pre").first.is_visible() for example in shown)


def test_the_data_is_downloaded_from_the_page(usual, visit):
    with visit(usual) as page:
        saved = {}
        for name in ("comparison.json", "metrics.csv"):
            with page.expect_download() as download:
                page.get_by_role("link", name=name).click()
            assert download.value.suggested_filename == name
            saved[name] = Path(download.value.path()).read_text(encoding="utf-8")
        stated = json.loads((usual.parent / "comparison.json").read_text(encoding="utf-8"))
        assert json.loads(saved["comparison.json"]) == stated
        lines = saved["metrics.csv"].splitlines()
        assert lines[0] == "metric,unit,arm,seed,value"
        assert len(lines) - 1 == sum(len(arm["per_seed"]) for m in stated["metrics"] for arm in m["arms"].values())


@pytest.mark.parametrize(
    ("scheme", "rules"), [("light", {}), ("dark", {"runOnly": ["color-contrast"]})], ids=["light", "dark"]
)
def test_axe_finds_no_serious_fault(usual, visit, scheme, rules):
    """In the dark only what colours can change is looked at again."""
    with visit(usual, color_scheme=scheme, viewport={"width": 375, "height": 800}) as page:
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        found = Axe().run(page, options={"resultTypes": ["violations"], **rules}).response
        assert found["passes"]
        grave = [fault for fault in found["violations"] if fault["impact"] in ("serious", "critical")]
        assert [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in grave] == []


def test_the_dark_page_is_dark(usual, visit):
    ink = "getComputedStyle(document.querySelector('#reward figure text')).fill"
    with visit(usual) as light, visit(usual, color_scheme="dark") as dark:
        assert light.evaluate(ink) != dark.evaluate(ink)


def test_the_page_does_not_scroll_sideways(usual, visit):
    with visit(usual) as page:
        page.get_by_role("button", name="Open all").click()
        assert overflows(page) == [0, 0]


def test_print_keeps_every_figure_and_every_table(usual, visit):
    with visit(usual, java_script_enabled=False) as page:
        reader = PdfReader(BytesIO(page.pdf(format="A4")))
        # The browser sets ligatures, which NFKC takes apart again.
        text = unicodedata.normalize("NFKC", "".join(sheet.extract_text() for sheet in reader.pages))
        text = " ".join(text.split())
        for axis in ("steps", "samples", "generated_tokens", "device_seconds", "flops"):
            assert text.count(f"Mean reward against {AXES[axis][0].lower()}.") == 1
            assert text.count(f"Accuracy against {AXES[axis][0].lower()}.") == 2
        for label in ("Accuracy after training, %", "Peak memory, MiB", "Tensors held, MiB", "Time per step, ms"):
            assert label in text
        assert "Explained variance, critic" in text
        assert text.count("Data of this figure") == 15 + 5
        assert "kl.placement" in text  # an equal setting
        assert "McNemar p" in text  # a statistic that is folded on the screen
        assert text.count("####") == 3 * 40  # every completion


def test_a_hostile_completion_is_shown_and_does_nothing(tmp_path, visit):
    path = report(tmp_path, completions=dict.fromkeys(range(40), HOSTILE) | {0: HOSTILE + "x" * 1_000_000})
    assert path.stat().st_size < 3_000_000
    with visit(path, viewport={"width": 375, "height": 800}) as page:
        page.get_by_role("button", name="Open all").click()
        shown = page.locator(".example:has-text('q0,') .answers pre").first.inner_text()
        assert shown.startswith(
            "<script>window.hurt = 1</script></svg></pre><img src=x onerror='window.hurt = 1'>"
            "␀⟨U+202E⟩⟨U+2067⟩evil⟨U+200F⟩xxx"
        )
        assert page.get_by_text("The first 2,000 of 1,000,0").first.is_visible()
        assert page.evaluate("window.hurt") is None
        assert overflows(page) == [0, 0]


NAME = "\"q'><img src=x onerror='window.hurt = 1'>&amp;"
ODD = {
    "one seed": ({"seeds": (0,)}, "No verdict"),
    "all runs of an arm failed": ({"failures": {("ppo", s): "diverged" for s in (0, 1, 2)}}, "no run of PPO finished"),
    "arms of different lengths": ({"steps": {"ppo": 8, "grpo": 20}}, "PPO"),
    "a metric that is never a number": ({"nan_metric": "reward/mean"}, "No run recorded a finite value."),
    "names with quotes and brackets": (
        {
            "suite": NAME,
            "bench_id": "synthetic-1",
            "tasks": ("a<b>'c\"",),
            "arms": ("p<b>&$_x", "grpo"),
            "environment": {"cpu": NAME},
        },
        f"p<b>&$_x or GRPO on {NAME}",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_benchmarks_are_right_and_readable(tmp_path, visit, name):
    options, said = ODD[name]
    with visit(report(tmp_path, **options)) as page:
        expect(page.get_by_text(said).first).to_be_visible()
        assert overflows(page) == [0, 0]
        assert page.evaluate("window.hurt") is None


def test_five_arms_are_readable_on_a_phone_and_by_a_screen_reader(tmp_path, visit):
    path = report(tmp_path, arms=("ppo", "grpo", "rloo", "remax", "gspo"), failures={("gspo", 1): "diverged"})
    with visit(path, viewport={"width": 375, "height": 800}) as page:
        rows = page.locator("table.contrasts tbody tr")
        assert rows.count() == 4
        assert all(row.locator(".badge").is_visible() for row in rows.all())
        found = Axe().run(page, options={"resultTypes": ["violations"]}).response
        grave = [fault for fault in found["violations"] if fault["impact"] in ("serious", "critical")]
        assert [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in grave] == []
        page.get_by_role("link", name="PPO − REMAX").click()
        assert page.locator("#contrast-3").is_visible()
        assert overflows(page) == [0, 0]


def test_the_trend_page_has_no_serious_fault_and_does_not_scroll_sideways(tmp_path, visit):
    path = tmp_path / "trend.html"
    write(path, history(SUITE, [*nights(20), past(21, comparison__problem=HOSTILE.replace("\0", "") + "x" * 3000)]))
    with visit(path, viewport={"width": 375, "height": 800}) as page:
        data = page.get_by_text("Data of this figure")
        assert data.count() == page.locator("figure svg").count() == 3
        data.first.focus()
        page.keyboard.press("Enter")
        expect(page.locator("#difference table")).to_be_visible()
        page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        found = Axe().run(page).response["violations"]
        page.emulate_media(color_scheme="dark")
        found += Axe().run(page, options={"runOnly": ["color-contrast"]}).response["violations"]
        assert [fault["id"] for fault in found if fault["impact"] in ("serious", "critical")] == []
        assert overflows(page) == [0, 0]

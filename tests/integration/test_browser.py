"""The report as a reader meets it: in a browser, from a file, with no network.

Set BENCHMARK_RUNS_DIR to a folder of run folders to open a report about them as well.
"""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from fake_runs import LINF, fake_codes, fake_run, fake_spec

from reports.html import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
axe = pytest.importorskip(
    "axe_playwright_python.sync_playwright", reason="needs axe-playwright-python"
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
RUNS = os.environ.get("BENCHMARK_RUNS_DIR")
DESKTOP, PHONE = (1280, 900), (390, 844)
MOST = 15_000_000  # bytes of a page
PATIENCE = 600_000  # milliseconds after which a page counts as hanging
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
STATES = {
    ("madry", 0.1): ("failed", "CUDA out of memory <b>now</b>"),
    ("ot-cla-adv", 0.2): ("skipped", "the surrogate is off"),
}
HOSTILE = "<script>alert(1)</script>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """A run in which cells failed and were skipped, with a note on a defense."""
    measures = {"madry": {"notes": ["Twice the epochs."]}}
    missing = [("a_b%$#", 0.4)]
    folder = tmp_path_factory.mktemp("one")
    run_dir = fake_run(folder, states=STATES, missing=missing, measures=measures)
    fake_codes(run_dir)
    return write_report([run_dir])


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    eps = (0.0, 0.1, 0.2)
    specs = [fake_spec((name, "undefended"), eps, seeds=(0,)) for name in ("madry", "rse")]
    return write_report([fake_run(folder / str(i), spec) for i, spec in enumerate(specs)])


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    if not RUNS:
        pytest.skip("BENCHMARK_RUNS_DIR names no folder of runs")
    found = sorted(path.parent for path in Path(RUNS).glob("*/cells.parquet"))
    return write_report(found, tmp_path_factory.mktemp("real"))


@pytest.fixture(scope="module")
def contexts(browser):
    """With scripts and without: plotly.js is compiled once for all pages of a context."""
    found = {on: browser.new_context(java_script_enabled=on) for on in (True, False)}
    for context in found.values():
        context.set_default_timeout(PATIENCE)
    playwright.expect.set_options(timeout=PATIENCE)
    return found


@pytest.fixture
def visit(contexts):
    """Open a page and keep what the browser complains of, asks for and is refused."""
    pages = []

    def open_page(path, size=DESKTOP, *, scripts=True):
        page = contexts[scripts].new_page()
        pages.append(page)
        page.set_viewport_size({"width": size[0], "height": size[1]})
        seen = SimpleNamespace(page=page, complaints=[], requests=[], refused=[])
        page.on("console", lambda message: seen.complaints.append(message.text))
        page.on("pageerror", lambda error: seen.complaints.append(str(error)))
        page.on("request", lambda request: seen.requests.append(request.url))
        page.on("requestfailed", lambda r: seen.refused.append((r.url, r.failure)))
        page.goto(path.as_uri())
        return seen

    yield open_page
    for page in pages:
        page.close()


def draw_all(page):
    """Scroll over every chart, so that all are drawn; return their number."""
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    charts = page.locator("figure[data-chart]")
    for figure in charts.all():
        figure.scroll_into_view_if_needed()
        figure.locator(".chart .legend").wait_for(state="attached")
    page.evaluate("scrollTo(0, 0)")
    return charts.count()


def overflow(page):
    """How far the page scrolls sideways: wide tables scroll inside their own frame."""
    html = "document.documentElement"
    return page.evaluate(f"{html}.scrollWidth - {html}.clientWidth")


def abroad(seen):
    return [url for url in seen.requests if not url.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize(
    ("report", "size"),
    [("one", DESKTOP), ("one", PHONE), ("two", DESKTOP), ("real", DESKTOP), ("real", PHONE)],
)
def test_a_report_opens_by_double_click(report, size, visit, request):
    path = request.getfixturevalue(report)
    assert path.stat().st_size < MOST
    seen = visit(path, size)
    images = seen.page.eval_on_selector_all(
        "img", "images => images.map(i => [i.complete && i.naturalWidth > 0, i.alt])"
    )
    assert images
    assert all(drawn and words for drawn, words in images)
    assert seen.page.locator("table").count() >= 4
    assert draw_all(seen.page) >= 3
    assert seen.complaints == []
    assert abroad(seen) == []
    assert overflow(seen.page) <= 0


@pytest.mark.parametrize(("report", "size"), [("one", DESKTOP), ("two", PHONE), ("real", DESKTOP)])
def test_axe_finds_no_barrier(report, size, visit, request):
    page = visit(request.getfixturevalue(report), size).page
    page.locator("figure[data-chart]").first.scroll_into_view_if_needed()
    page.locator(".drawn").first.wait_for()
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    page.evaluate("scrollTo(0, 0)")
    assert overflow(page) <= 0
    options = {"runOnly": RULES, "resultTypes": ["violations"]}
    found = axe.Axe().run(page, options=options).response["violations"]
    assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found] == []


def test_nothing_else_runs_or_loads(one, visit, tmp_path):
    strangers = "<script>document.title = 'taken'</script><img src='https://a.invalid/x.png' alt=x>"
    page = tmp_path / "page.html"
    page.write_text(one.read_text("utf-8").replace("</body>", f"{strangers}</body>"), "utf-8")
    seen = visit(page)
    assert "taken" not in seen.page.title()
    assert len([words for words in seen.complaints if "Content Security Policy" in words]) == 2
    assert seen.refused == [("https://a.invalid/x.png", "csp")]


def test_a_report_can_be_read_without_a_script(one, visit):
    seen = visit(one, scripts=False)
    figures = seen.page.locator("figure[data-chart] img")
    assert figures.count() >= 3
    assert all(image.is_visible() for image in figures.all())
    assert seen.page.locator("button:visible, .chart").count() == 0


# --- tables that sort


def column(table, index):
    cells = table.locator(f"tbody tr > :nth-child({index + 1})").all_inner_texts()
    return [cell.split()[0] if cell.split() else "" for cell in cells]


def test_a_table_sorts_by_value_with_words_last_and_goes_back(one, visit):
    table = visit(one).page.locator("table", has_text="Robust accuracy on mnist under pgd").first
    at = 2 + LINF.index(0.1)
    head = table.locator("thead th").nth(at)
    before = column(table, at)
    numbers = sorted(float(word) for word in before if word != "failed")
    assert before != [*map("{:.3f}".format, numbers), "failed"]
    assert (before.count("failed"), head.get_attribute("aria-sort")) == (1, None)
    for key, state, wanted in (
        ("click", "ascending", [*numbers, "failed"]),
        ("Enter", "descending", [*numbers[::-1], "failed"]),
    ):
        button = head.locator("button")
        button.click() if key == "click" else button.press(key)
        assert head.get_attribute("aria-sort") == state
        after = column(table, at)
        assert [word if word == "failed" else float(word) for word in after] == wanted
    # Another column starts anew.
    table.locator("thead button").first.press("Space")
    assert table.locator("[aria-sort]").count() == 1
    assert column(table, 0) == sorted(column(table, 0), key=str.lower)
    for _ in range(2):
        table.locator("thead button").first.click()
    assert (table.locator("[aria-sort]").count(), column(table, at)) == (0, before)


def test_a_remark_stays_below_its_row(one, visit):
    table = visit(one).page.locator("table", has_text="Trained models:").first
    assert table.locator(".remark").count()
    for _ in range(2):
        table.locator("thead button").first.click()
        for remark in table.locator(".remark").all():
            above = remark.locator("xpath=preceding-sibling::tr[1]")
            assert above.locator("th").inner_text() == "madry"


# --- defenses to hide


LINES = (
    "[...document.querySelectorAll('.chart')]"
    ".flatMap(c => c.data.filter(t => t.visible !== false)).map(t => t.meta.defense)"
)


def visible_lines(page):
    """Names of the lines that are shown, over all charts that are drawn."""
    return page.evaluate(LINES)


def lines_become(page, wanted):
    """Wait until just these lines are shown; a chart takes its time to draw anew."""
    page.wait_for_function(
        f"wanted => JSON.stringify({LINES}) === JSON.stringify(wanted)", arg=wanted
    )


def test_a_defense_hides_from_tables_and_charts_and_comes_back(one, visit):
    seen, name = visit(one), HOSTILE
    page = seen.page
    draw_all(page)
    everything = visible_lines(page)
    rows = page.locator("tr[data-defense]")
    shown = rows.locator("visible=true").count()
    own = [row for row in rows.all() if row.get_attribute("data-defense") == name]
    assert name in everything
    assert len(own) >= 4
    assert all(row.is_visible() for row in own)
    box = page.get_by_label(name, exact=True)
    box.focus()
    page.keyboard.press("Space")
    lines_become(page, [line for line in everything if line != name])
    assert not any(row.is_visible() for row in own)
    assert "1 of 5 hidden" in page.locator("#defenses summary").inner_text()
    page.emulate_media(media="print")
    assert not any(row.is_visible() for row in own)
    assert name in page.locator("#hidden-in-print").inner_text()
    page.emulate_media(media="screen")
    page.locator("button[data-all=false]").click()
    assert rows.locator("visible=true").count() == 0
    page.locator("button[data-all=true]").click()
    lines_become(page, everything)
    assert rows.locator("visible=true").count() == shown
    assert "all 5 shown" in page.locator("#defenses summary").inner_text()
    assert seen.complaints == []


def test_a_chart_drawn_late_leaves_out_what_is_hidden(one, visit):
    page = visit(one, (1280, 300)).page
    assert page.locator(".chart").count() == 0
    page.get_by_label("madry", exact=True).uncheck()
    assert draw_all(page)
    assert set(visible_lines(page)) >= {"undefended", HOSTILE}
    assert "madry" not in visible_lines(page)


# --- charts that answer to the pointer


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_nothing_moves_when_a_chart_is_drawn(size, one, visit):
    page = visit(one, size).page
    page.evaluate("for (const details of document.querySelectorAll('details')) details.open = true")
    heights = "() => [...document.querySelectorAll('figure, table, h2')].map(e => e.offsetTop)"
    before = page.evaluate(heights)
    assert draw_all(page) >= 3
    assert page.evaluate(heights) == before
    inside = "c => c.parentElement.scrollHeight <= c.closest('.plate').clientHeight"
    assert all(chart.evaluate(inside) for chart in page.locator(".chart").all())


def test_the_pointer_reads_value_interval_and_n(one, visit):
    page = visit(one).page
    figure = page.locator("figure[data-chart]").first
    figure.scroll_into_view_if_needed()
    figure.locator(".chart .legend").wait_for(state="attached")
    for name in ("undefended", HOSTILE, "a_b%$#"):
        read_point(page, figure, name)


def read_point(page, figure, name):
    """Point at the line's third value; its label must say what the page's data hold."""
    x, y, eps, value, low, high, n = figure.locator(".chart").evaluate(
        """(chart, name) => {
          const i = chart.data.findIndex(
            (t) => t.meta.defense === name && t.hovertemplate && t.mode !== "markers");
          const { x, y, customdata } = chart._fullData[i];
          const { xaxis, yaxis } = chart._fullLayout;
          const { left, top } = chart.getBoundingClientRect();
          return [left + xaxis._offset + xaxis.d2p(x[2]), top + yaxis._offset + yaxis.d2p(y[2]),
                  x[2], y[2], ...customdata[2]];
        }""",
        name,
    )
    page.mouse.move(x + 20, y)
    page.mouse.move(x, y)
    words = f"{name}, eps {eps:g}: {value:.3f} [{low:.3f}, {high:.3f}], n = {n:g}"
    playwright.expect(figure.locator(".hovertext")).to_have_text(words)
    assert low < value < high
    assert n == 40


# --- paper, keyboard


OPACITY = "image => getComputedStyle(image).opacity"


def test_paper_shows_the_images_and_what_was_folded(one, visit):
    page = visit(one).page
    draw_all(page)
    page.evaluate("for (const each of document.querySelectorAll('details')) each.open = false")
    image = page.locator("figure.drawn img").first
    assert image.evaluate(OPACITY) == "0"
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator("details:not([open])").count() == 0
    assert (image.evaluate(OPACITY), image.bounding_box()["width"] > 200) == ("1", True)
    assert page.locator(".chart:visible, .toolbar:visible, nav:visible, .skip:visible").count() == 0
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details[open]").count() == 0


def test_the_keyboard_skips_to_the_results(one, visit):
    page = visit(one).page
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert skip.bounding_box()["x"] >= 0
    page.keyboard.press("Enter")
    assert page.url.endswith("#main")

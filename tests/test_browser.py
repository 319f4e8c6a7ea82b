"""Report and dashboard in a real Chromium, driven by Playwright: what a person does there works, and nothing else is asked for."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtrl.benchmark.alone import compare_task
from mtrl.cli.dispatch import main
from mtrl.dashboard.alone import write_alone_page
from mtrl.dashboard.runs import read_run
from mtrl.dashboard.search import write_search_page

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed").Axe
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine; install it or name it with CHROMIUM")
ROOT = Path(__file__).parents[1]
EVIL = "<img src=x onerror=window.harmed=1>"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two real runs, evaluated and recorded, beside one with a name that means harm and one whose metrics were cut off."""
    folder = tmp_path_factory.mktemp("browser") / "runs"
    options = ["--suite.name", "minigrid/Empty-5x5,DistShift1", "--total-frames", "9000", "--report-seconds", "0.2"]
    for name, seed in (("first", "0"), ("second", "1")):
        run = str(folder / name)
        assert main(["train", "minigrid_mt3", *options, "--num-env-runners", "0", "--seed", seed, "--run-dir", run]) == 0
        assert main(["evaluate", run, "--episodes", "3", "--workers", "1", "--video"]) == 0
    evil = folder / EVIL
    evil.mkdir()
    (evil / "metrics.jsonl").write_text(json.dumps({"time": 1, "summary/frames": 1, f"tasks/{EVIL}/frames": 1}))
    (evil / "config.yaml").write_text(f"name: '{EVIL}'\n")
    cut = folder / "cut"
    cut.mkdir()
    whole = (folder / "first" / "metrics.jsonl").read_text()
    (cut / "metrics.jsonl").write_text(whole[: len(whole) - 50])
    return folder


@pytest.fixture(scope="module")
def server(root: Path) -> Iterator[str]:
    """The dashboard's address, served by the command itself."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "launch.py", "dashboard", str(root), "--port", str(port)], cwd=ROOT)
    address = f"http://127.0.0.1:{port}"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(OSError), urllib.request.urlopen(address):
            break
        time.sleep(0.1)
    yield address
    process.terminate()
    process.wait()


@pytest.fixture(scope="module")
def browser() -> Iterator[sync_api.Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: sync_api.Browser) -> Iterator[sync_api.Page]:
    """A page that must log no error and ask no other host for anything."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    foreign = [url for url in asked if not url.startswith(("http://127.0.0.1:", "file://", "data:", "blob:"))]
    page.close()
    assert complaints == [] and foreign == []


def until(page: sync_api.Page, condition: str) -> None:
    """Waits for a condition; Playwright's own waiting evaluates strings in the page, which its security policy forbids."""
    end = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < end, f"still not so: {condition}"
        page.wait_for_timeout(50)


def names(page: sync_api.Page) -> list[str]:
    return page.locator("#runs tbody tr:visible td:nth-child(2)").all_inner_texts()


def test_runs_are_sorted_and_filtered(page: sync_api.Page, server: str) -> None:
    page.goto(server)
    assert set(names(page)) == {"first", "second", "cut", EVIL}
    page.get_by_role("button", name="run", exact=True).click()
    assert names(page) == sorted(names(page), key=str.lower)
    page.get_by_role("button", name="run", exact=True).click()
    assert names(page) == sorted(names(page), key=str.lower, reverse=True)
    page.get_by_role("searchbox").fill("sec")
    assert names(page) == ["second"]


def test_the_filter_reads_fields_and_the_view_is_in_the_address(page: sync_api.Page, server: str) -> None:
    page.goto(server)

    def shown(query: str) -> set[str]:
        page.get_by_role("searchbox").fill(query)
        page.wait_for_timeout(100)
        return set(names(page))

    assert shown("suite:minigrid") == {"first", "second"}
    assert shown("suite:minigrid seed>0") == {"second"}
    assert shown("seed=0") == {"first"}
    assert shown("state:finished -second") == {"first"}
    assert shown("frames>1000000") == set()
    assert shown("lr>1e-9 seed<1") == {"first"}, "a field that is no column"
    assert shown("entropy>0") == {"first", "second", "cut"}, "a metric"
    assert shown("summary/hours>1000") == set()
    assert shown("experts=2") == {"first", "second"}
    page.get_by_role("button", name="choose all shown").click()
    page.get_by_role("button", name="run", exact=True).click()
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_timeout(200)
    assert names(page) == ["first", "second"] and page.get_by_role("searchbox").input_value() == "experts=2"
    assert page.get_by_role("columnheader", name="run", exact=True).get_attribute("aria-sort") == "ascending"
    assert page.get_by_role("button", name="compare 2 chosen").is_enabled()


def test_a_column_of_any_field_is_added_kept_and_removed(page: sync_api.Page, server: str) -> None:
    page.goto(server)
    page.get_by_label("add a column").fill("env_runners.unroll_length")
    page.get_by_label("add a column").press("Enter")
    head = page.get_by_role("columnheader", name="env_runners.unroll_length")
    head.wait_for()
    column = head.evaluate("head => head.cellIndex")
    assert page.locator(f"tr[data-run=first] td:nth-child({column + 1})").inner_text() == "128"
    page.goto(server)
    head.wait_for()  # remembered
    page.get_by_label("remove the column env_runners.unroll_length").click()
    until(page, "() => !document.querySelector('[data-remove]')")
    page.goto(server)
    assert head.count() == 0


def test_the_table_follows_the_runs(page: sync_api.Page, server: str, root: Path) -> None:
    page.clock.install()
    page.goto(server)
    page.get_by_role("searchbox").fill("new")
    page.get_by_role("searchbox").blur()
    assert names(page) == []
    run = root / "new"
    run.mkdir()
    try:
        (run / "metrics.jsonl").write_text(json.dumps({"time": 1.0, "summary/frames": 12}) + "\n")
        page.clock.run_for(11_000)
        until(page, "() => [...document.querySelectorAll('#rows tr')].some(row => row.dataset.run === 'new' && !row.hidden)")
        assert names(page) == ["new"]
        assert page.get_by_role("searchbox").input_value() == "new"
    finally:
        shutil.rmtree(run)
    page.clock.run_for(11_000)
    until(page, "() => ![...document.querySelectorAll('#rows tr')].some(row => row.dataset.run === 'new')")


def test_a_list_that_is_not_complete_is_asked_for_again_soon(page: sync_api.Page, server: str) -> None:
    """The first answer lacks two runs, as that of a server which has just begun to read a large folder."""
    answers = []

    def answer(route: sync_api.Route) -> None:
        whole = route.fetch().text()
        answers.append(time.monotonic())
        if len(answers) == 1:
            head, _, rest = whole.partition("<tr data-run=")
            rows, _, foot = rest.partition("</tbody>")
            first = "<tr data-run=" + rows.split("<tr data-run=")[0]
            whole = (head + first + "</tbody>" + foot).replace('data-unread="0"', 'data-unread="3"')
        route.fulfill(body=whole, content_type="text/html")

    page.route(server + "/", answer)
    page.goto(server)
    assert page.locator("#rows tr").count() == 1
    until(page, "() => document.querySelectorAll('#rows tr').length === 4")
    assert answers[1] - answers[0] < 5, "sooner than a complete list, which is asked for every ten seconds"
    page.wait_for_timeout(1500)
    assert len(answers) == 2


def test_tables_and_figures_change_together(page: sync_api.Page, server: str, root: Path) -> None:
    page.clock.install()
    page.goto(f"{server}/compare?run=first&run=second")
    page.wait_for_selector("[data-drawn] .main-svg")
    [file] = sorted((root / "second").glob("evaluation/*/results.json"))
    before = file.read_text()
    results = json.loads(before)
    for task in results["tasks"].values():
        task["score"] = {"value": 0.123, "low": 0.1, "high": 0.2}
    try:
        file.write_text(json.dumps(results, indent=1))
        page.clock.run_for(11_000)
        until(page, "() => document.getElementById('evaluations').textContent.includes('0.123 (0.100 – 0.200)')")
        heat = "() => [...document.querySelectorAll('[data-figures] script')].some(s => s.textContent.includes('Newest score by task') "
        until(page, heat + "&& s.textContent.includes('0.12'))")
    finally:
        file.write_text(before)


@pytest.mark.parametrize("form", ["svg", "csv"])
def test_a_figure_is_saved(page: sync_api.Page, server: str, form: str) -> None:
    page.goto(f"{server}/run/first")
    page.wait_for_selector(".save button")
    with page.expect_download() as download:
        page.get_by_label(f"save Mean score of training episodes as {form.upper()}").click()
    text = Path(download.value.path()).read_text()
    assert download.value.suggested_filename == f"mean-score-of-training-episodes.{form}"
    if form == "svg":
        assert text.startswith("<svg") and "Mean score of training episodes" in text
    else:
        rows = [line.split(",") for line in text.strip().splitlines()]
        assert rows[0] == ["trace", "x", "y", "z", "low", "high"] and len(rows) > 1
        assert all(0 <= float(row[2].strip('"')) <= 1 for row in rows[1:])
        page.evaluate("() => redrawAll()")  # also those that are not in view yet
        with page.expect_download() as download:
            page.get_by_label("save Newest evaluation by task as CSV").click()
        rows = [line.replace('"', "").split(",") for line in Path(download.value.path()).read_text().strip().splitlines()]
        assert len(rows) > 1 and all(float(low) <= float(x) <= float(high) and low != high for _, x, _, _, low, high in rows[1:])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_violation_of_accessibility(browser: sync_api.Browser, server: str, root: Path, tmp_path: Path, scheme: str) -> None:
    report = tmp_path / "report.html"
    assert main(["report", str(root / "first"), str(root / "second"), "-o", str(report)]) == 0
    addresses = ["/", "/run/first", "/compare?run=first&run=second", "/run/first/task/DistShift1", "/run/nowhere"]
    addresses += ["/run/first/decision", "/run/first/decision?frames=-1"]
    plan = {"experiment": {"name": "toy"}, "method": "asha", "budget": ["frames", 9], "planned_trials": 3}
    space = {"learner.actor.learning_rate": ["log", [1e-4, 1e-2]], "model.gate": ["choice", ["linear", "softmax"]]}
    curve, values = [[4.0, 1.0, 0.25], [9.0, 2.0, 0.5]], {"learner.actor.learning_rate": 1e-3, "model.gate": "linear"}
    trials = [{"name": f"trial-{number}", "values": values, "state": "finished", "curve": curve} for number in range(2)]
    (tmp_path / "search.json").write_text(json.dumps(plan | {"space": space, "trials": trials}))
    run = read_run(root / "first")
    compared = [compare_task(task, [run], [run])._asdict() for task in run.tasks]
    write_alone_page(tmp_path / "alone.html", "toy", compared, [run], {task: [run] for task in run.tasks})
    files = [report, write_search_page(tmp_path), tmp_path / "alone.html"]
    page = browser.new_context(bypass_csp=True, viewport={"width": 1400, "height": 900}).new_page()
    page.emulate_media(color_scheme=scheme)
    for address in [*(server + path for path in addresses), *(file.as_uri() for file in files)]:
        page.goto(address)
        page.wait_for_timeout(500)
        found = [v for v in Axe().run(page).response["violations"] if v["impact"] in ("moderate", "serious", "critical")]
        assert found == [], (address, [(v["id"], [node["html"][:200] for node in v["nodes"][:3]]) for v in found])
    page.context.close()


def test_two_runs_are_compared(page: sync_api.Page, server: str) -> None:
    page.goto(server)
    page.get_by_label("choose first").check()
    page.get_by_label("choose second").check()
    page.get_by_role("button", name="compare 2 chosen").click()
    page.wait_for_selector("[data-drawn] .main-svg")
    assert "/compare?run=first&run=second" in page.url or "/compare?run=second&run=first" in page.url
    assert page.get_by_role("heading", name="Methods side by side").is_visible()
    assert page.get_by_role("cell", name="first (2 seeds)").or_(page.get_by_role("cell", name="second (2 seeds)")).is_visible()


def test_a_task_is_opened_and_its_video_played(page: sync_api.Page, server: str) -> None:
    page.goto(f"{server}/run/first")
    page.get_by_role("link", name="DistShift1").first.click()
    page.get_by_role("heading", name="DistShift1").wait_for()
    page.wait_for_selector("[data-drawn] .main-svg")
    video = page.locator("video")
    video.evaluate("video => video.play()")
    until(page, "() => document.querySelector('video').currentTime > 0.2")
    assert video.evaluate("video => video.videoWidth") > 384 and video.evaluate("video => video.error") is None


def test_a_note_is_written_and_shown(page: sync_api.Page, server: str, root: Path) -> None:
    page.goto(f"{server}/run/second")
    page.get_by_text("Write a note").click()
    page.locator("#note-text").fill("tags: kept\nThe <i>quiet</i> one.")
    page.get_by_role("button", name="Save", exact=True).click()
    until(page, "() => document.querySelector('#note output').textContent === 'saved'")
    until(page, "() => document.querySelector('#heads pre')?.textContent.includes('The <i>quiet</i> one.')")
    assert (root / "second" / "note.md").read_text().startswith("tags: kept")
    page.goto(f"{server}/?q=tag:kept")
    page.wait_for_timeout(300)
    assert names(page) == ["second"]
    (root / "second" / "note.md").unlink()


def test_a_live_run_grows(page: sync_api.Page, server: str, root: Path) -> None:
    run = root / "live"
    run.mkdir()

    def write(frames: int) -> None:
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), "summary/frames": frames, "summary/score_mean": 0.5}) + "\n")

    points = "() => document.querySelector('.js-plotly-plot').calcdata[0].length"
    try:
        write(100)
        write(200)
        page.clock.install()
        page.goto(f"{server}/run/live")
        page.wait_for_selector("[data-drawn] .main-svg")
        before = page.evaluate(points)
        write(300)
        page.clock.run_for(11_000)
        until(page, f"() => ({points})() > {before}")
    finally:
        shutil.rmtree(run)


def test_harmful_names_and_cut_files_are_shown_and_do_nothing(page: sync_api.Page, server: str) -> None:
    page.goto(server)
    page.get_by_role("link", name=EVIL).click()
    page.wait_for_selector("[data-drawn]")
    assert page.evaluate("() => window.harmed") is None
    assert page.get_by_role("heading", level=1).inner_text() == EVIL
    page.goto(f"{server}/run/cut")
    page.wait_for_selector("[data-drawn] .main-svg")
    assert "damaged line" in page.locator(".warn").first.inner_text()


def test_keyboard_narrow_screen_and_dark_mode(page: sync_api.Page, server: str) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(server)
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 29)"
    # The page itself does not scroll sideways; wide tables do so in their own box.
    assert page.evaluate("() => document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    page.keyboard.press("Tab")
    page.keyboard.type("first")
    assert names(page) == ["first"]
    for _ in range(30):  # the buttons, the headings
        page.keyboard.press("Tab")
        if page.evaluate("() => document.activeElement.type") == "checkbox":
            break
    page.keyboard.press("Space")
    assert page.get_by_label("choose first").is_checked()


@pytest.fixture
def large(root: Path) -> Iterator[str]:
    """The name of a run of fifty tasks, whose suite's name lists them."""
    yield from run_of_tasks(root, "large", 50)


def run_of_tasks(root: Path, name: str, count: int) -> Iterator[str]:
    run = root / name
    run.mkdir()
    tasks = [f"task-{k}" for k in range(count)]
    rows = [
        {"time": time.time(), "summary/frames": frames, "summary/score_mean": 0.5}
        | {f"tasks/{task}/{metric}": 0.02 for task in tasks for metric in ("frames", "score", "share_trained")}
        for frames in (100, 200, 300)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "config.yaml").write_text(f"name: {name}\nseed: 7\nsuite:\n  name: gym/{','.join(tasks * 3)}\n")
    yield name
    shutil.rmtree(run)


@pytest.fixture
def huge(root: Path) -> Iterator[str]:
    """The name of a run of 500 tasks."""
    yield from run_of_tasks(root, "huge", 500)


def test_names_of_500_tasks_do_not_overlap(page: sync_api.Page, server: str, huge: str) -> None:
    """On the screen each has a line; on paper as many as there is room for."""
    page.goto(f"{server}/run/{huge}")
    boxes = """() => [...document.querySelectorAll('.plot')].filter(plot => plot.layout).map(plot => ({
        height: plot._fullLayout._size.h,
        labels: [...plot.querySelectorAll('.ytick text')].map(label => label.getBoundingClientRect()).map(box => [box.top, box.bottom]),
    }))"""
    for printed in (False, True):
        if printed:
            page.emulate_media(media="print")
            page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
        else:
            page.evaluate("() => redrawAll()")
        until(page, f"() => ({boxes})().length === document.querySelectorAll('.plot').length")
        page.wait_for_timeout(500)
        tall = [plot for plot in page.evaluate(boxes) if len(plot["labels"]) > 20]
        assert tall and all(plot["height"] >= 300 for plot in tall)
        most = max(len(plot["labels"]) for plot in tall)
        assert most < 100 if printed else most == 500
        for plot in tall:
            labels = sorted(plot["labels"])
            assert all(before[1] <= after[0] + 1 for before, after in itertools.pairwise(labels)), labels[:3]


def test_charts_fit_a_printed_page(browser: sync_api.Browser, server: str) -> None:
    """Laid out for paper when the browser prints, also from a dark screen of one column; as before when it has printed."""
    page = browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme="dark")
    page.goto(f"{server}/run/first")
    page.wait_for_selector("[data-drawn] .main-svg")
    widths = "() => [...document.querySelectorAll('.plot')].filter(p => p.layout).map(p => p._fullLayout.width)"
    [*before] = page.evaluate(widths)
    page.evaluate(
        "() => addEventListener('beforeprint', () => { window.printed = [...document.querySelectorAll('.plot')]"
        ".map(p => [p._fullLayout.width, p._fullLayout.font.color]); })"
    )
    page.pdf(format="A4")
    printed = page.evaluate("() => window.printed")
    assert len(printed) >= 8 and all(width < 794 and colour == "#444" for width, colour in printed)
    until(page, f"() => ({widths})().every(width => width === {before[0]})")
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    for width in (794, 602):  # A4 without margins, and with an inch
        page.set_viewport_size({"width": width, "height": 1000})
        over = (
            "() => [...document.querySelectorAll('.main-svg')].map(svg => svg.getBoundingClientRect().right"
            " - svg.closest('.figure').getBoundingClientRect().right)"
        )
        assert max(page.evaluate(over)) <= 0
    assert page.locator("video:visible").count() == 0 and page.get_by_text("steps a second").first.is_visible()
    assert page.evaluate("() => getComputedStyle(document.querySelector('h2')).breakAfter") == "avoid"
    page.close()


def test_high_figures_have_a_row_and_no_scrolling_inside(page: sync_api.Page, server: str, large: str) -> None:
    page.goto(f"{server}/run/{large}")
    page.evaluate("() => redrawAll()")
    until(page, "() => document.querySelectorAll('.save').length === document.querySelectorAll('.figure').length")
    sizes = "box => [box.scrollHeight - box.clientHeight, box.clientHeight, box.clientWidth]"
    boxes = page.evaluate(f"() => [...document.querySelectorAll('.figure')].map({sizes})")
    grid = page.evaluate("() => document.querySelector('.grid').clientWidth")
    assert max(height for _, height, _ in boxes) > 1000
    assert all(hidden == 0 and (height < 620 or width > 0.95 * grid) for hidden, height, width in boxes)


def test_a_long_name_of_a_suite_hides_no_number(page: sync_api.Page, server: str, large: str) -> None:
    page.goto(server)
    row = page.locator(f"tr[data-run={large}]")
    seed = row.get_by_role("cell", name="7", exact=True).bounding_box()
    assert seed is not None and seed["x"] + seed["width"] < 1280
    assert "task-49" in (row.locator("td.clip[title^=gym]").get_attribute("title") or "")
    page.goto(f"{server}/run/{large}")
    name = page.locator(".facts dd[title^=gym]").bounding_box()
    assert name is not None and name["height"] < 80
    # On a narrow screen frames and scores stand directly after the state.
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto(server)
    heads = page.locator("#runs th[data-name]")
    assert [heads.nth(k).get_attribute("data-name") for k in range(5)] == ["run", "state", "frames", "training score", "evaluated score"]
    last = heads.nth(4).bounding_box()
    assert last is not None and last["x"] + last["width"] <= 390


def test_the_buttons_of_a_chart_do_not_cover_its_title(page: sync_api.Page, server: str) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(f"{server}/run/first")
    page.wait_for_selector("[data-drawn] .main-svg")
    page.locator(".plot .plotly").first.hover()
    page.wait_for_timeout(400)
    [title, bar, save] = (page.locator(f".figure {part}").first.bounding_box() for part in (".gtitle", ".modebar", ".save button"))
    assert title is not None and bar is not None and save is not None and bar["width"] > 50
    assert bar["y"] > title["y"] + title["height"] and bar["x"] + bar["width"] <= save["x"]


def test_the_report_needs_nothing_but_its_file(page: sync_api.Page, root: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    assert main(["report", *(str(root / name) for name in ("first", "second", "cut", EVIL)), "-o", str(report)]) == 0
    page.goto(report.as_uri())
    page.wait_for_selector(".js-plotly-plot .main-svg")
    assert page.evaluate("() => window.harmed") is None
    page.locator("#summary").get_by_role("button", name="run", exact=True).click()
    column = page.locator("#summary tbody tr td:first-child").all_inner_texts()
    assert column == sorted(column)
    page.locator("video").first.evaluate("video => video.play()")
    until(page, "() => document.querySelector('video').currentTime > 0.2")

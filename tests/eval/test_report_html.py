"""The report page, in a real browser: what it shows, finds and keeps, and what cannot hurt it."""

from __future__ import annotations

import re
import shutil
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from eval.report.files import with_others
from eval.report.html import write_html
from tests.eval.report_data import HOSTILE, Record, make_items, pictures, summarise

CHROMIUM = shutil.which("chromium")
Open = Callable[..., Page]
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no `chromium` on this machine (Debian: apt-get install chromium)"
)
# Sets the search box and answers with the milliseconds until the list has been painted.
SEARCH_MS = """(query) => new Promise((done) => {
  const field = document.querySelector('[name=q]');
  const from = performance.now();
  const painted = () => done(performance.now() - from);
  new MutationObserver((_, observer) => {
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(painted));
  }).observe(document.getElementById('count'), { childList: true });
  field.value = query;
  field.dispatchEvent(new Event('input', { bubbles: true }));
})"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A fresh browser; at the end nothing was fetched and nothing was complained about."""
    own = browser.new_context(viewport={"width": 1300, "height": 850})
    requests: list[str] = []
    troubles: list[str] = []
    own.on("request", lambda request: requests.append(request.url))
    own.on("console", lambda message: troubles.append(message.text))
    own.on("weberror", lambda error: troubles.append(str(error.error)))
    own.on("dialog", lambda dialog: troubles.append(dialog.message))
    yield own
    own.close()
    fetched = [url for url in requests if not re.match(r"file://.*/report\.html|data:", url)]
    assert (fetched, troubles) == ([], [])


@pytest.fixture
def open_report(context: BrowserContext, tmp_path: Path) -> Open:
    def open_one(
        items: list[Record], summaries: list[Record] | None = None, state: str = ""
    ) -> Page:
        path = tmp_path / "report.html"
        write_html(path, summaries or [summarise(items)], items, pictures())
        page = context.new_page()
        page.goto(f"{path.as_uri()}#{state}")
        return page

    return open_one


def count(page: Page) -> str:
    return page.locator("#count").inner_text()


def listed(page: Page) -> list[str]:
    """Ids of the first rows of the list, from the top."""
    rows = page.locator(".row").evaluate_all(
        "rows => rows.map(row => [row.getAttribute('aria-posinset'), row.dataset.key])"
    )
    return [key.split("/", 1)[1] for _, key in sorted((int(at), key) for at, key in rows)]


def open_item(page: Page, item: Record) -> None:
    page.fill("[name=q]", item["id"])
    page.locator(f'.row[data-key="{item["benchmark"]}/{item["id"]}"]').click()


def told(items: list[Record], caption: Record, index: int = 0) -> Record:
    """The items' first video item, with one caption replaced in part."""
    item = next(i for i in items if i["benchmark"] == "clips")
    item["captions"][index] = item["captions"][index] | caption
    return item


# --- figures ----------------------------------------------------------------------------------


@needs_browser
def test_summary_shows_scores_with_their_intervals(open_report: Open) -> None:
    items = make_items(40)
    summary = summarise(items)
    summary["benchmarks"]["clips"] |= {"mean": 73.24, "mean_ci": [70.1, 76.04], "scored": 9}
    page = open_report(items, [summary])
    row = page.locator(".summary tr", has_text="Video-MME")
    expect(row).to_contain_text("73.2 (70.1 to 76.0)")
    expect(row).to_contain_text("9 of 10")
    expect(page.get_by_role("heading", level=1)).to_have_text("caprl-8b")
    row.get_by_role("button", name="Video-MME").click()
    section = page.locator("details", has_text="Video-MME")
    expect(section).to_have_attribute("open", "")
    expect(section).to_contain_text("long")


@needs_browser
def test_compared_runs_stand_beside_the_first_with_the_difference(open_report: Open) -> None:
    items = make_items(40)
    other = summarise(items, "base")
    first = summarise(items)
    first["benchmarks"]["scenes"]["mean"] = 50.0
    other["benchmarks"]["scenes"]["mean"] = 46.5
    del other["benchmarks"]["charts"]
    paired = {"difference": -1.25, "difference_ci": [-3.0, 0.5], "items_in_both": 9}
    other["benchmarks"]["clips"] |= paired
    page = open_report(items, [first, other])
    assert page.locator("th[scope=colgroup]").all_inner_texts() == ["caprl-8b", "base"]
    expect(page.locator(".summary tr", has_text="MMStar")).to_contain_text("−3.5")
    expect(page.locator(".summary tr", has_text="Video-MME")).to_contain_text("−1.3 (−3.0 to +0.5)")
    absent = page.locator(".summary tr", has_text="ChartQA").locator("td").all_inner_texts()
    assert absent[-6:] == ["–"] * 6


@needs_browser
def test_an_incomplete_run_says_what_is_missing(open_report: Open) -> None:
    items = make_items(40)
    summary = summarise(items)
    for figures in summary["benchmarks"].values():
        figures["missing"] = dict.fromkeys(figures["missing"], 0)
    summary["complete"] = True
    expect(open_report(items, [summary]).locator("#banner")).to_be_hidden()
    summary["complete"] = False
    summary["benchmarks"]["clips"]["missing"] |= {"captions": 1, "judgements": 1234}
    summary["benchmarks"]["charts"]["missing"]["rows"] = 1
    summary["benchmarks"]["charts"]["broken"] = [{"source": "a.tsv:7", "reason": "no image"}]
    page = open_report(items, [summary])
    banner = page.locator("#banner")
    expect(banner).to_contain_text("This run is incomplete.")
    expect(banner).to_contain_text("Video-MME: 1 caption, 1,234 judgements missing")
    expect(banner).to_contain_text("ChartQA Pro: 1 row missing")
    expect(page.locator(".broken")).to_contain_text("a.tsv:7 no image")


@needs_browser
def test_a_groups_bar_leads_to_its_items(open_report: Open) -> None:
    items = make_items(80)
    page = open_report(items)
    page.click("#open-all")
    section = page.locator("details", has_text="Video-MME")
    section.get_by_role("button", name="long", exact=True).click()
    wanted = [i for i in items if i["benchmark"] == "clips" and i["groups"]["duration"] == "long"]
    assert count(page) == f"{len(wanted)} of 80 items"


# --- finding items ----------------------------------------------------------------------------


def texts(item: Record) -> str:
    parts = [item["id"], item["question"], *item["choices"]]
    for caption in item["captions"]:
        parts += [caption["text"] or "", caption["answer"]["text"] or ""]
    return "\n".join(parts).lower()


@needs_browser
@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("PIGEONS tram", ["pigeons", "tram"]),
        ('"near the tram stop" cook', ["near the tram stop", "cook"]),
        ("clips-00006", ["clips-00006"]),
        ("nowhere pigeons", ["nowhere", "pigeons"]),
    ],
)
def test_search_finds_the_items_with_all_words(
    open_report: Open, query: str, words: list[str]
) -> None:
    items = make_items(60, sentences=1)
    wanted = [i["id"] for i in items if all(word in texts(i) for word in words)]
    page = open_report(items)
    page.fill("[name=q]", query)
    expect(page.locator("#count")).to_have_text(f"{len(wanted)} of 60 items")
    assert listed(page) == wanted[: len(listed(page))]
    assert len(wanted) < 60


def right(item: Record) -> set[bool]:
    """Whether the captions of a chart are right: both where some are; none of other items."""
    verdicts = [c["verdict"] for c in item["captions"] if item["benchmark"] == "charts"]
    return {v["score"] == 1.0 for v in verdicts if v}


FILTERS: list[tuple[dict[str, str], Callable[[Record], bool]]] = [
    ({"benchmark": "clips"}, lambda i: i["benchmark"] == "clips"),
    ({"verdict": "right", "benchmark": "charts"}, lambda i: right(i) == {True}),
    ({"verdict": "wrong", "benchmark": "charts"}, lambda i: right(i) == {False}),
    ({"verdict": "partly", "benchmark": "charts"}, lambda i: right(i) == {True, False}),
    ({"verdict": "missing"}, lambda i: any(c["verdict"] is None for c in i["captions"])),
    ({"kind": "duration"}, lambda i: "duration" in i["groups"]),
    ({"kind": "duration", "value": "long"}, lambda i: i["groups"].get("duration") == "long"),
    ({"finish": "length"}, lambda i: any(c["finish"] == "length" for c in i["captions"])),
    ({"finish": "none"}, lambda i: any(c["finish"] is None for c in i["captions"])),
    ({"media": "image"}, lambda i: i["media"][0]["kind"] == "image"),
]


@needs_browser
def test_filters_keep_what_they_say(open_report: Open) -> None:
    items = make_items(200, sentences=1)
    page = open_report(items)
    for choices, keeps in FILTERS:
        for name, value in choices.items():
            page.select_option(f"[name={name}]", value)
        wanted = sum(keeps(item) for item in items)
        assert 0 < wanted < 200, choices
        assert count(page) == f"{wanted} of 200 items", choices
        page.click("#clear")
        assert count(page) == "200 of 200 items"


@needs_browser
def test_sorting_puts_items_without_a_score_last(open_report: Open) -> None:
    items = make_items(10, sentences=2)
    items[3]["mean"] = None
    page = open_report(items)
    known = [i for i in items if i["mean"] is not None]
    lowest = sorted(known, key=lambda i: i["mean"]) + [items[3]]
    page.select_option("[name=sort]", "lowest")
    assert listed(page) == [i["id"] for i in lowest]
    page.select_option("[name=sort]", "highest")
    assert listed(page)[-1] == items[3]["id"]
    page.select_option("[name=sort]", "id")
    assert listed(page) == sorted(i["id"] for i in items)
    page.select_option("[name=sort]", "longest")
    lengths = {i["id"]: mean_length(i) for i in items}
    assert listed(page) == sorted(lengths, key=lambda name: -lengths[name])


def mean_length(item: Record) -> float:
    return float(np.mean([len(c["text"]) for c in item["captions"] if c["text"] is not None]))


@needs_browser
def test_the_address_keeps_filters_search_and_the_open_item(open_report: Open) -> None:
    items = make_items(60)
    page = open_report(items)
    page.select_option("[name=benchmark]", "clips")
    page.select_option("[name=kind]", "duration")
    page.select_option("[name=value]", "short")
    page.select_option("[name=sort]", "highest")
    page.fill("[name=q]", "pigeons & +co")
    page.fill("[name=q]", "pigeons")
    expect(page).to_have_url(re.compile("q=pigeons"))
    page.locator(".row").nth(1).click()
    shown = [listed(page), count(page), page.locator(".item h3").inner_text()]

    again = open_report(items, state=page.url.partition("#")[2])
    assert [listed(again), count(again), again.locator(".item h3").inner_text()] == shown
    assert again.input_value("[name=q]") == "pigeons"
    assert again.input_value("[name=value]") == "short"

    page.go_back()
    expect(page.locator(".item")).to_have_count(0)
    assert count(page) == shown[1]


@needs_browser
def test_keys_move_through_the_list(open_report: Open) -> None:
    items = make_items(60)
    page = open_report(items)
    page.keyboard.press("/")
    expect(page.locator("[name=q]")).to_be_focused()
    page.locator("#rows").focus()
    page.keyboard.press("End")
    expect(page.locator(".item h3")).to_have_text(items[-1]["id"])
    page.keyboard.press("ArrowUp")
    expect(page.locator(".item h3")).to_have_text(items[-2]["id"])
    active = page.locator("#rows").get_attribute("aria-activedescendant")
    assert page.locator(f"#{active}").get_attribute("aria-selected") == "true"
    page.keyboard.press("Escape")
    expect(page.locator(".item")).to_have_count(0)
    expect(page.locator("#rows")).to_be_focused()


# --- one item ---------------------------------------------------------------------------------


@needs_browser
def test_an_open_item_shows_all_its_parts(open_report: Open) -> None:
    items = make_items(12)
    answer = {"text": "A, I think", "missing": None}
    verdict = {"score": 0.0, "said": "A", "detail": {"overlap": 0.25}}
    judge = {"text": "Rejected.", "missing": None}
    item = told(items, {"answer": answer, "verdict": verdict, "judge": judge})
    told(items, {"text": None, "missing": "no frames", "verdict": None}, 1)
    unread = {"answer": {"text": None, "missing": "timed out"}, "verdict": None}
    told(items, {"text": "Grey.", **unread, "finish": "length"}, 2)
    unjudged = {"text": None, "missing": "refused"}
    told(items, {"answer": {"text": "B", "missing": None}, "verdict": None, "judge": unjudged}, 3)
    page = open_report(items)
    open_item(page, item)
    medium = item["media"][0]
    assert page.locator(".media img").evaluate("image => image.naturalWidth") == 8 * 120
    assert page.locator(".frame-times li").count() == len(medium["times"]) == 8
    expect(page.locator("figcaption")).to_contain_text(medium["path"])
    expect(page.locator(".facts")).to_contain_text(item["source"])
    expect(page.locator(".question").last).to_have_text(item["question"])
    choices = page.locator(".choices li")
    expect(choices.nth(0)).to_contain_text("chosen by caption 1")
    expect(choices.nth(1)).to_have_text(re.compile(r"B.*chosen by caption 4.*gold"))
    captions = page.locator(".caption")
    for part in ("wrong", "A, I think", "Rejected.", "overlap"):
        expect(captions.nth(0)).to_contain_text(part)
    expect(captions.nth(1)).to_contain_text("No caption: no frames")
    for part in ("missing", "Grey.", "timed out", "cut at the length limit"):
        expect(captions.nth(2)).to_contain_text(part)
    for part in ("missing", "No judgement", "refused"):
        expect(captions.nth(3)).to_contain_text(part)


@needs_browser
def test_times_of_a_caption_are_drawn_on_a_line(open_report: Open) -> None:
    text = (
        "Intro. <12.5 seconds> a. [00:14 - 00:20] b. [21s-30s] c. 00:40 d. [01:75] e. "
        "[00:50 - 00:45] f. 59:00 g. At 10:30 am, in 16:9, no time."
    )
    items = make_items(8)
    item = told(items, {"text": text})
    item["media"][0] |= {"duration": 64.0, "times": [0.0, 16.0, 32.0, 64.0]}
    page = open_report(items)
    open_item(page, item)
    caption = page.locator(".caption").first
    drawn = caption.locator(".segment").evaluate_all("all => all.map(one => one.ariaLabel)")
    assert drawn == ["0:12.5", "0:14 to 0:20", "0:21 to 0:30", "0:40"]
    marked = caption.locator(".time.undrawn").all_inner_texts()
    assert marked == ["[01:75]", "[00:50 - 00:45]", "59:00"]
    expect(caption.locator(".timeline p")).to_have_text(
        "7 times, in order; 2 not valid; 1 after the end"
    )
    assert caption.locator(".text").inner_text() == text

    caption.locator(".segment").nth(1).focus()
    expect(caption.locator(".passage.hot")).to_have_text("[00:14 - 00:20] b. ")
    caption.get_by_role("button", name="[21s-30s]").click()
    expect(caption.locator(".segment").nth(2)).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".frame-times .near")).to_have_text("0:32")


@needs_browser
def test_hostile_texts_are_shown_as_they_are(open_report: Open) -> None:
    text = HOSTILE
    items = make_items(4)
    item = items[1]
    item |= {"id": text, "question": text, "choices": [text, "b"], "groups": {text: text}}
    item["media"][0]["path"] = text
    for caption in item["captions"]:
        caption |= {"text": text, "answer": {"text": text, "missing": text}}
        caption["verdict"] = {"score": 1.0, "said": text, "detail": {text: text}}
        caption["judge"] = {"text": text, "missing": text}
    summary = summarise(make_items(4), run=text)
    summary["benchmarks"]["scenes"]["title"] = text
    page = open_report(items, [summary])
    page.select_option("[name=benchmark]", "scenes")
    page.locator(".row").click()
    for part in (".item h3", ".question.verbatim", ".caption .text >> nth=0", "#run-name"):
        assert page.locator(part).evaluate("(node, text) => node.textContent === text", text), part
    assert page.locator("img[src=x], #items script").count() == 0
    page.fill("[name=q]", "alert(2)")
    expect(page.locator("#count")).to_have_text("1 of 4 items")


# --- size ----------------------------------------------------------------------------


@needs_browser
def test_five_thousand_items_stay_quick(open_report: Open) -> None:
    items = make_items(5000, sentences=16)
    page = open_report(items)
    expect(page.locator("#count")).to_have_text("5,000 of 5,000 items")
    opened = page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    page.click("[name=q]")
    queries = ("p", "pi", "pigeons", "pigeons zebra", "clips-00006", "")
    spent = {query: round(page.evaluate(SEARCH_MS, query)) for query in queries}
    size, load = round(opened["decodedBodySize"] / 1e6), round(opened["duration"])
    print(f"{size} MB, loaded in {load} ms; search, ms: {spent}")
    # The median: other tests may take the cores from one of them.
    assert size > 25 and load < 10_000 and statistics.median(spent.values()) < 1000
    page.locator("#rows").evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
    expect(page.locator(".row").last).to_contain_text(items[-1]["id"])
    assert page.locator(".row").count() < 60


# --- two runs ---------------------------------------------------------------------------------


def two_runs(count: int) -> tuple[list[Record], list[Record]]:
    """Items with another run's captions beside them, and both summaries."""
    ours, theirs = make_items(count), make_items(count)
    for record in theirs:
        for caption in record["captions"]:
            caption["text"] = caption["text"] and f"THEIRS {caption['text']}"
    names = ("caprl-8b-grpo-of-some-length", "caprl-3b-baseline-of-2026")
    sums = [summarise(ours, names[0]), summarise(theirs, names[1], 0.01)]
    for part in sums[1]["benchmarks"].values():
        part |= {"difference": -13.1, "difference_ci": [-24.2, -11.9], "items_in_both": 50}
    sums[1]["benchmarks"]["clips"]["incomparable"] = "not the same reader and judge"
    return list(with_others(ours, [theirs])), sums


@needs_browser
def test_the_summary_of_two_runs_fits_a_window_of_1300(open_report: Open) -> None:
    page = open_report(*two_runs(200))
    sheet, table = page.locator(".sheet"), page.locator("#summary-table")
    assert sheet.evaluate("(e) => e.scrollWidth <= e.clientWidth")
    assert table.bounding_box()["x"] + table.bounding_box()["width"] <= 1300
    assert page.evaluate("document.documentElement.scrollWidth") <= 1300
    for cell in table.locator("td, th").all():
        assert cell.evaluate("(e) => e.scrollWidth <= e.clientWidth + 1"), cell.inner_text()
    expect(table).to_contain_text("not the same reader and judge")


@needs_browser
def test_an_item_shows_the_captions_of_both_runs(open_report: Open) -> None:
    items, sums = two_runs(8)
    items[1]["others"] = []  # an item that the other run lacks
    page = open_report(items, sums)
    open_item(page, items[0])
    runs = page.locator(".of-run")
    expect(runs).to_have_count(2)
    for i, (run, texts) in enumerate(
        [(sums[0]["run"], items[0]), (sums[1]["run"], items[0]["others"][0])]
    ):
        expect(runs.nth(i).locator(".run-name")).to_have_text(run)
        expect(runs.nth(i).locator(".caption")).to_have_count(len(texts["captions"]))
        first = texts["captions"][0]["text"].split(". ")[0]
        expect(runs.nth(i).locator(".caption").first).to_contain_text(first)
    assert items[0]["others"][0]["captions"][0]["text"].startswith("THEIRS")
    open_item(page, items[1])
    expect(runs).to_have_count(1)
    expect(page.locator(".run-name")).to_have_count(0)

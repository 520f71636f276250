"""The report page, in a real browser: what it shows, finds and keeps."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.eval.report_data import Record, make_items, summarise
from tests.eval.report_page import Open, count, listed, needs_browser

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

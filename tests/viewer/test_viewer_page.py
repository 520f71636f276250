"""A run's page in a real browser: what it shows, finds and compares, live and as a file."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Page, expect

from caprl_native.testing.made_runs import MadeRun
from caprl_native.viewer.document import write_export
from caprl_native.viewer.run import Run
from tests.browser import needs_browser
from tests.viewer.conftest import served
from tests.viewer.test_viewer_run import HOSTILE, rows

pytestmark = needs_browser
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def file(made: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The run as one file."""
    path = tmp_path_factory.mktemp("export") / "run.html"
    write_export(path, [Run(made)], 64)
    return path.as_uri()


def count(page: Page) -> int:
    found = re.match(r"([\d,]+) of", page.locator("#count").inner_text())
    return int(found[1].replace(",", "")) if found else -1


def choose(page: Page, **settings: str) -> None:
    for name, value in settings.items():
        page.select_option(f"#filters [name={name}]", value)


# --- curves -----------------------------------------------------------------------------------


def test_each_metric_has_a_curve_and_says_what_it_means(file: str, open_page: Open) -> None:
    page = open_page(file)
    names = page.locator(".chart .name").all_inner_texts()
    logged = {"reward/total/mean", "eval/reward/accuracy/mean", "policy/grad_norm"}
    assert logged <= set(names) and len(names) == len(set(names)) > 20
    assert page.locator(".undeclared").count() == 0
    page.fill("#metric-search", "led astray")
    expect(page.locator(".chart:visible .name")).to_have_text(
        ["reward/accuracy/misled", "eval/reward/accuracy/misled"]
    )


def test_a_click_on_a_curve_leads_to_the_evidence(file: str, made: Path, open_page: Open) -> None:
    """Two clicks: the number's step, then its captions; they add up to the number."""
    page = open_page(file)
    plot = page.locator('.plot[data-metric="reward/accuracy/misled"] svg')
    box = plot.bounding_box()
    assert box is not None
    plot.click(position={"x": box["width"] * 0.99, "y": 40})
    assert page.input_value("#filters [name=step]") == "12" and count(page) == 6
    assert page.input_value("#filters [name=number]") == "accuracy/misled"
    shown = [float(text) for text in page.locator(".row .marks").all_inner_texts()]
    metrics = [r for r in rows(made / "metrics.jsonl") if "reward/accuracy/misled" in r]
    assert sum(shown) / 6 == pytest.approx(metrics[-1]["reward/accuracy/misled"], abs=1e-3)
    page.locator(".row").first.click()
    expect(page.locator(".caption").first).to_contain_text("misled")


def test_alarms_stand_on_top_and_lead_to_their_step(file: str, open_page: Open) -> None:
    page = open_page(file)
    expect(page.locator("#alarms")).to_contain_text("captions repeat themselves")
    page.locator("#alarms button").click()
    assert page.input_value("#filters [name=step]") == "5" and count(page) == 6
    page.click("#clear")
    choose(page, show="alarm")
    assert count(page) == 6


# --- groups -----------------------------------------------------------------------------------


def test_a_group_shows_media_captions_rewards_and_answers(
    file: str, made: Path, open_page: Open
) -> None:
    page = open_page(file, "medium=video&kind=rollouts&sort=spread")
    page.locator(".row").first.click()
    step, number = map(int, page.url.split("item=0%2Frollouts%2F")[1].split("%2F"))
    run = Run(made)
    run.refresh()
    records = run.find("rollouts", step).group(number)
    expect(page.locator(".frame-times li")).to_have_count(8)
    captions = page.locator(".captions .caption")
    expect(captions).to_have_count(len(records))
    for i, record in enumerate(records):
        expect(captions.nth(i)).to_contain_text(record["caption"])
        expect(captions.nth(i).locator(".rewards .term")).to_have_count(3)
        stamps = len(re.findall(r"\[00:0\d\]", record["caption"]))
        expect(captions.nth(i).locator(".segment")).to_have_count(stamps)
    answers = page.locator(".answers tbody tr")
    expect(answers).to_have_count(4)
    asked = records[1]["reader"][2]
    answers.nth(2).locator(".answer").nth(1).click()
    expect(page.locator(".answer-detail .question")).to_have_text(asked["question"])
    told = page.locator(".answer-detail .share").all_inner_texts()
    assert [float(t) for t in told] == [round(p, 2) for p in asked["probabilities"].values()]


def test_filters_and_sorting(file: str, made: Path, open_page: Open) -> None:
    page = open_page(file)
    records = [r for f in sorted((made / "rollouts").glob("*")) for r in rows(f)]
    whole = count(page)
    choose(page, kind="rollouts")
    assert count(page) == 12 * 6 < whole
    choose(page, show="cut")
    ids = {(r["source"], r["prompt_tokens"]) for r in records if r["finish_reason"] == "length"}
    assert count(page) > 0 and bool(ids)
    page.click("#clear")
    choose(page, kind="rollouts", sort="low")
    lowest = float(page.locator(".row .marks").first.inner_text())
    choose(page, sort="high")
    highest = float(page.locator(".row .marks").first.inner_text())
    groups = [records[i : i + 4] for i in range(0, len(records), 4)]
    means = [sum(r["total"] for r in g) / 4 for g in groups]
    assert lowest == pytest.approx(min(means), abs=2e-3)
    assert highest == pytest.approx(max(means), abs=1e-2)


def test_a_caption_and_its_successor_differ_in_marked_words(file: str, open_page: Open) -> None:
    """What is not struck out is the later text, what is not new the earlier one."""
    page = open_page(file, "kind=eval&step=6")
    page.locator(".row").first.click()
    diff = page.locator("#others-diff .diff")
    expect(diff).to_be_visible()
    assert "step 12" in page.locator("#others-form [name=other] option:checked").inner_text()
    parts = diff.evaluate("d => [...d.children].map(c => [c.tagName, c.textContent])")
    before = "".join(text for tag, text in parts if tag != "INS")
    after = "".join(text for tag, text in parts if tag != "DEL")
    here = page.locator(".captions .text").inner_text()
    assert before.split() == here.split()
    page.click("[data-tool=other]")
    expect(page.locator(".item-head")).to_contain_text("step 12")
    expect(page.locator(".captions .text")).to_have_text(" ".join(after.split()))


def test_hostile_captions_and_missing_rewards(tmp_path: Path, open_page: Open) -> None:
    """Captions are text, whatever they say; a reward that is missing says why."""
    run = MadeRun(tmp_path / "runs/hostile", groups=1)
    run.step(1, captions=[HOSTILE] * 2, failure="<b>no reply</b>")
    run.step(2)
    write_export(tmp_path / "run.html", [Run(run.folder)], 1)
    with served(run.folder) as address:
        for one in ((tmp_path / "run.html").as_uri(), address):
            page = open_page(one, "q=onerror")
            expect(page.locator("#count")).to_have_text("1 of 2 groups")
            choose(page, show="failed")
            assert count(page) == 1
            page.locator(".row").click()
            expect(page.locator(".captions .text").first).to_contain_text("<script>alert(1)")
            expect(page.locator(".caption .gap")).to_have_text("No reward: <b>no reply</b>")
            assert page.locator("img[src=x]").count() == 0
            page.close()


# --- live -------------------------------------------------------------------------------------


def test_a_step_is_on_the_page_within_five_seconds(tmp_path: Path, open_page: Open) -> None:
    run = MadeRun(tmp_path / "runs/live")
    run.step(1)
    with served(run.folder) as address:
        page = open_page(address, "sort=low")
        page.locator(".row").first.click()
        name = page.locator(".item-head h3").inner_text()
        expect(page.locator("#count")).to_have_text("6 of 6 groups")
        run.step(2, alarm="a new one")
        ended = time.monotonic()
        expect(page.locator("#count")).to_have_text("12 of 12 groups", timeout=5000)
        assert time.monotonic() - ended < 5
        expect(page.locator("#runs")).to_contain_text("step 2 of 100")
        expect(page.locator("#alarms")).to_contain_text("a new one")
        assert page.locator(".item-head h3").inner_text() == name  # what was open stays open
        page.close()


def test_two_runs_beside_each_other(made: Path, tmp_path: Path, open_page: Open) -> None:
    other = MadeRun(tmp_path / "second", seed=1)
    for step in range(1, 13):
        other.step(step)
    with served(made, other.folder) as address:
        page = open_page(address, "sort=change&kind=rollouts")
        row = page.locator("#comparison-table tr", has_text="reward/total/mean").first
        mine, theirs = (
            next(r["reward/total/mean"] for r in rows(f / "metrics.jsonl") if r["step"] == 12)
            for f in (made, other.folder)
        )
        figures = [float(t.replace("−", "-")) for t in row.locator("td").all_inner_texts()[1:]]
        assert figures == pytest.approx([mine, theirs, theirs - mine], abs=1e-3)
        page.locator("#settings summary").click()
        expect(page.locator("#settings")).to_contain_text("policy.lr")
        assert page.locator(".chart").first.locator(".curve").count() == 2
        page.locator(".row").first.click()
        expect(page.locator("#others-diff")).to_contain_text("second, step")
        page.close()


def test_many_rollouts_open_and_scroll(tmp_path: Path, open_page: Open) -> None:
    """20,000, with bounds that a busy machine keeps; benchmarks/viewer.py measures 100,000."""
    run = MadeRun(tmp_path / "runs/many", groups=25, n=8, samples=25)
    run.step(1)
    run.repeat(1, range(2, 101))
    with served(run.folder) as address:
        before = _memory()
        began = time.monotonic()
        page = open_page(address)
        expect(page.locator("#count")).to_have_text("2,500 of 2,500 groups")
        assert time.monotonic() - began < 6
        frames = sorted(page.evaluate(SCROLL))
        assert frames[len(frames) * 9 // 10] < 100  # milliseconds; a busy machine stalls at times
        assert page.locator(".row").count() < 60
        page.fill("#filters [name=q]", "something red")
        expect(page.locator("#count")).not_to_contain_text("2,500 of", timeout=15000)
        assert 0 < _memory() - before < 300 * 2**20
        page.close()


def _memory() -> int:
    """Bytes that the server holds."""
    found = 0
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # one of the browser's that ends meanwhile
            if "view_run" in json.dumps(child.cmdline()):
                found += child.memory_info().rss
    return found


SCROLL = """async () => {
  const box = document.getElementById("rows");
  const frames = [];
  let last = performance.now();
  for (let i = 0; i < 60; i += 1) {
    box.scrollTop += 700;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    frames.push(now - last);
    last = now;
  }
  return frames;
}"""
